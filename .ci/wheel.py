"""Build the wheel, install each extra from it into an empty environment, and use it there.

`python .ci/wheel.py [--page] [--out DIR] [EXTRA ...]`, all extras if none is named. Prints what each takes on the disk,
as a table in Markdown. With `--page`, the wheel must have the libraries of `ferdistill serve` too, which `make web`
brings.
"""

import argparse
import csv
import os
import subprocess
import sys
import tempfile
import time
import tomllib
import urllib.request
import venv
import zipfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from ferdistill.faces import server  # noqa: E402
from support.bundles import write_bundle  # noqa: E402

EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
IMPORT_ALL = """
import importlib, pkgutil, ferdistill
names = [module.name for module in pkgutil.walk_packages(ferdistill.__path__, "ferdistill.")]
assert len(names) > 100, names
for name in names:
    importlib.import_module(name)
"""
CLASSIFY = [["ferdistill", "predict", "picture.png", "--bundle", "bundle"], ["ferdistill", "bench", "bundle"]]
SCORE = [["ferdistill", "score", "scored.csv"], ["python", "-c", IMPORT_ALL]]
# What an extra is for. None of it may print an error, or need another package.
USES = {
    "align": [["ferdistill", "align", "check", "P.npy", "--labels", "labels.csv"]],
    "parquet": [["python", "-c", "import pyarrow.parquet"]],
    "pictures": [["python", "-c", "import cv2, numpy, PIL.Image; cv2.CascadeClassifier"]],
    "runtime": CLASSIFY,
    "gpu": CLASSIFY,
    "train": SCORE + CLASSIFY,
    "public": [*SCORE, ["python", "-c", "import h5py, tflite"]],
    "slurm": [*SCORE, ["python", "-c", "import submitit"]],
    "ray": [*SCORE, ["ray", "--version"]],
    "docs": [["mkdocs", "--version"]],
    "dev": [*SCORE, ["ruff", "--version"], ["mypy", "--version"], ["pytest", "--version"]],
    "web": [*SCORE, ["playwright", "--version"]],
}


def build(out: Path, page: bool) -> Path:
    """The wheel, which has every file of the package that git has."""
    for old in out.glob("ferdistill-*.whl"):
        old.unlink()
    run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(out), str(ROOT)], ROOT)
    (wheel,) = out.glob("ferdistill-*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    tracked = subprocess.run(
        ["git", "ls-files", "ferdistill"], cwd=ROOT / "src", capture_output=True, text=True, check=True
    )
    wanted = set(tracked.stdout.split())
    if page:
        wanted |= {f"ferdistill/faces/web/vendor/{name}" for name in (*server.VENDOR, "NOTICES.txt")}
    strange = {name for name in held if not name.startswith(("ferdistill/", "ferdistill-"))}
    if missing := sorted(wanted - held) + sorted(strange):
        sys.exit(f"error: the wheel lacks files, or has strange ones: {', '.join(missing[:5])}\n  where:    {wheel}")
    return wheel


def run(command: list[str], folder: Path) -> str:
    """What a command says; it ends all if it fails."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"error: `{' '.join(command)}` failed\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def size(folder: Path) -> int:
    """Bytes of all files within."""
    return sum(file.lstat().st_size for file in folder.rglob("*") if not file.is_dir())


def write_inputs(folder: Path) -> None:
    """A bundle, a picture, soft labels with their labels, and predictions."""
    from PIL import Image

    (folder / "bundle").mkdir()
    write_bundle(folder / "bundle")
    Image.fromarray(np.full((8, 8), 99, np.uint8)).save(folder / "picture.png")
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 500)
    values = rng.normal(size=(500, 3)) + 3 * np.eye(3)[labels]
    np.save(folder / "P.npy", values)
    probabilities = np.exp(values) / np.exp(values).sum(axis=1, keepdims=True)
    names = ["cat", "dog", "owl"]
    with (folder / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "label"), *((f"{i}.png", names[k]) for i, k in enumerate(labels))])
    with (folder / "scored.csv").open("w", newline="") as file:
        rows = [(f"{i}.png", names[k], *p) for i, (k, p) in enumerate(zip(labels, probabilities, strict=True))]
        csv.writer(file).writerows([("path", "label", *(f"prob_{name}" for name in names)), *rows])


def serve(scripts: Path, folder: Path) -> None:
    """Start the page, and fetch each of its files."""
    command = [scripts / "ferdistill", "serve", "--bundle", "bundle", "--port", "0", "--json"]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            address = process.stdout.readline().split('"')[3]
            for name in ("", *server.PAGE, *(f"vendor/{name}" for name in server.VENDOR), "bundle/model.onnx"):
                assert urllib.request.urlopen(f"{address}{name}", timeout=30).read(), name
        finally:
            process.terminate()


def install(wheel: Path, extra: str, page: bool) -> str:
    """Install one extra alone, use it, and say what it took: a line of the table."""
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        write_inputs(folder)
        venv.create(folder / "venv", with_pip=True)
        scripts = folder / "venv" / ("Scripts" if os.name == "nt" else "bin")
        before, started = size(folder / "venv"), time.monotonic()
        pip = [str(scripts / "python"), "-m", "pip", "--disable-pip-version-check"]
        run([*pip, "install", "-q", "-c", str(ROOT / "constraints.txt"), f"{wheel}[{extra}]"], folder)
        seconds, taken = time.monotonic() - started, size(folder / "venv") - before
        run([*pip, "check"], folder)
        there = run([*pip, "list", "--format=freeze"], folder).lower().splitlines()
        runtimes = [line for line in there if line.startswith("onnxruntime")]
        if len(runtimes) > 1:
            sys.exit(f"error: `{extra}` brings two ONNX Runtimes, which overwrite each other: {', '.join(runtimes)}")
        for program, *words in USES[extra]:
            said = run([str(scripts / program), *words], folder)
            if ":onnxruntime:" in said or "EP Error" in said:
                sys.exit(f"error: ONNX Runtime prints errors: {program} {' '.join(words)}\n{said}")
        if page and extra in ("runtime", "gpu"):
            serve(scripts, folder)
    return f"| `{extra}` | {len(there)} | {taken / 1e6:,.0f} | {', '.join(runtimes)} | {seconds:.0f} |"


def main() -> None:
    """Build, and go through the extras."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("extras", nargs="*", metavar="EXTRA", help=f"of {', '.join(EXTRAS)}; all if none is named")
    parser.add_argument("--page", action="store_true", help="the wheel must hold what `make web` brings")
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="where the wheel is put (dist)")
    arguments = parser.parse_args()
    if strange := set(arguments.extras) - EXTRAS.keys():
        parser.error(f"no extra {', '.join(sorted(strange))}")
    wheel = build(arguments.out.resolve(), arguments.page)
    print(f"{wheel.name}: {wheel.stat().st_size / 1e6:.1f} MB\n")
    print("| extra | packages | MB on the disk | ONNX Runtime | seconds |\n|---|---|---|---|---|", flush=True)
    for extra in arguments.extras or EXTRAS:
        print(install(wheel, extra, arguments.page), flush=True)


if __name__ == "__main__":
    main()
