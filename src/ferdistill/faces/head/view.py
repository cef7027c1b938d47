"""The circumstances of a picture: pose, lens, light, background, what covers the face, camera."""

from dataclasses import dataclass

import numpy as np

from .person import HEADWEAR

OCCLUDERS = ("hand", "mask", "wrap", "sunglasses")

Colour = tuple[float, float, float]


@dataclass(frozen=True)
class View:
    """What changes from one picture of a person to the next. Angles are in radians, colours linear RGB."""

    yaw: float
    pitch: float
    roll: float
    distance: float  # of the camera, in distances between the pupils: the smaller, the stronger the perspective
    gaze: tuple[float, float]  # to the subject's left and up, -1 to 1
    scale: float  # of the crop's side over the face box's
    shift: tuple[float, float]  # of the crop, in sides of the face box
    key: tuple[float, float, float]  # direction of the strongest light: right, up, towards the camera
    key_light: Colour
    fill: tuple[float, float, float]
    fill_light: Colour
    sky: Colour  # ambient light from above
    ground: Colour  # and from below
    background: Colour
    background_seed: int
    headwear: str  # of HEADWEAR
    cloth: Colour
    cloth_seed: int
    occluder: str  # "" or one of OCCLUDERS
    occluder_place: tuple[float, float]  # -1 to 1 each
    asymmetry: tuple[float, ...]  # of brows, of eyes, of nose and mouth
    exposure: float  # about 1
    contrast: float  # about 1
    warmth: float  # of the white balance, about 0
    blur: float  # deviation in thousandths of the crop's side
    motion: float  # length in thousandths of the side
    motion_angle: float
    noise: float  # deviation in grey levels, at 48 pixels a side
    quality: int  # of the JPEG, 100 for none
    seed: int  # of the noise


def draw_view(rng: np.random.Generator) -> View:
    """Draw the circumstances of a picture; about 8 % have part of the face covered."""
    hard = rng.beta(1.6, 1.6)  # how much of the light comes from one side
    level = rng.uniform(0.75, 1.25)
    around, up = rng.normal(0, 0.7), rng.uniform(-0.15, 1.0)
    key = np.array([np.sin(around) * np.cos(up), np.sin(up), np.cos(around) * np.cos(up)])
    other = np.array([-np.sign(key[0]) * rng.uniform(0.3, 1), rng.uniform(-0.2, 0.5), rng.uniform(-0.6, 0.6)])
    ambient = (0.85 - 0.7 * hard) * level
    key_light = _tint(rng, 0.12) * (0.45 + 1.25 * hard) * level
    covered = rng.random() < 0.08
    headwear = str(rng.choice(HEADWEAR, p=[0.86, 0.03, 0.04, 0.03, 0.03, 0.01]))
    dark = rng.random() < 0.35
    return View(
        yaw=float(np.clip(rng.normal(0, 0.22), -0.7, 0.7)),
        pitch=float(np.clip(rng.normal(0.0, 0.12), -0.5, 0.5)),
        roll=float(np.clip(rng.normal(0, 0.09), -0.4, 0.4)),
        distance=float(np.exp(rng.uniform(np.log(6.5), np.log(30)))),
        gaze=(float(np.clip(rng.normal(0, 0.22), -1, 1)), float(np.clip(rng.normal(0, 0.15), -1, 1))),
        scale=float(np.exp(rng.normal(0.0, 0.07))),
        shift=(rng.normal(0, 0.035), rng.normal(0, 0.035)),
        key=tuple(key.tolist()),
        key_light=tuple(key_light.tolist()),
        fill=tuple((other / np.linalg.norm(other)).tolist()),
        fill_light=tuple((_tint(rng, 0.2) * rng.uniform(0, 0.5)).tolist()),
        sky=tuple((_tint(rng, 0.1) * ambient * rng.uniform(0.7, 1.1)).tolist()),
        ground=tuple((_tint(rng, 0.15) * ambient * rng.uniform(0.25, 0.7)).tolist()),
        background=tuple((rng.dirichlet([20, 20, 20]) * 3 * rng.beta(1.2, 2.0) * 0.9).tolist()),
        background_seed=int(rng.integers(2**62)),
        headwear=headwear,
        cloth=tuple(
            (rng.dirichlet([5, 5, 5]) * 3 * (0.06 if dark else rng.uniform(0.05, 0.65))).clip(0, 0.85).tolist()
        ),
        cloth_seed=int(rng.integers(2**32)),
        occluder=str(rng.choice(OCCLUDERS)) if covered else "",
        occluder_place=(rng.uniform(-1, 1), rng.uniform(-1, 1)),
        asymmetry=tuple(rng.normal(0, 0.12, 3).tolist()),
        exposure=float(np.exp(rng.normal(0, 0.18))),
        contrast=float(np.exp(rng.normal(0.1, 0.13))),
        warmth=rng.normal(0, 0.06),
        blur=float(rng.choice([0.0, rng.uniform(0, 6), rng.uniform(4, 14)], p=[0.6, 0.32, 0.08])),
        motion=rng.uniform(8, 25) if rng.random() < 0.03 else 0.0,
        motion_angle=rng.uniform(0, np.pi),
        noise=float(rng.gamma(1.2, 1.2)),
        quality=int(rng.integers(70, 98)) if rng.random() < 0.4 else 100,
        seed=int(rng.integers(2**62)),
    )


def _tint(rng: np.random.Generator, spread: float) -> np.ndarray:
    warm = rng.normal(0, spread)
    return np.array([1 + warm, 1.0, 1 - warm])
