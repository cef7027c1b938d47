"""Soft labels as they were read, whoever wrote them: their values, seen once from end to end, and their keys.

NumPy alone is needed. An array may be larger than memory: it stays on the disk, and is seen a block at a time.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from mmap import mmap
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CheckError

TABLE, MANIFEST = "softlabels.parquet", "manifest.json"  # of one of our own stores
BLOCK = 2**21  # numbers seen at a time
# How far from 1 a row of probabilities may sum: float16 and a few printed digits stay within it.
TOLERANCE = 1e-3


class Streamed:
    """An array (N, K), float32, that is read anew from its beginning whenever rows are asked for: `array[rows]`."""

    dtype, ndim = np.dtype(np.float32), 2

    def __init__(self, shape: tuple[int, int], blocks: Callable[[], Iterator[np.ndarray]]) -> None:
        """`blocks` gives all rows, some at a time."""
        self.shape, self._blocks = shape, blocks

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> np.ndarray:
        numbers = np.arange(len(self))[rows]
        wanted, start = np.atleast_1d(numbers), 0
        found = np.empty((len(wanted), self.shape[1]), np.float32)
        for block in self._blocks():
            here = np.flatnonzero((wanted >= start) & (wanted < start + len(block)))
            found[here] = block[wanted[here] - start]
            start += len(block)
        return found.reshape(*numbers.shape, self.shape[1])


@dataclass(frozen=True)
class Values:
    """The values of one file or store, N rows and K classes, and what one pass over them found."""

    # (N, K) floating, logits or probabilities; memory-mapped, or of our own stores streamed, and not in memory
    array: np.ndarray | Streamed
    arg_max: np.ndarray  # (N,) int16
    finite: np.ndarray  # (N,) bool
    empty: np.ndarray  # (N,) bool: not `covered`
    distribution: np.ndarray  # (N,) bool: see `distributions`


@dataclass(frozen=True)
class Part:
    """The soft labels of one split, or of a file that names none: n rows."""

    whole: Values  # of the file
    paths: np.ndarray | None  # (n,) str objects; None where the files do not say, as of the labels
    labels: np.ndarray | None
    rows: np.ndarray  # (n,) int64: where in the file each row stands, ascending
    file: Path
    keys: str = "paths in the file"  # where the paths come from

    @property
    def values(self) -> np.ndarray:
        """(n, K): the file's own array where the part is all of it and it is not streamed, else a copy."""
        array = self.whole.array
        return array[:] if len(self.rows) == len(array) else array[self.rows]

    @property
    def columns(self) -> int:
        """K."""
        return int(self.whole.array.shape[1])

    @property
    def arg_max(self) -> np.ndarray:
        """The place of each row's greatest value, (n,)."""
        return self.whole.arg_max[self.rows]

    @property
    def finite(self) -> np.ndarray:
        """Which rows are finite, (n,)."""
        return self.whole.finite[self.rows]

    @property
    def empty(self) -> np.ndarray:
        """Which rows are NaN throughout, (n,)."""
        return self.whole.empty[self.rows]

    @property
    def distribution(self) -> np.ndarray:
        """Which rows are `distributions`, (n,)."""
        return self.whole.distribution[self.rows]

    def shown(self, row: int) -> str:
        """The values of a row, for a message."""
        numbers = self.whole.array[self.rows[row]]
        few = ", ".join(f"{number:.4g}" for number in numbers[:10])
        return f"[{few}{', …' if len(numbers) > 10 else ''}]" + (
            "" if self.paths is None else f" for {self.paths[row]}"
        )


@dataclass(frozen=True)
class SoftLabels:
    """One teacher's soft labels, whoever wrote them: `foreign.read_any` reads every form into this."""

    directory: Path  # or the file, where one was named
    classes: list[str] | None  # what the columns are, in their order; None if the files do not say
    kind: str  # "logits" or "probabilities"
    kind_from: str  # how that is known
    temperature: float | None  # of the softmax or, for logits, what they were divided by; None if the files do not say
    manifest: dict[str, Any] | None  # that of our own stores
    parts: dict[str, Part]  # by split; "" where the files do not say which
    values_sha256: str = ""  # of the values as float32, in the order of the files' names and rows

    @property
    def teacher(self) -> str:
        """The teacher that the manifest names, or else the directory's or file's name."""
        return str((self.manifest or {}).get("teacher", self.directory.stem if self.file else self.directory.name))

    @property
    def file(self) -> bool:
        """Whether a file was named, not a directory."""
        return self.directory.is_file()

    @property
    def keyed(self) -> bool:
        """Whether every row has a path."""
        return self.manifest is not None or all(part.paths is not None for part in self.parts.values())

    @property
    def partial(self) -> bool:
        """Whether this is our store of a teacher of some images alone, whose other rows may be empty."""
        return "covered" in (self.manifest or {})

    @property
    def top_k(self) -> int | None:
        """How many classes our store keeps of each image; None if all."""
        return (self.manifest or {}).get("top_k")


def blocks(array: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """An array (N, K) in blocks of rows, each as float32; what that cannot hold is an infinity."""
    height, width = max(1, BLOCK // max(1, array.shape[1])), array.shape[1] * array.itemsize
    # Pages of a map that were touched count as memory of this process, so a file is read instead.
    mapped = array if isinstance(array, np.memmap) and isinstance(array.base, mmap) else None
    for start in range(0, len(array), height):
        place = slice(start, min(start + height, len(array)))
        if mapped is not None and array.flags.c_contiguous and mapped.filename:
            shape = place.stop - start, array.shape[1]
            offset = mapped.offset + start * width
            block = np.fromfile(mapped.filename, array.dtype, shape[0] * shape[1], offset=offset).reshape(shape)
        else:
            block = array[place]
        with np.errstate(over="ignore"):
            yield place, np.ascontiguousarray(block, np.float32)


def see(array: np.ndarray, digest: "hashlib._Hash") -> Values:
    """Pass once over an array (N, K); its values as float32 go into `digest`."""
    arg_max = np.zeros(len(array), np.int16)
    finite, empty, right = (np.zeros(len(array), bool) for _ in range(3))
    for place, values in blocks(array):
        digest.update(values.data)
        finite[place] = np.isfinite(values).all(axis=1)
        if not finite[place].all():
            empty[place] = ~covered(values)
        right[place] = distributions(values)
        if values.shape[1]:
            arg_max[place] = values.argmax(axis=1)
    return Values(array, arg_max, finite, empty, right)


def split_parts(
    file: Path,
    values: Values,
    paths: np.ndarray | None,
    labels: np.ndarray | None,
    splits: np.ndarray | None,
) -> dict[str, Part]:
    """Share the rows of one file out by its column of splits; without one, all of them are the part ""."""
    if splits is None:
        return {"": Part(values, paths, labels, np.arange(len(values.array)), file)}
    parts = {}
    for split in dict.fromkeys(splits.tolist()):
        rows = np.flatnonzero(splits == split)
        path, label = (None if texts is None else texts[rows] for texts in (paths, labels))
        parts[split] = Part(values, path, label, rows, file)
    return parts


def not_floating(kind: str, where: str) -> CheckError:
    """The error of a class's column that does not hold floating-point numbers."""
    return CheckError(
        f"a column of {kind}",
        where=where,
        expected="floating-point logits or probabilities",
        hint="integers cannot be soft labels: export them anew, unrounded",
    )


def distributions(values: np.ndarray) -> np.ndarray:
    """Which rows of (N, K) are probability distributions: none negative, their sum within `TOLERANCE` of 1; bool, (N,).

    Hence none is over 1, but for the same tolerance.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # of rows that are not finite
        sums = values @ np.ones(values.shape[1], values.dtype)  # far faster than a sum along so short an axis
        right = np.abs(sums - 1) <= TOLERANCE
    if (values < 0).any():
        right &= (values >= 0).all(axis=1)
    return right


def covered(values: np.ndarray) -> np.ndarray:
    """Which rows of (N, K) a partial teacher has: those with a number in them; bool, (N,)."""
    return ~np.isnan(values).all(axis=1)
