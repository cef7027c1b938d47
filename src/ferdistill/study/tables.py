"""Printed tables of results, as the audit reads them: every number with the interval that its digits leave.

Whichever way round a file has its table, runs stand in the rows here.
"""

import csv
import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from markdown_it import MarkdownIt

from ..errors import UsageError
from ..files import require_few_columns

SCORES = ("macro_f1", "accuracy", "f1", "ece", "brier", "nll")
SUFFIXES = [".csv", ".json", ".markdown", ".md"]
MOST_BYTES = 2**24  # of a file
MOST_WORK = 500_000  # values of a file, and pairs of values to compare: half a minute
# Letters of a header; of a cell that is one number, or several. The patterns below may take the square of it.
LONGEST_NAME, LONGEST_NUMBER, LONGEST_LIST = 1_000, 100, 1_000

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
_NUMBER = re.compile(r"^([+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)\s*(%|pp|points)?(?:\s*(?:±.*|\(.*\)|\[.*\]))?$")
_INTERVAL = re.compile(r"[\[(]\s*(\S+?)\s*(?:,|;|–|—|\bto\b)\s*(\S+?)\s*[\])]$")
# Columns of these are scores, the first that fits.
_QUANTITIES = {
    "macro_f1": re.compile(r"\bmacro f1\b|\bf1 macro\b|\bmacro avg\b|^macro$"),
    "accuracy": re.compile(r"\b(acc|accuracy)\b"),
    "ece": re.compile(r"\b(ece|mce)\b"),
    "brier": re.compile(r"\bbrier\b"),
    "nll": re.compile(r"\bnll\b"),
    "t_star": re.compile(r"^t ?(\*|star)|^t star"),
    "f1": re.compile(r"\bf1\b"),
}
_SEVERAL = re.compile(r"\s+[/,]\s+")
_ENDS = re.compile(r"^(\S+)\s*(?:–|—|-|to|\.\.\.?|…)\s*(\S+)(?:\s*\(.*\))?$")


class Bounds(NamedTuple):
    """The numbers that a printed one may stand for."""

    low: float
    high: float

    def meets(self, other: "Bounds") -> bool:
        slack = 1e-11 * max(1.0, abs(self.low), abs(other.low))
        return self.low <= other.high + slack and other.low <= self.high + slack

    def scaled(self, factor: float) -> "Bounds":
        return Bounds(*sorted((self.low * factor, self.high * factor)))

    @staticmethod
    def mean(spans: Sequence["Bounds"]) -> "Bounds":
        """Of numbers that lie in these."""
        return Bounds(sum(span.low for span in spans) / len(spans), sum(span.high for span in spans) / len(spans))


@dataclass
class TableCell:
    """One cell, where it stands, and the number that it prints, if it is one."""

    text: str
    row: int | str
    column: str
    value: float | None = None
    span: Bounds = Bounds(0, 0)  # noqa: RUF009 - a tuple, which cannot change
    unit: str = ""

    @property
    def interval(self) -> tuple[Bounds, ...]:
        """The ends of an interval printed after the number, as `[0.97, 1.01]` or `(0.97 to 1.01)`."""
        bare = self.text.strip().strip("*_`").replace("−", "-")
        found = _INTERVAL.search(bare) if self.value is not None and len(bare) <= LONGEST_NUMBER else None
        parts = [parse(end) for end in found.groups()] if found else []
        return tuple(part[1] for part in parts if part) if None not in parts else ()


@dataclass
class TableRow:
    """One run, or one mean or difference of runs: its cells by column, and the texts that tell which it is."""

    cells: dict[str, TableCell]
    labels: dict[str, str]
    place: int | str
    role: str = "run"  # run, mean, range, difference, or other: the best, a standard deviation

    def prints(self, *columns: str) -> bool:
        """Whether it has a number in each of these."""
        return all(column in self.cells and self.cells[column].value is not None for column in columns)


@dataclass
class ResultTable:
    """A table with runs in its rows, whichever way round the file has it."""

    file: str
    columns: list[str]
    runs: list[TableRow] = field(default_factory=list)
    classes: Sequence[str] = ()
    work: int = 0

    def spend(self, work: int) -> None:
        """Count values to look at, and pairs of values to compare; a UsageError at more than `MOST_WORK`."""
        self.work += work
        require_work(self.work, self.file)

    def holds(self, column: str) -> str:
        """What a column holds, see `quantity`."""
        return quantity(column, self.classes)

    def numbers(self, column: str, *roles: str) -> list[TableCell]:
        """The cells of a column that print a number, in rows of these roles."""
        return [run.cells[column] for run in self.runs if run.role in roles and run.prints(column)]


def require_work(work: int, file: str) -> None:
    """Stop with a UsageError if a file is more than an audit can get through."""
    if work > MOST_WORK:
        raise UsageError(
            "too large to audit",
            where=file,
            expected=f"at most {MOST_WORK:,} values, and pairs that a difference, a mean or a range may be of",
            hint="audit fewer rows or columns at a time",
        )


def parse(text: str) -> tuple[float, Bounds, str] | None:
    """A printed number, the interval that its digits leave, and its unit (`%`, `pp` or none); None if it is not one.

    `~` and `≈` say that a number is not to be taken at its digits, so it is none here.
    """
    bare = text.strip().strip("*_`").replace("−", "-").replace("\u202f", " ").strip()
    found = _NUMBER.match(bare) if len(bare) <= LONGEST_NUMBER else None
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
    return value, Bounds(value - half, value + half), "pp" if found[2] == "points" else found[2] or ""


def listed(text: str) -> list[Bounds]:
    """The numbers of `λ=0.7/0.3: 71.30 / 71.43`; none if any is missing or approximate."""
    tail = text.rpartition(":")[2].strip()
    parts = [parse(part) for part in _SEVERAL.split(tail)] if len(tail) <= LONGEST_LIST else []
    return [part[1] for part in parts if part] if len(parts) > 1 and None not in parts else []


def ends(text: str) -> tuple[Bounds, Bounds] | None:
    """The two numbers of a printed range such as `70.19 – 70.76 (KD)`; None if it is not one."""
    bare = text.strip().strip("*")
    found = _ENDS.match(bare) if len(bare) <= LONGEST_NUMBER else None
    parts = [parse(part.strip("*")) for part in found.groups()] if found else []
    return (parts[0][1], parts[1][1]) if len(parts) == 2 and parts[0] and parts[1] else None


@lru_cache(10_000)
def plain(name: str) -> str:
    """A header in lower case, words apart."""
    return re.sub(r"[^a-z0-9Δ∆*]+", " ", name.lower().replace("λ", "lambda").replace("β", "beta")).strip()


def tells_apart(column: str) -> bool:
    """Whether a column only tells runs apart, as a seed or an epoch does."""
    return bool(IDENTITY.match(plain(column)))


def quantity(column: str, classes: Sequence[str] = ()) -> str:
    """What a column holds: macro_f1, accuracy, f1, ece, brier, nll, t_star, difference, or nothing known.

    A column named by a class alone holds its F1.
    """
    text = plain(column)
    if _DELTA.search(column.strip()) or text.startswith("optimism"):
        return "difference"
    if NOT_SCORES.search(text) or tells_apart(column):
        return ""
    found = next((name for name, pattern in _QUANTITIES.items() if pattern.search(text)), "")
    return found or ("f1" if text in map(plain, classes) else "")


def class_of(column: str, classes: Sequence[str]) -> tuple[str, str] | None:
    """The group of a per-class F1 column (`f1`, `best_test_f1`) and its class."""
    found = re.match(r"^((?:.*_)?f1)_(\w+)$", column)
    if found and not found[2].startswith("macro"):
        return found[1], found[2]
    text = plain(column)
    for name in classes:
        if text in (plain(name), f"{plain(name)} f1", f"f1 {plain(name)}"):
            return "f1", name
    return None


@lru_cache(10_000)
def says_percent(column: str) -> bool:
    """Whether a header says that its numbers are percent; `95 %` in it is a level."""
    return bool(re.search(r"%|\bpercent\b", re.sub(r"\d\s*%", "", column), re.I))


def is_percent(cell: TableCell) -> bool:
    """Whether a rate is in percent: said so, or above 1.5, which no fraction is and no result in percent is under."""
    return cell.unit == "%" or says_percent(cell.column) or (cell.value or 0) > 1.5


def files_of(path: Path) -> Iterator[Path]:
    """The file itself, or the CSV and JSON files under a directory, in order.

    A UsageError if there are none, or a file is missing or of another kind.
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


def read_csv(path: Path, classes: Sequence[str] = ()) -> list[ResultTable]:
    """The table of a CSV file; a UsageError if it is none."""
    reader = csv.reader(_text(path).splitlines(keepends=True), strict=True)
    try:
        lines = [(reader.line_num, row) for row in reader if row]
    except csv.Error as error:
        raise UsageError(f"not a CSV file: {error}", where=f"{path}, line {reader.line_num}") from None
    return [_result_table(path, lines, classes)]


def read_markdown(path: Path, classes: Sequence[str] = ()) -> list[ResultTable]:
    """Every table of pipes in a Markdown file; a UsageError if there is none."""
    found: list[ResultTable] = []
    rows: list[tuple[int, list[str]]] = []
    row: list[str] = []
    line = 0
    text = _text(path, MOST_BYTES // 8)  # it takes longer to parse
    require_few_columns(max((row.count("|") - 1 for row in text.splitlines()), default=0), path, UsageError)
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        if token.type == "tr_open":
            row, line = [], (token.map or [0])[0] + 1
        elif token.type == "inline":
            row.append("".join(child.content for child in token.children or [] if child.content))
        elif token.type == "tr_close":
            rows.append((line, row))
        elif token.type == "table_close":
            found.append(_result_table(path, rows, classes))
            rows = []
    if not found:
        raise UsageError("no table in a Markdown file", where=str(path), expected="a table of pipes: | a | b |")
    return found


def read_json(path: Path) -> Any:
    """What a JSON file holds; a UsageError if it is none."""
    try:
        return json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"not valid JSON: {error}", where=str(path)) from None


def read_metrics(path: Path, value: Any, classes: Sequence[str] = (), place: str = "") -> Iterator[ResultTable]:
    """Every object that holds numbers, as a table of one row, its per-class F1 among the columns."""
    if isinstance(value, list):
        for number, item in enumerate(value):
            yield from read_metrics(path, item, classes, f"{place}[{number}]")
        return
    if not isinstance(value, dict):
        return
    leaves: dict[str, Any] = {name: item for name, item in value.items() if not isinstance(item, (dict, list))}
    for name, item in value.items():
        inner = f"{place}.{name}".strip(".")
        if not isinstance(item, dict):
            yield from read_metrics(path, item, classes, inner)
        elif name.endswith("f1") and all(isinstance(number, (int, float)) for number in item.values()):
            leaves |= {f"{name}_{key}": number for key, number in item.items()}
        elif name == "per_class" and all(isinstance(one, dict) and "f1" in one for one in item.values()):
            leaves |= {f"f1_{key}": one["f1"] for key, one in item.items()}
        elif "optimism_macro_f1" in item and isinstance(value.get("test"), dict) and "macro_f1" in value["test"]:
            # Of the best test epoch, whose optimism is against the honest score beside it.
            yield from read_metrics(path, {**item, "macro_f1": value["test"]["macro_f1"]}, classes, inner)
        else:
            yield from read_metrics(path, item, classes, inner)
    if leaves:
        yield _json_row(path, leaves, classes, place)


def _result_table(path: Path, lines: list[tuple[int, list[str]]], classes: Sequence[str]) -> ResultTable:
    """A table with runs in rows. One that names classes or scores in its first column is turned.

    What stands under a header `Class` are classes, whether they were known or not.
    """
    lines = [(line, row) for line, row in lines if any(text.strip() for text in row)]
    if len(lines) < 2:
        raise UsageError("a table without rows", where=str(path), expected="a header and at least one row")
    header = [name.strip() for name in lines[0][1]]
    _check_header(header, path)
    for line, texts in lines[1:]:
        if len(texts) != len(header):
            where = f"{path}, line {line}"
            raise UsageError(f"{len(texts)} cells", where=where, expected=f"{len(header)}, as the header")
    require_work(len(lines) * len(header), str(path))
    header = [name if name not in header[:at] else f"{name} ({at + 1})" for at, name in enumerate(header)]
    rows = [[_cell(text, line, name) for name, text in zip(header, row, strict=True)] for line, row in lines[1:]]
    firsts = [row[0].text.strip().strip("*`") for row in rows]
    if plain(header[0]) in ("class", "label"):
        classes = [*classes, *(name for name in firsts if not (quantity(name) or MEAN.fullmatch(name)))]
    known = sum(bool(quantity(name, classes)) or bool(MEAN.fullmatch(name)) for name in firsts)
    distinct = len(header) > 1 and len(set(firsts)) == len(firsts)
    if distinct and known >= max(2, len(firsts) - 1):
        # A mean at the foot of a column of classes is their macro F1.
        macro = all(class_of(name, classes) or MEAN.fullmatch(name) or quantity(name) == "macro_f1" for name in firsts)
        names = ["macro F1" if macro and MEAN.fullmatch(name) else name for name in firsts]
        table = ResultTable(str(path), names, classes=classes)
        for at, name in enumerate(header[1:], start=1):
            by_name = {key: row[at] for key, row in zip(names, rows, strict=True)}
            if any(cell.text.strip() for cell in by_name.values()) and not NOT_SCORES.search(plain(name)):
                table.runs.append(TableRow(by_name, {"": name}, name, _role({"": name})))
        return _without_counts(table)
    table = ResultTable(str(path), header, classes=classes)
    for row in rows:
        labels = {
            cell.column: cell.text.strip().strip("*")
            for cell in row
            if cell.value is None or tells_apart(cell.column) or NOT_SCORES.search(plain(cell.column))
        }
        table.runs.append(TableRow({cell.column: cell for cell in row}, labels, row[0].row, _role(labels)))
    return _without_counts(table)


def _check_header(names: list[str], path: Path) -> None:
    require_few_columns(len(names), path, UsageError)
    if long := [name for name in names if len(name) > LONGEST_NAME]:
        found = f"a column's name of {len(long[0]):,} letters"
        raise UsageError(found, where=f"{path}: {long[0]}", expected=f"at most {LONGEST_NAME:,}")


def _without_counts(table: ResultTable) -> ResultTable:
    """The table less columns that a class alone names, if they hold counts: a class alone may also name its F1."""
    bare = [name for name in table.columns if plain(name) in map(plain, table.classes)]
    cells = [run.cells[name] for run in table.runs for name in bare if name in run.cells]
    others = {*table.columns, *(cell.column for cell in cells)} - set(bare)
    said = any(table.holds(name) in ("macro_f1", "f1") for name in others)
    if not said and any((cell.value or 0) > 1 for cell in cells):
        table.columns = [name for name in table.columns if name not in bare]
        for run in table.runs:
            run.cells = {name: cell for name, cell in run.cells.items() if name not in bare}
    return table


def _role(labels: dict[str, str]) -> str:
    for column, text in labels.items():
        if re.search(r"note|comment|description", column, re.I) or parse(text) or ends(text) or listed(text):
            continue
        for pattern, role in ((_DELTA, "difference"), (MEAN, "mean"), (RANGE, "range"), (_OTHER, "other")):
            if len(text) <= 40 and pattern.search(text):
                return role
    return "run"


def _cell(text: str, row: int | str, column: str) -> TableCell:
    return TableCell(text, row, column, *(parse(text) or ()))


def _json_row(path: Path, leaves: dict[str, Any], classes: Sequence[str], place: str) -> ResultTable:
    _check_header(list(leaves), path)
    bare = {name for name in leaves if plain(name) in map(plain, classes)}
    if not any(quantity(name) in ("macro_f1", "f1") for name in leaves.keys() - bare):
        leaves = {name: item for name, item in leaves.items() if name not in bare}  # something else of each class
    texts = {
        name: item if isinstance(item, str) else "" if item is None else repr(item).lower()
        for name, item in leaves.items()
    }
    cells = {name: _cell(text, place or "top", name) for name, text in texts.items()}
    return _without_counts(ResultTable(str(path), list(cells), [TableRow(cells, {}, place or "top")], classes))


def _text(path: Path, most: int = MOST_BYTES) -> str:
    try:
        if (size := path.stat().st_size) > most:
            raise UsageError(f"{size:,} bytes", where=str(path), expected=f"tables of at most {most:,}")
        return path.read_text(encoding="utf-8-sig")
    except (UnicodeDecodeError, OSError) as error:
        raise UsageError(f"unreadable: {error}", where=str(path), expected="text in UTF-8") from None
