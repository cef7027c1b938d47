"""Files of probabilities or logits that anybody wrote: tables, NumPy's arrays, torch's tensors.

Nothing is unpickled. What a file unfolds to is known from its header, and bounded, before it is read.
"""

import csv
import zipfile
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from ..errors import CheckError, FerdistillError
from ..files import require_few_columns

KINDS = {"prob_": "probabilities", "logit_": "logits"}
KEYS = ("label", "split", "subject", "group", "path")  # text, whatever it looks like
MAX_BYTES = 2**30  # in memory, of a file that is smaller: more is a mistake or a bomb
TEXT_BYTES = 64  # of a Python string, beside its letters


def read(file: Path) -> Any:
    """What a file holds: of `.csv` and `.parquet` a pyarrow Table, of `.npz` arrays by name, of `.npy` an array.

    The columns of a CSV are numbers where every cell that is not empty is one, those in `KEYS` aside; else text. Text
    in an npz is decoded. A `.pt` file gives an array, or a dict of arrays and of whatever else it holds. The array of
    an `.npy` is a memory map.

    Raises a CheckError if it is damaged, holds pickled objects, unfolds to too much, or has a name twice, or too many
    columns.
    """
    reader, expected = READERS[file.suffix.lower()]
    try:
        found = reader(file)
    except FerdistillError:
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


def _csv(file: Path) -> pa.Table:
    with file.open(encoding="utf-8-sig", newline="") as text:
        names = next(filter(None, csv.reader(text, strict=True)), [])
    require_names(names, file)
    table = pyarrow.csv.read_csv(
        file,
        read_options=pyarrow.csv.ReadOptions(use_threads=False),  # with threads, an error does not say which row
        parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
        convert_options=pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(names, pa.large_string())),
    )
    for place, name in enumerate(names):
        if name not in KEYS:
            table = table.set_column(place, name, _as_numbers(table[name]))
    return table


def _as_numbers(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    """Whole numbers or others, null where a cell is empty; the texts themselves where one is no number."""
    cells = pc.utf8_trim_whitespace(texts)
    cells = pc.if_else(pc.equal(cells, ""), pa.scalar(None, cells.type), cells)
    for kind in (pa.int64(), pa.float64()) if cells.null_count < len(cells) else (pa.float64(),):
        try:
            return cells.cast(kind)
        except pa.ArrowInvalid:
            continue
    return texts


def _parquet(file: Path) -> pa.Table:
    with pq.ParquetFile(file) as parquet:
        require_names(parquet.schema_arrow.names, file)
        groups = map(parquet.metadata.row_group, range(parquet.metadata.num_row_groups))
        # Encoded, many equal values take no room.
        chunks = [group.column(place) for group in groups for place in range(group.num_columns)]
        _require_small(sum(max(8 * chunk.num_values, chunk.total_uncompressed_size) for chunk in chunks), file)
        table = parquet.read()
    odd = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary, pa.types.is_binary_view)
    for name, column in zip(table.column_names, table.columns, strict=True):
        try:
            column.validate(full=True)  # text that is not UTF-8, places outside the data
        except pa.ArrowInvalid as error:
            raise CheckError(f"not a whole column: {error}", where=f"{file}, column {name}") from None
        inner = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
        if name.startswith((*KEYS, *KINDS)) and any(is_odd(inner) for is_odd in (*odd, pa.types.is_nested)):
            raise CheckError(
                f"a column of type {column.type}", where=f"{file}, column {name}", expected="numbers or text"
            )
    return table


def _npz(file: Path) -> dict[str, np.ndarray]:
    unfolded = 0
    with zipfile.ZipFile(file) as archive:
        for entry in archive.infolist():
            with archive.open(entry) as stream:
                version = np.lib.format.read_magic(stream)
                header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
                shape, _, dtype = header[version](stream)
            each = dtype.itemsize + TEXT_BYTES if dtype.kind in "SU" else 8  # numbers become float64 somewhere
            unfolded += max(entry.file_size, prod(shape) * each)
    _require_small(unfolded, file)
    with np.load(file, allow_pickle=False) as archive:
        arrays = dict(archive)
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "iufSU":
            raise CheckError("neither numbers nor text", where=f"{file}, {name}", expected="an array of one of these")
        if array.dtype.kind == "U":
            arrays[name] = array.astype(object)  # raises where a number is no code point
            "".join(arrays[name].ravel()).encode()  # and this at half a surrogate pair
    return arrays


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
