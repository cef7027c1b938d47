"""CK+48 (Kaggle): faces of CK+ at 48 pixels in class folders, `anger/S010_004_00000017.png`.

The three last frames of each labelled sequence, hardly different: keep a person in one split, as `subject` does.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from ...data.sources import (
    EXPRESSIONS,
    NOT_AN_IMAGE,
    Dropped,
    Options,
    Record,
    Row,
    class_name,
    file_names,
    has_image_suffix,
    is_clutter,
    join,
    labelled,
)
from ...errors import CheckError

NAME = re.compile(r"(S\d{3})_\d{3}_\d{8}\.png")


def read(root: Path, path: str, classes: list[str], options: Options) -> Iterator[Row]:
    """Yield every file; the subject is CK+'s own, since both show the same people."""
    for name in file_names(root / path):
        image = join(path, name)
        folder, _, file = name.rpartition("/")
        label, match = class_name(folder), NAME.fullmatch(file)
        if is_clutter(name) or (not folder and not has_image_suffix(name)):
            yield Dropped(image, NOT_AN_IMAGE)
        elif label not in EXPRESSIONS or not match:
            yield CheckError(
                "a file that does not fit CK+48",
                where=str(root / image),
                expected=f"CLASS/S010_004_00000017.png with CLASS one of {', '.join(sorted(EXPRESSIONS))}",
                hint="move the file out of the corpus",
            )
        else:
            record = Record(image, label, None, subject=f"ckplus:{match[1]}", image=image)
            yield labelled(record, EXPRESSIONS, classes)
