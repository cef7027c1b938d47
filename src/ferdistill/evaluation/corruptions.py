"""How a network's answers hold where its images are worse than any that it has seen: corruptions in five steps.

After ImageNet-C (Hendrycks & Dietterich 2019), whose numbers noise, JPEG and low resolution have. What is drawn follows
from an image's `sample_id` alone, so that a step differs from the next in strength and in nothing else.
"""

import io
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pandas as pd
from PIL import Image
from scipy.ndimage import gaussian_filter

from ..data.images import Pixels
from ..data.index import Index
from ..f1 import macro_f1
from ..progress import track
from .calibration import expected_calibration_error, log_probabilities, negative_log_likelihood, reliability

Draw: TypeAlias = np.random.Generator
STEPS = range(1, 6)
AT_ONCE = 256  # images
SCORES = ("macro_f1", "nll", "ece", "answered", "errors")


def blur(pixels: np.ndarray, strength: float, rng: Draw) -> np.ndarray:
    """By a Gaussian whose deviation is this share of the side."""
    deviation = strength * min(pixels.shape[:2])
    return gaussian_filter(pixels.astype(np.float32), (deviation, deviation, 0))


def noise(pixels: np.ndarray, strength: float, rng: Draw) -> np.ndarray:
    """Gaussian, of this deviation at 224 pixels where white is 1; a pixel of a smaller image is the mean of several."""
    deviation = 255 * strength * min(1, min(pixels.shape[:2]) / 224)
    return pixels + deviation * rng.standard_normal(pixels.shape)


def jpeg(pixels: np.ndarray, quality: float, rng: Draw) -> np.ndarray:
    """Written and read at this quality, 1 to 95."""
    file = io.BytesIO()
    _picture(pixels).save(file, "JPEG", quality=int(quality))
    return _pixels(Image.open(file), pixels)


def darkness(pixels: np.ndarray, left: float, rng: Draw) -> np.ndarray:
    """Leave this share of each value."""
    return pixels * left


def occlusion(pixels: np.ndarray, area: float, rng: Draw) -> np.ndarray:
    """A square of one colour, at any place, hides this share of the image."""
    height, width, channels = pixels.shape
    down, across = rng.random(2)
    colour = rng.integers(0, 256, channels)
    side = round(math.sqrt(area * height * width))
    top, left = round(down * max(height - side, 0)), round(across * max(width - side, 0))
    hidden = pixels.copy()
    hidden[top : top + side, left : left + side] = colour
    return hidden


def low_resolution(pixels: np.ndarray, share: float, rng: Draw) -> np.ndarray:
    """Made smaller, to this share of its side, and as large again as an exported graph makes it: bilinear."""
    picture = _picture(pixels)
    small = picture.resize([max(1, round(share * side)) for side in picture.size], Image.Resampling.BOX)
    return _pixels(small.resize(picture.size, Image.Resampling.BILINEAR), pixels)


Corruption: TypeAlias = Callable[[np.ndarray, float, Draw], np.ndarray]
# Darkness and occlusion are not in ImageNet-C, and its blurs, counted in pixels, are for images of 224.
CORRUPTIONS: dict[str, tuple[Corruption, Sequence[float]]] = {
    "blur": (blur, (0.01, 0.015, 0.02, 0.03, 0.04)),
    "noise": (noise, (0.08, 0.12, 0.18, 0.26, 0.38)),
    "jpeg": (jpeg, (25, 18, 15, 10, 7)),
    "darkness": (darkness, (0.7, 0.5, 0.35, 0.25, 0.15)),
    "occlusion": (occlusion, (0.05, 0.1, 0.2, 0.3, 0.4)),
    "low_resolution": (low_resolution, (0.6, 0.5, 0.4, 0.3, 0.25)),
}


def corrupt(pixels: np.ndarray, name: str, step: int, sample_id: str) -> np.ndarray:
    """An image (H, W, C) of 1 or 3 channels, uint8, under a step, 1 to 5, of one of `CORRUPTIONS`; likewise uint8."""
    apply, strengths = CORRUPTIONS[name]
    rng = np.random.default_rng([*name.encode(), int(sample_id[:16], 16)])
    return np.clip(np.rint(apply(pixels, strengths[step - 1], rng)), 0, 255).astype(np.uint8)


def _picture(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)


def _pixels(picture: Image.Image, like: np.ndarray) -> np.ndarray:
    return np.asarray(picture).reshape(like.shape)


class Deployed(NamedTuple):
    """How a network's logits become answers."""

    t_star: float
    threshold: float  # of the confidence: below it there is no answer
    bins: int  # of the ECE


def scores(logits: np.ndarray, labels: np.ndarray, deployed: Deployed) -> dict[str, float | None]:
    """`SCORES` of logits (N, K), all but macro F1 at T*.

    `answered` is the share of images, `errors` that of these which is wrong; None if none is answered.
    """
    log_probs = log_probabilities(logits, deployed.t_star)
    probabilities = np.exp(log_probs)
    predicted = logits.argmax(axis=1)
    answered = probabilities.max(axis=1) >= deployed.threshold
    return {
        "macro_f1": macro_f1(labels, predicted, logits.shape[1]),
        "nll": negative_log_likelihood(log_probs, labels),
        "ece": expected_calibration_error(reliability(probabilities, labels, deployed.bins)),
        "answered": float(answered.mean()),
        "errors": float((predicted != labels)[answered].mean()) if answered.any() else None,
    }


def measure(
    rows: Index,
    packed: Pixels,
    classes: list[str],
    predict: Callable[[np.ndarray], np.ndarray],
    deployed: Deployed,
    title: str,
) -> pd.DataFrame:
    """`scores` of the test split under each corruption: columns `corruption`, `step` and `SCORES`.

    Step 0 of each is the images as they are. `predict` takes uint8 (n, H, W, C) and gives logits (n, K).
    """
    test = rows.positions("test")
    labels, ids = rows.codes(classes)[test], rows.rows["sample_id"].to_numpy()[test]
    parts = np.array_split(np.arange(len(test)), math.ceil(len(test) / AT_ONCE))

    def under(name: str, step: int) -> dict[str, float | None]:
        logits = []
        for part in parts:
            images = packed[test[part]]
            if step:
                images = np.stack([corrupt(one, name, step, of) for one, of in zip(images, ids[part], strict=True)])
            logits.append(predict(images))
        return scores(np.concatenate(logits), labels, deployed)

    clean = under("", 0)
    cases = [(name, step) for name in CORRUPTIONS for step in (0, *STEPS)]
    found = [
        {"corruption": name, "step": step, **(under(name, step) if step else clean)}
        for name, step in track(cases, title, len(cases))
    ]
    return pd.DataFrame(found).astype(dict.fromkeys(SCORES, float))


def summary(table: pd.DataFrame) -> dict[str, Any]:
    """`scores` of images as they are (`clean`), and in the mean over the steps of each corruption and of all (`mean`).

    `table` is of `measure`. `errors` are those among the answers of all these steps; None if there is none.
    """

    def mean(part: pd.DataFrame) -> dict[str, float | None]:
        found: dict[str, float | None] = {name: float(part[name].mean()) for name in SCORES}
        weighed = (part["errors"].fillna(0) * part["answered"]).sum()
        return found | {"errors": float(weighed / part["answered"].sum()) if part["answered"].any() else None}

    steps = table[table["step"] > 0]
    return {
        "clean": mean(table[table["step"] == 0].head(1)),
        "mean": mean(steps),
        "corruptions": {name: mean(steps[steps["corruption"] == name]) for name in CORRUPTIONS},
    }
