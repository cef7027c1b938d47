"""What adapters have in common. `data.description` finds one by the `adapter` name in corpus.yaml.

An adapter is a module with a function `rows(root, path, labels, options)` that yields what its source lists, in any
order, without decoding an image. `root` is the corpus directory, `path` the source's place in it, `options` an
`Options` of the same module. For every row of the source it yields one of

- `Record`, an image, passed through `labels.row`, which makes a class of its label, or `labels.unlabelled`;
- `Dropped`, a row that is left out by rule (not an image, unlabelled, a label that is no class), with the rule;
- `CheckError` (yielded, not raised: `parsed` yields what a function of one row raises), a row that cannot be read,
  naming file and row.

It raises only where the source as a whole cannot be read: a list that is missing, columns that are not there. It never
passes over a row in silence. `CODES` is the corpus's own table of codes, where its labels are codes.

To be recognised by `ferdistill corpus describe` it also has `recognise(tree)`, which yields each `Layout` that it can
read and `LeftOut` for what it better does not, and `PRECEDENCE`: of copies the source of the lower number keeps its
own. Posed in a laboratory comes first (from 10), then labelled by many (40), by few (60), by unknown hands (90).
"""

import codecs
import csv
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path, PurePath, PurePosixPath
from typing import Literal, TextIO, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict

from ..errors import CheckError, clipped
from ..files import UNWRITABLE, require_few_columns, walk
from ..image_files import is_below, read_image
from .containers import CsvCell, Inside, read_inside
from .description import stays_inside

T = TypeVar("T")
OfficialSplit = Literal["train", "val", "test"]
SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"}
NOT_AN_IMAGE = "not an image"
# What sources call their parts, in whatever case.
PARTS: dict[str, OfficialSplit] = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "publictest": "val",
    "test": "test", "privatetest": "test",
}  # fmt: skip


class Options(BaseModel):
    """What corpus.yaml may say under `options` of a source; a module with options of its own derives from it."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True, slots=True)
class Record:
    """One image, or part of one, not yet decoded. Paths are POSIX and relative to the corpus directory.

    Attributes
    ----------
    path
        Its name in the index, unique in it. A row of a table is `table.csv#row`, counted from 0; one of several parts
        of an image is `image.jpg#number`.
    votes
        Annotators' votes by label; from `Labels.row`, shares of the votes for any class, by class, which sum to 1.
    """

    path: str
    label: str  # as the source has it, a code or a name; from `Labels.row`, a class of params.yaml; "" of none
    split: OfficialSplit | None  # the source's own, where it has one
    subject: str = ""  # who is shown, if the name tells; alike in all sources that show the same people, else prefixed
    image: str = ""  # the file
    inside: Inside | None = None  # where in that file, if it holds many
    box: tuple[int, int, int, int] | None = None  # left, top, and the first right and bottom outside, in upright pixels
    votes: Mapping[str, float] | None = None
    attributes: Mapping[str, str] | None = None  # what the source says of who is shown, by name: {"sex": "female"}
    voters: int | None = None  # how many votes these are shares of, where that is known; set by `Labels.row`


@dataclass(frozen=True)
class Dropped:
    """A row that a stated rule leaves out."""

    path: str
    reason: str


Row = Record | Dropped | CheckError


def unknown_label(code: str, codes: Mapping[str, str], where: str) -> CheckError:
    """The error of a code that a corpus's own table does not know."""
    return CheckError(
        f"unknown label {code!r}",
        where=where,
        expected=", ".join(f"{code} {name}" for code, name in codes.items()),
        hint="correct the row, take it out, or say under `classes` of this source in corpus.yaml which class it is",
    )


def part_of(text: str) -> OfficialSplit | None:
    """The official split that a source's name of a part stands for."""
    return PARTS.get(text.strip().lower())


def part_of_file(path: str) -> OfficialSplit | None:
    """The official split of a file of many images, by the first word of its name or by the folder that it lies in."""
    *above, name = path.split("/")
    return part_of(re.split(r"[-_.]", name)[0]) or (part_of(above[-1]) if above else None)


def whole_number(text: str) -> int:
    """The number, where `int` would also take `1_0` and other scripts' digits; ValueError if it is none."""
    if not re.fullmatch(r"-?[0-9]{1,9}", text.strip()):
        raise ValueError(f"not a whole number: {text!r}")
    return int(text)


def join(*parts: str) -> str:
    """A path as the index has it: POSIX, without a leading `./`."""
    return PurePosixPath(*parts).as_posix()


def wrong(what: str, where: str, expected: str) -> CheckError:
    """The error of one row or file of a source."""
    return CheckError(what, where=where, expected=expected, hint="correct it, or take it out of the corpus")


def parsed(found: Iterable[T | Dropped | CheckError], parse: Callable[[T], Row]) -> Iterator[Row]:
    """What `parse` makes of each row; a row that it raises an error on, or that is one or dropped already, as that."""
    for item in found:
        try:
            yield item if isinstance(item, Dropped | CheckError) else parse(item)
        except CheckError as error:
            yield error


def check_inside(name: str, where: str) -> None:
    """Refuse a listed path for which `stays_inside` is false."""
    if not stays_inside(name):
        expected = "a relative path with / between its parts and no `..`"
        raise wrong(f"a listed path leaves its folder, or is not POSIX: {name!r}", where, expected)


def check_once(name: str, where: str, place: str, first: dict[str, str]) -> None:
    """Refuse what an earlier row listed; `first` has the place of each name so far, and gets that of this one."""
    if name in first:
        where = f"{where}; first at {first[name]}"
        raise CheckError(f"a row twice: {name}", where=where, expected="one row", hint="take one of them out")
    first[name] = place


def belongs(file: Path, root: Path) -> bool:
    """Whether a file is the corpus's own once links are followed: below its folder, or in the repository's DVC cache.

    With `cache.type` symlink DVC puts links to its cache in a corpus.
    """
    if is_below(file, root):
        return True
    objects = _dvc_cache()
    return objects is not None and is_below(file, objects)


@cache
def _dvc_cache() -> Path | None:
    from ..tracking import dvc_private  # DVC takes a second, and few corpora hold links

    return dvc_private.local_cache()


def file_names(folder: Path) -> list[str]:
    """All files below a folder, as POSIX paths relative to it, in the order of these as text.

    Raises
    ------
    OSError
        If it is not a folder that can be listed.
    CheckError
        On a link to a folder, which would lead out of the corpus or in a circle, and on a name that cannot be written
        to a table.
    """
    found = []
    for entry in walk(folder):
        if entry.is_symlink() and Path(entry.path).is_dir():
            expected, hint = "folders of the corpus's own", "move or copy the folder here"
            raise CheckError("a link to a folder", where=clipped(ascii(entry.path)), expected=expected, hint=hint)
        if not entry.is_dir(follow_symlinks=False):
            found.append(PurePath(entry.path).relative_to(folder).as_posix())
    for name in found:
        if UNWRITABLE.search(name):
            raise CheckError(
                f"a file name that is not text: {clipped(ascii(name))}",
                where=str(folder),
                expected="UTF-8 without control characters or ends of lines",
                hint="rename the file",
            )
    return sorted(found)


def is_clutter(name: str) -> bool:
    """Whether a file, by its path, is one that a desktop leaves behind: hidden, `Thumbs.db`, `__MACOSX/...`."""
    parts = name.split("/")
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in parts)
    return hidden or parts[-1].lower() in {"thumbs.db", "desktop.ini"}


def has_image_suffix(name: str) -> bool:
    """Whether a file is an image that we read, by its name."""
    return PurePosixPath(name).suffix.lower() in SUFFIXES


def images_in(root: Path, path: str) -> Iterator[str | Dropped]:
    """Every file below `path`: an image by its path relative to `root`, what is none by its name as dropped."""
    for name in file_names(root / path):
        image = join(path, name)
        yield Dropped(image, NOT_AN_IMAGE) if is_clutter(name) or not has_image_suffix(name) else image


def containers_in(root: Path, path: str, suffix: str, what: str) -> Iterator[str | Dropped]:
    """The file `path`, or every file below it: by its path if its name has the suffix, else dropped as not `what`."""
    names = [join(path, name) for name in file_names(root / path)] if (root / path).is_dir() else [path]
    for name in names:
        yield Dropped(name, f"not {what}") if is_clutter(name) or not name.lower().endswith(suffix) else name


def labelled_images(
    root: Path, folder: str, labels: str, suffix: str, what: str
) -> Iterator[tuple[str, Path] | Dropped | CheckError]:
    """Of `folder`, every image in `images` with its file in `labels`, named after it but for `suffix`.

    An image without one is dropped as "unlabelled"; two images for one, and one without its image, are errors, in
    which `what` names it, as "a label file". An image is given by its path relative to `root`.
    """
    _, _, name_of = what.partition(" ")
    below = root / folder / labels
    present = {name for name in file_names(below) if name.endswith(suffix) and not is_clutter(name)}
    first: dict[str, str] = {}
    for name in file_names(root / folder / "images"):
        image = join(folder, f"images/{name}")
        if is_clutter(name) or not has_image_suffix(name):
            yield Dropped(image, NOT_AN_IMAGE)
            continue
        file = name.rpartition(".")[0] + suffix
        if file in first:
            yield CheckError(
                f"two images for one {name_of}: {first[file]} and {name}",
                where=str(below / file),
                expected=f"one image {what}",
                hint="take one of them out",
            )
            continue
        first[file] = name
        yield (image, below / file) if file in present else Dropped(image, "unlabelled")
    for file in sorted(present - first.keys()):
        yield CheckError(
            f"{what} without its image",
            where=str(below / file),
            expected=f"an image in {root / folder / 'images'}",
            hint=f"restore the image, or take the {name_of} out",
        )


def text_lines(file: Path) -> Iterator[tuple[int, str]]:
    """The lines of a text file that are not blank, stripped, each with its number, from 1."""
    for number, line in enumerate(file.read_text(encoding="utf-8-sig").split("\n"), start=1):
        if line.strip():
            yield number, line.strip()


def table_header(file: Path) -> list[str]:
    """Column names of a CSV, stripped of the blanks that some releases have around them; a CheckError at too many."""
    with file.open(newline="", encoding="utf-8-sig") as handle:
        names = [name.strip() for name in next(csv.reader(handle), [])]
    require_few_columns(len(names), file)
    return names


def table_rows(file: Path, columns: tuple[str, ...]) -> Iterator[tuple[int, list[str]] | CheckError]:
    """Of every data row of a CSV, its number, from 0, and its fields in the order of `columns`; see `located_rows`."""
    for found in located_rows(file, columns):
        yield found if isinstance(found, CheckError) else found[1:]


def located_rows(file: Path, columns: tuple[str, ...]) -> Iterator[tuple[int, int, list[str]] | CheckError]:
    """Of every data row of a CSV, its first byte, its number, from 0, and its fields in the order of `columns`.

    Blank lines are no rows. A row with too few or too many fields is yielded as the error that it is.

    Raises
    ------
    CheckError
        If a column is not there, or there twice, or there are too many.
    """
    header = table_header(file)
    if any(header.count(name) != 1 for name in columns):
        raise CheckError(
            "a table has not the columns of its layout",
            where=str(file),
            expected=f"columns {', '.join(columns)}; found {', '.join(header) or 'none'}",
            hint="correct `path` or `adapter` in corpus.yaml, or the table's first line",
        )
    places = [header.index(name) for name in columns]
    with file.open("rb") as binary:
        end = 3 if binary.read(3) == codecs.BOM_UTF8 else 0

    def lines(handle: TextIO) -> Iterator[str]:
        nonlocal end
        for line in handle:
            end += len(line) if line.isascii() else len(line.encode())
            yield line

    with file.open(newline="", encoding="utf-8-sig") as handle:
        table = csv_fields(lines(handle))
        next(table)
        row, start = 0, end
        for fields in table:
            if len(fields) == len(header):
                yield start, row, [fields[place] for place in places]
            elif fields:
                expected = f"{len(header)} fields, as in the first line"
                yield wrong(f"a row of {len(fields)} fields", f"{file}, data row {row}", expected)
            row, start = row + bool(fields), end


def csv_fields(lines: Iterator[str]) -> Iterator[list[str]]:
    """What `csv.reader` yields, in a third of its time where few lines hold a quotation mark."""
    for line in lines:
        if '"' in line:
            yield next(csv.reader(chain([line], lines)))
        else:
            text = line.rstrip("\r\n")
            yield text.split(",") if text else []


def decode(root: Path, record: Record) -> np.ndarray:
    """The pixels of a record: upright RGB, uint8, (H, W, 3).

    Raises
    ------
    CheckError
        If the image is missing, lies outside `root`, is not a whole image of a known kind, or does not hold the box.
    """
    content = None if record.inside is None else read_inside(root, record.image, record.inside, belongs)
    if content is not None and isinstance(record.inside, CsvCell):
        return _decode_text(content, f"{root / record.path}, column pixels".replace("#", ", data row "))
    pixels = read_image(root, record.image, belongs, content)
    if record.box is None:
        return pixels
    left, top, right, bottom = record.box
    height, width = pixels.shape[:2]
    if not (0 <= left < right <= width and 0 <= top < bottom <= height):
        raise wrong(
            f"a box outside its image: left {left}, top {top}, right {right}, bottom {bottom}",
            f"{root / record.image} ({record.path})",
            f"a box of at least one pixel within {width} x {height}",
        )
    return pixels[top:bottom, left:right]


def _decode_text(text: bytes, where: str) -> np.ndarray:
    side = 48
    try:
        values = np.array(list(map(int, text.decode().split())), dtype=np.int64)
    except (ValueError, OverflowError) as error:
        expected = "numbers from 0 to 255, separated by blanks"
        raise wrong(f"pixels are not whole numbers: {error}", where, expected) from None
    if values.size != side * side or values.min() < 0 or values.max() > 255:
        found = f"{values.size} pixel values" + (f" from {values.min()} to {values.max()}" if values.size else "")
        raise wrong(found, where, f"{side * side} whole numbers from 0 to 255")
    return np.repeat(values.astype(np.uint8).reshape(side, side, 1), 3, axis=2)
