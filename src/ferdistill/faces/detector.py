"""Faces in a frame, by detectors that share one form, and their upright crops. Needs OpenCV."""

import math
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ..errors import CheckError, UsageError
from ..runtime.classifier import CROP
from ..runtime.onnx_file import require_modest
from ..runtime.session import open_session

Box = tuple[float, float, float, float]  # left, top, width and height in pixels; may reach over the frame's edge

TILTS = (0.0, 20.0, -20.0, 40.0, -40.0)  # degrees; the cascade sees faces that are turned by about 15 at most
STEEPEST = 60.0  # degrees; further turned, a head is a false find

FULL_RANGE = Path(__file__).parent / "web/vendor/full_range.onnx"  # `ferdistill detector fetch` puts it there

MARGIN = CROP["margin"]
# The cascade's box is so much wider than the full-range detector's, and so much higher in the face, by the latter's
# side: medians over 35 faces of photographs and videos that both found. It is moved there, so that one margin serves.
WIDER, HIGHER = 1.03, 0.09


@dataclass(frozen=True)
class Face:
    """Where a face is."""

    box: Box
    tilt: float = 0.0  # degrees by which the head is turned clockwise in the picture

    def record(self) -> dict[str, Any]:
        """Box and tilt as JSON takes them, to a tenth."""
        return {"box": [round(value, 1) for value in self.box], "tilt": round(self.tilt, 1)}


# Takes a frame, RGB uint8 (H, W, 3), and the faces that were there a moment ago; gives those of now.
Detector = Callable[[np.ndarray, Sequence[Face]], list[Face]]


def iou(a: Box, b: Box) -> float:
    """Intersection over union of two boxes, in [0, 1]."""
    across = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    down = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    if across <= 0 or down <= 0:
        return 0.0
    return across * down / (a[2] * a[3] + b[2] * b[3] - across * down)


class Cascade:
    """OpenCV's Haar cascade `frontalface_alt2` (Lienhart & Maydt, 2002), which its packages carry.

    The whole frame is searched for upright faces. Where one was seen a moment ago and is not found now, its
    surroundings are searched at the angles of `TILTS` from the last.

    `smallest` is the side of the smallest face, as a share of the frame's shorter side, above 0, at most 1; time goes
    with its inverse square. `thorough` searches the whole frame at the other angles of `TILTS` too, until there is a
    face: for pictures, where no frame came before.

    Raises UsageError if the installed OpenCV has no cascades, as those from version 5 on.
    """

    side = 20  # pixels of the smallest face after scaling: the window of the cascade

    def __init__(self, smallest: float = 0.1, thorough: bool = False) -> None:
        self.smallest, self.thorough = smallest, thorough
        data = getattr(cv2, "data", None)
        file = Path(data.haarcascades if data else "") / "haarcascade_frontalface_alt2.xml"
        if not hasattr(cv2, "CascadeClassifier") or not file.is_file():
            raise UsageError(
                "this OpenCV has no Haar cascades",
                where=f"OpenCV {cv2.__version__}",
                expected="opencv-python-headless 4",
                hint='pip install "opencv-python-headless<5", or give a YuNet file with --detector',
            )
        self._cascade = cv2.CascadeClassifier(str(file))

    def __call__(self, frame: np.ndarray, near: Sequence[Face] = ()) -> list[Face]:
        """Find the faces of a frame; see `Detector`."""
        grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
        height, width = grey.shape
        smallest, largest = max(self.smallest * min(height, width), 8.0), min(height, width)
        found = [Face(box) for box in self._search(grey, smallest, largest)]
        for tilt in TILTS[1:] if self.thorough and not found else ():
            turned, move = _turn(grey, (0.0, 0.0, width, height), tilt, math.hypot(height, width))
            found = [Face(_back(box, move), tilt) for box in self._search(turned, smallest, largest)]
            if found:
                break
        for face in near:
            if _is_apart(face, found):
                again = self._follow(grey, face)
                found += [again] if again and _is_apart(again, found) else []
        return found

    def _follow(self, grey: np.ndarray, face: Face) -> Face | None:
        """The face that was at `face` a moment ago, sought in its surroundings, at angles near its own first."""
        side = max(face.box[2:])
        for tilt in (face.tilt + turn for turn in TILTS if abs(face.tilt + turn) <= STEEPEST):
            patch, move = _turn(grey, face.box, tilt, 2 * side)
            if found := self._search(patch, 0.7 * side, 1.4 * side):
                nearest = max(found, key=lambda box: iou(box, (side / 2, side / 2, side, side)))
                return Face(_back(nearest, move), tilt)
        return None

    def _search(self, grey: np.ndarray, smallest: float, largest: float) -> list[Box]:
        """Upright faces whose sides lie between two lengths, where the full-range detector would see them."""
        scale = min(1.0, self.side / smallest)
        small = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        low, high = math.floor(scale * smallest), math.ceil(scale * largest)
        found = self._cascade.detectMultiScale(small, 1.1, 3, minSize=(low, low), maxSize=(high, high))
        sides = [(x + w / 2, y + h / 2, w / WIDER) for x, y, w, h in np.asarray(found).tolist()]
        return [
            ((x - side / 2) / scale, (y + (HIGHER - 0.5) * side) / scale, side / scale, side / scale)
            for x, y, side in sides
        ]


def _is_apart(face: Face, others: Sequence[Face]) -> bool:
    return all(iou(face.box, other.box) < 0.3 for other in others)


def _turn(
    picture: np.ndarray, box: Box, tilt: float, side: float, copied: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """The square of `side` around a box turned by -`tilt` (`copied`: by whole pixels), and the affine map to it."""
    left, top, width, height = box
    across, down = left + width / 2, top + height / 2
    move = cv2.getRotationMatrix2D((across, down), tilt, 1.0)
    move = move + np.array([[0, 0, side / 2 - across], [0, 0, side / 2 - down]])
    move = np.round(move) if copied else move
    return cv2.warpAffine(picture, move, (round(side),) * 2, borderMode=cv2.BORDER_REPLICATE), move


def _back(box: Box, forward: np.ndarray) -> Box:
    """Place a box of a turned picture in the original, where it stays square to the axes."""
    left, top, width, height = box
    across, down = cv2.invertAffineTransform(forward) @ (left + width / 2, top + height / 2, 1.0)
    return float(across - width / 2), float(down - height / 2), width, height


# YuNet's outputs: pixels from one cell to the next, and numbers of a cell.
YUNET = {
    f"{head}_{stride}": (stride, numbers)
    for head, numbers in (("cls", 1), ("obj", 1), ("bbox", 4), ("kps", 10))
    for stride in (8, 16, 32)
}
# OpenCV crashes at some networks; then this does, and not the program that wants one.
TRIAL = """
import sys, cv2, numpy
network = cv2.dnn.readNetFromONNX(sys.argv[1])
network.setInput(numpy.zeros((1, 3, 320, 320), numpy.float32))
network.forward(sys.argv[2:])
cv2.FaceDetectorYN.create(sys.argv[1], "", (320, 320)).detect(numpy.zeros((320, 320, 3), numpy.uint8))
"""
TRIAL_SECONDS = 60


class YuNet:
    """The YuNet detector (Wu, Peng & Yu, 2023), from its ONNX file, through OpenCV's `FaceDetectorYN`.

    Its eyes give the tilt. The box is made square around its middle.

    Raises UsageError or CheckError if the file is missing, OpenCV cannot load it, or it is another network: OpenCV does
    not look whether outputs are as large as it reads them, so that is seen to here.
    """

    def __init__(self, model: Path, score: float = 0.7) -> None:
        if not model.is_file():
            raise UsageError(
                "no such detector",
                where=str(model),
                expected="full_range, haar, or a YuNet file (.onnx)",
                hint="the file is face_detection_yunet_*.onnx of the OpenCV Zoo",
            )
        self._model = model
        try:
            require_modest(model, beside=())
        except CheckError as error:
            raise self._wrong(error.what) from None
        self._seen: set[tuple[int, int]] = set()  # sizes for which its outputs are as they should be
        self._require_survival()
        try:
            self._bare = cv2.dnn.readNetFromONNX(str(model))
            self._network = cv2.FaceDetectorYN.create(str(model), "", (320, 320), score)
        except cv2.error as error:
            raise self._wrong(f"OpenCV cannot load the detector: {str(error.err or error).strip()}") from None
        self._require_outputs(320, 320)

    def __call__(self, frame: np.ndarray, near: Sequence[Face] = ()) -> list[Face]:
        """Find the faces of a frame; see `Detector`."""
        height, width = frame.shape[:2]
        self._require_outputs(width, height)
        self._network.setInputSize((width, height))
        rows = self._network.detect(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))[1]
        faces = []
        for left, top, across, down, *points in [] if rows is None else rows.tolist():
            side = max(across, down)
            if not np.isfinite([left, top, side, *points]).all() or side > 4 * max(width, height):
                raise self._wrong(f"the detector gives a box that is none: {[left, top, across, down]}")
            box = (left + (across - side) / 2, top + (down - side) / 2, side, side)
            # The first point is the person's right eye, which lies to the left in the picture.
            tilt = math.degrees(math.atan2(points[3] - points[1], points[2] - points[0]))
            faces.append(Face(box, tilt))
        return faces

    def _require_outputs(self, width: int, height: int) -> None:
        """Raise a CheckError if the network does not give what OpenCV reads of a frame of this size."""
        across, down = (-(-side // 32) * 32 for side in (width, height))  # as OpenCV pads it
        if (across, down) in self._seen:
            return
        try:
            self._bare.setInput(np.zeros((1, 3, down, across), np.float32))
            found = [output.size for output in self._bare.forward(list(YUNET))]
        except cv2.error as error:
            raise self._wrong(f"OpenCV cannot run the detector: {str(error.err or error).strip()}") from None
        if found != [(across // stride) * (down // stride) * numbers for stride, numbers in YUNET.values()]:
            raise self._wrong("a network whose outputs are not YuNet's")
        self._seen.add((across, down))

    def _require_survival(self) -> None:
        """Raise a CheckError if OpenCV crashes at the network, or does not end; an error it raises again later."""
        command = [sys.executable, "-c", TRIAL, str(self._model), *YUNET]
        try:
            code = subprocess.run(command, capture_output=True, timeout=TRIAL_SECONDS, check=False).returncode
        except subprocess.TimeoutExpired:
            raise self._wrong(f"OpenCV does not end with the detector within {TRIAL_SECONDS} s") from None
        if code not in (0, 1):
            raise self._wrong("a network that OpenCV crashes at")

    def _wrong(self, what: str) -> CheckError:
        hint = "take face_detection_yunet_*.onnx of the OpenCV Zoo"
        return CheckError(what, where=str(self._model), expected="a YuNet file (.onnx)", hint=hint)


class FullRange:
    """MediaPipe's full-range detector (Bazarevsky et al., 2019; its sparse variant), in ONNX Runtime.

    It finds faces from a fifteenth of the frame's longer side up to the whole of it, turned by up to 60 degrees. Its
    eyes give the tilt. `score` is the least probability of a find, in (0, 1); `threads` are as in
    `runtime.session.open_session`.

    Raises UsageError if the file is not there; CheckError if it is no such network.
    """

    side, stride = 192, 4  # pixels of the square that it takes, and between its anchors

    def __init__(self, file: Path | None = None, score: float = 0.5, threads: int | None = None) -> None:
        file = FULL_RANGE if file is None else file
        if not file.is_file():
            raise UsageError(
                "the full-range detector is not here",
                where=str(file),
                expected="its ONNX file",
                hint="ferdistill detector fetch (or --detector haar, which needs no file)",
            )
        self._session = open_session(file, threads, "cpu")
        if {out.name for out in self._session.get_outputs()} != {"boxes", "scores"}:
            raise CheckError("not the full-range detector", where=str(file), hint="ferdistill detector fetch")
        self.score = score
        middles = (np.arange(self.side // self.stride, dtype=np.float32) + 0.5) * self.stride
        self._anchors = np.stack(np.meshgrid(middles, middles), axis=-1).reshape(-1, 1, 2)  # row by row, x before y

    def __call__(self, frame: np.ndarray, near: Sequence[Face] = ()) -> list[Face]:
        """Find the faces of a frame, the surest first; see `Detector`."""
        square, scale, corner = self._square(frame)
        images = square.transpose(2, 0, 1)[None].astype(np.float32) / 127.5 - 1
        found, logits = self._session.run(["boxes", "scores"], {"images": images})
        probabilities = 1 / (1 + np.exp(-np.clip(logits[0, :, 0], -50, 50)))
        sure = np.flatnonzero(probabilities >= self.score)
        sure = sure[np.argsort(-probabilities[sure], kind="stable")]
        # Of each: middle, size, right eye, left eye, and other points; places are offsets from the anchor.
        rows = found[0].reshape(len(probabilities), -1, 2)[sure, :4].astype(np.float64)
        rows[:, [0, 2, 3]] += self._anchors[sure] - corner
        faces: list[Face] = []
        for middle, size, right, left in (rows / scale).tolist():
            side = max(size)
            tilt = math.degrees(math.atan2(left[1] - right[1], left[0] - right[0]))
            face = Face((middle[0] - side / 2, middle[1] - side / 2, side, side), tilt)
            faces += [face] if _is_apart(face, faces) else []
        return faces

    def _square(self, frame: np.ndarray) -> tuple[np.ndarray, float, np.ndarray]:
        """The frame in the middle of a black square of the network's side, its scale there, and its left top corner."""
        height, width = frame.shape[:2]
        scale = self.side / max(height, width)
        size = max(1, round(scale * width)), max(1, round(scale * height))
        left, top = (self.side - size[0]) // 2, (self.side - size[1]) // 2
        square = np.zeros((self.side, self.side, 3), np.uint8)
        square[top : top + size[1], left : left + size[0]] = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
        return square, scale, np.array([left, top])


def whole(frame: np.ndarray, near: Sequence[Face] = ()) -> list[Face]:
    """Take the whole frame for one face; see `Detector`."""
    return [Face((0.0, 0.0, float(frame.shape[1]), float(frame.shape[0])))]


def open_detector(
    name: str | None, entire: bool, smallest: float, thorough: bool, threads: int | None = None
) -> Detector:
    """`whole` if `entire`; else by its name: `full_range`, `haar`, or YuNet's file. Raises as they do.

    None stands for the full-range detector if its file is here, and else for the cascade.
    """
    if entire:
        return whole
    if name == "full_range" or (name is None and FULL_RANGE.is_file()):
        return FullRange(threads=threads)
    return Cascade(smallest, thorough) if name in (None, "haar") else YuNet(Path(name))


def crop(frame: np.ndarray, face: Face, margin: float = MARGIN) -> np.ndarray:
    """The square around a face of a frame, uint8 (H, W, 3), turned upright, at the frame's own resolution.

    `margin`, above -0.5, is added on each side, as a share of the longer one; beyond the frame its edge is repeated.
    """
    side = max(1, round(max(face.box[2:]) * (1 + 2 * margin)))
    return _turn(frame, face.box, face.tilt, side, copied=face.tilt == 0)[0]
