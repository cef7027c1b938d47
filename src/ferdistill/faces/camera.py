"""Frames of a camera, a video or a directory of pictures, one after another, and the annotated video. Needs OpenCV."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

# OpenCV prints what FFmpeg says of a bad video; the errors here say it once.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

import cv2
import numpy as np

from ..errors import CheckError, UsageError
from ..files import atomic
from ..image_files import image_size
from ..runtime import pictures

CODECS = {".mp4": "mp4v", ".avi": "MJPG", ".mkv": "mp4v", ".webm": "VP80"}
CAMERA_FPS = 30.0  # of the annotated video where the camera does not tell


@dataclass(frozen=True)
class Frame:
    """One frame: its number from 0, its time in seconds, and its pixels, RGB uint8 (H, W, 3)."""

    number: int
    time: float
    pixels: np.ndarray


@dataclass
class Frames:
    """What is being watched.

    Attributes
    ----------
    frames : iterator of Frame
    fps : float
        Frames a second, of the annotated video too.
    live : bool
        Whether frames come when they come and are dropped when they are not fetched.
    total : int or None
        How many frames there should be, where that is known.
    read, dropped : int
        Frames got so far, and frames of a camera that were overtaken by a later one.
    stopped : bool
        Set it, from a signal or another thread, to end after the frame at hand.
    complete : bool
        Whether the source came to its end by itself.
    failure : CheckError or None
        What ended it early. It is kept until what was seen before is safe on disk: see `require_all`.
    """

    frames: Iterator[Frame]
    fps: float
    live: bool = False
    total: int | None = None
    read: int = 0
    dropped: int = 0
    stopped: bool = False
    complete: bool = False
    failure: CheckError | None = None

    def __iter__(self) -> Iterator[Frame]:
        """Yield the frames, counting them."""
        while not self.stopped:
            try:
                frame = next(self.frames)
            except StopIteration:
                self.complete = not self.stopped
                return
            except CheckError as error:
                self.failure = error
                return
            self.read += 1
            yield frame

    def require_all(self) -> None:
        """Raise a CheckError if a picture could not be read, a camera ended, or a video is empty or ended early.

        Of the frames that a video announces, one and one in a hundred may lack: some containers tell only the length.
        """
        if self.failure:
            raise self.failure
        if self.complete and self.live:
            raise CheckError("the camera or stream gives no more frames", where=f"after {self.read} frames")
        if self.complete and self.read == 0:
            raise CheckError("a video without a frame that can be decoded", hint="get the whole file")
        if self.complete and self.total and self.total - self.read > 1 + self.total // 100:
            raise CheckError(
                "the video ends early: it is cut off, or damaged",
                where=f"after frame {self.read - 1}",
                expected=f"{self.total} frames, as its header says",
                hint=f"what was written holds the {self.read} frames that there are; get the whole file for the rest",
            )


@contextmanager
def open_frames(source: str, fps: float = 25.0) -> Iterator[Frames]:
    """Open a source, and close it after the block.

    Parameters
    ----------
    source : str
        Number or device of a camera, URL of a stream, video file, or directory of pictures.
    fps : float
        Pace of the pictures of a directory, which have no times.

    Raises
    ------
    UsageError
        If there is no such source.
    CheckError
        If it is not a video, or a directory holds no picture.
    """
    path = Path(source)
    with ExitStack() as stack:
        if path.is_dir():
            files = pictures.find([source])
            yield Frames(_pictures(files, fps), fps, total=len(files))
        elif source.isdecimal() or "://" in source or path.is_char_device():
            yield stack.enter_context(_camera(source))
        else:
            yield stack.enter_context(_video(path))


def _pictures(files: list[Path], fps: float) -> Iterator[Frame]:
    for number, file in enumerate(files):
        yield Frame(number, number / fps, pictures.read(file))


@contextmanager
def _video(path: Path) -> Iterator[Frames]:
    if not path.is_file():
        raise UsageError(
            "no such source",
            where=str(path),
            expected="a camera's number, a stream's URL, a video file or a directory of pictures",
        )
    capture = _open(str(path))
    if not capture.isOpened():
        cut = "get the whole file: its index may lie at the end, so a cut one cannot be opened"
        raise CheckError(
            "not a video that OpenCV can decode",
            where=str(path),
            expected="a video file, a camera's number, a stream's URL or a directory of pictures",
            hint=cut
            if path.suffix.lower() in (".mp4", ".mov")
            else "name another; `ferdistill predict` reads a picture",
        )
    try:
        fps = capture.get(cv2.CAP_PROP_FPS)
        total = round(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        fps = fps if 0 < fps <= 1000 else 25.0

        def frames() -> Iterator[Frame]:
            number, last = 0, 0.0
            while True:
                found, pixels = capture.read()
                if not found:
                    return
                # Some containers tell no times; then they stand still.
                told = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
                last = told if number == 0 or told > last else last + 1 / fps
                yield Frame(number, last, cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB))
                number += 1

        yield Frames(frames(), fps, total=total if total > 0 else None)
    finally:
        capture.release()


def _open(source: str | int) -> cv2.VideoCapture:
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    return cv2.VideoCapture(source)


class Readable(Protocol):
    """The part of `cv2.VideoCapture` that a live source needs."""

    def read(self) -> tuple[bool, np.ndarray | None]: ...


@contextmanager
def _camera(source: str) -> Iterator[Frames]:
    capture = _open(int(source) if source.isdecimal() else source)
    if not capture.isOpened():
        raise UsageError(
            "no camera or stream can be opened",
            where=source,
            expected="the number of a camera (0 is the first), its device, or the URL of a stream",
            hint="is it plugged in, used by another program, or closed to this user?",
        )
    told = capture.get(cv2.CAP_PROP_FPS)
    try:
        with latest(capture, told if 0 < told <= 240 else CAMERA_FPS) as frames:
            yield frames
    finally:
        capture.release()


@contextmanager
def latest(capture: Readable, fps: float, clock: Callable[[], float] = time.monotonic) -> Iterator[Frames]:
    """Frames of a live source, always the latest: one that comes while another is waiting replaces it.

    A thread of its own reads the source, so its buffer never fills, however slow the reader of the frames is.
    """
    slot = _Slot()

    def read() -> None:
        number, start = 0, 0.0
        while not slot.closed:
            found, pixels = capture.read()
            now = clock()
            start = start if number else now
            frame = Frame(number, now - start, pixels) if found and pixels is not None else None
            with slot.changed:
                if frame is None:
                    slot.ended = True
                elif slot.frame is not None:
                    result.dropped += 1
                slot.frame = frame or slot.frame
                slot.changed.notify()
            if frame is None:
                return
            number += 1

    def frames() -> Iterator[Frame]:
        while True:
            with slot.changed:
                # A wait without end could not be interrupted by Ctrl-C.
                while slot.frame is None and not slot.ended and not result.stopped:
                    slot.changed.wait(0.1)
                frame, slot.frame = slot.frame, None
            if frame is None:
                return
            yield Frame(frame.number, frame.time, cv2.cvtColor(frame.pixels, cv2.COLOR_BGR2RGB))

    result = Frames(frames(), fps, live=True)
    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    try:
        yield result
    finally:
        slot.closed = True
        thread.join(2.0)  # a camera that hangs must not keep the program


@dataclass
class _Slot:
    """What the thread of a camera and the reader of its frames share."""

    frame: Frame | None = None
    ended: bool = False
    closed: bool = False
    changed: threading.Condition = field(default_factory=threading.Condition)


class Writer:
    """Writes frames as a video; see `open_writer`."""

    def __init__(self, path: Path, fps: float, live: bool) -> None:
        self.path, self.fps, self.live = path, fps, live
        self.written = 0
        self.size: tuple[int, int] | None = None
        self._video: cv2.VideoWriter | None = None

    def write(self, frame: Frame, pixels: np.ndarray) -> None:
        """Add a frame's annotated pixels, RGB uint8 (H, W, 3).

        The frames of a live source come unevenly, so there one is repeated, or left out, to keep the time.
        """
        size = (pixels.shape[1], pixels.shape[0])
        if self._video is None:
            self.size = size
            self._video = cv2.VideoWriter(
                str(self.path), cv2.VideoWriter.fourcc(*CODECS[self.path.suffix.lower()]), self.fps, size
            )
            if not self._video.isOpened():
                raise CheckError("OpenCV cannot write this video", where=str(self.path), expected="a codec it has")
        if size != self.size:
            raise CheckError(
                f"frame {frame.number} has {size[0]} x {size[1]} pixels",
                where=str(self.path),
                expected=f"{self.size[0]} x {self.size[1]}, as the first" if self.size else "",
                hint="one video has one size: leave --out away, or resize the pictures",
            )
        due = round(frame.time * self.fps) + 1 if self.live else self.written + 1
        picture = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
        while self.written < due:
            self._video.write(picture)
            self.written += 1

    def release(self) -> None:
        """Let go of the file, whatever it holds."""
        if self._video is not None:
            self._video.release()

    def close(self) -> None:
        """Finish the file.

        Raises
        ------
        CheckError
            If it does not hold what was written: OpenCV says nothing of a full disk.
        """
        if self._video is None:
            raise CheckError("there was no frame to write", where=str(self.path))
        self.release()
        capture = _open(str(self.path))
        held = round(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if capture.isOpened() else 0
        capture.release()
        if abs(held - self.written) > 1:
            raise CheckError(
                f"the video was not written whole: {held} of {self.written} frames",
                where=str(self.path),
                hint="is there room on the disk?",
            )


def require_one_size(directory: Path) -> None:
    """Raise a CheckError if a directory's pictures, which shall be one video, differ in size."""
    sizes: dict[tuple[int, int], Path] = {}
    for file in pictures.find([str(directory)]):
        real = file.resolve()
        sizes.setdefault(image_size(real.parent, real.name), file)
    if len(sizes) > 1:
        (first, one), (second, other), *_ = sizes.items()
        raise CheckError(
            "pictures of different sizes cannot be one video",
            where=f"{one} has {first[0]} x {first[1]} pixels, {other} has {second[0]} x {second[1]}",
            expected="one size",
            hint="leave --out away, or resize the pictures",
        )


@contextmanager
def open_writer(path: Path, fps: float, live: bool) -> Iterator[Writer]:
    """A video to write frames to; it appears at `path` when the block ends, not if the block fails.

    Raises
    ------
    UsageError
        If the suffix names no known container.
    """
    if path.suffix.lower() not in CODECS:
        raise UsageError(
            f"no known video format `{path.suffix}`", where=str(path), expected=f"one of {', '.join(CODECS)}"
        )
    with atomic(path) as temporary:
        writer = Writer(temporary, fps, live)
        try:
            yield writer
        except BaseException:
            writer.release()
            raise
        writer.close()
