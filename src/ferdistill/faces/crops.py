"""What faces in a picture express. Needs OpenCV."""

from typing import Any

import numpy as np

from ..image_files import resize
from ..runtime.classifier import Classifier
from .detector import MARGIN, Detector, Face, crop

CONFIDENCE = 0.5  # where the bundle does not say


def confidence(classifier: Classifier) -> float:
    """The confidence under which the classifier abstains: `thresholds.confidence` of its bundle, or 0.5."""
    return float(classifier.info["thresholds"].get("confidence", CONFIDENCE))


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
    if not faces:
        return np.zeros((0, len(classifier.classes)), np.float32)
    image = classifier.info["image"]
    crops = [pixels if margin is None else crop(pixels, face, margin) for face in faces]
    return classifier.predict(np.stack([resize(face, image["size"], image["channels"]) for face in crops]))


def predict(
    classifier: Classifier,
    pixels: np.ndarray,
    detector: Detector,
    threshold: float,
    margin: float | None = MARGIN,
) -> list[dict[str, Any]]:
    """Say of each face in a picture where it is and what it expresses, as JSON takes it.

    Takes what `classify` takes; `label` is None where the largest probability is below `threshold`.
    """
    faces = detector(pixels, [])
    found = []
    for face, row in zip(faces, classify(classifier, pixels, faces, margin), strict=True):
        best = int(row.argmax())
        found.append(
            {
                "box": [round(value, 1) for value in face.box],
                "tilt": round(face.tilt, 1),
                "label": classifier.classes[best] if row[best] >= threshold else None,
                "confidence": float(row[best]),
                "probabilities": dict(zip(classifier.classes, row.tolist(), strict=True)),
            }
        )
    return found
