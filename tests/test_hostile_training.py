"""Hostile weights, configs and checkpoints; see `support.hostile`."""

import pytest
import torch

from ferdistill.distill import checkpoint, models
from ferdistill.errors import FerdistillError, UsageError
from ferdistill.files import read_json, sha256_file, write_json
from ferdistill.params import ImageParams, load
from support.hostile import EXAMPLES, Case, attack, watched

CLASSES = ["a", "b"]
IMAGE = ImageParams(size=32, channels=1)


def saved_network(root):
    recipe = load("params.yaml").scales["smoke"].student.model_copy(update={"init": "scratch"})
    models.save_network(models.build_for(recipe, CLASSES, IMAGE), root, recipe, CLASSES, IMAGE)


def network(root):
    saved_network(root)

    def agree():
        try:
            config = read_json(root / "config.json")
        except FerdistillError:
            return
        write_json(root / "config.json", config | {"sha256": sha256_file(root / "model.safetensors")})

    def read():
        found, config = models.load_network(root)
        return sorted((name, tuple(tensor.shape)) for name, tensor in found.state_dict().items()), config["classes"]

    return Case(root, read, ["config.json", "model.safetensors"], lambda found: None, agree)


def whole_checkpoint(root):
    checkpoint.save(root / "c.safetensors", checkpoint.Checkpoint({"a": torch.ones(2, 2)}, {"epoch": 3}))

    def read():
        found = checkpoint.load(root / "c.safetensors")
        return None if found is None else (sorted(found[0]), found[1])

    return Case(root, read, ["c.safetensors"], lambda found: None)


CASES = {"network": network, "checkpoint": whole_checkpoint}


@pytest.mark.parametrize("examples", EXAMPLES)
@pytest.mark.parametrize("name", CASES)
def test_a_spoilt_file_is_read_right_or_refused(name, examples, tmp_path):
    (tmp_path / "root").mkdir()
    attack(CASES[name](tmp_path / "root"), examples)


@pytest.mark.parametrize(
    "change",
    [
        {"model": "hf-hub:someone/something"}, {"model": "local-dir:/etc"},
        {"options": {"checkpoint_path": "/etc/passwd"}},
        {"options": {"pretrained_cfg": {"file": "/etc/passwd"}}}, {"model": 3}, {"options": {"pretrained": True}},
    ],
)  # fmt: skip
def test_a_config_cannot_have_a_file_loaded_or_downloaded(tmp_path, change):
    saved_network(tmp_path)
    write_json(tmp_path / "config.json", read_json(tmp_path / "config.json") | change)
    with watched(tmp_path / "x"), pytest.raises(UsageError, match="timm cannot build"):
        models.load_network(tmp_path)
