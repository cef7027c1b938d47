"""Parquet tables of images, as the library `datasets` writes them: an image a row, its bytes in the table.

A column of labels is of text or of whole numbers, which the table's own schema may name (a `ClassLabel`).
`train-00000-of-00002.parquet`, or a folder `train`, is an official part.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ...errors import CheckError
from ...files import folded
from .. import sources
from ..containers import AGAIN, ParquetCell
from ..labels import Labels
from ..layouts import Found, Layout, Tree, parent
from ..sources import Dropped, Record, Row
from .table import COLUMNS

PRECEDENCE = 96


class Options(sources.Options):
    """Columns of such a table; an empty name is for none."""

    image: str = "image"
    label: str = "label"
    split: str = ""  # train, val or test, or nothing
    subject: str = ""


def rows(root: Path, path: str, labels: Labels, options: Options) -> Iterator[Row]:
    """Yield every row of a table, or of all tables below a folder.

    Raises
    ------
    CheckError
        If a file is no such table, or has not these columns.
    """
    for name in sources.containers_in(root, path, ".parquet", "a Parquet table"):
        if isinstance(name, Dropped):
            yield name
            continue
        try:
            with pq.ParquetFile(root / name) as table:
                yield from _rows(root / name, name, table, labels, options)
        except (pa.ArrowException, ValueError) as error:
            raise CheckError(f"not a Parquet table: {error}", where=str(root / name), hint=AGAIN) from None


def _rows(file: Path, path: str, table: pq.ParquetFile, labels: Labels, options: Options) -> Iterator[Row]:
    schema = table.schema_arrow
    columns = [name for name in (options.label, options.split, options.subject) if name]
    absent = [name for name in (options.image, *columns) if schema.names.count(name) != 1]
    if absent or not _holds_images(schema, options.image):
        raise CheckError(
            "a table has not the columns of its layout",
            where=str(file),
            expected=f"columns {', '.join((options.image, *columns))}, each once, {options.image} of bytes or of a "
            f"struct with bytes; found {', '.join(map(str, schema.names)) or 'none'}",
            hint="correct `options` of this source in corpus.yaml",
        )
    names = class_names(schema, options.label)
    number = 0
    for group in range(table.num_row_groups):
        for row, cells in enumerate(table.read_row_group(group, columns=columns).to_pylist()):
            where = f"{file}, row {number}, column {options.label}"
            inside = ParquetCell(options.image, group, row)
            try:
                yield _row(path, number, cells, names, inside, labels, options, where)
            except CheckError as error:
                yield error
            number += 1


def _row(
    path: str,
    number: int,
    cells: dict[str, Any],
    names: list[str],
    inside: ParquetCell,
    labels: Labels,
    options: Options,
    where: str,
) -> Row:
    label, part = cells[options.label], cells.get(options.split)
    row = f"{path}#{number}"
    if label is None or label == -1 or label == "":
        return Dropped(row, "unlabelled")
    if isinstance(label, bool) or not isinstance(label, str | int) or (names and not 0 <= int(label) < len(names)):
        expected = f"0 to {len(names) - 1}, or -1 for none" if names else "text or a whole number"
        raise sources.wrong(f"a label {label!r}", where, expected)
    split = sources.part_of(str(part)) if part else sources.part_of_file(path)
    if part and split is None:
        raise sources.wrong(f"a split {part!r}", where, f"one of {', '.join(sources.PARTS)}")
    subject = cells.get(options.subject)
    text = names[int(label)] if names else str(label)
    record = Record(row, text, split, "" if subject is None else str(subject), image=path, inside=inside)
    return labels.row(record, where)


def _holds_images(schema: pa.Schema, column: str) -> bool:
    kind = schema.field(column).type
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind = kind.field("bytes").type
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def class_names(schema: pa.Schema, column: str) -> list[str]:
    """The names of a column's whole numbers, as `datasets` writes them into a table; none where it has not."""
    try:
        described = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"][column]
        names = described["names"] if described["_type"] == "ClassLabel" else []
    except (KeyError, TypeError, ValueError, RecursionError):
        return []
    known = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return names if known and pa.types.is_integer(schema.field(column).type) else []


def recognise(tree: Tree) -> Found:
    """Tables with a column of images, and the columns of labels beside it."""
    for folder in sorted({parent(name) for name in tree.files if name.lower().endswith(".parquet")}):
        found: dict[str, dict[str, str]] = {}
        for name in tree.by_folder[folder]:
            if name.lower().endswith(".parquet") and (options := _columns(tree.root / name)):
                found[name] = options
        alike = len(found) == len(tree.by_folder[folder]) > 1 and len({str(options) for options in found.values()}) == 1
        for path, options in ({folder: next(iter(found.values()))} if alike else found).items():
            changed = {what: column for what, column in options.items() if column != getattr(Options(), what)}
            yield Layout(path, f"Parquet, images in column {options['image']}", changed, positions=True)


def _columns(file: Path) -> dict[str, str]:
    try:
        with pq.ParquetFile(file) as table:
            schema = table.schema_arrow
    except (pa.ArrowException, ValueError, OSError):
        return {}
    images = [name for name in schema.names if schema.names.count(name) == 1 and _holds_images(schema, name)]
    labels = [name for name in schema.names if class_names(schema, name)]
    labels += [name for name in schema.names if folded(name) in COLUMNS["label"]]
    return {"image": images[0], "label": labels[0]} if images and labels else {}
