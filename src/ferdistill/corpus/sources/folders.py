"""Class folders: `train/happy/x.png`, `test/happy/y.png`, or `happy/z.png` where there is no official split."""

from collections.abc import Iterator
from pathlib import Path

from ...errors import CheckError
from . import OfficialSplit, Record, read_image

SPLITS: dict[str, OfficialSplit] = {
    "train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test",
}  # fmt: skip
SYNONYMS = {
    "anger": "angry", "disgusted": "disgust", "fearful": "fear", "happiness": "happy", "sadness": "sad",
    "surprised": "surprise",
}  # fmt: skip
SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"}


def read(root: Path, path: str, classes: list[str]) -> Iterator[Record]:
    """Yield every file, in the order of its path."""
    base = root / path
    for file in sorted(base.rglob("*"), key=lambda file: file.relative_to(base).as_posix()):
        relative = file.relative_to(base)
        if file.is_dir() or any(part.startswith(".") for part in relative.parts):
            continue
        *above, folder, _ = ("", *relative.parts)
        label = SYNONYMS.get(folder.lower(), folder.lower())
        split = SPLITS.get(above[-1].lower()) if len(above) > 1 else None
        if label not in classes or (len(above) > 1 and split is None) or len(above) > 2:
            raise CheckError(
                "a file outside the class folders",
                where=str(file),
                expected=f"[train|val|test]/CLASS/FILE with CLASS one of {classes}",
                hint="move the file into its class folder, or out of the corpus",
            )
        if file.suffix.lower() not in SUFFIXES:
            raise CheckError(
                f"not an image by its name ({file.suffix or 'no suffix'})",
                where=str(file),
                expected=", ".join(sorted(SUFFIXES)),
                hint="move the file out of the corpus",
            )
        name = f"{path}/{relative.as_posix()}"
        yield Record(name, label, split, read_image(root, name))
