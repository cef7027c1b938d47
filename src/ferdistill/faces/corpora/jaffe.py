"""JAFFE (Lyons et al., 1998): ten women, posed, `KA.AN1.39.tiff`: person, expression and its number, image number."""

import re
from collections.abc import Iterator
from pathlib import Path

from ...data.sources import (
    NOT_AN_IMAGE,
    Dropped,
    Options,
    Record,
    Row,
    file_names,
    has_image_suffix,
    is_clutter,
    join,
    label_of,
    labelled,
)
from ...errors import CheckError

CODES = {
    "NE": "neutral",
    "AN": "angry",
    "DI": "disgust",
    "FE": "fear",
    "HA": "happy",
    "SA": "sad",
    "SU": "surprise",
}
NAME = re.compile(r"([A-Z]{2})\.([A-Z]{2})\d+\.\d+\.[A-Za-z]+")


def read(root: Path, path: str, classes: list[str], options: Options) -> Iterator[Row]:
    """Yield every file by its name, in whatever folders it lies."""
    for name in file_names(root / path):
        image = join(path, name)
        match = NAME.fullmatch(name.rpartition("/")[2])
        if is_clutter(name) or not has_image_suffix(name):
            yield Dropped(image, NOT_AN_IMAGE)
        elif not match:
            yield CheckError(
                "an image that is not named as JAFFE's are",
                where=str(root / image),
                expected="names such as KA.AN1.39.tiff",
                hint="correct the name, or move the file out of the corpus",
            )
        else:
            label = label_of(match[2], CODES, str(root / image))
            if isinstance(label, CheckError):
                yield label
            else:
                record = Record(image, label, None, subject=f"jaffe:{match[1]}", image=image)
                yield labelled(record, set(CODES.values()), classes)
