"""Which student to deploy: of the recipes that are better than a default one the most surely good, or the default.

Each recipe is judged by its own runs, the default's, and what params.yaml states beforehand, and by nothing else; see
`shrinkage`. So the choice cannot depend on which other recipes stand in the table, but for the one that is chosen. The
test split is told of and has no part in it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from .. import workspace
from ..errors import CheckError, UsageError
from ..files import read_json
from ..params import Params
from . import recipes, shrinkage, stored
from .recipes import Recipe, points, same_loss
from .schema import title_of

# What can be judged by, and the split that it is of. The first chose no epoch, and is meant unless the other is named.
MERITS = {"calib_macro_f1": "calib", "val_macro_f1": "val"}
TOLD = "macro_f1"  # of test
MOST_SEEDS = 64  # that are asked for of one recipe
WORTH_ASKING = 0.25  # probability that they change the choice
ASKED = 3  # recipes


@dataclass
class Case:
    """The candidates, best first, and what is known of each; the default is not among them."""

    params: Params
    merit: str
    default: Recipe
    recipes: list[Recipe]
    posterior: shrinkage.Posterior  # (R,)
    scores: np.ndarray  # (R,), falling among those that are better, and among the others
    better: np.ndarray  # (R,), whether it is shown to be better than the default
    noise: float  # variance of a run
    people: np.ndarray  # (R,), variance of a difference over other people
    measured: np.ndarray  # (R,), whether that was measured, or is the one stated in params.yaml
    students: list[dict[str, Any]]  # see `decide`
    barred: set[str]  # those of them that cost more than is allowed

    @property
    def chosen(self) -> int | None:
        """The place of the recipe that is taken; None where that is the default."""
        return 0 if self.better.any() else None


def decide(
    frame: pd.DataFrame,
    params: Params,
    benchmark: dict[str, Any] | None = None,
    export: dict[str, Any] | None = None,
    costs: dict[str, Any] | None = None,
    *,
    merit: str = "calib_macro_f1",
    cache: Path | None = None,
    never: str | None = None,
) -> dict[str, Any]:
    """Choose a recipe, the seed of it to deploy, and a fallback.

    The table is of `results.read`; in the params, `decide` names the default recipe and states what is expected of the
    others. For `benchmark` and `export`, the student's latency and size, and `costs`, those of several, see `measured`;
    `merit` is a column of `MERITS`; for `cache`, where stored predictions lie, see `stored.find`. `never` names a
    family that is no candidate, as the oracle's. Of several students, recipes of one that is slower or larger than
    `decide` allows are no candidates either.

    Returns
    -------
    dict
        - `ok`: whether latency and size, where known, are within the limits; of several students, the chosen one's.
        - `decided`: false where no recipe is shown to be better than the default, which then is chosen.
        - `chosen`, `default`, `fallback`: recipe, its run to deploy (experiment, seed, commit, model), and its means.
          `fallback` is None if there is one recipe alone.
        - `merit`: the column that the choice goes by.
        - `near_best`: the probability that no recipe is better than the chosen one by more than `decide.near`.
        - `candidates`: a dict a recipe, best first: means; `difference` from the default; `expected`, that shrunken;
          `interval`, 95 %; `score`; `better`, the probability that it is better than the default; `people`, standard
          deviation of the difference over other people.
        - `ask`: recipes whose further `seeds` would change the choice with the `probability` given.
        - `left_out`: recipes with too few seeds, that are never deployed, or whose student costs too much.
        - `students`: where there are several, a dict each, by latency: `student`, `p95_ms`, `size_bytes`,
          `parameters`, `within`, its best recipe on the merit (`label`, and its mean there), and whether it is on the
          `front`: no other is as good, as fast and as small, and better in one. Empty for a single student.
        - `reasoning`: sentences, in the order of the steps.
        - `thresholds`: as in params.yaml.

    Raises
    ------
    UsageError, CheckError
        See `recipes.of`; also if the table has no run of the default, or too few, or if there are several students and
        what one costs is not known.
    """
    case, left_out, why = _case(frame, params, merit, cache, never, costs)
    why += _told(case)
    chosen = case.default if case.chosen is None else case.recipes[case.chosen]
    near = shrinkage.probability_near_best(case.posterior, case.chosen, params.decide.near)
    others = "the default and all other recipes" if case.chosen is not None else "all recipes"
    why.append(
        f"Regret: the probability that {chosen.label} is within {_points(params.decide.near)} points of the best of "
        f"{others} is {near:.2f}."
    )
    ask = _ask(case)
    why.append(_told_ask(case, ask))
    if case.students:
        ok = chosen.setting("student") not in case.barred
        why.append(_told_students(case, costs or {}))
    else:
        ok, cost = _on_cost(params, benchmark, export)
        why += cost
    run = _best_run(chosen, case.merit)
    why.append(
        f"Deployment: {chosen.label}, seed {run['seed']}, of its {chosen.seeds} runs the first on "
        f"{MERITS[case.merit]}, which says little of a seed. Expect of it the mean of {chosen.label}, on test a macro "
        f"F1 of {chosen.mean('macro_f1'):.4f}."
    )
    fallback = _fallback(case, chosen)
    why.append(f"Fallback: {fallback.label}, the next." if fallback else "Fallback: there is no other recipe.")
    return {
        "ok": ok,
        "decided": case.chosen is not None,
        "chosen": _described(chosen, case.merit),
        "default": _described(case.default, case.merit),
        "fallback": _described(fallback, case.merit) if fallback else None,
        "merit": case.merit,
        "near_best": near,
        "candidates": [_candidate(case, place) for place in range(len(case.recipes))],
        "ask": ask,
        "left_out": [recipe.label for recipe in left_out],
        "students": case.students,
        "reasoning": why,
        "thresholds": params.decide.model_dump(),
    }


def measured() -> tuple[dict[str, Any] | None, dict[str, Any] | None, dict[str, Any] | None]:
    """What is measured here of students, if it exists.

    metrics/benchmark.json and metrics/export.json, which the pipeline writes of its own, and metrics/study/costs.json,
    which `study cost` writes of all in a table.
    """
    files = workspace.BENCHMARK_METRICS, workspace.EXPORT_METRICS, workspace.COSTS
    benchmark, export, costs = (read_json(file) if file.is_file() else None for file in files)
    return benchmark, export, costs


def _students(
    everything: list[Recipe], params: Params, merit: str, costs: dict[str, Any] | None
) -> list[dict[str, Any]]:
    """What each of several students costs and reaches, the fastest first; nothing of a single one."""
    names = list(dict.fromkeys(recipe.setting("student") for recipe in everything))
    if len(names) < 2:
        return []
    known = (costs or {}).get("students", {})
    if unknown := [str(name) for name in names if name not in known]:
        raise CheckError(
            f"the table has {len(names)} students, and what {', '.join(unknown)} costs is not known",
            where=str(workspace.COSTS),
            expected="latency and size of each",
            hint="`ferdistill study cost` measures them",
        )
    rules, found = params.decide, []
    for name in names:
        best = max((one for one in everything if one.setting("student") == name), key=lambda one: one.mean(merit))
        cost = {key: known[name][key] for key in ("p95_ms", "size_bytes", "parameters")}
        within = cost["p95_ms"] <= rules.max_p95_ms and cost["size_bytes"] / 1e6 <= rules.max_mb
        found.append({"student": name, **cost, "within": within, "label": best.label, merit: best.mean(merit)})
    places = [(-one[merit], one["p95_ms"], one["size_bytes"]) for one in found]
    for one, place in zip(found, places, strict=True):
        ahead = (other for other in places if other != place)
        one["front"] = not any(all(np.less_equal(other, place)) for other in ahead)
    return sorted(found, key=lambda one: one["p95_ms"])


def _told_students(case: Case, costs: dict[str, Any]) -> str:
    each = "; ".join(f"{s['student']} {s['p95_ms']:.2f} ms and {s['size_bytes'] / 1e6:.1f} MB" for s in case.students)
    front = ", ".join(one["student"] for one in case.students if one["front"])
    where = f"{costs['machine']}, {costs['threads']} thread{'s' if costs['threads'] > 1 else ''}"
    return (
        f"Latency and size: of one {case.params.task.thing}, at the 95th percentile, the students in turn on {where}: "
        f"{each}. Not beaten in {title_of(case.merit)}, latency and size together: {front}."
    )


def _case(
    frame: pd.DataFrame,
    params: Params,
    merit: str,
    cache: Path | None,
    never: str | None,
    costs: dict[str, Any] | None,
) -> tuple[Case, list[Recipe], list[str]]:
    """The candidates with their scores, what is left out, and what that is to be told as."""
    rules = params.decide
    try:
        own = recipes.select(frame, rules.default)
    except UsageError as error:
        raise CheckError(
            f"the default recipe `{rules.default}` is not in the table: {error.what}",
            where="params.yaml, decide.default",
            expected=error.expected,
            hint="run it, or name another default",
        ) from None
    if merit not in own or own[merit].isna().any():
        raise CheckError(
            f"the default recipe has no {title_of(merit)} in this table, as older tables have none",
            where=f"column {merit}",
            expected="a score of images that chose no epoch",
            hint="collect runs of today, or judge by what chose the epochs: `--by val_macro_f1`",
        )
    everything = recipes.of(frame, params, [merit, TOLD])
    default = next(recipe for recipe in everything if recipes.identity(recipe.runs) == recipes.identity(own))
    excluded = [recipe for recipe in everything if recipe.family == never]
    few = [recipe for recipe in everything if recipe.seeds < rules.min_seeds]
    if default in (*few, *excluded):
        raise CheckError(
            f"the default recipe, {default.label}, has {default.seeds} of the {rules.min_seeds} seeds"
            if default in few
            else f"the default recipe, {default.label}, is never deployed",
            where="params.yaml, decide.default and decide.min_seeds",
            expected="enough of them, for every other recipe is judged against it",
            hint="run more seeds of it, or name another default",
        )
    students = _students(everything, params, merit, costs)
    barred = {one["student"] for one in students if not one["within"]}
    costly = [one for one in everything if one.setting("student") in barred and one not in (default, *few, *excluded)]
    found = [recipe for recipe in everything if recipe not in (default, *few, *excluded, *costly)]
    why = [f"{_listed(few)}: fewer than {rules.min_seeds} seeds, so no candidates."] if few else []
    why += [f"{_listed(excluded)}: a row to compare with, so no candidate."] if excluded else []
    limits = f"{rules.max_p95_ms:g} ms and {rules.max_mb:g} MB"
    why += [f"{_listed(costly)}: slower or larger than {limits}, so no candidates."] if costly else []
    noise = float(shrinkage.noise_of_seeds(default.runs[merit].to_numpy(), rules.seed_noise))
    of_people = [_people(default, recipe, merit, params, cache) for recipe in found]
    people = np.array([rules.people_noise**2 if one is None else one for one in of_people])
    posterior = shrinkage.posterior(
        np.array([recipe.mean(merit) - default.mean(merit) for recipe in found]),
        np.array([recipe.seeds for recipe in found]),
        default.seeds,
        noise,
        people,
        rules.spread,
    )
    scores, better = posterior.score(), posterior.probability() > rules.confidence

    def place(at: int) -> tuple[Any, ...]:
        # Of two names of one loss, which have one score, always the same, and the simpler.
        return (
            not better[at],
            -scores[at],
            found[at].complexity,
            [str(value) for value in recipes.identity(found[at].runs)],
        )

    order = sorted(range(len(found)), key=place)
    case = Case(
        params=params,
        merit=merit,
        default=default,
        recipes=[found[at] for at in order],
        posterior=shrinkage.Posterior(*(part[order] for part in posterior)),
        scores=scores[order],
        better=better[order],
        noise=noise,
        people=people[order],
        measured=np.array([one is not None for one in of_people], bool)[order],
        students=students,
        barred=barred,
    )
    return case, [*few, *excluded, *costly], why


def _people(default: Recipe, recipe: Recipe, merit: str, params: Params, cache: Path | None) -> float | None:
    """Variance over other people of a recipe's mean less the default's; None if predictions of theirs are not here."""
    split, drawn = MERITS[merit], []
    known = stored.find(pd.concat([default.runs, recipe.runs]), split, cache)
    if isinstance(known, str):
        return None
    for files in (known.files[: default.seeds], known.files[default.seeds :]):
        each = [stored.scores(file, split, params.calibrate.bins)["macro_f1"].drawn for file in files]
        drawn.append(np.mean(each, axis=0))
    return float((drawn[1] - drawn[0]).var(ddof=1))


def _told(case: Case) -> list[str]:
    """The scores in words."""
    rules, split = case.params.decide, MERITS[case.merit]
    why = [
        f"Judged by: {title_of(case.merit)}, which "
        f"{'chose no epoch' if split == 'calib' else 'chose the epochs too, so that it favours who gains by that'}."
    ]
    if case.recipes:
        ends = " to ".join(dict.fromkeys(_points(np.sqrt(end)) for end in (case.people.min(), case.people.max())))
        stated = len(case.recipes) - int(case.measured.sum())
        of_people = f"stated for {stated}, whose predictions are not here" if stated else "measured"
        why.append(
            f"Noise: {_points(np.sqrt(case.noise))} points of one seed, by the default's runs and params.yaml; "
            f"{ends} of a difference on other people ({of_people})."
        )
    before = (
        f"before any run a recipe is expected within {_points(rules.spread)} points of it (one standard deviation), "
        f"and each is judged by its own runs and the default's alone"
    )
    why.append(f"Default: {case.default.label}, mean {case.default.mean(case.merit):.4f}; {before}.")
    if case.chosen is None:
        least = f"no recipe is better than it with a probability of {rules.confidence:g}"
        why.append(f"Nothing can be decided: {least}, so the default stays: {case.default.label}.")
        return why
    best = _candidate(case, 0)
    why.append(
        f"Chosen: {best['label']}, in the mean of {best['seeds']} seeds {points(best['difference'])} points from the "
        f"default, shrunken {points(best['expected'])} [{points(best['interval'][0])}, {points(best['interval'][1])}]. "
        f"It is better than the default with a probability of {best['better']:.2f}. Of the {case.better.sum()} "
        f"with more than {rules.confidence:g} it has the highest score, {points(best['score'])}: with a probability of "
        f"{shrinkage.CAUTION:g} the true difference is above that, the default's own noise left aside."
    )
    others = [_candidate(case, place) for place in range(1, len(case.recipes))]
    if near := [one["label"] for one in others if one["interval"][1] > best["expected"]]:
        why.append(f"Not distinguished: {len(near)} of the other {len(others)} may be better still: {', '.join(near)}.")
    return why


def _ask(case: Case) -> list[dict[str, Any]]:
    """The recipes whose further seeds may change the choice: how many, and with which probability; fewest first."""
    rules, more = case.params.decide, np.arange(1, MOST_SEEDS + 1)
    ranked = [float(score) for score in case.scores[case.better]]
    found: list[dict[str, Any]] = []
    for place, recipe in enumerate(case.recipes):
        later = shrinkage.posterior(
            recipe.mean(case.merit) - case.default.mean(case.merit),
            recipe.seeds + more,
            case.default.seeds,
            case.noise,
            case.people[place],
            rules.spread,
        )
        now = shrinkage.Posterior(*(part[place] for part in case.posterior))
        rival = next((score for at, score in enumerate(ranked) if at != place), -np.inf)
        first = shrinkage.chance_of_first(now, later, rival, rules.confidence)
        change = 1 - first if place == case.chosen else first
        enough = np.flatnonzero(change >= WORTH_ASKING)
        if len(enough):
            told = {"recipe": recipe.selector, "label": recipe.label}
            found.append({**told, "seeds": int(more[enough[0]]), "probability": float(change[enough[0]])})
    return sorted(found, key=lambda one: (one["seeds"], -one["probability"]))[:ASKED]


def _told_ask(case: Case, ask: list[dict[str, Any]]) -> str:
    if not ask:
        return (
            f"Seeds: no recipe's own, up to {MOST_SEEDS} more, would change the choice with a probability of "
            f"{WORTH_ASKING:g}; other people, a larger {MERITS[case.merit]}, might."
        )
    asked = "; ".join(f"{one['seeds']} more of {one['label']} (probability {one['probability']:.2f})" for one in ask)
    return f"Seeds: these would change the choice with a probability of {WORTH_ASKING:g} or more: {asked}."


def _on_cost(params: Params, benchmark: dict[str, Any] | None, export: dict[str, Any] | None) -> tuple[bool, list[str]]:
    """Whether the student is fast and small enough, as far as is known, in words too."""
    rules = params.decide
    known, within = [], []
    if benchmark and "batch_1" in benchmark:
        p50, p95, threads = benchmark["batch_1"]["p50_ms"], benchmark["batch_1"]["p95_ms"], benchmark["cpu_threads"]
        within.append(p95 <= rules.max_p95_ms)
        known.append(
            f"one {params.task.thing} takes {p50:.2f} ms in the median and {p95:.2f} ms at the 95th percentile "
            f"({benchmark['machine']}, {threads} thread{'s' if threads > 1 else ''}), "
            f"{'within' if within[-1] else 'above'} the limit of {rules.max_p95_ms:g} ms"
        )
    size = (export or {}).get("size_bytes", (benchmark or {}).get("model_bytes"))
    if size is not None:
        within.append(size / 1e6 <= rules.max_mb)
        known.append(f"the file has {size / 1e6:.1f} MB, {'within' if within[-1] else 'above'} {rules.max_mb:g} MB")
    told = "; ".join(known) or "they are not measured here: run `dvc repro`"
    why = [
        "Latency and size: every recipe trains the same network, so they are one number for all and distinguish no "
        f"recipe from another. {told[0].upper()}{told[1:]}."
    ]
    if not all(within):
        why.append("A limit is not met by any recipe: quantise the student, or change its architecture.")
    return all(within), why


def _fallback(case: Case, chosen: Recipe) -> Recipe | None:
    """The next best, the default before those that are not shown to be better; not the same loss under another name."""
    ahead = int(case.better.sum())
    ranked = [*case.recipes[:ahead], case.default, *case.recipes[ahead:]]
    allowed = (r for r in ranked if r is not chosen and r.setting("student") not in case.barred)
    return next((r for r in allowed if not same_loss(case.params, r.row, chosen.row)), None)


def _best_run(recipe: Recipe, merit: str) -> pd.Series:
    return recipe.runs.iloc[int(recipe.runs[merit].argmax())]


def _described(recipe: Recipe, merit: str) -> dict[str, Any]:
    run = _best_run(recipe, merit)
    told = {name: run[name] for name in ("experiment", "commit", "model") if name in run and pd.notna(run[name])}
    return {
        "recipe": recipe.selector,
        "label": recipe.label,
        "teachers": len(recipe.mixture),
        "seeds": recipe.seeds,
        "deploy": {"seed": int(run["seed"]), **told},
        **{name: recipe.mean(name) for name in (merit, TOLD)},
    }


def _candidate(case: Case, place: int) -> dict[str, Any]:
    recipe, found = case.recipes[place], case.posterior
    mean, half = float(found.mean[place]), 1.96 * float(found.deviation[place])
    return {
        **_described(recipe, case.merit),
        "difference": recipe.mean(case.merit) - case.default.mean(case.merit),
        "expected": mean,
        "interval": [mean - half, mean + half],
        "score": float(case.scores[place]),
        "better": float(found.probability()[place]),
        "people": float(np.sqrt(case.people[place])),
    }


def _listed(some: list[Recipe]) -> str:
    return ", ".join(recipe.label for recipe in some)


def _points(value: float) -> str:
    return f"{100 * value:.2f}"
