"""What faces in a picture express. Needs OpenCV."""

from typing import Any

import numpy as np

from ..runtime import pictures
from ..runtime.classifier import Classifier
from .detector import MARGIN, Detector, Face, crop


def classify(
    classifier: Classifier, pixels: np.ndarray, faces: list[Face], margin: float | None = MARGIN
) -> np.ndarray:
    """Calibrated probabilities of the faces in a picture.

    Parameters
    ----------
    classifier : Classifier
    pixels : (H, W, 3) uint8 array
        RGB.
    faces : list of N Face
    margin : float or None
        Around each box, as `detector.crop` takes it. None: each face is the whole picture, neither squared nor turned.

    Returns
    -------
    (N, K) float32 array
        Columns as in `classifier.classes`.
    """
    return pictures.classify(classifier, [pixels if margin is None else crop(pixels, face, margin) for face in faces])


def predict(
    classifier: Classifier, pixels: np.ndarray, detector: Detector, threshold: float, margin: float | None = MARGIN
) -> list[dict[str, Any]]:
    """Say of each face in a picture where it is and what it expresses, as JSON takes it.

    Takes what `classify` takes; `label` is None where the largest probability is below `threshold`.
    """
    faces = detector(pixels, [])
    rows = classify(classifier, pixels, faces, margin)
    return [face.record() | classifier.answer(row, threshold) for face, row in zip(faces, rows, strict=True)]
