"""Teachers from elsewhere: their own order of classes, size and normalisation; safetensors or ONNX."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
import torch
import yaml
from pydantic import ValidationError
from safetensors.torch import save_file

from conftest import CLASSES, make_index
from ferdistill import workspace
from ferdistill.distill import frozen, models, weights
from ferdistill.distill.data import Split
from ferdistill.distill.inference import as_input, predict
from ferdistill.errors import CheckError, UsageError
from ferdistill.files import read_json, write_json
from ferdistill.params import FrozenTeacher, ImageParams, Params
from ferdistill.stages import teacher as stage
from support.images import pack

ROOT = Path(__file__).parents[1]
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
