"""ExpW (Zhang et al., 2015/2018): `label.lst` and the images in `origin`, several faces an image."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from pydantic import Field

from ...data.sources import (
    Dropped,
    Record,
    Row,
    join,
    label_of,
    labelled,
    leaves,
    listed_twice,
    stays_inside,
    text_lines,
    whole_number,
)
from ...data.sources import Options as BaseOptions
from ...errors import CheckError
from .fer2013 import CODES

LISTS = ("label.lst", "label/label.lst")
IMAGES = ("origin/origin", "image/origin", "origin")


class Options(BaseOptions):
    """Options of an ExpW source.

    Attributes
    ----------
    min_confidence : float
        Faces that the detector was less sure of are dropped as "low confidence"; it goes from 0 to about 100.
    """

    min_confidence: Annotated[float, Field(allow_inf_nan=False)] = 0.0


def read(root: Path, path: str, classes: list[str], options: Options) -> Iterator[Row]:
    """Yield every line, `image face_id top left right bottom confidence label`, as the face `image#face_id`.

    The list is `label.lst` or `label/label.lst`, the images are in `origin` (or `origin/origin`, as the archive
    unpacks) or `image/origin`.
    """
    listing = next((root / path / name for name in LISTS if (root / path / name).exists()), root / path / LISTS[0])
    folder = next((name for name in IMAGES if (root / path / name).is_dir()), "origin")
    known = set(CODES.values())
    first: dict[str, str] = {}
    for number, line in text_lines(listing):
        where = f"{listing}, line {number}"
        try:
            image, *numbers, sureness, code = line.rsplit(maxsplit=7)
            face, top, left, right, bottom = map(whole_number, numbers)
            confidence = float(sureness)
            if not math.isfinite(confidence):
                raise ValueError
        except ValueError:
            yield CheckError(
                f"not an ExpW row: {line!r}",
                where=where,
                expected="`image face_id top left right bottom confidence label`",
                hint="correct the line, or take it out",
            )
            continue
        label = label_of(code, CODES, where)
        file = join(path, f"{folder}/{image}")
        name = f"{file}#{face}"
        if not stays_inside(image):
            yield leaves(image, where)
        elif name in first:
            yield listed_twice(f"{image}, face {face}", where, first[name])
        elif isinstance(label, CheckError):
            yield label
        elif confidence < options.min_confidence:
            yield Dropped(name, "low confidence")
        else:
            yield labelled(Record(name, label, None, image=file, box=(left, top, right, bottom)), known, classes)
        first.setdefault(name, f"line {number}")
