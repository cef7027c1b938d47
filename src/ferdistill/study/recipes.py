"""The recipes of a results table: what each is made of, and how two of them differ."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ..errors import CheckError, UsageError
from ..params import Params
from ..softlabels import families as family_weights
from . import comparison as compare
from . import results, statistics


@dataclass(frozen=True, eq=False)
class Recipe:
    """All runs that differ in the seed alone.

    Attributes
    ----------
    selector : str
        What `results.select` finds these runs by.
    label : str
        For people.
    runs : DataFrame
        Rows of the table, by ascending seed.
    mixture : dict of str to float
        Each teacher's weight; empty for the baseline.
    sources : int
        Targets that the loss sums over: 1 is fused, more is split.
    """

    selector: str
    label: str
    runs: pd.DataFrame
    mixture: dict[str, float]
    sources: int

    @property
    def family(self) -> str:
        return str(self.runs["family"].iloc[0])

    @property
    def mode(self) -> str:
        return str(self.runs["mode"].iloc[0])

    def setting(self, name: str) -> Any:
        """The value of a column that all runs share; None where it is empty."""
        value = self.runs[name].iloc[0]
        return None if pd.isna(value) or value == "" else value

    def mean(self, metric: str) -> float:
        return float(self.runs[metric].mean())

    @property
    def seeds(self) -> int:
        return len(self.runs)

    @property
    def point(self) -> tuple[tuple[str, float], ...] | None:
        """Where the recipe lies in the simplex of teacher weights; None where the loss depends on more than that."""
        if self.mode != "kd" or self.setting("fusion") != "probability":
            return None
        return point(self.mixture)

    @property
    def complexity(self) -> tuple[int, int, bool, int]:
        """Smaller is simpler: teachers to keep, views to record, dkd's further weights, targets to carry."""
        return len(self.mixture), int(self.setting("views") or 1), self.mode == "dkd", self.sources


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
        If rows cannot stand in one comparison (see `results.comparable`), or params.yaml lacks a family.
    """
    for column in needed:
        if column not in frame or frame[column].isna().any():
            raise UsageError(
                f"the results lack `{column}`" if column not in frame else f"some runs lack a value of `{column}`",
                expected=f"columns {', '.join(needed)}",
                hint="make the table with `ferdistill study collect`",
            )
    results.comparable(frame)
    unknown = sorted(set(frame["family"]) - set(params.families))
    if unknown:
        raise CheckError(
            f"params.yaml has no family {', '.join(unknown)}, so what it is made of is not known",
            expected=f"one of {', '.join(params.families)}",
            hint="add it under `families`, or leave its rows out",
        )
    made = []
    for selector, runs in results.recipes(frame).items():
        runs = runs.sort_values("seed")
        row = runs.iloc[0]
        family = params.families[str(row["family"])]
        lambda_ = float(row["lambda"]) if pd.notna(row["lambda"]) else params.lambda_
        label = "labels alone" if row["mode"] == "none" else results.label(row)
        made.append(Recipe(selector, label, runs, family_weights.mixture(family, lambda_), len(family.sources)))
    families = list(params.families)
    order = ["lambda", "beta", "views"]

    def place(recipe: Recipe) -> tuple[Any, ...]:
        settings = (float(recipe.setting(name) or 0) for name in order)
        return families.index(recipe.family), results.MODES.index(recipe.mode), *settings, recipe.selector

    return sorted(made, key=place)


@dataclass(frozen=True)
class Difference:
    """Candidate less baseline, paired by the seeds that both have.

    Attributes
    ----------
    mean : float
        NaN without a common seed.
    interval : (float, float) or None
        Paired t interval at 95 %; None with fewer than two common seeds.
    per_seed : dict of int to float
    """

    mean: float
    interval: tuple[float, float] | None
    per_seed: dict[int, float]

    @property
    def clear(self) -> bool:
        """Whether the interval excludes zero."""
        return self.interval is not None and (self.interval[0] > 0 or self.interval[1] < 0)


def difference(baseline: Recipe, candidate: Recipe, metric: str) -> Difference:
    """How a metric of two recipes differs."""
    values = (candidate.runs.set_index("seed")[metric] - baseline.runs.set_index("seed")[metric]).dropna()
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


def same_loss(params: Params, one: Recipe, other: Recipe) -> bool:
    """Whether the two train on one loss under two names: see `compare.same_loss`."""
    return bool(compare.same_loss(params, one.runs.iloc[0], other.runs.iloc[0]))
