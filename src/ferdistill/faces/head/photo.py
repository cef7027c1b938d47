"""What is behind a head, and what a camera makes of the light: blur, noise, tone curve, JPEG."""

import io
import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from . import noise
from .view import View

Floats = NDArray[np.floating]


def background(view: View, side: int) -> Floats:
    """A made-up room or street behind the head, out of focus, linear RGB (3, side, side)."""
    rng = np.random.Generator(np.random.PCG64(view.background_seed))
    coarse = 48
    axis = ((np.arange(coarse) + 0.5) / coarse * 2 - 1).astype(np.float32)
    across, down = axis[None], axis[:, None]
    slope = rng.normal(0, 0.35, 2).astype(np.float32)
    base = np.array(view.background, np.float32)[:, None, None]
    picture = base * (1 + np.clip(slope[0] * across + slope[1] * down, -0.8, 1.5))
    for _ in range(rng.poisson(5) * (rng.random() < 0.75)):
        colour = rng.dirichlet([12, 12, 12]) * 3 * rng.beta(1.2, 1.8)
        angle, offset = rng.uniform(0, np.pi), rng.uniform(-1, 1)
        kind = rng.integers(3)
        if kind == 2:  # a lamp, a head, a leaf
            x, y, size, tall = rng.uniform(-1, 1), rng.uniform(-1, 1), rng.uniform(0.1, 0.6), rng.uniform(0.6, 1.6)
            inside = (across - x) ** 2 + ((down - y) * tall) ** 2 < size**2
        else:  # a wall's edge, or a post, a shelf, a frame
            ahead = math.cos(angle) * across + math.sin(angle) * down - offset
            inside = ahead > 0 if kind == 0 else np.abs(ahead) < rng.uniform(0.03, 0.3)
        picture[:, inside] = colour[:, None]
    if rng.random() < 0.5:
        grain = noise.tile(float(rng.choice([1.0, 2.0, 6.0])))
        row, column = rng.integers(0, noise.SIDE - coarse, 2)
        texture = grain[row : row + coarse, column : column + coarse]
        picture *= np.exp(np.float32(rng.uniform(0.05, 0.45)) * texture)
    if rng.random() < 0.7:
        picture = ndimage.gaussian_filter(picture, (0, *[rng.uniform(0.5, 3.0)] * 2), truncate=2.0)
    return np.clip(resized(picture, side, Image.Resampling.BILINEAR), 0.001, 1.2)


def resized(planes: Floats, side: int, how: Image.Resampling) -> Floats:
    """Planes (3, h, w) of another size, (3, side, side)."""
    return np.stack([np.asarray(Image.fromarray(plane).resize((side, side), how)) for plane in planes])


def develop(light: Floats, view: View) -> NDArray[np.uint8]:
    """Linear light, (3, size, size), to a picture, uint8 (size, size, 3)."""
    size = light.shape[1]
    rng = np.random.Generator(np.random.PCG64(view.seed))
    if view.blur:
        deviation = view.blur * size / 1000
        light = ndimage.gaussian_filter(light, (0, deviation, deviation))
    if view.motion:
        light = _smear(light, view.motion * size / 1000, view.motion_angle)
    balance = np.array([[[1 + view.warmth]], [[1]], [[1 - view.warmth]]], np.float32)
    light = np.clip(light * (view.exposure * balance), 0, None)
    # A shoulder keeps highlights from clipping at once, as cameras' curves do.
    light = np.where(light > 0.6, 0.6 + 0.4 * (1 - np.exp(-(light - 0.6) / 0.4)), light)
    tone = 255 * np.power(light, 1 / 2.2)
    tone = 118 + view.contrast * (tone - 118)
    grain = rng.standard_normal((size, size), dtype=np.float32)
    grain = 0.85 * grain + 0.4 * rng.standard_normal((3, size, size), dtype=np.float32)
    if size > 60:
        grain = ndimage.gaussian_filter(grain, (0, size / 250, size / 250))
        grain = grain / grain.std()
    tone = tone + view.noise * (0.7 + 0.5 * np.sqrt(np.clip(tone, 0, 255) / 255)) * grain
    pixels = np.ascontiguousarray(np.clip(np.rint(tone), 0, 255).astype(np.uint8).transpose(1, 2, 0))
    if view.quality == 100:
        return pixels
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=view.quality)
    return np.asarray(Image.open(file))


def _smear(light: Floats, length: float, angle: float) -> Floats:
    """The mean of several copies moved along a line."""
    steps = np.linspace(-0.5, 0.5, 5) * length
    moved = [
        ndimage.shift(light, (0, np.sin(angle) * step, np.cos(angle) * step), order=1, mode="nearest") for step in steps
    ]
    return np.mean(moved, axis=0, dtype=np.float32)
