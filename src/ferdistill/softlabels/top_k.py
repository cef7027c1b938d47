"""Soft labels of which the likeliest classes are kept, and of all others only how much they have together.

Of K classes the k likeliest keep their probabilities, at temperature 1; the rest of the probability is spread evenly
over the other K - k: nothing else is known of them, and of all that could be it has the greatest entropy.
"""

from typing import NamedTuple

import numpy as np
from scipy.special import log_softmax, logsumexp


class TopK(NamedTuple):
    """Of n images the k likeliest of K classes. NaN in a row that a partial teacher does not cover."""

    top: np.ndarray  # uint16, (n, k): the classes, the likeliest first; of equals the first in the order of the classes
    log_p: np.ndarray  # float32, (n, k): their log-probabilities
    log_rest: np.ndarray  # float32, (n,): the logarithm of what all other classes have together


def keep(logits: np.ndarray, k: int) -> TopK:
    """The k likeliest classes, 0 < k < K, of logits (n, K) at temperature 1. Rows that hold a NaN become NaN."""
    known = ~np.isnan(logits).any(axis=1)
    full = np.where(known[:, None], logits, 0).astype(np.float32, copy=False)
    log_p = log_softmax(full.astype(np.float64), axis=1)
    least = np.partition(full, -k, axis=1)[:, -k, None]
    above, equal = full > least, full == least
    # Which of equals is kept must not depend on how a machine sorts.
    chosen = above | (equal & (equal.cumsum(axis=1) <= k - above.sum(axis=1, keepdims=True)))
    top = np.nonzero(chosen)[1].reshape(len(full), k)
    order = np.argsort(-np.take_along_axis(full, top, 1), axis=1, kind="stable")
    top = np.take_along_axis(top, order, 1)
    log_rest = logsumexp(np.where(chosen, -np.inf, log_p), axis=1)
    kept = np.where(known[:, None], np.take_along_axis(log_p, top, 1), np.nan)
    return TopK(top.astype(np.uint16), kept.astype(np.float32), np.where(known, log_rest, np.nan).astype(np.float32))


def expand(kept: TopK, classes: int) -> np.ndarray:
    """Log-probabilities of all classes, float32 (n, K): those that were kept, and an even share of the rest."""
    found = np.empty((len(kept.top), classes), np.float32)
    found[:] = log_other(kept, classes)[:, None]
    np.put_along_axis(found, kept.top.astype(np.int64), kept.log_p, 1)
    return found


def log_other(kept: TopK, classes: int) -> np.ndarray:
    """The log-probability of each class that was not kept, float32 (n,)."""
    return (kept.log_rest - np.log(classes - kept.top.shape[1])).astype(np.float32)


def divergence(logits: np.ndarray, kept: TopK) -> np.ndarray:
    """KL from the whole distribution to what was kept of it, in nats, (n,), at least 0; NaN where a row is.

    It is the rest's mass times the KL from the rest, by itself, to an even distribution: at most that mass times
    log(K - k).
    """
    log_p = log_softmax(logits.astype(np.float64), axis=1)
    found: np.ndarray = (np.exp(log_p) * (log_p - expand(kept, logits.shape[1]))).sum(axis=1)
    return np.maximum(found, 0)  # rounded


def wrong(kept: TopK, classes: int, tolerance: float) -> np.ndarray:
    """Which rows are not what `keep` gives: classes that are none or stand twice, probabilities that do not sum to 1.

    Rows that are NaN throughout are right; bool, (n,).
    """
    ordered = np.sort(kept.top, axis=1)
    odd: np.ndarray = (ordered[:, -1] >= classes) | (ordered[:, 1:] == ordered[:, :-1]).any(axis=1)
    empty = np.isnan(kept.log_p).all(axis=1) & np.isnan(kept.log_rest)
    with np.errstate(over="ignore", invalid="ignore"):
        total = np.exp(kept.log_p).sum(axis=1) + np.exp(kept.log_rest)
        return odd | ~(empty | (np.abs(total - 1) <= tolerance))
