"""Do the numbers of a result table agree with each other?

Every printed number stands for an interval: 0.7226 for [0.72255, 0.72265]. What follows from the others (a mean, a
range, a difference) is computed on intervals too, and only a printed number whose interval cannot meet that of its
recomputation is a finding. So no rounding, however coarse, accuses an honest table.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import combinations, dropwhile, product, takewhile
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from .. import params
from ..errors import UsageError
from . import recipes, tables
from .tables import MEAN, NOT_SCORES, RANGE, SCORES, Bounds, ResultTable, TableCell, TableRow, tells_apart

KINDS = {
    "macro_f1": "the macro F1 is not the mean of its per-class F1",
    "mean": "a mean does not recompute",
    "range": "a range does not recompute",
    "difference": "a difference does not recompute",
    "identical_runs": "runs that should differ are identical to the last digit",
    "grid_edge": "T* is at the edge of its grid",
    "selected_on_test": "the best epoch was chosen on the test set",
    "out_of_range": "a value that its quantity cannot have",
    "mixed_units": "fractions and percent in one place",
}
# Two runs differ by at least about this much in any score (standard deviation, as a fraction). Identical runs are a
# finding where chance would make them so in fewer than one of a million tables.
NOISE, CHANCE = 0.001, 1e-6
DIFFERING = "runs that differ in some digit"

_GENERAL = re.compile(r"\b(?:mean|average|avg|range|over|of|all|overall|grand|seeds?|runs?|rows?|n|\d+)\b|[\W_]+", re.I)


class Finding(NamedTuple):
    """One thing that is wrong. `row` is a line of the file, or the place in a JSON file; `kind` is of `KINDS`."""

    file: str
    row: int | str
    column: str
    kind: str
    found: str
    expected: str


class Audit(NamedTuple):
    """What is wrong, in the order of files and rows, and how many values of each file were judged by each kind."""

    findings: list[Finding]
    checked: dict[str, Counter[str]]


# What a check yields of each value that it can judge: a finding, or the kind by which nothing is wrong with it.
Judged = Finding | str
Check = Callable[[ResultTable], Iterator[Judged]]


def audit(paths: Sequence[Path | str], *, classes: Sequence[str] = (), grid: Sequence[float] = ()) -> Audit:
    """Check result tables for what cannot be true of them.

    Parameters
    ----------
    paths : sequence of paths
        CSV files, Markdown files with tables, JSON files of metrics, or directories of these.
    classes : sequence of str
        A macro F1 is checked where F1 is given for each of these, or for every `f1_<class>` of the table. A column
        named by one of these alone holds its F1; none by default, but for what stands under a header `Class`.
    grid : sequence of float
        The grid that T* was chosen from, where all T* of a table lie on it. Without one, `grid_at_edge` alone tells.

    Raises
    ------
    UsageError
        If a file is not there, cannot be read, or holds no table; a directory holds no such file; or no check applies
        to anything that a path holds.
    """
    findings: dict[Finding, None] = {}  # an ordered set: a file may be named twice
    checked: dict[str, Counter[str]] = {}
    work: Counter[str] = Counter()
    checks: list[Check] = [*CHECKS, partial(_check_grid_edge, grid=grid)]
    for path in paths:
        files = list(tables.files_of(Path(path)))
        judged: dict[str, list[Judged]] = {str(file): [] for file in files}
        metrics: dict[Path, tuple[Any, list[ResultTable]]] = {}
        for file in files:
            if file.suffix == ".json":
                value = tables.read_json(file)
                found = list(tables.read_metrics(file, value, classes))
                metrics[file] = value, found
            else:
                found = tables.read_csv(file, classes) if file.suffix == ".csv" else tables.read_markdown(file, classes)
            work[str(file)] += sum(10 + len(run.cells) for table in found for run in table.runs)
            tables.require_work(work[str(file)], str(file))
            for table in found:
                judged[str(file)] += [one for check in checks for one in check(table)]
                work[str(file)] += table.work
                tables.require_work(work[str(file)], str(file))
        for file, twin in _identical_files(metrics):
            judged[str(file)].append(twin)
        if not any(judged.values()):
            raise UsageError(
                "nothing was checked: no check applies to what is there",
                where=str(path),
                expected="a score by its name (macro_f1, accuracy, f1_<class> or a class, ece, brier, nll), T*, "
                "grid_at_edge, or a mean, a range or a difference beside the values that it is of",
                hint="rename the columns, or audit another file",
            )
        for name, results in judged.items():
            counts = Counter(one if isinstance(one, str) else one.kind for one in results)
            checked[name] = checked.get(name, Counter()) | counts
            findings |= dict.fromkeys(one for one in results if not isinstance(one, str))
    return Audit(list(findings), checked)


def _check_units_and_ranges(table: ResultTable) -> Iterator[Judged]:
    rates: list[tuple[TableCell, bool]] = []  # cells of F1 and accuracy, and whether they are in percent
    for column in table.columns:
        what = table.holds(column)
        cells = table.numbers(column, "run", "mean", "range", "other")
        for cell in cells if what in (*SCORES, "t_star") else []:
            value = cell.value or 0.0
            said = cell.unit == "%" or tables.says_percent(cell.column) or tables.says_percent(column)
            kind, expected = "out_of_range", ""  # "" as long as nothing is wrong
            high = {"brier": 200.0 if said else 2.0, "nll": math.inf, "t_star": math.inf}.get(what, 100.0)
            if value < 0 or cell.span.low > high or (what == "t_star" and value == 0):
                expected = f"from 0 to {high:g}" if high < math.inf else "above 0" if what == "t_star" else "0 or more"
            elif what in ("macro_f1", "accuracy") and said and 0 < value <= 1:
                kind, expected = "mixed_units", "percent, as it says; this looks like a fraction"
            elif what in ("macro_f1", "accuracy", "f1") and 1 < value <= 1.5 and not said:
                expected = "from 0 to 1, or percent" if cell.span.low > 1 else ""
            elif what in ("macro_f1", "accuracy", "f1") and value > 0 and not (said and cell.unit != "%"):
                rates.append((cell, tables.is_percent(cell)))
            yield _judge(not expected, table, cell, kind, expected)
            if cell.interval:
                fraction = what in ("macro_f1", "accuracy", "f1") and not tables.is_percent(cell)
                high, low = 1.0 if fraction else high, min(end.high for end in cell.interval)
                within = low >= 0 and max(end.low for end in cell.interval) <= high
                ends = f"an interval from 0 to {high:g}" if high < math.inf else "an interval above 0"
                yield _judge(within, table, cell, "out_of_range", ends)
    percent = sum(is_percent for _, is_percent in rates)
    rare = 2 * percent < len(rates)  # whether percent is what the fewer cells have
    for cell, is_percent in rates if len(rates) > 1 else []:
        odd = 0 < percent < len(rates) and is_percent == rare
        expected = f"{'a fraction' if rare else 'percent'}, as the other rates of this table"
        yield _judge(not odd, table, cell, "mixed_units", expected)


def _check_macro_f1(table: ResultTable) -> Iterator[Judged]:
    groups: dict[str, dict[str, str]] = defaultdict(dict)
    for column in table.columns:
        if found := tables.class_of(column, table.classes):
            groups[found[0]][found[1]] = column
    for group, columns in groups.items():
        if len(columns) < 2 or columns.keys() < set(table.classes):  # some of several have no macro F1
            continue
        table.spend(len(table.columns))
        macros = [name for name in table.columns if _macro_of(table, name, group)]
        for run in table.runs:
            if run.role in ("difference", "range") or not run.prints(*columns.values()):
                continue
            mean = Bounds.mean([_fraction(run.cells[column]) for column in columns.values()])
            for cell in (run.cells[macro] for macro in macros if run.prints(macro)):
                shown = _show(mean.scaled(100 if tables.is_percent(cell) else 1))
                expected = f"{shown}, the mean of {len(columns)} classes"
                yield _judge(_fraction(cell).meets(mean), table, cell, "macro_f1", expected)


def _macro_of(table: ResultTable, column: str, group: str) -> bool:
    prefix = group.removesuffix("f1").strip("_")
    if re.fullmatch(r"(\w+_)?macro_f1", column):
        return column.removesuffix("macro_f1").strip("_") == prefix
    of_test = table.holds(column) == "macro_f1" and not re.search(r"\bval|best test", tables.plain(column))
    return group == "f1" and of_test


def _fraction(cell: TableCell) -> Bounds:
    """The interval of a rate, as a fraction."""
    return cell.span.scaled(0.01) if tables.is_percent(cell) else cell.span


def _check_mean_rows(table: ResultTable) -> Iterator[Judged]:
    for place, run in enumerate(table.runs):
        if run.role not in ("mean", "range"):
            continue
        table.spend(place)
        sets = _members(table.runs, place)
        table.spend(sum(map(len, sets)) * len(run.cells))
        for column, cell in run.cells.items():
            complete = [members for members in sets if all(member.prints(column) for member in members)]
            candidates = [[member.cells[column].span for member in members] for members in complete]
            if candidates and not tells_apart(column):
                yield from _check_summary(table, cell, run.role, candidates, f"{len(candidates[0])} rows")


def _members(runs: list[TableRow], place: int) -> list[list[TableRow]]:
    """The rows that an aggregate row may be of: those of its label, else the block above it, or all above it."""
    labels = runs[place].labels
    stripped = {column: MEAN.sub("", RANGE.sub("", text)).strip(" ([:,·|_-") for column, text in labels.items()}
    wanted = {column: text for column, text in stripped.items() if _GENERAL.sub("", text)}
    if wanted:
        plain = [run for run in runs if run.role == "run"]
        same = (
            [run for run in plain if all(match(run.labels.get(column, ""), text) for column, text in wanted.items())]
            for match in (str.__eq__, str.startswith)
        )
        sets = [next(filter(None, same), [])]
    else:
        above, means = ([run for run in runs[:place] if run.role == role] for role in ("run", "mean"))
        backwards = dropwhile(lambda run: run.role != "run", reversed(runs[:place]))
        block = list(takewhile(lambda run: run.role == "run", backwards))
        sets = [block[::-1], above, means]
    said = {
        int(number)
        for text in labels.values()
        for number in re.findall(r"\b(?:n ?= ?)?(\d+)(?: seeds| runs)?\b", text)
        if MEAN.search(text)
    }
    return [rows for rows in sets if len(rows) > 1 and (not said or len(rows) in said)]


def _check_row_lists(table: ResultTable) -> Iterator[Judged]:
    """Means and ranges in a column, of the seeds' columns of the row or of a list such as `0.72 / 0.71` in a cell."""
    rests = {name: _rest(name) for name in table.columns}
    means = [name for name in table.columns if re.search(r"^(mean|average|avg)\b| mean$", tables.plain(name))]
    ranges = [name for name in table.columns if RANGE.search(name)]
    seeds = [name for name in table.columns if re.search(r"\bseed[\s_]*\d+\b|^s?\d+$", name, re.I)]
    table.spend(len(table.runs) * (len(means) * (len(seeds) + len(ranges)) + len(ranges) * len(seeds)))
    for run in table.runs:
        if run.role not in ("run", "mean"):
            continue
        cells = [cell for name, cell in run.cells.items() if not tells_apart(name)]
        lists = [items for cell in cells if (items := tables.listed(cell.text))]
        for names, role in ((means, "mean"), (ranges, "range")):
            for name in names:
                of = [seed for seed in seeds if rests[seed] == rests[name]]
                if not of and not rests[name] and len({rests[seed] for seed in seeds}) == 1:
                    of = seeds
                spans = [run.cells[seed].span for seed in of if run.cells[seed].value is not None]
                alone = len(lists) == 1 and len(names) == 1 and not seeds
                sources = spans if len(spans) == len(of) > 1 else lists[0] if alone and not rests[name] else []
                if name in run.cells and len(sources) > 1:
                    yield from _check_summary(table, run.cells[name], role, [sources], f"{len(sources)} values")
        for mean, name in product(means, ranges):
            if run.prints(mean) and name in run.cells and (ends := tables.ends(run.cells[name].text)):
                cell = run.cells[mean]
                within = cell.span.high >= ends[0].low and cell.span.low <= ends[1].high
                yield _judge(within, table, cell, "mean", f"within the range {run.cells[name].text}")


def _rest(name: str) -> str:
    """What a header says beside its seed, its unit, and that it is a mean or a range."""
    return re.sub(
        r"\b(seeds?|over|mean|average|avg|range|percent|pp|s?\d+)\b|\s", "", tables.plain(name.replace("_", " "))
    )


def _check_summary(
    table: ResultTable, cell: TableCell, role: str, candidates: list[list[Bounds]], of: str
) -> Iterator[Judged]:
    """A mean or a range against the values that it may be of; right if any of them gives it."""
    if role == "mean" and cell.value is not None:
        means = [Bounds.mean(spans) for spans in candidates]
        right = any(cell.span.meets(mean) for mean in means)
        yield _judge(right, table, cell, "mean", f"{_show(means[0])}, the mean of {of}")
    elif role == "range" and (ends := tables.ends(cell.text)):
        lows = [Bounds(min(s.low for s in spans), min(s.high for s in spans)) for spans in candidates]
        highs = [Bounds(max(s.low for s in spans), max(s.high for s in spans)) for spans in candidates]
        right = any(ends[0].meets(low) and ends[1].meets(high) for low, high in zip(lows, highs, strict=True))
        yield _judge(right, table, cell, "range", f"{_show(lows[0])} to {_show(highs[0])}, the range of {of}")


def _formulas(a: Bounds, b: Bounds) -> Iterator[tuple[str, Bounds]]:
    """What a column called difference may hold."""
    difference = Bounds(b.low - a.high, b.high - a.low)
    for name, sign in (("second less first", 1.0), ("first less second", -1.0)):
        yield name, difference.scaled(sign)
        yield f"{name}, in points", difference.scaled(100 * sign)
    for name, top, bottom in (("relative to the first", b, a), ("relative to the second", a, b)):
        if bottom.low > 0 and top.low >= 0:
            ratio = Bounds(top.low / bottom.high - 1, top.high / bottom.low - 1)
            for sign in (1.0, -1.0):
                yield f"{name}{' (negative)' if sign < 0 else ''}", ratio.scaled(sign)
                yield f"{name}, in percent{' (negative)' if sign < 0 else ''}", ratio.scaled(100 * sign)


def _check_difference_columns(table: ResultTable) -> Iterator[Judged]:
    exact = {"optimism_macro_f1": ("macro_f1", "best_test_macro_f1")}
    for name in table.columns:
        if table.holds(name) != "difference":
            continue
        rows = [run for run in table.runs if run.role in ("run", "mean") and run.prints(name)]
        before = table.columns[: table.columns.index(name)]
        table.spend(len(before) * len(rows))
        numeric = [
            column
            for column in before
            if not (tells_apart(column) or NOT_SCORES.search(tables.plain(column)))
            and table.holds(column) not in ("difference", "t_star")
            and rows
            and all(run.prints(column) for run in rows)
        ]
        if name in exact:
            numeric = [column for column in exact[name] if all(column in run.cells for run in rows)]
        elif len(numeric) > 2:
            words = set(tables.plain(re.sub(r"Δ|∆|delta|difference|diff|gain", " ", name, flags=re.I)).split())
            named = [column for column in numeric if words and words <= set(tables.plain(column).split())]
            numeric = named if len(named) > 1 else numeric
        table.spend(len(rows) * len(numeric) * (len(numeric) // 2 + len(rows)))
        pairs = [(a, b) for a, b in combinations(numeric, 2) if table.holds(a) == table.holds(b)]
        choices = [[(run.cells[name], run.cells[a].span, run.cells[b].span) for run in rows] for a, b in pairs]
        names = [f"{a} and {b}" for a, b in pairs]
        sure = [at for at, pair in enumerate(pairs) if name in exact or list(pair) == before[-2:]]
        # Or down a column: each row less that of a reference.
        for column in numeric:
            for reference in rows:
                others = [run for run in rows if run is not reference]
                if len(others) > 1:
                    base = reference.cells[column].span
                    choices.append([(run.cells[name], base, run.cells[column].span) for run in others])
                    names.append(f"{column} of row {reference.place}")
        yield from _check_differences(table, choices, names, sure[0] if sure else None)


def _check_difference_rows(table: ResultTable) -> Iterator[Judged]:
    for place, run in enumerate(table.runs):
        if run.role != "difference":
            continue
        table.spend(place + len(run.cells))
        choices, names = [], []
        for role in ("run", "mean"):
            pair = [other for other in table.runs[:place] if other.role == role][-2:]
            if len(pair) == 2:
                shared = [c for c in run.cells if all(r.prints(c) for r in (run, *pair)) and not tells_apart(c)]
                choices.append([(run.cells[c], pair[0].cells[c].span, pair[1].cells[c].span) for c in shared])
                names.append(f"rows {pair[0].place} and {pair[1].place}")
        yield from _check_differences(table, choices, names, 0 if choices else None)


def _check_differences(
    table: ResultTable, choices: list[list[tuple[TableCell, Bounds, Bounds]]], names: list[str], sure: int | None
) -> Iterator[Judged]:
    """Judge by the operands and the formula that most cells agree with.

    Operands that do not stand beside the difference (`sure` is the place of those that do) are believed only if
    more than half of the cells confirm them.
    """
    least, how = math.inf, ""
    best: list[tuple[TableCell, Bounds]] = []
    for at, (cells, name) in enumerate(zip(choices, names, strict=True)):
        formulas: dict[str, list[tuple[TableCell, Bounds]]] = defaultdict(list)
        for cell, a, b in cells:
            for formula, span in _formulas(a, b):
                formulas[formula].append((cell, span))
        for formula, spans in formulas.items():
            wrong = sum(not cell.span.meets(span) for cell, span in spans)
            believed = at == sure or 2 * wrong < len(cells)
            if believed and len(spans) == len(cells) and wrong / len(cells) < least:
                least, best, how = wrong / len(cells), spans, f"{name}, {formula}"
    for cell, span in best:
        yield _judge(cell.span.meets(span), table, cell, "difference", f"{_show(span)} from {how}")


def _check_identical(table: ResultTable) -> Iterator[Judged]:
    if any(re.fullmatch(r"epoch|step", tables.plain(name)) for name in table.columns):
        return  # one run over time, which may stand still
    runs = [run for run in table.runs if run.role == "run"]
    scores = [name for name in table.columns if table.holds(name) in SCORES]
    per_class = [name for name in scores if tables.class_of(name, table.classes)]
    told: set[int | str] = set()
    judged: set[int | str] = set()
    for names in (scores, per_class):
        seen: dict[tuple[tuple[str, float], ...], TableRow] = {}
        for run in runs:
            cells = {name: run.cells[name] for name in names if run.prints(name)}
            twin = seen.setdefault(tuple((name, cell.value or 0.0) for name, cell in cells.items()), run)
            if len(runs) < 2 or not cells or _chance(list(cells.values())) * len(runs) ** 2 > CHANCE:
                continue  # nothing to differ from, or too few digits to tell
            judged.add(run.place)
            if twin is run or run.place in told or twin.labels == run.labels or _may_be_identical(table, twin, run):
                continue
            told.add(run.place)
            mean = sum(cell.value or 0 for cell in cells.values()) / len(cells)
            whole = len(per_class) > 1 and set(cells) == set(per_class)
            about = f"; the mean of these F1 is {mean:.6g}" if whole else ""
            first, other = next(iter(cells.values())), next(iter(twin.cells.values()))
            in_row = len({cell.row for cell in twin.cells.values()}) == 1
            name = f"row {twin.place}" if in_row else f"column {other.column}"
            found = f"{len(cells)} scores, {', '.join(cells)}, all as in {name}{about}"
            yield Finding(table.file, first.row, first.column, "identical_runs", found, DIFFERING)
    yield from ["identical_runs"] * len(judged - told)


def _chance(cells: list[TableCell]) -> float:
    """How likely two runs of this much noise print the same: by cell, the rounding step over the noise's density."""
    chance = 1.0
    for cell in (cell for cell in cells if cell.value not in (0.0, 1.0, 100.0)):
        noise = NOISE * (100 if (cell.value or 0) > 2.5 or cell.unit == "%" else 1) * math.sqrt(2)
        step = cell.span.high - cell.span.low
        chance *= min(1.0, step / (noise * math.sqrt(2 * math.pi)))
    return chance


def _may_be_identical(table: ResultTable, a: TableRow, b: TableRow) -> bool:
    """Whether two runs of one seed minimise one loss, as split and fused do in kd: then they may."""
    table.spend(500)  # reading params.yaml takes as long
    rows = [
        pd.Series({name: cell.value or cell.text if cell.text else math.nan for name, cell in run.cells.items()})
        for run in (a, b)
    ]
    if not all({"family", "mode", "seed"} <= set(row.index) for row in rows) or rows[0]["seed"] != rows[1]["seed"]:
        return False
    return Path("params.yaml").is_file() and bool(recipes.same_loss(params.load(), *rows))


def _check_grid_edge(table: ResultTable, grid: Sequence[float]) -> Iterator[Judged]:
    told: set[int | str] = set()
    runs = [run for run in table.runs if not _off_grid(run)]
    for column in table.columns:
        of = [run for run in runs if run.role == "run" and run.prints(column)]
        cells = [run.cells[column] for run in of] if table.holds(column) == "t_star" else []
        if all(cell.value in grid for cell in cells):
            for cell in cells:
                at_edge = cell.value in (min(grid), max(grid))
                told |= {cell.row} if at_edge else set()
                inside = f"inside the grid {min(grid):g} to {max(grid):g}"
                yield _judge(not at_edge, table, cell, "grid_edge", inside)
    for run in runs:  # a flag says so of a grid that is not known here
        flag = run.cells.get("grid_at_edge")
        said = "" if flag is None or flag.row in told else flag.text.strip().lower()
        if flag is not None and said in ("true", "false"):
            yield _judge(said == "false", table, flag, "grid_edge", "false: a T* inside its grid")


def _off_grid(run: TableRow) -> bool:
    """Whether the T* of a run is not the one of its grid, so that the grid's edge does not matter."""
    return run.prints("t_star", "t_star_grid") and not run.cells["t_star"].span.meets(run.cells["t_star_grid"].span)


def _check_selection(table: ResultTable) -> Iterator[Judged]:
    """A score of the best test epoch, with no score beside it of an epoch chosen without the test set."""
    plain = {name: tables.plain(name) for name in table.columns}
    chosen = [name for name, text in plain.items() if re.match(r"best test (macro f1|acc|accuracy|f1)$", text)]
    honest = [name for name, text in plain.items() if re.match(r"(test )?(macro f1|accuracy|acc)$", text)]
    for name in chosen:
        for first in [run.cells[name] for run in table.runs if name in run.cells][:1]:
            expected = "a score of the epoch chosen on validation, beside it"
            yield _judge(bool(honest), table, first, "selected_on_test", expected)


def _judge(right: bool, table: ResultTable, cell: TableCell, kind: str, expected: str) -> Judged:
    return kind if right else Finding(table.file, cell.row, cell.column, kind, cell.text.strip(), expected)


def _show(span: Bounds) -> str:
    """An interval by its middle, with the digits that are sure and one more."""
    middle, width = (span.low + span.high) / 2, span.high - span.low
    decimals = min(12, max(0, 1 - math.floor(math.log10(width)))) if width > 0 else 12
    return f"{middle:.{decimals}f}"


def _identical_files(metrics: dict[Path, tuple[Any, list[ResultTable]]]) -> Iterator[tuple[Path, Judged]]:
    """JSON files of one shape in a directory are of runs that should differ."""
    seen: dict[tuple[Any, ...], dict[tuple[Any, ...], Path]] = defaultdict(dict)
    for path, (value, found) in metrics.items():
        scores = [
            (name, cell)
            for table in found
            for run in table.runs
            for name, cell in run.cells.items()
            if cell.value is not None and table.holds(name) in SCORES
        ]
        cells = [cell for _, cell in scores]
        if not cells or _chance(cells) * len(metrics) ** 2 >= CHANCE:
            continue
        alike = seen[tuple(sorted(_shape(value)))]
        twin = alike.setdefault(tuple((name, cell.value) for name, cell in scores), path)
        if twin != path:
            said = f"all {len(cells)} scores as in {twin}"
            yield path, Finding(str(path), str(cells[0].row), cells[0].column, "identical_runs", said, DIFFERING)
        elif len(alike) > 1:
            yield path, "identical_runs"


def _shape(value: Any, place: str = "") -> Iterator[str]:
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _shape(item, f"{place}.{name}")
    else:
        yield place


# Each takes a table, and judges the values that it can; the edge of the grid of T* is judged beside these.
CHECKS: list[Check] = [
    _check_units_and_ranges, _check_macro_f1, _check_mean_rows, _check_row_lists, _check_difference_columns,
    _check_difference_rows, _check_identical, _check_selection,
]  # fmt: skip
