"""Images that lie inside other files, tar archives and tables, read where they are."""

import csv
import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import CheckError
from ..image_files import is_below

# A row group is read as a whole: of data sets of images, a hundred rows or a thousand.
MAX_GROUP = 2**30
AGAIN = "copy or download it again, or take it out of the corpus"


@dataclass(frozen=True)
class TarMember:
    """An image in a tar that is not compressed."""

    start: int  # its first byte
    length: int  # in bytes


@dataclass(frozen=True)
class ParquetCell:
    """An image in a column of a Parquet table: of bytes, or of a struct with a field `bytes`."""

    column: str
    group: int  # row group
    row: int  # of the row group


@dataclass(frozen=True)
class CsvCell:
    """An image in a CSV in UTF-8, as text: 48 x 48 whole numbers from 0 to 255, separated by blanks."""

    start: int  # the first byte of its row
    column: int  # from 0


Inside: TypeAlias = TarMember | ParquetCell | CsvCell


def read_inside(root: Path, path: str, inside: Inside, belongs: Callable[[Path, Path], bool] = is_below) -> bytes:
    """The bytes of an image that lies in the file `path` below `root`: of an image file or, in a CSV, of its text.

    Raises
    ------
    CheckError
        If the file is missing, lies outside `root`, ends early, or has no image there.
    """
    file = root / path
    if not belongs(file, root):
        raise CheckError("a path or link leaves the corpus directory", where=ascii(str(file)), expected=f"below {root}")
    try:
        if isinstance(inside, ParquetCell):
            content = _column(file, file.stat().st_mtime_ns, inside.column, inside.group)[inside.row].as_py()
            content = content["bytes"] if isinstance(content, dict) else content
            if not content:
                where = f"{file}, row group {inside.group}, row {inside.row} of it, column {inside.column}"
                raise CheckError(
                    "a row without an image", where=where, expected="the bytes of one, in the table itself"
                )
            return bytes(content)
        with file.open("rb") as container:
            container.seek(inside.start)
            if isinstance(inside, CsvCell):
                rows = csv.reader(io.TextIOWrapper(container, encoding="utf-8", newline=""))
                return next(rows, [])[inside.column].encode()
            content = container.read(inside.length)
    except (OSError, pa.ArrowException, csv.Error, UnicodeDecodeError, KeyError, IndexError) as error:
        raise CheckError(f"cannot be read: {error}", where=str(file), hint=AGAIN) from None
    if len(content) < inside.length:
        raise CheckError("an archive ends early", where=str(file), hint=AGAIN)
    return content


@lru_cache(maxsize=2)
def _column(file: Path, modified: int, column: str, group: int) -> pa.ChunkedArray:
    """A column of a row group; `modified` is part of the question, so that a file that changes is read again."""
    with pq.ParquetFile(file) as table:
        size = table.metadata.row_group(group).total_byte_size
        if size > MAX_GROUP:
            raise CheckError(
                f"a row group of {size:,} bytes",
                where=f"{file}, row group {group}",
                expected=f"at most {MAX_GROUP:,}",
                hint="write the table with smaller row groups, of a hundred images",
            )
        return table.read_row_group(group, columns=[column]).column(column)
