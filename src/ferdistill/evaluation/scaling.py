"""What repairs the calibration of a model: the temperature T*, which is deployed, and two fallbacks beside it."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import minimize, minimize_scalar
from scipy.special import log_softmax
from sklearn.isotonic import IsotonicRegression
from sklearn.model_selection import GroupKFold

from ..errors import CheckError
from ..f1 import macro_f1
from ..params import CalibrateParams
from .calibration import (
    check_scored,
    expected,
    expected_calibration_error,
    log_probabilities,
    negative_log_likelihood,
    reliability,
)
from .intervals import draw_clusters, percentile
from .known_truth import against
from .metrics import Predictions, score

# T* is searched between these. At the lower end every sample is classified rightly, or nearly.
T_MIN, T_MAX = 0.05, 20.0


class TemperatureFit(NamedTuple):
    """What `fit_temperature` found."""

    t_star: float  # the continuous optimum, deployed; `T_MIN` where the classes are separable and the NLL falls on
    t_star_grid: float  # the report's choice from its grid
    grid_at_edge: bool  # whether that is the grid's smallest or largest T: the grid, not the data, may have made it
    t_star_grid_widened: float  # the choice from the grid widened until it is inside; the same if it is inside already
    widened_from: float  # smallest and
    widened_to: float  # largest T of the widened grid


def fit_temperature(logits: np.ndarray, truth: np.ndarray, grid: Sequence[float], bins: int = 15) -> TemperatureFit:
    """Choose T for softmax(logits / T), on a split used neither for training nor for the test.

    The continuous T* minimises the NLL (Guo et al. 2017, §4.2). NLL is convex in 1/T, so the bounded search
    over log T finds its one minimum. The grid's choice follows report §5.2: least NLL, then least ECE. The
    report's third rule, largest macro F1, never decides: no T > 0 changes the arg-max, so all have the same.

    A grid whose choice lies at its edge is widened there, by the ratio of its two outermost values (1.1 if it has
    but one), until the choice lies inside or the grid spans [T_MIN, T_MAX].

    The logits (N, K) are finite, the truth labels (N,) in 0..K-1, or votes as distributions (N, K); `bins` are those of
    the ECE. Raises a CheckError if the optimum lies at T_MAX, or every T does equally well.
    """
    check_scored(logits, truth)

    def nll(t: float) -> float:
        return negative_log_likelihood(log_probabilities(logits, t), truth)

    @cache
    def rank(t: float) -> tuple[float, float]:
        table = reliability(np.exp(log_probabilities(logits, t)), truth, bins)
        return nll(t), expected_calibration_error(table)

    t_star = _best_temperature(logits, truth)
    least = nll(t_star)
    if least > 1e-9 and (nll(T_MAX) - least < 1e-9 or t_star > 0.999 * T_MAX):
        raise CheckError(
            f"no temperature fits: the labels are best predicted by ignoring the logits (T* >= {T_MAX:g})",
            where=f"{len(truth)} samples for calibration",
            expected=f"an optimum inside ({T_MIN:g}, {T_MAX:g})",
            hint="the model has learned nothing that holds on this split: train longer, or check its labels",
        )
    if t_star < 1.001 * T_MIN or nll(T_MIN) <= least:
        t_star = T_MIN
    chosen = t_star_grid = min(grid, key=rank)
    widened = sorted(set(grid))
    at_edge = chosen in (widened[0], widened[-1])
    while chosen == widened[-1] and chosen < T_MAX:
        ratio = widened[-1] / widened[-2] if len(widened) > 1 else 1.1
        widened.append(min(T_MAX, widened[-1] * ratio))
        chosen = min(widened, key=rank)
    while chosen == widened[0] and chosen > T_MIN:
        widened.insert(0, max(T_MIN, widened[0] * widened[0] / widened[1]))
        chosen = min(widened, key=rank)
    return TemperatureFit(t_star, t_star_grid, at_edge, chosen, widened[0], widened[-1])


def _best_temperature(logits: np.ndarray, truth: np.ndarray) -> float:
    """The T in [T_MIN, T_MAX] of least NLL."""
    found = minimize_scalar(
        lambda log_t: negative_log_likelihood(log_probabilities(logits, np.exp(log_t)), truth),
        bounds=np.log([T_MIN, T_MAX]),
        method="bounded",
        options={"xatol": 1e-7},
    )
    return float(np.exp(found.x))


def temperature_interval(
    logits: np.ndarray, truth: np.ndarray, clusters: np.ndarray, *, draws: int, level: float, seed: int
) -> tuple[float, float]:
    """The percentile interval of T* when whole clusters are drawn with replacement, `draws` times.

    The NLL of each cluster is tabulated at 401 temperatures from T_MIN to T_MAX, a step of 1.5 %; between them the
    minimum is that of the parabola in log T through the lowest three.
    """
    log_t = np.linspace(np.log(T_MIN), np.log(T_MAX), 401)
    _, of = np.unique(clusters, return_inverse=True)
    nll = np.column_stack(
        [np.bincount(of, weights=-expected(log_probabilities(logits, t), truth)) for t in np.exp(log_t)]
    )
    drawn = draw_clusters(np.random.default_rng(seed), len(nll), draws) @ nll
    lowest = np.clip(drawn.argmin(axis=1), 1, len(log_t) - 2)
    before, middle, after = (drawn[np.arange(draws), lowest + step] for step in (-1, 0, 1))
    bend = before - 2 * middle + after
    shift = np.where(bend > 0, (before - after) / (2 * np.where(bend > 0, bend, 1)), 0).clip(-1, 1)
    best = np.exp(log_t[lowest] + shift * (log_t[1] - log_t[0]))
    interval = percentile(best, level)
    return interval["low"], interval["high"]


def temperature_scaling(logits: np.ndarray, truth: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Fit T to `logits` and `truth`; the log-probabilities of `new` at that T. Guo et al. 2017, §4.2."""
    return log_probabilities(new, _best_temperature(logits, truth))


def fit_vector(logits: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The weights w (K,) and the bias b (K,) of least NLL for softmax(w * logits + b). Guo et al. 2017, §4.2.

    w is kept in [1 / T_MAX, 1 / T_MIN] and b in [-T_MAX, T_MAX], so that separable classes cannot drive them to
    infinity. b sums to 0 as far as those bounds allow: a constant added to it changes nothing.
    """
    logits = np.asarray(logits, dtype=np.float64)
    classes = logits.shape[1]
    shares = np.eye(classes)[truth] if truth.ndim == 1 else truth

    def nll(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        weights, bias = parameters[:classes], parameters[classes:]
        log_probs = log_softmax(weights * logits + bias, axis=1)
        error = (np.exp(log_probs) - shares) / len(truth)
        return negative_log_likelihood(log_probs, truth), np.r_[(error * logits).sum(axis=0), error.sum(axis=0)]

    found = minimize(
        nll,
        np.r_[np.ones(classes), np.zeros(classes)],
        jac=True,
        method="L-BFGS-B",
        bounds=[(1 / T_MAX, 1 / T_MIN)] * classes + [(-T_MAX, T_MAX)] * classes,
        options={"maxiter": 1000, "ftol": 1e-12, "gtol": 1e-8},
    )
    return found.x[:classes], found.x[classes:]


def vector_scaling(logits: np.ndarray, truth: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Fit `fit_vector` to `logits` and `truth`; the log-probabilities of `new` under it."""
    weights, bias = fit_vector(logits, truth)
    return log_softmax(weights * np.asarray(new, dtype=np.float64) + bias, axis=1)


def isotonic_scaling(logits: np.ndarray, truth: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Isotonic regression of each class against the rest, normalised; the log-probabilities of `new`.

    Zadrozny & Elkan 2002. A fitted value is kept in [1 / (n + 2), (n + 1) / (n + 2)], n the samples fitted to
    (Laplace's rule of succession): no finite sample shows a probability of 0, and the NLL would be infinite.
    """
    least = 1 / (len(truth) + 2)
    seen, unseen = np.exp(log_probabilities(logits)), np.exp(log_probabilities(new))
    fitted = np.empty_like(unseen)
    for k in range(seen.shape[1]):
        curve = IsotonicRegression(y_min=least, y_max=1 - least, out_of_bounds="clip")
        fitted[:, k] = curve.fit(seen[:, k], truth == k if truth.ndim == 1 else truth[:, k]).predict(unseen[:, k])
    return np.log(fitted / fitted.sum(axis=1, keepdims=True))


# Each is fitted to the logits and the truth that come first, and gives log-probabilities (N, K) of the logits that come
# third. The first is what the exported graph holds.
METHODS: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]] = {
    "temperature": temperature_scaling,
    "vector": vector_scaling,
    "isotonic": isotonic_scaling,
}


def cross_validate(
    logits: np.ndarray, truth: np.ndarray, clusters: np.ndarray, folds: int, seed: int
) -> dict[str, Any]:
    """Choose among `METHODS` by the NLL on clusters not fitted to.

    Temperature scaling stands unless another method's cross-validated NLL is lower by more than one standard error of
    the difference. If several are, the one of least NLL is chosen. The standard error is that of the mean over
    samples when whole clusters are drawn; as folds share most of what they are fitted to, it is somewhat too small.

    Of finite logits (N, K), labels (N,) in 0..K-1, and clusters (N,), what each sample is of, as a subject; none is in
    two folds. There are at least 2 folds, and as many as there are clusters if those are fewer. Raises a CheckError if
    all samples are of one cluster.

    Returns
    -------
    dict
        - `method`: the name of the chosen one.
        - `people`, `folds_used`: how many.
        - for each method {`nll`}, in nats, and for the fallbacks {`gain`, `gain_standard_error`}: the NLL of
          temperature scaling less the method's.
    """
    check_scored(logits, truth)
    _, of = np.unique(clusters, return_inverse=True)
    count = int(of.max()) + 1
    if count < 2:
        raise CheckError(
            "all samples for calibration are of one subject",
            where=f"{len(truth)} samples",
            expected="at least two subjects (or groups of copies), to choose between methods of calibration",
        )
    losses = {name: np.empty(len(truth)) for name in METHODS}
    parts = GroupKFold(min(folds, count), shuffle=True, random_state=seed)
    for fitted, held in parts.split(logits, groups=of):
        for name, method in METHODS.items():
            losses[name][held] = -expected(method(logits[fitted], truth[fitted], logits[held]), truth[held])
    scores: dict[str, dict[str, float]] = {name: {"nll": float(loss.mean())} for name, loss in losses.items()}
    better = []
    for name in list(METHODS)[1:]:
        difference = losses["temperature"] - losses[name]
        of_cluster = np.bincount(of, weights=difference - difference.mean())
        error = np.sqrt((of_cluster**2).sum() * count / (count - 1)) / len(truth)
        scores[name] |= {"gain": float(difference.mean()), "gain_standard_error": float(error)}
        if difference.mean() > error:
            better.append(name)
    return {
        "method": min(better, key=lambda name: scores[name]["nll"], default="temperature"),
        "people": count,
        "folds_used": min(folds, count),
        **scores,
    }


def calibrate(
    calib: Predictions, classes: Sequence[str], settings: CalibrateParams
) -> tuple[dict[str, Any], list[str]]:
    """Fit T* and its fallbacks to calib: what metrics/calibration.json holds, and what the user should know of it.

    The truth that they are fitted to and scored by is that of `settings.against`: see `fitted_to`.
    """
    logits, truth, clusters = fitted_to(calib, settings)
    bins = settings.bins
    fit = fit_temperature(logits, truth, settings.grid, bins)
    low, high = temperature_interval(
        logits, truth, clusters, draws=settings.draws, level=settings.level, seed=settings.seed
    )
    choice = cross_validate(logits, truth, clusters, settings.folds, settings.seed)
    weights, bias = fit_vector(logits, truth)
    scores = {of: _scores(logits, truth, classes, t, bins) for of, t in (("before", 1.0), ("after", fit.t_star))}
    warnings = []
    if fit.t_star == T_MIN:
        warnings.append(
            f"the NLL on calib falls down to T = {T_MIN:g}, the lowest that is tried: every sample is classified "
            f"rightly, or nearly. T* = {T_MIN:g} is deployed; a larger split for calibration would say more."
        )
    method = choice["method"]
    if method != "temperature":
        better = choice[method]
        warnings.append(
            f"{method} scaling has a lower cross-validated NLL on calib than temperature scaling, by "
            f"{better['gain']:.4f} (standard error {better['gain_standard_error']:.4f}). T* is deployed all the same: "
            "the exported graph holds one temperature."
        )
    return {
        **{"t_star": fit.t_star, "t_star_low": low, "t_star_high": high},
        **fit._asdict(),
        "deployed": "temperature",
        "cross_validation": choice,
        "vector": {
            "weights": dict(zip(classes, weights.tolist(), strict=True)),
            "bias": dict(zip(classes, bias.tolist(), strict=True)),
        },
        "calib": {
            "n": len(truth),
            # Of labels, whatever scaling is fitted to: what recipes are chosen by, for calib chose no epoch.
            "macro_f1": macro_f1(calib.labels, calib.logits.argmax(axis=1), len(classes)),
            **{of: {name: found[name] for name in ("nll", "ece", "brier")} for of, found in scores.items()},
        },
        **({"against": "votes"} if settings.against == "votes" else {}),
    }, warnings


def fitted_to(calib: Predictions, settings: CalibrateParams) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits (N, K), truth and clusters (N,) that scaling is fitted to.

    The truth is the labels (N,); or, where `settings.against` is `votes`, the shares of the annotators' votes (N, K),
    and only of images that have some. They are taken as they are: what a fit descends is linear in them, so that few
    votes make it noisy and not wrong.

    Raises a CheckError if no image has votes.
    """
    if settings.against == "labels":
        return calib.logits, calib.labels, calib.clusters
    has = calib.has_votes
    if calib.votes is None or not has.any():
        raise CheckError(
            "no image of calib has votes",
            where=f"{len(calib.labels)} images; params.yaml, calibrate.against",
            expected="annotators' votes, which the source or a table of votes in corpus.yaml brings into the index",
            hint="set calibrate.against to labels, or add votes: docs/corpora.md",
        )
    return calib.logits[has], calib.votes[has], calib.clusters[has]


def _scores(logits: np.ndarray, truth: np.ndarray, classes: Sequence[str], t: float, bins: int) -> dict[str, float]:
    """NLL, ECE and Brier score; against votes in their mean over what an annotator says."""
    if truth.ndim == 1:
        return score(logits, truth, classes, t, bins)
    found = against(truth, log_probabilities(logits, t), bins)
    return {name: found[f"expected_{of}"] for name, of in (("nll", "nll"), ("ece", "gap"), ("brier", "brier"))}
