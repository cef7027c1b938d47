"""F1, counted in one way: by the training loop, the scores, their resamples and the ceiling of a corpus."""

import numpy as np


def counts(labels: np.ndarray, predicted: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of labels and predictions (N,), integers in 0..K-1: how many of each class are right, actual, and predicted."""
    of = [labels[labels == predicted], labels, predicted]
    hits, actual, found = (np.bincount(one, minlength=classes) for one in of)
    return hits, actual, found


def share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """What part of the whole, 0 where that is 0."""
    return part / np.where(whole > 0, whole, np.inf)


def f1(hits: np.ndarray, actual: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """F1 of each class, in [0, 1]: twice the hits over actual and predicted together; 0 for a class that is absent."""
    return share(2 * hits, actual + predicted)


def macro_f1(labels: np.ndarray, predicted: np.ndarray, classes: int) -> float:
    """The mean of F1 over all K classes, an absent one counting as 0."""
    return float(f1(*counts(labels, predicted, classes)).mean())
