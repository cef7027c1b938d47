"""JAFFE (Lyons et al., 1998): ten women, posed, `KA.AN1.39.tiff`: person, expression and its number, image number."""

import re
from collections.abc import Iterator
from pathlib import Path

from ...data.labels import Labels
from ...data.layouts import Found, Layout, Tree, bases_of, last
from ...data.sources import Options, Record, Row, images_in, parsed, wrong
from . import is_expression, named_as

PRECEDENCE = 30
CODES = {"NE": "neutral", "AN": "angry", "DI": "disgust", "FE": "fear", "HA": "happy", "SA": "sad", "SU": "surprise"}
NAME = re.compile(r"([A-Z]{2})\.([A-Z]{2})\d+\.\d+\.[A-Za-z]+")


def rows(root: Path, path: str, labels: Labels, options: Options) -> Iterator[Row]:
    """Yield every file by its name, in whatever folders it lies."""

    def row(image: str) -> Row:
        match = NAME.fullmatch(last(image))
        if not match:
            raise wrong("an image that is not named as JAFFE's are", str(root / image), "names such as KA.AN1.39.tiff")
        record = Record(image, match[2], None, subject=f"jaffe:{match[1]}", image=image)
        return labels.row(record, str(root / image))

    return parsed(images_in(root, path), row)


def recognise(tree: Tree) -> Found:
    """Folders of nothing but JAFFE's names, or of class folders with such."""
    for base in bases_of(tree, lambda name: bool(NAME.fullmatch(last(name))), is_expression):
        yield Layout(base, named_as(tree, base, "KA.AN1.39.tiff"), whole=True)
