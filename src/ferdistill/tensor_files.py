"""Tensors from safetensors files, every failure to read one being an error that says what to do."""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from safetensors import safe_open

from .errors import CheckError, UsageError


def read(path: Path, framework: str = "np", *, expected: str = "", hint: str = "") -> dict[str, Any]:
    """Every tensor of a file by its name: NumPy's, or torch's where `framework` is `pt`.

    `expected` and `hint` are what an error says belongs there, and what to do.

    Raises UsageError if the file is not there; CheckError if it is damaged, or holds a type of number that the
    framework does not know.
    """
    with _opened(path, framework, expected, hint) as file:
        tensors: dict[str, Any] = file.get_tensors()
        return tensors


@contextmanager
def _opened(path: Path, framework: str, expected: str, hint: str) -> Iterator[Any]:
    try:
        with safe_open(path, framework=framework) as file:
            yield file
    except FileNotFoundError:
        raise UsageError("no file of tensors here", where=str(path), expected=expected, hint=hint) from None
    except Exception as error:  # of no common class: each type of number that NumPy lacks raises in its own way
        raise CheckError(
            f"not a whole safetensors file: {error}", where=str(path), expected=expected, hint=hint
        ) from None


class OnDisk:
    """A tensor of a safetensors file that is read where it is asked for, and mapped nowhere."""

    def __init__(self, file: Path, dtype: np.dtype, shape: tuple[int, ...], offset: int) -> None:
        """`offset` is where in the file its first byte is."""
        self.file, self.dtype, self.shape, self.offset = file, dtype, shape, offset

    def whole(self) -> np.ndarray:
        """All of it."""
        return self.read(0, math.prod(self.shape)).reshape(self.shape)

    def read(self, first: int, count: int) -> np.ndarray:
        """So many numbers from a place of the flattened tensor on, (count,)."""
        found = np.fromfile(self.file, self.dtype, count, offset=self.offset + first * self.dtype.itemsize)
        if len(found) < count:
            raise CheckError("a file of tensors that ends early", where=str(self.file))
        return found


# The types of number that are written in parts, in the order in which safetensors puts them.
TYPES = {"I64": np.int64, "F32": np.float32, "U16": np.uint16, "BOOL": np.bool_}


def places(path: Path, *, expected: str = "", hint: str = "") -> dict[str, OnDisk]:
    """Where the tensors of a file are, those of `TYPES` alone, by name; raises as `read` does."""
    with _opened(path, "np", expected, hint), path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    return {
        name: OnDisk(path, np.dtype(TYPES[of["dtype"]]), tuple(of["shape"]), 8 + size + of["data_offsets"][0])
        for name, of in header.items()
        if of.get("dtype") in TYPES
    }


@contextmanager
def written_in_parts(
    path: Path, tensors: Mapping[str, tuple[type, tuple[int, ...]]]
) -> Iterator[Callable[[str, int, np.ndarray], None]]:
    """Write a safetensors file whose tensors, of a type and a shape each, need not lie in memory.

    Gives `put(name, first, numbers)`, by which numbers go to a place of the flattened tensor on. The bytes are those of
    `safetensors.numpy.save_file`.
    """
    told = {np.dtype(kind): (rank, name) for rank, (name, kind) in enumerate(TYPES.items())}
    order = sorted(tensors, key=lambda name: (told[np.dtype(tensors[name][0])][0], name))
    header, starts, end = {}, {}, 0
    for name in order:
        dtype, shape = np.dtype(tensors[name][0]), tensors[name][1]
        starts[name], end = end, end + dtype.itemsize * math.prod(shape)
        header[name] = {"dtype": told[dtype][1], "shape": list(shape), "data_offsets": [starts[name], end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
        yield lambda name, first, numbers: _put(
            file, 8 + len(text) + starts[name], np.dtype(tensors[name][0]), first, numbers
        )


def _put(file: BinaryIO, start: int, dtype: np.dtype, first: int, numbers: np.ndarray) -> None:
    file.seek(start + first * dtype.itemsize)
    file.write(np.ascontiguousarray(numbers, dtype).data)
