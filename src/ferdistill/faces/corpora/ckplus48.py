"""CK+48 (Kaggle): faces of CK+ at 48 pixels in class folders, `anger/S010_004_00000017.png`.

The three last frames of each labelled sequence, hardly different: keep a person in one split, as `subject` does.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from ...data import sources
from ...data.labels import Labels
from ...data.layouts import Found, Layout, Tree, bases_of, last, parent
from ...data.sources import NOT_AN_IMAGE, Dropped, Options, Record, Row
from . import EXPRESSIONS, is_expression, named_as

PRECEDENCE = 25
NAME = re.compile(r"(S\d{3})_\d{3}_\d{8}\.png")


def rows(root: Path, path: str, labels: Labels, options: Options) -> Iterator[Row]:
    """Yield every file; the subject is CK+'s own, since both show the same people."""

    def row(name: str) -> Row:
        image = sources.join(path, name)
        folder, _, file = name.rpartition("/")
        match = NAME.fullmatch(file)
        if sources.is_clutter(name) or (not folder and not sources.has_image_suffix(name)):
            return Dropped(image, NOT_AN_IMAGE)
        if match and (is_expression(folder) or labels.class_of(folder)):
            record = Record(image, folder, None, subject=f"ckplus:{match[1]}", image=image)
            return labels.row(record, str(root / image))
        expected = f"CLASS/S010_004_00000017.png with CLASS one of {', '.join(EXPRESSIONS)}"
        raise sources.wrong("a file that does not fit CK+48", str(root / image), expected)

    return sources.parsed(sources.file_names(root / path), row)


def recognise(tree: Tree) -> Found:
    """Class folders of nothing but CK+48's names."""

    def fits(name: str) -> bool:
        return bool(NAME.fullmatch(last(name))) and is_expression(last(parent(name)))

    for base in bases_of(tree, fits, is_expression):
        yield Layout(base, named_as(tree, base, "S010_004_00000017.png"), whole=True)
