"""The exported bundle beside torch and a public package, and what it costs to start.

Torch runs the same network, eager, on the same images of the network's size.

The public package is `fer` (PyPI, MIT), which ships its weights and runs on a CPU by TensorFlow Lite. It stays in an
environment of its own, whose Python is named by --peer; it gets the same crops as RGB images with the face's box, so
that neither side detects faces, and classifies one after the other, as its `detect_emotions` does. Rounds are
interleaved: in each, both classify all crops, and images a second are those of the median call, which other load on the
machine moves least. Starting is the least of several fresh processes. Whether either is right is not compared: they
know other corpora.

All use one thread.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import measure
import numpy as np
import torch
from PIL import Image

from ferdistill import params
from ferdistill.deployment.benchmark import eager
from ferdistill.distill.models import load_network
from ferdistill.runtime import footprint, latency
from ferdistill.runtime.classifier import Classifier
from ferdistill.runtime.session import open_session
from ferdistill.workspace import BUNDLE, STUDENT

EXAMPLES = """
  python benchmarks/runtime.py                                     the bundle and the images of `dvc repro`
  python benchmarks/runtime.py --bundle models/bundle --images data/images/ixNextAffFull.npy
  python -m venv .bench/fer && .bench/fer/bin/python -m pip install fer
  python benchmarks/runtime.py --peer .bench/fer/bin/python --json out.json
"""
# Runs under the other environment's Python: reads the crops, then classifies all of them at each line of input. The
# package pads 10 pixels about the box, so the crop lies in the middle of a picture with such a rim. TensorFlow Lite is
# given one thread by default.
PEER = """
import json, sys, time
import numpy as np
start = time.perf_counter()
from fer.fer import FER
imported = time.perf_counter()
detector = FER()
crops = np.load(sys.argv[1])
side = crops.shape[1]
pictures = [np.pad(crop, ((10, 10), (10, 10), (0, 0)), mode="edge") for crop in crops]
def classify(picture):
    return detector.detect_emotions(picture, face_rectangles=[(10, 10, side, side)])
loaded = time.perf_counter()
classify(pictures[0])
first = time.perf_counter()
with open("/proc/self/status") as file:
    peak = next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM:"))
print(json.dumps({"import_s": imported - start, "load_s": loaded - imported, "first_prediction_s": first - loaded,
                  "peak_memory": peak}), flush=True)
for line in sys.stdin:
    seconds = []
    for picture in pictures:
        start = time.perf_counter()
        found = classify(picture)
        seconds.append(time.perf_counter() - start)
        assert len(found) == 1
    print(json.dumps(seconds), flush=True)
"""
IMPORT = """
import time
start = time.perf_counter()
import ferdistill.runtime.classifier
print(time.perf_counter() - start)
"""


def main() -> None:
    """Compare with both."""
    parser = measure.parser(__doc__, EXAMPLES)
    parser.add_argument("--bundle", type=Path, default=BUNDLE, help=f"default {BUNDLE}")
    parser.add_argument(
        "--images", type=Path, help="packed images, .npy, uint8 (N, H, W, C); default those of data/images"
    )
    parser.add_argument("--network", type=Path, default=STUDENT, help=f"the bundle's in torch; default {STUDENT}")
    parser.add_argument("--peer", metavar="PYTHON", help="Python of an environment with `fer`")
    parser.add_argument("--crops", type=int, default=200, help="images of a round (default 200)")
    parser.add_argument("--rounds", type=int, default=15, help="rounds that count, after one (default 15)")
    parser.add_argument("--side", type=int, default=96, help="side of the crops (default 96)")
    arguments = parser.parse_args()
    if min(arguments.crops, arguments.rounds, arguments.side) < 1:
        parser.error("--crops, --rounds and --side: at least 1")
    images = arguments.images or Path("data/images") / f"{params.load().index_tag}.npy"
    crops = load(images, arguments.crops, arguments.side)
    rows = beside_torch(arguments.bundle, arguments.network) + beside_fer(
        arguments.bundle, crops, arguments.peer, arguments.rounds
    )
    measure.finish(measure.result(rows, "ferdistill", "onnxruntime-gpu", "torch"), arguments.json)


def beside_torch(bundle: Path, folder: Path) -> list[dict[str, Any]]:
    """Milliseconds of a call of 1 and 32 images, each of a round in turn."""
    network, _ = load_network(folder)
    models = latency.models_at(bundle)
    sessions = [open_session(model.file, 1, "cpu") for model in models]
    predict = eager(network, models[0].info)
    torch.set_num_threads(1)
    rows = []
    for batch in (1, 32):
        images = latency.random_images(models[0], sessions[0], batch)
        calls = [latency.caller(session, images) for session in sessions]
        *own, theirs = latency.interleave([*calls, lambda images=images: predict(images)], 20, 300)
        for name, seconds in zip(models[0].info["variants"], own, strict=True):
            figures = (float(np.median(part)) * 1000 for part in (seconds, theirs))
            peer = f"torch {torch.__version__}, eager, float32"
            rows.append(measure.row(f"{name}, batch {batch}: a call", *figures, "ms", peer))
    return rows


def load(path: Path, count: int, side: int) -> np.ndarray:
    """Evenly spaced images as RGB crops (count, side, side, 3)."""
    packed = np.load(path, mmap_mode="r")
    rows = np.linspace(0, len(packed) - 1, count).astype(int)
    pictures = [Image.fromarray(np.repeat(packed[row], 3 // packed.shape[3], axis=2)) for row in rows]
    return np.stack([np.asarray(picture.resize((side, side), Image.Resampling.BICUBIC)) for picture in pictures])


def beside_fer(bundle: Path, crops: np.ndarray, peer: str | None, rounds: int) -> list[dict[str, Any]]:
    """Speed, one crop a call, and the cost of starting; of ours alone if there is no peer."""
    models = latency.models_at(bundle)
    names = list(models[0].info["variants"])
    classifiers = {name: Classifier(bundle, threads=1, device="cpu", variant=name) for name in names}
    imports = [
        subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True, check=True).stdout
        for _ in range(7)
    ]
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "crops.npy"
        np.save(file, crops)
        other = start_peer(peer, file) if peer else None
        theirs: dict[str, Any] = json.loads(ask(other)) if other else {}
        speeds: dict[str, list[float]] = {name: [] for name in [*names, "fer"]}
        for round_ in range(-1, rounds):
            for name in names:
                seconds = list(calls(classifiers[name], crops))
                if round_ >= 0:
                    speeds[name].append(1 / median(seconds))
            if other:
                seconds = json.loads(ask(other, "go"))
                if round_ >= 0:
                    speeds["fer"].append(1 / median(seconds))
        if other:
            other.communicate()
    label = f"fer {version_of(peer)}" if peer else "fer (not installed)"
    their_speed = median(speeds["fer"]) if peer else None
    rows = []
    for name, model in zip(names, models, strict=True):
        fresh = [footprint.measure(model.file, [1, *crops.shape[1:]], "uint8", 1, "cpu") for _ in range(5)]
        start = {key: min(one[key] for one in fresh) for key in fresh[0]}
        ratios = [own / other for own, other in zip(speeds[name], speeds["fer"], strict=True)] if peer else None
        rows.append(
            measure.row(f"{name}, one crop a call", median(speeds[name]), their_speed, "images/s", label, ratios)
        )
        for key, unit, factor in (
            ("load_s", "s", 1), ("first_prediction_s", "ms", 1000), ("peak_memory", "MB", 1e-6),
        ):  # fmt: skip
            words = key.removesuffix("_s").replace("_", " ")
            their_figure = theirs[key] * factor if theirs else None
            rows.append(measure.row(f"{name}: {words}", start[key] * factor, their_figure, unit, label))
    rows.append(measure.row("import", min(map(float, imports)), theirs.get("import_s"), "s", label))
    return rows


def calls(classifier: Classifier, crops: np.ndarray) -> Iterator[float]:
    """Seconds of each crop."""
    for crop in crops:
        began = perf_counter()
        classifier.predict(crop[None])
        yield perf_counter() - began


def start_peer(peer: str, file: Path) -> subprocess.Popen[str]:
    """The other Python, which loads its network and the crops."""
    command = [peer, "-W", "ignore", "-c", PEER, str(file)]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )


def ask(process: subprocess.Popen[str], line: str | None = None) -> str:
    """The next line that the other process prints."""
    assert process.stdin is not None and process.stdout is not None
    if line is not None:
        process.stdin.write(line + "\n")
        process.stdin.flush()
    answer = process.stdout.readline()
    if not answer:
        sys.exit(f"the other Python stopped with {process.wait()}: try `{process.args[0]} -c 'import fer.fer'`")  # type: ignore[index]
    return answer


def version_of(python: str) -> str:
    """Of `fer`, and of TensorFlow under it."""
    program = "from importlib.metadata import version as v; print(v('fer') + ', TensorFlow ' + v('tensorflow'))"
    return subprocess.run([python, "-c", program], capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    main()
