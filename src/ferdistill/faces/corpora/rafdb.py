"""RAF-DB basic, aligned (Li et al., CVPR 2017), as released or as Kaggle has it.

Released: `EmoLabel/list_patition_label.txt` (sic) and `Image/aligned`. Kaggle: `DATASET/{train,test}/{1..7}` with
`train_labels.csv` and `test_labels.csv` beside DATASET, or the numbered folders alone.
"""

from collections.abc import Iterator
from pathlib import Path

from ...data.sources import (
    NOT_AN_IMAGE,
    Dropped,
    OfficialSplit,
    Options,
    Record,
    Row,
    file_names,
    has_image_suffix,
    is_clutter,
    join,
    label_of,
    labelled,
    leaves,
    listed_twice,
    stays_inside,
    table_rows,
    text_lines,
)
from ...errors import CheckError

CODES = {"1": "surprise", "2": "fear", "3": "disgust", "4": "happy", "5": "sad", "6": "angry", "7": "neutral"}
LIST = "EmoLabel/list_patition_label.txt"
PARTS: tuple[OfficialSplit, ...] = ("train", "test")


def read(root: Path, path: str, classes: list[str], options: Options) -> Iterator[Row]:
    """Yield every listed image, or every file of the numbered folders; the parts are train and test.

    Where Kaggle's label tables are there, table and folders must name the same images with the same codes.
    """
    folders = next((name for name in ("DATASET", "") if (root / path / name / "train").exists()), None)
    if folders is None or (root / path / LIST).exists():
        yield from _read_list(root, path, classes)
    else:
        for part in PARTS:
            yield from _read_folders(root, path, join(path, folders, part), part, classes)


def _read_list(root: Path, path: str, classes: list[str]) -> Iterator[Row]:
    listing = root / path / LIST
    first: dict[str, str] = {}
    for number, line in text_lines(listing):
        where = f"{listing}, line {number}"
        name, _, code = line.rpartition(" ")
        name = name.strip()
        label = label_of(code, CODES, where)
        part = next((part for part in PARTS if name.startswith(f"{part}_")), None)
        if name and not stays_inside(name):
            yield leaves(name, where)
        elif part is None or not name.endswith(".jpg"):
            yield CheckError(
                f"not a RAF-DB row: {line!r}",
                where=where,
                expected="`train_00001.jpg 5` or `test_0001.jpg 5`",
                hint="correct the line, or take it out",
            )
        elif isinstance(label, CheckError):
            yield label
        elif name in first:
            yield listed_twice(name, where, first[name])
        else:
            first[name] = f"line {number}"
            image = join(path, f"Image/aligned/{name.removesuffix('.jpg')}_aligned.jpg")
            yield labelled(Record(image, label, part, image=image), set(CODES.values()), classes)


def _read_folders(root: Path, path: str, folder: str, part: OfficialSplit, classes: list[str]) -> Iterator[Row]:
    table = root / path / f"{part}_labels.csv"
    rows: dict[str, tuple[int, str]] = {}
    if table.exists():
        for found in table_rows(table, ("image", "label")):
            if isinstance(found, CheckError):
                yield found
                continue
            row, (name, code) = found
            if name in rows:
                yield listed_twice(name, f"{table}, data row {row}", f"data row {rows[name][0]}")
            else:
                rows[name] = row, code.strip()

    seen = set()
    for name in file_names(root / folder):
        image = join(folder, name)
        code, _, file = name.rpartition("/")
        if is_clutter(name):
            yield Dropped(image, NOT_AN_IMAGE)
            continue
        label = label_of(code, CODES, f"{root / image}, its folder")
        seen.add(file)
        if isinstance(label, CheckError):
            yield label
        elif not has_image_suffix(name):
            yield CheckError(
                "not an image by its name", where=str(root / image), hint="move the file out of the corpus"
            )
        elif table.exists() and rows.get(file, (0, ""))[1] != code:
            place = f"data row {rows[file][0]}, says {rows[file][1]}" if file in rows else "has no row for it"
            yield CheckError(
                f"folder and table disagree on {file}: the folder says {code}",
                where=f"{root / image}; {table}, {place}",
                expected="the same images and codes in both",
                hint="restore the table, or take it away to go by the folders alone",
            )
        else:
            yield labelled(Record(image, label, part, image=image), set(CODES.values()), classes)
    for file in sorted(rows.keys() - seen):
        yield CheckError(
            f"a listed image is missing: {file}",
            where=f"{table}, data row {rows[file][0]}",
            expected=f"a file in {root / folder}/{rows[file][1]}",
            hint="restore the file, or take its row out",
        )
