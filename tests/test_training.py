"""The loop and the networks: learning, determinism, and what they refuse."""

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from conftest import CLASSES
from ferdistill import params
from ferdistill.errors import CheckError, UsageError
from ferdistill.params import ImageParams, StudentRecipe
from ferdistill.training import losses, models
from ferdistill.training.loop import Split, augment, evaluate, fit, make_deterministic, predict

GREY = ImageParams(size=32, channels=1)


def recipe(**changes):
    phases = [{"epochs": 12, "lr": 3e-3, "augment": "none"}]
    values = {
        "model": "test_efficientnet", "options": {}, "stem": "stock", "init": "scratch", "batch": 16, "phases": phases,
        "weight_decay": 0.0, "label_smoothing": 0.0, "test_every": 1,
    }  # fmt: skip
    return StudentRecipe.model_validate(values | changes)


def bars(count, seed=0):
    """Images whose class is where a bright bar lies."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 7, count)
    images = rng.integers(0, 80, (count, 32, 32, 1), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[4 * label + 1 : 4 * label + 5] += 120
    return Split(images, np.arange(count), labels.astype(np.int64))


def hard(logits, labels, positions):
    return cross_entropy(logits, labels)


def train(seed=0, **changes):
    make_deterministic(seed)
    settings = recipe(**changes)
    network = models.build_for(settings, CLASSES, GREY)
    data = bars(64)
    return network, fit(network, data, bars(40, 1), settings, seed, hard, name="bars", test=bars(40, 2), test_every=5)


def test_a_network_overfits_a_few_images():
    network, result = train(phases=[{"epochs": 40, "lr": 3e-3, "augment": "none"}])
    assert evaluate(network, bars(64))["accuracy"] > 0.99
    assert result.history[-1]["train_loss"] < result.history[0]["train_loss"] / 5


def test_one_seed_gives_one_network_and_another_seed_another():
    one, first = train()
    two, second = train()
    assert first.history == second.history
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))
    assert train(1)[1].history != first.history


def test_the_network_ends_with_the_epoch_that_was_best_on_val():
    network, result = train()
    best = max(result.history, key=lambda record: record["val_macro_f1"])
    assert result.best_epoch == best["epoch"]
    assert evaluate(network, bars(40, 1))["macro_f1"] == pytest.approx(best["val_macro_f1"])
    assert [r["epoch"] for r in result.history if "test_macro_f1" in r] == [5, 10, 12]


def test_split_and_fused_kd_train_one_student_bit_for_bit():
    rng = np.random.default_rng(0)
    logits = torch.from_numpy(rng.normal(0, 3, (4, 64, 7)).astype(np.float32))
    states = []
    for sources in (torch.zeros(4, dtype=torch.int64), torch.arange(4)):
        log_targets, log_weights = losses.soft_targets(logits, torch.full((4,), 0.25), sources, 2.0, "probability")

        def distil(outputs, labels, positions, targets=log_targets, weights=log_weights):
            return losses.kd_loss(outputs, labels, targets[:, positions], weights, alpha=0.5, temperature=2.0)

        make_deterministic(3)
        network = models.build_for(recipe(), CLASSES, GREY)
        fit(network, bars(64), bars(40, 1), recipe(), 3, distil, name="bars")
        states.append(network.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_predictions_do_not_depend_on_the_batch():
    network, _ = train(phases=[{"epochs": 1, "lr": 1e-3, "augment": "flip"}])
    data = bars(50, 4)
    np.testing.assert_allclose(predict(network, data, 50), predict(network, data, 7), atol=1e-4)


def test_augmentation_moves_each_image_by_its_own_draw_and_stays_in_range():
    images = torch.randint(0, 256, (40, 1, 48, 48), dtype=torch.uint8)
    assert torch.equal(augment(images, "none", torch.Generator()), images)
    flipped = augment(images, "flip", torch.Generator().manual_seed(0))
    mirrored = (flipped == images.flip(3)).flatten(1).all(1)
    kept = (flipped == images).flatten(1).all(1)
    assert (mirrored | kept).all() and 5 < int(mirrored.sum()) < 35
    moved = augment(images, "flip_shift", torch.Generator().manual_seed(0))
    assert moved.shape == images.shape and moved.min() >= 0 and moved.max() <= 255
    again = augment(images, "flip_shift", torch.Generator().manual_seed(0))
    assert torch.equal(moved, again)


def test_a_diverging_loss_and_a_batch_too_large_are_refused():
    data = bars(64)
    network = models.build_for(recipe(), CLASSES, GREY)
    with pytest.raises(CheckError, match="the loss became nan"):
        fit(network, data, data, recipe(), 0, lambda z, y, i: z.sum() * float("nan"), name="bars")
    with pytest.raises(CheckError, match="a batch of 65 is larger than the train split of 64"):
        fit(network, data, data, recipe(batch=65), 0, hard, name="bars")


def test_a_saved_network_comes_back_and_a_changed_one_is_refused(tmp_path):
    network, _ = train(phases=[{"epochs": 1, "lr": 1e-3, "augment": "none"}])
    models.save_network(network, tmp_path, recipe(), CLASSES, GREY, seed=0)
    loaded, config = models.load_network(tmp_path)
    assert config["classes"] == CLASSES and config["seed"] == 0
    np.testing.assert_array_equal(predict(loaded, bars(20)), predict(network, bars(20)))
    data = bytearray((tmp_path / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (tmp_path / "model.safetensors").write_bytes(bytes(data))
    with pytest.raises(CheckError, match="not those of the config"):
        models.load_network(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(bytes(data[:100]))
    with pytest.raises(CheckError, match="not a whole safetensors file"):
        models.load_network(tmp_path)


def test_unknown_models_options_and_stems_are_refused():
    for changes, message in [
        ({"model": "resnet1000"}, "cannot build `resnet1000`"),
        ({"options": {"sparkle": 1}}, "cannot build `test_efficientnet`"),
        ({"model": "test_convnext", "stem": "low_resolution"}, "no low-resolution stem"),
        ({"init": "nowhere.safetensors"}, "no weights here"),
    ]:
        with pytest.raises(UsageError, match=message):
            models.build_for(recipe(**changes), CLASSES, GREY)


def test_starting_weights_fill_all_but_the_classifier_and_fit_one_architecture(tmp_path):
    from ferdistill.training import pretrain

    source = models.build("test_efficientnet", {}, "stock", 16, GREY, False)
    pretrain.save(source, tmp_path / "w.safetensors", task="test")
    network = models.build_for(recipe(init=str(tmp_path / "w.safetensors")), CLASSES, GREY)
    np.testing.assert_allclose(
        network.state_dict()["conv_stem.weight"], source.state_dict()["conv_stem.weight"], atol=1e-3
    )
    assert network.state_dict()["classifier.weight"].shape == (7, 256)
    with pytest.raises(CheckError, match="another architecture"):
        wider = recipe(init=str(tmp_path / "w.safetensors"), options={"channel_multiplier": 2.0})
        models.build_for(wider, CLASSES, GREY)


@pytest.mark.parametrize("scale", ["smoke", "embedded"])
def test_the_networks_of_each_scale_can_be_built(scale):
    settings = params.load("params.yaml").scales[scale]
    images = torch.zeros(2, settings.image.channels, settings.image.size, settings.image.size)
    for each in [*settings.teachers.values(), settings.student]:
        assert models.build_for(each, CLASSES, settings.image).eval()(images).shape == (2, 7)


@pytest.mark.slow
def test_the_paper_scale_takes_two_steps_with_each_of_its_five_networks():
    settings = params.load("params.yaml").scales["paper"]
    side, channels = settings.image.size, settings.image.channels
    images = np.random.default_rng(0).integers(0, 256, (4, side, side, channels), dtype=np.uint8)
    data = Split(images, np.arange(4), np.array([0, 1, 2, 3]))
    for each in [*settings.teachers.values(), settings.student]:
        # ImageNet's weights come from the network; the architecture is what is tried here.
        phases = [{"epochs": 1, "lr": 1e-4, "augment": "flip_shift"}]
        small = type(each).model_validate(each.model_dump() | {"init": "scratch", "batch": 2, "phases": phases})
        network = models.build_for(small, CLASSES, settings.image)
        assert np.isfinite(fit(network, data, data, small, 0, hard, name=each.model).history[0]["train_loss"])
