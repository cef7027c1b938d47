"""AffectNet of 2017 (Mollahosseini et al.): `training.csv` and `validation.csv` beside the annotated images."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

from ...data import sources
from ...data.labels import Labels
from ...data.layouts import Found, Layout, LeftOut, Tree, last, parent
from ...data.sources import Dropped, OfficialSplit, Record, Row
from . import numbered

PRECEDENCE = 60

CODES = numbered(
    "neutral", "happy", "sad", "surprise", "fear", "disgust", "angry", "contempt", "none", "uncertain", "no face"
)
COLUMNS = ("subDirectory_filePath", "face_x", "face_y", "face_width", "face_height", "expression")
LISTS = ("Manually_Annotated_file_lists", "")
IMAGES = ("Manually_Annotated/Manually_Annotated_Images", "Manually_Annotated_Images", "")


class Options(sources.Options):
    """`crop` cuts out the face box: false where the images hold the face alone.

    `validation` says what the validation part is used as: there is no public test part, and papers report on it.
    """

    crop: bool = True
    validation: Literal["val", "test"] = "test"


def rows(root: Path, path: str, labels: Labels, options: Options) -> Iterator[Row]:
    """Yield every row of both tables, which lie in `path` or in its folder `Manually_Annotated_file_lists`.

    Rows whose expression is no class of ours (contempt, none, uncertain) are dropped by its name; no-face rows and
    boxes of negative width as "no face".
    """
    lists = next((name for name in LISTS if (root / path / name / "training.csv").exists()), "")
    images = next((name for name in IMAGES if (root / path / name).is_dir()), "")
    first: dict[str, str] = {}

    def row(file: Path, part: OfficialSplit, found: tuple[int, list[str]]) -> Row:
        number, (name, *box, code) = found
        where = f"{file}, data row {number}"
        sources.check_inside(name, where)
        sources.check_once(name, where, f"{file.name}, data row {number}", first)
        image = sources.join(path, images, name)
        made = labels.row(Record(image, code, part, image=image), f"{where}, column expression")
        if not isinstance(made, Record):
            return made
        try:
            x, y, width, height = map(sources.whole_number, box)
        except ValueError:
            columns = f"{where}, columns face_x to face_height"
            raise sources.wrong(f"not a face box: {', '.join(box)}", columns, "four whole numbers of pixels") from None
        if width < 0:
            return Dropped(image, "no face")
        return replace(made, box=(x, y, x + width, y + height) if options.crop else None)

    parts: dict[str, OfficialSplit] = {"training.csv": "train", "validation.csv": options.validation}
    for table, part in parts.items():
        file = root / path / lists / table
        yield from sources.parsed(sources.table_rows(file, COLUMNS), partial(row, file, part))


def recognise(tree: Tree) -> Found:
    """Both tables with the columns of their release."""
    for name, header in tree.headers.items():
        if last(name) != "training.csv" or "subDirectory_filePath" not in header:
            continue
        folder = parent(name)
        base = parent(folder) if last(folder) == LISTS[0] else folder
        tables = [sources.join(folder, table) for table in ("training.csv", "validation.csv")]
        if all(set(COLUMNS) <= set(tree.headers.get(table, ())) for table in tables):
            evidence = "training.csv and validation.csv with face boxes, which are cut out; validation serves as test"
            yield Layout(base, evidence)
        else:
            yield LeftOut(base, f"AffectNet, but {tables[1]} or a column of the tables is missing")
