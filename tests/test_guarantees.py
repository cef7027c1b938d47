"""Prediction sets, abstention and alerts: their definitions, and that what they promise holds where truth is known."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax
from scipy.stats import binom
from typer.testing import CliRunner

from ferdistill.cli import cli
from ferdistill.evaluation import guarantees
from ferdistill.evaluation.guarantees import (
    Wanted,
    as_shares,
    binomial_p,
    bound_errors,
    conformal_limit,
    fit,
    intraclass_correlation,
    least_sample,
    measure,
    people_needed,
    risk_coverage,
    wanted,
)
from ferdistill.runtime.guarantees import SLACK, acted_on, prediction_sets, set_of, set_scores
from support.people import People
from support.scores import calibrated

THREE = ["a", "b", "c"]
DEFAULT = wanted("lac", 0.9, False, 0.1, 0.9, 0.1)


def alone(n: int) -> np.ndarray:
    return np.arange(n).astype(str)


@given(st.integers(1, 60), st.floats(0.05, 0.99), st.integers(0, 100))
def test_with_a_person_an_image_the_limit_is_that_of_split_conformal_prediction(
    n: int, coverage: float, seed: int
) -> None:
    scores = np.random.default_rng(seed).random((n, 3))
    labels = np.random.default_rng(seed + 1).integers(0, 3, n)
    found = conformal_limit(scores, np.eye(3)[labels], alone(n), coverage)
    place = int(np.ceil((n + 1) * coverage - 1e-7))
    own = np.sort(scores[np.arange(n), labels])
    assert found == (own[place - 1] if place <= n else None)
    assert (found is None) == (n < people_needed(coverage))


def test_a_person_weighs_the_same_with_one_image_as_with_a_hundred() -> None:
    scores = np.r_[np.full(100, 0.9), 0.1, 0.2, 0.3][:, None]
    clusters = np.array(["many"] * 100 + ["x", "y", "z"])
    found = [conformal_limit(scores, np.ones((103, 1)), clusters, coverage) for coverage in (0.2, 0.6, 0.8, 0.81)]
    assert found == [0.1, 0.3, 0.9, None]


def test_sets_by_hand() -> None:
    p = np.array([[0.5, 0.3, 0.2], [0.2, 0.2, 0.6]])
    assert set_scores(p, "lac") == pytest.approx(1 - p)
    assert set_scores(p, "aps") == pytest.approx(np.array([[0, 0.5, 0.8], [0.6, 0.8, 0]]))
    assert prediction_sets(p, "lac", [0.6, 0.6, None]).tolist() == [[True, False, True], [False, False, True]]
    assert prediction_sets(p, "aps", [0.0, 0.0, 0.0]).sum(axis=1).tolist() == [1, 1]
    info = {
        "sets": {"method": "lac", "limits": {"a": 0.6, "b": 0.6, "c": 0.6}},
        "alerts": {"thresholds": {"a": 0.5, "b": None, "c": 0.7}},
    }
    assert acted_on(p[0].astype(np.float32), THREE, info) == {"set": ["a"], "alerts": ["a"]}
    assert acted_on(p[0], THREE, {"sets": None, "alerts": None}) == {}


@pytest.mark.parametrize("method", ["lac", "aps"])
def test_the_set_of_one_row_is_that_of_many(method: str) -> None:
    rng = np.random.default_rng(5)
    p = np.concatenate([softmax(rng.normal(0, 2, (400, 7)), axis=1), np.full((3, 7), 1 / 7), np.eye(7)])
    scores = set_scores(p, method)
    for limits in ([0.3] * 7, [0.0] * 7, [None, *rng.random(6)], list(scores[17] - SLACK)):
        many = prediction_sets(p, method, limits)
        assert [set_of(row, method, limits) for row in p.tolist()] == many.tolist()
    assert prediction_sets(p, method, list(scores[17] - SLACK))[17].any()  # limits that are just reached


def test_the_tail_is_the_binomials_and_the_least_sample_is_the_least() -> None:
    for errors, n, risk in ((0, 22, 0.1), (3, 80, 0.05), (10, 10, 0.5)):
        assert binomial_p(errors, n, risk) == pytest.approx(binom.cdf(errors, n, risk))
    assert least_sample(0.0, 0.1, 0.1) == 22
    assert binomial_p(0, 21, 0.1) > 0.1 >= binomial_p(0, 22, 0.1)
    assert least_sample(0.1, 0.1, 0.1) is None
    n = least_sample(0.05, 0.1, 0.1)
    assert n is not None and binomial_p(0.05 * n, n, 0.1) <= 0.1


def test_errors_that_persons_share_are_correlated() -> None:
    clusters = np.repeat(alone(50), 10)
    rng = np.random.default_rng(0)
    assert intraclass_correlation(np.repeat(rng.random(50) < 0.3, 10).astype(float), clusters) == pytest.approx(1)
    assert intraclass_correlation((rng.random(500) < 0.3).astype(float), clusters) < 0.05
    assert intraclass_correlation(np.ones(5), alone(5)) == 0


def test_a_threshold_answers_as_much_as_the_bound_allows_and_counts_persons() -> None:
    n = 1000
    confidence = np.linspace(1, 0, n)
    wrong = np.r_[np.zeros(600), np.tile([1.0, 0.0], 200)]
    free = bound_errors(confidence, wrong, alone(n), 0.0, risk=0.1, failure=0.1, first=200)
    assert free.threshold is not None and 650 < free.answered < 760
    assert free.errors / free.answered < 0.1
    shared = bound_errors(confidence, wrong, np.repeat(alone(50), 20), 0.3, risk=0.1, failure=0.1, first=200)
    assert shared.threshold is not None and shared.answered < free.answered
    none = bound_errors(confidence, np.ones(n), alone(n), 0.0, risk=0.1, failure=0.1, first=200)
    assert none.threshold is None and none.needed is None
    few = bound_errors(confidence[:10], np.zeros(10), alone(10), 0.0, risk=0.1, failure=0.1)
    assert few.threshold is None and few.needed == 22


def test_ties_are_answered_together() -> None:
    found = bound_errors(np.full(100, 0.7), np.zeros(100), alone(100), 0.0, risk=0.1, failure=0.1)
    assert (found.threshold, found.answered) == (0.0, 100)
    shares, risk = risk_coverage(np.array([0.9, 0.5, 0.5]), np.array([0.0, 1.0, 0.0]))
    assert shares == pytest.approx([1 / 3, 2 / 3, 1]) and risk == pytest.approx([0, 0.25, 1 / 3])


def test_what_cannot_be_guaranteed_is_said_with_what_it_takes() -> None:
    logits, labels = calibrated(300, classes=3)
    labels = np.where(labels == 2, 0, labels)
    by_class = wanted("aps", 0.9, True, 0.01, 0.9, 0.1)
    found, warnings = fit(softmax(logits, axis=1), labels, np.repeat(alone(30), 10), THREE, by_class)
    assert found["sets"]["limits"]["c"] is None and found["sets"]["people"]["c"] == 0
    assert found["alerts"]["thresholds"]["c"] is None
    assert any("no image is of c" in warning for warning in warnings)
    assert any("take images of 9 people of c; there are 0" in warning for warning in warnings)
    assert found["abstention"]["threshold"] is None
    assert any("at most 1% of errors" in warning for warning in warnings)


def test_one_person_guarantees_nothing() -> None:
    logits, labels = calibrated(300, classes=3)
    found, warnings = fit(softmax(20 * logits, axis=1), logits.argmax(axis=1), np.full(300, "one"), THREE, DEFAULT)
    assert set(found["sets"]["limits"].values()) == {None}
    assert found["abstention"]["threshold"] is None and set(found["alerts"]["thresholds"].values()) == {None}
    assert len(warnings) == 2
    measured = measure(softmax(logits, axis=1), as_shares(labels, 3), alone(300), THREE, found)
    assert measured["sets"]["mean_size"] == 3 and measured["abstention"] == {}


def refitted(people: People, refits: int, count: int, votes: bool, settings: Wanted) -> dict[str, np.ndarray]:
    """Coverage by new persons and risk among answers, (refits,), of thresholds fitted to `count` persons each time."""
    p, truth, whose = people.draw(np.random.default_rng(99), 3000, votes)
    shares = as_shares(truth, people.classes)
    found: dict[str, list[float]] = {"coverage": [], "risk": [], "answered": []}
    for seed in range(refits):
        fitted, _ = fit(*people.draw(np.random.default_rng(seed), count, votes), people.names, settings)
        measured = measure(p, shares, whose, people.names, fitted)
        found["coverage"].append(measured["sets"]["coverage_by_person"])
        answers = measured["abstention"].get("10%", {"answered": 0.0, "errors": 0.0})
        found["risk"].append(answers["errors"] or 0.0)
        found["answered"].append(answers["answered"])
    return {name: np.array(values) for name, values in found.items()}


@pytest.mark.parametrize("votes", [False, True])
def test_refits_cover_and_miss_the_risk_as_seldom_as_promised(votes: bool) -> None:
    refits = 60
    found = refitted(People(spread=0.5), refits, 60, votes, DEFAULT)
    assert found["coverage"].mean() > 0.9 - 3 * found["coverage"].std() / np.sqrt(refits)
    assert found["coverage"].mean() < 0.93
    assert (found["risk"] > 0.1).mean() <= 0.1 + 3 * np.sqrt(0.09 / refits)
    assert votes or found["answered"].mean() > 0.2


def test_labels_alone_cover_annotators_less_than_votes() -> None:
    people = People(spread=0.5)
    p, truth, whose = people.draw(np.random.default_rng(5), 400, votes=True)
    new = people.draw(np.random.default_rng(6), 400, votes=True)
    coverage = {}
    for name, of in (("labels", truth.argmax(axis=1)), ("votes", truth)):
        fitted, _ = fit(p, of, whose, people.names, DEFAULT)
        coverage[name] = measure(new[0], new[1], new[2], people.names, fitted)["sets"]["coverage_by_person"]
    assert coverage["labels"] < 0.87 and coverage["votes"] == pytest.approx(0.9, abs=0.015)


@pytest.fixture
def predictions(tmp_path: Path) -> Path:
    """A file of two splits of different persons."""
    parts = []
    for split, count in (("calib", 80), ("test", 120)):
        p, labels, whose = People(spread=0.3).draw(np.random.default_rng(count), count, votes=False)
        part = pd.DataFrame(p, columns=[f"prob_{k}" for k in range(p.shape[1])])
        parts.append(part.assign(label=labels, split=split, subject=[f"{split} {one}" for one in whose]))
    file = tmp_path / "predictions.csv"
    pd.concat(parts).to_csv(file, index=False)
    return file


def score(file: Path, *arguments: str) -> Any:
    return CliRunner().invoke(cli, ["score", str(file), "--no-intervals", "--split", "test", *arguments])


def test_score_fits_on_one_split_and_tries_on_the_other(predictions: Path, tmp_path: Path) -> None:
    curve = tmp_path / "curve.png"
    result = score(predictions, "--fit", "calib", "--risk", "0.1", "--json", "--curve", str(curve))
    assert result.exit_code == 0, result.output
    acting = json.loads(result.stdout)["acting"]
    assert acting["measured"]["sets"]["coverage_by_person"] == pytest.approx(0.9, abs=0.04)
    assert acting["measured"]["abstention"]["10%"]["errors"] < 0.11
    assert curve.read_bytes().startswith(b"\x89PNG")
    assert "What may be acted on" in score(predictions, "--fit", "calib").stdout


@pytest.mark.parametrize("option", ["--coverage", "--risk", "--precision", "--failure"])
@pytest.mark.parametrize("value", ["0", "1"])
def test_a_share_of_all_or_none_is_refused(predictions: Path, option: str, value: str) -> None:
    result = score(predictions, "--fit", "calib", option, value)
    assert result.exit_code != 0
    assert option in str(result.exception) + result.output


def test_a_person_in_both_splits_is_refused(predictions: Path) -> None:
    frame = pd.read_csv(predictions)
    frame.loc[0, "subject"] = frame["subject"].iloc[-1]
    frame.to_csv(predictions, index=False)
    assert "people are in both splits" in str(score(predictions, "--fit", "calib").exception)


def test_a_key_of_a_risk_is_in_percent() -> None:
    assert [guarantees.percent(share) for share in (0.1, 0.025, 0.02)] == ["10%", "2.5%", "2%"]
