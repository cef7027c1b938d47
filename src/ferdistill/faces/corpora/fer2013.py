"""FER2013 (Goodfellow et al., 2013): one table with a row a face, `fer2013.csv`.

Kaggle's `icml_face_data.csv` is the same table with blanks in its first line. Its `train.csv` is the training part
without the column Usage, its `test.csv` holds pixels alone.
"""

from collections.abc import Iterator
from pathlib import Path

from ...data.containers import CsvCell
from ...data.labels import Labels
from ...data.layouts import Found, Layout, LeftOut, Tree, count_rows, last, parent
from ...data.sources import Dropped, Options, Record, Row, join, located_rows, parsed, part_of, table_header, wrong
from ...errors import CheckError

PRECEDENCE = 90
CODES = {"0": "angry", "1": "disgust", "2": "fear", "3": "happy", "4": "sad", "5": "surprise", "6": "neutral"}
USAGES = "Training, PublicTest, PrivateTest"
# Rows of the data set itself, and of its training part: of others that are laid out so, the codes may be anything.
RELEASED = {35_887, 28_709}


def rows(root: Path, path: str, labels: Labels, options: Options) -> Iterator[Row]:
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
    place = table_header(file).index("pixels")
    if columns == ("emotion", "pixels") and not file.name.lower().startswith("train"):
        raise CheckError(
            "a labelled table does not say which part it is",
            where=str(file),
            expected="a column Usage, or the name train.csv",
            hint="use fer2013.csv or icml_face_data.csv, which hold every part",
        )

    def row(located: tuple[int, int, list[str]]) -> Row:
        start, number, fields = located
        name, where = f"{join(path)}#{number}", f"{file}, data row {number}"
        if columns == ("pixels",):
            return Dropped(name, "unlabelled")
        usage = fields[2].strip() if "Usage" in columns else "Training"
        part = part_of(usage)
        if part is None:
            raise wrong(f"unknown Usage {usage!r}", f"{where}, column Usage", USAGES)
        record = Record(name, fields[0], part, image=join(path), inside=CsvCell(start, place))
        return labels.row(record, f"{where}, column emotion")

    return parsed(located_rows(file, columns), row)


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


def whole_tables(tree: Tree) -> dict[str, int]:
    """The tables of pixels that say which part each row is of, with their numbers of rows."""
    return {
        name: count_rows(tree.root / name)
        for name, header in tree.headers.items()
        if {"emotion", "pixels", "Usage"} <= set(header) and not _is_ckplus(name)
    }


def _is_ckplus(name: str) -> bool:
    return last(name).lower().startswith("ck")


def recognise(tree: Tree) -> Found:
    """Tables of pixels, but for parts and copies of one that is whole, and those that FER+ relabels."""
    whole = whole_tables(tree)
    seen = {item.path for item in tree.found}
    for name, header in tree.headers.items():
        if "pixels" not in header or name in seen:
            continue
        if _is_ckplus(name):
            yield LeftOut(name, "a table like FER2013's by its columns, of CK+ by its name: the codes differ")
            continue
        try:
            columns = table_columns(tree.root / name)
        except CheckError as error:
            yield LeftOut(name, error.what)
            continue
        beside = [other for other in whole if parent(other) == parent(name) and other != name]
        same = [other for other in beside if whole.get(name, 0) == whole[other] and _preferred(other, name)]
        if same:
            yield LeftOut(name, f"FER2013, with as many rows as {same[0]} beside it")
        elif name not in whole and beside:
            yield LeftOut(name, f"a part of FER2013, which is whole in {beside[0]}")
        elif columns == ("pixels",):
            yield LeftOut(name, "FER2013's pixels without labels")
        elif name not in whole and not last(name).lower().startswith("train"):
            yield LeftOut(name, "a table of FER2013's kind that does not say which part it is: no Usage, not train.csv")
        else:
            known = count_rows(tree.root / name) in RELEASED
            parts = "parts" if "Usage" in columns else "its name for the part"
            yield Layout(name, f"a table of pixels with labels and {parts}", positions=not known)


def _preferred(one: str, other: str) -> bool:
    return (last(one) != "fer2013.csv", one) < (last(other) != "fer2013.csv", other)
