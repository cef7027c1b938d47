from pathlib import Path
from random import Random

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import softmax
from sklearn.metrics import brier_score_loss, log_loss
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_calibration_error,
    multiclass_f1_score,
)

from ferdistill.errors import CheckError, UsageError
from ferdistill.evaluation.metrics import read_predictions, score
from support.scores import calibrated

CLASSES = ["angry", "disgust", "fear", "happy", "neutral", "sad", "surprise"]
SCORES = ("macro_f1", "accuracy", "nll", "brier", "ece", "mce", "ece_null")


@pytest.mark.parametrize("temperature", [1.0, 0.5, 3.0])
def test_scores_agree_with_torchmetrics_and_scikit_learn(temperature: float) -> None:
    logits, labels = calibrated(3000)
    ours = score(logits, labels, CLASSES, temperature)
    probabilities = softmax(logits / temperature, axis=1)
    p, y = torch.tensor(probabilities), torch.tensor(labels)
    for name, reference in {
        "macro_f1": multiclass_f1_score(p, y, num_classes=7, average="macro"),
        "accuracy": multiclass_accuracy(p, y, num_classes=7, average="micro"),
        "ece": multiclass_calibration_error(p, y, num_classes=7, n_bins=15, norm="l1"),
        "mce": multiclass_calibration_error(p, y, num_classes=7, n_bins=15, norm="max"),
    }.items():
        assert ours[name] == pytest.approx(float(reference), abs=1e-5), name
    assert ours["nll"] == pytest.approx(log_loss(labels, probabilities), rel=1e-12)
    reference = brier_score_loss(labels, probabilities, labels=range(7), scale_by_half=False)
    assert ours["brier"] == pytest.approx(reference, rel=1e-12)
    per_class = multiclass_f1_score(p, y, num_classes=7, average="none")
    assert [ours["per_class"][c]["f1"] for c in CLASSES] == pytest.approx(per_class.tolist(), abs=1e-6)
    assert sum(ours["per_class"][c]["support"] for c in CLASSES) == ours["n"] == 3000


def test_macro_f1_is_the_mean_over_all_classes_absent_ones_too() -> None:
    ours = score(np.eye(3)[[0, 0, 1, 1]] * 5, np.array([0, 0, 1, 0]), ["a", "b", "never"])
    assert ours["per_class"]["a"] == {
        "precision": 1.0,
        "recall": pytest.approx(2 / 3),
        "f1": pytest.approx(0.8),
        "support": 3,
    }
    assert ours["per_class"]["never"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 0}
    assert ours["macro_f1"] == pytest.approx((0.8 + 2 / 3 + 0) / 3)
    assert ours["accuracy"] == 0.75


def test_closed_forms() -> None:
    uniform = score(np.zeros((70, 7)), np.arange(70) % 7, CLASSES)
    assert uniform["nll"] == pytest.approx(np.log(7))
    assert uniform["brier"] == pytest.approx(6 / 7)
    assert uniform["ece"] == uniform["mce"] == pytest.approx(0)
    sure_and_wrong = score(np.array([[1000.0, 0.0]] * 5), np.ones(5, int), ["a", "b"])
    assert sure_and_wrong["nll"] == pytest.approx(1000)
    assert sure_and_wrong["brier"] == pytest.approx(2)
    assert sure_and_wrong["ece"] == sure_and_wrong["mce"] == 1
    assert sure_and_wrong["ece_null"] == 0


def test_float32_logits_are_scored_in_float64() -> None:
    logits = np.array([[20.0, 0.0]], np.float32)
    assert score(logits, np.array([0]), ["a", "b"])["nll"] == pytest.approx(np.log1p(np.exp(-20)), rel=1e-6)


exact_logits = arrays(
    np.float64, st.tuples(st.integers(1, 40), st.just(4)), elements=st.integers(-320, 320).map(lambda i: i / 64)
)


@settings(deadline=None, max_examples=50)
@given(exact_logits, st.integers(-8, 8), st.randoms(use_true_random=False))
def test_scores_are_bounded_and_do_not_depend_on_order_or_shift(logits: np.ndarray, shift: int, random: Random) -> None:
    labels = np.array([random.randrange(4) for _ in logits])
    ours = score(logits, labels, list("abcd"))
    assert 0 <= ours["ece"] <= ours["mce"] <= 1
    assert 0 <= ours["ece_null"] <= 1
    assert 0 <= ours["brier"] <= 2
    order = np.random.default_rng(random.randrange(1000)).permutation(len(labels))
    # Binary fractions, so that adding the shift is exact and no confidence changes its bin.
    shifted = score(logits + shift, labels, list("abcd"))
    shuffled = score(logits[order], labels[order], list("abcd"))
    for name in SCORES:
        assert shifted[name] == ours[name], name
        assert shuffled[name] == pytest.approx(ours[name], abs=1e-12), name


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (np.zeros((0, 2)), np.zeros(0, int), "nothing to score"),
        (np.zeros((3, 2)), np.zeros(2, int), "do not fit together"),
        (np.zeros(3), np.zeros(3, int), "do not fit together"),
        (np.zeros((3, 5)), np.zeros(3, int), "2 classes"),
        (np.array([[0.0, 1], [np.nan, 0]]), np.zeros(2, int), "1 of 2 rows.*not finite(.|\n)*row 1"),
        (np.array([[0.0, np.inf]]), np.zeros(1, int), "not finite"),
        (np.zeros((2, 2)), np.array([0, 2]), "do not name a class"),
        (np.zeros((2, 2)), np.array([-1, 0]), "do not name a class"),
        (np.zeros((2, 2)), np.array([0.0, 1.0]), "do not name a class"),
    ],
)
def test_bad_input_is_refused(logits: np.ndarray, labels: np.ndarray, message: str) -> None:
    with pytest.raises(CheckError, match=message):
        score(logits, labels, ["a", "b"])


def test_predictions_are_read_by_split_and_checked(tmp_path: Path) -> None:
    path = tmp_path / "predictions.parquet"
    with pytest.raises(UsageError, match="missing"):
        read_predictions(path, "test", ["b", "a"])
    path.write_bytes(b"PAR1 and no more")
    with pytest.raises(CheckError, match="cannot be read") as caught:
        read_predictions(path, "test", ["b", "a"])
    assert caught.value.where == str(path)
    pd.DataFrame({"path": ["x"], "label": ["a"], "logit_b": [1.0], "logit_a": [2.0]}).to_parquet(path)
    with pytest.raises(CheckError, match="predictions without split"):
        read_predictions(path, "test", ["b", "a"])
    frame = pd.DataFrame(
        {
            "path": ["x", "y", "z"],
            "split": ["test", "val", "test"],
            "group": "",
            "subject": None,
            "label": ["a", "b", "b"],
            "logit_b": np.array([1, 2, 3], np.float32),
            "logit_a": np.array([4, 5, 6], np.float32),
        }
    )
    frame.to_parquet(path)
    test = read_predictions(path, "test", ["b", "a"])
    assert test.logits.tolist() == [[1, 4], [3, 6]]
    assert test.labels.tolist() == [1, 0]
    assert test.paths.tolist() == ["x", "z"]
    with pytest.raises(CheckError, match=r"for the classes \['b', 'a'\]"):
        read_predictions(path, "test", ["a", "b"])
    with pytest.raises(CheckError, match="no predictions of the split `calib`"):
        read_predictions(path, "calib", ["b", "a"])
    frame.replace({"label": {"a": "c"}}).to_parquet(path)
    with pytest.raises(CheckError, match=r"unknown labels \['c'\]"):
        read_predictions(path, "test", ["b", "a"])
