"""A table of images and their labels, `labels.csv`, with a row an image: any CSV with a column of paths.

Paths are relative to the folder of the table. Labels are names, or codes that `classes` in corpus.yaml explains.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from ...files import folded
from .. import sources
from ..labels import Labels
from ..layouts import Found, Layout, Tree, parent
from ..sources import PARTS, Dropped, Record, Row

PRECEDENCE = 95
# What columns are called, in whatever case, where a table is to be recognised.
COLUMNS = {
    "image": ("path", "image", "file", "filename", "file_name", "image_path", "img", "filepath"),
    "label": ("label", "class", "category", "target"),
    "split": ("split", "set", "subset", "part", "usage"),
    "subject": ("subject", "subject_id", "person", "person_id"),
}


class Options(sources.Options):
    """Columns of such a table; an empty name is for none."""

    image: str = "path"
    label: str = "label"  # empty: no row has one
    unlabelled: Literal["drop", "transfer"] = "drop"  # what becomes of a row without one
    split: str = ""  # train, val or test, or nothing
    subject: str = ""  # who or what is shown: alike in all sources that show the same
    votes: tuple[str, ...] = ()  # annotators' votes, whole numbers; each column is named as a label is


def rows(root: Path, path: str, labels: Labels, options: Options) -> Iterator[Row]:
    """Yield every row.

    Raises
    ------
    CheckError
        If a column is not there.
    """
    file = root / path
    optional = [name for name in (options.label, options.split, options.subject) if name]
    columns = (options.image, *optional, *options.votes)
    first: dict[str, str] = {}

    def row(numbered: tuple[int, list[str]]) -> Row:
        number, fields = numbered
        cells = {name: cell.strip() for name, cell in zip(columns, fields, strict=True)}
        name, part, where = cells[options.image], cells.get(options.split, ""), f"{file}, data row {number}"
        image = sources.join(parent(sources.join(path)), name)
        sources.check_inside(name, where)
        sources.check_once(name, where, f"data row {number}", first)
        try:
            votes = {column: sources.whole_number(cells[column]) for column in options.votes}
            if min(votes.values(), default=0) < 0 or (part and not sources.part_of(part)):
                raise ValueError
        except ValueError:
            expected = f"a part out of {', '.join(PARTS)}, or none, and whole numbers of votes"
            raise sources.wrong(f"not a row of this table: {', '.join(cells.values())}", where, expected) from None
        subject = cells.get(options.subject, "")
        record = Record(
            image,
            cells.get(options.label, ""),
            sources.part_of(part),
            subject=subject,
            image=image,
            votes=votes or None,
        )
        if record.label:
            return labels.row(record, f"{where}, column {options.label}")
        taken = options.unlabelled == "transfer" or not options.label
        return labels.unlabelled(record) if taken else Dropped(image, "unlabelled")

    return sources.parsed(sources.table_rows(file, columns), row)


def recognise(tree: Tree) -> Found:
    """Tables with a column of paths, of which the first is there, and one of labels."""
    seen = {item.path for item in tree.found}
    for name, header in tree.headers.items():
        columns = {what: next((c for c in header if folded(c) in known), "") for what, known in COLUMNS.items()}
        if name in seen or not columns["image"] or not columns["label"]:
            continue
        first = next(sources.table_rows(tree.root / name, (columns["image"],)), None)
        if isinstance(first, tuple) and sources.join(parent(name), first[1][0].strip()) in tree.images:
            evidence = f"a table whose column {columns['image']} names images, and column {columns['label']} labels"
            defaults = Options()
            options = {what: column for what, column in columns.items() if column != getattr(defaults, what)}
            yield Layout(name, evidence, options, positions=True)
