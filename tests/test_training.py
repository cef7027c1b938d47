"""The loop and the networks: learning, determinism, and what they refuse."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from accelerate.state import AcceleratorState

from conftest import CLASSES, make_index
from ferdistill import params
from ferdistill.distill import checkpoint as checkpoints
from ferdistill.distill import losses, models, student
from ferdistill.distill.augment import apply, choose, draw, recorded
from ferdistill.distill.curves import curves
from ferdistill.distill.data import Split
from ferdistill.distill.inference import evaluate, make_deterministic, predict
from ferdistill.distill.loop import Method, Objective, TrainingData, fit
from ferdistill.errors import CheckError, UsageError
from support.learning import GREY, bars, hard, recipe, train, training


def test_a_network_overfits_a_few_images():
    network, result = train(phases=[{"epochs": 40, "lr": 3e-3, "augment": "none"}])
    assert evaluate(network, bars(64))["accuracy"] > 0.99
    assert result.history[-1]["train_loss"] < result.history[0]["train_loss"] / 5


@pytest.fixture(scope="module")
def trained():
    """Twelve epochs, of which several tests ask what came out."""
    return train()


def test_one_seed_gives_one_network_and_another_seed_another(trained):
    one, first = trained
    two, second = train()
    assert first.history == second.history
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))
    assert train(1)[1].history != first.history


@pytest.mark.parametrize(("monitor", "best"), [("nll", min), ("macro_f1", max)])
def test_the_network_ends_with_the_epoch_that_was_best_on_val(monitor, best):
    network, result = train(settings=training(monitor=monitor), phases=[{"epochs": 12, "lr": 2e-2, "augment": "none"}])
    of_epochs = [record[f"val_{monitor}"] for record in result.history]
    assert result.best_epoch == 1 + of_epochs.index(best(of_epochs)) < 12
    assert evaluate(network, bars(40, 1))[monitor] == pytest.approx(best(of_epochs))
    assert [r["epoch"] for r in result.history if "test_macro_f1" in r] == [5, 10, 12]


def test_split_and_fused_kd_train_one_student_bit_for_bit():
    rng = np.random.default_rng(0)
    logits = torch.from_numpy(rng.normal(0, 3, (4, 64, 7)).astype(np.float32))
    states = []
    for sources in (torch.zeros(4, dtype=torch.int64), torch.arange(4)):
        targets = losses.soft_targets(logits, torch.full((4,), 0.25), sources, 2.0, "probability")

        def distil(outputs, batch, targets=targets):
            ce = losses.ce_loss(outputs, batch.labels)
            return losses.kd_loss(outputs, ce, targets.at(batch.positions), alpha=0.5, temperature=2.0)

        states.append(train(3, loss=distil)[0].state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_predictions_do_not_depend_on_the_batch():
    network, _ = train(phases=[{"epochs": 1, "lr": 1e-3, "augment": "flip"}])
    data = bars(50, 4)
    np.testing.assert_allclose(predict(network, data, batch=50), predict(network, data, batch=7), atol=1e-4)


def test_augmentation_moves_each_image_by_its_own_draw_and_stays_in_range():
    images = torch.randint(0, 256, (40, 1, 48, 48), dtype=torch.uint8)
    drawn = draw(40, 48, torch.Generator().manual_seed(0))
    assert torch.equal(apply(images, "none", drawn), images)
    flipped = apply(images, "flip", drawn)
    mirrored = (flipped == images.flip(3)).flatten(1).all(1)
    assert torch.equal(mirrored, drawn.mirrored) and 5 < int(mirrored.sum()) < 35
    assert torch.equal(flipped[~mirrored], images[~mirrored])
    moved = apply(images, "flip_shift", drawn)
    assert moved.shape == images.shape and moved.min() >= 0 and moved.max() <= 255
    some = torch.tensor([3, 17, 39])
    assert torch.equal(apply(images[some], "flip_shift", drawn[some]), moved[some])
    shifted = apply(images, "shift", drawn)
    assert torch.equal(shifted[~drawn.mirrored], moved[~drawn.mirrored])
    assert torch.equal(shifted, apply(images, "flip_shift", replace(drawn, mirrored=torch.zeros(40, dtype=torch.bool))))


def test_recorded_views_are_the_same_wherever_they_are_drawn_and_each_image_has_its_own():
    views, again = recorded(3, 20, 48, seed=1), recorded(3, 20, 48, seed=1)
    assert all(torch.equal(a.shift, b.shift) for a, b in zip(views, again, strict=True))
    rows, which = torch.tensor([4, 9, 13]), torch.tensor([2, 0, 1])
    chosen = choose(views, which, rows)
    assert (
        chosen.shift.tolist()
        == torch.stack([views[v].shift[:, r] for v, r in zip(which, rows, strict=True)], 1).tolist()
    )
    assert not torch.equal(views[0].shift, views[1].shift)


def test_with_views_every_image_is_seen_in_each_view_in_turn():
    seen = {}

    def note(logits, batch):
        for position, view in zip(batch.positions.tolist(), batch.views.tolist(), strict=True):
            seen.setdefault(position, []).append(view)
        return hard(logits, batch)

    make_deterministic(0)
    settings = recipe(phases=[{"epochs": 4, "lr": 1e-3, "augment": "flip_shift"}])
    network = models.build_for(settings, CLASSES, GREY)
    views = recorded(4, 64, 32, seed=1)
    data = TrainingData(bars(64), bars(40, 1), views=views)
    fit(network, Method(settings, training(), 0), data, Objective(note), name="bars")
    assert len(seen) == 64 and all(sorted(found) == [0, 1, 2, 3] for found in seen.values())


def test_a_diverging_loss_and_a_batch_too_large_are_refused():
    with pytest.raises(CheckError, match="the loss became nan"):
        train(loss=lambda logits, batch: {"loss": logits.sum() * float("nan")})
    with pytest.raises(CheckError, match="a batch of 65 for 64 training images"):
        train(batch=65)


class Killed(Exception):
    pass


TWO_PHASES = {
    "phases": [{"epochs": 3, "lr": 3e-3, "augment": "flip_shift"}, {"epochs": 2, "lr": 1e-3, "augment": "flip"}],
    "options": {"drop_rate": 0.2},
}


@cache
def undisturbed(ema):
    return train(**TWO_PHASES, settings=training(ema=ema))


@pytest.mark.parametrize("ema", [None, 0.9])
@pytest.mark.parametrize("after", [1, 3, 4])
def test_a_run_that_was_broken_off_ends_with_the_same_bytes(tmp_path, ema, after):
    """Broken off in the first phase, at its end, and in the second; dropout draws from torch's own generator."""
    changes = TWO_PHASES | {"settings": training(ema=ema)}
    whole, expected = undisturbed(ema)

    def die(record):
        if record["epoch"] > after:
            raise Killed

    path = tmp_path / "c.safetensors"
    with pytest.raises(Killed):
        train(**changes, log=die, checkpoint=path)
    logged = []
    network, result = train(**changes, log=logged.append, checkpoint=path)
    assert result.history == expected.history == logged and result.best_epoch == expected.best_epoch
    states = zip(whole.state_dict().items(), network.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for (_, a), b in states)


def test_a_damaged_checkpoint_is_passed_over_and_another_run_has_another(tmp_path, capsys):
    path = tmp_path / "c.safetensors"
    checkpoints.save(path, checkpoints.Checkpoint({"a": torch.ones(3)}, {"history": []}))
    tensors, state = checkpoints.load(path)
    assert state == {"history": []} and torch.equal(tensors["a"], torch.ones(3))
    path.write_bytes(path.read_bytes()[:20])
    assert checkpoints.load(path) is None and "training starts over" in capsys.readouterr().err
    facts = {"stage": "student", "seed": 1}
    assert checkpoints.path_for(facts) == checkpoints.path_for(dict(facts))
    assert checkpoints.path_for(facts) != checkpoints.path_for(facts | {"seed": 2})


def test_a_checkpoint_of_the_student_is_named_after_every_param_that_dvc_yaml_lists(tmp_path):
    settings = params.load("params.yaml")
    rows = make_index(tmp_path / "i.csv", {"train": 14, "val": 7, "calib": 7, "test": 7}, CLASSES)
    targets = SimpleNamespace(plan={"sha256": "0" * 64})
    listed = yaml.safe_load(Path("dvc.yaml").read_text(encoding="utf-8"))["stages"]["student"]["params"]
    others = {
        "family": "6C", "mode": "dkd", "dkd_target_term": "report", "alpha": 0.25, "classes": CLASSES[::-1],
        "launch": settings.launch.model_copy(update={"processes": 2}), "training": training(ema=0.9),
    }  # fmt: skip
    names = {name for name in listed if not name.startswith("scales.")}
    paths = {student.checkpoint_for(settings, {}, rows, targets)}
    for name in names:
        other = others[name] if name in others else getattr(settings, name) + 1
        paths.add(student.checkpoint_for(settings.model_copy(update={name: other}), {}, rows, targets))
    assert len(paths) == 1 + len(names)
    moved = settings.model_copy(update={"index_tag": "other", "lambda_": 0.25})  # the index and the targets say so
    assert student.checkpoint_for(moved, {}, rows, targets) in paths


def test_a_gpu_that_cannot_hold_a_batch_is_said_with_the_batch():
    def full(logits, batch):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore of it")

    with pytest.raises(CheckError, match=r"(?s)a batch of 16 does not fit.*2\.00 GiB.*halve `batch`") as caught:
        train(loss=full, batch=16)
    assert "More of it" not in str(caught.value)


def test_every_term_of_the_loss_is_logged(tmp_path):
    def loss(logits, batch):
        ce = hard(logits, batch)["loss"]
        return {"loss": 2 * ce, "ce": ce}

    with curves(tmp_path / "plots") as log:
        _, result = train(loss=loss, log=log, phases=[{"epochs": 2, "lr": 1e-3, "augment": "none"}])
    for term in ("loss", "ce"):
        rows = (tmp_path / f"plots/plots/metrics/train/{term}.tsv").read_text().split()
        found = [float(value) for value in rows[3::2]]
        assert found == pytest.approx([record[f"train_{term}"] for record in result.history])
    assert all(r["train_loss"] == pytest.approx(2 * r["train_ce"]) for r in result.history)


def test_a_moving_average_is_what_is_judged_and_kept(trained):
    network, result = train(settings=training(ema=0.95))
    lowest = min(record["val_nll"] for record in result.history)
    assert evaluate(network, bars(40, 1))["nll"] == pytest.approx(lowest)
    plain, _ = trained
    assert not all(torch.equal(a, b) for a, b in zip(network.parameters(), plain.parameters(), strict=True))


@pytest.fixture
def fresh_accelerate():
    """Accelerate keeps one precision a process; a test of another must begin and end without it."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


FEW = [{"epochs": 3, "lr": 1e-3, "augment": "flip_shift"}]


def test_mixed_precision_learns_as_float32_does(fresh_accelerate):
    _, plain = train(phases=FEW)
    AcceleratorState._reset_state(reset_partial_state=True)
    _, mixed = train(phases=FEW, settings=training(amp="bf16"))
    assert mixed.history != plain.history
    for one, other in zip(plain.history, mixed.history, strict=True):
        assert other["train_loss"] == pytest.approx(one["train_loss"], rel=0.1)
    if not torch.cuda.is_available():
        AcceleratorState._reset_state(reset_partial_state=True)
        with pytest.raises(UsageError, match="float16 needs a GPU"):
            train(settings=training(amp="fp16"))


# Made once: a change of the loop that changes the arithmetic must be meant.
GOLDEN = [2.730380, 2.352548, 2.181469]


def test_the_seeded_loss_curve_is_the_golden_one():
    _, result = train(phases=FEW)
    np.testing.assert_allclose([record["train_loss"] for record in result.history], GOLDEN, rtol=5e-3)


SHARED_PHASES = [{"epochs": 4, "lr": 2e-3, "augment": "flip_shift"}]
NETWORKS = {
    "vit": {"model": "test_vit", "options": {"img_size": 32, "patch_size": 8}, "phases": SHARED_PHASES},
    "batch normalisation": {"phases": SHARED_PHASES},
}
SHARED = f"""
import json
from accelerate import PartialState
from support.learning import train
histories = {{name: train(**changes)[1].history for name, changes in {NETWORKS}.items()}}
if PartialState().is_main_process:
    print(json.dumps(histories), PartialState().num_processes)
"""


def test_two_processes_with_the_same_global_batch_follow_the_curves_of_one(tmp_path):
    script = tmp_path / "shared.py"
    script.write_text(SHARED)
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    # On CPUs accelerate takes the processes that torchrun starts; `accelerate launch` does so on GPUs alone.
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", str(script)]
    done = subprocess.run(launch, env=env, capture_output=True, text=True, check=True)
    histories, _, processes = done.stdout.strip().splitlines()[-1].rpartition(" ")
    assert int(processes) == 2
    for name, history in json.loads(histories).items():
        for one, two in zip(train(**NETWORKS[name])[1].history, history, strict=True):
            assert two["train_loss"] == pytest.approx(one["train_loss"], rel=1e-4)
            assert two["val_nll"] == pytest.approx(one["val_nll"], rel=1e-3)


@pytest.mark.parametrize("name", ["resnet18", "convnext_tiny", "efficientnet_b3", "vit_ban", "student"])
def test_every_network_of_the_smoke_scale_overfits_one_batch(name):
    scale = params.load("params.yaml").scales["smoke"]
    each = scale.student if name == "student" else scale.teachers[name]
    few = bars(16)
    images = np.kron(few.images[..., 0], np.ones((2, 2), np.uint8))[:, 8:56, 8:56, None]
    data = Split(images, np.arange(16), few.labels)
    phases = [{"epochs": 25, "lr": 2e-3, "augment": "none"}]
    settings = type(each).model_validate(each.model_dump() | {"batch": 16, "phases": phases})
    make_deterministic(0)
    network = models.build_for(settings, CLASSES, scale.image)
    fit(network, Method(settings, training(), 0), TrainingData(data, data), Objective(hard), name=name)
    assert evaluate(network, data)["accuracy"] > 0.99


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
        ({"init": "nowhere.safetensors"}, "no file of tensors here"),
    ]:
        with pytest.raises(UsageError, match=message):
            models.build_for(recipe(**changes), CLASSES, GREY)


def test_starting_weights_fill_all_but_the_classifier_and_fit_one_architecture(tmp_path):
    from ferdistill.faces import pretrain

    source = models.build("test_efficientnet", {}, "stock", 16, GREY, False)
    pretrain.save(source, tmp_path / "w.safetensors", {"task": "test"})
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
        method = Method(small, training(), 0)
        result = fit(network, method, TrainingData(data, data), Objective(hard), name=each.model)
        assert np.isfinite(result.history[0]["train_loss"])
