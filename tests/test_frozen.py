"""Teachers from elsewhere: their own order of classes, size and normalisation; safetensors or ONNX."""

import json
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
import torch
import yaml
from pydantic import ValidationError
from safetensors.torch import save_file
from typer.testing import CliRunner

from conftest import CLASSES, describe_corpus, make_index
from ferdistill import workspace, yaml_file
from ferdistill.cli import cli
from ferdistill.distill import freezing, frozen, models, weights
from ferdistill.distill.data import Split
from ferdistill.distill.inference import as_input, predict
from ferdistill.errors import CheckError, UsageError
from ferdistill.files import read_json, write_json
from ferdistill.params import FrozenTeacher, ImageParams, Params, load
from ferdistill.stages import softlabels
from ferdistill.stages import teacher as stage
from support.images import pack
from support.repository import environment

ROOT = Path(__file__).parents[1]
IDENTITY = {f"GIT_{who}_{what}": "a@b.c" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
OURS = ImageParams(size=48, channels=1)
THEIRS = ImageParams(size=32, channels=3)
ORDER = ["neutral", "happy", "sad", "surprise", "fear", "disgust", "angry"]


def teacher(file, **changes):
    values = {
        "frozen": file, "model": "test_resnet", "options": {}, "classes": ORDER, "size": 32, "channels": 3,
        "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225],
    }  # fmt: skip
    return FrozenTeacher.model_validate(values | changes)


@pytest.fixture
def theirs(tmp_path, monkeypatch):
    """A network of other images and another order of classes, as safetensors and as ONNX."""
    monkeypatch.chdir(tmp_path)
    describe_corpus()
    (tmp_path / "pretrained").mkdir()
    torch.manual_seed(0)
    network = models.build("test_resnet", {}, "stock", 7, THEIRS, False).eval()
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, "pretrained/theirs.safetensors")
    torch.onnx.export(
        network, (torch.zeros(2, 3, 32, 32),), "pretrained/theirs.onnx", dynamo=False, opset_version=17,
        input_names=["x"], output_names=["logits"], dynamic_axes={"x": {0: "n"}, "logits": {0: "n"}},
    )  # fmt: skip
    return network


def images(count=9):
    return np.random.default_rng(0).integers(0, 256, (count, 48, 48, 1), dtype=np.uint8)


@pytest.mark.parametrize("form", ["safetensors", "onnx"])
def test_a_frozen_teacher_answers_in_our_order_from_our_images(theirs, tmp_path, form):
    settings = teacher(f"pretrained/theirs.{form}", **({"model": None} if form == "onnx" else {}))
    frozen.save(settings, tmp_path / "t", CLASSES, OURS, teacher="theirs", index_digest="d")
    network, config = frozen.load_teacher(tmp_path / "t")
    assert config["classes"] == CLASSES and config["index_digest"] == "d"
    pixels = images()
    found = predict(network, Split(pixels, np.arange(9), np.zeros(9, np.int64)))

    scaled = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    small = torch.nn.functional.interpolate(scaled.expand(-1, 3, -1, -1), (32, 32), mode="bilinear", antialias=True)
    mean, std = (torch.tensor(v)[:, None, None] for v in (settings.mean, settings.std))
    with torch.inference_mode():
        expected = theirs((small - mean) / std).numpy()
    np.testing.assert_allclose(found, expected[:, [ORDER.index(name) for name in CLASSES]], atol=2e-4)


def test_a_frozen_onnx_teacher_asks_for_the_gpu_only_where_there_is_one(theirs, monkeypatch):
    asked = []

    def session(file, options, providers):
        asked.append(providers)
        ends = [SimpleNamespace(name="x", type="tensor(float)", shape=["n", 3, 32, 32])]
        return SimpleNamespace(get_inputs=lambda: ends, get_outputs=lambda: ends)

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    for gpu in (True, False):
        for built_for in (["TensorrtExecutionProvider", "CUDAExecutionProvider"], []):
            there = [*built_for, "CPUExecutionProvider"]
            monkeypatch.setattr(onnxruntime, "get_available_providers", lambda there=there: there)
            monkeypatch.setattr(torch.cuda, "is_available", lambda gpu=gpu: gpu)
            frozen._onnx(Path("pretrained/theirs.onnx"), teacher("pretrained/theirs.onnx", model=None))
    cpu = ["CPUExecutionProvider"]
    assert asked == [["CUDAExecutionProvider", *cpu], cpu, cpu, cpu]


def test_the_stage_of_a_frozen_teacher_can_be_run_twice(theirs, tmp_path):
    raw = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    raw["scale"] = "smoke"
    raw["scales"]["smoke"]["teachers"]["resnet18"] = teacher("pretrained/theirs.safetensors").model_dump()
    settings = Params.model_validate(raw)
    index = make_index(workspace.index_csv(settings.index_tag), {"train": 14, "val": 7, "calib": 7, "test": 7}, CLASSES)
    pack(workspace.images(settings.index_tag), index, images(len(index.rows)))
    write_json(workspace.checked_weights("resnet18"), weights.facts(settings.scale_.teachers["resnet18"], "resnet18"))
    for _ in range(2):
        stage.run(settings, "resnet18")
        assert read_json("metrics/teachers/resnet18.json")["best_epoch"] is None
    assert frozen.load_teacher(workspace.teacher("resnet18"))[1]["index_digest"] == index.digest


def test_colour_images_become_grey_for_a_grey_teacher():
    settings = teacher("pretrained/x.onnx", model=None, channels=1, mean=[0.5], std=[0.5], size=48)
    seen = []
    network = frozen.FrozenNetwork(lambda x: seen.append(x) or torch.zeros(len(x), 7), settings, CLASSES, THEIRS)
    pixels = torch.randint(0, 256, (3, 3, 48, 48), dtype=torch.uint8)
    network(as_input(pixels, torch.device("cpu")))
    grey = (pixels.float() / 255 * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
    torch.testing.assert_close(seen[0], (grey - 0.5) / 0.5, atol=1e-5, rtol=1e-5)


def test_wrong_frozen_teachers_are_refused(theirs, tmp_path):
    with pytest.raises(UsageError, match=r"(?s)no weights here.*pretrained/absent\.safetensors"):
        weights.facts(teacher("pretrained/absent.safetensors"), "resnet18")
    frozen.save(teacher("pretrained/theirs.safetensors", model="test_vit"), tmp_path / "t", CLASSES, OURS)
    with pytest.raises((CheckError, UsageError), match=r"another architecture|cannot build"):
        frozen.load_teacher(tmp_path / "t")
    (tmp_path / "pretrained/broken.onnx").write_bytes(b"not a model")
    frozen.save(teacher("pretrained/broken.onnx", model=None), tmp_path / "u", CLASSES, OURS)
    with pytest.raises(CheckError, match="cannot load the model"):
        frozen.load_teacher(tmp_path / "u")
    frozen.save(teacher("pretrained/theirs.safetensors"), tmp_path / "v", CLASSES, OURS)
    file = tmp_path / "v" / "frozen.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\0\1")
    with pytest.raises(CheckError, match="not the one that was saved"):
        frozen.load_teacher(tmp_path / "v")
    six = frozen.FrozenNetwork(
        lambda x: torch.zeros(len(x), 6), teacher("pretrained/x.onnx", model=None), CLASSES, OURS
    )
    with pytest.raises(CheckError, match=r"shape \(2, 6\)"):
        six(torch.zeros(2, 1, 48, 48))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frozen": "../outside.onnx"}, "pattern"),
        ({"frozen": "pretrained/weights.pt"}, "pattern"),
        ({"model": None}, "needs the timm `model`"),
        ({"mean": [0.5]}, "3 numbers each"),
    ],
)
def test_params_of_a_frozen_teacher_are_checked(changes, message):
    with pytest.raises(ValidationError, match=message):
        teacher(**{"file": changes.pop("frozen", "pretrained/theirs.safetensors")} | changes)


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """A repository whose teacher `resnet18` has been trained, as its stage leaves it: settings, and its images."""
    monkeypatch.chdir(tmp_path)
    describe_corpus()
    for command in (["git", "init", "-q"], ["dvc", "init", "-q"], ["git", "commit", "-qm", "a"]):
        subprocess.run(command, check=True, env=environment() | IDENTITY)
    text = (ROOT / "params.yaml").read_text(encoding="utf-8").replace("scale: embedded", "scale: smoke")
    Path("params.yaml").write_text(text, encoding="utf-8")
    settings = load()
    recipe = settings.scale_.teachers["resnet18"]
    torch.manual_seed(1)
    network = models.build(recipe.model, recipe.options, recipe.stem, 7, settings.scale_.image, False)
    directory = workspace.teacher("resnet18")
    models.save_network(network, directory, recipe, settings.classes, settings.scale_.image, index_digest="old")
    key = "scales.smoke.teachers.resnet18"
    lock = {"params": {"params.yaml": {key: yaml.safe_load(text)["scales"]["smoke"]["teachers"]["resnet18"]}}}
    Path("dvc.lock").write_text(yaml.safe_dump({"stages": {"teacher@resnet18": lock}}))
    return network.eval()


def run_stages(settings, pixels):
    """Both stages of the teacher, of an index of so many images: what the soft labels are, to the byte."""
    lengths = {"train": len(pixels) - 42, "val": 14, "calib": 14, "test": 14}
    index = make_index(workspace.index_csv(settings.index_tag), lengths, CLASSES)
    pack(workspace.images(settings.index_tag), index, pixels)
    recipe = settings.scale_.teachers["resnet18"]
    write_json(workspace.checked_weights("resnet18"), weights.facts(recipe, "resnet18"))
    stage.run(settings, "resnet18")
    softlabels.run(settings, "resnet18")
    return {file.name: file.read_bytes() for file in workspace.softlabels("resnet18", settings.index_tag).iterdir()}


def test_a_frozen_teacher_stays_forwards_new_images_alone_and_gives_the_bytes_of_a_full_export(trained, monkeypatch):
    before = load()
    done = CliRunner().invoke(cli, ["teachers", "freeze", "resnet18", "--json"])
    assert done.exit_code == 0, done.output
    file = Path(json.loads(done.stdout)["resnet18"])
    settings = load()
    recipe = settings.scale_.teachers["resnet18"]
    assert recipe.frozen == file.as_posix() and file.with_name(f"{file.name}.dvc").is_file()
    assert file.name in Path("pretrained/.gitignore").read_text()
    changed = before.model_dump()
    changed["scales"]["smoke"]["teachers"]["resnet18"] = recipe.model_dump()
    assert settings.model_dump() == changed  # no other param
    told = read_json(file.with_suffix(".json"))
    assert told["config"]["index_digest"] == "old" and told["stage"]["params"] and len(told["commit"]) == 40

    pixels, forwarded = images(600), []
    plain = frozen.FrozenNetwork.forward

    def counted(network, batch):
        forwarded.append(len(batch))
        return plain(network, batch)

    monkeypatch.setattr(frozen.FrozenNetwork, "forward", counted)
    run_stages(settings, pixels[:590])
    assert sum(forwarded) == 1024  # val and test, 28, in one batch of 256; the other 562 in three
    forwarded.clear()
    grown = run_stages(settings, pixels)
    assert forwarded in ([256], [256, 256])  # ten images, or of these some in val and test first
    found = frozen.load_teacher(workspace.teacher("resnet18"))[0]
    shown = torch.from_numpy(pixels[:256]).permute(0, 3, 1, 2)
    with torch.inference_mode():
        batch = as_input(shown, torch.device("cpu"))
        assert torch.equal(plain(found, batch), trained(batch)), "the network itself, to the bit"
    workspace.memo().unlink()
    assert run_stages(settings, pixels) == grown


def test_what_cannot_be_frozen_changes_nothing(trained):
    text, lock = Path("params.yaml").read_text(), yaml.safe_load(Path("dvc.lock").read_text())
    settings = load()
    with pytest.raises(UsageError, match="no teacher that is trained here"):
        freezing.freeze(settings, ["resnet18", "nobody"])
    with pytest.raises(UsageError, match=r"(?s)a file is missing.*dvc repro"):
        freezing.freeze(settings, ["resnet18", "vit_ban"])
    lock["stages"]["teacher@resnet18"]["params"]["params.yaml"]["scales.smoke.teachers.resnet18"]["seed"] += 1
    Path("dvc.lock").write_text(yaml.safe_dump(lock))
    with pytest.raises(CheckError, match=r"(?s)not the one that params.yaml describes.*teacher@resnet18"):
        freezing.freeze(settings, ["resnet18"])
    Path("dvc.lock").unlink()
    with pytest.raises(UsageError, match="does not say what made a teacher"):
        freezing.freeze(settings, ["resnet18"])
    assert Path("params.yaml").read_text() == text and not Path("pretrained").exists()


@pytest.mark.parametrize("keys", [["scales", "smoke", "teachers", "resnet18"], ["launch"], ["training", "amp"]])
def test_a_value_of_params_is_replaced_and_every_other_line_kept(keys):
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    changed = yaml_file.with_value(text, keys, f"{keys[-1]}:\n  new: {{a: [1, 2]}}")
    inner = yaml.safe_load(text)
    found = expected = yaml.safe_load(changed)
    for key in keys[:-1]:
        inner, found = inner[key], found[key]
    assert found.pop(keys[-1]) == {"new": {"a": [1, 2]}} and inner.pop(keys[-1])
    assert expected is not None and found == inner
    gone = [line for line in text.splitlines() if line not in changed.splitlines()]
    assert len(changed.splitlines()) >= len(text.splitlines()) - len(gone) - 12
    for wrong in ([*keys, "x"], ["absent"], ["classes", "0"]):
        with pytest.raises(UsageError, match="in lines of its own"):
            yaml_file.with_value(text, wrong, f"{wrong[-1]}: 1")
    with pytest.raises(UsageError, match="cannot be replaced"):
        yaml_file.with_value(text, keys, "another: 1")
