"""Time and memory of `ferdistill align check --strict` on four teachers, beside the same by hand with pandas.

By hand means as the report's §4.2 has it: read the index and the four tables, compare paths, labels and splits, digest
each table's joined paths, and look for logits that are not finite. Ours checks all that, and each file's own digest.
Every run is in a process of its own; the time is without imports, the memory with them.
"""

import argparse
import hashlib
import os
import platform
import resource
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from ferdistill.files import write_json

EXAMPLES = """
examples:
  python benchmarks/alignment.py                                  a million rows, about two minutes
  python benchmarks/alignment.py --rows 20000                     scaled down
  python benchmarks/alignment.py --workdir /tmp/made --json out.json   keeps the generated files for the next time
"""
CLASSES = ["angry", "disgust", "fear", "happy", "neutral", "sad", "surprise"]
TEACHERS = ["resnet18", "convnext_tiny", "efficientnet_b3", "vit_ban"]


def generate(directory: Path, rows: int) -> None:
    """Write an index in canonical order, and a store of random logits for each teacher."""
    import pandas as pd

    from ferdistill.corpus import index
    from ferdistill.softlabels import store

    rng = np.random.default_rng(0)
    names = [hashlib.sha256(str(row).encode()).hexdigest() for row in range(rows)]
    frame = pd.DataFrame(dict.fromkeys(index.COLUMNS, ""), index=range(rows))
    frame["sample_id"], frame["group"], frame["source"] = names, names, "rafdb"
    frame["path"] = [f"rafdb/Image/aligned/train_{row:08d}_aligned.jpg" for row in range(rows)]
    frame["label"] = rng.choice(CLASSES, rows)
    frame["split"] = rng.choice(index.SPLITS, rows, p=[0.7, 0.1, 0.1, 0.1])
    index.write(directory / "index.csv", frame, CLASSES, "benchmark")
    written = index.read(directory / "index.csv")
    for teacher in TEACHERS:
        logits = rng.normal(0, 3, (rows, len(CLASSES)))
        checkpoint = hashlib.sha256(teacher.encode()).hexdigest()
        store.write(directory / teacher, written, logits, CLASSES, teacher=teacher, checkpoint_sha256=checkpoint)


def check_ours(directory: Path) -> float:
    """Seconds of the gate, the reading of the index included."""
    from ferdistill.corpus import index
    from ferdistill.softlabels import alignment, store

    start = perf_counter()
    rows = index.read(directory / "index.csv", store.KEYS)
    report = alignment.check([directory / name for name in TEACHERS], rows, CLASSES)
    alignment.require(report)
    return perf_counter() - start


def check_by_hand(directory: Path) -> float:
    """Seconds of the same with pandas."""
    import pandas as pd
    import pyarrow.parquet  # noqa: F401  (pandas would import it within the time)

    start = perf_counter()
    index = pd.read_csv(directory / "index.csv", dtype=str, keep_default_na=False)
    tables = [pd.read_parquet(directory / name / "softlabels.parquet") for name in TEACHERS]
    digests = {hashlib.sha256("\n".join(table["path"]).encode()).hexdigest() for table in tables}
    assert digests == {hashlib.sha256("\n".join(index["path"]).encode()).hexdigest()}
    for table in tables:
        for column in ("path", "label", "split"):
            assert (table[column] == index[column]).all()
        assert np.isfinite(table[[f"logit_{name}" for name in CLASSES]].to_numpy()).all()
    return perf_counter() - start


def alone(function: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
    """What a function returns in a process of its own, and that process's peak MiB."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result(), pool.submit(peak_memory).result()


def peak_memory() -> float:
    """Peak resident memory of this process, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def cpu_model() -> str:
    """The processor's name, where the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def main() -> None:
    """Generate what is not there, run both sides in turn, print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of the index (default 1,000,000)")
    parser.add_argument("--repeats", type=int, default=3, help="fresh processes a side; medians are given (default 3)")
    parser.add_argument(
        "--workdir", type=Path, help="keep the generated files here; a temporary directory if not given"
    )
    parser.add_argument("--json", type=Path, help="write the result to this file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        directory = (arguments.workdir or Path(temporary)) / f"alignment-{arguments.rows}"
        if not directory.exists():
            unfinished = directory.with_suffix(".unfinished")
            alone(generate, unfinished, arguments.rows)  # a process inherits the peak of the one that starts it
            unfinished.rename(directory)
        runs = [(alone(check_ours, directory), alone(check_by_hand, directory)) for _ in range(arguments.repeats)]
    peer = f"pandas {version('pandas')}"
    rows = []
    for place, (name, unit) in enumerate([("time", "s"), ("peak memory", "MiB")]):
        ours, theirs = (round(median(run[side][place] for run in runs), 3) for side in (0, 1))
        name = f"strict check of {len(TEACHERS)} x {arguments.rows:,} rows: {name}"
        rows.append(
            {"name": name, "ours": ours, "theirs": theirs, "ratio": round(theirs / ours, 2), "unit": unit, "peer": peer}
        )
    result = {
        "device": {"cpu": cpu_model(), "cores": len(os.sched_getaffinity(0))},
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("numpy", "pandas", "pyarrow")},
        "rows": rows,
    }
    if arguments.json:
        write_json(arguments.json, result)
    table = Table(*rows[0], title=f"{result['device']['cpu']}, {result['device']['cores']} cores")
    for row in rows:
        table.add_row(*map(str, row.values()))
    Console().print(table)


if __name__ == "__main__":
    main()
