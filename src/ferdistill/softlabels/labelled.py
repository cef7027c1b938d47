"""What soft labels are held against: the path, label and split of each image, in the order of the soft labels.

That is an index of ours, or anybody's CSV. NumPy alone is needed for the latter.
"""

import csv
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import CheckError, UsageError, require_same
from ..files import read_json, sha256, sha256_file
from .orders import sort_orders
from .probability_files import csv_blocks

if TYPE_CHECKING:
    from ..data.index import Index

NEEDED = ("path", "label")
USUAL = ["train", "val", "calib", "test", "transfer"]  # splits, in the order in which they are told
BY_OPTION = "named by --classes"
SORTED = "the labels that occur, sorted"
SAMPLE = 5  # of unknown names, shown


@dataclass(frozen=True)
class Labelled:
    """N images in an order."""

    paths: np.ndarray  # (N,) str objects, as are the next two
    labels: np.ndarray  # "" where there is none, in an index of ours
    splits: np.ndarray | None  # None where the table has no such column: there is one split, named ""
    classes: list[str]  # in the order of the soft labels' columns
    classes_from: str  # how that is known
    source: Path | None  # the CSV
    digest: str

    @cached_property
    def names(self) -> list[str]:
        """The splits that have a row: in the usual order if they have the usual names, else in the table's."""
        if self.splits is None:
            return [""]
        found = list(dict.fromkeys(self.splits.tolist()))
        return sorted(found, key=USUAL.index) if set(found) <= set(USUAL) else found

    @cached_property
    def codes(self) -> np.ndarray:
        """Labels as places in `classes`, int64, (N,); -1 where there is none."""
        place = {name: number for number, name in enumerate(self.classes)} | {"": -1}
        return np.fromiter(map(place.__getitem__, self.labels), np.int64, len(self.labels))

    def repair_command(self, path: Path, *options: str) -> str:
        """What to type for soft labels to be repaired against this table."""
        named = [] if self.source is None else ["--labels", str(self.source)]
        if self.classes_from == BY_OPTION:
            named += ["--classes", ",".join(self.classes)]
        out = f"{path.stem}.repaired.npz" if path.is_file() else "NEW"
        return f"`{shlex.join(['ferdistill', 'align', 'repair', str(path), *named, *options, '--out', out])}`"

    def name_classes(self, columns: int) -> str | None:
        """What to do about more columns than classes, where these are the labels that occur."""
        if self.source is None or not self.classes_from.startswith(SORTED) or columns <= len(self.classes):
            return None
        return (
            f"name the classes of all {columns} columns, in their order: --classes a,b,…, or in "
            f"{self.source.with_suffix('.json').name} beside the labels; of {len(self.classes)} alone there is an image"
        )

    def sort_orders(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """The orders in which exporters write some rows of the table, as `orders.sort_orders`."""
        return sort_orders(self.paths[rows], self.labels[rows], None if self.splits is None else self.splits[rows])

    def positions(self, split: str) -> np.ndarray:
        """Rows of one split, int64, ascending; all of them for ""."""
        if self.splits is None or split == "":
            return np.arange(len(self.paths))
        return np.flatnonzero(self.splits == split)

    def described(self, split: str) -> dict[str, Any]:
        """Length, and SHA-256 over the newline-joined paths and labels, of a split, as `data.index.digests` gives."""
        rows = self.positions(split)
        return {
            "length": len(rows),
            "paths_sha256": sha256("\n".join(self.paths[rows])),
            "labels_sha256": sha256("\n".join(self.labels[rows])),
        }


def of_index(index: "Index") -> Labelled:
    """An index of ours; its splits are those that have a row."""
    rows, description = index.rows, index.description
    labels, splits = (
        np.asarray(names, object)[codes]  # one object a name, not one a row
        for codes, names in (rows[name].factorize() for name in ("label", "split"))
    )
    paths = rows["path"].to_numpy(object)
    return Labelled(paths, labels, splits, description["classes"], "the index", None, index.digest)


def read(file: Path, classes: Sequence[str] | None = None) -> Labelled:
    """Read a CSV with the columns `path`, `label` and perhaps `split`; further ones are left alone.

    The classes are those of the JSON of the same name beside it, else `classes`, else the labels themselves, sorted
    (as numbers where all are whole ones). A `digest` in the JSON must be the CSV's SHA-256.

    Raises a UsageError if the file is not there, or both name other classes, a CheckError if it is no such CSV, a path
    stands twice, a cell is empty or a label is no class.
    """
    if not file.is_file():
        raise UsageError(
            "no table of labels here",
            where=str(file),
            expected="a CSV with the columns path and label, and perhaps split",
            hint="name one with --labels",
        )
    columns = _columns(file)
    beside = file.with_suffix(".json")
    digest = sha256_file(file)
    said = read_json(beside) if beside.is_file() and beside != file else {}
    if "digest" in said:
        hint = "restore both, or write the digest anew: docs/alignment.md"
        where = f"{file}, against the JSON beside it"
        facts = [("digest", said["digest"], digest)]
        require_same(facts, "the table of labels was changed after it was written", where=where, hint=hint)
    chosen, told = _classes(columns["label"], said.get("classes"), classes, beside)
    _check(columns, chosen, told, file)
    return Labelled(columns["path"], columns["label"], columns.get("split"), chosen, told, file, digest)


def _columns(file: Path) -> dict[str, np.ndarray]:
    found: dict[str, list[str]] = {}
    try:
        for names, block in csv_blocks(file):
            missing = [name for name in NEEDED if name not in names]
            if missing:
                raise CheckError(
                    f"no column {' and '.join(missing)}",
                    where=f"{file}: {', '.join(names[:20])}",
                    expected="path and label in the first row, and perhaps split",
                )
            for name in (*NEEDED, "split"):
                if name in names:
                    place = names.index(name)
                    found.setdefault(name, []).extend([row[place] for row in block])
    except (csv.Error, ValueError) as error:
        raise CheckError(f"cannot be read: {error}", where=str(file), expected="a CSV file in UTF-8") from None
    if not found.get("path"):
        raise CheckError("no rows", where=str(file), expected="a row for each image")
    return {name: np.array(cells, object) for name, cells in found.items()}


def _classes(labels: np.ndarray, declared: Any, given: Sequence[str] | None, beside: Path) -> tuple[list[str], str]:
    """The classes, and how they are known."""
    if declared is not None:
        if not isinstance(declared, list) or not all(isinstance(name, str) for name in declared):
            raise CheckError("classes that are no list of text", where=str(beside), expected='["cat", "dog", …]')
        if given is not None and list(given) != declared:
            raise UsageError(
                f"other classes than those beside the labels: {', '.join(given)}",
                where=f"--classes, against {beside}",
                expected=", ".join(declared),
                hint="leave --classes out, or correct one of them",
            )
        return declared, f"named in {beside.name}"
    if given is not None:
        return list(given), BY_OPTION
    names = set(labels.tolist())
    whole = all(name.isascii() and name.isdecimal() for name in names)
    told = f"{SORTED} {'as numbers' if whole else 'by name'}; --classes names others"
    return sorted(names, key=int) if whole else sorted(names), told


def _check(columns: dict[str, np.ndarray], classes: list[str], told: str, file: Path) -> None:
    if len(set(classes)) < len(classes) or len(classes) < 2:
        raise CheckError(
            f"too few classes, or one twice: {', '.join(classes)}",
            where=str(file),
            expected=f"two at least, all unlike ({told.partition(';')[0]})",
            hint="name the classes, in the order of the soft labels' columns: --classes a,b,…",
        )
    for name, cells in columns.items():
        empty = np.flatnonzero(cells == "")
        if len(empty):
            raise CheckError(
                f"empty cells: {len(empty)}",
                where=f"{file}, column {name}, data row {empty[0]}",
                expected="text in each row",
                hint="take rows without a label out, from the soft labels too" if name == "label" else "",
            )
    unknown = sorted(set(columns["label"].tolist()) - set(classes))
    if unknown:
        row = int((columns["label"] == unknown[0]).argmax())
        raise CheckError(
            f"labels that are no class: {', '.join(unknown[:SAMPLE])}",
            where=f"{file}, column label, data row {row} ({columns['path'][row]})",
            expected=f"{', '.join(classes[:20])} ({told})",
            hint="name the classes as the labels do, in the order of the soft labels' columns: --classes a,b,…",
        )
    if len(set(columns["path"].tolist())) < len(columns["path"]):
        path, times = Counter(columns["path"].tolist()).most_common(1)[0]
        rows = np.flatnonzero(columns["path"] == path)
        raise CheckError(
            f"a path stands {times} times: {path}",
            where=f"{file}, data rows {rows[0]} and {rows[1]}",
            expected="each image once",
            hint="nothing tells which row of the soft labels is whose: take the copies out of both",
        )
