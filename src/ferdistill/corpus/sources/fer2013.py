"""FER2013: `fer2013.csv` with columns emotion, pixels, Usage (Goodfellow et al., 2013)."""

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ...errors import CheckError
from . import OfficialSplit, Record

CODES = {0: "angry", 1: "disgust", 2: "fear", 3: "happy", 4: "sad", 5: "surprise", 6: "neutral"}
USAGE: dict[str, OfficialSplit] = {"Training": "train", "PublicTest": "val", "PrivateTest": "test"}
SIDE = 48


def read(root: Path, path: str, classes: list[str]) -> Iterator[Record]:
    """Yield every row; PublicTest is the validation part of the original challenge, PrivateTest its test."""
    with (root / path).open(newline="", encoding="utf-8-sig") as file:
        table = csv.DictReader(file)
        if table.fieldnames is None or not {"emotion", "pixels", "Usage"} <= set(table.fieldnames):
            raise CheckError(
                "not a FER2013 table",
                where=str(root / path),
                expected=f"columns emotion, pixels, Usage; found {table.fieldnames}",
            )
        for row, fields in enumerate(table):
            where = f"{root / path}, data row {row}"
            label = CODES.get(int(fields["emotion"])) if (fields["emotion"] or "").strip().isdecimal() else None
            if label not in classes:
                raise CheckError(
                    f"unknown label {fields['emotion']!r}",
                    where=f"{where}, column emotion",
                    expected=", ".join(f"{code} {name}" for code, name in CODES.items() if name in classes),
                    hint="correct the row, or take it out",
                )
            if fields["Usage"] not in USAGE:
                raise CheckError(
                    f"unknown Usage {fields['Usage']!r}",
                    where=f"{where}, column Usage",
                    expected=", ".join(USAGE),
                )
            try:
                values = np.array((fields["pixels"] or "").split(), dtype=np.int64)
            except (ValueError, OverflowError) as error:
                raise CheckError(f"pixels are not whole numbers: {error}", where=f"{where}, column pixels") from None
            if values.size != SIDE * SIDE or values.min() < 0 or values.max() > 255:
                raise CheckError(
                    f"{values.size} pixel values" + (f" from {values.min()} to {values.max()}" if values.size else ""),
                    where=f"{where}, column pixels",
                    expected=f"{SIDE * SIDE} values from 0 to 255",
                    hint="correct the row, or take it out",
                )
            grey = values.astype(np.uint8).reshape(SIDE, SIDE, 1)
            yield Record(f"{path}#{row}", str(label), USAGE[fields["Usage"]], np.repeat(grey, 3, axis=2))
