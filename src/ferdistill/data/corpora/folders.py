"""Class folders: `train/happy/x.png`, `test/happy/y.png`, or `happy/z.png` where there is no official split."""

from collections.abc import Iterator
from pathlib import Path

from ...errors import CheckError
from ..sources import (
    EXPRESSIONS,
    NOT_AN_IMAGE,
    SUFFIXES,
    Dropped,
    OfficialSplit,
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

SPLITS: dict[str, OfficialSplit] = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "publictest": "val",
    "test": "test", "privatetest": "test",
}  # fmt: skip


def read(root: Path, path: str, classes: list[str], options: Options) -> Iterator[Row]:
    """Yield every file, in the order of its path.

    What a desktop leaves behind is dropped as "not an image", and so is a file beside the class folders that is none
    by its name: a licence, a table. In a class folder such a file is an error, since it may be a face that cannot
    be read.
    """
    known = EXPRESSIONS | set(classes)
    for name in file_names(root / path):
        image = join(path, name)
        *above, folder = name.split("/")[:-1] or [""]
        label = class_name(folder)
        split = SPLITS.get(above[0].lower()) if above else None
        fits = label in known and (not above or (len(above) == 1 and split is not None))
        if is_clutter(name) or (not fits and not has_image_suffix(name)):
            yield Dropped(image, NOT_AN_IMAGE)
        elif not fits:
            yield CheckError(
                "a file outside the class folders",
                where=str(root / image),
                expected=f"[train|val|test]/CLASS/FILE with CLASS one of {', '.join(sorted(known))}",
                hint="move the file into its class folder, or out of the corpus",
            )
        elif not has_image_suffix(name):
            yield CheckError(
                "not an image by its name",
                where=str(root / image),
                expected=", ".join(sorted(SUFFIXES)),
                hint="convert the file, or move it out of the corpus",
            )
        else:
            yield labelled(Record(image, label, split, image=image), known, classes)
