from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ferdistill.evaluation import known_truth
from ferdistill.evaluation.metrics import score
from ferdistill.faces.head import CLASSES
from ferdistill.faces.rendered import vote


def laws(n: int = 200, classes: int = 7, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.full(classes, 0.5), n)


def test_the_law_of_the_label_is_that_of_the_corpus_vote() -> None:
    q = laws(1, seed=3)
    rng = np.random.default_rng(0)
    drawn = pd.Series([vote(q[0], 5, rng)[1] for _ in range(20_000)]).value_counts(normalize=True)
    found = known_truth.label_distribution(q, 5)[0]
    assert drawn.reindex(CLASSES, fill_value=0).to_numpy() == pytest.approx(found, abs=0.012)


def test_the_law_of_the_label_by_hand() -> None:
    q = laws(50)
    assert known_truth.label_distribution(q, 1) == pytest.approx(q)
    p = np.array([[0.7, 0.3]])
    assert known_truth.label_distribution(p, 3)[0, 0] == pytest.approx(0.7**3 + 3 * 0.7**2 * 0.3)
    assert known_truth.label_distribution(p, 2)[0, 0] == pytest.approx(0.7**2 + 2 * 0.7 * 0.3 * 0.7)  # a tie
    sure = known_truth.label_distribution(np.eye(3), 5)
    assert sure == pytest.approx(np.eye(3))


def test_expected_scores_are_the_mean_over_labels_drawn_from_the_law() -> None:
    law, p = laws(), np.clip(laws(seed=1), 1e-6, None)
    log_probs = np.log(p / p.sum(axis=1, keepdims=True))
    rng = np.random.default_rng(0)
    found = known_truth.against(law, log_probs, 15)
    drawn = []
    for _ in range(400):
        labels = np.minimum((rng.random((200, 1)) > law.cumsum(axis=1)).sum(axis=1), 6)
        scores = -log_probs[np.arange(200), labels], ((np.exp(log_probs) - np.eye(7)[labels]) ** 2).sum(axis=1)
        drawn.append([value.mean() for value in scores])
    error = np.std(drawn, axis=0) / np.sqrt(400)
    assert abs(np.mean(drawn, axis=0) - [found["expected_nll"], found["expected_brier"]]) == pytest.approx(
        0, abs=4 * error.max()
    )
    own = known_truth.against(law, np.log(np.maximum(law, 1e-300)), 15)
    ideal = known_truth.best_possible(law, law.argmax(axis=1), 15)
    assert own["kl"] == pytest.approx(0, abs=1e-9)
    assert own["expected_gap"] == pytest.approx(0, abs=1e-12)
    for name in ("expected_nll", "expected_brier"):
        assert own[name] == pytest.approx(ideal[name], abs=1e-9)
        assert ideal[name] < found[name]


def test_an_ideal_ece_is_what_chance_alone_shows() -> None:
    law = laws(2000)
    labels = np.minimum((np.random.default_rng(5).random((2000, 1)) > law.cumsum(axis=1)).sum(axis=1), 6)
    found = known_truth.best_possible(law, labels, 15)
    assert found["ece_of_ideal"] == pytest.approx(score(np.log(np.maximum(law, 1e-300)), labels, CLASSES)["ece"])
    assert found["ece_of_ideal"] == pytest.approx(found["ece_null_of_ideal"], rel=0.8)


def test_a_truth_is_read_with_its_annotators_or_without(tmp_path: Path) -> None:
    assert known_truth.read(tmp_path, ["a"], CLASSES) == {}
    (tmp_path / "truth").mkdir()
    q = pd.DataFrame(laws(2), columns=[f"q_{name}" for name in CLASSES]).assign(path=["a", "b"])
    votes = pd.DataFrame([[5] + [0] * 6, [0, 0, 3, 2, 0, 0, 0]], columns=[f"votes_{name}" for name in CLASSES])
    file = tmp_path / "truth/samples.csv"
    q.join(votes).to_csv(file, index=False)
    found = known_truth.read(tmp_path, ["b", "a"], CLASSES)
    assert found["label"] == pytest.approx(known_truth.label_distribution(laws(2)[::-1], 5))
    for other in (q, q.join(votes.assign(votes_sad=[0, 1])), q.join(votes * 40)):
        other.to_csv(file, index=False)
        assert list(known_truth.read(tmp_path, ["a", "b"], CLASSES)) == ["annotator"]
