"""Which classes an answer leaves open, and which it raises an alert for, by thresholds that `calibrate` fitted."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

# Of a probability: as far as the exported graph may lie from what the thresholds were fitted to. It only adds classes.
SLACK = 1e-5


def set_scores(probabilities: np.ndarray, method: str) -> np.ndarray:
    """How little each class conforms to its row of probabilities (N, K); in [0, 1], (N, K).

    `lac`: 1 - p_k (Sadinle et al. 2019). `aps`: the probability of all classes that are more probable than k, the first
    of equally probable ones being the more probable (Romano et al. 2020, without k and not randomised). With k, as
    others compute it, either the sets hold far more than they should, or some are empty.
    """
    if method == "lac":
        return 1 - probabilities
    order = np.argsort(-probabilities, axis=1, kind="stable")
    sorted_ = np.take_along_axis(probabilities, order, axis=1)
    scores = np.empty_like(sorted_)
    np.put_along_axis(scores, order, sorted_.cumsum(axis=1) - sorted_, axis=1)
    return scores


def prediction_sets(probabilities: np.ndarray, method: str, limits: Sequence[float | None]) -> np.ndarray:
    """Which classes belong to the set of each row of probabilities (N, K): bool, (N, K).

    `limits` holds for each class the largest score of `set_scores` that its set may have, None where any may.
    """
    bounds = np.array([np.inf if limit is None else limit for limit in limits])
    return set_scores(probabilities, method) <= bounds + SLACK


def set_of(row: Sequence[float], method: str, limits: Sequence[float | None]) -> list[bool]:
    """`prediction_sets` of one row (K): to the bit the same, and in lists a twentieth of the time."""
    scores = [1 - share for share in row]
    if method != "lac":
        total = 0.0
        for k in sorted(range(len(row)), key=row.__getitem__, reverse=True):  # stable in reverse too
            total += row[k]
            scores[k] = total - row[k]
    return [limit is None or score <= limit + SLACK for score, limit in zip(scores, limits, strict=True)]


def acted_on(row: np.ndarray, classes: Sequence[str], info: Mapping[str, Any]) -> dict[str, list[str]]:
    """What a bundle's `sets` and `alerts` say of one row of probabilities (K,): `set` and `alerts`, names of classes.

    A key is missing where the bundle has nothing for it.
    """
    found: dict[str, list[str]] = {}
    shares = row.tolist()
    if info["sets"]:
        limits = [info["sets"]["limits"][name] for name in classes]
        inside = set_of(shares, info["sets"]["method"], limits)
        found["set"] = [name for name, held in zip(classes, inside, strict=True) if held]
    if info["alerts"]:
        least = info["alerts"]["thresholds"]
        found["alerts"] = [
            name
            for name, share in zip(classes, shares, strict=True)
            if least[name] is not None and share >= least[name]
        ]
    return found
