"""Files of probabilities or logits that anybody wrote: tables, NumPy's arrays, torch's tensors.

Nothing is unpickled. What a file unfolds to is known from its header, and bounded, before it is read.
"""

import csv
import re
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np

from ..errors import CheckError, FerdistillError
from ..files import require_few_columns

KINDS = {"prob_": "probabilities", "logit_": "logits"}
KEYS = ("label", "split", "subject", "group", "path")  # text, whatever it looks like
MAX_BYTES = 2**30  # in memory, of a file that is smaller: more is a mistake or a bomb
TEXT_BYTES = 64  # of a Python string, beside its letters
MAPPED = 2**28  # bytes of an array in an uncompressed npz from which on it stays on the disk
ROWS = 65_536  # of a CSV, turned into numbers at a time


def read(file: Path) -> Any:
    """What a file holds: of `.csv` and `.parquet` columns (N,) by name, of `.npz` arrays by name, of `.npy` an array.

    The columns of a CSV are numbers where every cell that is not empty is one, those in `KEYS` aside; else text. Text
    is of str objects, None where a Parquet file has nothing. A `.pt` file gives an array, or a dict of arrays and of
    whatever else it holds. The array of an `.npy` is a memory map, and so is a large one of an uncompressed `.npz`.

    Raises a CheckError if it is damaged, holds pickled objects, unfolds to too much, or has a name twice, or too many
    columns; a ModuleNotFoundError if what reads it is not installed: pyarrow, torch.
    """
    reader, expected = READERS[file.suffix.lower()]
    try:
        found = reader(file)
    except (FerdistillError, ModuleNotFoundError):
        raise
    except Exception as error:  # a hostile file may raise anything
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        what = f"cannot be read safely: {reason}"
        raise CheckError(what, where=str(file), expected=expected, hint="export it anew, as such") from None
    for array in found.values() if isinstance(found, dict) else [found]:
        if isinstance(array, np.ndarray) and array.ndim == 2:
            require_few_columns(array.shape[1], file)
    return found


def kind_and_classes(names: list[str], file: Path) -> tuple[str, list[str]]:
    """Of a table's columns the prefix in `KINDS` of those that hold a class each, and the classes; "" if none has one.

    Raises a CheckError if some have the one and some the other.
    """
    found = {kind: [name.removeprefix(kind) for name in names if name.startswith(kind)] for kind in KINDS}
    present = [kind for kind, classes in found.items() if classes]
    if len(present) > 1:
        raise CheckError(
            "both logits and probabilities",
            where=f"{file}: {', '.join(names[:20])}",
            expected="for each class a column logit_<class>, or for each a column prob_<class>",
            hint="which is meant is not guessed",
        )
    return (present[0], found[present[0]]) if present else ("", [])


def require_names(names: list[str], file: Path) -> None:
    """Stop with a CheckError at too many columns, or at two of one name."""
    require_few_columns(len(names), file)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise CheckError(f"a column stands twice: {', '.join(twice)}", where=str(file), expected="each name once")


def _require_small(unfolded: int, file: Path) -> None:
    most = max(MAX_BYTES, 4 * file.stat().st_size)
    if unfolded > most:
        raise CheckError(
            f"it unfolds to {unfolded:,} bytes",
            where=str(file),
            expected=f"at most {most:,}",
            hint="write it uncompressed, or a file a split",
        )


def csv_blocks(file: Path) -> Iterator[tuple[list[str], list[list[str]]]]:
    """The names in a CSV's first row, and its further rows some at a time, each as long as the first.

    Lines without a cell are left out. Raises a CheckError as `require_names` does, a ValueError at a row of another
    length, a ValueError or csv.Error where the file is no CSV in UTF-8.
    """
    with file.open(encoding="utf-8-sig", newline="") as text, _long_cells():
        rows = filter(None, csv.reader(text, strict=True))
        names = next(rows, [])
        require_names(names, file)
        first = 0
        while block := list(islice(rows, ROWS)):
            for row, cells in enumerate(block, first):
                if len(cells) != len(names):
                    plural = "s" * (len(cells) != 1)
                    raise ValueError(f"{len(cells)} cell{plural} in data row {row}, not {len(names)} as in the first")
            yield names, block
            first += len(block)
        if first == 0:
            yield names, []


@contextmanager
def _long_cells() -> Iterator[None]:
    """Without Python's limit of 131,072 letters a cell, which is no limit of ours."""
    before = csv.field_size_limit(MAX_BYTES)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _csv(file: Path, text: frozenset[str] = frozenset(KEYS)) -> dict[str, np.ndarray]:
    """`text` names the columns that are no numbers."""
    columns: dict[str, list[np.ndarray]] = {}
    odd: set[str] = set()
    for names, block in csv_blocks(file):
        by_column = zip(*block, strict=True) if block else ((),) * len(names)
        for name, cells in zip(names, by_column, strict=True):
            if name in text:
                found = np.empty(len(cells), object)
                found[:] = cells
            elif name in odd or (numbers := _as_numbers(cells)) is None:
                odd.add(name)
                continue
            else:
                found = numbers
            columns.setdefault(name, []).append(found)
    if odd:
        return _csv(file, text | odd)
    return {name: np.concatenate(pieces) for name, pieces in columns.items()}


def _as_numbers(cells: tuple[str, ...]) -> np.ndarray | None:
    """Whole numbers, or others, NaN where a cell is empty; None where one is no number."""
    joined = "\n".join(cells)
    if "_" in joined or not joined.isascii():  # which Python's numbers may have
        return None
    try:
        if not re.search(r"[^-+0-9\n]|\n\n|^\n|\n$|^$", joined):
            return np.array(list(map(int, cells)), np.int64)
    except (ValueError, OverflowError):  # beyond int64, or no number
        pass
    try:
        return np.array([float(cell) if cell.strip() else np.nan for cell in cells], np.float64)
    except ValueError:
        return None


def _parquet(file: Path) -> dict[str, np.ndarray]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetFile(file) as parquet:
        require_names(parquet.schema_arrow.names, file)
        groups = map(parquet.metadata.row_group, range(parquet.metadata.num_row_groups))
        # Encoded, many equal values take no room.
        chunks = [group.column(place) for group in groups for place in range(group.num_columns)]
        _require_small(sum(max(8 * chunk.num_values, chunk.total_uncompressed_size) for chunk in chunks), file)
        table = parquet.read()
    odd = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary, pa.types.is_binary_view)
    columns = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        try:
            column.validate(full=True)  # text that is not UTF-8, places outside the data
        except pa.ArrowInvalid as error:
            raise CheckError(f"not a whole column: {error}", where=f"{file}, column {name}") from None
        inner = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
        if any(is_odd(inner) for is_odd in (*odd, pa.types.is_nested)):
            if name.startswith((*KEYS, *KINDS)):
                raise CheckError(
                    f"a column of type {column.type}", where=f"{file}, column {name}", expected="numbers or text"
                )
            continue
        columns[name] = (column.cast(inner) if inner is not column.type else column).to_numpy()
    return columns


def _npz(file: Path) -> dict[str, np.ndarray]:
    unfolded = 0
    large: dict[str, np.ndarray] = {}
    with zipfile.ZipFile(file) as archive:
        for entry in archive.infolist():
            with archive.open(entry) as stream:
                version = np.lib.format.read_magic(stream)
                header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
                shape, fortran, dtype = header[version](stream)
                start = stream.tell()
                whole = start + prod(shape) * dtype.itemsize == entry.file_size  # else the header lies: it is bounded
                stored = entry.compress_type == zipfile.ZIP_STORED and dtype.kind == "f"
                if whole and stored and prod(shape) * 8 >= MAPPED:
                    while stream.read(2**24):  # to its end, where its checksum is compared
                        pass
                    name = entry.filename.removesuffix(".npy")
                    order: Any = "F" if fortran else "C"
                    with file.open("rb") as raw:
                        offset = _data(raw, entry) + start
                    large[name] = np.memmap(file, dtype, "r", offset, shape, order)
                    continue
            each = dtype.itemsize + TEXT_BYTES if dtype.kind in "SU" else 8  # numbers become float64 somewhere
            unfolded += max(entry.file_size, prod(shape) * each)
    _require_small(unfolded, file)
    with np.load(file, allow_pickle=False) as archive:
        arrays = large | {name: archive[name] for name in archive.files if name not in large}
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "iufSU":
            raise CheckError("neither numbers nor text", where=f"{file}, {name}", expected="an array of one of these")
        if array.dtype.kind == "U":
            arrays[name] = array.astype(object)  # raises where a number is no code point
            "".join(arrays[name].ravel()).encode()  # and this at half a surrogate pair
    return arrays


def _data(raw: IO[bytes], entry: zipfile.ZipInfo) -> int:
    """Where in a zip file the bytes of an uncompressed entry begin."""
    raw.seek(entry.header_offset + 26)
    lengths = raw.read(4)
    return entry.header_offset + 30 + int.from_bytes(lengths[:2], "little") + int.from_bytes(lengths[2:], "little")


def _npy(file: Path) -> np.ndarray:
    array = np.load(file, mmap_mode="r", allow_pickle=False)
    if not isinstance(array, np.ndarray):
        raise CheckError("an archive where one array belongs", where=str(file), expected="one array (N, K)")
    return array


def _pt(file: Path) -> Any:
    import torch

    def array(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        if value.layout == torch.strided and value.nbytes > value.untyped_storage().nbytes():
            raise ValueError("a tensor that repeats its numbers: it may unfold to more than memory holds")
        return (value.float() if value.is_floating_point() else value).numpy(force=True)

    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            _require_small(sum(entry.file_size for entry in archive.infolist()), file)
    loaded = torch.load(file, map_location="cpu", weights_only=True)
    return {key: array(value) for key, value in loaded.items()} if isinstance(loaded, dict) else array(loaded)


# For each form its reader, and what a file of it must be.
READERS: dict[str, tuple[Callable[[Path], Any], str]] = {
    ".csv": (_csv, "a CSV file in UTF-8 with names in its first row"),
    ".parquet": (_parquet, "a whole Parquet file"),
    ".npz": (_npz, "a whole npz file of numbers and text, without pickled objects"),
    ".npy": (_npy, "a whole npy file of numbers, without pickled objects"),
    ".pt": (_pt, "a whole pt file of tensors and lists of text, without other objects"),
}
