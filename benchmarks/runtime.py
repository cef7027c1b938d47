"""The exported bundle beside a public package, and what it costs to start.

The public package is `fer` (PyPI, MIT), which ships its weights and runs on a CPU by TensorFlow Lite. It stays in an
environment of its own, whose Python is named by --peer; it gets the same crops as RGB images with the face's box, so
that neither side detects faces, and classifies one after the other, as its `detect_emotions` does. Rounds are
interleaved: in each, both classify all crops, and images a second are those of the median call, which other load on the
machine moves least. Starting is the least of several fresh processes. Whether either is right is not compared: they
know other corpora.
"""

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from ferdistill.files import write_json
from ferdistill.runtime import footprint, latency
from ferdistill.runtime.classifier import Classifier

EXAMPLES = """examples:
  python benchmarks/runtime.py models/bundle data/images/ixNextAffFull.npy
  python -m venv /tmp/fer && /tmp/fer/bin/python -m pip install fer
  python benchmarks/runtime.py models/bundle data/images/ixNextAffFull.npy --peer /tmp/fer/bin/python --json out.json
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
start, cpu = time.perf_counter(), time.process_time()
import ferdistill.runtime.classifier
print(time.perf_counter() - start, time.process_time() - cpu)
"""


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path, help="a bundle")
    parser.add_argument("images", type=Path, help="packed images, .npy, uint8 (N, H, W, C)")
    parser.add_argument("--peer", metavar="PYTHON", help="Python of an environment with `fer`")
    parser.add_argument("--crops", type=int, default=200, help="images of a round (default 200)")
    parser.add_argument("--rounds", type=int, default=15, help="rounds that count, after one (default 15)")
    parser.add_argument("--side", type=int, help="side of the crops; the images' own if not given")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result to this file")
    arguments = parser.parse_args()
    if min(arguments.crops, arguments.rounds, arguments.side or 1) < 1:
        parser.error("--crops, --rounds and --side: at least 1")
    result = measure(
        arguments.bundle, load(arguments.images, arguments.crops, arguments.side), arguments.peer, arguments.rounds
    )
    if arguments.json:
        write_json(arguments.json, result)
    show(result)


def load(path: Path, count: int, side: int | None) -> np.ndarray:
    """Evenly spaced images as RGB crops (count, side, side, 3)."""
    packed = np.load(path, mmap_mode="r")
    rows = np.linspace(0, len(packed) - 1, count).astype(int)
    pictures = [Image.fromarray(np.repeat(packed[row], 3 // packed.shape[3], axis=2)) for row in rows]
    if side is not None:
        pictures = [picture.resize((side, side), Image.Resampling.BICUBIC) for picture in pictures]
    return np.stack([np.asarray(picture) for picture in pictures])


def measure(bundle: Path, crops: np.ndarray, peer: str | None, rounds: int) -> dict[str, Any]:
    """Images a second of each, one crop a call on one thread, and the cost of starting."""
    variants = {model.name.split()[-1]: model for model in latency.models_at(bundle)}
    names = list(variants) if len(variants) > 1 else ["fp32"]
    classifiers = {name: Classifier(bundle, threads=1, device="cpu", variant=name) for name in names}
    speeds: dict[str, list[float]] = {f"ours, {name}": [] for name in names}
    starts = []
    for model in variants.values():
        fresh = [footprint.measure(model.file, [1, *crops.shape[1:]], "uint8", 1, "cpu") for _ in range(5)]
        starts.append({key: min(one[key] for one in fresh) for key in fresh[0]})
    start = dict(zip(speeds, starts, strict=True))
    imports = [
        subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True, check=True).stdout.split()
        for _ in range(7)
    ]
    wall, cpu = (min(float(one[i]) for one in imports) for i in (0, 1))
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "crops.npy"
        np.save(file, crops)
        other = None
        if peer is not None:
            command = [peer, "-W", "ignore", "-c", PEER, str(file)]
            other = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
            name = f"fer {version_of(peer)}"
            start[name], speeds[name] = json.loads(ask(other)), []
        for round_ in range(-1, rounds):
            for name in names:
                seconds = []
                for crop in crops:
                    began = perf_counter()
                    classifiers[name].predict(crop[None])
                    seconds.append(perf_counter() - began)
                if round_ >= 0:
                    speeds[f"ours, {name}"].append(1 / median(seconds))
            if other is not None:
                seconds = json.loads(ask(other, "go"))
                if round_ >= 0:
                    speeds[list(speeds)[-1]].append(1 / median(seconds))
        if other is not None:
            other.communicate()
    return {
        "machine": latency.processor(),
        "versions": latency.versions(),
        "crops": list(crops.shape),
        "classifier_import": {"wall_s": wall, "cpu_s": cpu},
        "images_per_s": {
            name: {"median": median(own), "lowest": min(own), "highest": max(own)} for name, own in speeds.items()
        },
        "start": start,
    }


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
    program = "from importlib.metadata import version as v; print(v('fer') + ', tensorflow ' + v('tensorflow'))"
    return subprocess.run([python, "-c", program], capture_output=True, text=True, check=True).stdout.strip()


def show(result: dict[str, Any]) -> None:
    """Print the result as a table."""
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    table = Table(
        "", "images/s", "spread", "import s", "load s", "first prediction ms", "peak MB",
        title=f"{result['machine']}, {platform.system()}, 1 thread; {versions}; crops {result['crops']}",
    )  # fmt: skip
    for name, speed in result["images_per_s"].items():
        start = result["start"][name]
        table.add_row(
            name,
            f"{speed['median']:.0f}",
            f"{speed['lowest']:.0f}-{speed['highest']:.0f}",
            f"{start['import_s']:.2f}",
            f"{start['load_s']:.2f}",
            f"{1000 * start['first_prediction_s']:.1f}",
            f"{start['peak_memory'] / 1e6:.0f}",
        )
    console = Console()
    console.print(table)
    taken = result["classifier_import"]
    console.print(f"import ferdistill.runtime.classifier: {taken['wall_s']:.3f} s, {taken['cpu_s']:.3f} s of the CPU")


if __name__ == "__main__":
    main()
