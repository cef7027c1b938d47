"""What a few seeds can and cannot say about a difference, and what the test examples can.

Everywhere `baseline` is a, `candidate` is b, and a difference is b - a. Intervals are two-sided, of level 0.95.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache
from itertools import combinations, product
from math import comb, sqrt
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from ..errors import UsageError
from ..evaluation.calibration import log_probabilities
from ..evaluation.intervals import holm as holm
from ..evaluation.intervals import percentile, resample

LEVEL, ALPHA, POWER = 0.95, 0.05, 0.80
RESAMPLES, SEED = 9_999, 0
EXACT_UP_TO = 100_000  # splits or sign flips that are still enumerated: 9 against 10 seeds, or 16 pairs
COVERAGE_DRAWS, COVERAGE_RESAMPLES = 4_000, 999
MOST_SEEDS = 1_000_000
EXAMPLE_RESAMPLES = 2_000

Interval = tuple[float, float]


class Permutation(NamedTuple):
    """What `permutation` and `sign_flip` found."""

    p: float  # in (0, 1], two-sided
    p_min: float  # the smallest p that these numbers of seeds can give, whatever the values
    method: str  # `exact` (everything enumerated), or `monte carlo, N draws, seed S`


def paired_t_interval(differences: Sequence[float] | np.ndarray) -> Interval:
    """Student's interval of the mean paired difference: mean ± t(0.975, n - 1) s / sqrt(n), s with n - 1.

    Exact under normal noise at every n from 2 (Student 1908). `differences` are an (n,) array, a pair a seed.
    """
    values = _checked(differences, 2, "paired differences")
    half = float(stats.t.ppf(0.5 + LEVEL / 2, len(values) - 1)) * values.std(ddof=1) / sqrt(len(values))
    return float(values.mean() - half), float(values.mean() + half)


def paired_t_p(differences: Sequence[float] | np.ndarray) -> float:
    """Two-sided p of Student's paired t test; 1 where every difference is 0.

    It rests on normal noise, unlike `sign_flip`, and so has no smallest value.
    """
    values = _checked(differences, 2, "paired differences")
    if values.std() == 0:
        return 1.0 if values[0] == 0 else 0.0
    return float(stats.ttest_1samp(values, 0.0).pvalue)


def welch_interval(a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray) -> Interval:
    """Welch's interval of mean(b) - mean(a) for seeds that are not paired (Welch 1947, Satterthwaite 1946).

    With v = s²/n of each side, s with n - 1: difference ± t(0.975, f) sqrt(v_a + v_b), where
    f = (v_a + v_b)² / (v_a² / (n_a - 1) + v_b² / (n_b - 1)). Each side is an (n,) array, n >= 2.
    """
    left, right = _checked(a, 2, "seeds"), _checked(b, 2, "seeds")
    difference = float(right.mean() - left.mean())
    if left.std() == 0 and right.std() == 0:
        return difference, difference
    interval = stats.ttest_ind(right, left, equal_var=False).confidence_interval(LEVEL)
    return float(interval.low), float(interval.high)


def bootstrap_interval(*samples: Sequence[float] | np.ndarray, method: str = "percentile") -> Interval:
    """Bootstrap interval of a mean (one sample), or of mean(b) - mean(a), each resampled apart (two samples).

    Never read it without `bootstrap_coverage`: at few seeds it is far too narrow. Seeded, 9,999 resamples. Each sample
    is an (n,) array, n >= 2; `method` is `percentile` (Efron 1979) or `BCa` (Efron 1987).
    """
    arrays = [_checked(sample, 2, "values") for sample in samples]
    if all(values.std() == 0 for values in arrays):
        point = float(arrays[-1].mean() - (arrays[0].mean() if len(arrays) == 2 else 0.0))
        return point, point
    low, high = _bootstrap(arrays, RESAMPLES, np.random.default_rng(SEED), method)
    return float(low), float(high)


@lru_cache(maxsize=256)
def bootstrap_coverage(*sizes: int, method: str = "percentile") -> float:
    """How often the bootstrap interval called 95 % holds the true value at these sizes, under normal noise.

    `sizes` are the seeds, 2 or more, of each sample of `bootstrap_interval`. 4,000 simulated studies of 999 resamples
    each, seeded; standard error under 0.007.
    """
    generator = np.random.default_rng(SEED)
    samples = [generator.standard_normal((COVERAGE_DRAWS, size)) for size in sizes]
    low, high = _bootstrap(samples, COVERAGE_RESAMPLES, generator, method, batch=50)
    return float(np.mean((low <= 0) & (high >= 0)))


def permutation(a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray) -> Permutation:
    """Permutation test of mean(b) - mean(a), unpaired: the share of splits with a difference at least as large.

    All C(n_a + n_b, n_a) splits, so p is exact (Fisher 1935, Pitman 1937), and at least 2 / C for equal sizes, the
    mirrored split counting too, else 1 / C. Beyond 100,000 splits a seeded Monte Carlo, p = (k + 1) / (draws + 1).
    Each side is an (n,) array, n >= 1.
    """
    left, right = _checked(a, 1, "seeds"), _checked(b, 1, "seeds")
    n, m = len(left), len(right)
    number = comb(n + m, n)
    # Minus the first and divided by the largest, so that rounding to 12 digits finds every tie and no more.
    centred = np.concatenate([left, right]) - left[0]
    pooled = centred / (float(np.abs(centred).max()) or 1.0)
    if number > EXACT_UP_TO:
        return _monte_carlo(pooled[:n], pooled[n:], "independent")
    chosen = pooled[np.array(list(combinations(range(n + m), n)))].sum(axis=1)
    return _exact((pooled.sum() - chosen) / m - chosen / n, (2 if n == m else 1) / number)


def sign_flip(differences: Sequence[float] | np.ndarray) -> Permutation:
    """Sign-flip test of the mean paired difference: the share of the 2^n choices of signs with a mean as far from 0.

    Exact, and at least 2 / 2^n (Fisher 1935); beyond 100,000 choices a seeded Monte Carlo as in `permutation`.
    `differences` are an (n,) array, n >= 1.
    """
    values = _checked(differences, 1, "paired differences")
    size = float(np.abs(values).max()) or 1.0
    if 2 ** len(values) > EXACT_UP_TO:
        return _monte_carlo(np.zeros_like(values), values / size, "samples")
    signs = np.array(list(product([1.0, -1.0], repeat=len(values))))
    return _exact(signs @ (values / size), 2 / 2 ** len(values))


def cohens_d(a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray) -> float:
    """Cohen's d: (mean(b) - mean(a)) / s, s² = ((n_a - 1) s_a² + (n_b - 1) s_b²) / (n_a + n_b - 2) (Cohen 1988, 2.5.2).

    s_a and s_b are with n - 1. NaN where s is 0 or n_a + n_b < 3.
    """
    left, right = np.asarray(a, np.float64), np.asarray(b, np.float64)
    freedom = len(left) + len(right) - 2
    squares = ((left - left.mean()) ** 2).sum() + ((right - right.mean()) ** 2).sum()
    if freedom < 1 or squares == 0:
        return float("nan")
    return float((right.mean() - left.mean()) / sqrt(squares / freedom))


def cohens_dz(differences: Sequence[float] | np.ndarray) -> float:
    """Effect size of paired differences: mean / s, s with n - 1 (Cohen 1988, 2.3.5). NaN where s is 0 or n < 2."""
    values = np.asarray(differences, np.float64)
    if len(values) < 2 or values.std() == 0:
        return float("nan")
    return float(values.mean() / values.std(ddof=1))


def power(effect: float, n: int) -> float:
    """Power of the two-sided paired t test of level 0.05 at n pairs, for a true d_z of `effect`.

    P(|t'| > t(0.975, n - 1)) for t' noncentral t with n - 1 degrees and noncentrality effect sqrt(n) (Cohen 1988).
    """
    critical = stats.t.ppf(1 - ALPHA / 2, n - 1)
    shift = abs(effect) * sqrt(n)
    # The lower tail is under 1e-9 from a shift of 6, where scipy sometimes gives NaN for it.
    lower = stats.nct.cdf(-critical, n - 1, shift) if shift < 6 else 0.0
    return float(stats.nct.sf(critical, n - 1, shift) + lower)


def seeds_needed(effect: float) -> int | None:
    """The fewest pairs of seeds at which `power` reaches 0.80, if the true d_z is `effect`.

    None for an effect of 0, not finite, or so small that over a million pairs would be needed. From an effect
    estimated on few seeds it is a rough guide: such an estimate is itself mostly noise.
    """
    if not np.isfinite(effect) or effect == 0:
        return None
    high = 2
    while power(effect, high) < POWER:
        if high == MOST_SEEDS:
            return None
        high = min(high * 2, MOST_SEEDS)
    return bisect_left(range(high), True, lo=max(2, high // 2), key=lambda pairs: power(effect, pairs) >= POWER)


def clustered_bootstrap(
    baseline: np.ndarray,
    candidate: np.ndarray,
    labels: np.ndarray,
    clusters: np.ndarray,
    *,
    bins: int = 15,
    resamples: int = EXAMPLE_RESAMPLES,
) -> dict[str, tuple[float, Interval]]:
    """What the choice of test examples adds: paired bootstrap of each score's difference, whole clusters at a time.

    A resample draws as many clusters as there are, with replacement, and scores every model on it; differences are
    averaged over seeds. The models stay as they are, so the noise of training is not in these intervals
    (Koehn 2004; Field and Welsh 2007 for clusters). Percentile intervals, seeded.

    Parameters
    ----------
    baseline, candidate : (S, N, K) arrays
        Logits of S seeds, on the same rows.
    labels : (N,) array
        Integers in 0..K-1.
    clusters : (N,) array
        Which rows belong together: one subject, or one group of duplicates.
    bins : int
        Of the expected calibration error.

    Returns
    -------
    dict
        macro_f1, accuracy, ece, brier, nll: the difference on all rows, and its interval.
    """
    points: dict[str, list[float]] = defaultdict(list)
    draws: dict[str, list[np.ndarray]] = defaultdict(list)
    more: dict[str, Any] = {"bins": bins, "draws": resamples, "seed": SEED, "basic": True}
    for pair in zip(baseline, candidate, strict=True):
        (before, drawn_before), (after, drawn_after) = (
            resample(log_probabilities(logits), logits.argmax(axis=1), labels, clusters, **more) for logits in pair
        )
        for name in before:
            points[name].append(after[name] - before[name])
            draws[name].append(drawn_after[name] - drawn_before[name])
    result = {}
    for name, drawn in draws.items():
        interval = percentile(np.mean(drawn, axis=0), LEVEL)
        result[name] = (float(np.mean(points[name])), (interval["low"], interval["high"]))
    return result


def _bootstrap(
    samples: Sequence[np.ndarray], resamples: int, rng: np.random.Generator, method: str, batch: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The ends of the bootstrap intervals of the mean, or of the difference of means, along the last axis."""
    interval = stats.bootstrap(
        samples,
        _mean_difference,
        n_resamples=resamples,
        confidence_level=LEVEL,
        method=method,
        rng=rng,
        axis=-1,
        vectorized=True,
        batch=batch,
    ).confidence_interval
    return interval.low, interval.high


def _mean_difference(a: np.ndarray, b: np.ndarray | None = None, axis: int = -1) -> np.ndarray:
    """mean(a) alone, or mean(b) - mean(a)."""
    return np.asarray(a.mean(axis=axis) if b is None else b.mean(axis=axis) - a.mean(axis=axis))


def _exact(differences: np.ndarray, p_min: float) -> Permutation:
    """The share of all differences at least as far from 0 as the first, which is the one found."""
    distances = np.round(np.abs(differences), 12)
    return Permutation(float(np.mean(distances >= distances[0])), p_min, "exact")


def _monte_carlo(a: np.ndarray, b: np.ndarray, kind: str) -> Permutation:
    result = stats.permutation_test(
        (a, b),
        lambda a, b, axis: np.round(np.abs(_mean_difference(a, b, axis)), 12),
        permutation_type=kind,
        n_resamples=RESAMPLES,
        alternative="greater",
        rng=np.random.default_rng(SEED),
        vectorized=True,
    )
    return Permutation(float(result.pvalue), 1 / (RESAMPLES + 1), f"monte carlo, {RESAMPLES} draws, seed {SEED}")


def _checked(sample: Sequence[float] | np.ndarray, least: int, what: str) -> np.ndarray:
    """A sample as a float64 array, if it is one of enough finite numbers."""
    values = np.asarray(sample, np.float64)
    if values.ndim != 1 or len(values) < least or not np.isfinite(values).all():
        raise UsageError(
            f"too few {what}, or not finite", where=f"shape {values.shape}", expected=f"{least} or more finite numbers"
        )
    return values
