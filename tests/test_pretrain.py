"""Starting weights: what they are made from, that they are learnt, and that a recipe can start from them."""

import numpy as np
import pytest
import torch
from safetensors import safe_open

from conftest import CLASSES
from ferdistill.distill import models
from ferdistill.faces import head as faces
from ferdistill.faces import pretrain
from ferdistill.params import ImageParams, NetworkParams

GREY = ImageParams(size=32, channels=1)


def recipe(init="scratch"):
    return NetworkParams.model_validate(
        {
            "model": "test_efficientnet", "options": {}, "stem": "low_resolution", "init": init, "batch": 16,
            "phases": [{"epochs": 1, "lr": 1e-3, "augment": "none"}], "weight_decay": 0.0, "label_smoothing": 0.0,
        }
    )  # fmt: skip


@pytest.fixture(scope="module")
def renders():
    return pretrain.draw_renders(200, 1, GREY, True)


def learn(renders, epochs):
    return pretrain.pretrain(recipe(), GREY, [renders], epochs=epochs, lr=1e-2, seed=1, name="units")


def test_renders_are_drawn_one_by_one_and_never_by_how_many(renders):
    images, intensities = renders
    assert images.shape == (200, 32, 32, 1) and intensities.shape == (200, len(faces.ACTION_UNITS))
    few, units = pretrain.draw_renders(3, 1, GREY, True)
    assert (few == images[:3]).all() and (units == intensities[:3]).all()
    assert (pretrain.draw_renders(3, 2, GREY, True)[0] != few).any()
    assert (pretrain.draw_renders(3, 1, GREY, False)[0] != few).any()
    assert 0.6 < (intensities == 0).mean() < 0.73
    assert intensities.max() <= 1 and intensities[intensities > 0].min() >= np.float32(0.4)


@pytest.mark.slow
def test_faces_that_were_not_seen_are_explained():
    assert learn(pretrain.draw_renders(1600, 1, GREY, True), 10)[1] < 0.97


def test_the_same_seed_learns_the_same(renders):
    (network, unexplained), (again, same) = learn(renders, 2), learn(renders, 2)
    assert unexplained == same
    assert all(torch.equal(one, other) for one, other in zip(network.parameters(), again.parameters(), strict=True))


def test_a_recipe_starts_from_the_file_with_a_classifier_of_its_own(renders, tmp_path):
    network, _ = learn(renders, 1)
    path = tmp_path / "start.safetensors"
    pretrain.save(network, path, {"seed": 1, "task": "units"})
    with safe_open(path, "pt") as file:
        assert file.metadata()["task"] == "units" and file.metadata()["seed"] == "1"
    torch.manual_seed(0)
    started = models.build_for(recipe(str(path)), CLASSES, GREY)
    head = models.classifier_names(started)
    for name, tensor in started.state_dict().items():
        if name.startswith(tuple(f"{one}." for one in head)):
            assert tensor.shape[0] == len(CLASSES)
        elif tensor.is_floating_point():
            assert torch.equal(tensor, network.state_dict()[name].half().float()), name
