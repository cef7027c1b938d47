"""RAF-DB basic, aligned (Li et al., CVPR 2017), as released or as Kaggle has it.

Released: `EmoLabel/list_patition_label.txt` (sic) and `Image/aligned`. Kaggle: `DATASET/{train,test}/{1..7}` with
`train_labels.csv` and `test_labels.csv` beside DATASET, or the numbered folders alone. Released beside the list are
`Annotation/manual/train_00001_manu_attri.txt`: five landmarks, then codes of gender, race and age.
"""

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from ...data import sources
from ...data.labels import Labels
from ...data.layouts import Found, Layout, LeftOut, Tree, last, parent
from ...data.sources import NOT_AN_IMAGE, Dropped, OfficialSplit, Options, Record, Row
from ...errors import CheckError

PRECEDENCE = 40

CODES = {"1": "surprise", "2": "fear", "3": "disgust", "4": "happy", "5": "sad", "6": "angry", "7": "neutral"}
LIST = "EmoLabel/list_patition_label.txt"
MANUAL = "Annotation/manual"
# In the order of their lines, after the five landmarks; gender 2 is "unsure", which says nothing.
ATTRIBUTES = {
    "gender": {"0": "male", "1": "female", "2": ""},
    "race": {"0": "Caucasian", "1": "African-American", "2": "Asian"},
    "age": {"0": "0-3", "1": "4-19", "2": "20-39", "3": "40-69", "4": "70+"},
}
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
            yield from _folders(root, path, sources.join(path, folders, part), part, labels)


def _list(root: Path, path: str, labels: Labels) -> Iterator[Row]:
    listing = root / path / LIST
    first: dict[str, str] = {}
    manual = (root / path / MANUAL).is_dir()

    def row(numbered: tuple[int, str]) -> Row:
        number, line = numbered
        where = f"{listing}, line {number}"
        name, _, code = line.rpartition(" ")
        name = name.strip()
        if name:
            sources.check_inside(name, where)
        part = next((part for part in PARTS if name.startswith(f"{part}_")), None)
        if part is None or not name.endswith(".jpg"):
            raise sources.wrong(f"not a RAF-DB row: {line!r}", where, "`train_00001.jpg 5` or `test_0001.jpg 5`")
        sources.check_once(name, where, f"line {number}", first)
        image = sources.join(path, f"Image/aligned/{name.removesuffix('.jpg')}_aligned.jpg")
        known = _attributes(root / path / MANUAL / f"{name.removesuffix('.jpg')}_manu_attri.txt") if manual else None
        return labels.row(Record(image, code, part, image=image, attributes=known), where)

    return sources.parsed(sources.text_lines(listing), row)


def _attributes(file: Path) -> dict[str, str]:
    """What the annotators of RAF-DB wrote of one face; a CheckError if it is not as released."""
    try:
        lines = [line for _, line in sources.text_lines(file)]
    except (OSError, UnicodeDecodeError) as error:
        raise sources.wrong(f"attributes that cannot be read: {error}", str(file), "the released file") from None
    codes = dict(zip(ATTRIBUTES, lines[5:], strict=False))
    if len(lines) != 8 or any(codes[name] not in known for name, known in ATTRIBUTES.items()):
        expected = "five landmarks, then codes of gender (0 to 2), race (0 to 2) and age (0 to 4), each on a line"
        raise sources.wrong(f"not RAF-DB's attributes: {lines[5:]}", str(file), expected)
    return {name: value for name, known in ATTRIBUTES.items() if (value := known[codes[name]])}


def _folders(root: Path, path: str, folder: str, part: OfficialSplit, labels: Labels) -> Iterator[Row]:
    table = root / path / f"{part}_labels.csv"
    place: dict[str, str] = {}
    code_of: dict[str, str] = {}
    for found in sources.table_rows(table, ("image", "label")) if table.exists() else ():
        try:
            if isinstance(found, CheckError):
                raise found
            number, (name, code) = found
            sources.check_once(name, f"{table}, data row {number}", f"data row {number}", place)
            code_of[name] = code.strip()
        except CheckError as error:
            yield error
    seen = set()

    def row(name: str) -> Row:
        image = sources.join(folder, name)
        code, _, file = name.rpartition("/")
        if sources.is_clutter(name):
            return Dropped(image, NOT_AN_IMAGE)
        seen.add(file)
        made = labels.row(Record(image, code, part, image=image), f"{root / image}, its folder")
        if isinstance(made, CheckError):
            return made
        if not sources.has_image_suffix(name):
            raise sources.wrong("not an image by its name", str(root / image), "train_00001_aligned.jpg, …")
        if table.exists() and code_of.get(file, "") != code:
            says = f"{place[file]}, says {code_of[file]}" if file in place else "has no row for it"
            raise CheckError(
                f"folder and table disagree on {file}: the folder says {code}",
                where=f"{root / image}; {table}, {says}",
                expected="the same images and codes in both",
                hint="restore the table, or take it away to go by the folders alone",
            )
        return made

    yield from sources.parsed(sources.file_names(root / folder), row)
    for file in sorted(code_of.keys() - seen):
        yield CheckError(
            f"a listed image is missing: {file}",
            where=f"{table}, {place[file]}",
            expected=f"a file in {root / folder}/{code_of[file]}",
            hint="restore the file, or take its row out",
        )


def recognise(tree: Tree) -> Found:
    """The list with its images, and numbered class folders that a table, a folder or names show to be RAF-DB's."""
    for base in dict.fromkeys(tree.ending(LIST) + tree.ending("Image/aligned")):
        if sources.join(base, LIST) not in tree.files:
            yield LeftOut(base, f"RAF-DB by its folder Image/aligned, but {LIST} is not there")
        elif sources.join(base, "Image/aligned") not in tree.folders:
            yield LeftOut(base, "RAF-DB without its folder Image/aligned")
        else:
            yield Layout(base, LIST)

    numbered: dict[str, list[str]] = defaultdict(list)
    for folder in tree.by_folder:
        if last(folder) in CODES and not tree.labels.class_of(last(folder)) and last(parent(folder)) in PARTS:
            numbered[parent(parent(folder))] += tree.by_folder[folder]
    for base, names in numbered.items():
        outer = parent(base) if last(base) == "DATASET" else base
        tables = [table for part in PARTS if (table := sources.join(outer, f"{part}_labels.csv")) in tree.headers]
        signs = [f"the table {last(table)}" for table in tables]
        signs += ["the folder DATASET"] if last(base) == "DATASET" else []
        if any(re.search(r"/(train|test)_\d+_aligned\.jpg$", name) for name in names):
            signs += ["names such as train_00001_aligned.jpg"]
        if signs:
            yield Layout(outer, f"numbered class folders of train and test, RAF-DB's by {', '.join(signs)}")
