"""The recipes of a results table: how each is named, what it is made of, and how two of them differ."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from ..errors import CheckError, UsageError
from ..params import Params
from ..softlabels import families as family_weights
from . import results, statistics
from .schema import LINEAR, MODES, SETTING, SETTINGS, label, said


def varying(rows: pd.DataFrame) -> dict[str, list[Any]]:
    """The settings in which rows of a table differ, with their values."""
    found = {name: list(rows[name].unique()) for name in SETTING if name in rows}
    return {name: values for name, values in found.items() if len(values) > 1}


def split(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The runs of every recipe of a table, under the selector that finds them, in order of appearance."""
    found: dict[str, pd.DataFrame] = {}
    for (family, mode), rows in frame.groupby(["family", "mode"], sort=False):
        differing = varying(rows)
        told = [s for s in SETTINGS if s.key in rows and (s.key in differing or s.named)]
        by = [setting.key for setting in told]
        for _, group in rows.groupby(by, sort=False, dropna=False) if by else [((), rows)]:
            values = {setting.key: said(group.iloc[0], setting.key) for setting in told}
            parts = [f"{key}={_text(v)}" for key, v in values.items() if v is not None and v != SETTING[key].assumed]
            base = "none" if mode == "none" and not parts else f"{family}:{mode}"
            found[":".join([base, *([",".join(parts)] if parts else [])])] = group
    return found


def select(frame: pd.DataFrame, selector: str) -> pd.DataFrame:
    """The runs of one recipe, one a seed.

    A selector is `FAMILY:MODE` or `FAMILY:MODE:NAME=VALUE,…`, as `6D:kd:lambda=0.7`, names of `schema.SETTINGS`; `none`
    is the baseline. Where a setting with an assumed value, such as `views`, is not named, runs of that value are meant
    if there are any.

    Raises
    ------
    UsageError
        If it is malformed, finds nothing, or finds more than one recipe: it then lists what must be named.
    CheckError
        If one seed was run twice on different data, see `results.require_comparable`.
    """
    parts = ["none", "none"] if selector == "none" else selector.split(":", 2)
    named = [item.partition("=") for item in parts[2].split(",")] if len(parts) == 3 else []
    if len(parts) < 2 or parts[1] not in MODES or any(name not in SETTING or not value for name, _, value in named):
        raise UsageError(
            f"no recipe can be named `{selector}`",
            expected=f"FAMILY:MODE or FAMILY:MODE:NAME=VALUE,…, mode one of {list(MODES)}, names of {list(SETTING)}; "
            "or none",
            hint="as in 6A:kd, 6D:kd:lambda=0.7 or 6E:dkd:beta=4",
        )
    rows = frame[(frame["family"] == parts[0]) & (frame["mode"] == parts[1])]
    for name, _, value in named:
        if name not in frame:
            raise UsageError(f"the table has no column `{name}`", where=selector, expected=f"one of {list(frame)}")
        rows = rows[rows[name] == (value if SETTING[name].kind is str else _number(value, selector))]
    for setting in SETTINGS:
        if setting.key in rows and setting.key not in [name for name, _, _ in named]:
            assumed = rows[setting.key] == setting.assumed
            rows = rows[assumed] if assumed.any() else rows
    if rows.empty:
        raise UsageError(f"no run of `{selector}` in the table", expected=f"one of {', '.join(split(frame))}")
    if differing := varying(rows):
        choices = "; ".join(f"{name}={', '.join(map(_text, values))}" for name, values in differing.items())
        raise UsageError(
            f"`{selector}` is {len(rows.drop_duplicates(list(differing)))} recipes",
            expected=f"also named: {choices}",
            hint=f"as in {':'.join(parts[:2])}:{','.join(f'{name}={_text(v[0])}' for name, v in differing.items())}",
        )
    if rows["seed"].duplicated().any():
        results.require_comparable(rows)
    return rows.reset_index(drop=True)


def identity(rows: pd.DataFrame) -> list[Any]:
    """What makes a recipe, of its runs."""
    return [said(rows.iloc[0], name) for name in results.RECIPE]


def label_in(frame: pd.DataFrame, row: pd.Series) -> str:
    """A recipe's name for people, with every setting that tells it from the others of its table."""
    alike = (frame["family"] == row["family"]) & (frame["mode"] == row["mode"])
    return label(row, list(varying(frame[alike])))


@dataclass(frozen=True, eq=False)
class Recipe:
    """All runs that differ in the seed alone."""

    selector: str  # what `select` finds these runs by
    label: str  # for people
    runs: pd.DataFrame  # rows of the table, by ascending seed
    mixture: dict[str, float]  # each teacher's weight; empty for the baseline
    sources: int  # targets that the loss sums over: 1 is fused, more is split
    # Smaller is simpler: teachers to keep, views to record, settings of the loss, targets to carry.
    complexity: tuple[int, ...]

    @cached_property
    def row(self) -> pd.Series:
        """The first run, for what all share."""
        return self.runs.iloc[0]

    @property
    def family(self) -> str:
        return str(self.row["family"])

    @property
    def mode(self) -> str:
        return str(self.row["mode"])

    def setting(self, name: str) -> Any:
        """The value of a setting that all runs share; None where it is empty."""
        return said(self.row, name)

    def mean(self, metric: str) -> float:
        return float(self.runs[metric].mean())

    @property
    def seeds(self) -> int:
        return len(self.runs)

    @property
    def point(self) -> tuple[tuple[str, float], ...] | None:
        """Where the recipe lies in the simplex of teacher weights; None where the loss depends on more than that."""
        if self.mode not in LINEAR or self.setting("fusion") != "probability":
            return None
        return point(self.mixture)


def point(mixture: dict[str, float]) -> tuple[tuple[str, float], ...]:
    """A mixture as a value that equals that of every mixture alike, however it was multiplied out."""
    return tuple(sorted((name, round(weight, 9)) for name, weight in mixture.items()))


def of(frame: pd.DataFrame, params: Params, needed: Sequence[str]) -> list[Recipe]:
    """Every recipe of a table, in the order of `families` in params.yaml, then by its settings.

    Raises
    ------
    UsageError
        If the table lacks a needed column, or a run lacks a value in it.
    CheckError
        If rows cannot stand in one comparison (see `results.require_comparable`), or params.yaml lacks a family.
    """
    for column in needed:
        if column not in frame or frame[column].isna().any():
            problem = f"some runs lack a value of `{column}`" if column in frame else f"the results lack `{column}`"
            hint = "make the table with `ferdistill study collect`"
            raise UsageError(problem, expected=f"columns {', '.join(needed)}", hint=hint)
    results.require_comparable(frame)
    if unknown := sorted(set(frame["family"]) - set(params.families)):
        problem = f"params.yaml has no family {', '.join(unknown)}, so what it is made of is not known"
        hint = "add it under `families`, or leave its rows out"
        raise CheckError(problem, expected=f"one of {', '.join(params.families)}", hint=hint)
    made = []
    for selector, runs in split(frame).items():
        runs = runs.sort_values("seed")
        row = runs.iloc[0]
        family = params.families[str(row["family"])]
        lambda_ = said(row, "lambda")
        mixture = family_weights.mixture(family, params.lambda_ if lambda_ is None else float(lambda_))
        losses = len(_loss_settings(params, row))
        complexity = len(mixture), int(said(row, "views") or 1), losses, len(family.sources)
        name = label_in(frame, row)
        name = name.replace("none", "labels alone", 1) if row["mode"] == "none" else name
        made.append(Recipe(selector, name, runs, mixture, len(family.sources), complexity))

    def place(recipe: Recipe) -> tuple[Any, ...]:
        settings = ((value is not None, value) for value in map(recipe.setting, SETTING))
        return list(params.families).index(recipe.family), MODES.index(recipe.mode), *settings, recipe.selector

    return sorted(made, key=place)


@dataclass(frozen=True)
class Difference:
    """Candidate minus baseline, paired by the seeds that both have."""

    mean: float  # NaN without a common seed
    interval: tuple[float, float] | None  # paired t interval at 95 %; None with fewer than two common seeds
    per_seed: dict[int, float]

    @property
    def clear(self) -> bool:
        """Whether the interval excludes zero."""
        return self.interval is not None and (self.interval[0] > 0 or self.interval[1] < 0)


def difference(baseline: Recipe, candidate: Recipe, metric: str) -> Difference:
    """How a metric of two recipes differs."""
    before, after = (recipe.runs[["seed", metric]].set_index("seed")[metric] for recipe in (baseline, candidate))
    values = (after - before).dropna()
    interval = statistics.paired_t_interval(values.to_numpy()) if len(values) > 1 else None
    return Difference(float(values.mean()), interval, dict(zip(values.index.tolist(), values.tolist(), strict=True)))


def points(value: float) -> str:
    """A difference in points, signed."""
    text = f"{100 * value:+.2f}"
    return "0.00" if float(text) == 0 else text.replace("-", "−")


def span(difference: Difference) -> str:
    """The difference in points, with its interval in brackets."""
    if difference.interval is None:
        return f"{points(difference.mean)} points, {len(difference.per_seed)} common seeds, so no interval"
    low, high = difference.interval
    return f"{points(difference.mean)} points [{points(low)}, {points(high)}]"


def same_loss(params: Params, one: pd.Series, other: pd.Series) -> bool | None:
    """Whether two runs minimise one and the same loss, but for their seed; None if a family is not in params.

    In kd, `sum_m w_m KL(p_m || q)` and `KL(sum_m w_m p_m || q)` differ by a constant, so sources whose teachers are
    fused in probability space can be multiplied out: only the teachers' total weights count. Other fusions, and
    other modes, keep their sources apart. The runs are rows of a table, with at least `family` and `mode`.
    """
    if one["mode"] != other["mode"]:
        return False
    mine, its = loss_parts(params, one), loss_parts(params, other)
    if mine is None or its is None:
        return None
    return mine == its and all(said(one, name) == said(other, name) for name in _loss_settings(params, one))


def loss_parts(params: Params, row: pd.Series) -> dict[tuple[Any, ...], float] | None:
    """What a run's soft targets are made of, with weights: single teachers, or fusions that stay whole.

    None if its family, or the lambda that weighs it, is not known.
    """
    if row["mode"] == "none":
        return {}
    family = params.families.get(row["family"])
    if family is None or (said(row, "lambda") is None and family_weights.has_lambda(family)):
        return None
    lambda_, fusion = float(said(row, "lambda") or 0), said(row, "fusion") or family.fusion
    parts: dict[tuple[Any, ...], float] = defaultdict(float)
    at = family.temperatures
    told = {name: name if at.get(name, 1) == 1 else f"{name} at {at[name]!r}" for name in family.teachers}
    for source in family.sources:
        weight = family_weights.resolved_weight(source, lambda_)
        teachers = {told[name]: share for name, share in source.teachers.items() if share > 0}
        if len(teachers) > 1 and not (row["mode"] in LINEAR and fusion == "probability"):
            parts[fusion, *sorted(teachers.items())] += weight
            continue
        for name, share in teachers.items():
            parts[(name,)] += weight * share
    return {part: round(weight, 9) for part, weight in parts.items() if round(weight, 9) > 0}


def _loss_settings(params: Params, row: pd.Series) -> list[str]:
    """The settings that the loss of a run's family and mode has."""
    chosen = params.model_copy(update={"family": row["family"], "mode": row["mode"]})
    return [setting.key for setting in SETTINGS if setting.in_loss and setting.when.holds(chosen)]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "" if pd.isna(value) else repr(float(value)).removesuffix(".0")


def _number(value: str, selector: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise UsageError(f"`{value}` is not a number", where=selector) from None
