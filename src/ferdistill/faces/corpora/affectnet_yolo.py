"""AffectNet in YOLO's layout (Kaggle): `{train,valid,test}/images/x.jpg` and `{train,valid,test}/labels/x.txt`.

A line is `class cx cy w h`, the box in shares of the image's width and height. Classes are in alphabetical order,
which is not AffectNet's own.
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from ... import yaml_file
from ...data import sources
from ...data.labels import Labels
from ...data.layouts import Found, Layout, LeftOut, Tree, last, parent
from ...data.sources import Dropped, OfficialSplit, Record, Row, belongs
from ...errors import CheckError, UsageError
from ...image_files import image_size
from . import EXPRESSIONS, expression, numbered

PRECEDENCE = 70

CODES = numbered(*EXPRESSIONS)
PARTS: dict[str, OfficialSplit] = {"train": "train", "valid": "val", "test": "test"}


class Options(sources.Options):
    """`crop` cuts out the face boxes; if false, an image with several faces is dropped as "several faces"."""

    crop: bool = True


def rows(root: Path, path: str, labels: Labels, options: Options) -> Iterator[Row]:
    """Yield every line of every image's label file; of several, face k is `image#k`, counted from 0.

    An image without a label file is dropped as "unlabelled", with an empty one as "no face".

    Raises
    ------
    CheckError
        If a `data.yaml` is there and names the classes in another order.
    """
    if (root / path / "data.yaml").exists():
        check_names(root / path / "data.yaml")

    def row(image: str, file: Path, split: OfficialSplit, first: dict[str, str], face: tuple[str, int, str]) -> Row:
        name, number, line = face
        where = f"{file}, line {number}"
        sources.check_once(line, where, f"line {number}", first)
        made = labels.row(Record(name, line.split()[0], split, image=image), where)
        box = _box(root, image, line, where)
        if isinstance(box, CheckError):
            return made if isinstance(made, CheckError) else box
        return replace(made, box=box if options.crop else None) if isinstance(made, Record) else made

    for part, split in PARTS.items():
        if not (root / path / part).exists():
            continue
        for found in sources.labelled_images(root, sources.join(path, part), "labels", ".txt", "a label file"):
            if not isinstance(found, tuple):
                yield found
                continue
            image, file = found
            lines = list(sources.text_lines(file))
            if not lines or (len(lines) > 1 and not options.crop):
                yield Dropped(image, "several faces" if lines else "no face")
                continue
            names = [f"{image}#{face}" if len(lines) > 1 else image for face in range(len(lines))]
            faces = ((name, number, line) for name, (number, line) in zip(names, lines, strict=True))
            yield from sources.parsed(faces, partial(row, image, file, split, {}))


def _box(root: Path, image: str, line: str, where: str) -> tuple[int, int, int, int] | CheckError:
    """The box of a line in whole pixels, its edges rounded to the nearest."""
    try:
        x, y, width, height = map(float, line.split()[1:])
        if not (0 <= x <= 1 and 0 <= y <= 1 and 0 < width <= 1 and 0 < height <= 1):
            raise ValueError
    except ValueError:
        return sources.wrong(f"not a YOLO line: {line!r}", where, "`class cx cy w h`, the last four from 0 to 1")
    try:
        across, down = image_size(root, image, belongs)
    except CheckError as error:
        return error
    edges = (x - width / 2) * across, (y - height / 2) * down, (x + width / 2) * across, (y + height / 2) * down
    left, top, right, bottom = (math.floor(edge + 0.5) for edge in edges)
    return left, top, right, bottom


def check_names(file: Path) -> None:
    """Check that a YOLO `data.yaml` names the classes in the order of `CODES`.

    Raises
    ------
    CheckError
        If it names others, or in another order, or cannot be read.
    """
    try:
        names = yaml_file.read(file)["names"]
        names = [names[key] for key in sorted(names)] if isinstance(names, dict) else names
        found = [expression(name) for name in names]
    except (UsageError, KeyError, TypeError, AttributeError):
        found = []
    if found != list(CODES.values()):
        raise CheckError(
            "the classes of a YOLO data set are not AffectNet's in alphabetical order",
            where=f"{file}, names",
            expected=", ".join(f"{code} {name}" for code, name in CODES.items()),
            hint="this is another data set, for which there is no adapter",
        )


def recognise(tree: Tree) -> Found:
    """Folders images and labels of a part; data.yaml, where it is there, must name these classes."""
    bases = {
        parent(part)
        for part in map(parent, tree.folders)
        if last(part) in PARTS and {sources.join(part, "labels"), sources.join(part, "images")} <= tree.folders
    }
    for base in sorted(bases):
        evidence = "images and labels/*.txt of train, valid, test"
        if sources.join(base, "data.yaml") not in tree.files:
            evidence += "; no data.yaml says whether the classes are AffectNet's, in alphabetical order: check it"
        else:
            try:
                check_names(tree.root / base / "data.yaml")
            except CheckError as error:
                yield LeftOut(base, error.what)
                continue
            evidence += "; data.yaml names the classes in alphabetical order, which is not AffectNet's own"
        yield Layout(base, evidence)
