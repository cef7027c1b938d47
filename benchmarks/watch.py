"""`ferdistill watch` on two videos whose truth is known, made here: how well it finds, follows and names faces.

- real: the face of scikit-image's `astronaut`, moved, scaled from 0.6 to 1.6 and tilted up to 25 degrees over a busy
  background (`coffee`). Where the face is, is known from how it was placed. A face is found if a box has an
  intersection over union with it of at least 0.5. Detectors are compared frame by frame: ours (OpenCV's Haar cascade
  alt2, and the surroundings of the last box at other angles), the same without following, OpenCV's other
  cascades (on every fourth frame), and scikit-image's cascade of local binary patterns (on every tenth).
- rendered: three people drawn as those of the embedded corpus, none of them in it, from the shoulders up at 192 pixels,
  enlarged to 320 over the same background, each going through all expressions, with new noise in every frame. The
  truth is the class that annotators name most often on seeing the action units of that frame. A flip is a change of the
  label, to none too, from one frame of a track to the next. Without smoothing and hysteresis, and with.

Times: wall is the clock's; cpu is the process's own time, all threads added, which other load on the machine changes
less. The saved pictures show frames a second of the latter. The last part watches a small video again and again, and
says what memory and file handles became.
"""

import json
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import cv2
import measure
import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table
from skimage import data
from skimage.feature import Cascade as PatternCascade

from ferdistill.faces import head as drawn
from ferdistill.faces.camera import Frame, open_frames, open_writer
from ferdistill.faces.detector import FULL_RANGE, Cascade, Detector, Face, FullRange, iou, open_detector
from ferdistill.faces.tracker import Smoothing, Tracker
from ferdistill.faces.watch import annotate, record, watch
from ferdistill.files import write_json
from ferdistill.progress import track as with_bar
from ferdistill.runtime.classifier import Classifier

EXAMPLES = """
  python benchmarks/watch.py --json out.json
  python benchmarks/watch.py --seconds 4 --people 1 --leak 500
  python benchmarks/watch.py --pictures docs/images
"""
PACKAGES = ("opencv-python-headless", "onnxruntime-gpu", "scikit-image")
FPS, WIDTH, HEIGHT = 25, 640, 480
FACE = (177.0, 66.0, 97.0, 97.0)  # of `astronaut`: from the hairline to the chin, from cheek to cheek
NOISE = 7.0  # standard deviation in grey levels; the corpus has 2 to 12
HOLD, RAMP, GAP = 30, 8, 20  # frames an expression is held, fades in or out, and between two people


@cache
def wide() -> np.ndarray:
    """The picture behind the faces, (640, 900, 3), RGB."""
    return cv2.resize(data.coffee(), (900, 640))


def background(number: int) -> np.ndarray:
    """A window (480, 640, 3) that wanders over it."""
    time = number / FPS
    top, left = int(80 + 70 * math.sin(time)), int(130 + 120 * math.cos(time / 1.7))
    return wide()[top : top + HEIGHT, left : left + WIDTH]


def real(seconds: float) -> Iterator[tuple[np.ndarray, Face]]:
    """Frames of the real face and where it is."""
    picture = data.astronaut()
    mask = np.zeros(picture.shape[:2], np.float32)
    cv2.ellipse(mask, (226, 105), (88, 105), 0, 0, 360, 1.0, cv2.FILLED)
    mask = cv2.GaussianBlur(mask, (0, 0), 4)
    middle = (FACE[0] + FACE[2] / 2, FACE[1] + FACE[3] / 2)
    for number in range(round(seconds * FPS)):
        time = number / FPS
        tilt, scale = 25 * math.sin(math.tau * time / 4), 1.1 + 0.5 * math.sin(math.tau * time / 5)
        across = WIDTH / 2 + 170 * math.sin(math.tau * time / 6)
        down = HEIGHT / 2 + 60 * math.sin(math.tau * time / 3.5)
        # OpenCV's angles go against the clock.
        move = cv2.getRotationMatrix2D(middle, -tilt, scale)
        move = move + np.array([[0, 0, across - middle[0]], [0, 0, down - middle[1]]])
        share = cv2.warpAffine(mask, move, (WIDTH, HEIGHT))[..., None]
        face = cv2.warpAffine(picture, move, (WIDTH, HEIGHT))
        side = FACE[2] * scale
        box = (across - side / 2, down - side / 2, side, side)
        yield (share * face + (1 - share) * background(number)).astype(np.uint8), Face(box, tilt)


def rendered(people: int, sharpness: float = 1.7) -> Iterator[tuple[np.ndarray, str | None]]:
    """Frames of the rendered faces, and the expression; None where no face is shown."""
    rng = np.random.default_rng(2026)
    number = 0
    for _ in range(people):
        identity = replace(drawn.draw_identity(rng), glasses="")
        view = replace(drawn.draw_view(rng), occluder="", noise=0.0, blur=0.0, motion=0.0, scale=1.8)
        for expression in rng.permutation(drawn.CLASSES).tolist():
            for step in range(HOLD + 2 * RAMP):
                strength = min(1.0, (step + 1) / RAMP, (HOLD + 2 * RAMP - step) / RAMP)
                aus = strength * drawn.prototype(expression)
                truth = drawn.CLASSES[int(drawn.perceived(aus[None], sharpness)[0].argmax())]
                sway = math.sin(number / 17)
                seen = replace(view, yaw=0.15 * sway, pitch=0.08 * math.cos(number / 23), roll=0.06 * sway)
                small = drawn.render(identity, aus, seen, 192) + rng.normal(0, NOISE, (192, 192, 3))
                picture = Image.fromarray(np.clip(np.rint(small), 0, 255).astype(np.uint8))
                frame = background(number).copy()
                left, top = 160 + round(60 * math.sin(number / 40)), 80 + round(30 * math.sin(number / 31))
                frame[top : top + 320, left : left + 320] = picture.resize((320, 320), Image.Resampling.BICUBIC)
                yield frame, truth
                number += 1
        for _ in range(GAP):
            yield background(number), None
            number += 1


def write(path: Path, frames: Iterator[tuple[np.ndarray, Any]]) -> list[Any]:
    """Write a video; give the truth of each frame."""
    truths = []
    with open_writer(path, FPS, live=False) as video:
        for number, (pixels, truth) in enumerate(frames):
            video.write(Frame(number, number / FPS, pixels), pixels)
            truths.append(truth)
    return truths


def read(path: Path, every: int = 1) -> Iterator[Frame]:
    """Every so-many-th frame of a video."""
    with open_frames(str(path)) as frames:
        yield from (frame for frame in frames if frame.number % every == 0)


def opencv_cascade(name: str) -> Detector:
    """One of OpenCV's cascades as its documentation uses it, with the smallest face that ours has."""
    cascade = cv2.CascadeClassifier(str(Path(cv2.data.haarcascades) / f"haarcascade_frontalface_{name}.xml"))
    least = (HEIGHT // 10, HEIGHT // 10)

    def detect(frame: np.ndarray, near: Sequence[Face]) -> list[Face]:
        grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
        return [Face(tuple(map(float, box))) for box in cascade.detectMultiScale(grey, 1.1, 3, minSize=least)]

    return detect


def pattern_cascade() -> Detector:
    """The cascade of local binary patterns that scikit-image carries."""
    cascade = PatternCascade(data.lbp_frontal_face_cascade_filename())
    least = (HEIGHT // 10, HEIGHT // 10)

    def detect(frame: np.ndarray, near: Sequence[Face]) -> list[Face]:
        found = cascade.detect_multi_scale(frame, 1.2, 1, least, (HEIGHT, HEIGHT))
        return [Face((float(at["c"]), float(at["r"]), float(at["width"]), float(at["height"]))) for at in found]

    return detect


def upright_only() -> Detector:
    """Ours without what was there a moment ago."""
    cascade = Cascade()
    return lambda frame, near: cascade(frame)


DETECTORS: dict[str, tuple[int, Callable[[], Detector]]] = {
    "ours": (1, Cascade),
    "ours, without following": (1, upright_only),
    "OpenCV alt2": (4, lambda: opencv_cascade("alt2")),
    "OpenCV alt": (4, lambda: opencv_cascade("alt")),
    "OpenCV default": (4, lambda: opencv_cascade("default")),
    "scikit-image LBP": (10, pattern_cascade),
}
if FULL_RANGE.is_file():
    DETECTORS = {"full range": (1, lambda: FullRange(threads=1)), **DETECTORS}


def detection(path: Path, truths: list[Face]) -> list[dict[str, Any]]:
    """Share of frames in which each detector finds the face, false finds a frame, and times."""
    rows = []
    for name, (every, make) in with_bar(DETECTORS.items(), "detectors", total=len(DETECTORS)):
        detect, near = make(), []
        found, false, count, overlaps, wall, cpu = 0, 0, 0, [], 0.0, 0.0
        for frame in read(path, every):
            starts = perf_counter(), process_time()
            faces = detect(frame.pixels, near)
            wall, cpu = wall + perf_counter() - starts[0], cpu + process_time() - starts[1]
            near = faces or near
            hits = [share for face in faces if (share := iou(face.box, truths[frame.number].box)) >= 0.5]
            found, false, count = found + bool(hits), false + len(faces) - len(hits), count + 1
            overlaps += hits
        rows.append(
            {
                "detector": name,
                "frames": count,
                "detection_rate": found / count,
                "false_a_frame": false / count,
                "mean_iou": float(np.mean(overlaps)) if overlaps else None,
                "wall_ms": 1000 * wall / count,
                "cpu_ms": 1000 * cpu / count,
            }
        )
    return rows


def following(
    path: Path, truths: list[Face], classifier: Classifier, detect: Detector, pictures: Path | None
) -> dict[str, Any]:
    """The whole of `watch` on the real face: detection, tracks, tilt, speed."""
    found, tracks, errors, best = 0, set(), [], None
    starts = perf_counter(), process_time()
    for seen in watch(read(path), classifier, detect):
        truth = truths[seen.frame.number]
        hits = [track for track in seen.tracks if iou(track.face.box, truth.box) >= 0.5]
        found += bool(hits)
        tracks |= {track.number for track in hits}
        errors += [abs(track.face.tilt - truth.tilt) for track in hits]
        if seen.frame.number == round(0.6 * len(truths)):
            best = annotate(seen, classifier.classes, (seen.frame.number + 1) / (process_time() - starts[1]))
    wall, cpu = perf_counter() - starts[0], process_time() - starts[1]
    if pictures and best is not None:
        save(pictures / "watch_real.jpg", best)
    return {
        "frames": len(truths),
        "detection_rate": found / len(truths),
        "tracks": len(tracks),
        "tilt_error_degrees": float(np.mean(errors)) if errors else None,
        "fps": len(truths) / wall,
        "fps_of_one_core": len(truths) / cpu,
    }


def naming(
    path: Path, truths: list[str | None], classifier: Classifier, detect: Detector, pictures: Path | None
) -> list[dict[str, Any]]:
    """Accuracy and flips of the label on the rendered faces, for several settings, from the same detections."""
    collected: list[tuple[float, int, list[Face], np.ndarray]] = []
    start = process_time()
    for seen in watch(read(path), classifier, detect):
        rows = np.array([track.probabilities for track in seen.tracks]).reshape(-1, len(classifier.classes))
        collected.append((seen.frame.time, seen.frame.number, [track.face for track in seen.tracks], rows))
        if pictures and seen.frame.number == round(0.32 * len(truths)):
            save(
                pictures / "watch_rendered.jpg",
                annotate(seen, classifier.classes, len(collected) / (process_time() - start)),
            )
    threshold = classifier.confidence
    settings = {
        "neither": Smoothing(0.0, threshold, 0.0),
        "smoothing 0.15 s": Smoothing(0.15, threshold, 0.0),
        "smoothing 0.3 s": Smoothing(0.3, threshold, 0.0),
        "hysteresis 0.1": Smoothing(0.0, threshold, 0.1),
        "both, 0.15 s and 0.1 (the default)": Smoothing(0.15, threshold, 0.1),
        "both, 0.3 s and 0.1": Smoothing(0.3, threshold, 0.1),
        "neither, no abstention": Smoothing(0.0, 0.0, 0.0),
        "both, 0.15 s and 0.1, no abstention": Smoothing(0.15, 0.0, 0.1),
    }
    shown = sum(truth is not None for truth in truths)
    pairs = [(one, other) for one, other in pairwise(truths) if one and other]
    rows = []
    for name, smoothing in settings.items():
        tracker, last = Tracker(smoothing), {}
        right = labelled = seen_faces = flips = false = 0
        for time, number, faces, probabilities in collected:
            truth = truths[number]
            for track in tracker.update(time, faces, probabilities):
                if truth is None or track.face.box[2] < 120:
                    false += 1
                    continue
                seen_faces += 1
                labelled += track.label is not None
                right += track.label is not None and classifier.classes[track.label] == truth
                flips += track.number in last and last[track.number] != track.label
                last[track.number] = track.label
        rows.append(
            {
                "setting": name,
                "faces_shown": shown,
                "detection_rate": seen_faces / shown,
                "false_finds": false,
                "tracks": tracker.started,
                "accuracy": right / seen_faces,
                "accuracy_where_labelled": right / max(1, labelled),
                "labelled": labelled / seen_faces,
                "flips_a_second": flips / (seen_faces / FPS),
                "true_changes_a_second": sum(one != other for one, other in pairs) / (shown / FPS),
            }
        )
    return rows


def leak(directory: Path, classifier: Classifier, count: int) -> dict[str, Any]:
    """Watch, annotate and write small videos over and over; resident memory and open files, early and late."""
    small = directory / "small.avi"
    frames = ((cv2.resize(pixels, (160, 120)), None) for pixels, _ in real(4))
    length = len(write(small, frames))
    done, marks, handles = 0, [], []
    while done < count:
        with open_frames(str(small)) as source, open_writer(directory / "again.avi", FPS, live=False) as video:
            for seen in watch(source, classifier, Cascade(0.3)):
                video.write(seen.frame, annotate(seen, classifier.classes, FPS))
                json.dumps(record(seen, classifier))
        done += length
        marks.append((done, resident_mib()))
        handles.append(len(list(Path("/proc/self/fd").iterdir())))
    late = np.array(marks[len(marks) // 5 :])
    slope = np.polyfit(late[:, 0], late[:, 1], 1)[0] * 1000 if len(late) > 1 else math.nan
    return {
        "frames": done,
        "videos": len(marks),
        "mib_after_the_first_fifth": float(late[0, 1]),
        "mib_at_the_end": float(late[-1, 1]),
        "mib_a_thousand_frames": float(slope),
        "open_files_first": handles[0],
        "open_files_last": handles[-1],
    }


def resident_mib() -> float:
    """Resident memory of this process, in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def save(path: Path, pixels: np.ndarray) -> None:
    """Write a picture of a frame."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, quality=85)


def table(console: Console, title: str, rows: list[dict[str, Any]]) -> None:
    """Print rows that have the same keys."""
    shown = Table(*(key.replace("_", " ") for key in rows[0]), title=title, title_justify="left")
    for row in rows:
        shown.add_row(*(f"{value:.3f}" if isinstance(value, float) else str(value) for value in row.values()))
    console.print(shown)


def main() -> None:
    """Make the videos, watch them, print tables."""
    parser = measure.parser(__doc__, EXAMPLES)
    parser.add_argument("--bundle", type=Path, default=Path("models/bundle"), help="default models/bundle")
    parser.add_argument("--seconds", type=float, default=16, help="of the video of the real face (default 16)")
    parser.add_argument("--people", type=int, default=3, help="in the video of rendered faces (default 3)")
    parser.add_argument("--leak", type=int, default=10_000, help="frames of the last part, 0 for none (default 10000)")
    parser.add_argument("--threads", type=int, default=1, help="of OpenCV and ONNX Runtime (default 1)")
    parser.add_argument("--pictures", type=Path, metavar="DIR", help="save an annotated frame of each video there")
    parser.add_argument("--detector", help="as of watch, whose default it has: follows, and precedes the names")
    arguments = parser.parse_args()
    cv2.setNumThreads(arguments.threads)
    classifier = Classifier(arguments.bundle, arguments.threads, device="cpu")
    detect = open_detector(arguments.detector, False, 0.1, thorough=False, threads=arguments.threads)
    result: dict[str, Any] = {
        "device": measure.cpu(),
        "detector": type(detect).__name__,
        "threads": arguments.threads,
        "versions": {name: measure.installed(name) for name in PACKAGES},
    }
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        places = write(directory / "real.mp4", real(arguments.seconds))
        expressions = write(directory / "rendered.mp4", rendered(arguments.people))
        result["real"] = following(directory / "real.mp4", places, classifier, detect, arguments.pictures)
        result["rendered"] = naming(directory / "rendered.mp4", expressions, classifier, detect, arguments.pictures)
        result["detectors"] = detection(directory / "real.mp4", places)
        if arguments.leak:
            result["leak"] = leak(directory, classifier, arguments.leak)
    if arguments.json:
        write_json(arguments.json, result)
    console = Console(width=180)
    console.print(
        f"{result['device']}, {arguments.threads} threads, {result['detector']}, {result['versions']}", highlight=False
    )
    table(console, "A real face, followed", [result["real"]])
    table(console, "Detectors on it", result["detectors"])
    table(console, "Rendered faces that change expression", result["rendered"])
    if arguments.leak:
        table(console, "Memory and open files", [result["leak"]])


if __name__ == "__main__":
    main()
