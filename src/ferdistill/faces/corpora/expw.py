"""ExpW (Zhang et al., 2015/2018): `label.lst` and the images in `origin`, several faces an image."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from pydantic import Field

from ...data import sources
from ...data.labels import Labels
from ...data.layouts import Found, Layout, LeftOut, Tree, last, parent
from ...data.sources import Dropped, Record, Row
from ...errors import CheckError
from .fer2013 import CODES as CODES

PRECEDENCE = 75
LISTS = ("label.lst", "label/label.lst")
IMAGES = ("origin/origin", "image/origin", "origin")


class Options(sources.Options):
    """Faces that the detector was less sure of are dropped as "low confidence"; it goes from 0 to about 100."""

    min_confidence: Annotated[float, Field(allow_inf_nan=False)] = 0.0


def rows(root: Path, path: str, labels: Labels, options: Options) -> Iterator[Row]:
    """Yield every line, `image face_id top left right bottom confidence label`, as the face `image#face_id`.

    The list is `label.lst` or `label/label.lst`, the images are in `origin` (or `origin/origin`, as the archive
    unpacks) or `image/origin`.
    """
    listing = next((root / path / name for name in LISTS if (root / path / name).exists()), root / path / LISTS[0])
    folder = next((name for name in IMAGES if (root / path / name).is_dir()), "origin")
    first: dict[str, str] = {}

    def row(numbered: tuple[int, str]) -> Row:
        number, line = numbered
        where = f"{listing}, line {number}"
        try:
            image, *numbers, sureness, code = line.rsplit(maxsplit=7)
            face, top, left, right, bottom = map(sources.whole_number, numbers)
            confidence = float(sureness)
            if not math.isfinite(confidence):
                raise ValueError
        except ValueError:
            expected = "`image face_id top left right bottom confidence label`"
            raise sources.wrong(f"not an ExpW row: {line!r}", where, expected) from None
        file = sources.join(path, f"{folder}/{image}")
        sources.check_inside(image, where)
        sources.check_once(f"{image}, face {face}", where, f"line {number}", first)
        name = f"{file}#{face}"
        made = labels.row(Record(name, code, None, image=file, box=(left, top, right, bottom)), where)
        unsure = confidence < options.min_confidence and not isinstance(made, CheckError)
        return Dropped(name, "low confidence") if unsure else made

    return sources.parsed(sources.text_lines(listing), row)


def recognise(tree: Tree) -> Found:
    """A label.lst beside the folder of its images."""
    for folder in tree.ending("label.lst"):
        base = parent(folder) if last(folder) == "label" else folder
        if any(sources.join(base, name) in tree.folders for name in IMAGES):
            yield Layout(base, "label.lst beside origin")
        else:
            yield LeftOut(base, "ExpW's label.lst without the folder origin: unpack its archive")
