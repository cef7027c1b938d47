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
CAUTION = 0.95  # with twelve recipes alike, half of three seeds and half of eight, either half is taken as often
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
        """That the recipe is better than the default. At one measured difference above 0 it grows with the seeds."""
        return np.asarray(norm.cdf(self.mean / self.deviation))

    def score(self) -> np.ndarray:
        """What recipes are ranked by: the difference that the true one exceeds with a probability of `CAUTION`.

        The default's noise, alike for all, is left aside. At one measured difference above 0 it grows with the seeds,
        and of recipes of one true score those with few seeds are not taken more often for spreading more.
        """
        return np.asarray(self.mean - norm.ppf(CAUTION) * self.own)


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


def chance_of_first(now: Posterior, later: Posterior, rival: Number, confidence: float) -> np.ndarray:
    """The probability that further runs leave a recipe better than the default, with a score above a rival's.

    Better with a probability of `confidence`. `later` is the posterior if the mean stays as it is: further runs make
    it as sure as that, and move it by what they take off the variance: the preposterior distribution (Raiffa &
    Schlaifer 1961).
    """
    moved = np.sqrt(np.maximum(now.own**2 - later.own**2, 1e-18))
    needed = np.maximum(rival + norm.ppf(CAUTION) * later.own, norm.ppf(confidence) * later.deviation)
    return np.asarray(norm.sf((needed - now.mean) / moved))
