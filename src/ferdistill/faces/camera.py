"""Frames of a camera, a video or a directory of pictures, one after another, and the annotated video. Needs OpenCV."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from queue import Empty, SimpleQueue

# OpenCV prints what FFmpeg says of a bad video; the errors here say it once.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

import cv2
import numpy as np

from ..errors import CheckError, UsageError
from ..files import atomic
from ..image_files import image_size
from ..runtime import pictures

CODECS = {".mp4": "mp4v", ".avi": "MJPG", ".mkv": "mp4v", ".webm": "VP80"}
# FFmpeg's demuxers of one file that holds its frames itself. Others are playlists (HLS, DASH, concat, SDP, numbered
# pictures): they open what they name, files outside the folder and addresses too.
DEMUXERS = (
    *(
        "mov",
        "matroska",
        "avi",
        "mpegts",
        "mpeg",
        "mpegvideo",
        "m4v",
        "h264",
        "hevc",
        "av1",
        "obu",
        "ivf",
        "flv",
        "asf",
    ),
    *("ogg", "mxf", "rm", "nut", "gif", "apng", "mjpeg", "yuv4mpegpipe", "dv", "vc1"),
)
OPTIONS = "OPENCV_FFMPEG_CAPTURE_OPTIONS"  # an environment variable, OpenCV's only way to pass options on to FFmpeg
LAST_CAMERA = 9_999  # OpenCV's numbers of cameras hold its number of an interface in the thousands and hundreds
CAMERA_FPS = 30.0  # of the annotated video where the camera does not tell


@dataclass(frozen=True)
class Frame:
    """One frame: its number from 0, its time in seconds, and its pixels, RGB uint8 (H, W, 3)."""

    number: int
    time: float
    pixels: np.ndarray


@dataclass
class Frames:
    """What is being watched."""

    frames: Iterator[Frame]
    fps: float  # of the annotated video too
    live: bool = False  # whether frames come when they come, and are dropped when they are not fetched
    total: int | None = None  # how many frames there should be, where that is known
    read: int = 0  # frames got so far
    dropped: int = 0  # frames of a camera that were overtaken by a later one
    stopped: bool = False  # set it, from a signal or another thread, to end after the frame at hand
    complete: bool = False  # whether the source came to its end by itself
    failure: CheckError | None = None  # what ended it early, kept until what was seen before is safe on disk

    def __iter__(self) -> Iterator[Frame]:
        """Yield the frames, counting them."""
        try:
            while not self.stopped:
                frame = next(self.frames, None)
                if frame is None:
                    self.complete = not self.stopped
                    return
                self.read += 1
                yield frame
        except CheckError as error:
            self.failure = error

    def require_all(self) -> None:
        """Raise a CheckError if a picture could not be read, a camera ended, or a video is empty or ended early.

        Of the frames that a video announces, one and one in a hundred may lack: some containers tell only the length.
        """
        if self.failure:
            raise self.failure
        if not self.complete:
            return
        if self.live:
            raise CheckError("the camera or stream gives no more frames", where=f"after {self.read} frames")
        if self.read == 0:
            raise CheckError("a video without a frame that can be decoded", hint="get the whole file")
        if self.total and self.total - self.read > 1 + self.total // 100:
            raise CheckError(
                "the video ends early: it is cut off, or damaged",
                where=f"after frame {self.read - 1}",
                expected=f"{self.total} frames, as its header says",
                hint=f"what was written holds the {self.read} frames that there are; get the whole file for the rest",
            )


@contextmanager
def open_frames(source: str, fps: float = 25.0) -> Iterator[Frames]:
    """Open a source, and close it after the block.

    It is the number or device of a camera, the URL of a stream, a video file, or a directory of pictures, which have no
    times: `fps` is their pace.

    Raises UsageError if there is no such source; CheckError if it is not a video, or a directory holds no picture.
    """
    path = Path(source)
    if path.is_dir():
        files = pictures.find([source])
        frames = (Frame(number, number / fps, pictures.read(file)) for number, file in enumerate(files))
        yield Frames(frames, fps, total=len(files))
        return
    camera = source.isdecimal() and len(source) <= len(str(LAST_CAMERA))
    live = camera or ("://" in source and not source.startswith("file:")) or path.is_char_device()
    if not live and not path.is_file():
        raise UsageError(
            "no such source",
            where=source,
            expected=f"a camera's number (to {LAST_CAMERA}), a stream's URL, a video file or a directory of pictures",
        )
    capture = _open(int(source) if camera else source, live)
    try:
        if capture.isOpened():
            told = capture.get(cv2.CAP_PROP_FPS)
            if live:
                with latest(capture, told if 0 < told <= 240 else CAMERA_FPS) as newest:
                    yield newest
            else:
                yield _video(capture, told if 0 < told <= 1000 else 25.0)
            return
    finally:
        capture.release()
    if live:
        raise UsageError(
            "no camera or stream can be opened",
            where=source,
            expected="the number of a camera (0 is the first), its device, or the URL of a stream",
            hint="is it plugged in, used by another program, or closed to this user?",
        )
    raise CheckError(
        "not a video that OpenCV can decode",
        where=source,
        expected="a file that holds a video itself, no playlist; a camera, a stream or a directory of pictures",
        hint="get the whole file: its index may lie at the end, so a cut one cannot be opened"
        if path.suffix.lower() in (".mp4", ".mov")
        else "name another; `ferdistill predict` reads a picture",
    )


def _open(source: str | int, live: bool = False) -> cv2.VideoCapture:
    """Open a source; of what is not `live`, only one file is opened, whatever it says of others."""
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    if live:
        return cv2.VideoCapture(source)
    before = os.environ.get(OPTIONS)
    os.environ[OPTIONS] = "|".join(filter(None, [before, f"format_whitelist;{','.join(DEMUXERS)}"]))
    try:
        return cv2.VideoCapture(source, cv2.CAP_FFMPEG)
    finally:
        if before is None:
            del os.environ[OPTIONS]
        else:
            os.environ[OPTIONS] = before


def _video(capture: cv2.VideoCapture, fps: float) -> Frames:
    def frames() -> Iterator[Frame]:
        last = 0.0
        for number in count():
            found, pixels = capture.read()
            if not found:
                return
            # Some containers tell no times; then they stand still.
            told = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
            last = told if number == 0 or told > last else last + 1 / fps
            yield Frame(number, last, cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB))

    total = round(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    return Frames(frames(), fps, total=total if total > 0 else None)


@contextmanager
def latest(capture: cv2.VideoCapture, fps: float, clock: Callable[[], float] = time.monotonic) -> Iterator[Frames]:
    """Frames of a live source, always the latest: one that comes while another is waiting replaces it.

    A thread of its own reads the source, so its buffer never fills, however slow the reader of the frames is.
    """
    waiting: SimpleQueue[Frame] = SimpleQueue()  # never more than one
    ended, closed = threading.Event(), threading.Event()

    def read() -> None:
        start = None
        for number in count():
            found, pixels = capture.read()
            if closed.is_set() or not found or pixels is None:
                break
            now = clock()
            start = now if start is None else start
            try:
                waiting.get_nowait()
                result.dropped += 1
            except Empty:
                pass
            waiting.put(Frame(number, now - start, pixels))
        ended.set()

    def frames() -> Iterator[Frame]:
        while True:
            over = ended.is_set() or result.stopped  # asked first: the last frame may come before the end is told
            try:
                # A wait without end could not be interrupted by Ctrl-C.
                frame = waiting.get(timeout=0 if over else 0.1)
            except Empty:
                if over:
                    return
                continue
            yield Frame(frame.number, frame.time, cv2.cvtColor(frame.pixels, cv2.COLOR_BGR2RGB))

    result = Frames(frames(), fps, live=True)
    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    try:
        yield result
    finally:
        closed.set()
        thread.join(2.0)  # a camera that hangs must not keep the program


class Writer:
    """Writes frames as a video; see `open_writer`."""

    def __init__(self, path: Path, fps: float, live: bool) -> None:
        self.path, self.fps, self.live = path, fps, live
        self.written = 0
        self.size = (0, 0)  # of every frame: width, height
        self.video = cv2.VideoWriter()

    def write(self, frame: Frame, pixels: np.ndarray) -> None:
        """Add a frame's annotated pixels, RGB uint8 (H, W, 3).

        The frames of a live source come unevenly, so there one is repeated, or left out, to keep the time.
        """
        height, width = pixels.shape[:2]
        if not self.video.isOpened():
            self.size = (width, height)
            codec = cv2.VideoWriter.fourcc(*CODECS[self.path.suffix.lower()])
            if not self.video.open(str(self.path), codec, self.fps, self.size):
                raise CheckError("OpenCV cannot write this video", where=str(self.path), expected="a codec it has")
        if (width, height) != self.size:
            raise CheckError(
                f"frame {frame.number} has {width} x {height} pixels",
                where=str(self.path),
                expected=f"{self.size[0]} x {self.size[1]}, as the first",
                hint="one video has one size: leave --out away, or resize the pictures",
            )
        due = round(frame.time * self.fps) + 1 if self.live else self.written + 1
        picture = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
        while self.written < due:
            self.video.write(picture)
            self.written += 1

    def close(self) -> None:
        """Finish the file.

        Raises CheckError if it does not hold what was written: OpenCV says nothing of a full disk.
        """
        self.video.release()
        if self.written == 0:
            raise CheckError("there was no frame to write", where=str(self.path))
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

    Raises UsageError if the suffix names no known container.
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
            writer.video.release()
            raise
        writer.close()
