"""Every score as a function of sums over samples, so that resampling whole clusters costs one matrix product."""

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

import numpy as np
from scipy.fft import dct
from scipy.optimize import elementwise
from scipy.sparse import coo_array, csr_array

from ..f1 import f1
from .calibration import bin_of

# Intervals of the grid on [0, 1] that `smooth_ece` works on, and the least bandwidth that it can show.
NODES = 1024
LEAST_BANDWIDTH = 1e-3
# Scores that no sample can bring below 0, and that chance alone puts above it.
ERRORS = ("ece", "mce", "ece_equal_mass", "ece_classwise", "ece_smooth", "brier_reliability")


def tabulate(log_probs: np.ndarray, predicted: np.ndarray, labels: np.ndarray, bins: int) -> csr_array:
    """A row a sample, so that `scores_of` any weighted sum of the rows are the scores of the weighted samples.

    Of log-probabilities (N, K), finite or -inf, and predicted and true labels (N,) in 0..K-1. Bins of equal mass are
    cut at quantiles of the confidences of all N.
    """
    n, classes = log_probs.shape
    probabilities = np.exp(log_probs)
    confidence = probabilities.max(axis=1)
    gap = (predicted == labels) - confidence
    width_bin = bin_of(confidence, bins)
    mass_bin = np.digitize(confidence, np.quantile(confidence, np.linspace(0, 1, bins + 1)[1:-1]))
    class_bin = bin_of(probabilities, bins) + bins * np.arange(classes)
    truth = np.eye(classes)[labels]
    node = np.minimum((confidence * NODES).astype(int), NODES - 1)
    past = confidence * NODES - node
    one, zero = np.ones(n), np.zeros(n, int)
    blocks = {
        "n": (zero, one),
        "nll": (zero, -log_probs[np.arange(n), labels]),
        "brier": (zero, ((probabilities - truth) ** 2).sum(axis=1)),
        "actual": (labels, one),
        "predicted": (predicted, one),
        "hits": (labels, predicted == labels),
        "bin_count": (width_bin, one),
        "bin_gap": (width_bin, gap),
        "mass_gap": (mass_bin, gap),
        "class_count": (class_bin, np.ones((n, classes))),
        "class_probability": (class_bin, probabilities),
        "class_actual": (class_bin, truth),
        "smooth": (np.column_stack([node, node + 1]), np.column_stack([gap * (1 - past), gap * past])),
    }
    places = _places(classes, bins)
    columns = np.column_stack([at + places[name].start for name, (at, _) in blocks.items()])
    values = np.column_stack([value for _, value in blocks.values()])
    rows = np.repeat(np.arange(n), columns.shape[1])
    shape = (n, places["smooth"].stop)
    return coo_array((values.ravel(), (rows, columns.ravel())), shape=shape).tocsr()


def _places(classes: int, bins: int) -> dict[str, slice]:
    """Which columns of a table hold what."""
    widths = dict.fromkeys(("n", "nll", "brier"), 1)
    widths |= dict.fromkeys(("actual", "predicted", "hits"), classes)
    widths |= dict.fromkeys(("bin_count", "bin_gap", "mass_gap"), bins)
    widths |= dict.fromkeys(("class_count", "class_probability", "class_actual"), classes * bins)
    widths |= {"smooth": NODES + 1}
    edges = np.cumsum([0, *widths.values()]).tolist()
    return {name: slice(*edge) for name, edge in zip(widths, pairwise(edges), strict=True)}


def basic_scores_of(sums: np.ndarray, classes: int, bins: int) -> dict[str, np.ndarray]:
    """Macro F1, accuracy, NLL, Brier score and ECE, as `scores_of` gives them; columns past `bin_gap` are not read."""
    part = {name: sums[:, place] for name, place in _places(classes, bins).items()}
    n = part["n"]
    return {
        "macro_f1": f1(part["hits"], part["actual"], part["predicted"]).mean(axis=1),
        "accuracy": (part["hits"].sum(axis=1, keepdims=True) / n)[:, 0],
        "nll": (part["nll"] / n)[:, 0],
        "brier": (part["brier"] / n)[:, 0],
        "ece": (np.abs(part["bin_gap"]) / n).sum(axis=1),
    }


def scores_of(sums: np.ndarray, classes: int, bins: int) -> dict[str, np.ndarray]:
    """Scores from sums (B, P) of the rows of a table; each is (B,). `metrics.score` says what they are."""
    part = {name: sums[:, place] for name, place in _places(classes, bins).items()}
    n = part["n"]
    filled = np.where(part["bin_count"] > 0, part["bin_count"], np.inf)
    basic = basic_scores_of(sums, classes, bins)

    # Each class against the rest.
    count, probability, actual = (
        part[name].reshape(len(sums), classes, bins) for name in ("class_count", "class_probability", "class_actual")
    )
    held = np.where(count > 0, count, np.inf)
    share = part["actual"] / n
    reliability = ((probability - actual) ** 2 / held).sum(axis=(1, 2)) / n[:, 0]
    resolution = (count * (actual / held - share[:, :, None]) ** 2).sum(axis=(1, 2)) / n[:, 0]
    uncertainty = (share * (1 - share)).sum(axis=1)
    return basic | {
        "mce": np.abs(part["bin_gap"] / filled).max(axis=1),
        "ece_equal_mass": (np.abs(part["mass_gap"]) / n).sum(axis=1),
        "ece_classwise": np.abs(probability - actual).sum(axis=(1, 2)) / n[:, 0] / classes,
        "ece_smooth": smooth_ece(part["smooth"] / n),
        "brier_reliability": reliability,
        "brier_resolution": resolution,
        "brier_uncertainty": uncertainty,
        "brier_within_bins": basic["brier"] - (reliability - resolution + uncertainty),
    }


def smooth_ece(residuals: np.ndarray) -> np.ndarray:
    """Smooth ECE of Błasiok & Nakkiran (ICLR 2024): no bins, and a bandwidth that the data choose.

    With residuals r_i = correct_i - confidence_i, `smECE_s` is the integral over t in [0, 1] of
    `|mean_i r_i K_s(t, confidence_i)|`, K_s the Gaussian of bandwidth s reflected at 0 and 1. It falls as s grows;
    the smooth ECE is the s at which `smECE_s = s`.

    That kernel is the heat kernel of [0, 1], which multiplies the k-th cosine coefficient by exp(-(pi k s)^2 / 2).

    `residuals` (B, NODES + 1) has a row a data set: its residuals / n, each shared linearly between the two nodes
    beside its confidence. The result (B,) is in [0, 1]; one below `LEAST_BANDWIDTH` is `smECE_s` at that s.
    """
    # Sum over nodes of residual * cos(pi k node / NODES), k = 0..NODES.
    halved = residuals / 2
    halved[:, [0, -1]] *= 2
    spectrum = dct(halved, type=1)
    decay = -((np.pi * np.arange(NODES + 1)) ** 2) / 2

    def error(bandwidth: np.ndarray, row: np.ndarray) -> np.ndarray:
        # dct-I counts all but the first and the last term twice, as the inverse does.
        smoothed = np.abs(dct(spectrum[row] * np.exp(decay * bandwidth[:, None] ** 2), type=1))
        return (smoothed.sum(axis=1) - (smoothed[:, 0] + smoothed[:, -1]) / 2) / NODES

    rows = np.arange(len(residuals))
    least = error(np.full(len(rows), LEAST_BANDWIDTH), rows)
    found = least.copy()
    open_ = np.flatnonzero(least > LEAST_BANDWIDTH)
    if len(open_):
        result = elementwise.find_root(
            lambda s, row: error(s, row) - s,
            (np.full(len(open_), LEAST_BANDWIDTH), np.ones(len(open_))),
            args=(open_,),
            tolerances={"xatol": 1e-7, "xrtol": 1e-7, "fatol": 1e-9},
        )
        found[open_] = result.x
    return found


def resample(
    log_probs: np.ndarray,
    predicted: np.ndarray,
    labels: np.ndarray,
    clusters: np.ndarray,
    *,
    bins: int,
    draws: int,
    seed: int,
    basic: bool = False,
    track: Callable[[range], Iterable[int]] = iter,
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Every score of the samples, and of `draws` resamples of their clusters.

    As many clusters as there are are drawn with replacement, and with each all its samples, which are not independent.
    The same clusters are drawn alike by the same seed, so that scores of two models can be subtracted draw by draw.
    `log_probs`, `predicted`, `labels` and `bins` are as for `tabulate`; `clusters` (N,) says what each sample is of, as
    a subject. `basic` gives the scores of `basic_scores_of` alone, some thirty times as fast. `track` wraps the chunks
    of draws, for a progress bar.
    """
    classes = log_probs.shape[1]
    table = tabulate(log_probs, predicted, labels, bins)
    scores = basic_scores_of if basic else scores_of
    if basic:
        table = table[:, : _places(classes, bins)["bin_gap"].stop]
    values = scores(table.sum(axis=0)[None], classes, bins)
    _, of = np.unique(clusters, return_inverse=True)
    by_cluster = (csr_array((np.ones(len(of)), (of, np.arange(len(of))))) @ table).T.tocsr()
    rng = np.random.default_rng(seed)
    step = int(np.clip(4_000_000 // max(by_cluster.shape), 1, draws))
    found = []
    for start in track(range(0, draws, step)):
        times = draw_clusters(rng, by_cluster.shape[1], min(step, draws - start))
        found.append(scores((by_cluster @ times.T).T, classes, bins))
    return (
        {name: float(value[0]) for name, value in values.items()},
        {name: np.concatenate([part[name] for part in found]) for name in values},
    )


def draw_clusters(rng: np.random.Generator, count: int, draws: int) -> np.ndarray:
    """How often each of `count` clusters is drawn, (draws, count), as many as there are each time, with replacement."""
    return rng.multinomial(count, np.full(count, 1 / count), size=draws)


def interval(name: str, value: float, drawn: np.ndarray, level: float) -> dict[str, float]:
    """Intervals that hold `level` of the draws of the score `name`, whose value on the sample itself is `value`.

    A binned calibration error is a sum of absolute values, which noise can only raise, and a resample has more noise
    than the sample. Its percentile interval therefore lies too high and may even miss `value`. The basic interval
    takes that bias away; so it is given too: `low` and `high` are the percentile interval (Efron & Tibshirani 1993,
    §13.3), `basic_low` and `basic_high`, for the scores in `ERRORS`, 2 * value less that, cut at 0 (Davison & Hinkley
    1997, §5.2).
    """
    found = percentile(drawn, level)
    basic = {f"basic_{end}": max(0.0, 2 * value - found[other]) for end, other in (("low", "high"), ("high", "low"))}
    return found | basic if name in ERRORS else found


def percentile(drawn: np.ndarray, level: float) -> dict[str, float]:
    """The interval {low, high} between quantiles that holds the middle `level` of the draws."""
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2]).tolist()
    return {"low": low, "high": high}


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment, in the order given: compare each with the level wanted for all (Holm 1979).

    In ascending order, adjusted_i = max over j <= i of min(1, (m - j) p_j), with j from 0 and m their number.
    """
    order = np.argsort(p_values, kind="stable")
    stepped = np.asarray(p_values, np.float64)[order] * np.arange(len(order), 0, -1)
    adjusted = np.empty(len(order))
    adjusted[order] = np.minimum(np.maximum.accumulate(stepped), 1.0)
    return [float(value) for value in adjusted]
