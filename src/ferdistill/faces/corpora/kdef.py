"""KDEF (Lundqvist et al., 1998): 70 actors, posed, from five angles, `AF01/AF01ANS.JPG`.

The name is session (A, B), sex (F, M), number, expression, angle. `AF01` and `BF01` are one woman in two sessions.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from ...data import sources
from ...data.labels import Labels
from ...data.layouts import Found, Layout, Tree, bases_of, last
from ...data.sources import Dropped, Record, Row, images_in, parsed, wrong
from ...errors import CheckError
from . import is_expression, named_as

PRECEDENCE = 10
CODES = {"AF": "fear", "AN": "angry", "DI": "disgust", "HA": "happy", "NE": "neutral", "SA": "sad", "SU": "surprise"}
NAME = re.compile(r"[AB]([FM]\d{2})([A-Z]{2})(FL|HL|S|HR|FR)\.[A-Z]+")
MISNAMED = {"AF31V.JPG", "AM31H.JPG"}  # so released, without their expression


class Options(sources.Options):
    """Which angles are read: full left, half left, straight, half right, full right; others are dropped as "angle"."""

    angles: Annotated[tuple[Literal["FL", "HL", "S", "HR", "FR"], ...], Field(min_length=1)] = ("S",)


def rows(root: Path, path: str, labels: Labels, options: Options) -> Iterator[Row]:
    """Yield every file by its name, in whatever folders it lies.

    Two files of the release that lack their expression are dropped as "misnamed in the release".
    """

    def row(image: str) -> Row:
        file = last(image).upper()
        match = NAME.fullmatch(file)
        if file in MISNAMED:
            return Dropped(image, "misnamed in the release")
        if not match:
            raise wrong("an image that is not named as KDEF's are", str(root / image), "names such as AF01ANS.JPG")
        sex = {"sex": "female" if match[1][0] == "F" else "male"}
        record = Record(image, match[2], None, subject=f"kdef:{match[1]}", image=image, attributes=sex)
        made = labels.row(record, str(root / image))
        read = match[3] in options.angles or isinstance(made, CheckError)
        return made if read else Dropped(image, "angle")

    return parsed(images_in(root, path), row)


def recognise(tree: Tree) -> Found:
    """Folders of nothing but KDEF's names, or of actors' or class folders with such."""

    def fits(name: str) -> bool:
        return bool(NAME.fullmatch(last(name).upper())) or last(name) in MISNAMED

    def is_inner(folder: str) -> bool:
        return is_expression(folder) or bool(re.fullmatch("[AB][FM][0-9]{2}", folder))

    for base in bases_of(tree, fits, is_inner):
        evidence = named_as(tree, base, "AF01ANS.JPG") + "; from straight ahead only, unless `angles` names more"
        yield Layout(base, evidence, whole=True)
