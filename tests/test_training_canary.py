"""The training canary stops a run whose soft labels are at chance, and lets useful ones pass."""

import numpy as np
import pytest
import torch

from ferdistill.distill.training_canary import TrainingCanary
from ferdistill.errors import CheckError

CPU = torch.device("cpu")


def teacher(labels, accuracy, seed=0):
    rng = np.random.default_rng(seed)
    named = np.where(rng.random(len(labels)) < accuracy, labels, rng.integers(0, 7, len(labels)))
    return np.eye(7, dtype=np.float32)[named] * 4


def watch(canary, labels, batch=100):
    for rows in torch.arange(len(labels)).split(batch):
        canary.see(rows, torch.from_numpy(labels)[rows])


def test_agreement_is_counted_for_each_teacher_and_epoch():
    labels = np.random.default_rng(0).integers(0, 7, 600)
    logits = np.stack([teacher(labels, 0.8), teacher(labels, 0.3, 1)])
    canary = TrainingCanary(torch.from_numpy(logits), ["a", "b"], CPU)
    for _ in range(2):
        watch(canary, labels)
        expected = (logits.argmax(2) == labels).mean(1)
        assert list(canary.epoch().values()) == pytest.approx(expected, abs=1e-6)


def test_a_teacher_out_of_step_stops_the_run_and_is_named():
    labels = np.random.default_rng(0).integers(0, 7, 5000)
    logits = np.stack([teacher(labels, 0.7), np.roll(teacher(labels, 0.7, 1), 1, axis=0)])
    with pytest.raises(CheckError, match=r"(?s)no better than chance.*teacher b") as stop:
        watch(TrainingCanary(torch.from_numpy(logits), ["a", "b"], CPU), labels)
    assert "of 2000 rows" in str(stop.value)  # at the start, not after the epoch
    study = TrainingCanary(torch.from_numpy(logits), ["a", "b"], CPU, stops=False)
    watch(study, labels)
    assert study.epoch()["agreement_b"] < 0.2


def test_false_alarms_are_rare_and_weak_teachers_pass():
    """One in ten named by knowledge, the rest by chance: 23 % right where chance gives 14 %."""
    labels = np.random.default_rng(1).integers(0, 7, 2000)
    for seed in range(50):
        watch(TrainingCanary(torch.from_numpy(teacher(labels, 0.1, seed))[None], ["weak"], CPU), labels)


def test_a_short_epoch_is_judged_at_its_end():
    labels = np.random.default_rng(0).integers(0, 7, 300)
    canary = TrainingCanary(torch.from_numpy(np.roll(teacher(labels, 0.9), 1, axis=0))[None], ["t"], CPU)
    watch(canary, labels)
    with pytest.raises(CheckError, match="of 300 rows"):
        canary.epoch()
