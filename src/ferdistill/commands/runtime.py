"""`ferdistill predict` and `ferdistill watch`."""

import csv
import json
import signal
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType, ModuleType
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

from .. import workspace
from ..errors import CheckError, UsageError
from ..files import atomic

if TYPE_CHECKING:
    from ..faces.camera import Frames
    from ..faces.detector import Detector

BundleOption = Annotated[Path, typer.Option("--bundle", help="Directory that `ferdistill`'s stage `export` wrote.")]
DetectorOption = Annotated[str, typer.Option("--detector", help="haar, or a YuNet file (.onnx).")]
SmallestOption = Annotated[
    float, typer.Option("--smallest", min=0.01, max=1, help="haar: smallest face, as a share of the shorter side.")
]
MarginOption = Annotated[
    float, typer.Option("--margin", min=-0.4, max=2, help="Added around the box, as a share of its side.")
]
WholeOption = Annotated[bool, typer.Option("--whole", help="Each picture is a face crop, as a training image is.")]
ConfidenceOption = Annotated[
    float | None, typer.Option("--confidence", min=0, max=1, help="No label below it; the bundle's if not given.")
]
ThreadsOption = Annotated[
    int | None, typer.Option("--threads", min=1, help="CPU threads of detector and classifier; all if not given.")
]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or tensorrt.")]

BUNDLE = workspace.BUNDLE


def predict(
    sources: Annotated[list[str], typer.Argument(metavar="IMAGE|DIR|GLOB...", help="Pictures.")],
    bundle: BundleOption = BUNDLE,
    whole: WholeOption = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV, a line a face, instead of JSON lines.")] = False,
    detector: DetectorOption = "haar",
    smallest: SmallestOption = 0.1,
    margin: MarginOption = 0.07,
    confidence: ConfidenceOption = None,
    threads: ThreadsOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Find the faces in pictures and say what they express.

    Prints a JSON line a picture: its faces with box, calibrated probabilities, and the label, or null where the
    largest probability is below the confidence. A picture that cannot be read has `error` in its line, the others go
    on, and the exit code is 1. A name that is nowhere stops it before the first picture, with exit code 2. Examples:

        ferdistill predict group.jpg

        ferdistill predict photos/ --csv > photos.csv

        ferdistill predict 'crops/*.png' --whole --confidence 0.7
    """
    from ..progress import track

    _opencv(threads)
    from ..faces import crops as faces
    from ..runtime import pictures
    from ..runtime.classifier import Classifier
    from ..runtime.session import device_named

    files = pictures.find(sources)
    classifier = Classifier(bundle, threads, device_named(device, "--device"))
    find = _detector(detector, whole, smallest, thorough=True)
    threshold = faces.confidence(classifier) if confidence is None else confidence
    table = csv.writer(sys.stdout, lineterminator="\n")
    names = ["left", "top", "width", "height", "tilt", "label", "confidence"]
    if as_csv:
        table.writerow(["path", "face", *names, *(f"prob_{name}" for name in classifier.classes), "error"])
    wrong = 0
    for file in track(files, "predicting"):
        report: dict[str, Any] = {"path": file.as_posix()}
        try:
            found = faces.predict(classifier, pictures.read(file), find, threshold, None if whole else margin)
            report["faces"] = found
        except CheckError as error:
            wrong += 1
            found = report["faces"] = []
            report["error"] = f"{error.what}; expected {error.expected}"
        if not as_csv:
            print(json.dumps(report, ensure_ascii=False, allow_nan=False), flush=True)
            continue
        for number, face in enumerate(found):
            fixed = [*face["box"], face["tilt"], face["label"], face["confidence"]]
            table.writerow([report["path"], number, *fixed, *face["probabilities"].values(), ""])
        if not found:
            empty = [""] * (1 + len(names) + len(classifier.classes))
            table.writerow([report["path"], *empty, report.get("error", "")])
    if wrong:
        raise CheckError(
            f"{wrong} of {len(files)} pictures could not be read",
            where="the lines with an error",
            hint="replace them, or leave them out",
        )


def watch(
    source: Annotated[str, typer.Argument(metavar="CAMERA|VIDEO|DIR", help="0 is the first camera.")],
    bundle: BundleOption = BUNDLE,
    out: Annotated[
        Path | None, typer.Option("--out", help="Write the annotated video: .mp4, .mkv, .webm or .avi.")
    ] = None,
    json_lines: Annotated[
        str | None,
        typer.Option("--json", metavar="FILE", help="Write a JSON line a frame; - prints them as they come."),
    ] = None,
    show: Annotated[bool, typer.Option("--show", help="Show it in a window; q or Escape ends.")] = False,
    whole: WholeOption = False,
    detector: DetectorOption = "haar",
    smallest: SmallestOption = 0.1,
    margin: MarginOption = 0.07,
    confidence: ConfidenceOption = None,
    smoothing: Annotated[
        float, typer.Option("--smoothing", min=0, max=60, help="Time constant of the averaging, s; 0 for none.")
    ] = 0.15,
    hysteresis: Annotated[
        float, typer.Option("--hysteresis", min=0, max=1, help="Lead by which another class takes the label.")
    ] = 0.1,
    fps: Annotated[float, typer.Option("--fps", min=0.1, max=1000, help="Pace of the pictures of a directory.")] = 25,
    threads: ThreadsOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Follow the faces of a camera, a video or a directory of pictures, and say what they express.

    A camera's frames are dropped rather than delayed; a file's are all processed. Ctrl-C ends cleanly: the files then
    hold everything up to the last frame (exit code 0 for a camera, 130 for a file not watched to its end). Without
    --out, --json or --show, JSON lines are printed. Examples:

        ferdistill watch 0 --show

        ferdistill watch talk.mp4 --out annotated.mp4 --json talk.jsonl

        ferdistill watch crops/ --whole --smoothing 0 | jq .faces[0].label
    """
    from ..progress import bar

    opencv = _opencv(threads)
    from ..faces import camera as frames
    from ..faces import crops as faces
    from ..faces import watch as library
    from ..faces.tracker import Smoothing
    from ..runtime.classifier import Classifier
    from ..runtime.session import device_named

    if show and not _has_window(opencv):
        raise UsageError(
            "this OpenCV cannot open a window",
            where=f"OpenCV {opencv.__version__}, --show",
            expected="one that is built with a window system, and a display",
            hint="pip uninstall opencv-python-headless; pip install 'opencv-python<5'; or use --out",
        )
    classifier = Classifier(bundle, threads, device_named(device, "--device"))
    settings = Smoothing(smoothing, faces.confidence(classifier) if confidence is None else confidence, hysteresis)
    find = _detector(detector, whole, smallest, thorough=False)
    if out and Path(source).is_dir():
        frames.require_one_size(Path(source))
    for target in (out, json_lines):
        if target and Path(target).exists() and Path(source).exists() and Path(target).samefile(source):
            raise UsageError("the result would replace what is watched", where=str(target), hint="name another file")
    if json_lines is None and not (out or show):
        json_lines = "-"
    speed = _Speed()
    with ExitStack() as stack:
        watched = stack.enter_context(frames.open_frames(source, fps))
        stack.enter_context(_interrupting(watched))
        video = stack.enter_context(frames.open_writer(out, watched.fps, watched.live)) if out else None
        lines = stack.enter_context(_lines(json_lines)) if json_lines else None
        progress = stack.enter_context(bar())
        task = progress.add_task("watching", total=watched.total)
        for seen in library.watch(watched, classifier, find, settings, None if whole else margin):
            speed.tick()
            if lines:
                dropped = {"dropped": watched.dropped} if watched.live else {}
                print(json.dumps(library.record(seen, classifier.classes) | dropped, allow_nan=False), file=lines)
                lines.flush()
            if video or show:
                picture = library.annotate(seen, classifier.classes, speed.now)
                if video:
                    video.write(seen.frame, picture)
                if show:
                    opencv.imshow("ferdistill", opencv.cvtColor(picture, opencv.COLOR_RGB2BGR))
                    watched.stopped |= opencv.waitKey(1) in (ord("q"), 27)
            progress.advance(task)
        if watched.read == 0:
            watched.require_all()  # before empty files are kept
    lost = f", {watched.dropped} dropped" if watched.live else ""
    print(f"{watched.read} frames{lost}, {speed.overall:.1f} FPS", file=sys.stderr)
    watched.require_all()
    if watched.stopped and not watched.live:
        raise typer.Exit(130)


def _opencv(threads: int | None) -> ModuleType:
    """OpenCV, which only the extra `runtime` brings."""
    try:
        import cv2
    except ImportError as error:
        raise UsageError(
            f"OpenCV cannot be imported: {error}",
            expected="opencv-python-headless 4",
            hint="pip install 'ferdistill[runtime]'",
        ) from None
    if threads is not None:
        cv2.setNumThreads(threads)
    return cv2


def _detector(name: str, whole: bool, smallest: float, thorough: bool) -> "Detector":
    from ..faces import detector

    if whole:
        return detector.whole
    return detector.Cascade(smallest, thorough) if name == "haar" else detector.YuNet(Path(name))


def _has_window(opencv: ModuleType) -> bool:
    try:
        opencv.namedWindow("ferdistill")
    except opencv.error:
        return False
    return True


@contextmanager
def _lines(target: str) -> Iterator[IO[str]]:
    """Where JSON lines go: standard output for `-`, else a file that appears when the block ends."""
    if target == "-":
        yield sys.stdout
        return
    with atomic(target) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        yield file


@contextmanager
def _interrupting(watched: "Frames") -> Iterator[None]:
    """End after the frame at hand on Ctrl-C, or when told to end; the second time at once, as always."""

    def handle(number: int, frame: FrameType | None) -> None:
        watched.stopped = True
        signal.signal(number, before[signal.Signals(number)])

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Speed:
    """Frames a second, over the last second or so and over all."""

    def __init__(self) -> None:
        self.times: deque[float] = deque(maxlen=30)
        self.start = time.perf_counter()
        self.count = 0

    def tick(self) -> None:
        """Count a frame."""
        self.count += 1
        self.times.append(time.perf_counter())

    @property
    def now(self) -> float:
        """Over the last frames; 0 before the second."""
        if len(self.times) < 2:
            return 0.0
        return (len(self.times) - 1) / (self.times[-1] - self.times[0])

    @property
    def overall(self) -> float:
        """Over all frames."""
        return self.count / (time.perf_counter() - self.start)
