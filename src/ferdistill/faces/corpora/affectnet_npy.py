"""AffectNet as cropped images with a NumPy file a label: `train_set/images/1.jpg`, `train_set/annotations/1_exp.npy`.

The validation part is `val_set` or `valid_set`. Codes are those of the release of 2017.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from ...data import sources
from ...data.labels import Labels
from ...data.layouts import Found, Layout, LeftOut, Tree
from ...data.sources import OfficialSplit, Record, Row, join, labelled_images, parsed
from ...errors import CheckError
from .affectnet import CODES as CODES

PRECEDENCE = 65
PARTS = ("train_set", "val_set", "valid_set")


class Options(sources.Options):
    """What the validation part is used as: there is no public test part, and papers report on it."""

    validation: Literal["val", "test"] = "test"


def rows(root: Path, path: str, labels: Labels, options: Options) -> Iterator[Row]:
    """Yield every image of every part that is there; one without its `_exp.npy` is dropped as "unlabelled"."""

    def row(split: OfficialSplit, found: tuple[str, Path]) -> Row:
        image, annotation = found
        return labels.row(Record(image, _code(annotation), split, image=image), str(annotation))

    for part in PARTS:
        if part == "train_set" or (root / path / part).exists():
            found = labelled_images(root, join(path, part), "annotations", "_exp.npy", "an annotation")
            yield from parsed(found, partial(row, "train" if part == "train_set" else options.validation))


def _code(file: Path) -> str:
    try:
        array = np.load(file, allow_pickle=False)
        if not (isinstance(array, np.ndarray) and array.size == 1 and array.dtype.kind in "iuSU"):
            raise ValueError("one string or whole number is expected")
        return str(array.astype(str).item())
    except Exception as error:  # a hostile file may raise anything
        raise CheckError(
            f"a label cannot be read: {error}",
            where=str(file),
            expected="a NumPy array of one string or whole number, without Python objects",
            hint="restore the file, or take it and its image out",
        ) from None


def recognise(tree: Tree) -> Found:
    """A folder train_set/annotations with a file for each label."""
    for base in tree.ending("train_set/annotations"):
        folders = [tree.by_folder.get(join(base, part, "annotations"), []) for part in PARTS]
        if any(name.endswith("_exp.npy") for names in folders for name in names):
            yield Layout(base, "train_set/annotations/*_exp.npy; validation serves as test")
        else:
            yield LeftOut(base, "AffectNet by its folder train_set/annotations, but no *_exp.npy is in it")
