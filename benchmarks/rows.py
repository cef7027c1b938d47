"""What rows cost, as they grow: the index, the gate, the canary and the targets of a study with four teachers.

The index is built of a table of that many rows whose digests and thumbnails are given, since to decode images is
another matter (`benchmarks/changes.py`); one in a hundred is a copy. Gate, canary and targets read stores of
random logits. Each is in a process of its own; times are of its CPU, without imports, the memory with them.
"""

import hashlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import process_time
from typing import Any

import alignment
import measure
import numpy as np

EXAMPLES = """
  python benchmarks/rows.py                      up to a million rows: five minutes, 3 GB of disk
  python benchmarks/rows.py --rows 10000         scaled down
"""
TEACHERS = ["resnet18", "convnext_tiny", "efficientnet_b3", "vit_ban"]  # of family 6E in params.yaml
COPIES = 100  # every so many rows one is a copy of the row before
ROOT = Path(__file__).parents[1]


def list_corpus(directory: Path, rows: int) -> None:
    """A corpus that is a table of images that are not there."""
    directory.mkdir(parents=True)
    (directory / "corpus.yaml").write_text("sources: [{name: s, adapter: table, path: list.csv}]\n")
    with (directory / "list.csv").open("w") as file:
        file.write("path,label\n")
        classes = alignment.CLASSES
        file.writelines(f"images/{row // 1000:04d}/{row:07d}.jpg,{classes[row % 7]}\n" for row in range(rows))


def build_index(directory: Path) -> float:
    """The stage's work but for looking at images."""
    from ferdistill.data import build
    from ferdistill.data.sources import Record
    from ferdistill.data.thumbnails import SIDE, Thumbnails
    from ferdistill.params import IndexParams

    def given(corpus: Path, records: list[Record], *rest: Any) -> tuple[list[str], Thumbnails]:
        pictures, rng = Thumbnails(len(records)), np.random.default_rng(0)
        for row in range(len(records)):
            if row % COPIES != COPIES - 1:
                coarse = rng.integers(0, 256, (8, 8), np.uint8)
            pictures[row] = coarse.repeat(SIDE // 8, 0).repeat(SIDE // 8, 1)
        return [hashlib.sha256(record.path.encode()).hexdigest() for record in records], pictures

    build.look_at = given  # type: ignore[assignment]
    near = {"distance": 4, "correlation": 0.95}
    shares = {"seed": 1, "val": 0.1, "calib": 0.1, "test": 0.2}
    settings = IndexParams.model_validate(
        shares | {"near": near, "mirrored": True, "conflicts": "precedence", "unreadable": "strict"}
    )
    start = process_time()
    built = build.build(directory / "corpus", alignment.CLASSES, settings)
    build.write_index(directory / "i.csv", built.rows, alignment.CLASSES, "rows")
    copies = built.report["left_out"]["duplicate"]
    assert abs(copies * COPIES / built.report["rows_listed"] - 1) < 0.02, copies
    return process_time() - start


def gate(directory: Path) -> float:
    """`ferdistill align check --no-canary`."""
    from ferdistill.data import index
    from ferdistill.softlabels import alignment as library
    from ferdistill.softlabels import store

    start = process_time()
    rows = index.read(directory / "index.csv", store.KEYS)
    library.require(library.check(sorted((directory / "stores").iterdir()), rows, alignment.CLASSES))
    return process_time() - start


def canary(directory: Path) -> float:
    """The canary of `ferdistill align check`."""
    from ferdistill.data import index
    from ferdistill.softlabels import canary as library
    from ferdistill.softlabels import store

    start = process_time()
    library.check(sorted((directory / "stores").iterdir()), index.read(directory / "index.csv", store.KEYS))
    return process_time() - start


def targets(directory: Path) -> float:
    """The stage `targets`, the gate apart."""
    import os

    from ferdistill import params, workspace
    from ferdistill.data import index
    from ferdistill.softlabels import gather

    settings = params.load(ROOT / "params.yaml")
    os.chdir(directory)
    for name, store in zip(TEACHERS, sorted((directory / "stores").iterdir()), strict=True):
        place = workspace.softlabels(name, settings.index_tag)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(store)
    start = process_time()
    gather.write_targets(workspace.TARGETS, index.read(directory / "index.csv"), settings)
    return process_time() - start


def measured(directory: Path, rows: int) -> list[dict[str, Any]]:
    """Time and memory of each."""
    measure.alone(list_corpus, directory / "corpus", rows)
    measure.alone(alignment.generate, directory, rows, len(TEACHERS))
    work: dict[str, Callable[[Path], float]] = {
        "index, hashes given": build_index, "gate": gate, "canary": canary, "targets": targets,
    }  # fmt: skip
    table = []
    for name, function in work.items():
        seconds, memory = measure.alone(function, directory)
        table += [
            measure.row(f"{name}: CPU time", seconds, None, "s", "", size={"rows": rows}),
            measure.row(f"{name}: peak memory", round(memory), None, "MiB", "", size={"rows": rows}),
        ]
    return table


def main() -> None:
    """Grow the rows."""
    parser = measure.parser(__doc__, EXAMPLES)
    parser.add_argument(
        "--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000], help="(default 10000 100000 1000000)"
    )
    arguments = parser.parse_args()
    if min(arguments.rows) < 1000:
        parser.error("--rows: at least 1000")
    table = []
    for rows in arguments.rows:
        with tempfile.TemporaryDirectory() as directory:
            table += measured(Path(directory), rows)
    table.sort(key=lambda row: row["name"])  # a curve in a run
    measure.finish(measure.result(table, "ferdistill", "numpy", "pandas", "pyarrow"), arguments.json)


if __name__ == "__main__":
    main()
