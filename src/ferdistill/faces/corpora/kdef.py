"""KDEF (Lundqvist et al., 1998): 70 actors, posed, from five angles, `AF01/AF01ANS.JPG`.

The name is session (A, B), sex (F, M), number, expression, angle. `AF01` and `BF01` are one woman in two sessions.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from ...data.sources import (
    NOT_AN_IMAGE,
    Dropped,
    Record,
    Row,
    file_names,
    has_image_suffix,
    is_clutter,
    join,
    label_of,
    labelled,
)
from ...data.sources import Options as BaseOptions
from ...errors import CheckError

CODES = {
    "AF": "fear",
    "AN": "angry",
    "DI": "disgust",
    "HA": "happy",
    "NE": "neutral",
    "SA": "sad",
    "SU": "surprise",
}
NAME = re.compile(r"[AB]([FM]\d{2})([A-Z]{2})(FL|HL|S|HR|FR)\.[A-Z]+")
MISNAMED = {"AF31V.JPG", "AM31H.JPG"}  # so released, without their expression


class Options(BaseOptions):
    """Options of a KDEF source.

    Attributes
    ----------
    angles : tuple of {"FL", "HL", "S", "HR", "FR"}
        Which angles are read: full left, half left, straight, half right, full right. The others are dropped as
        "angle".
    """

    angles: Annotated[tuple[Literal["FL", "HL", "S", "HR", "FR"], ...], Field(min_length=1)] = ("S",)


def read(root: Path, path: str, classes: list[str], options: Options) -> Iterator[Row]:
    """Yield every file by its name, in whatever folders it lies.

    Two files of the release that lack their expression are dropped as "misnamed in the release".
    """
    for name in file_names(root / path):
        image = join(path, name)
        file = name.rpartition("/")[2].upper()
        match = NAME.fullmatch(file)
        if is_clutter(name) or not has_image_suffix(name):
            yield Dropped(image, NOT_AN_IMAGE)
        elif file in MISNAMED:
            yield Dropped(image, "misnamed in the release")
        elif not match:
            yield CheckError(
                "an image that is not named as KDEF's are",
                where=str(root / image),
                expected="names such as AF01ANS.JPG",
                hint="correct the name, or move the file out of the corpus",
            )
        else:
            label = label_of(match[2], CODES, str(root / image))
            if isinstance(label, CheckError):
                yield label
            elif match[3] not in options.angles:
                yield Dropped(image, "angle")
            else:
                record = Record(image, label, None, subject=f"kdef:{match[1]}", image=image)
                yield labelled(record, set(CODES.values()), classes)
