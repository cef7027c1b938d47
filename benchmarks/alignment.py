"""Time and memory of `ferdistill align check`, beside the same by hand with pandas, as both grow.

By hand means as the report's §4.2 has it: read the index and the four tables, compare paths, labels and splits, digest
each table's joined paths, and look for logits that are not finite. Ours checks all that, and each file's own digest.
Every run is in a process of its own; the time is without imports, the memory with them.
"""

import hashlib
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import measure
import numpy as np

EXAMPLES = """
  python benchmarks/alignment.py                                  up to a million rows and 16 teachers, four minutes
  python benchmarks/alignment.py --rows 20000 --teachers 4        scaled down
  python benchmarks/alignment.py --workdir /tmp/made --json out.json   keeps the generated files for the next time
"""
CLASSES = ["angry", "disgust", "fear", "happy", "neutral", "sad", "surprise"]
TEACHERS = 4  # in the growth with rows
ROWS = 100_000  # in the growth with teachers


def generate(directory: Path, rows: int, teachers: int) -> None:
    """Write an index in canonical order, and a store of random logits for each teacher."""
    from ferdistill.data import index
    from ferdistill.softlabels import store

    write_index(directory, rows, CLASSES)
    written, rng = index.read(directory / "index.csv"), np.random.default_rng(1)
    for teacher in map(str, range(teachers)):
        logits = rng.normal(0, 3, (rows, len(CLASSES)))
        checkpoint = hashlib.sha256(teacher.encode()).hexdigest()
        folder = directory / "stores" / teacher
        store.write(folder, written, logits, CLASSES, teacher=teacher, checkpoint_sha256=checkpoint)


def write_index(directory: Path, rows: int, classes: list[str]) -> None:
    """An index of images that are not there, in canonical order."""
    import pandas as pd

    from ferdistill.data import build, index

    rng = np.random.default_rng(0)
    names = [hashlib.sha256(str(row).encode()).hexdigest() for row in range(rows)]
    frame = pd.DataFrame(dict.fromkeys(index.COLUMNS, ""), index=range(rows))
    frame["sample_id"], frame["group"], frame["source"] = names, names, "rafdb"
    frame["path"] = [f"rafdb/Image/aligned/train_{row:08d}_aligned.jpg" for row in range(rows)]
    drawn = rng.permutation(rows)  # in any order, and each class in each split
    frame["label"] = np.array(classes)[drawn % len(classes)]
    frame["split"] = np.repeat(index.SPLITS, [7, 1, 1, 1])[drawn // len(classes) % 10]
    build.write_index(directory / "index.csv", frame, classes, "benchmark")


def check_ours(directory: Path) -> float:
    """Seconds of the gate, the reading of the index included."""
    from ferdistill.data import index
    from ferdistill.softlabels import alignment, store

    start = perf_counter()
    rows = index.read(directory / "index.csv", store.KEYS)
    report = alignment.check(sorted((directory / "stores").iterdir()), rows, CLASSES)
    alignment.require(report)
    return perf_counter() - start


def check_by_hand(directory: Path) -> float:
    """Seconds of the same with pandas."""
    import pandas as pd
    import pyarrow.parquet  # noqa: F401  (pandas would import it within the time)

    start = perf_counter()
    index = pd.read_csv(directory / "index.csv", dtype=str, keep_default_na=False)
    tables = [pd.read_parquet(store / "softlabels.parquet") for store in sorted((directory / "stores").iterdir())]
    digests = {hashlib.sha256("\n".join(table["path"]).encode()).hexdigest() for table in tables}
    assert digests == {hashlib.sha256("\n".join(index["path"]).encode()).hexdigest()}
    for table in tables:
        for column in ("path", "label", "split"):
            assert (table[column] == index[column]).all()
        assert np.isfinite(table[[f"logit_{name}" for name in CLASSES]].to_numpy()).all()
    return perf_counter() - start


def compare(directory: Path, grows: str, rows: int, teachers: int, repeats: int) -> list[dict[str, Any]]:
    """Both sides in turn on generated files, which are made if they are not there; medians."""
    files = directory / f"alignment-{rows}-{teachers}"
    if not files.exists():
        unfinished = files.with_suffix(".unfinished")
        measure.alone(generate, unfinished, rows, teachers)  # a process inherits the peak of the one that starts it
        unfinished.rename(files)
    runs = [(measure.alone(check_ours, files), measure.alone(check_by_hand, files)) for _ in range(repeats)]
    peer = f"pandas {measure.installed('pandas')}"
    size = {grows: rows if grows == "rows" else teachers}
    name = f"strict check, {teachers} teachers" if grows == "rows" else f"strict check, {rows:,} rows"
    seconds, memory = ([median(run[side][place] for run in runs) for side in (0, 1)] for place in (0, 1))
    ratios = [theirs[0] / ours[0] for ours, theirs in runs]
    return [
        measure.row(f"{name}: time", *seconds, "s", peer, ratios, size),
        measure.row(f"{name}: peak memory", *memory, "MiB", peer, size=size),
    ]


def main() -> None:
    """Grow rows, then teachers."""
    parser = measure.parser(__doc__, EXAMPLES)
    parser.add_argument(
        "--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000],
        help=f"rows of the index, with {TEACHERS} teachers (default 10000 100000 1000000)",
    )  # fmt: skip
    parser.add_argument(
        "--teachers", type=int, nargs="+", default=[1, 4, 16], help=f"stores of {ROWS:,} rows each (default 1 4 16)"
    )
    parser.add_argument("--repeats", type=int, default=3, help="fresh processes a side; medians are given (default 3)")
    parser.add_argument(
        "--workdir", type=Path, help="keep the generated files here; a temporary directory if not given"
    )
    arguments = parser.parse_args()
    if min(*arguments.rows, *arguments.teachers, arguments.repeats) < 1:
        parser.error("--rows, --teachers and --repeats: at least 1")
    sizes = [("rows", rows, TEACHERS) for rows in arguments.rows]
    sizes += [("teachers", ROWS, teachers) for teachers in arguments.teachers]
    with tempfile.TemporaryDirectory() as temporary:
        directory = arguments.workdir or Path(temporary)
        rows = [row for size in sizes for row in compare(directory, *size, arguments.repeats)]
    measure.finish(measure.result(rows, "ferdistill", "numpy", "pandas", "pyarrow"), arguments.json)


if __name__ == "__main__":
    main()
