"""RAF-DB basic, aligned (Li et al., CVPR 2017), as released or as Kaggle has it.

Released: `EmoLabel/list_patition_label.txt` (sic) and `Image/aligned`. Kaggle: `DATASET/{train,test}/{1..7}` with
`train_labels.csv` and `test_labels.csv` beside DATASET, or the numbered folders alone.
"""

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from ...data.description import stays_inside
from ...data.labels import Labels
from ...data.layouts import Found, Layout, LeftOut, Tree, last, parent
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
    leaves,
    listed_twice,
    table_rows,
    text_lines,
    wrong,
)  # fmt: skip
from ...errors import CheckError

PRECEDENCE = 40

CODES = {"1": "surprise", "2": "fear", "3": "disgust", "4": "happy", "5": "sad", "6": "angry", "7": "neutral"}
LIST = "EmoLabel/list_patition_label.txt"
PARTS: tuple[OfficialSplit, ...] = ("train", "test")


def rows(root: Path, path: str, labels: Labels, options: Options) -> Iterator[Row]:
    """Yield every listed image, or every file of the numbered folders; the parts are train and test.

    Where Kaggle's label tables are there, table and folders must name the same images with the same codes.
    """
    folders = next((name for name in ("DATASET", "") if (root / path / name / "train").exists()), None)
    if folders is None or (root / path / LIST).exists():
        yield from _list(root, path, labels)
    else:
        for part in PARTS:
            yield from _folders(root, path, join(path, folders, part), part, labels)


def _list(root: Path, path: str, labels: Labels) -> Iterator[Row]:
    listing = root / path / LIST
    first: dict[str, str] = {}
    for number, line in text_lines(listing):
        where = f"{listing}, line {number}"
        name, _, code = line.rpartition(" ")
        name = name.strip()
        part = next((part for part in PARTS if name.startswith(f"{part}_")), None)
        if name and not stays_inside(name):
            yield leaves(name, where)
        elif part is None or not name.endswith(".jpg"):
            yield wrong(f"not a RAF-DB row: {line!r}", where, "`train_00001.jpg 5` or `test_0001.jpg 5`")
        elif name in first:
            yield listed_twice(name, where, first[name])
        else:
            first[name] = f"line {number}"
            image = join(path, f"Image/aligned/{name.removesuffix('.jpg')}_aligned.jpg")
            yield labels.row(Record(image, code, part, image=image), where)


def _folders(root: Path, path: str, folder: str, part: OfficialSplit, labels: Labels) -> Iterator[Row]:
    table = root / path / f"{part}_labels.csv"
    listed: dict[str, tuple[int, str]] = {}
    if table.exists():
        for found in table_rows(table, ("image", "label")):
            if isinstance(found, CheckError):
                yield found
                continue
            number, (name, code) = found
            if name in listed:
                yield listed_twice(name, f"{table}, data row {number}", f"data row {listed[name][0]}")
            else:
                listed[name] = number, code.strip()

    seen = set()
    for name in file_names(root / folder):
        image = join(folder, name)
        code, _, file = name.rpartition("/")
        if is_clutter(name):
            yield Dropped(image, NOT_AN_IMAGE)
            continue
        row = labels.row(Record(image, code, part, image=image), f"{root / image}, its folder")
        seen.add(file)
        if isinstance(row, CheckError):
            yield row
        elif not has_image_suffix(name):
            yield wrong("not an image by its name", str(root / image), "train_00001_aligned.jpg, …")
        elif table.exists() and listed.get(file, (0, ""))[1] != code:
            place = f"data row {listed[file][0]}, says {listed[file][1]}" if file in listed else "has no row for it"
            yield CheckError(
                f"folder and table disagree on {file}: the folder says {code}",
                where=f"{root / image}; {table}, {place}",
                expected="the same images and codes in both",
                hint="restore the table, or take it away to go by the folders alone",
            )
        else:
            yield row
    for file in sorted(listed.keys() - seen):
        yield CheckError(
            f"a listed image is missing: {file}",
            where=f"{table}, data row {listed[file][0]}",
            expected=f"a file in {root / folder}/{listed[file][1]}",
            hint="restore the file, or take its row out",
        )


def recognise(tree: Tree) -> Found:
    """The list with its images, and numbered class folders that a table, a folder or names show to be RAF-DB's."""
    for base in dict.fromkeys(tree.ending(LIST) + tree.ending("Image/aligned")):
        if join(base, LIST) not in tree.files:
            yield LeftOut(base, f"RAF-DB by its folder Image/aligned, but {LIST} is not there")
        elif join(base, "Image/aligned") not in tree.folders:
            yield LeftOut(base, "RAF-DB without its folder Image/aligned")
        else:
            yield Layout(base, LIST)

    numbered: dict[str, list[str]] = defaultdict(list)
    for folder in tree.by_folder:
        if last(folder) in CODES and not tree.labels.class_of(last(folder)) and last(parent(folder)) in PARTS:
            numbered[parent(parent(folder))] += tree.by_folder[folder]
    for base, names in numbered.items():
        outer = parent(base) if last(base) == "DATASET" else base
        tables = [table for part in PARTS if (table := join(outer, f"{part}_labels.csv")) in tree.headers]
        signs = [f"the table {last(table)}" for table in tables]
        signs += ["the folder DATASET"] if last(base) == "DATASET" else []
        if any(re.search(r"/(train|test)_\d+_aligned\.jpg$", name) for name in names):
            signs += ["names such as train_00001_aligned.jpg"]
        if signs:
            yield Layout(outer, f"numbered class folders of train and test, RAF-DB's by {', '.join(signs)}")
