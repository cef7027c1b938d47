"""One module a public corpus layout; `corpus.reader` finds a module by the `adapter` name in corpus.yaml.

An adapter is a function `read(root, path, classes)` that yields `Record`s in any order, where `root` is the corpus
directory and `path` the source's place in it. It maps the corpus's own codes to class names and raises `CheckError`,
naming file and row, on anything it cannot read. It never skips a row.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ...errors import CheckError

OfficialSplit = Literal["train", "val", "test"]


@dataclass(frozen=True)
class Record:
    """One labelled face as its source has it.

    Attributes
    ----------
    path : str
        POSIX path relative to the corpus directory; a row of a table is `table.csv#row`, counted from 0.
    label : str
        Class name.
    split : str or None
        The source's own split, where it has one.
    pixels : ndarray, uint8, (H, W, 3)
        RGB, upright.
    """

    path: str
    label: str
    split: OfficialSplit | None
    pixels: np.ndarray


def read_image(root: Path, path: str) -> np.ndarray:
    """Decode one image file under `root` to upright RGB, uint8, (H, W, 3).

    Raises
    ------
    CheckError
        If the path leaves `root`, or the file is missing or not a whole image.
    """
    file = root / path
    if not file.resolve().is_relative_to(root.resolve()):
        raise CheckError("a path leaves the corpus directory", where=path, expected=f"a file under {root}")
    try:
        with Image.open(file) as image:
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except FileNotFoundError:
        raise CheckError(
            "a listed image is missing", where=str(file), hint="restore the file, or take its row out"
        ) from None
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = "not an image" if isinstance(error, UnidentifiedImageError) else str(error)
        raise CheckError(
            f"an image cannot be decoded: {reason}",
            where=str(file),
            expected="a whole JPEG, PNG, BMP or TIFF file",
            hint="replace the file, or take it out of the corpus",
        ) from None
