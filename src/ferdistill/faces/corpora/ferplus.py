"""FER+ (Barsoum et al., 2016): ten annotators' votes for each row of FER2013, `fer2013new.csv`.

It holds no pictures: row i is about row i of FER2013's own table, so the two must be whole and in their first order.
"""

from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Literal

from ...data import sources
from ...data.containers import CsvCell
from ...data.description import SafePath
from ...data.labels import Labels
from ...data.layouts import Found, Layout, LeftOut, Tree, count_rows, last, parent
from ...data.sources import Dropped, Record, Row
from ...errors import CheckError
from . import fer2013

PRECEDENCE = 50
# The columns of votes.
CODES = {
    "neutral": "neutral", "happiness": "happy", "surprise": "surprise", "sadness": "sad", "anger": "angry",
    "disgust": "disgust", "fear": "fear", "contempt": "contempt", "unknown": "unknown", "NF": "no face",
}  # fmt: skip
# The column that FER2013's own code names.
OPINIONS = {code: next(c for c, name in CODES.items() if name == of) for code, of in fer2013.CODES.items()}


class Options(sources.Options):
    """FER2013's own table, relative to the corpus directory, and how votes become a label: see `rows`."""

    fer2013: SafePath
    label: Literal["majority", "plurality"] = "majority"


def rows(root: Path, path: str, labels: Labels, options: Options) -> Iterator[Row]:
    """Yield every row, with its votes.

    The votes are for ten columns: eight expressions, unknown, and no face. Under "majority", as in Microsoft's own
    reader, a column with a single vote counts as none, and the label is the column with more than half of the votes
    that remain; without one the row is dropped as "no majority". Under "plurality" it is the column with the most
    votes. A tie goes to the one that FER2013's own label names, which is one more opinion, where the order of the
    columns would favour neutral; if it names none of them the row is dropped as "tie".

    A row whose image name is blank is dropped as "no face", other labels that are no class of ours by their name.

    Raises
    ------
    CheckError
        If the two tables differ in length or, in any row, in Usage: they are out of step, and no row can be trusted.
    """
    pixels_file, file = root / options.fer2013, root / path
    _check_in_step(pixels_file, file)
    place = sources.table_header(pixels_file).index("pixels")
    first: dict[str, str] = {}

    def row(pair: tuple[int, int, str, list[str]]) -> Row:
        number, start, emotion, (usage, image, *cells) = pair
        name, where = f"{sources.join(path)}#{number}", f"{file}, data row {number}"
        image = image.strip()
        if image:
            sources.check_once(image, where, f"data row {number}", first)
        try:
            votes = {column: sources.whole_number(cell) for column, cell in zip(CODES, cells, strict=True)}
            part = sources.part_of(usage)
            if part is None or min(votes.values()) < 0:
                raise ValueError
        except ValueError:
            expected = f"Usage one of {fer2013.USAGES}, and a whole number of votes in each column"
            raise sources.wrong(f"not a row of votes: {usage}, {', '.join(cells)}", where, expected) from None
        opinion = OPINIONS.get(emotion.strip())
        if opinion is None:
            raise sources.unknown_label(emotion, fer2013.CODES, f"{pixels_file}, data row {number}, column emotion")
        label = _label(votes, options.label, opinion) if image else "NF"
        if label not in CODES:
            return Dropped(name, label)
        face = CsvCell(start, place)
        return labels.row(Record(name, label, part, image=options.fer2013, inside=face, votes=votes), where)

    yield from sources.parsed(_pairs(pixels_file, file), row)


def _pairs(pixels_file: Path, file: Path) -> Iterator[tuple[int, int, str, list[str]] | CheckError]:
    """Yield every row's number, its face's first byte and label, and its votes; and what is wrong in either table."""
    votes_rows = sources.table_rows(file, ("Usage", "Image name", *CODES))
    pairs = zip(sources.located_rows(pixels_file, ("emotion", "pixels")), votes_rows, strict=True)
    for number, (face, votes) in enumerate(pairs):
        if isinstance(face, CheckError) or isinstance(votes, CheckError):
            yield from (found for found in (face, votes) if isinstance(found, CheckError))
        else:
            yield number, face[0], face[2][0], votes[1]


def _label(votes: dict[str, int], rule: str, opinion: str) -> str:
    """The column that the rule names, or the reason why it names none."""
    if rule == "majority":
        votes = {name: count for name, count in votes.items() if count > 1}
        return next((name for name, count in votes.items() if 2 * count > sum(votes.values())), "no majority")
    best = [name for name, count in votes.items() if count == max(votes.values())]
    if max(votes.values()) == 0:
        return "no votes"
    return best[0] if len(best) == 1 else opinion if opinion in best else "tie"


def _check_in_step(pixels_file: Path, file: Path) -> None:
    pairs = zip_longest(
        sources.table_rows(pixels_file, ("emotion", "pixels", "Usage")), sources.table_rows(file, ("Usage",))
    )
    for row, (face, votes) in enumerate(pairs):
        if face is None or votes is None:
            difference = f"{(pixels_file if votes is None else file).name} has more rows"
        elif isinstance(face, CheckError) or isinstance(votes, CheckError):
            continue
        elif face[1][2].strip() != votes[1][0].strip():
            difference = f"Usage {votes[1][0]} beside {face[1][2]}"
        else:
            continue
        raise CheckError(
            f"two tables are out of step: {difference}",
            where=f"{file}, data row {row}",
            expected=f"a row for each row of {pixels_file}, in its order",
            hint="restore both tables as they were released: they are joined by the order of their rows",
        )


def recognise(tree: Tree) -> Found:
    """Tables of votes, each with a table of pixels of as many rows."""
    whole = fer2013.whole_tables(tree)
    for name, header in tree.headers.items():
        if not {"Usage", "Image name", "NF"} <= set(header):
            continue
        count = count_rows(tree.root / name)
        fitting = [table for table, rows in whole.items() if rows == count]
        if not fitting:
            yield LeftOut(name, f"FER+, but there is no whole FER2013 table of {count:,} rows, as fer2013.csv is")
            continue
        table = min(fitting, key=lambda table: (parent(table) != parent(name), last(table) != "fer2013.csv", table))
        yield Layout(name, f"votes for the {count:,} rows of {table}", {"fer2013": table})
        reason = "FER2013; FER+ relabels the same images, and copies that disagree would all be dropped"
        yield from (LeftOut(other, reason) for other in fitting)
