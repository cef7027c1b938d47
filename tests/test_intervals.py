import numpy as np
import pandas as pd
import pytest
import relplot
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax, softmax
from scipy.stats import norm
from sklearn.metrics import brier_score_loss, log_loss
from torch import tensor
from torchmetrics.functional.classification import binary_calibration_error

from ferdistill.evaluation import intervals
from ferdistill.evaluation.calibration import reliability
from ferdistill.evaluation.metrics import clusters_of, score
from support.scores import calibrated

CLASSES = ["angry", "disgust", "fear", "happy", "neutral", "sad", "surprise"]
SHARED = ("macro_f1", "accuracy", "nll", "brier", "ece", "mce")
BINS = 15


def slow_scores(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Each figure from its definition, a bin, a class and a sample at a time."""
    p = softmax(logits.astype(np.float64), axis=1)
    n, classes = p.shape
    confidence, right = p.max(axis=1), p.argmax(axis=1) == labels
    order = np.argsort(confidence)
    mass = sum(abs((right[part] - confidence[part]).sum()) for part in np.array_split(order, BINS)) / n
    classwise = reliability_part = resolution = uncertainty = 0.0
    for k in range(classes):
        of_class = labels == k
        share = of_class.mean()
        uncertainty += share * (1 - share)
        for b in range(BINS):
            held = (p[:, k] >= b / BINS) & ((p[:, k] < (b + 1) / BINS) | (b == BINS - 1))
            if held.any():
                seen, said, weight = of_class[held].mean(), p[held, k].mean(), held.mean()
                classwise += weight * abs(seen - said) / classes
                reliability_part += weight * (said - seen) ** 2
                resolution += weight * (seen - share) ** 2
    return {
        "ece_equal_mass": mass,
        "ece_classwise": classwise,
        "brier_reliability": reliability_part,
        "brier_resolution": resolution,
        "brier_uncertainty": uncertainty,
    }


def slow_smoothed_error(confidence: np.ndarray, right: np.ndarray, bandwidth: float) -> float:
    """The error at one bandwidth from its definition: the reflected Gaussian as a sum of images."""
    t = np.linspace(0, 1, 2001)[:, None]
    images = [confidence, -confidence, 2 - confidence, 2 + confidence]
    smoothed = sum(norm.pdf(t, image, bandwidth) for image in images) @ (right - confidence)
    return float(np.trapezoid(np.abs(smoothed), t[:, 0]) / len(confidence))


@pytest.fixture(scope="module", params=[1.0, 2.0])
def predictions(request: pytest.FixtureRequest) -> tuple[np.ndarray, np.ndarray]:
    """A calibrated model and an overconfident one."""
    logits, labels = calibrated(900, seed=int(request.param))
    return logits * request.param, labels


def test_scores_agree_with_their_definitions(predictions: tuple[np.ndarray, np.ndarray]) -> None:
    ours = score(*predictions, CLASSES, bins=BINS)
    for name, value in slow_scores(*predictions).items():
        assert ours[name] == pytest.approx(value, abs=1e-12), name
    whole = ours["brier_reliability"] - ours["brier_resolution"] + ours["brier_uncertainty"]
    assert whole + ours["brier_within_bins"] == pytest.approx(ours["brier"], abs=1e-12)
    assert abs(ours["brier_within_bins"]) < 0.01


def test_both_ways_to_a_score_agree(predictions: tuple[np.ndarray, np.ndarray]) -> None:
    logits, labels = predictions
    ours = score(logits, labels, CLASSES, bins=BINS)
    table = intervals.tabulate(log_softmax(logits, axis=1), logits.argmax(axis=1), labels, BINS)
    summed = intervals.scores_of(table.sum(axis=0)[None], 7, BINS)
    for name in SHARED:
        assert summed[name][0] == pytest.approx(ours[name], abs=1e-12), name


def test_classwise_ece_is_the_mean_of_torchmetrics_over_classes(predictions: tuple[np.ndarray, np.ndarray]) -> None:
    logits, labels = predictions
    p = softmax(logits, axis=1)
    reference = [
        float(binary_calibration_error(tensor(p[:, k]), tensor((labels == k).astype(int)), n_bins=BINS))
        for k in range(7)
    ]
    assert score(logits, labels, CLASSES, bins=BINS)["ece_classwise"] == pytest.approx(np.mean(reference), abs=1e-6)


def test_a_confidence_of_one_is_binned_otherwise_than_by_torchmetrics() -> None:
    """torchmetrics 1.9 gives a confidence of 1.0 a bin of its own; here, and in netcal, it is in the last."""
    p = np.array([[1.0, 0], [0.95, 0.05], [1.0, 0], [0.95, 0.05]])
    labels = np.array([0, 1, 1, 0])
    table = reliability(p, labels, 10)
    assert table["count"].tolist() == [0] * 9 + [4]
    theirs = binary_calibration_error(tensor(p[:, 0]), tensor((labels == 0).astype(int)), n_bins=10)
    ours = score(np.log(np.maximum(p, 1e-300)), labels, ["a", "b"], bins=10)["ece"]
    assert ours == pytest.approx(0.475)
    assert float(theirs) == pytest.approx(0.475)  # the sum of the gaps is the same while they have one sign


def test_smooth_ece_agrees_with_its_definition_and_with_relplot(predictions: tuple[np.ndarray, np.ndarray]) -> None:
    logits, labels = predictions
    p = softmax(logits, axis=1)
    confidence, right = p.max(axis=1), (p.argmax(axis=1) == labels).astype(float)
    ours = score(logits, labels, CLASSES)["ece_smooth"]
    # The error falls as the bandwidth grows, so there is one bandwidth that equals its error.
    assert slow_smoothed_error(confidence, right, ours) == pytest.approx(ours, abs=1e-6)
    # relplot halves the bandwidth's range ten times, cuts the kernel off at 0.5 and sums over 200 points.
    assert ours == pytest.approx(relplot.smECE(confidence, right), abs=2e-3)


def test_smooth_ece_in_closed_form() -> None:
    """With one confidence in the middle, spread wide, the kernel is nearly flat: smECE is the bandwidth at |gap|."""
    logits = np.log(np.array([[0.5, 0.25, 0.25]])).repeat(4, axis=0)
    assert score(logits, np.array([0, 0, 1, 2]), ["a", "b", "c"])["ece_smooth"] == pytest.approx(0, abs=1e-12)
    assert score(logits, np.array([1, 2, 1, 2]), ["a", "b", "c"])["ece_smooth"] == pytest.approx(0.5, abs=1e-9)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000), st.integers(2, 60), st.integers(2, 5), st.floats(0.1, 8))
def test_ranges_and_invariances(seed: int, n: int, classes: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    logits, labels = rng.normal(0, scale, (n, classes)), rng.integers(0, classes, n)
    names = [str(k) for k in range(classes)]
    ours = score(logits, labels, names)
    for name in ("ece", "mce", "ece_equal_mass", "ece_classwise", "ece_smooth"):
        assert -1e-12 <= ours[name] <= 1 + 1e-9, name
    assert ours["ece_smooth"] <= max(ours["ece"] + 1, 1e-3)
    assert 0 <= ours["brier_uncertainty"] <= 1 - 1 / classes + 1e-12
    assert -1e-12 <= ours["brier_resolution"] <= ours["brier_uncertainty"] + 1e-12
    # |mean residual| is the error that no smoothing removes, and ECE in one bin.
    p = softmax(logits, axis=1)
    offset = abs(((p.argmax(axis=1) == labels) - p.max(axis=1)).mean())
    assert ours["ece"] >= offset - 1e-12
    assert ours["ece_smooth"] >= offset - 1e-6
    order, renamed = rng.permutation(n), rng.permutation(classes)
    place = np.argsort(renamed)
    moved = score(logits[order][:, renamed], place[labels[order]], names)
    for name in ("ece", "ece_equal_mass", "ece_classwise", "ece_smooth", "brier", "brier_reliability", "nll"):
        assert moved[name] == pytest.approx(ours[name], abs=1e-7), name


def test_a_resample_is_the_score_of_the_rows_drawn() -> None:
    logits, labels = calibrated(120, seed=3)
    people = np.array([f"p{i % 12}" for i in range(120)])
    log_probs, predicted = log_softmax(logits, axis=1), logits.argmax(axis=1)
    _, drawn = intervals.resample(log_probs, predicted, labels, people, bins=10, draws=5, seed=7)
    times = np.random.default_rng(7).multinomial(12, np.full(12, 1 / 12), size=5)
    names = np.unique(people)
    for draw in range(5):
        rows = np.concatenate(
            [np.tile(np.flatnonzero(people == of), k) for of, k in zip(names, times[draw], strict=True)]
        )
        again = score(logits[rows], labels[rows], CLASSES, bins=10)
        for name in (*SHARED, "ece_classwise", "ece_smooth", "brier_reliability", "brier_resolution"):
            assert drawn[name][draw] == pytest.approx(again[name], abs=1e-7), name
    _, same = intervals.resample(log_probs, predicted, labels, people, bins=10, draws=5, seed=7)
    assert all((drawn[name] == same[name]).all() for name in drawn)


def test_the_interval_of_a_mean_is_that_of_its_standard_error_and_people_widen_it() -> None:
    logits, labels = calibrated(2000, seed=5)
    log_probs, predicted = log_softmax(logits, axis=1), logits.argmax(axis=1)
    loss = -log_probs[np.arange(2000), labels]
    alone = np.arange(2000).astype(str)
    values, drawn = intervals.resample(log_probs, predicted, labels, alone, bins=15, draws=1000, seed=0)
    assert values["nll"] == pytest.approx(log_loss(labels, softmax(logits, axis=1)), rel=1e-12)
    assert values["brier"] == pytest.approx(
        brier_score_loss(labels, softmax(logits, axis=1), labels=range(7), scale_by_half=False), rel=1e-12
    )
    found = intervals.interval("nll", values["nll"], drawn["nll"], 0.95)
    half = 1.96 * loss.std() / np.sqrt(2000)
    assert [found["low"], found["high"]] == pytest.approx([values["nll"] - half, values["nll"] + half], abs=0.1 * half)
    # Each twice over is one person: as much information as half the samples.
    twice = np.r_[0:1000, 0:1000]
    _, paired = intervals.resample(
        log_probs[twice], predicted[twice], labels[twice], twice.astype(str), bins=15, draws=1000, seed=0
    )
    assert paired["nll"].std() == pytest.approx(loss[:1000].std() / np.sqrt(1000), rel=0.1)


def test_the_basic_interval_holds_a_known_error_that_the_percentile_interval_misses() -> None:
    logits, labels = calibrated(60_000, seed=99)
    true = score(2 * logits, labels, CLASSES)["ece_classwise"]  # chance adds nearly nothing at this size
    held = {"": 0, "basic_": 0}
    for start in range(0, 10 * 400, 400):
        part, of = 2 * logits[start : start + 400], labels[start : start + 400]
        log_probs, alone = log_softmax(part, axis=1), np.arange(400).astype(str)
        values, drawn = intervals.resample(log_probs, part.argmax(axis=1), of, alone, bins=BINS, draws=100, seed=0)
        found = intervals.interval("ece_classwise", values["ece_classwise"], drawn["ece_classwise"], 0.95)
        for kind in held:
            held[kind] += found[f"{kind}low"] <= true <= found[f"{kind}high"]
    assert held[""] <= 1
    assert held["basic_"] >= 7


def test_p_of_the_ece_is_even_for_a_calibrated_model_and_small_for_an_overconfident_one() -> None:
    p = np.array([score(*calibrated(200, seed), CLASSES)["ece_p"] for seed in range(60)])
    assert 1 <= (p < 0.1).sum() <= 14
    assert 0.38 < p.mean() < 0.62
    logits, labels = calibrated(200)
    assert score(2 * logits, labels, CLASSES)["ece_p"] == 1 / 201


def test_people_are_subjects_else_groups_else_paths_else_rows() -> None:
    frame = pd.DataFrame(
        {"subject": ["s", "", None, None], "group": ["g", "s", None, ""], "path": ["a", "b", "c", None]}
    )
    assert clusters_of(frame).tolist() == ["subject s", "group s", "path c", "row 3"]
    assert clusters_of(frame[["path"]]).tolist() == ["path a", "path b", "path c", "row 3"]
