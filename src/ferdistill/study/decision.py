"""Which student to deploy, by the report's rules (§4.1.7, §8, §9), with the noise of the seeds taken seriously.

A large drop of ECE with a negligible loss of macro F1 is acceptable, the reverse is not. Macro F1 is that of the `val`
split, so that the choice does not see the test split; ECE is after scaling and on `test`, the only split on which the
table has it. Of recipes that the paired interval cannot distinguish, the simpler is taken.
"""

from dataclasses import dataclass
from typing import Any

import pandas as pd

from .. import workspace
from ..errors import CheckError
from ..files import read_json
from ..params import Params
from .recipes import Difference, Recipe, difference, of, same_loss, span
from .schema import METRIC

MERIT, CALIBRATION = "val_macro_f1", "ece_scaled"
NEEDED = [MERIT, "macro_f1", "accuracy", "ece", CALIBRATION]


@dataclass
class Case:
    """The candidates, the best of them on val, what each loses against it, and what was reasoned so far."""

    params: Params
    recipes: list[Recipe]
    leader: Recipe
    losses: dict[Recipe, Difference]  # of all but the leader
    acceptable: list[Recipe]
    why: list[str]


def decide(
    frame: pd.DataFrame,
    params: Params,
    benchmark: dict[str, Any] | None = None,
    export: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Choose a recipe, the seed of it to deploy, and a fallback.

    The table is of `results.read`; in the params, `decide` holds the thresholds, and `families` say how many teachers
    each takes. For `benchmark` and `export`, the student's latency and size, see `measured`.

    Returns
    -------
    dict
        - `ok`: whether latency and size, where known, are within the limits.
        - `chosen`, `fallback`: recipe, its run to deploy (experiment, seed, commit, model), and its means. `fallback`
          is None if there is one recipe alone.
        - `candidates`: a dict a recipe: means, difference from the leader on `val` with its interval, `acceptable`,
          `indistinguishable`, `pareto`.
        - `left_out`: recipes with too few seeds.
        - `reasoning`: sentences, in the order of the steps.
        - `thresholds`: as in params.yaml.

    Raises
    ------
    UsageError, CheckError
        See `recipes.of`; also if no recipe has enough seeds.
    """
    everything = of(frame, params, NEEDED)
    left_out = [recipe for recipe in everything if recipe.seeds < params.decide.min_seeds]
    case = _case(params, [recipe for recipe in everything if recipe not in left_out], left_out)
    _tell_losses(case)
    chosen = _by_simplicity(case, _by_calibration(case))
    fronts = pareto(case.recipes)
    place = "on it." if chosen in fronts else "not on it: the means put it behind, the noise of the seeds does not."
    case.why.append(
        f"Pareto front: by the means of macro F1 on val and of ECE after scaling it is {_listed(fronts)}. "
        f"{chosen.label} is {place}"
    )
    ok = _on_cost(case, benchmark, export)
    run = _best_run(chosen)
    case.why.append(
        f"Deployment: {chosen.label}, seed {run['seed']}, of its {chosen.seeds} runs the best on val "
        f"({run[MERIT]:.4f}). On test it has a macro F1 of {run['macro_f1']:.4f} and, after scaling, "
        f"an ECE of {run[CALIBRATION]:.4f}. Expect of a run like it the mean, {chosen.mean('macro_f1'):.4f}."
    )
    fallback = _fallback(case, chosen)
    none = Difference(0.0, None, {})
    candidates = [
        {
            **_described(recipe),
            "loss": loss.mean,
            "loss_interval": list(loss.interval) if loss.interval else None,
            "indistinguishable": not loss.clear,
            "acceptable": recipe in case.acceptable,
            "pareto": recipe in fronts,
        }
        for recipe in case.recipes
        for loss in [case.losses.get(recipe, none)]
    ]
    return {
        "ok": ok,
        "chosen": _described(chosen),
        "fallback": _described(fallback) if fallback else None,
        "candidates": candidates,
        "left_out": [recipe.label for recipe in left_out],
        "reasoning": case.why,
        "thresholds": params.decide.model_dump(),
    }


def measured() -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """What the pipeline measured of its student here, metrics/benchmark.json and metrics/export.json, if they exist."""
    files = workspace.BENCHMARK_METRICS, workspace.EXPORT_METRICS
    benchmark, export = (read_json(file) if file.is_file() else None for file in files)
    return benchmark, export


def pareto(recipes: list[Recipe]) -> list[Recipe]:
    """Those that no other recipe beats or equals in both means (macro F1 on val, ECE after scaling) and beats in one.

    Latency and size are the same for every recipe, so they distinguish none.
    """
    signs = {name: 1 if METRIC[name].better == "higher" else -1 for name in (MERIT, CALIBRATION)}
    merits = [[sign * recipe.mean(name) for name, sign in signs.items()] for recipe in recipes]

    def beats(one: list[float], other: list[float]) -> bool:
        return one != other and all(a >= b for a, b in zip(one, other, strict=True))

    return [r for r, own in zip(recipes, merits, strict=True) if not any(beats(other, own) for other in merits)]


def _case(params: Params, recipes: list[Recipe], left_out: list[Recipe]) -> Case:
    """The candidates judged against the best of them on val, over the seeds that all have."""
    rules = params.decide
    if not recipes:
        raise CheckError(
            f"no recipe has {rules.min_seeds} seeds",
            expected="at least one",
            hint="run more seeds, or lower decide.min_seeds in params.yaml",
        )
    common = set.intersection(*(set(recipe.runs["seed"]) for recipe in recipes))
    if len(common) < rules.min_seeds:
        raise CheckError(
            f"the {len(recipes)} recipes have {len(common)} seeds in common",
            expected=f"{rules.min_seeds}, so that like is compared with like",
            hint="run the same seeds of every recipe, or leave rows out of the table",
        )

    def on_val(recipe: Recipe) -> float:
        return float(recipe.runs.loc[recipe.runs["seed"].isin(common), MERIT].mean())

    leader = max(recipes, key=lambda recipe: (on_val(recipe), _simplicity(recipe)))
    losses = {recipe: difference(recipe, leader, MERIT) for recipe in recipes if recipe is not leader}
    acceptable = [leader]
    for recipe, loss in losses.items():
        perhaps = loss.mean <= rules.large_macro_f1 and not loss.clear
        acceptable += [recipe] if loss.mean <= rules.negligible_macro_f1 or perhaps else []
    why = [f"{_listed(left_out)}: fewer than {rules.min_seeds} seeds, so no candidates."] if left_out else []
    why.append(
        f"Leader: of {len(recipes)} recipes, {leader.label} has the highest macro F1 on val in the mean of the "
        f"{len(common)} seeds that all have, {on_val(leader):.4f}. The choice goes by val, so that the test split "
        f"stays one for reporting; on test its mean is {leader.mean('macro_f1'):.4f}."
    )
    return Case(params, recipes, leader, losses, acceptable, why)


def _tell_losses(case: Case) -> None:
    """What noise may have made of the losses, and which are accepted."""
    rules, others = case.params.decide, list(case.losses)
    near = [recipe for recipe, loss in case.losses.items() if not loss.clear]
    if near:
        case.why.append(
            f"Noise: the paired 95 % interval of the leader's lead on val includes zero for {len(near)} of "
            f"{len(others)} recipes, which these seeds cannot distinguish from it: {_listed(near)}."
        )
    elif others:
        case.why.append(
            "Noise: the paired 95 % interval of the leader's lead on val excludes zero for every other recipe."
        )
    refused = [recipe for recipe in others if recipe not in case.acceptable]
    taken = [f"{recipe.label} ({span(case.losses[recipe])})" for recipe in others if recipe in case.acceptable]
    left = f"Beside the leader, its lead and 95 % interval in brackets, that leaves {', '.join(taken)}."
    ends = ["None is refused.", f"{_listed(refused)} is refused.", f"The other {len(refused)} are refused."]
    case.why.append(
        f"Macro F1: a loss of up to {_points(rules.negligible_macro_f1)} points is negligible; up to "
        f"{_points(rules.large_macro_f1)} it is accepted where the interval includes zero; above that it is large. "
        f"{left if taken else 'That leaves the leader alone.'} {ends[min(len(refused), 2)]}"
    )
    unproven = [recipe for recipe in refused if recipe in near]
    if unproven:
        case.why.append(
            f"Unproven: the large mean loss of {_listed(unproven)} may be noise, though it refuses "
            f"{'it' if len(unproven) == 1 else 'them'}; more seeds would tell."
        )


def _by_calibration(case: Case) -> Recipe:
    """The acceptable recipe with the largest drop of ECE, if that drop is large and clear of noise."""
    leader, least = case.leader, case.params.decide.large_ece
    drops = {recipe: difference(recipe, leader, CALIBRATION) for recipe in case.losses}
    costly = [
        f"{recipe.label} ({'large' if fall >= least else 'minor'}: {_points(fall)} points of ECE for "
        f"{_points(case.losses[recipe].mean)} of macro F1)"
        for recipe, drop in drops.items()
        if recipe not in case.acceptable and (fall := drop.mean) > 0
    ]
    if costly:
        case.why.append(f"ECE alone: lower, but for an unacceptable loss of macro F1, is that of {', '.join(costly)}.")
    better = [one for one, drop in drops.items() if one in case.acceptable and drop.mean >= least and drop.clear]
    if not better:
        case.why.append(
            f"Calibration: no acceptable recipe has an ECE after scaling that is lower than the leader's "
            f"({leader.mean(CALIBRATION):.4f}) by {_points(least)} points or more and clear of noise, "
            f"so calibration moves nothing."
        )
        return leader
    chosen = max(better, key=lambda recipe: (drops[recipe].mean, _simplicity(recipe)))
    case.why.append(
        f"Calibration: {chosen.label} has an ECE after scaling of {chosen.mean(CALIBRATION):.4f} against the "
        f"leader's {leader.mean(CALIBRATION):.4f}, a large drop ({span(drops[chosen])}) for an "
        f"acceptable loss of macro F1 ({span(case.losses[chosen])}): it goes before {leader.label}."
    )
    return chosen


def _by_simplicity(case: Case, chosen: Recipe) -> Recipe:
    """The simplest acceptable recipe that neither macro F1 nor ECE distinguishes from the one chosen so far."""
    equals = []
    for recipe in case.acceptable:
        f1, ece = (difference(chosen, recipe, metric) for metric in (MERIT, CALIBRATION))
        if recipe is not chosen and not f1.clear and (ece.mean < case.params.decide.large_ece or not ece.clear):
            equals.append(recipe)
    simplest = min([chosen, *equals], key=_simplest_first)
    if simplest is chosen:
        case.why.append(f"Simplicity: no recipe that cannot be distinguished from {chosen.label} is simpler.")
        return chosen
    what = (
        "the two train on one loss, and it is fused, so that one target is carried"
        if same_loss(case.params, simplest.row, chosen.row)
        else f"it is the simplest ({_teachers(simplest)} against {_teachers(chosen)})"
    )
    case.why.append(
        f"Simplicity: {_listed(equals)} cannot be distinguished from {chosen.label} in macro F1 by the paired "
        f"interval, nor in ECE by a large and clear difference. Of these {simplest.label} is taken: {what}."
    )
    return simplest


def _on_cost(case: Case, benchmark: dict[str, Any] | None, export: dict[str, Any] | None) -> bool:
    """Whether the student is fast and small enough, as far as is known."""
    rules = case.params.decide
    known, within = [], []
    if benchmark and "batch_1" in benchmark:
        p50, p95, threads = benchmark["batch_1"]["p50_ms"], benchmark["batch_1"]["p95_ms"], benchmark["cpu_threads"]
        within.append(p95 <= rules.max_p95_ms)
        known.append(
            f"one {case.params.task.thing} takes {p50:.2f} ms in the median and {p95:.2f} ms at the 95th percentile "
            f"({benchmark['machine']}, {threads} thread{'s' if threads > 1 else ''}), "
            f"{'within' if within[-1] else 'above'} the limit of {rules.max_p95_ms:g} ms"
        )
    size = (export or {}).get("size_bytes", (benchmark or {}).get("model_bytes"))
    if size is not None:
        within.append(size / 1e6 <= rules.max_mb)
        known.append(f"the file has {size / 1e6:.1f} MB, {'within' if within[-1] else 'above'} {rules.max_mb:g} MB")
    told = "; ".join(known) or "they are not measured here: run `dvc repro`"
    case.why.append(
        "Latency and size: every recipe trains the same network, so they are one number for all and distinguish no "
        f"recipe from another. {told[0].upper()}{told[1:]}."
    )
    if not all(within):
        case.why.append("A limit is not met by any recipe: quantise the student, or change its architecture.")
    return all(within)


def _fallback(case: Case, chosen: Recipe) -> Recipe | None:
    """Another recipe, not the same loss under another name: an acceptable one, and simple."""
    others = [r for r in case.recipes if r is not chosen and not same_loss(case.params, r.row, chosen.row)]
    if not others:
        case.why.append("Fallback: there is no other recipe.")
        return None
    if good := [recipe for recipe in others if recipe in case.acceptable]:
        found = min(good, key=_simplest_first)
        reason = f"the simplest acceptable recipe beside it ({_teachers(found)})"
    else:
        found = max(others, key=lambda recipe: (recipe.mean(MERIT), _simplicity(recipe)))
        reason = "none beside it is acceptable, so the next in macro F1 on val"
    case.why.append(f"Fallback: {found.label}, {reason}.")
    return found


def _best_run(recipe: Recipe) -> pd.Series:
    """Of its seeds the best on val."""
    return recipe.runs.iloc[int(recipe.runs[MERIT].argmax())]


def _described(recipe: Recipe) -> dict[str, Any]:
    run = _best_run(recipe)
    told = {name: run[name] for name in ("experiment", "commit", "model") if name in run and pd.notna(run[name])}
    return {
        "recipe": recipe.selector,
        "label": recipe.label,
        "teachers": len(recipe.mixture),
        "seeds": recipe.seeds,
        "deploy": {"seed": int(run["seed"]), **told},
        **{name: recipe.mean(name) for name in NEEDED},
    }


def _simplicity(recipe: Recipe) -> tuple[int, ...]:
    """Larger is simpler: breaks ties of means."""
    return tuple(-part for part in recipe.complexity)


def _simplest_first(recipe: Recipe) -> tuple[Any, ...]:
    return recipe.complexity, -recipe.mean(MERIT)


def _listed(recipes: list[Recipe]) -> str:
    return ", ".join(recipe.label for recipe in recipes)


def _teachers(recipe: Recipe) -> str:
    return f"{len(recipe.mixture)} teacher{'' if len(recipe.mixture) == 1 else 's'}"


def _points(value: float) -> str:
    return f"{100 * value:.2f}"
