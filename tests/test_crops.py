"""The crop canary: sound crops pass, planted faults are found and named."""

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from typer.testing import CliRunner

from conftest import face
from ferdistill.cli import cli
from ferdistill.errors import UsageError
from ferdistill.faces import crops as library
from ferdistill.files import sha256_file, write_json
from ferdistill.runtime.classifier import SCHEMA_VERSION, Classifier

SIDE, KINDS = 24, 3
TINT = np.array([1.05, 1.0, 0.9])


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """A bundle that names the one of three smooth patterns that a crop correlates with most."""
    folder = tmp_path_factory.mktemp("crops") / "bundle"
    folder.mkdir()
    patterns = np.stack([face(kind, SIDE).ravel() for kind in range(KINDS)], axis=1).astype(np.float32)
    weights = (patterns - patterns.mean(axis=0)) / 160_000
    nodes = [
        helper.make_node("Cast", ["images"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["float"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    takes = helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", SIDE, SIDE, 1])
    gives = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", KINDS])
    graph = helper.make_graph(nodes, "patterns", [takes], [gives], [numpy_helper.from_array(weights, "weights")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, folder / "model.onnx")
    info = {
        "schema_version": SCHEMA_VERSION,
        "classes": list("abc"),
        "image": {"size": SIDE, "channels": 1},
        "t_star": 1.0,
        "thresholds": {},
        "files": {"model.onnx": sha256_file(folder / "model.onnx")},
        "variants": {"fp32": "model.onnx"},
    }
    write_json(folder / "bundle.json", info)
    return folder


def draw(count, seed):
    """Crops, and people of four crops each, whose patterns are mixed a little, lit and noisy."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        kind, other = rng.integers(KINDS, size=2)
        grey = 0.8 * face(int(kind), SIDE) + rng.uniform(0, 0.3) * face(int(other), SIDE)
        grey = grey * rng.uniform(0.7, 1.0) + rng.normal(0, 6, grey.shape)
        made.append(np.clip(grey[..., None] * TINT, 0, 255).astype(np.uint8))
    return made, [str(number // 4) for number in range(count)]


@pytest.fixture(scope="module")
def reference(bundle):
    return library.Reference(Classifier(bundle, threads=1, device="cpu"), *draw(300, 0))


def test_sound_crops_pass(reference):
    reports = [library.check(reference, draw(200, seed)[0]) for seed in range(1, 11)]
    assert [report["sound"] for report in reports].count(False) == 0
    assert all("fault" not in report for report in reports if report["sound"])


@pytest.mark.parametrize("name", library.FAULTS)
def test_each_planted_fault_is_found_and_named(reference, name):
    crops, _ = draw(200, 99)
    report = library.check(reference, [library.FAULTS[name](crop) for crop in crops])
    assert not report["sound"] and report["fault"] == name


def test_another_mix_of_classes_is_no_fault(reference):
    crops, _ = draw(600, 5)
    said = reference.classifier.classes
    _, predicted = library.figures(reference.classifier, crops)
    one = [crop for crop, place in zip(crops, predicted, strict=True) if said[place] == "a"]
    assert len(one) > 100 and library.check(reference, one)["sound"]


def test_too_few_crops_are_refused(reference):
    with pytest.raises(UsageError, match="12 crops are too few"):
        library.check(reference, draw(12, 1)[0])


def test_the_command_says_so_by_its_exit_code(reference, bundle, tmp_path, monkeypatch):
    monkeypatch.setattr(library, "crops_of_corpus", lambda *_: draw(300, 0))
    for name, change in (("sound", lambda crop: crop), ("turned", library.FAULTS["turned clockwise"])):
        (tmp_path / name).mkdir()
        for number, crop in enumerate(draw(120, 3)[0]):
            Image.fromarray(change(crop)).save(tmp_path / name / f"{number}.png")
    words = ["crops", "check", "--bundle", str(bundle), "--threads", "1"]
    done = CliRunner().invoke(cli, [*words, str(tmp_path / "sound")])
    assert done.exit_code == 0 and "cut as the training images" in done.stdout
    done = CliRunner().invoke(cli, [*words, "--json", str(tmp_path / "turned")])
    assert done.exit_code == 1 and json.loads(done.stdout)["fault"] == "turned clockwise"
