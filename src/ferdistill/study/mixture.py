"""A mixture design over the simplex of teachers' weights, and the response surface that its runs show.

In mode kd with probabilities fused, a family is its teachers' weights and nothing else, so a score is a function on the
simplex of these. Designs and models are Scheffé's (1958, 1963); see Cornell, Experiments with Mixtures (2002).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations
from math import comb
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats
from scipy.optimize import minimize

from .. import yaml_file
from ..errors import CheckError, UsageError
from ..files import write_text
from ..params import Params
from ..softlabels import families
from . import recipes
from .recipes import Recipe
from .schema import METRIC, SETTING

LEVEL = 0.95
GRID = 20  # steps along an edge of the simplex, from which the best of the surface is sought


class Blend(NamedTuple):
    """A point of the design."""

    kind: str  # vertex, edge, centroid or interior
    family: str
    weights: dict[str, Fraction]  # of the teachers that count
    new: bool  # whether params.yaml has no such family yet


def design(params: Params, teachers: Sequence[str]) -> list[Blend]:
    """The runs that a quadratic surface over some teachers needs, and its fit can be tested by.

    Each teacher alone; each pair in equal parts; all in equal parts; and, halfway from there to each vertex, points of
    the interior (an augmented simplex-centroid design). A family of params.yaml at such a point is taken as it is.

    Raises
    ------
    UsageError
        If there are fewer than two teachers, or one is not in params.yaml.
    """
    unknown = [name for name in teachers if name not in params.teachers]
    if unknown or len(set(teachers)) < max(2, len(teachers)):
        problem = f"no teacher {', '.join(unknown)}" if unknown else f"no mixture of {', '.join(teachers) or 'nothing'}"
        raise UsageError(problem, expected=f"two or more of {', '.join(params.teachers)}, each once")
    size = len(teachers)
    made = [("vertex", name, {name: Fraction(1)}) for name in teachers]
    for pair in combinations(teachers, 2):
        made.append(("edge", "-".join(("mix", *pair)), dict.fromkeys(pair, Fraction(1, 2))))
    if size > 2:
        made.append(("centroid", "mix-all", dict.fromkeys(teachers, Fraction(1, size))))
        for name in teachers:
            rest = dict.fromkeys(teachers, Fraction(1, 2 * size))
            made.append(("interior", f"mix-mostly-{name}", rest | {name: Fraction(size + 1, 2 * size)}))
    known = {
        recipes.point(families.mixture(family, params.lambda_)): name
        for name, family in reversed(params.families.items())
        if family.sources
        and family.fusion == "probability"
        and not family.temperatures
        and not families.has_lambda(family)
    }
    found = []
    for kind, name, weights in made:
        here = known.get(recipes.point({teacher: float(weight) for teacher, weight in weights.items()}))
        if here is None and name in params.families:
            raise UsageError(f"there is a family `{name}` of other weights", where="params.yaml, families")
        found.append(Blend(kind, here or name, weights, here is None))
    return found


def write_families(file: Path, blends: Sequence[Blend]) -> list[str]:
    """Add the families that params.yaml does not have, every other line staying as it was; their names."""
    new = [blend for blend in blends if blend.new]
    text = file.read_text(encoding="utf-8")
    for blend in new:
        weights = [f"{name}: {_decimal(weight)}" for name, weight in blend.weights.items()]
        # Of rounded numbers the last takes what is left, since they have to sum to 1.
        rounded = [Fraction(_decimal(weight)) for weight in blend.weights.values()]
        left = 1 - sum(rounded[:-1], Fraction(0))
        weights[-1] = f"{list(blend.weights)[-1]}: {_decimal(left)}"
        source = f"    - {{weight: 1.0, teachers: {{{', '.join(weights)}}}}}"
        entry = [
            f"{blend.family}:  # `ferdistill study mixture`: {blend.kind}",
            "  fusion: probability",
            "  sources:",
            source,
        ]
        text = yaml_file.with_entry(text, "families", "\n".join(entry))
    if new:
        write_text(file, text)
    return [blend.family for blend in new]


def write_grid(file: Path, blends: Sequence[Blend], seeds: Sequence[int]) -> None:
    """The design as a grid of `study run`; a UsageError if the file is there."""
    if file.exists():
        raise UsageError("a file is there already", where=str(file), hint="name another with --out, or remove it")
    cells = [f"  - {{family: {blend.family}, mode: kd, seeds: design}}   # {blend.kind}" for blend in blends]
    head = "# A mixture design over the teachers: `ferdistill study run --grid` this file, then `study surface`."
    write_text(file, "\n".join([head, "seeds:", f"  design: {list(seeds)}", "cells:", *cells, ""]))


def _decimal(weight: Fraction) -> str:
    return f"{float(weight):.10f}".rstrip("0")


@dataclass(frozen=True)
class Surface:
    """A quadratic of the weights, fitted by ordinary least squares to runs."""

    teachers: list[str]
    coefficients: np.ndarray  # (P,): of each weight, then of the product of each two
    covariance: np.ndarray  # (P, P)
    freedom: int

    @property
    def terms(self) -> list[str]:
        return [*self.teachers, *(f"{one} × {other}" for one, other in combinations(self.teachers, 2))]

    def at(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The fitted score and its standard error, each (Q,), at weights (Q, M); of the mean, not of one seed."""
        row = _quadratic(np.atleast_2d(weights))
        return row @ self.coefficients, np.sqrt(np.einsum("qp,pr,qr->q", row, self.covariance, row))

    @property
    def quantile(self) -> float:
        """Student's, of two-sided intervals."""
        return float(stats.t.ppf(0.5 + LEVEL / 2, self.freedom))


def _quadratic(weights: np.ndarray) -> np.ndarray:
    """Scheffé's canonical polynomial: no constant and no squares, for the weights sum to 1."""
    products = [weights[:, i] * weights[:, j] for i, j in combinations(range(weights.shape[1]), 2)]
    return np.column_stack([weights, *products])


def fit(frame: pd.DataFrame, params: Params, metric: str = "macro_f1", beside: Recipe | None = None) -> dict[str, Any]:
    """The response surface of a table's runs in mode kd, of one set of other settings.

    What a seed adds to every run is taken off first as a block, where seeds repeat (Cornell 2002, ch. 8). Of the
    settings that occur, as epochs, those with most runs are fitted, or those of the recipe `beside`.

    Returns
    -------
    dict
        - `metric`, `teachers`, `runs`, `settings`.
        - `terms`: by name, `value`, `interval`, `p`: of a weight the score of that teacher alone, of a product four
          times what a mixture in equal parts brings over the mean of the two.
        - `noise`: standard deviation of one run, from what the surface leaves; `of_seeds`: that of repeated runs.
        - `lack_of_fit`: p of an F test that there is more to the means of the points than the surface has; None where
          no point is over, or no run repeats.
        - `points`: each point run: `recipes`, `weights`, `seeds`, `mean`, `fitted`, `interval` of that.
        - `best`: where the surface is best, as a point; `over_best_point`, the `difference` there from the best of the
          points run, with its `interval`, which does not count that the place was sought.
        - `surface`: the `Surface` itself.

    Raises
    ------
    CheckError
        If there are fewer points than terms, or their weights cannot tell the terms apart.
    """
    chosen = _alike(recipes.of(frame, params, [metric]), params, beside)
    # A teacher that was never mixed with others, as votes are, is no corner of this simplex.
    mixed = {name for recipe in chosen if len(recipe.mixture) > 1 for name in recipe.mixture}
    teachers = [name for name in params.teachers if name in mixed]
    chosen = [recipe for recipe in chosen if mixed.issuperset(recipe.mixture)]
    points: dict[Any, list[Recipe]] = {}
    for recipe in chosen:
        points.setdefault(recipe.point, []).append(recipe)
    needed = len(teachers) + comb(len(teachers), 2)
    weights = np.array([[some[0].mixture.get(name, 0.0) for name in teachers] for some in points.values()])
    rank = np.linalg.matrix_rank(_quadratic(weights)) if len(weights) and len(teachers) > 1 else 0
    if rank < needed or len(teachers) < 2:
        raise CheckError(
            f"of {len(points)} mixtures of {len(teachers)} teachers {rank} terms of the surface follow, of {needed}",
            expected="runs of a mixture design, in mode kd with probabilities fused",
            hint="`ferdistill study mixture` lists them",
        )
    runs = pd.concat([one.runs.assign(at=at) for at, some in enumerate(points.values()) for one in some[:1]])
    surface, left = _least_squares(weights[runs["at"]], runs[metric].to_numpy(), runs["seed"].to_numpy(), teachers)
    result: dict[str, Any] = {"metric": metric, "teachers": teachers, "runs": len(runs), "surface": surface}
    result["settings"] = {key: chosen[0].setting(key) for key in SETTING if chosen[0].setting(key) is not None}
    errors = np.sqrt(np.diag(surface.covariance))
    p = 2 * stats.t.sf(np.abs(surface.coefficients) / errors, surface.freedom)
    ends = zip(surface.terms, surface.coefficients, surface.quantile * errors, p, strict=True)
    result["terms"] = {
        name: {"value": float(value), "interval": [float(value - half), float(value + half)], "p": float(one)}
        for name, value, half, one in ends
    }
    result |= _tested(left, runs, len(points) - needed, surface.freedom)
    fitted = [_told(surface, row) for row in weights]
    result["points"] = [
        {
            "recipes": [recipe.label for recipe in some],
            "seeds": some[0].seeds,
            "mean": float(some[0].runs[metric].mean()),
            **one,
        }
        for some, one in zip(points.values(), fitted, strict=True)
    ]
    return result | {"best": _best(surface, metric, weights)}


def _alike(found: list[Recipe], params: Params, beside: Recipe | None) -> list[Recipe]:
    """The recipes that are points of the simplex and differ in nothing else, those with most seeds first."""
    groups: dict[tuple[Any, ...], list[Recipe]] = {}
    for recipe in found:
        if recipe.point is not None and not params.families[recipe.family].temperatures:
            groups.setdefault(_others(recipe), []).append(recipe)
    if beside is not None:
        some = groups.get(_others(beside), [])
    else:
        some = max(groups.values(), key=lambda one: sum(recipe.seeds for recipe in one), default=[])
    return sorted(some, key=lambda recipe: -recipe.seeds)


def _others(recipe: Recipe) -> tuple[Any, ...]:
    return tuple(recipe.setting(key) for key, setting in SETTING.items() if setting.in_loss)


def _least_squares(
    weights: np.ndarray, scores: np.ndarray, seeds: np.ndarray, teachers: list[str]
) -> tuple[Surface, np.ndarray]:
    """The surface, and what it and the seeds leave of each run."""
    terms = _quadratic(weights)
    blocks = (seeds[:, None] == np.unique(seeds)).astype(float)
    repeated = blocks.sum(axis=0).min() > 1
    # Centred, so that the surface is that of the mean seed; the last follows from the others.
    matrix = np.column_stack([terms, (blocks - blocks.mean(axis=0))[:, :-1]]) if repeated else terms
    freedom = len(scores) - np.linalg.matrix_rank(matrix)
    if freedom < 1:
        raise CheckError(f"{len(scores)} runs leave nothing to tell noise by", expected="more seeds of each mixture")
    inverse = np.linalg.pinv(matrix.T @ matrix)
    found = inverse @ matrix.T @ scores
    left = scores - matrix @ found
    size = terms.shape[1]
    covariance = inverse[:size, :size] * float(left @ left) / freedom
    return Surface(teachers, found[:size], covariance, int(freedom)), left


def _tested(left: np.ndarray, runs: pd.DataFrame, over: int, freedom: int) -> dict[str, Any]:
    """The noise, and whether the surface lacks something: lack of fit against pure error, exact for equal seeds."""
    at = runs["at"].to_numpy()
    means = np.array([left[at == point].mean() for point in at])
    lack, pure = float(means @ means), float((left - means) @ (left - means))
    of_pure = freedom - over
    noise = float(np.sqrt((lack + pure) / freedom))
    tested = over > 0 and of_pure > 0 and pure > 0
    p = float(stats.f.sf((lack / over) / (pure / of_pure), over, of_pure)) if tested else None
    return {"noise": noise, "of_seeds": float(np.sqrt(pure / of_pure)) if of_pure > 0 else None, "lack_of_fit": p}


def _told(surface: Surface, weights: np.ndarray) -> dict[str, Any]:
    """A place on the surface."""
    value, error = (float(part[0]) for part in surface.at(weights))
    half = surface.quantile * error
    held = {
        name: round(float(weight), 4) for name, weight in zip(surface.teachers, weights, strict=True) if weight > 5e-5
    }
    return {"weights": held, "fitted": value, "interval": [value - half, value + half]}


def place(surface: Surface, mixture: dict[str, float]) -> dict[str, Any]:
    """Where a family lies on the surface; a UsageError if it has a teacher that the surface has not."""
    if unknown := sorted(set(mixture) - set(surface.teachers)):
        raise UsageError(
            f"the surface has no teacher {', '.join(unknown)}", expected=f"of {', '.join(surface.teachers)}"
        )
    return _told(surface, np.array([mixture.get(name, 0.0) for name in surface.teachers]))


def _best(surface: Surface, metric: str, run: np.ndarray) -> dict[str, Any]:
    """The place where the surface is best, and how surely it is better there than at the best mixture that was run."""
    sign = -1.0 if METRIC[metric].better == "higher" else 1.0
    size = len(surface.teachers)
    starts = np.array([row for row in np.ndindex(*[GRID + 1] * size) if sum(row) == GRID], float) / GRID
    start = starts[(sign * surface.at(starts)[0]).argmin()]
    bounds, total = [(0.0, 1.0)] * size, {"type": "eq", "fun": lambda weights: weights.sum() - 1}
    found = minimize(lambda w: sign * surface.at(w)[0][0], start, bounds=bounds, constraints=[total], method="SLSQP")
    weights = np.clip(found.x, 0, None) / np.clip(found.x, 0, None).sum() if found.success else start
    known = run[(sign * surface.at(run)[0]).argmin()]
    step = (_quadratic(weights[None]) - _quadratic(known[None]))[0]
    value = float(step @ surface.coefficients)
    half = surface.quantile * float(np.sqrt(max(step @ surface.covariance @ step, 0.0)))
    return {
        **_told(surface, weights),
        "over_best_point": {"difference": value, "interval": [value - half, value + half]},
    }
