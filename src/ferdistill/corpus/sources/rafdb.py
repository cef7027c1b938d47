"""RAF-DB basic, aligned: `EmoLabel/list_patition_label.txt` (sic) and `Image/aligned` (Li et al., CVPR 2017)."""

from collections.abc import Iterator
from pathlib import Path

from ...errors import CheckError
from . import OfficialSplit, Record, read_image

CODES = {1: "surprise", 2: "fear", 3: "disgust", 4: "happy", 5: "sad", 6: "angry", 7: "neutral"}
LIST = "EmoLabel/list_patition_label.txt"


def read(root: Path, path: str, classes: list[str]) -> Iterator[Record]:
    """Yield every listed image; the split is the part of the name before its number."""
    listing = root / path / LIST
    for row, line in enumerate(listing.read_text(encoding="utf-8-sig").splitlines()):
        where = f"{listing}, line {row + 1}"
        if not line.strip():
            continue
        name, _, code = line.strip().rpartition(" ")
        split: OfficialSplit = "train" if name.startswith("train_") else "test"
        if not name.endswith(".jpg") or not name.startswith(("train_", "test_")):
            raise CheckError(
                f"not a RAF-DB row: {line!r}",
                where=where,
                expected="`train_00001.jpg 5` or `test_0001.jpg 5`",
            )
        label = CODES.get(int(code)) if code.isdecimal() else None
        if label not in classes:
            raise CheckError(
                f"unknown label {code!r}",
                where=where,
                expected=", ".join(f"{code} {name}" for code, name in CODES.items() if name in classes),
                hint="correct the line, or take it out",
            )
        image = f"{path}/Image/aligned/{name.removesuffix('.jpg')}_aligned.jpg"
        yield Record(image, str(label), split, read_image(root, image))
