"""FER2013 (Goodfellow et al., 2013): one table with a row a face, `fer2013.csv`.

Kaggle's `icml_face_data.csv` is the same table with blanks in its first line. Its `train.csv` is the training part
without the column Usage, its `test.csv` holds pixels alone.
"""

from collections.abc import Iterator
from pathlib import Path

from ...data.sources import (
    Dropped,
    OfficialSplit,
    Options,
    Record,
    Row,
    join,
    label_of,
    labelled,
    table_header,
    table_rows,
)
from ...errors import CheckError

CODES = {"0": "angry", "1": "disgust", "2": "fear", "3": "happy", "4": "sad", "5": "surprise", "6": "neutral"}
USAGE: dict[str, OfficialSplit] = {"Training": "train", "PublicTest": "val", "PrivateTest": "test"}


def read(root: Path, path: str, classes: list[str], options: Options) -> Iterator[Row]:
    """Yield every row; PublicTest is the validation part of the original challenge, PrivateTest its test.

    A row without a label is dropped as "unlabelled".

    Raises
    ------
    CheckError
        If the columns are not those of a known form, or if labels without Usage are in a table that is not named
        `train...`: nothing then tells which part it is.
    """
    file = root / path
    columns = table_columns(file)
    if columns == ("emotion", "pixels") and not file.name.lower().startswith("train"):
        raise CheckError(
            "a labelled table does not say which part it is",
            where=str(file),
            expected="a column Usage, or the name train.csv",
            hint="use fer2013.csv or icml_face_data.csv, which hold every part",
        )
    table, known = join(path), set(CODES.values())
    for found in table_rows(file, columns):
        if isinstance(found, CheckError):
            yield found
            continue
        row, fields = found
        name = f"{table}#{row}"
        if columns == ("pixels",):
            yield Dropped(name, "unlabelled")
            continue
        label = label_of(fields[0], CODES, f"{file}, data row {row}, column emotion")
        usage = fields[2].strip() if "Usage" in columns else "Training"
        if isinstance(label, CheckError):
            yield label
        elif usage not in USAGE:
            yield CheckError(
                f"unknown Usage {usage!r}",
                where=f"{file}, data row {row}, column Usage",
                expected=", ".join(USAGE),
                hint="correct the row, or take it out",
            )
        else:
            yield labelled(Record(name, label, USAGE[usage], pixels=fields[1]), known, classes)


def table_columns(file: Path) -> tuple[str, ...]:
    """Which of the known forms a table of pixels has: its columns among emotion, pixels and Usage.

    Raises
    ------
    CheckError
        If it has none of them.
    """
    header = table_header(file)
    if {"emotion", "pixels", "Usage"} <= set(header):
        return ("emotion", "pixels", "Usage")
    if sorted(header) == ["emotion", "pixels"] or header == ["pixels"]:
        return tuple(sorted(header))
    raise CheckError(
        "not a FER2013 table",
        where=str(file),
        expected=f"columns emotion, pixels, Usage; found {', '.join(header) or 'none'}",
        hint="correct `path` or `adapter` in corpus.yaml",
    )
