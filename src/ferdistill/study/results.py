"""`results_summary.csv`: one row a run. What a table may hold, how a recipe is named, and which runs may meet."""

import csv
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from .. import workspace
from ..errors import CheckError, UsageError
from ..files import read_json
from ..params import Params

SUMMARY = workspace.SUMMARY
MODES = ["none", "kd", "dkd"]
REQUIRED = ["family", "mode", "seed", "macro_f1"]
# What makes a recipe beside its family and mode; empty where it does not apply.
RECIPE = ["lambda", "beta", "dkd_target_term", "fusion", "alpha", "temperature", "views"]
# What runs must agree on to be compared.
SAME = ["index_tag", "index_digest", "scale"]
_SCORES = ["nll", "brier", "ece", "mce"]

_UNIT = (0.0, 1.0)
_POSITIVE = (np.nextafter(0, 1), np.inf)
RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(["macro_f1", "accuracy", "val_macro_f1", "val_accuracy", "ece_null"], _UNIT),
    **dict.fromkeys(["best_test_macro_f1", "best_test_acc", "lambda", "alpha"], _UNIT),
    **dict.fromkeys(["ece", "mce", "ece_scaled", "mce_scaled"], _UNIT),
    **dict.fromkeys(["brier", "brier_scaled"], (0.0, 2.0)),
    **dict.fromkeys(["nll", "nll_scaled", "beta"], (0.0, np.inf)),
    **dict.fromkeys(["t_star", "t_star_grid", "temperature"], _POSITIVE),
    "optimism_macro_f1": (-1.0, 1.0),
}
WHOLE = {"seed": 0, "best_epoch": 0, "best_test_epoch": 0, "views": 1}
FLAGS = ["grid_at_edge", "misaligned"]


def columns(classes: Sequence[str]) -> list[str]:
    """The columns of a full table, in order, for these classes."""
    return [
        *("experiment", "family", "mode", *RECIPE, "seed"),
        *("best_epoch", "val_macro_f1", "val_accuracy", "macro_f1", "accuracy"),
        *(f"f1_{name}" for name in classes),
        *(*_SCORES, *(f"{name}_scaled" for name in _SCORES), "ece_null", "t_star", "t_star_grid", "grid_at_edge"),
        *("best_test_epoch", "best_test_macro_f1", "best_test_acc"),
        *(f"best_test_f1_{name}" for name in classes),
        *("optimism_macro_f1", "scale", "corpus", "index_tag", "index_digest", "misaligned"),
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
            listed = [(reader.line_num, row) for row in reader if row]
    except FileNotFoundError:
        raise UsageError(
            "no table of results here", where=str(path), hint="run `ferdistill study collect`, or name a CSV"
        ) from None
    except (csv.Error, UnicodeDecodeError, IsADirectoryError) as error:
        raise CheckError(f"not a CSV file in UTF-8: {error}", where=str(path)) from None
    header = listed[0][1] if listed else []
    missing = [name for name in REQUIRED if name not in header]
    if missing or len(set(header)) != len(header):
        raise CheckError(
            f"no column {', '.join(missing)}" if missing else "a column is named twice",
            where=f"{path}, header {header}",
            expected=f"at least {', '.join(REQUIRED)}, each once",
        )
    for line, row in listed[1:]:
        if len(row) != len(header):
            raise CheckError(
                f"{len(row)} cells", where=f"{path}, line {line}", expected=f"{len(header)}, as the header"
            )
    if len(listed) == 1:
        raise CheckError("a table without a run", where=str(path), expected="one row a run")
    frame = pd.DataFrame([row for _, row in listed[1:]], columns=header, dtype=str)
    lines = [line for line, _ in listed[1:]]
    for name in header:
        frame[name] = _column(frame[name], name, lines, path)
    _check_runs(frame, lines, path)
    return frame


def require_own(settings: Params) -> None:
    """Check that the table at `SUMMARY` is of the workspace's corpus, scale and, where there is one, index.

    Raises
    ------
    CheckError
        If it is of another, or does not say of which. Also as `read`.
    """
    frame = read(SUMMARY)
    ours = {"corpus": settings.corpus, "scale": settings.scale}
    if (described := workspace.index_csv(settings.index_tag).with_suffix(".json")).is_file():
        ours["index_digest"] = read_json(described, "digest")["digest"]
    theirs = {name: sorted(set(frame[name])) if name in frame else ["not said"] for name in ours}
    if any(theirs[name] != [value] for name, value in ours.items()):
        short = {name: [value[:8] if name == "index_digest" else value for value in theirs[name]] for name in ours}
        said = ", ".join(f"{name.removesuffix('_digest')} {' and '.join(short[name])}" for name in ours)
        have = ", ".join(value[:8] if name == "index_digest" else value for name, value in ours.items())
        raise CheckError(
            f"the table is of {said}; the workspace has {have}",
            where=str(SUMMARY),
            hint=f"`ferdistill study collect`, or name the table to read it anyway: `--results {SUMMARY.as_posix()}`",
        )


def select(frame: pd.DataFrame, selector: str) -> pd.DataFrame:
    """The runs of one recipe, one a seed.

    Parameters
    ----------
    selector : str
        `FAMILY:MODE` or `FAMILY:MODE:NAME=VALUE,…`, as `6D:kd:lambda=0.7`, names from `RECIPE`; `none` is the
        baseline. Where `views` is not named, runs of one view are meant if there are any.

    Raises
    ------
    UsageError
        If it is malformed, finds nothing, or finds more than one recipe: it then lists what must be named.
    CheckError
        If one seed was run twice on different data, see `comparable`.
    """
    parts = ["none", "none"] if selector == "none" else selector.split(":", 2)
    named = [item.partition("=") for item in parts[2].split(",")] if len(parts) == 3 else []
    if len(parts) < 2 or parts[1] not in MODES or any(name not in RECIPE or not value for name, _, value in named):
        raise UsageError(
            f"no recipe can be named `{selector}`",
            expected=f"FAMILY:MODE or FAMILY:MODE:NAME=VALUE,…, mode one of {MODES}, names of {RECIPE}; or none",
            hint="as in 6A:kd, 6D:kd:lambda=0.7 or 6E:dkd:beta=4",
        )
    rows = frame[(frame["family"] == parts[0]) & (frame["mode"] == parts[1])]
    for name, _, value in named:
        if name not in frame:
            raise UsageError(f"the table has no column `{name}`", where=selector, expected=f"one of {list(frame)}")
        rows = rows[rows[name] == (_number(value, selector) if name not in ("fusion", "dkd_target_term") else value)]
    if "views" in rows and "views" not in [name for name, _, _ in named] and (rows["views"] == 1).any():
        rows = rows[rows["views"] == 1]
    if rows.empty:
        known = ", ".join(recipes(frame))
        raise UsageError(f"no run of `{selector}` in the table", expected=f"one of {known}")
    varying = _varying(rows)
    if varying:
        choices = "; ".join(f"{name}={', '.join(_text(value) for value in values)}" for name, values in varying.items())
        raise UsageError(
            f"`{selector}` is {len(rows.drop_duplicates(list(varying)))} recipes",
            expected=f"also named: {choices}",
            hint=f"as in {':'.join(parts[:2])}:{','.join(f'{name}={_text(v[0])}' for name, v in varying.items())}",
        )
    if rows["seed"].duplicated().any():
        comparable(rows)
    return rows.reset_index(drop=True)


def recipes(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Every recipe of a table under the selector that finds it, in order of appearance."""
    found: dict[str, pd.DataFrame] = {}
    for (family, mode), rows in frame.groupby(["family", "mode"], sort=False):
        if mode == "none":
            found["none"] = rows
            continue
        varying = [name for name in RECIPE if name in rows and (name in _varying(rows) or name in ("lambda", "beta"))]
        groups = rows.groupby(varying, sort=False, dropna=False) if varying else [((), rows)]
        for values, group in groups:
            pairs = zip(varying, values, strict=True)
            said = [
                f"{name}={_text(value)}"
                for name, value in pairs
                if _text(value) and not (name == "views" and value == 1)
            ]
            found[":".join([str(family), str(mode), *([",".join(said)] if said else [])])] = group
    return found


def label(row: pd.Series) -> str:
    """A recipe's name for people, as `6D kd λ=0.7`; of one row of a table."""
    if row["mode"] == "none":
        return "none"
    parts = [row["family"], row["mode"]]
    parts += [f"λ={row['lambda']:g}"] if pd.notna(row.get("lambda")) else []
    parts += [f"β={row['beta']:g}"] if pd.notna(row.get("beta")) else []
    parts += ["report's term"] if row.get("dkd_target_term") == "report" else []
    parts += [f"views={row['views']:g}"] if row.get("views", 1) > 1 else []
    return " ".join(parts)


def comparable(frame: pd.DataFrame) -> None:
    """Check that runs may enter one comparison.

    Raises
    ------
    CheckError
        If rows differ in `index_tag`, `index_digest` or `scale`, or any is misaligned.
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


def _column(values: pd.Series, name: str, lines: list[int], path: Path) -> pd.Series:
    """One column, converted and checked."""
    if name in FLAGS:
        return _checked(
            values.map({"true": True, "false": False, "": False}), values, name, "true or false", lines, path
        )
    if name == "mode":
        return _checked(values.where(values.isin(MODES)), values, name, f"one of {MODES}", lines, path)
    if name == "family":
        good = values.where((values != "") & ~values.str.contains(":"))
        return _checked(good, values, name, "a name, without a colon", lines, path)
    scores = name.startswith(("f1_", "best_test_f1_"))
    if name not in RANGES and name not in WHOLE and not scores:
        return values
    low, high = _UNIT if scores else RANGES.get(name, (WHOLE.get(name, 0), np.inf))
    numbers = pd.to_numeric(values.where(values != ""), errors="coerce").astype(np.float64)
    good = numbers.where(numbers.between(low, high) & np.isfinite(numbers))
    expected = f"a number from {low:g} to {high:g}" if np.isfinite(high) else "a number, not negative"
    if high == 1:
        expected += " (a fraction, not percent)"
    if name in WHOLE:
        good, expected = good.where(good == good.round()), f"a whole number from {WHOLE[name]}"
    if name not in REQUIRED:
        good = good.where(values != "", 0.0)
    good = _checked(good, values, name, expected, lines, path)
    return good.astype(np.int64) if name == "seed" else good.where(values != "")


def _checked(good: pd.Series, values: pd.Series, name: str, expected: str, lines: list[int], path: Path) -> pd.Series:
    """`good`, if it has a value wherever `values` was read; else the error that names the first cell."""
    wrong = good.isna().to_numpy()
    if wrong.any():
        at = int(wrong.argmax())
        more = f", and {wrong.sum() - 1} more cells of this column" if wrong.sum() > 1 else ""
        where = f"{path}, line {lines[at]}, column {name}"
        raise CheckError(f"{name} is {values.iloc[at]!r}{more}", where=where, expected=expected)
    return good


def _check_runs(frame: pd.DataFrame, lines: list[int], path: Path) -> None:
    odd = ((frame["family"] == "none") != (frame["mode"] == "none")).to_numpy()
    if odd.any():
        row = frame.iloc[int(odd.argmax())]
        raise CheckError(
            f"family {row['family']} with mode {row['mode']}",
            where=f"{path}, line {lines[int(odd.argmax())]}",
            expected="the baseline as family none, mode none",
        )
    identity = [name for name in ("family", "mode", *RECIPE, "seed", *SAME, "misaligned") if name in frame]
    twice = frame.duplicated(identity, keep=False).to_numpy()
    if twice.any():
        first = frame.iloc[int(twice.argmax())]
        same = frame.groupby(identity, dropna=False).ngroup().to_numpy()
        same = same == same[int(twice.argmax())]
        raise CheckError(
            f"one run is listed twice: {label(first)}, seed {first['seed']}",
            where=f"{path}, lines {', '.join(str(lines[at]) for at in np.flatnonzero(same))}",
            expected="one row a run",
            hint="keep one of them; a recipe's every parameter needs its column",
        )


def _varying(rows: pd.DataFrame) -> dict[str, list[Any]]:
    """The recipe's columns in which rows differ, with their values."""
    found = {name: list(rows[name].unique()) for name in RECIPE if name in rows}
    return {name: values for name, values in found.items() if len(values) > 1}


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return "" if pd.isna(value) else re.sub(r"\.0$", "", repr(float(value)))


def _number(value: str, selector: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise UsageError(f"`{value}` is not a number", where=selector) from None
