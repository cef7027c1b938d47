"""AffectNet as cropped images with a NumPy file a label: `train_set/images/1.jpg`, `train_set/annotations/1_exp.npy`.

The validation part is `val_set` or `valid_set`. Codes are those of the release of 2017.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np

from ...data.sources import Options as BaseOptions
from ...data.sources import Record, Row, join, label_of, labelled, labelled_images
from ...errors import CheckError
from .affectnet import CODES

PARTS = ("train_set", "val_set", "valid_set")


class Options(BaseOptions):
    """Options of such a source.

    Attributes
    ----------
    validation : {"test", "val"}
        What the validation part is used as. There is no public test part, and papers report on the validation part.
    """

    validation: Literal["val", "test"] = "test"


def read(root: Path, path: str, classes: list[str], options: Options) -> Iterator[Row]:
    """Yield every image of every part that is there; one without its `_exp.npy` is dropped as "unlabelled"."""
    for part in PARTS:
        if part != "train_set" and not (root / path / part).exists():
            continue
        folder = join(path, part)
        split = "train" if part == "train_set" else options.validation
        for found in labelled_images(root, folder, "annotations", "_exp.npy", "an annotation"):
            if not isinstance(found, tuple):
                yield found
                continue
            image, annotation = found
            label = _read_label(annotation)
            if isinstance(label, CheckError):
                yield label
            else:
                yield labelled(Record(image, label, split, image=image), set(CODES.values()), classes)


def _read_label(file: Path) -> str | CheckError:
    try:
        array = np.load(file, allow_pickle=False)
        if not (isinstance(array, np.ndarray) and array.size == 1 and array.dtype.kind in "iuSU"):
            raise ValueError("one string or whole number is expected")
        code = array.astype(str).item()
    except Exception as error:  # a hostile file may raise anything
        return CheckError(
            f"a label cannot be read: {error}",
            where=str(file),
            expected="a NumPy array of one string or whole number, without Python objects",
            hint="restore the file, or take it and its image out",
        )
    return label_of(code, CODES, str(file))
