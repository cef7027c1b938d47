"""How surely a recipe is better than a default one, from its own runs, the default's, and what is stated beforehand.

The model: a recipe's true score less the default's is normal about 0 with a stated standard deviation, the `spread`;
its measured mean is that plus noise of seeds and of people, normal too, and the default's mean has noise of its own.
The posterior mean is the measured difference shrunk towards 0, the more so the fewer seeds there are (Efron & Morris
1975; for ranks, Laird & Louis 1989). Empirical Bayes would estimate the spread from all recipes; here it is stated,
so that nothing said of one recipe depends on any other. All arguments broadcast.
"""

from typing import NamedTuple

import numpy as np
from scipy.stats import norm

PRIOR_SEEDS = 4  # for how many degrees of freedom the stated noise of seeds counts
DRAWS, SEED = 20_000, 0

Number = float | np.ndarray


class Posterior(NamedTuple):
    """What is known of true differences from the default."""

    mean: np.ndarray
    share: np.ndarray  # of the measured difference that is left after shrinking, in (0, 1]
    own: np.ndarray  # standard deviation that the recipe's own noise leaves
    common: np.ndarray  # standard deviation that the default's noise adds, alike in sign for every recipe

    @property
    def deviation(self) -> np.ndarray:
        """Standard deviation of the true difference."""
        return np.hypot(self.own, self.common)

    def probability(self) -> np.ndarray:
        """That the recipe is better than the default."""
        return np.asarray(norm.cdf(self.mean / self.deviation))

    def score(self, confidence: float) -> np.ndarray:
        """What the recipe is better than the default by, with this probability; the default itself has 0.

        Wherever it is above 0 it grows with the number of seeds, mean and noise being the same. So fewer seeds never
        bring a recipe above another or above 0.
        """
        return np.asarray(self.mean - norm.ppf(confidence) * self.deviation)


def noise_of_seeds(default: np.ndarray, stated: float) -> np.ndarray:
    """Variance of one run's score: that of the default's runs (..., n), and the stated one as `PRIOR_SEEDS` more.

    That of a recipe's own runs would be of as few seeds as that recipe has, and small by chance where they agree.
    """
    freedom = default.shape[-1] - 1
    squares = ((default - default.mean(axis=-1, keepdims=True)) ** 2).sum(axis=-1)
    return np.asarray((PRIOR_SEEDS * stated**2 + squares) / (PRIOR_SEEDS + freedom))


def posterior(
    difference: Number, seeds: Number, default_seeds: Number, noise: Number, people: Number, spread: float
) -> Posterior:
    """The true difference from the default, of a measured one.

    Parameters
    ----------
    difference : float or array
        Mean of the recipe's runs less that of the default's.
    seeds, default_seeds : float or array
        How many runs each mean is of.
    noise : float or array
        Variance of one run, see `noise_of_seeds`.
    people : float or array
        Variance of the difference over other people, at these very students. Half of it is the default's.
    spread : float
        Standard deviation of true differences, before any run.
    """
    own = noise / np.asarray(seeds) + np.asarray(people) / 2
    share = spread**2 / (spread**2 + own)
    common = share * np.sqrt(noise / np.asarray(default_seeds) + np.asarray(people) / 2)
    return Posterior(share * np.asarray(difference), share, np.sqrt(share * own), common)


def probability_near_best(found: Posterior, chosen: int | None, near: float) -> float:
    """That the recipe in place `chosen` of (R,), or the default if None, is within `near` of the best of all.

    By `DRAWS` draws from the posterior, seeded.
    """
    rng = np.random.default_rng(SEED)
    true = found.mean + found.common * rng.standard_normal((DRAWS, 1))
    true += found.own * rng.standard_normal((DRAWS, len(found.mean)))
    best = true.max(axis=1, initial=0.0)
    return float(np.mean(best - (0.0 if chosen is None else true[:, chosen]) <= near))


def chance_of_score(now: Posterior, later: Posterior, threshold: Number, confidence: float) -> np.ndarray:
    """The probability that further runs bring a recipe's score above a threshold.

    `later` is the posterior if the mean stays as it is: further runs make it as sure as that, and move its mean by what
    they take off the variance (the preposterior distribution: Raiffa & Schlaifer 1961).
    """
    moved = np.sqrt(np.maximum(now.deviation**2 - later.deviation**2, 1e-18))
    reached = now.mean - norm.ppf(confidence) * later.deviation
    return np.asarray(norm.sf((threshold - reached) / moved))
