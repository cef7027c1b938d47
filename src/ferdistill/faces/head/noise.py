"""Random patterns without seams, for skin, hair and cloth."""

from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Floats = NDArray[np.floating]
SIDE = 256


@cache
def tile(smooth: float) -> Floats:
    """A pattern of mean 0 and deviation 1 that repeats, (SIDE, SIDE), its grains about `smooth` wide."""
    rng = np.random.Generator(np.random.PCG64(20261127))
    rough = rng.standard_normal((SIDE, SIDE))
    soft = ndimage.gaussian_filter(rough, smooth, mode="wrap") if smooth else rough
    return (soft / soft.std()).astype(np.float32)


def at(pattern: Floats, across: Floats, down: Floats) -> Floats:
    """The pattern where two coordinates lead, one a grain of the tile."""
    return pattern.ravel()[(down.astype(np.int32) & (SIDE - 1)) * SIDE + (across.astype(np.int32) & (SIDE - 1))]


def step(value: Floats, low: float | Floats, high: float | Floats) -> Floats:
    """0 up to `low`, 1 from `high` on, smooth between; falling where `high` is the lower."""
    share = np.clip((value - low) / (high - low), 0, 1)
    return share * share * (3 - 2 * share)
