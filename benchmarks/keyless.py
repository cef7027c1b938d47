"""Time and memory of `ferdistill align check` on files without keys: the canary alone, teachers against one another.

Random logits about labels of equal frequency, 70 % right of 7 classes; the files lie uncompressed as .npy. The check is
in a process of its own: the time is without imports, the reading of the labels included, the memory with imports.
"""

import tempfile
from pathlib import Path
from time import perf_counter, process_time

import measure
import numpy as np

EXAMPLES = """
  python benchmarks/keyless.py                                    four teachers, a million rows, 7 classes
  python benchmarks/keyless.py --rows 1280000 --classes 1000      as ImageNet, in half precision: 10 GB of files
"""
BLOCK = 2_000


def generate(directory: Path, rows: int, classes: int, teachers: int) -> None:
    """Write labels.csv and a file a teacher, float32 up to 100 classes, else float16."""
    rng = np.random.default_rng(0)
    labels = rng.integers(classes, size=rows)
    with (directory / "labels.csv").open("w") as file:
        file.write("path,label\n")
        file.writelines(f"train/{label:04d}/image_{row:08d}.jpg,{label:04d}\n" for row, label in enumerate(labels))
    kind = np.float32 if classes <= 100 else np.float16
    noise = rng.standard_normal((BLOCK, classes)).astype(kind)
    for teacher in range(teachers):
        values = np.lib.format.open_memmap(directory / f"{teacher}.npy", "w+", kind, (rows, classes))
        for start in range(0, rows, BLOCK):
            block = np.roll(noise[rng.permutation(BLOCK)], rng.integers(classes), axis=1)
            right = labels[start : start + BLOCK]
            block = block[: len(right)]
            block[np.arange(len(right)), right] += kind(1.9 if classes <= 100 else 4)
            values[start : start + BLOCK] = block


def check(directory: Path) -> tuple[float, float]:
    """Seconds on the clock and of processor time."""
    from ferdistill.softlabels import labelled, verdicts

    start, used = perf_counter(), process_time()
    images = labelled.read(directory / "labels.csv")
    report = verdicts.check(sorted(directory.glob("*.npy")), images, images.classes)
    assert report["ok"], report["problems"]
    return perf_counter() - start, process_time() - used


def main() -> None:
    """Measure once, print a table."""
    parser = measure.parser(__doc__, EXAMPLES)
    parser.add_argument("--rows", type=int, default=1_000_000, help="images (default 1000000)")
    parser.add_argument("--classes", type=int, default=7, help="columns of each file (default 7)")
    parser.add_argument("--teachers", type=int, default=4, help="files (default 4)")
    arguments = parser.parse_args()
    if min(arguments.rows, arguments.teachers) < 1 or arguments.classes < 2:
        parser.error("--rows and --teachers: at least 1; --classes: at least 2")
    with tempfile.TemporaryDirectory() as folder:
        measure.alone(generate, Path(folder), arguments.rows, arguments.classes, arguments.teachers)
        (seconds, used), memory = measure.alone(check, Path(folder))
    name = f"keyless check, {arguments.teachers} teachers, {arguments.rows:,} rows, {arguments.classes:,} classes"
    rows = [
        measure.row(f"{name}: time", seconds, None, "s", ""),
        measure.row(f"{name}: processor time", used, None, "s", ""),
        measure.row(f"{name}: peak memory", memory, None, "MiB", ""),
    ]
    measure.finish(measure.result(rows, "ferdistill", "numpy", "scipy"), arguments.json)


if __name__ == "__main__":
    main()
