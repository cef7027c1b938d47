"""From frames to labelled faces: detect, crop, classify, track. Takes any frames, so it needs no camera."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from ..runtime import pictures
from ..runtime.classifier import Classifier
from ..runtime.guarantees import acted_on
from .camera import Frame
from .detector import MARGIN, Detector, Face, crop
from .tracker import Smoothing, Track, Tracker

UNSURE = (170, 170, 170)
COLOURS = (
    (230, 60, 60), (120, 180, 60), (190, 90, 220), (250, 190, 40), (200, 200, 200), (80, 140, 250), (60, 210, 210),
)  # fmt: skip


@dataclass(frozen=True)
class Seen:
    """A frame and the tracks of the faces in it."""

    frame: Frame
    tracks: list[Track]


def classify(
    classifier: Classifier, pixels: np.ndarray, faces: list[Face], margin: float | None = MARGIN
) -> np.ndarray:
    """Calibrated probabilities (N, K) of N faces in a picture, RGB uint8 (H, W, 3).

    `margin` is that of `detector.crop`; None: each face is the whole picture, neither squared nor turned.
    """
    return pictures.classify(classifier, [pixels if margin is None else crop(pixels, face, margin) for face in faces])


def watch(
    frames: Iterable[Frame],
    classifier: Classifier,
    detector: Detector,
    smoothing: Smoothing | None = None,
    margin: float | None = MARGIN,
) -> Iterator[Seen]:
    """Yield every frame, in order of time, with the tracks of its faces, which change with the next frame.

    The detector is told where the faces were a moment ago. `smoothing` has the bundle's confidence, if not given;
    `margin` is that of `classify`.
    """
    tracker = Tracker(
        smoothing or Smoothing(confidence=classifier.confidence, strict=classifier.info["guarantee"] is not None)
    )
    for frame in frames:
        faces = detector(frame.pixels, [track.face for track in tracker.tracks])
        yield Seen(frame, tracker.update(frame.time, faces, classify(classifier, frame.pixels, faces, margin)))


def record(seen: Seen, classifier: Classifier, located: bool = True) -> dict[str, Any]:
    """What is written of a frame, as JSON takes it; if not `located`, its one track is the frame, and has no place.

    `label`, `set` and `alerts` are the track's, by its smoothed probabilities.
    """
    classes = classifier.classes
    tracks = [
        ({"track": track.number} | track.face.record() if located else {})
        | {
            "probabilities": dict(zip(classes, track.probabilities.tolist(), strict=True)),
            "smoothed": dict(zip(classes, track.smoothed.tolist(), strict=True)),
            "label": None if track.label is None else classes[track.label],
            **acted_on(track.smoothed, classes, classifier.info),
        }
        for track in seen.tracks
    ]
    return {"frame": seen.frame.number, "time": round(seen.frame.time, 4)} | (
        {"faces": tracks} if located else tracks[0]
    )


def annotate(seen: Seen, classes: list[str], fps: float, notice: str = "") -> np.ndarray:
    """A copy of the frame with box, label and bars of each face, frames a second, and `notice` at its foot.

    RGB uint8 (H, W, 3).
    """
    canvas = seen.frame.pixels.copy()
    unit = max(0.4, min(canvas.shape[:2]) / 900)  # of the text
    for track in seen.tracks:
        left, top, width, height = (round(value) for value in track.face.box)
        colour = UNSURE if track.label is None else COLOURS[track.label % len(COLOURS)]
        outline = cv2.boxPoints(((left + width / 2, top + height / 2), (width, height), track.face.tilt))
        cv2.polylines(canvas, [np.rint(outline).astype(np.int32)], True, colour, 2, cv2.LINE_AA)
        name = "unsure" if track.label is None else classes[track.label]
        share = track.smoothed.max() if track.label is None else track.smoothed[track.label]
        text = f"{track.number}: {name} {share:.0%}"
        _text(canvas, text, (max(0, left), max(round(34 * unit), top - 8)), 1.4 * unit, colour)
        _bars(canvas, track, classes, unit)
    _text(canvas, f"{fps:.0f} FPS", (8, round(40 * unit)), 1.4 * unit, (255, 255, 255))
    if notice:
        _text(canvas, notice, (8, canvas.shape[0] - 8), 0.7 * unit, (255, 255, 255))
    return canvas


def _bars(canvas: np.ndarray, track: Track, classes: list[str], unit: float) -> None:
    """The smoothed probabilities on a dark panel beside the face, where there is more room."""
    left, top, width, _ = (round(value) for value in track.face.box)
    row, long = round(32 * unit), round(200 * unit)
    right_of = left + width + 10 + long <= canvas.shape[1]
    start = left + width + 10 if right_of else max(0, left - 10 - long)
    top = min(max(0, top), max(0, canvas.shape[0] - row * len(classes)))
    panel = canvas[top : top + row * len(classes), start : start + long]
    panel //= 3
    for place, (share, name) in enumerate(zip(track.smoothed.tolist(), classes, strict=True)):
        end = (start + max(1, round(long * share)), top + row * (place + 1) - 2)
        cv2.rectangle(canvas, (start, top + row * place + 1), end, COLOURS[place % len(COLOURS)], cv2.FILLED)
        base = top + row * (place + 1) - round(9 * unit)
        _text(canvas, f"{name} {share:.2f}", (start + 4, base), 0.9 * unit, (255, 255, 255))


def _text(canvas: np.ndarray, text: str, at: tuple[int, int], unit: float, colour: tuple[int, int, int]) -> None:
    """Light letters with a dark rim, legible on anything."""
    for tone, width in ((0, 0, 0), 3), (colour, 1):
        cv2.putText(canvas, text, at, cv2.FONT_HERSHEY_SIMPLEX, unit, tone, width, cv2.LINE_AA)
