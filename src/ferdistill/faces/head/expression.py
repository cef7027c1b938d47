"""Expressions as FACS action units, what annotators see in them, and the face units of the mesh that show them.

The action units and what they do to a face follow the Facial Action Coding System (Ekman, Friesen & Hager, 2002,
"Facial Action Coding System: The Manual"), the emotions EMFACS (Friesen & Ekman, 1983, "EMFACS-7: Emotional Facial
Action Coding System", unpublished manuscript, University of California at San Francisco). The face units are the 52 of
Apple's ARKit, as Mika Suominen modelled them for MakeHuman.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

CLASSES = ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")

# 18 and 22 are the lips' in speech too, 43 closes the eyes. No prototype has 18 or 43: annotators see through them.
ACTION_UNITS = (1, 2, 4, 5, 6, 7, 9, 10, 12, 15, 16, 17, 18, 20, 22, 23, 25, 26, 43)
SPEECH = ((18, 25), (22, 25), (25, 26), (22, 26))  # units of a sound

# EMFACS names the units of each emotion. The intensities are this corpus's own: 1 for a unit that makes the
# emotion, less for one that only often comes with it.
PROTOTYPES: dict[str, dict[int, float]] = {
    "angry": {4: 1.0, 5: 0.5, 7: 0.6, 10: 0.3, 22: 0.4, 23: 0.5, 25: 0.6, 26: 0.5},
    "disgust": {9: 1.0, 10: 1.0, 6: 0.4, 7: 0.4, 15: 0.2, 16: 0.2, 17: 0.6},
    "fear": {1: 1.0, 2: 0.5, 4: 0.6, 5: 1.0, 7: 0.3, 20: 1.0, 25: 0.9, 26: 0.3},
    "happy": {6: 0.9, 12: 1.0, 25: 0.8},
    "neutral": {},
    "sad": {1: 1.0, 4: 0.8, 15: 1.0, 17: 0.7},
    "surprise": {1: 0.9, 2: 0.9, 5: 0.9, 25: 0.7, 26: 1.0},
}

# How often each class is meant, after the class balance of FER2013.
PRIOR = {
    "angry": 0.135, "disgust": 0.055, "fear": 0.13, "happy": 0.25, "neutral": 0.18, "sad": 0.15, "surprise": 0.10,
}  # fmt: skip

WEAKEST = 0.7  # least intensity at which a prototype is still the full expression to an annotator

# How far an action unit at full intensity moves each face unit of the mesh; L and R stand for Left and Right.
FACE_UNITS: dict[int, dict[str, float]] = {
    1: {"browInnerUp": 1.5},
    2: {"browOuterUp*": 1.2},
    4: {"browDown*": 2.3, "noseSneer*": 0.35},
    5: {"eyeWide*": 1.8, "browOuterUp*": 0.2},
    6: {"cheekSquint*": 1.5, "eyeSquint*": 0.5},
    7: {"eyeSquint*": 1.4, "browDown*": 0.2},
    9: {"noseSneer*": 2.3, "browDown*": 0.2, "cheekSquint*": 0.5, "eyeSquint*": 0.6, "eyeBlink*": 0.1},
    10: {"mouthUpperUp*": 0.7, "mouthFrown*": 0.1},
    12: {"mouthSmile*": 1.9, "mouthDimple*": 0.3, "mouthUpperUp*": 0.3},
    15: {"mouthFrown*": 1.9, "mouthLowerDown*": 0.15},
    16: {"mouthLowerDown*": 1.0},
    17: {"mouthShrugLower": 0.95, "mouthPucker": 0.1},
    18: {"mouthPucker": 0.8},
    20: {"mouthStretch*": 1.9},
    22: {"mouthFunnel": 0.8},
    23: {"mouthPress*": 0.45, "mouthRollLower": 0.5, "mouthRollUpper": 0.35, "mouthPucker": 0.2, "mouthFrown*": 0.35},
    25: {"mouthLowerDown*": 0.35, "mouthUpperUp*": 0.6, "jawOpen": 0.05},
    26: {"jawOpen": 1.05},
    43: {"eyeBlink*": 1.0},
}


def prototype(emotion: str) -> Floats:
    """Action units of a class at full intensity, shape (A,), each in [0, 1].

    Raises
    ------
    KeyError
        If `emotion` is not one of `CLASSES`.
    """
    units = PROTOTYPES[emotion]
    return np.array([units.get(unit, 0.0) for unit in ACTION_UNITS])


def perceived(aus: ArrayLike, sharpness: float) -> Floats:
    """Probability with which an annotator names each class on seeing these action units.

    Each class is the segment from `WEAKEST` to 1 of the ray through its prototype; neutral is the origin. The
    probability is the softmax of `-sharpness` times the squared Euclidean distance to the segment. So a weak
    expression looks neutral, and classes that share units are confused.

    Parameters
    ----------
    aus : array of float, shape (N, A)
        Intensities in [0, 1], in the order of `ACTION_UNITS`.
    sharpness : float
        Inverse temperature, above 0; the larger, the more annotators agree.

    Returns
    -------
    array of float64, shape (N, 7)
        Rows sum to 1, in the order of `CLASSES`.
    """
    expressions = np.asarray(aus, dtype=np.float64)
    logits = np.empty((len(expressions), len(CLASSES)))
    for column, emotion in enumerate(CLASSES):
        direction = prototype(emotion)
        norm = direction @ direction
        along = expressions @ direction / norm if norm else np.zeros(len(expressions))
        nearest = np.clip(along, WEAKEST, 1.0)[:, None] * direction
        logits[:, column] = -sharpness * ((expressions - nearest) ** 2).sum(axis=1)
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return odds / odds.sum(axis=1, keepdims=True)


def intensity(aus: ArrayLike) -> Floats:
    """How far expressions, (N, A), go along the ray through the prototype that they go along farthest, (N,), 0 to 1."""
    expressions = np.asarray(aus, dtype=np.float64)
    rays = np.array([prototype(emotion) for emotion in CLASSES if PROTOTYPES[emotion]])
    return np.clip(expressions @ rays.T / (rays * rays).sum(axis=1), 0.0, 1.0).max(axis=1)


def face_units(aus: ArrayLike, asymmetry: dict[int, float]) -> dict[str, float]:
    """How far each face unit of the mesh moves.

    Parameters
    ----------
    aus : array of float, shape (A,)
        Intensities in [0, 1], in the order of `ACTION_UNITS`.
    asymmetry : dict of int to float
        By action unit how much stronger, as a fraction, the left side moves than the mean of both.
    """
    moved: dict[str, float] = {}
    for unit, intensity in zip(ACTION_UNITS, np.asarray(aus, dtype=np.float64).tolist(), strict=True):
        if intensity == 0:
            continue
        lean = asymmetry.get(unit, 0.0)
        for name, share in FACE_UNITS[unit].items():
            sides = {"Left": 1 + lean, "Right": 1 - lean} if name.endswith("*") else {"": 1.0}
            for side, gain in sides.items():
                whole = name.rstrip("*") + side
                moved[whole] = moved.get(whole, 0.0) + share * gain * intensity
    return moved


def draw_expression(rng: np.random.Generator) -> tuple[str, Floats]:
    """Draw the class meant by a face and its action units.

    Returns
    -------
    str
        One of `CLASSES`, by `PRIOR`.
    array of float64, shape (A,)
        Intensities in [0, 1]: the class's prototype at some strength, at times blended with another class,
        each unit off by a little, now and then a unit that belongs to neither, lips that speak or lids that blink.
    """
    prior = np.array([PRIOR[emotion] for emotion in CLASSES])
    intended, second = rng.choice(len(CLASSES), size=2, p=prior / prior.sum())
    strength, second_strength = rng.beta(3.0, 1.3), rng.uniform(0.2, 0.7)
    blended = rng.random() < 0.15
    gain = rng.normal(1.0, 0.12, size=len(ACTION_UNITS))
    stray = rng.uniform(0.0, 0.5, size=len(ACTION_UNITS)) * (rng.random(len(ACTION_UNITS)) < 0.04)
    if rng.random() < 0.12:
        for unit in SPEECH[rng.integers(len(SPEECH))]:
            stray[ACTION_UNITS.index(unit)] = rng.uniform(0.2, 0.6)
    stray[ACTION_UNITS.index(43)] = rng.uniform(0.3, 1.0) if rng.random() < 0.06 else 0.0
    aus = strength * prototype(CLASSES[intended])
    if blended:
        aus = np.maximum(aus, second_strength * prototype(CLASSES[second]))
    return CLASSES[intended], np.clip(np.maximum(gain * aus, stray), 0.0, 1.0)
