"""A corpus directory, read through its `corpus.yaml` and the adapters it names."""

import csv
import importlib
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from pydantic import ValidationError

from ..cores import on_every_core
from ..errors import CheckError, UsageError, clipped
from ..files import walk
from ..params import explain
from ..progress import track
from .description import SourceDescription, adapters, read_description
from .labels import Labels, to_be_mapped
from .sources import Dropped, Record, Row, belongs, decode, has_image_suffix, table_header, table_rows

T = TypeVar("T")
Votes = tuple[dict[str, float] | None, int | None]  # as `Labels.shares` gives them
LEAVES = "a link that leaves the corpus directory"
ATTRIBUTE = re.compile(r"[A-Za-z0-9_]{1,40}")
CHUNK = 256  # images a worker decodes at a time
EACH = 8  # chunks that repay starting a process


def read_rows(corpus_dir: Path, classes: list[str]) -> Iterator[tuple[str, Row]]:
    """Yield (source name, row) for every row of every source, source by source; nothing is decoded.

    Raises
    ------
    UsageError, CheckError
        On a description or a source that cannot be read as a whole, a source with no row, or labels of which none is a
        class. A single row that cannot be read is yielded as the error that it is.
    """
    description = read_description(corpus_dir, classes)
    refuse_exits(corpus_dir)
    none_is_class = []
    labelled = False
    for source in description.sources:
        labels = labels_of(source, classes)
        for row in source_rows(
            corpus_dir,
            source,
            labels,
            (
                description.subjects,
                description.votes,
                description.attributes,
                description.corrections,
            ),
        ):
            labelled = labelled or (isinstance(row, Record) and row.label != "")
            yield source.name, row
        if labels.counts:
            none_is_class.append((source.name, labels))
    if none_is_class and not labelled:
        name, labels = none_is_class[0]
        raise CheckError(
            "none of the labels of the corpus is a class",
            where="; ".join(f"source `{of}`: {found.listed(found.without_class())}" for of, found in none_is_class),
            expected=f"labels out of {', '.join(classes)}",
            hint=f"source `{name}`: {to_be_mapped(labels.without_class())}",
        )


def labels_of(source: SourceDescription, classes: list[str]) -> Labels:
    """What the labels of a source mean among these classes."""
    codes = getattr(importlib.import_module(adapters()[source.adapter]), "CODES", {})
    return Labels(classes, source.classes, codes, synonyms())


def synonyms() -> dict[str, str]:
    """Words that name one class, each with the one that stands for all: `SYNONYMS` of every folder of adapters."""
    found: dict[str, str] = {}
    for package in sorted({module.rpartition(".")[0] for module in adapters().values()}):
        found |= getattr(importlib.import_module(package), "SYNONYMS", {})
    return found


def source_rows(
    corpus_dir: Path, source: SourceDescription, labels: Labels, tables: Sequence[str | None] = ()
) -> Iterator[Row]:
    """Yield every row of one source; raises as `read_rows` does."""
    adapter = importlib.import_module(adapters()[source.adapter])
    try:
        options = adapter.Options.model_validate(source.options)
    except ValidationError as error:
        raise UsageError(
            f"options of source `{source.name}` do not fit:\n" + explain(error, adapter.Options),
            where=str(corpus_dir / "corpus.yaml"),
            hint=f"see the options of the adapter `{source.adapter}` in docs/corpora.md",
        ) from None
    found = False
    try:
        for row in adapter.rows(corpus_dir, source.path, labels, options):
            # A source whose path is `.` meets these, and they are no rows of it.
            if not (isinstance(row, Dropped) and row.path in ("corpus.yaml", *tables)):
                found = True
                yield row
    except OSError as error:
        raise CheckError(
            f"source `{source.name}` has not the {source.adapter} layout: {error.strerror}",
            where=str(error.filename),
            hint="`ferdistill corpus describe` says what lies there; correct `path` or `adapter` in corpus.yaml",
        ) from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise CheckError(
            f"source `{source.name}` cannot be read: {error}",
            where=str(corpus_dir / source.path),
            expected=f"tables and lists of the {source.adapter} layout, as text in UTF-8",
            hint="restore the file that is damaged, or save it as UTF-8",
        ) from None
    if not found:
        raise CheckError(
            f"source `{source.name}` is empty",
            where=str(corpus_dir / source.path),
            expected="at least one image",
            hint="put the images in, or take the source out of corpus.yaml",
        )


def refuse_exits(root: Path) -> None:
    """Refuse links out of the corpus, and what is neither file nor folder, but for images: `read_image` sees to these.

    A list of labels that is a link could have any file's lines quoted in a report; a pipe is never read to its end.
    Links into the repository's DVC cache are DVC's own.
    """
    for entry in walk(root):
        if entry.is_dir(follow_symlinks=False) or entry.is_file(follow_symlinks=False) or has_image_suffix(entry.name):
            continue
        if entry.is_symlink() and not belongs(Path(entry.path), root):
            raise _not_here(LEAVES, entry.path, root)
        if not entry.is_symlink():
            raise _not_here("neither a file nor a folder", entry.path, root)


def _not_here(what: str, path: str, root: Path) -> CheckError:
    return CheckError(
        what,
        where=clipped(ascii(path)),
        expected=f"files and folders below {root}",
        hint="copy what it stands for into the corpus, or take it out",
    )


def records_by_path(corpus_dir: Path, classes: list[str]) -> dict[str, Record]:
    """Every image that the sources list, by its path; raises as `read_rows` does."""
    return {row.path: row for _, row in read_rows(corpus_dir, classes) if isinstance(row, Record)}


def map_images(
    function: Callable[[np.ndarray], T],
    corpus_dir: Path,
    records: Sequence[Record],
    description: str,
    workers: int | None = None,
) -> Iterator[T | CheckError]:
    """Decode images and yield `function(pixels)` of each, in the order of `records`.

    Parameters
    ----------
    function
        Takes pixels, RGB uint8 (H, W, 3). Worker processes must be able to import it.
    workers
        Processes, at least 1. If None, one a core where there are enough images to repay starting them. The results
        do not depend on it.

    Yields
    ------
    T or CheckError
        What `function` returned, or the error of an image that cannot be decoded.
    """
    chunks = [records[start : start + CHUNK] for start in range(0, len(records), CHUNK)]
    results = on_every_core(partial(_map_chunk, function, corpus_dir), chunks, EACH, workers)
    yield from track((result for chunk in results for result in chunk), description, total=len(records))


def _map_chunk(
    function: Callable[[np.ndarray], T], corpus_dir: Path, records: Sequence[Record]
) -> list[T | CheckError]:
    found: list[T | CheckError] = []
    for record in records:
        try:
            found.append(function(decode(corpus_dir, record)))
        except CheckError as error:
            found.append(error)
    return found


def read_subjects(corpus_dir: Path) -> dict[str, str]:
    """Path -> subject, from the table that `corpus.yaml` names; empty where it names none."""
    file = _table(corpus_dir, read_description(corpus_dir).subjects, "subjects", ["subject"])
    return {path: subject for path, _, (subject,) in _by_path(file, "subjects", ("subject",))} if file else {}


def read_votes(corpus_dir: Path, classes: list[str]) -> dict[str, Votes]:
    """Path -> annotators' votes, from the table that `corpus.yaml` names; empty where it names none.

    It has a column for each class, by its name or a synonym, and perhaps others, as for votes that nothing is shown. A
    row holds numbers of votes or shares of them. One whose votes are all 0 stands for an image without votes.
    """
    file = _table(corpus_dir, read_description(corpus_dir).votes, "votes", classes)
    if file is None:
        return {}
    labels = Labels(classes, {}, {}, synonyms())
    header = [column for column in table_header(file) if column != "path"]
    lacking = sorted(set(classes) - {labels.class_of(column) for column in header})
    if lacking:
        raise CheckError(
            f"a table of votes without {', '.join(lacking)}",
            where=f"{file}: {', '.join(header)}",
            expected=f"columns path, {', '.join(classes)}",
        )
    found: dict[str, Votes] = {}
    for path, where, cells in _by_path(file, "votes", tuple(header)):
        try:
            votes = dict(zip(header, map(float, cells), strict=True))
            if not all(0 <= vote < float("inf") for vote in votes.values()):
                raise ValueError
        except ValueError:
            expected = "numbers of votes, or shares of them, of at least 0"
            raise CheckError(f"no votes: {', '.join(cells)}", where=where, expected=expected) from None
        found[path] = labels.shares(votes)
    return found


def read_attributes(corpus_dir: Path) -> dict[str, dict[str, str]]:
    """Path -> attribute -> value, from the table that `corpus.yaml` names; empty where it names none.

    It has columns path, attribute and value, a row each; a name is of letters, digits and underscores, as it becomes
    part of a column's. An empty value says nothing. Two rows of one path and attribute must agree.
    """
    columns = ("attribute", "value")
    file = _table(corpus_dir, read_description(corpus_dir).attributes, "attributes", list(columns))
    found: dict[str, dict[str, str]] = {}
    for path, where, (name, value) in _rows(file, "attributes", columns) if file else ():
        if not ATTRIBUTE.fullmatch(name) or value != value.strip():
            expected = "a name of at most 40 letters, digits and underscores, and a value without blanks around it"
            raise CheckError(f"no attribute: {name!r}, {value!r}", where=where, expected=expected)
        if value and found.setdefault(path, {}).setdefault(name, value) != value:
            raise CheckError(
                f"attributes that contradict each other: {name} of {path} is {found[path][name]}, and {value}",
                where=where,
                expected="one value",
                hint="take one of the rows out",
            )
    return found


class Correction(NamedTuple):
    """What a person decided of a label."""

    was: str  # the class that the label was, and still must be
    label: str  # the class that it is, or "" if the image is to be left out
    by: str  # who decided


def read_corrections(corpus_dir: Path, classes: list[str]) -> dict[str, Correction]:
    """Path -> correction, from the table that `corpus.yaml` names; empty where it names none.

    It has columns path, was, label (empty: the image is left out) and by.
    """
    columns = ("was", "label", "by")
    file = _table(corpus_dir, read_description(corpus_dir).corrections, "corrections", list(columns))
    found = {}
    for path, where, (was, label, by) in _by_path(file, "corrections", columns) if file else ():
        if was not in classes or label not in (*classes, "") or was == label or not by.strip():
            raise CheckError(
                f"no correction: from {was!r} to {label!r}, by {by!r}",
                where=where,
                expected=f"two classes, or one and nothing, out of {', '.join(classes)}; and who says so",
            )
        found[path] = Correction(was, label, by.strip())
    return found


def _table(corpus_dir: Path, name: str | None, what: str, columns: list[str]) -> Path | None:
    """The file of a table that `corpus.yaml` names, if it names one."""
    if name is None:
        return None
    file = corpus_dir / name
    if not file.is_file():
        expected = f"columns path, {', '.join(columns)}"
        raise UsageError(f"the table of {what} is missing", where=str(file), expected=expected)
    if not belongs(file, corpus_dir):
        raise _not_here(LEAVES, str(file), corpus_dir)  # one that is named as an image is was passed over
    return file


def _by_path(file: Path, what: str, columns: tuple[str, ...]) -> Iterator[tuple[str, str, list[str]]]:
    """Each row of `_rows`, none of which has the path of another."""
    seen: set[str] = set()
    for path, where, cells in _rows(file, what, columns):
        if path in seen:
            raise CheckError(f"a path has two rows: {path}", where=where, expected="one row a path")
        seen.add(path)
        yield path, where, cells


def _rows(file: Path, what: str, columns: tuple[str, ...]) -> Iterator[tuple[str, str, list[str]]]:
    """Each row of a table of the corpus's: its path, where it stands, and these columns."""
    try:
        rows = list(table_rows(file, ("path", *columns)))
    except (csv.Error, UnicodeDecodeError, OSError) as error:
        raise CheckError(f"not a table of {what}: {error}", where=str(file), expected="a CSV in UTF-8") from None
    for found in rows:
        if isinstance(found, CheckError):
            raise found
        row, (path, *cells) = found
        yield path, f"{file}, data row {row}", cells
