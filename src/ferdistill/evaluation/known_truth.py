"""Calibration against a known truth. Only figures are drawn from it: nothing is chosen by it."""

from collections.abc import Sequence
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import entr, gammaln, xlogy

from ..data import truth
from .calibration import bin_of, calibration_gap, expected_calibration_error, null_calibration_errors, reliability

# Outcomes of a vote that `label_distribution` is willing to list: five annotators and seven classes have 462.
OUTCOMES = 250_000


def read(corpus_dir: Path, paths: Sequence[str], classes: Sequence[str]) -> dict[str, np.ndarray]:
    """The distributions (N, K) of what can be said of each image: {`annotator`, `label`}; empty where none is known.

    `annotator` is the distribution of one annotator's answer. `label` is that of the label, the plurality of several
    answers, and so sharper; it is left out if the number of annotators is not one and known, or their votes have more
    than `OUTCOMES` outcomes. A model trained on labels can match the second, and never both. Raises as
    `data.truth.distribution` does.
    """
    annotator = truth.distribution(corpus_dir, paths, classes)
    if annotator is None:
        return {}
    votes = pd.read_csv(corpus_dir / "truth" / "samples.csv", index_col="path").filter(regex="^votes_")
    numbers = np.unique(votes.loc[list(paths)].sum(axis=1)).astype(int).tolist()
    if len(numbers) != 1 or numbers[0] < 1 or comb(numbers[0] + len(classes) - 1, len(classes) - 1) > OUTCOMES:
        return {"annotator": annotator}
    return {"annotator": annotator, "label": label_distribution(annotator, numbers[0])}


def label_distribution(annotator: np.ndarray, votes: int) -> np.ndarray:
    """The distribution (N, K) of the plurality of `votes` answers, each drawn from `annotator` (N, K).

    One more answer among the tied classes settles a tie. Every outcome is listed, so this is exact.
    """
    classes = annotator.shape[1]
    # Stars and bars: a row an outcome, its votes for each class.
    bars = np.array([[]], dtype=int).reshape(1, 0)
    for _ in range(classes - 1):
        left = votes - bars.sum(axis=1)
        bars = np.column_stack([np.repeat(bars, left + 1, axis=0), np.concatenate([np.arange(m + 1) for m in left])])
    outcomes = np.column_stack([bars, votes - bars.sum(axis=1)])
    log_ways = gammaln(votes + 1) - gammaln(outcomes + 1).sum(axis=1)
    first = outcomes == outcomes.max(axis=1, keepdims=True)
    known = np.empty_like(annotator)
    for row, q in enumerate(annotator):
        probability = np.exp(log_ways + xlogy(outcomes, q).sum(axis=1))
        tied = first * q
        mass = tied.sum(axis=1)
        known[row] = (probability / np.where(mass > 0, mass, np.inf)) @ tied
    return known / known.sum(axis=1, keepdims=True)


def against(known: np.ndarray, log_probs: np.ndarray, bins: int) -> dict[str, float]:
    """How far probabilities are from a known distribution (N, K).

    - `kl`: KL(truth || p), in the mean over images, in nats.
    - `total_variation`: half the mean of the summed |truth - p|; in [0, 1].
    - `expected_nll`, `expected_brier`: what these scores are in the mean over labels drawn from it.
    - `expected_gap`: the equal-width ECE with the true probability of the predicted class in place of right or wrong:
      the miscalibration itself, without the chance of the labels.
    """
    probabilities = np.exp(log_probs)
    predicted, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    kl = truth.kl_from_truth(known, log_probs)
    return {
        "kl": kl,
        "total_variation": truth.total_variation(known, probabilities),
        "expected_nll": kl + float(entr(known).sum(axis=1).mean()),
        "expected_brier": float((1 - 2 * (known * probabilities).sum(axis=1) + (probabilities**2).sum(axis=1)).mean()),
        "expected_gap": calibration_gap(bin_of(confidence, bins), confidence, known[np.arange(len(known)), predicted]),
    }


def best_possible(known: np.ndarray, labels: np.ndarray, bins: int) -> dict[str, Any]:
    """What the classifier shows that gives the distribution itself: no other has a lower expected NLL or Brier score.

    `expected_nll` and `expected_brier` are as in `against`, `ece_of_ideal` is its ECE on these labels, which chance
    alone puts above 0 if they are drawn from it, and `ece_null_of_ideal` the mean of that over labels drawn anew.
    """
    return {
        "expected_nll": float(entr(known).sum(axis=1).mean()),
        "expected_brier": float((1 - (known**2).sum(axis=1)).mean()),
        "ece_of_ideal": expected_calibration_error(reliability(known, labels, bins)),
        "ece_null_of_ideal": float(null_calibration_errors(known.max(axis=1), bins).mean()),
    }
