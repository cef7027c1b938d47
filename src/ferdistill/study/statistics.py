"""What a few seeds can and cannot say about a difference, and what the test examples can.

Everywhere `baseline` is a, `candidate` is b, and a difference is b - a. Intervals are two-sided, of level 0.95.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import combinations, product
from math import comb, sqrt
from typing import Any, NamedTuple

import numpy as np
from scipy import optimize, stats
from scipy.special import ndtr

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
NODES = 48  # of each dimension of Dunnett's integral

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


def pooled_variance(samples: Sequence[np.ndarray]) -> tuple[float, int]:
    """The variance of samples, each (n,) about its own mean, n >= 1, and its degrees of freedom; NaN without any."""
    freedom = sum(map(len, samples)) - len(samples)
    squares = sum(((values - values.mean()) ** 2).sum() for values in samples)
    return (float(squares / freedom) if freedom else float("nan")), freedom


def cohens_d(a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray) -> float:
    """Cohen's d: (mean(b) - mean(a)) / s, s² = ((n_a - 1) s_a² + (n_b - 1) s_b²) / (n_a + n_b - 2) (Cohen 1988, 2.5.2).

    s_a and s_b are with n - 1. NaN where s is 0 or n_a + n_b < 3.
    """
    left, right = np.asarray(a, np.float64), np.asarray(b, np.float64)
    variance, freedom = pooled_variance([left, right])
    if freedom < 1 or variance == 0:
        return float("nan")
    return float((right.mean() - left.mean()) / sqrt(variance))


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


class Drawn(NamedTuple):
    """A score, and what it is on each resample of the clusters (B,)."""

    value: float
    drawn: np.ndarray


Resampled = dict[str, Drawn]


def resampled(
    logits: np.ndarray,
    labels: np.ndarray,
    clusters: np.ndarray,
    *,
    bins: int = 15,
    resamples: int = EXAMPLE_RESAMPLES,
    temperature: float = 1.0,
) -> Resampled:
    """Scores of one model on the test examples, and on resamples of these, whole clusters at a time.

    A resample draws as many clusters as there are, with replacement (Field and Welsh 2007), the same for every model
    that is scored on the same rows, so that models can be subtracted draw by draw (Koehn 2004). Seeded.

    Parameters
    ----------
    logits : (N, K) array
    labels : (N,) array
        Integers in 0..K-1.
    clusters : (N,) array
        Which rows belong together: one subject, or one group of duplicates.
    bins : int
        Of the expected calibration error.
    temperature : float
        Divides the logits.

    Returns
    -------
    dict
        macro_f1, accuracy, ece, brier, nll.
    """
    more: dict[str, Any] = {"bins": bins, "draws": resamples, "seed": SEED, "basic": True}
    values, draws = resample(log_probabilities(logits, temperature), logits.argmax(axis=1), labels, clusters, **more)
    return {name: Drawn(value, draws[name]) for name, value in values.items()}


def over_examples(baseline: Sequence[Resampled], candidate: Sequence[Resampled]) -> dict[str, tuple[float, Interval]]:
    """What the choice of test examples adds: each score's difference, averaged over seeds, with its interval.

    The models stay as they are, so the noise of training is not in these percentile intervals. Of pairs of models, one
    a seed.
    """
    found = {}
    for name in baseline[0]:
        value, drawn = _paired(baseline, candidate, name)
        interval = percentile(drawn.mean(axis=0), LEVEL)
        found[name] = (float(value.mean()), (interval["low"], interval["high"]))
    return found


class Crossed(NamedTuple):
    """A mean difference over seeds and people, both drawn at random."""

    mean: float
    interval: Interval
    p: float  # two-sided, of a t test
    of_seeds: float  # standard error that seeds alone give
    of_people: float  # standard error that people alone give
    freedom: float


def crossed(baseline: Sequence[Resampled], candidate: Sequence[Resampled], name: str, clusters: int) -> Crossed:
    """A score's difference in a model with crossed random effects of seed and person, by moments.

    The difference of seed s on the people at hand is delta + a_s + b + c_s: a_s the seed's, b what these people add to
    every seed, c_s what they add to this seed alone. Its mean over S seeds has variance (var a + var c) / S + var b.
    The first term is what seeds spread by, s² / S. Of bootstrap draws of the people, the variance of the mean over
    seeds is var b + var c / S, and the mean variance of what is left of each seed var c (S - 1) / S. So the variance is
    the sum of the first two less var c / S, which both count (Searle, Casella & McCulloch 1992, ch. 5; Owen 2007, whose
    bootstrap of both counts it thrice). The interval is Student's, with Satterthwaite's degrees of freedom (1946).

    Two seeds or more, whose pairs of models `baseline` and `candidate` are; `clusters` is the number of people.
    """
    value, drawn = _paired(baseline, candidate, name)
    seeds = len(value)
    of_seeds = float(value.var(ddof=1)) / seeds
    of_people = float(drawn.mean(axis=0).var(ddof=1))
    both = float((drawn - drawn.mean(axis=0)).var(axis=1, ddof=1).sum()) / (seeds - 1) / seeds
    variance = max(of_seeds + of_people - both, of_seeds, of_people)
    mean = float(value.mean())
    if variance == 0:
        return Crossed(mean, (mean, mean), float(mean == 0), 0.0, 0.0, seeds - 1.0)
    freedom = variance**2 / (of_seeds**2 / (seeds - 1) + of_people**2 / max(clusters - 1, 1))
    half = float(stats.t.ppf(0.5 + LEVEL / 2, freedom)) * sqrt(variance)
    p = 2 * float(stats.t.sf(abs(mean) / sqrt(variance), freedom))
    return Crossed(mean, (mean - half, mean + half), p, sqrt(of_seeds), sqrt(of_people), freedom)


def _paired(baseline: Sequence[Resampled], candidate: Sequence[Resampled], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Differences of each seed (S,), and on resamples (S, B)."""
    pairs = list(zip(baseline, candidate, strict=True))
    value = np.array([after[name].value - before[name].value for before, after in pairs])
    return value, np.stack([after[name].drawn - before[name].drawn for before, after in pairs])


class Dunnett(NamedTuple):
    """A candidate against the baseline, beside all other candidates."""

    difference: float  # of means
    interval: Interval  # which all candidates' intervals keep together
    p: float  # adjusted for their number


def dunnett(
    baseline: Sequence[float] | np.ndarray, candidates: Sequence[Sequence[float] | np.ndarray]
) -> list[Dunnett]:
    """Dunnett's test of several candidates against one baseline (1955): p and intervals for all at once, two-sided.

    The noise of a seed is pooled over baseline and candidates, so that for equal numbers of seeds a larger difference
    always has a smaller p. Tests of pairs, each with its own few differences, have not that: one of them may be small
    by chance. Seeds are not paired. Each side is an (n,) array, n >= 1. Without a spread, a p is 0 or 1; without two
    runs of any recipe it is 1, and the interval has no ends.

    `scipy.stats.dunnett` is the same, by a quasi-random integral over as many dimensions as there are candidates: half
    a minute for twenty. Here it is Dunnett's own integral, over two.
    """
    control, samples = _checked(baseline, 1, "seeds"), [_checked(values, 1, "seeds") for values in candidates]
    gaps = np.array([values.mean() - control.mean() for values in samples])
    variance, freedom = pooled_variance([control, *samples])
    if freedom == 0:
        return [Dunnett(float(gap), (-np.inf, np.inf), 1.0) for gap in gaps]
    if variance == 0:
        return [Dunnett(float(gap), (float(gap), float(gap)), float(gap == 0)) for gap in gaps]
    numbers = np.array([len(values) for values in samples])
    errors = np.sqrt(variance * (1 / numbers + 1 / len(control)))
    shared = np.sqrt(numbers / (numbers + len(control)))  # correlation of two candidates is the product of theirs
    within = _many_to_one(shared, freedom)
    p = np.clip(1 - within(np.abs(gaps) / errors), 0, 1)
    critical = float(optimize.brentq(lambda q: float(within(np.array([q]))[0]) - LEVEL, 0.1, 1e4, xtol=1e-6))
    ends = critical * errors
    return [
        Dunnett(float(gap), (float(gap - end), float(gap + end)), float(one))
        for gap, end, one in zip(gaps, ends, p, strict=True)
    ]


def _many_to_one(shared: np.ndarray, freedom: int) -> Callable[[np.ndarray], np.ndarray]:
    """The probability that all |t| of candidates stay below a value, for each of (Q,) values.

    Given the baseline's mean y and the pooled spread s, candidates are independent, so the probability is a product,
    integrated over y, normal, and s, chi over its degrees of freedom: Gauss-Legendre.
    """
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    y = 8 * nodes
    of_y = 8 * weights * stats.norm.pdf(y)
    spread = stats.chi(freedom, scale=1 / sqrt(freedom))
    low, high = spread.ppf([1e-12, 1 - 1e-12])
    s = low + (high - low) * (nodes + 1) / 2
    of_s = (high - low) / 2 * weights * spread.pdf(s)
    left = np.sqrt(1 - shared**2)

    def within(values: np.ndarray) -> np.ndarray:
        found = []
        for value in values:
            middle, reach = y[:, None, None] * shared, value * s[None, :, None]
            inside = ndtr((middle + reach) / left) - ndtr((middle - reach) / left)
            found.append(of_y @ inside.prod(axis=2) @ of_s)
        return np.array(found)

    return within


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
