"""`results_summary.csv`: one row a run. What a table may hold, and which runs may meet."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from .. import workspace
from ..errors import CheckError, UsageError
from ..files import read_json, require_few_columns
from ..params import Params
from .schema import METRICS, MODES, SETTING, label, metric_of

SUMMARY = workspace.SUMMARY
REQUIRED = ["family", "mode", "seed", "macro_f1"]
RECIPE = ["family", "mode", *SETTING]
# What runs must agree on to be compared.
SAME = ["index_tag", "index_digest", "scale"]
# Kind and limits of the columns that are no setting and no metric, and no text either.
OTHERS: dict[str, tuple[type, tuple[float, float]]] = {
    "seed": (int, (0, np.inf)),
    "images_seen": (int, (1, np.inf)),  # by the student, in all its epochs
    "misaligned": (bool, (0, 1)),
}


def columns(classes: Sequence[str], teachers: Sequence[str] = ()) -> list[str]:
    """The columns of a full table, in order, for these classes and teachers."""
    return [
        *("experiment", *RECIPE, "seed"),
        *(column for metric in METRICS for column in metric.columns(classes, teachers)),
        *("images_seen", "scale", "corpus", "index_tag", "index_digest", "misaligned"),
        *("commit", "code", "time", "model", "predictions"),
    ]


def classes_of(frame: pd.DataFrame) -> list[str]:
    """The classes that a table's header names (`f1_<class>`), in its order; none in a bare table."""
    return [name.removeprefix("f1_") for name in frame.columns if name.startswith("f1_")]


def read(path: Path | str) -> pd.DataFrame:
    """Read and check a table of runs.

    Parameters
    ----------
    path : path of a CSV file
        With the columns of `columns`, or any of them that hold at least `family`, `mode`, `seed` and `macro_f1`.
        Columns of other names are kept as text.

    Returns
    -------
    DataFrame
        One row a run, in the file's order. Numbers are float64 and NaN where empty; `seed` is int64; flags are
        booleans; everything else is text, empty where empty.

    Raises
    ------
    UsageError
        If the file is not there.
    CheckError
        Naming line and column: not a CSV, a column missing or named twice, a value that is no number or out of
        range, a run listed twice.
    """
    path = Path(path)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = next(filter(None, reader), [])
            require_few_columns(len(header), path)
            listed = [(reader.line_num, row) for row in reader if row]
    except FileNotFoundError:
        hint = "run `ferdistill study collect`, or name a CSV"
        raise UsageError("no table of results here", where=str(path), hint=hint) from None
    except (csv.Error, UnicodeDecodeError, IsADirectoryError) as error:
        raise CheckError(f"not a CSV file in UTF-8: {error}", where=str(path)) from None
    missing = [name for name in REQUIRED if name not in header]
    if missing or len(set(header)) != len(header):
        raise CheckError(
            f"no column {', '.join(missing)}" if missing else "a column is named twice",
            where=f"{path}, header {header}",
            expected=f"at least {', '.join(REQUIRED)}, each once",
        )
    for line, row in listed:
        if len(row) != len(header):
            where = f"{path}, line {line}"
            raise CheckError(f"{len(row)} cells", where=where, expected=f"{len(header)}, as the header")
    if not listed:
        raise CheckError("a table without a run", where=str(path), expected="one row a run")
    frame = pd.DataFrame([row for _, row in listed], columns=header, dtype=str)
    lines = [line for line, _ in listed]
    for name in header:
        frame[name] = _column(frame[name], name, lines, path)
    _check_runs(frame, lines, path)
    return frame


def require_own(settings: Params) -> Path:
    """The workspace's own table, checked to be of the workspace's corpus, scale and, where there is one, index.

    A CheckError if it is of another, or does not say of which. Also as `read`.
    """
    table = workspace.results(settings.corpus)
    frame = read(table)
    ours = {"corpus": settings.corpus, "scale": settings.scale}
    if (described := workspace.index_csv(settings.index_tag).with_suffix(".json")).is_file():
        ours["index_digest"] = read_json(described, "digest")["digest"]
    theirs = {name: sorted(set(frame[name])) if name in frame else ["not said"] for name in ours}
    if any(theirs[name] != [value] for name, value in ours.items()):
        short = {name: 8 if name == "index_digest" else None for name in ours}
        said = [f"{n.removesuffix('_digest')} {' and '.join(v[: short[n]] for v in theirs[n])}" for n in ours]
        have = [value[: short[name]] for name, value in ours.items()]
        raise CheckError(
            f"the table is of {', '.join(said)}; the workspace has {', '.join(have)}",
            where=str(table),
            hint=f"`ferdistill study collect`, or name the table to read it anyway: `--results {table.as_posix()}`",
        )
    return table


def require_comparable(frame: pd.DataFrame) -> None:
    """Check that runs may enter one comparison.

    A CheckError if rows differ in `index_tag`, `index_digest` or `scale`, or any is misaligned.
    """
    for name in SAME:
        values = list(dict.fromkeys(frame[name])) if name in frame else []
        if len(values) > 1:
            raise CheckError(
                f"runs of different {name} never enter one comparison",
                where=", ".join(f"{value or 'empty'} ({(frame[name] == value).sum()} runs)" for value in values),
                expected=f"one {name}",
                hint="take the others out of the table, or collect them into a table of their own",
            )
    if "misaligned" in frame and frame["misaligned"].any():
        row = frame[frame["misaligned"]].iloc[0]
        raise CheckError(
            "runs on soft labels out of step never enter a comparison",
            where=f"{label(row)}, seed {row['seed']}, and {int(frame['misaligned'].sum()) - 1} more",
            expected="misaligned false everywhere",
            hint="take them out of the table",
        )


def comparable_with(frame: pd.DataFrame, row: pd.Series) -> pd.DataFrame:
    """The rows of a table that may enter one comparison with a row of it."""
    for name in SAME:
        frame = frame[frame[name] == row[name]] if name in frame else frame
    return frame[~frame["misaligned"].astype(bool)] if "misaligned" in frame else frame


def _column(values: pd.Series, name: str, lines: list[int], path: Path) -> pd.Series:
    """One column, converted and checked; text as it is, if it may be any."""
    listed = SETTING.get(name) or metric_of(name)
    kind, (low, high) = (listed.kind, listed.limits) if listed else OTHERS.get(name, (str, (0, 0)))
    empty = (values == "") & (name not in REQUIRED)
    whole = kind is int
    if name == "family":
        good, expected = values.where((values != "") & ~values.str.contains(":")), "a name, without a colon"
    elif kind is bool:
        good, expected = values.map({"true": True, "false": False, "": False}), "true or false"
    elif kind is str:
        choices = MODES if name == "mode" else SETTING[name].choices if name in SETTING else ()
        if not choices:
            return values
        good, expected = values.where(values.isin(choices) | empty), f"one of {list(choices)}"
    else:
        numbers = pd.to_numeric(values.where(values != ""), errors="coerce").astype(np.float64)
        fits = numbers.between(low, high) & np.isfinite(numbers) & ((numbers == numbers.round()) | (not whole))
        good = numbers.where(fits)
        bounded = f"a number from {low:g} to {high:g}"
        expected = bounded if np.isfinite(high) else "a number, not negative" if low >= 0 else "a number"
        expected = f"a whole number from {low:g}" if whole else expected
        expected += " (a fraction, not percent)" if high == 1 else ""
    wrong = (good.isna() & ~empty).to_numpy()
    if wrong.any():
        at = int(wrong.argmax())
        more = f", and {wrong.sum() - 1} more cells of this column" if wrong.sum() > 1 else ""
        where = f"{path}, line {lines[at]}, column {name}"
        raise CheckError(f"{name} is {values.iloc[at]!r}{more}", where=where, expected=expected)
    return good.astype(np.int64) if name == "seed" else good


def _check_runs(frame: pd.DataFrame, lines: list[int], path: Path) -> None:
    for line, family, mode in zip(lines, frame["family"], frame["mode"], strict=True):
        if (family == "none") != (mode == "none"):
            where, expected = f"{path}, line {line}", "the baseline as family none, mode none"
            raise CheckError(f"family {family} with mode {mode}", where=where, expected=expected)
    identity = [name for name in (*RECIPE, "seed", *SAME, "misaligned") if name in frame]
    twice = frame.duplicated(identity, keep=False).to_numpy()
    if twice.any():
        first = int(twice.argmax())
        group = frame.groupby(identity, dropna=False).ngroup().to_numpy()
        raise CheckError(
            f"one run is listed twice: {label(frame.iloc[first])}, seed {frame['seed'].iloc[first]}",
            where=f"{path}, lines {', '.join(str(lines[at]) for at in np.flatnonzero(group == group[first]))}",
            expected="one row a run",
            hint="keep one of them; a recipe's every parameter needs its column",
        )
