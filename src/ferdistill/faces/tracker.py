"""Faces followed from frame to frame, their probabilities smoothed and their labels held steady."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from .detector import Face, iou


@dataclass(frozen=True)
class Smoothing:
    """How a track's label follows its probabilities."""

    seconds: float = 0.15  # time constant of the exponential moving average of the probabilities; 0 for none
    confidence: float = 0.5  # largest smoothed probability from which on there is a label, in [0, 1]
    # By how much another class must lead before it takes the label, and by how much the confidence may fall before the
    # label is withdrawn; in [0, 1].
    hysteresis: float = 0.1
    strict: bool = False  # whether a label is withdrawn at once below a confidence that is guaranteed


@dataclass
class Track:
    """One face over time."""

    number: int  # from 1, never used again
    face: Face  # where it was last
    time: float  # when that was, in seconds
    probabilities: np.ndarray  # (K,), of the last frame that showed it
    smoothed: np.ndarray  # (K,), their average up to then
    label: int | None  # the class; None where the confidence does not suffice


@dataclass
class Tracker:
    """Tracks of all faces in view.

    A face continues the track whose last box it overlaps most, with an intersection over union of at least `overlap`,
    greedily from the best pair on. A track that is not seen for `patience` seconds ends.
    """

    smoothing: Smoothing = field(default_factory=Smoothing)
    overlap: float = 0.3
    patience: float = 0.5
    tracks: list[Track] = field(default_factory=list)
    started: int = 0

    def update(self, time: float, faces: Sequence[Face], probabilities: np.ndarray) -> list[Track]:
        """Continue the tracks with the N faces of a frame, whose probabilities are (N, K).

        `time` is the frame's, in seconds, not before that of the last. Gives the track of each face, in their order.
        """
        self.tracks = [track for track in self.tracks if time - track.time <= self.patience]
        pairs = sorted(
            (-iou(track.face.box, face.box), place, row)
            for place, track in enumerate(self.tracks)
            for row, face in enumerate(faces)
        )
        places: dict[int, int] = {}
        for overlap, place, row in pairs:
            if -overlap >= self.overlap and place not in places.values() and row not in places:
                places[row] = place
        track_of = {row: self.tracks[place] for row, place in places.items()}
        for row, face in enumerate(faces):
            now = probabilities[row]
            if row not in track_of:
                self.started += 1
                track_of[row] = Track(self.started, face, time, now, now, None)
                self.tracks.append(track_of[row])
            track = track_of[row]
            seconds = self.smoothing.seconds
            weight = -math.expm1(-(time - track.time) / seconds) if seconds > 0 else 1.0
            track.face, track.time, track.probabilities = face, time, now
            track.smoothed = track.smoothed + weight * (now - track.smoothed)
            track.label = steady_label(track.label, track.smoothed, self.smoothing)
        return [track_of[row] for row in range(len(faces))]


def steady_label(label: int | None, probabilities: np.ndarray, smoothing: Smoothing) -> int | None:
    """The label after `label`, given probabilities (K,), or None where they do not suffice for one."""
    best = int(probabilities.argmax())
    if label is not None and probabilities[best] - probabilities[label] < smoothing.hysteresis:
        best = label
    held = best == label and not smoothing.strict
    needed = smoothing.confidence - (smoothing.hysteresis if held else 0.0)
    return best if probabilities[best] >= needed else None
