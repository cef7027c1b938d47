"""Printed tables of results, as the audit reads them: every number with the interval that its digits leave.

Whichever way round a file has its table, runs stand in the rows here.
"""

import csv
import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from markdown_it import MarkdownIt

from ..errors import UsageError

CLASSES = ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")
SCORES = ("macro_f1", "accuracy", "f1", "ece", "brier", "nll")
SUFFIXES = [".csv", ".json", ".markdown", ".md"]

MEAN = re.compile(r"^(?:mean|average|avg)\b|[\s(\[:,_·|-](?:mean|average|avg)\b[^\w]*$", re.I)
RANGE = re.compile(r"\brange\b", re.I)
# Columns that tell runs apart, and columns that are no scores.
IDENTITY = re.compile(r"^(seeds?|epochs?|best epoch|best test epoch|n|run|id|rank|rows?|views|batch|pairs)$")
NOT_SCORES = re.compile(
    r"\b(lambda|alpha|beta|temperature|seed|latency|ms|params|parameters|size|bytes|mb|fps|images|support|counts?|total"
    r"|within bins)\b"
)
_DELTA = re.compile(
    r"^(Δ|∆|delta\b|diff\b|difference\b|gain\b|uplift\b|improvement\b)|\b(difference|delta)$|(Δ|∆)$"
    r"|(f1|accuracy|ece|brier|nll)_(rise|loss|drop)$",
    re.I,
)
_OTHER = re.compile(
    r"^(?:best|worst|max|min|median|std|sd|ci|total|sum)\b|[\s(\[:,_-](?:best|worst|max|min|median|std|sd)[)\]]?$", re.I
)
_NUMBER = re.compile(r"^([+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)\s*(%|pp|points)?(?:\s*(?:±.*|\(.*\)))?$")
# Columns of these are scores, the first that fits.
_QUANTITIES = {
    "macro_f1": re.compile(r"\bmacro f1\b|\bf1 macro\b|\bmacro avg\b|^macro$"),
    "accuracy": re.compile(r"\b(acc|accuracy)\b"),
    "ece": re.compile(r"\b(ece|mce)\b"),
    "brier": re.compile(r"\bbrier\b"),
    "nll": re.compile(r"\bnll\b"),
    "t_star": re.compile(r"^t ?(\*|star)|^t star"),
    "f1": re.compile(rf"\bf1\b|^({'|'.join(CLASSES)})$"),
}
_SEVERAL = re.compile(r"\s+[/,]\s+")
_ENDS = re.compile(r"^(\S+)\s*(?:–|—|-|to|\.\.\.?|…)\s*(\S+)(?:\s*\(.*\))?$")


class Span(NamedTuple):
    """The numbers that a printed one may stand for."""

    low: float
    high: float

    def meets(self, other: "Span") -> bool:
        slack = 1e-11 * max(1.0, abs(self.low), abs(other.low))
        return self.low <= other.high + slack and other.low <= self.high + slack

    def scaled(self, factor: float) -> "Span":
        return Span(*sorted((self.low * factor, self.high * factor)))


@dataclass
class Cell:
    """One cell, where it stands, and the number that it prints, if it is one."""

    text: str
    row: int | str
    column: str
    value: float | None = None
    span: Span = Span(0, 0)  # noqa: RUF009 - a tuple, which cannot change
    unit: str = ""


@dataclass
class Run:
    """One run, or one mean or difference of runs: its cells by column, and the texts that tell which it is."""

    cells: dict[str, Cell]
    labels: dict[str, str]
    place: int | str
    role: str = "run"  # run, mean, range, difference, or other: the best, a standard deviation


@dataclass
class Grid:
    """A table with runs in its rows, whichever way round the file has it."""

    file: str
    columns: list[str]
    runs: list[Run] = field(default_factory=list)


def parse(text: str) -> tuple[float, Span, str] | None:
    """A printed number, the interval that its digits leave, and its unit (`%`, `pp` or none); None if it is not one.

    `~` and `≈` say that a number is not to be taken at its digits, so it is none here.
    """
    bare = text.strip().strip("*_`").replace("−", "-").replace("\u202f", " ").strip()
    found = _NUMBER.match(bare)
    if not found:
        return None
    digits = found[1]
    value = float(digits)
    mantissa, _, exponent = digits.lower().partition("e")
    tail = mantissa.partition(".")[2]
    if math.isinf(value) or len(exponent) > 4:
        return None  # no result: a number that overflows, or an exponent that can only be a slip
    # A lone 0 after the point may be how a language prints a float that was rounded to a whole number.
    decimals = (0 if tail == "0" else len(tail)) - int(exponent or 0)
    half = 0.5 * 10.0**-decimals
    return value, Span(value - half, value + half), "pp" if found[2] == "points" else found[2] or ""


def listed(text: str) -> list[Span]:
    """The numbers of `λ=0.7/0.3: 71.30 / 71.43`; none if any is missing or approximate."""
    parts = [parse(part) for part in _SEVERAL.split(text.rpartition(":")[2].strip())]
    return [part[1] for part in parts if part] if len(parts) > 1 and None not in parts else []


def ends(text: str) -> tuple[Span, Span] | None:
    """The two numbers of a printed range such as `70.19 – 70.76 (KD)`; None if it is not one."""
    found = _ENDS.match(text.strip().strip("*"))
    parts = [parse(part.strip("*")) for part in found.groups()] if found else []
    return (parts[0][1], parts[1][1]) if len(parts) == 2 and parts[0] and parts[1] else None


def plain(name: str) -> str:
    """A header in lower case, words apart."""
    return re.sub(r"[^a-z0-9Δ∆*]+", " ", name.lower().replace("λ", "lambda").replace("β", "beta")).strip()


def quantity(column: str) -> str:
    """What a column holds: macro_f1, accuracy, f1, ece, brier, nll, t_star, difference, or nothing known."""
    text = plain(column)
    if _DELTA.search(column.strip()) or text.startswith("optimism"):
        return "difference"
    if NOT_SCORES.search(text) or IDENTITY.match(text):
        return ""
    return next((name for name, pattern in _QUANTITIES.items() if pattern.search(text)), "")


def class_of(column: str, classes: Sequence[str]) -> tuple[str, str] | None:
    """The group of a per-class F1 column (`f1`, `best_test_f1`) and its class."""
    found = re.match(r"^((?:.*_)?f1)_(\w+)$", column)
    if found and not found[2].startswith("macro"):
        return found[1], found[2]
    text = plain(column)
    for name in classes:
        if text in (name, f"{name} f1", f"f1 {name}"):
            return "f1", name
    return None


def says_percent(column: str) -> bool:
    """Whether a header says that its numbers are percent."""
    return "%" in column or bool(re.search(r"\bpercent\b", column, re.I))


def is_percent(cell: Cell) -> bool:
    """Whether a rate is in percent: said so, or above 1.5, which no fraction is and no result in percent is under."""
    return cell.unit == "%" or says_percent(cell.column) or (cell.value or 0) > 1.5


def files_of(path: Path) -> Iterator[Path]:
    """The file itself, or the CSV and JSON files under a directory, in order.

    Raises
    ------
    UsageError
        If there are none, or a file is missing or of another kind.
    """
    if path.is_dir():
        found = sorted(file for file in path.rglob("*") if file.suffix in (".csv", ".json") and file.is_file())
        if not found:
            raise UsageError("nothing to audit in a directory", where=str(path), expected="CSV or JSON files")
        yield from found
        return
    if not path.is_file():
        raise UsageError("a file is missing", where=str(path), expected="a CSV, Markdown or JSON file, or a directory")
    if path.suffix not in SUFFIXES:
        raise UsageError(f"cannot audit a `{path.suffix}` file", where=str(path), expected=f"one of {SUFFIXES}")
    yield path


def read_csv(path: Path) -> list[Grid]:
    """The table of a CSV file; a UsageError if it is none."""
    reader = csv.reader(_text(path).splitlines(keepends=True), strict=True)
    try:
        lines = [(reader.line_num, row) for row in reader if row]
    except csv.Error as error:
        raise UsageError(f"not a CSV file: {error}", where=f"{path}, line {reader.line_num}") from None
    return [_grid(path, lines)]


def read_markdown(path: Path) -> list[Grid]:
    """Every table of pipes in a Markdown file; a UsageError if there is none."""
    grids: list[Grid] = []
    rows: list[tuple[int, list[str]]] = []
    row: list[str] = []
    line = 0
    for token in MarkdownIt("commonmark").enable("table").parse(_text(path)):
        if token.type == "tr_open":
            row, line = [], (token.map or [0])[0] + 1
        elif token.type == "inline":
            row.append("".join(child.content for child in token.children or [] if child.content))
        elif token.type == "tr_close":
            rows.append((line, row))
        elif token.type == "table_close":
            grids.append(_grid(path, rows))
            rows = []
    if not grids:
        raise UsageError("no table in a Markdown file", where=str(path), expected="a table of pipes: | a | b |")
    return grids


def read_json(path: Path) -> Any:
    """What a JSON file holds; a UsageError if it is none."""
    try:
        return json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"not valid JSON: {error}", where=str(path)) from None


def read_metrics(path: Path, value: Any, place: str = "") -> Iterator[Grid]:
    """Every object that holds numbers, as a table of one row, its per-class F1 among the columns."""
    if isinstance(value, list):
        for number, item in enumerate(value):
            yield from read_metrics(path, item, f"{place}[{number}]")
        return
    if not isinstance(value, dict):
        return
    leaves: dict[str, Any] = {name: item for name, item in value.items() if not isinstance(item, (dict, list))}
    for name, item in value.items():
        inner = f"{place}.{name}".strip(".")
        if not isinstance(item, dict):
            yield from read_metrics(path, item, inner)
        elif name.endswith("f1") and all(isinstance(number, (int, float)) for number in item.values()):
            leaves |= {f"{name}_{key}": number for key, number in item.items()}
        elif name == "per_class" and all(isinstance(one, dict) and "f1" in one for one in item.values()):
            leaves |= {f"f1_{key}": one["f1"] for key, one in item.items()}
        elif name == "report_protocol" and isinstance(value.get("test"), dict) and "macro_f1" in value["test"]:
            # The report's protocol, whose optimism is against the honest score beside it.
            yield from read_metrics(path, {**item, "macro_f1": value["test"]["macro_f1"]}, inner)
        else:
            yield from read_metrics(path, item, inner)
    if leaves:
        yield _json_row(path, leaves, place)


def _grid(path: Path, lines: list[tuple[int, list[str]]]) -> Grid:
    """A table with runs in rows. One that names classes or scores in its first column is turned."""
    lines = [(line, row) for line, row in lines if any(text.strip() for text in row)]
    if len(lines) < 2:
        raise UsageError("a table without rows", where=str(path), expected="a header and at least one row")
    header = [name.strip() for name in lines[0][1]]
    for line, texts in lines[1:]:
        if len(texts) != len(header):
            where = f"{path}, line {line}"
            raise UsageError(f"{len(texts)} cells", where=where, expected=f"{len(header)}, as the header")
    header = [name if name not in header[:at] else f"{name} ({at + 1})" for at, name in enumerate(header)]
    rows = [[_cell(text, line, name) for name, text in zip(header, row, strict=True)] for line, row in lines[1:]]
    firsts = [row[0].text.strip().strip("*`") for row in rows]
    turned = (
        len(header) > 1
        and len(set(firsts)) == len(firsts)
        and sum(bool(quantity(name)) or bool(MEAN.fullmatch(name)) for name in firsts) >= max(2, len(firsts) - 1)
    )
    if turned:
        # A mean at the foot of a column of classes is their macro F1.
        macro = all(class_of(name, CLASSES) or MEAN.fullmatch(name) or quantity(name) == "macro_f1" for name in firsts)
        names = ["macro F1" if macro and MEAN.fullmatch(name) else name for name in firsts]
        grid = Grid(str(path), names)
        for at, name in enumerate(header[1:], start=1):
            by_name = {key: row[at] for key, row in zip(names, rows, strict=True)}
            if any(cell.text.strip() for cell in by_name.values()) and not NOT_SCORES.search(plain(name)):
                grid.runs.append(Run(by_name, {"": name}, name, _role({"": name})))
        return _without_counts(grid)
    grid = Grid(str(path), header)
    for row in rows:
        labels = {
            cell.column: cell.text.strip().strip("*")
            for cell in row
            if cell.value is None or (IDENTITY.match(plain(cell.column)) or NOT_SCORES.search(plain(cell.column)))
        }
        grid.runs.append(Run({cell.column: cell for cell in row}, labels, row[0].row, _role(labels)))
    return _without_counts(grid)


def _without_counts(grid: Grid) -> Grid:
    """The table less columns that a class alone names, if they hold counts: a class alone may also name its F1."""
    bare = [name for name in grid.columns if plain(name) in CLASSES]
    cells = [run.cells[name] for run in grid.runs for name in bare if name in run.cells]
    said = any(quantity(name) in ("macro_f1", "f1") for name in {*grid.columns, *(c.column for c in cells)} - set(bare))
    if not said and any((cell.value or 0) > 1 for cell in cells):
        grid.columns = [name for name in grid.columns if name not in bare]
        for run in grid.runs:
            run.cells = {name: cell for name, cell in run.cells.items() if name not in bare}
    return grid


def _role(labels: dict[str, str]) -> str:
    for column, text in labels.items():
        if re.search(r"note|comment|description", column, re.I) or parse(text) or ends(text) or listed(text):
            continue
        for pattern, role in ((_DELTA, "difference"), (MEAN, "mean"), (RANGE, "range"), (_OTHER, "other")):
            if len(text) <= 40 and pattern.search(text):
                return role
    return "run"


def _cell(text: str, row: int | str, column: str) -> Cell:
    found = parse(text)
    return Cell(text, row, column, *found) if found else Cell(text, row, column)


def _json_row(path: Path, leaves: dict[str, Any], place: str) -> Grid:
    bare = {name for name in leaves if plain(name) in CLASSES}
    if not any(quantity(name) in ("macro_f1", "f1") for name in leaves.keys() - bare):
        leaves = {name: item for name, item in leaves.items() if name not in bare}  # something else of each class
    cells = {name: _cell(_leaf(item), place or "top", name) for name, item in leaves.items()}
    return _without_counts(Grid(str(path), list(cells), [Run(cells, {}, place or "top")]))


def _leaf(item: Any) -> str:
    if item is None or isinstance(item, bool):
        return "" if item is None else str(item).lower()
    return item if isinstance(item, str) else repr(item)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (UnicodeDecodeError, OSError) as error:
        raise UsageError(f"unreadable: {error}", where=str(path), expected="text in UTF-8") from None
