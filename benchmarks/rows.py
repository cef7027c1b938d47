"""What rows cost, as they grow: the index, and gate, canary, targets and a student's batches with four teachers.

The index is built of a table of that many rows whose digests and thumbnails are given, since to decode images is
another matter (`benchmarks/changes.py`); one in a hundred is a copy. The rest reads stores of random logits about the
labels, 70 % right of 7 classes. Of other classes there is no index, and gate and canary are one reading; `--top-k`
keeps the likeliest of them. Each is in a process of its own; times are of its CPU, without imports, the memory with
them.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import process_time
from typing import Any

import alignment
import measure
import numpy as np

EXAMPLES = """
  python benchmarks/rows.py                                              up to a million rows: ten minutes, 3 GB
  python benchmarks/rows.py --rows 10000                                 scaled down
  python benchmarks/rows.py --rows 1280000 --classes 1000 --top-k 20     as ImageNet, of which stores keep 20 classes
  python benchmarks/rows.py --rows 320000 --classes 1000                 all classes of a quarter: 10 GB
"""
TEACHERS = ["resnet18", "convnext_tiny", "efficientnet_b3", "vit_ban"]  # of family 6E in params.yaml
COPIES = 100  # every so many rows one is a copy of the row before
BATCH, BATCHES = 128, 200  # images of a step, and steps
ROOT = Path(__file__).parents[1]


def names(classes: int) -> list[str]:
    """Those of params.yaml, or numbers."""
    return alignment.CLASSES if classes == len(alignment.CLASSES) else [f"c{number:04d}" for number in range(classes)]


def list_corpus(directory: Path, rows: int) -> None:
    """A corpus that is a table of images that are not there."""
    directory.mkdir(parents=True)
    (directory / "corpus.yaml").write_text("sources: [{name: s, adapter: table, path: list.csv}]\n")
    with (directory / "list.csv").open("w") as file:
        file.write("path,label\n")
        classes = alignment.CLASSES
        file.writelines(f"images/{row // 1000:04d}/{row:07d}.jpg,{classes[row % 7]}\n" for row in range(rows))


def build_index(directory: Path, classes: int) -> float:
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
    built = build.build(directory / "corpus", names(classes), settings)
    build.write_index(directory / "i.csv", built.rows, names(classes), "rows")
    copies = built.report["left_out"]["duplicate"]
    assert abs(copies * COPIES / built.report["rows_listed"] - 1) < 0.02, copies
    return process_time() - start


class Drawn:
    """Logits (N, K) that are drawn where they are read: noise about the labels."""

    def __init__(self, labels: np.ndarray, classes: int, seed: int) -> None:
        """Of 7 classes 70 % are right, of 1,000 75 %."""
        rng = np.random.default_rng(seed)
        self.labels, self.shift = labels, rng.integers(classes, size=len(labels))
        self.noise = rng.standard_normal((4096, 2 * classes)).astype(np.float32)
        self.classes, self.gain = classes, np.float32(1.9 if classes <= 100 else 4)

    def __getitem__(self, rows: slice) -> np.ndarray:
        """Of some rows."""
        numbers = np.arange(len(self.labels))[rows]
        places = self.shift[rows, None] + np.arange(self.classes)
        found: np.ndarray = self.noise[numbers[:, None] % len(self.noise), places]
        found[np.arange(len(numbers)), self.labels[rows]] += self.gain
        return found * 2


def generate(directory: Path, rows: int, classes: int, top_k: int | None) -> None:
    """Write an index in canonical order, and a store for each teacher."""
    from ferdistill.data import index
    from ferdistill.softlabels import store

    alignment.write_index(directory, rows, names(classes))
    written = index.read(directory / "index.csv")
    labels = written.codes(names(classes))
    for number, teacher in enumerate(TEACHERS):
        drawn: Any = Drawn(labels, classes, number)
        checkpoint = hashlib.sha256(teacher.encode()).hexdigest()
        facts = {"teacher": teacher, "checkpoint_sha256": checkpoint, "top_k": top_k}
        store.write(directory / "stores" / teacher, written, drawn, names(classes), **facts)  # type: ignore[arg-type]


def gate(directory: Path, classes: int) -> float:
    """`ferdistill align check --no-canary`."""
    from ferdistill.data import index
    from ferdistill.softlabels import alignment as library
    from ferdistill.softlabels import store

    start = process_time()
    rows = index.read(directory / "index.csv", store.KEYS)
    library.require(library.check(sorted((directory / "stores").iterdir()), rows, names(classes)))
    return process_time() - start


def check(directory: Path, classes: int) -> float:
    """`ferdistill align check`: gate and canary, in one reading."""
    from ferdistill.data import index
    from ferdistill.softlabels import store, verdicts

    start = process_time()
    rows = index.read(directory / "index.csv", store.KEYS)
    report = verdicts.check(sorted((directory / "stores").iterdir()), rows, names(classes))
    assert report["ok"], report["problems"]
    return process_time() - start


def canary(directory: Path, classes: int) -> float:
    """The canary alone."""
    from ferdistill.data import index
    from ferdistill.softlabels import canary as library
    from ferdistill.softlabels import store

    start = process_time()
    rows = index.read(directory / "index.csv", store.KEYS)
    assert library.check(sorted((directory / "stores").iterdir()), rows)["ok"]
    return process_time() - start


@contextmanager
def project(directory: Path, classes: int) -> Iterator[Any]:
    """Within a folder whose stores are those of family 6E: the params."""
    from ferdistill import params, workspace

    settings = params.load(ROOT / "params.yaml").model_copy(update={"classes": names(classes), "family": "6E"})
    os.chdir(directory)
    for name in TEACHERS:
        place = workspace.softlabels(name, settings.index_tag)
        if not place.is_symlink():
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(directory / "stores" / name)
    yield settings


def targets(directory: Path, classes: int) -> float:
    """The stage `targets`, the gate apart."""
    from ferdistill import workspace
    from ferdistill.data import index
    from ferdistill.softlabels import gather

    with project(directory, classes) as settings:
        start = process_time()
        gather.write_targets(workspace.TARGETS, index.read(directory / "index.csv"), settings)
        return process_time() - start


def training(directory: Path, classes: int) -> float:
    """What a student needs but for network and images: targets read and checked, its canary, the loss of batches."""
    import torch

    from ferdistill import workspace
    from ferdistill.data import index
    from ferdistill.distill import student
    from ferdistill.distill.batches import Batch
    from ferdistill.softlabels import targets as library

    torch.set_num_threads(1)
    with project(directory, classes) as settings:
        start = process_time()
        rows = index.read(directory / "index.csv")
        labels = torch.from_numpy(rows.codes(settings.classes)[rows.trained()])
        objective = student.objective(settings, library.read(workspace.TARGETS, rows, settings), labels, False)
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
        for drawn in order[: BATCH * BATCHES].split(BATCH):
            logits = torch.randn(len(drawn), classes).requires_grad_()
            batch = Batch(torch.zeros(0), labels[drawn], drawn, None, 0, len(drawn))
            objective.loss(logits, batch)["loss"].backward()
        agreement = objective.after_epoch()
        assert all(share > 0.6 for share in agreement.values()), agreement
        return process_time() - start


def measured(directory: Path, rows: int, classes: int, top_k: int | None) -> list[dict[str, Any]]:
    """Time and memory of each."""
    measure.alone(generate, directory, rows, classes, top_k)
    work: dict[str, Callable[[Path, int], float]] = {"gate and canary": check}
    if classes == len(alignment.CLASSES):
        measure.alone(list_corpus, directory / "corpus", rows)
        work = {"index, hashes given": build_index, "gate": gate, "canary": canary}
    work |= {"targets": targets, f"training canary and loss of {BATCHES} batches": training}
    of = "" if classes == len(alignment.CLASSES) else f" of {classes:,} classes"
    of += "" if top_k is None else f", {top_k} kept"
    table = []
    for name, function in work.items():
        seconds, memory = measure.alone(function, directory, classes)
        table += [
            measure.row(f"{name}{of}: CPU time", seconds, None, "s", "", size={"rows": rows}),
            measure.row(f"{name}{of}: peak memory", round(memory), None, "MiB", "", size={"rows": rows}),
        ]
    kept = {"stores": directory / "stores", "targets": directory / "data/targets"}
    for name, folder in kept.items():
        megabytes = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 2**20
        table.append(measure.row(f"{name}{of}: on disk", round(megabytes), None, "MB", "", size={"rows": rows}))
    return table


def main() -> None:
    """Grow the rows."""
    parser = measure.parser(__doc__, EXAMPLES)
    parser.add_argument(
        "--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000], help="(default 10000 100000 1000000)"
    )
    parser.add_argument("--classes", type=int, default=len(alignment.CLASSES), help="columns of each store (default 7)")
    parser.add_argument("--top-k", type=int, help="classes that stores keep of each row (default: all)")
    arguments = parser.parse_args()
    if arguments.classes < 2 or min(arguments.rows) < max(1000, 10 * arguments.classes):
        parser.error("--classes: at least 2; --rows: at least 1000, and ten of each class")
    table = []
    for rows in arguments.rows:
        directory = Path(tempfile.mkdtemp())
        try:
            table += measured(directory, rows, arguments.classes, arguments.top_k)
        finally:
            shutil.rmtree(directory)
    table.sort(key=lambda row: row["name"])  # a curve in a run
    measure.finish(measure.result(table, "ferdistill", "numpy", "pandas", "pyarrow", "torch"), arguments.json)


if __name__ == "__main__":
    main()
