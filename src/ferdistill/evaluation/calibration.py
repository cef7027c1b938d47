"""Reliability of probabilities, and what repairs them: the temperature T*, and two fallbacks beside it."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.optimize import minimize, minimize_scalar
from scipy.special import log_softmax
from sklearn.isotonic import IsotonicRegression
from sklearn.model_selection import GroupKFold

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
    t_star_grid_widened : float
        The choice by the same rule from the grid widened until it is inside; `t_star_grid` if that is inside already.
    widened_from, widened_to : float
        Smallest and largest T of the widened grid.
    """

    t_star: float
    t_star_grid: float
    grid_at_edge: bool
    t_star_grid_widened: float
    widened_from: float
    widened_to: float


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


def null_calibration_errors(confidence: np.ndarray, bins: int) -> np.ndarray:
    """The ECEs that a perfectly calibrated model with these confidences would show, by chance alone.

    In each of `NULL_DRAWS` simulated test sets, sample i is right with probability confidence[i]. An observed ECE
    like these is no sign of miscalibration (Vaicenavicius et al. 2019, "consistency resampling").

    Parameters
    ----------
    confidence : (N,) array
        Top-label probabilities, in any order.
    bins : int
        Number of equal-width bins on [0, 1].

    Returns
    -------
    (NULL_DRAWS,) array
        In [0, 1].
    """
    ordered = np.sort(confidence)  # so that the order of the samples cannot change the draws
    bin_of = np.digitize(ordered, np.linspace(0, 1, bins + 1)[1:-1])
    rng = np.random.default_rng(0)
    errors = np.empty(NULL_DRAWS)
    for draw in range(NULL_DRAWS):
        right = rng.random(len(ordered)) < ordered
        # A bin's share of the ECE is |number right - sum of confidences| / n.
        errors[draw] = np.abs(np.bincount(bin_of, weights=right - ordered)).sum() / len(ordered)
    return errors


def null_calibration_error(confidence: np.ndarray, bins: int) -> float:
    """The mean of `null_calibration_errors`: the floor that chance alone puts under the ECE."""
    return float(null_calibration_errors(confidence, bins).mean())


def consistency_band(
    confidence: np.ndarray, bins: int, draws: int = 1000, level: float = 0.95, seed: int = 0
) -> pd.DataFrame:
    """Where each bin's accuracy would lie if these confidences were perfectly calibrated.

    As in `null_calibration_errors`, sample i is right with probability confidence[i]. Bröcker & Smith 2007,
    "consistency bars".

    Parameters
    ----------
    confidence : (N,) array
        Top-label probabilities, in any order.
    bins : int
        Number of equal-width bins on [0, 1].
    draws : int
        Simulated test sets.
    level : float
        Share of them that lies within a bin's band; in (0, 1).
    seed : int
        Of the draws.

    Returns
    -------
    DataFrame
        One row a bin: `band_low`, `band_high`, in [0, 1]; NaN where the bin is empty.
    """
    ordered = np.sort(confidence)
    # Sorted, so that a bin is a slice.
    edges = np.searchsorted(ordered, np.linspace(0, 1, bins + 1)[1:-1])
    rng = np.random.default_rng(seed)
    band = np.full((bins, 2), np.nan)
    for row, part in enumerate(np.split(ordered, edges)):
        if len(part):
            # Neighbours within 1/200 of a bin share their mean: exact up to 200 samples, and never far from it.
            slices = np.array_split(part, min(len(part), 200))
            lengths, means = [len(of) for of in slices], [of.mean() for of in slices]
            right = rng.binomial(lengths, means, size=(draws, len(slices))).sum(axis=1)
            band[row] = np.quantile(right / len(part), [(1 - level) / 2, (1 + level) / 2])
    return pd.DataFrame(band, columns=["band_low", "band_high"])


def fit_temperature(logits: np.ndarray, labels: np.ndarray, grid: Sequence[float], bins: int = 15) -> TemperatureFit:
    """Choose T for softmax(logits / T), on a split used neither for training nor for the test.

    The continuous T* minimises the NLL (Guo et al. 2017, §4.2). NLL is convex in 1/T, so the bounded search
    over log T finds its one minimum. The grid's choice follows report §5.2: least NLL, then least ECE. The
    report's third rule, largest macro F1, never decides: no T > 0 changes the arg-max, so all have the same.

    A grid whose choice lies at its edge is widened there, by the ratio of its two outermost values (1.1 if it has
    but one), until the choice lies inside or the grid spans [T_MIN, T_MAX].

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

    @cache
    def rank(t: float) -> tuple[float, float]:
        return nll(t), ece(t)

    def choose(among: Sequence[float]) -> float:
        return min(among, key=rank)

    t_star = _best_temperature(logits, labels)
    flat = nll(T_MAX) - nll(t_star) < 1e-9
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
    t_star_grid = choose(grid)
    at_edge = t_star_grid in (min(grid), max(grid))
    widened = sorted(set(grid))
    chosen = t_star_grid
    while chosen == widened[-1] and chosen < T_MAX:
        ratio = widened[-1] / widened[-2] if len(widened) > 1 else 1.1
        widened.append(min(T_MAX, widened[-1] * ratio))
        chosen = choose(widened)
    while chosen == widened[0] and chosen > T_MIN:
        widened.insert(0, max(T_MIN, widened[0] * widened[0] / widened[1]))
        chosen = choose(widened)
    return TemperatureFit(t_star, t_star_grid, at_edge, chosen, widened[0], widened[-1])


def _best_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The T in [T_MIN, T_MAX] of least NLL."""
    found = minimize_scalar(
        lambda log_t: negative_log_likelihood(log_probabilities(logits, np.exp(log_t)), labels),
        bounds=np.log([T_MIN, T_MAX]),
        method="bounded",
        options={"xatol": 1e-7},
    )
    return float(np.exp(found.x))


def temperature_interval(
    logits: np.ndarray, labels: np.ndarray, people: np.ndarray, *, draws: int, level: float, seed: int
) -> tuple[float, float]:
    """The percentile interval of T* when whole people are drawn with replacement, `draws` times.

    The NLL of each person is tabulated at 401 temperatures from T_MIN to T_MAX, a step of 1.5 %; between them the
    minimum is that of the parabola in log T through the lowest three.
    """
    log_t = np.linspace(np.log(T_MIN), np.log(T_MAX), 401)
    _, of = np.unique(people, return_inverse=True)
    count = int(of.max()) + 1
    at = np.arange(len(labels))
    nll = np.column_stack([np.bincount(of, weights=-log_probabilities(logits, t)[at, labels]) for t in np.exp(log_t)])
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=draws) @ nll
    lowest = np.clip(drawn.argmin(axis=1), 1, len(log_t) - 2)
    before, middle, after = (drawn[np.arange(draws), lowest + step] for step in (-1, 0, 1))
    bend = before - 2 * middle + after
    shift = np.where(bend > 0, (before - after) / (2 * np.where(bend > 0, bend, 1)), 0).clip(-1, 1)
    best = np.exp(log_t[lowest] + shift * (log_t[1] - log_t[0]))
    low, high = np.quantile(best, [(1 - level) / 2, (1 + level) / 2]).tolist()
    return low, high


def temperature_scaling(logits: np.ndarray, labels: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Fit T to `logits` and `labels`; the log-probabilities of `new` at that T. Guo et al. 2017, §4.2."""
    return log_probabilities(new, _best_temperature(logits, labels))


def fit_vector(logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The weights w (K,) and the bias b (K,) of least NLL for softmax(w * logits + b). Guo et al. 2017, §4.2.

    w is kept in [1 / T_MAX, 1 / T_MIN] and b in [-T_MAX, T_MAX], so that separable classes cannot drive them to
    infinity. b sums to 0 as far as those bounds allow: a constant added to it changes nothing.
    """
    logits = np.asarray(logits, dtype=np.float64)
    classes = logits.shape[1]
    truth = np.eye(classes)[labels]

    def nll(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        weights, bias = parameters[:classes], parameters[classes:]
        log_probs = log_softmax(weights * logits + bias, axis=1)
        error = (np.exp(log_probs) - truth) / len(labels)
        return negative_log_likelihood(log_probs, labels), np.r_[(error * logits).sum(axis=0), error.sum(axis=0)]

    found = minimize(
        nll,
        np.r_[np.ones(classes), np.zeros(classes)],
        jac=True,
        method="L-BFGS-B",
        bounds=[(1 / T_MAX, 1 / T_MIN)] * classes + [(-T_MAX, T_MAX)] * classes,
        options={"maxiter": 1000, "ftol": 1e-12, "gtol": 1e-8},
    )
    return found.x[:classes], found.x[classes:]


def vector_scaling(logits: np.ndarray, labels: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Fit `fit_vector` to `logits` and `labels`; the log-probabilities of `new` under it."""
    weights, bias = fit_vector(logits, labels)
    return log_softmax(weights * np.asarray(new, dtype=np.float64) + bias, axis=1)


def isotonic_scaling(logits: np.ndarray, labels: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Isotonic regression of each class against the rest, normalised; the log-probabilities of `new`.

    Zadrozny & Elkan 2002. A fitted value is kept in [1 / (n + 2), (n + 1) / (n + 2)], n the samples fitted to
    (Laplace's rule of succession): no finite sample shows a probability of 0, and the NLL would be infinite.
    """
    least = 1 / (len(labels) + 2)
    seen, unseen = np.exp(log_probabilities(logits)), np.exp(log_probabilities(new))
    fitted = np.empty_like(unseen)
    for k in range(seen.shape[1]):
        curve = IsotonicRegression(y_min=least, y_max=1 - least, out_of_bounds="clip")
        fitted[:, k] = curve.fit(seen[:, k], labels == k).predict(unseen[:, k])
    return np.log(fitted / fitted.sum(axis=1, keepdims=True))


# Each is fitted to the logits and labels that come first, and gives log-probabilities (N, K) of the logits that come
# third. The first is what the exported graph holds.
METHODS: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]] = {
    "temperature": temperature_scaling,
    "vector": vector_scaling,
    "isotonic": isotonic_scaling,
}


def cross_validate(logits: np.ndarray, labels: np.ndarray, people: np.ndarray, folds: int, seed: int) -> dict[str, Any]:
    """Choose among `METHODS` by the NLL on people not fitted to.

    Temperature scaling stands unless another method's cross-validated NLL is lower by more than one standard error of
    the difference. If several are, the one of least NLL is chosen. The standard error is that of the mean over
    samples when whole people are drawn; as folds share most of what they are fitted to, it is somewhat too small.

    Parameters
    ----------
    logits : (N, K) array
        Finite.
    labels : (N,) array
        Integers in 0..K-1.
    people : (N,) array
        Who each sample is of; none is in two folds.
    folds : int
        At least 2; as many as there are people, if those are fewer.
    seed : int
        Of the draw of the folds.

    Returns
    -------
    dict
        - `method`: the name of the chosen one.
        - `people`, `folds_used`: how many.
        - for each method {`nll`}, in nats, and for the fallbacks {`gain`, `gain_standard_error`}: the NLL of
          temperature scaling less the method's.

    Raises
    ------
    CheckError
        If all samples are of one person.
    """
    check_scored(logits, labels)
    _, of = np.unique(people, return_inverse=True)
    count = int(of.max()) + 1
    if count < 2:
        raise CheckError(
            "all samples for calibration are of one person",
            where=f"{len(labels)} samples",
            expected="at least two people (subjects, or groups of copies), to choose between methods of calibration",
        )
    losses = {name: np.empty(len(labels)) for name in METHODS}
    parts = GroupKFold(min(folds, count), shuffle=True, random_state=seed)
    for fitted, held in parts.split(logits, labels, of):
        for name, method in METHODS.items():
            log_probs = method(logits[fitted], labels[fitted], logits[held])
            losses[name][held] = -log_probs[np.arange(len(held)), labels[held]]
    scores: dict[str, dict[str, float]] = {name: {"nll": float(loss.mean())} for name, loss in losses.items()}
    better = []
    for name in list(METHODS)[1:]:
        difference = losses["temperature"] - losses[name]
        of_person = np.bincount(of, weights=difference - difference.mean())
        error = np.sqrt((of_person**2).sum() * count / (count - 1)) / len(labels)
        scores[name] |= {"gain": float(difference.mean()), "gain_standard_error": float(error)}
        if difference.mean() > error:
            better.append(name)
    return {
        "method": min(better, key=lambda name: scores[name]["nll"], default="temperature"),
        "people": count,
        "folds_used": min(folds, count),
        **scores,
    }
