"""The packed images of an index, in shards: read as one array, row i of it being row i of the index.

Which shard an image lies in, and where, follows from the `sample_id`s of the index alone: a shard holds all images
whose `sample_id` begins with its bits, in the order of `sample_id`, and one that would be larger than `SHARD_BYTES` is
two, each of one bit more. So a change of the data changes the shards of the images that come or go, and no other; and
the same images are the same files, whatever was there before.
"""

import io
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from ..errors import CheckError, UsageError, require_same
from ..files import read_json, sha256
from .index import Index

SCHEMA_VERSION = 1
SHARD_BYTES = 4 * 2**20
MANIFEST = "manifest.json"
AGAIN = "run `dvc repro images`, or `dvc checkout --force` where DVC keeps them"


@dataclass(frozen=True)
class Shard:
    """One file: its name, and the rows of the index that it holds, in its order, int64 (n,)."""

    name: str
    rows: np.ndarray

    def header(self, shape: tuple[int, ...]) -> bytes:
        """What the file begins with, before uint8 (n, H, W, C): a NumPy array of one image of `shape` a row."""
        file = io.BytesIO()
        described = {"descr": "|u1", "fortran_order": False, "shape": (len(self.rows), *shape)}
        np.lib.format.write_array_header_1_0(file, described)
        return file.getvalue()


def shards_of(sample_ids: np.ndarray, image_bytes: int) -> list[Shard]:
    """The shards of an index: `sample_ids` (N,) are hex digests; `image_bytes` is H * W * C.

    Raises CheckError if a `sample_id` is no digest.
    """
    order = np.argsort(sample_ids, kind="stable")
    try:
        keys = np.array([int(name[:16], 16) for name in sample_ids[order]], dtype=np.uint64)
    except ValueError as error:
        raise CheckError(f"a sample_id that is none: {error}", where="the index", expected="SHA-256 in hex") from None
    most = max(1, SHARD_BYTES // image_bytes)
    found = []
    waiting = [("", 0, len(keys))]
    while waiting:
        bits, start, end = waiting.pop()
        if end - start > most and len(bits) < 64:
            first_of_right = np.uint64(int(f"{bits}1".ljust(64, "0"), 2))
            middle = start + int(np.searchsorted(keys[start:end], first_of_right))
            waiting += [(f"{bits}1", middle, end), (f"{bits}0", start, middle)]
        elif end > start:
            found.append(Shard(f"images{'-' * bool(bits)}{bits}.npy", order[start:end]))
    return found


def ids_sha256(sample_ids: np.ndarray) -> str:
    """SHA-256 over the sorted, newline-joined `sample_id`s: which images a folder of shards holds."""
    return sha256("\n".join(sorted(sample_ids)))


class Images:
    """Read-only uint8 (N, H, W, C): `images[rows]` reads those images from their shards, and nothing else.

    Nothing is kept open or in memory. What the operating system keeps of the files serves all processes.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, directory: Path, shards: list[Shard], shape: tuple[int, ...]) -> None:
        """Images of `shape` (H, W, C) in these shards below a directory."""
        self.shape = (sum(len(shard.rows) for shard in shards), *shape)
        self._files = [directory / shard.name for shard in shards]
        self._shard, self._offset = np.empty((2, len(self)), dtype=np.int64)
        for number, shard in enumerate(shards):
            start = len(shard.header(shape))
            self._shard[shard.rows] = number
            self._offset[shard.rows] = start + np.arange(len(shard.rows)) * self.image_bytes

    def __len__(self) -> int:
        return self.shape[0]

    @cached_property
    def image_bytes(self) -> int:
        """Of one image."""
        return int(np.prod(self.shape[1:]))

    def __getitem__(self, rows: Any) -> np.ndarray:
        """The images of these rows, an int, a slice, or an array of int or bool; in memory of their own.

        Raises CheckError if a file has gone, or is shorter than when it was opened.
        """
        if isinstance(rows, tuple):
            raise IndexError("only whole images can be read: images[rows]")
        numbers = np.arange(len(self))[rows]
        wanted = np.atleast_1d(numbers)
        found = np.empty((len(wanted), *self.shape[1:]), dtype=np.uint8)
        size, pixels = self.image_bytes, found.reshape(-1).data
        shard_of = self._shard[wanted]
        order = np.argsort(shard_of, kind="stable")
        for places in np.split(order, np.flatnonzero(np.diff(shard_of[order])) + 1) if len(order) else []:
            path = self._files[shard_of[places[0]]]
            try:
                # Python's own files cost a random batch half of its time.
                file = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
                try:
                    for place, offset in zip(places.tolist(), self._offset[wanted[places]].tolist(), strict=True):
                        os.lseek(file, offset, os.SEEK_SET)
                        read = os.read(file, size)
                        if len(read) != size:
                            raise OSError("it ends early")
                        pixels[place * size : (place + 1) * size] = read
                finally:
                    os.close(file)
            except OSError as error:
                what = f"packed images cannot be read: {error.strerror or error}"
                raise CheckError(what, where=str(path), hint=AGAIN) from None
        return found.reshape(*np.shape(numbers), *self.shape[1:])


Pixels: TypeAlias = np.ndarray | Images  # uint8 (N, H, W, C)


def load(directory: Path, index: Index) -> Images:
    """The packed images of an index.

    Raises
    ------
    UsageError, CheckError
        If they are missing, are those of other images than the index has, or a shard is not one of its size.
    """
    manifest = directory / MANIFEST
    if not manifest.is_file():
        raise UsageError("the packed images are missing", where=str(manifest), hint="run `dvc repro images`")
    said = read_json(manifest, "schema_version", "sample_ids_sha256", "shape", "shards", hint=AGAIN)
    shape, sample_ids = said["shape"], index.rows["sample_id"].to_numpy(dtype=object)
    if not (isinstance(shape, list) and len(shape) == 3 and all(type(n) is int and 0 < n < 2**16 for n in shape)):
        expected = "H, W and C, each a whole number of at least 1"
        raise CheckError(f"images of shape {shape!r}", where=str(manifest), expected=expected, hint=AGAIN)
    shards = shards_of(sample_ids, int(np.prod(shape)))
    require_same(
        [
            ("schema version", SCHEMA_VERSION, said["schema_version"]),
            ("digest of their sample_ids", ids_sha256(sample_ids), said["sample_ids_sha256"]),
            ("shards", sorted(shard.name for shard in shards), sorted(said["shards"])),
        ],
        "the packed images are not those of the index",
        where=str(manifest),
        hint=AGAIN,
    )
    for shard in shards:
        _check(directory / shard.name, shard, tuple(shape))
    return Images(directory, shards, tuple(shape))


def _check(path: Path, shard: Shard, shape: tuple[int, ...]) -> None:
    """Refuse a shard that is not of its size, or does not begin as it must."""
    header = shard.header(shape)
    size = len(header) + len(shard.rows) * int(np.prod(shape))
    try:
        with path.open("rb") as file:
            whole = path.is_file() and path.stat().st_size == size and file.read(len(header)) == header
    except OSError as error:
        raise CheckError(f"a shard cannot be read: {error.strerror}", where=str(path), hint=AGAIN) from None
    if not whole:
        expected = f"a NumPy array of uint8 {(len(shard.rows), *shape)}, {size:,} bytes"
        raise CheckError("not a whole shard of packed images", where=str(path), expected=expected, hint=AGAIN)
