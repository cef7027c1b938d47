"""The training canary stops a run whose soft labels are at chance, and lets useful ones pass."""

import numpy as np
import pytest
import torch

from ferdistill.distill.training_canary import TrainingCanary, named_classes
from ferdistill.errors import CheckError

CPU = torch.device("cpu")


def teacher(labels, accuracy, seed=0):
    rng = np.random.default_rng(seed)
    named = np.where(rng.random(len(labels)) < accuracy, labels, rng.integers(0, 7, len(labels)))
    return np.eye(7, dtype=np.float32)[named] * 4


def canary_of(logits, teachers, **options):
    return TrainingCanary(named_classes(torch.from_numpy(logits)), teachers, 7, CPU, **options)


def watch(canary, labels, batch=100):
    for rows in torch.arange(len(labels)).split(batch):
        canary.see(rows, torch.from_numpy(labels)[rows])


def test_agreement_is_counted_for_each_teacher_and_epoch():
    labels = np.random.default_rng(0).integers(0, 7, 600)
    logits = np.stack([teacher(labels, 0.8), teacher(labels, 0.3, 1)])
    canary = canary_of(logits, ["a", "b"])
    for _ in range(2):
        watch(canary, labels)
        expected = (logits.argmax(2) == labels).mean(1)
        assert list(canary.epoch().values()) == pytest.approx(expected, abs=1e-6)


def test_a_teacher_out_of_step_stops_the_run_and_is_named():
    labels = np.random.default_rng(0).integers(0, 7, 5000)
    logits = np.stack([teacher(labels, 0.7), np.roll(teacher(labels, 0.7, 1), 1, axis=0)])
    with pytest.raises(CheckError, match=r"(?s)no better than chance.*teacher b") as stop:
        watch(canary_of(logits, ["a", "b"]), labels)
    assert "of 2000 rows" in str(stop.value)  # at the start, not after the epoch
    study = canary_of(logits, ["a", "b"], stops=False)
    watch(study, labels)
    assert study.epoch()["agreement_b"] < 0.2


def test_false_alarms_are_rare_and_weak_teachers_pass():
    """One in ten named by knowledge, the rest by chance: 23 % right where chance gives 14 %."""
    labels = np.random.default_rng(1).integers(0, 7, 2000)
    for seed in range(50):
        watch(canary_of(teacher(labels, 0.1, seed)[None], ["weak"]), labels)


def test_a_short_epoch_is_judged_at_its_end():
    labels = np.random.default_rng(0).integers(0, 7, 300)
    canary = canary_of(np.roll(teacher(labels, 0.9), 1, axis=0)[None], ["t"])
    watch(canary, labels)
    with pytest.raises(CheckError, match="of 300 rows"):
        canary.epoch()


def test_rows_without_a_teacher_or_a_label_do_not_count():
    labels = np.random.default_rng(0).integers(0, 7, 600)
    logits = np.stack([teacher(labels, 0.8), teacher(labels, 0.5, 1)])
    logits[1, ::2] = np.nan
    partly = labels.copy()
    partly[400:] = -1
    canary = canary_of(logits, ["whole", "half"])
    watch(canary, partly)
    right = logits.argmax(2) == labels
    assert canary.epoch() == pytest.approx(
        {"agreement_whole": right[0, :400].mean(), "agreement_half": right[1, 1:400:2].mean()}
    )
