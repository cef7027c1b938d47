"""Faces followed from frame to frame, their probabilities smoothed and their labels held steady."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from .detector import Face, iou


@dataclass(frozen=True)
class Smoothing:
    """How a track's label follows its probabilities.

    Attributes
    ----------
    seconds : float
        Time constant of the exponential moving average of the probabilities; 0 for none.
    confidence : float
        Largest smoothed probability from which on a face gets a label, in [0, 1].
    hysteresis : float
        By how much another class must lead before it takes the label, and by how much the confidence may fall
        before the label is withdrawn; in [0, 1].
    """

    seconds: float = 0.15
    confidence: float = 0.5
    hysteresis: float = 0.1


@dataclass
class Track:
    """One face over time.

    Attributes
    ----------
    number : int
        From 1, never used again.
    face : Face
        Where it was last.
    time : float
        When that was, in seconds.
    probabilities, smoothed : (K,) array
        Of the last frame that showed it, and their average up to then.
    label : int or None
        The class; None where the confidence does not suffice.
    """

    number: int
    face: Face
    time: float
    probabilities: np.ndarray
    smoothed: np.ndarray
    label: int | None


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
        """Continue the tracks with the faces of a frame.

        Parameters
        ----------
        time : float
            Of the frame, in seconds; not before that of the last.
        faces : sequence of N Face
        probabilities : (N, K) array

        Returns
        -------
        list of N Track
            That of each face, in the order of `faces`.
        """
        self.tracks = [track for track in self.tracks if time - track.time <= self.patience]
        pairs = sorted(
            (-iou(track.face.box, face.box), place, row)
            for place, track in enumerate(self.tracks)
            for row, face in enumerate(faces)
        )
        track_of: dict[int, Track] = {}
        taken: set[int] = set()
        for overlap, place, row in pairs:
            if -overlap >= self.overlap and place not in taken and row not in track_of:
                taken.add(place)
                track_of[row] = self.tracks[place]
        for row, face in enumerate(faces):
            if row in track_of:
                self._continue(track_of[row], time, face, probabilities[row])
            else:
                self.started += 1
                label = decide(None, probabilities[row], self.smoothing)
                track_of[row] = Track(self.started, face, time, probabilities[row], probabilities[row], label)
                self.tracks.append(track_of[row])
        return [track_of[row] for row in range(len(faces))]

    def _continue(self, track: Track, time: float, face: Face, probabilities: np.ndarray) -> None:
        weight = 1.0
        if self.smoothing.seconds > 0:
            weight = -math.expm1(-(time - track.time) / self.smoothing.seconds)
        track.face, track.time, track.probabilities = face, time, probabilities
        track.smoothed = track.smoothed + weight * (probabilities - track.smoothed)
        track.label = decide(track.label, track.smoothed, self.smoothing)


def decide(label: int | None, probabilities: np.ndarray, smoothing: Smoothing) -> int | None:
    """The label after `label`, given probabilities (K,), or None where they do not suffice for one."""
    best = int(probabilities.argmax())
    if label is not None and probabilities[best] - probabilities[label] < smoothing.hysteresis:
        best = label
    needed = smoothing.confidence - (smoothing.hysteresis if best == label else 0.0)
    return best if probabilities[best] >= needed else None
