"""AffectNet of 2017 (Mollahosseini et al.): `training.csv` and `validation.csv` beside the annotated images."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from ...data.sources import (
    Dropped,
    Record,
    Row,
    join,
    label_of,
    leaves,
    listed_twice,
    stays_inside,
    table_rows,
    whole_number,
)
from ...data.sources import Options as BaseOptions
from ...errors import CheckError

CODES = {
    "0": "neutral",
    "1": "happy",
    "2": "sad",
    "3": "surprise",
    "4": "fear",
    "5": "disgust",
    "6": "angry",
    "7": "contempt",
    "8": "none",
    "9": "uncertain",
    "10": "no face",
}
COLUMNS = ("subDirectory_filePath", "face_x", "face_y", "face_width", "face_height", "expression")
LISTS = ("Manually_Annotated_file_lists", "")
IMAGES = ("Manually_Annotated/Manually_Annotated_Images", "Manually_Annotated_Images", "")


class Options(BaseOptions):
    """Options of an AffectNet source.

    Attributes
    ----------
    crop : bool
        Whether to cut out the face box; false where the images hold the face alone.
    validation : {"test", "val"}
        What the validation part is used as. There is no public test part, and papers report on the validation part.
    """

    crop: bool = True
    validation: Literal["val", "test"] = "test"


def read(root: Path, path: str, classes: list[str], options: Options) -> Iterator[Row]:
    """Yield every row of both tables, which lie in `path` or in its folder `Manually_Annotated_file_lists`.

    Rows whose expression is no class of ours (contempt, none, uncertain) are dropped by its name; no-face rows and
    boxes of negative width as "no face".
    """
    lists = next((name for name in LISTS if (root / path / name / "training.csv").exists()), "")
    images = next((name for name in IMAGES if (root / path / name).is_dir()), "")
    first: dict[str, str] = {}
    for table in ("training.csv", "validation.csv"):
        file = root / path / lists / table
        for found in table_rows(file, COLUMNS):
            if isinstance(found, CheckError):
                yield found
                continue
            row, (name, *box, code) = found
            where = f"{file}, data row {row}"
            label = label_of(code, CODES, f"{where}, column expression")
            if not stays_inside(name):
                yield leaves(name, where)
                continue
            if name in first:
                yield listed_twice(name, where, first[name])
                continue
            first[name] = f"{table}, data row {row}"
            image = join(path, images, name)
            if isinstance(label, CheckError):
                yield label
                continue
            if label not in classes:
                yield Dropped(image, label)
                continue
            try:
                x, y, width, height = map(whole_number, box)
            except ValueError:
                yield CheckError(
                    f"not a face box: {', '.join(box)}",
                    where=f"{where}, columns face_x to face_height",
                    expected="four whole numbers of pixels",
                    hint="correct the row, or take it out",
                )
                continue
            if width < 0:
                yield Dropped(image, "no face")
                continue
            yield Record(
                image,
                label,
                "train" if table == "training.csv" else options.validation,
                image=image,
                box=(x, y, x + width, y + height) if options.crop else None,
            )
