"""Reliability of top-label confidences, and the one number that repairs them: the temperature T*."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from ..errors import CheckError

# T* is searched between these. An optimum at either end is no optimum.
T_MIN, T_MAX = 0.05, 20.0
NULL_DRAWS = 200


class TemperatureFit(NamedTuple):
    """What `fit_temperature` found.

    Attributes
    ----------
    t_star : float
        The continuous optimum, which is deployed.
    t_star_grid : float
        The report's choice from its grid.
    grid_at_edge : bool
        Whether that choice is the grid's smallest or largest T: the grid, not the data, may have made it.
    """

    t_star: float
    t_star_grid: float
    grid_at_edge: bool


def check_scored(logits: np.ndarray, labels: np.ndarray) -> None:
    """Check logits (N, K) against labels (N,), integers in 0..K-1.

    Raises
    ------
    CheckError
        On a wrong shape, no rows, labels out of range, or logits that are not finite.
    """
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise CheckError(
            "logits and labels do not fit together",
            where=f"logits {logits.shape}, labels {labels.shape}",
            expected="logits (N, K) and labels (N,)",
        )
    if len(logits) == 0:
        raise CheckError("nothing to score", where="logits", expected="at least one row", hint="check the split")
    if not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0 or labels.max() >= logits.shape[1]:
        raise CheckError(
            "labels do not name a class",
            where=f"labels of dtype {labels.dtype}, from {labels.min()} to {labels.max()}",
            expected=f"integers in 0..{logits.shape[1] - 1}",
        )
    finite = np.isfinite(logits).all(axis=1)
    if not finite.all():
        raise CheckError(
            f"{(~finite).sum()} of {len(logits)} rows hold logits that are not finite",
            where=f"first at row {int(np.argmin(finite))}",
            expected="finite numbers",
            hint="training diverged: lower the learning rate and train again",
        )


def log_probabilities(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """The logarithm of softmax(logits / temperature), float64, shape (N, K)."""
    return log_softmax(np.asarray(logits, dtype=np.float64) / temperature, axis=1)


def negative_log_likelihood(log_probs: np.ndarray, labels: np.ndarray) -> float:
    """Mean negative log-likelihood of the labels, in nats (report §4.1.6, item 3)."""
    return float(-log_probs[np.arange(len(labels)), labels].mean())


def reliability(probabilities: np.ndarray, labels: np.ndarray, bins: int) -> pd.DataFrame:
    """Confidence against accuracy in equal-width bins of the top-label confidence (report §4.1.6, item 1).

    A bin holds its lower edge; the last also holds 1.0.

    Parameters
    ----------
    probabilities : (N, K) array
        Rows sum to 1.
    labels : (N,) array
        Integers in 0..K-1.
    bins : int
        Number of bins on [0, 1].

    Returns
    -------
    DataFrame
        One row a bin: `low`, `high`, `count`, `confidence`, `accuracy`; the last two are NaN where the bin is
        empty.
    """
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == labels
    edges = np.linspace(0, 1, bins + 1)
    bin_of = np.digitize(confidence, edges[1:-1])
    count = np.bincount(bin_of, minlength=bins)
    filled = np.where(count > 0, count, np.nan)
    return pd.DataFrame(
        {
            "low": edges[:-1],
            "high": edges[1:],
            "count": count,
            "confidence": np.bincount(bin_of, weights=confidence, minlength=bins) / filled,
            "accuracy": np.bincount(bin_of, weights=correct, minlength=bins) / filled,
        }
    )


def expected_calibration_error(table: pd.DataFrame) -> float:
    """Gap between confidence and accuracy, averaged over samples; in [0, 1].

    `table` comes from `reliability`. Report §4.1.6, item 1; Naeini et al. 2015, Guo et al. 2017 eq. 3.
    """
    gap = (table["accuracy"] - table["confidence"]).abs()
    return float((gap * table["count"]).sum() / table["count"].sum())


def maximum_calibration_error(table: pd.DataFrame) -> float:
    """The largest gap of any bin that is not empty; in [0, 1]. Guo et al. 2017, eq. 5."""
    return float((table["accuracy"] - table["confidence"]).abs().max())


def null_calibration_error(confidence: np.ndarray, bins: int) -> float:
    """The ECE that a perfectly calibrated model with these confidences would still show, by chance alone.

    In each of `NULL_DRAWS` simulated test sets, sample i is right with probability confidence[i]; the mean of
    their ECEs is returned. An observed ECE near it is no sign of miscalibration (Vaicenavicius et al. 2019,
    "consistency resampling").

    Parameters
    ----------
    confidence : (N,) array
        Top-label probabilities, in any order.
    bins : int
        Number of equal-width bins on [0, 1].
    """
    ordered = np.sort(confidence)  # so that the order of the samples cannot change the draws
    bin_of = np.digitize(ordered, np.linspace(0, 1, bins + 1)[1:-1])
    rng = np.random.default_rng(0)
    errors = np.empty(NULL_DRAWS)
    for draw in range(NULL_DRAWS):
        right = rng.random(len(ordered)) < ordered
        # A bin's share of the ECE is |number right - sum of confidences| / n.
        errors[draw] = np.abs(np.bincount(bin_of, weights=right - ordered)).sum() / len(ordered)
    return float(errors.mean())


def fit_temperature(logits: np.ndarray, labels: np.ndarray, grid: Sequence[float], bins: int = 15) -> TemperatureFit:
    """Choose T for softmax(logits / T), on a split used neither for training nor for the test.

    The continuous T* minimises the NLL (Guo et al. 2017, §4.2). NLL is convex in 1/T, so the bounded search
    over log T finds its one minimum. The grid's choice follows report §5.2: least NLL, then least ECE. The
    report's third rule, largest macro F1, never decides: no T > 0 changes the arg-max, so all have the same.

    Parameters
    ----------
    logits : (N, K) array
        Finite.
    labels : (N,) array
        Integers in 0..K-1.
    grid : sequence of float
        Temperatures of the report's search.
    bins : int
        Bins of its ECE.

    Raises
    ------
    CheckError
        If the optimum lies at a bound of [T_MIN, T_MAX], or every T does equally well.
    """
    check_scored(logits, labels)

    def nll(t: float) -> float:
        return negative_log_likelihood(log_probabilities(logits, t), labels)

    def ece(t: float) -> float:
        return expected_calibration_error(reliability(np.exp(log_probabilities(logits, t)), labels, bins))

    found = minimize_scalar(
        lambda log_t: nll(np.exp(log_t)),
        bounds=np.log([T_MIN, T_MAX]),
        method="bounded",
        options={"xatol": 1e-7},
    )
    t_star = float(np.exp(found.x))
    flat = nll(T_MAX) - found.fun < 1e-9
    if flat or t_star > 0.999 * T_MAX:
        raise CheckError(
            f"no temperature fits: the labels are best predicted by ignoring the logits (T* >= {T_MAX:g})",
            where=f"{len(labels)} samples for calibration",
            expected=f"an optimum inside ({T_MIN:g}, {T_MAX:g})",
            hint="the model has learned nothing that holds on this split: train longer, or check its labels",
        )
    if t_star < 1.001 * T_MIN:
        raise CheckError(
            f"no temperature fits: the NLL falls down to T = {T_MIN:g}",
            where=f"{len(labels)} samples for calibration",
            expected=f"an optimum inside ({T_MIN:g}, {T_MAX:g})",
            hint="every sample is classified rightly, or nearly: use a larger split for calibration",
        )
    t_star_grid = min(grid, key=lambda t: (nll(t), ece(t)))
    return TemperatureFit(t_star, t_star_grid, grid_at_edge=t_star_grid in (min(grid), max(grid)))
