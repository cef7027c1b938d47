"""The scale `paper` from end to end: five networks at 224 pixels in colour, from weights in a folder, to a bundle."""

import json

import pytest
import timm
import torch
import yaml
from safetensors.torch import save_file

from support.repository import EVERY, copy_of_repository, metrics, ran, run

pytestmark = pytest.mark.slow
IMAGES = 200


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A repository at the paper's scale with 200 rendered faces, an epoch a network, and weights that were drawn."""
    root = copy_of_repository(tmp_path_factory.mktemp("paper") / "ferdistill")
    raw = yaml.safe_load((root / "params.yaml").read_text())
    raw["scale"] = "paper"
    scale = raw["scales"]["paper"]
    scale["corpus"] |= {"images": IMAGES, "subjects": 50}
    raw["index"] |= {"val": 0.2, "calib": 0.2, "seed": 59}  # under which so few images leave no split without a class
    for recipe in [*scale["teachers"].values(), scale["student"]]:
        assert recipe["init"] == "imagenet"
        recipe["batch"] = 16
        recipe["phases"] = [recipe["phases"][0] | {"epochs": 1, "augment": "strong"}]
        weights = root / "pretrained/imagenet" / f"{recipe['model']}.safetensors"
        weights.parent.mkdir(exist_ok=True)
        torch.manual_seed(0)
        save_file(timm.create_model(recipe["model"]).state_dict(), weights)
    (root / "params.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))
    return root


def test_two_hundred_faces_go_from_five_networks_to_a_bundle_that_predict_uses(project):
    checked = json.loads(run(project, "ferdistill", "weights", "check", "--json").stdout)
    assert checked == {"sound": True, "problems": []}
    assert sorted(ran(run(project, "dvc", "repro"))) == sorted(EVERY)
    assert (metrics(project, "index")["rows_listed"], metrics(project, "student")["run_family"]) == (IMAGES, "6E")
    info = json.loads((project / "models/bundle/bundle.json").read_text())
    assert (info["image"]["size"], info["image"]["channels"]) == (224, 3)
    for name in ("resnet18", "convnext_tiny", "efficientnet_b3", "vit_ban"):
        facts = json.loads((project / f"data/checked/weights/{name}.json").read_text())
        assert facts["from"] == "imagenet" and len(facts["sha256"]) == 64
    picture = "src/ferdistill/faces/web/samples/happy.png"
    (line,) = run(project, "ferdistill", "predict", picture, "--whole").stdout.splitlines()
    (face,) = json.loads(line)["faces"]
    assert sum(face["probabilities"].values()) == pytest.approx(1, abs=1e-3)
