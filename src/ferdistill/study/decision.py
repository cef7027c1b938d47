"""Which student to deploy, by the report's rules (§4.1.7, §8, §9), with the noise of the seeds taken seriously.

A large drop of ECE with a negligible loss of macro F1 is acceptable, the reverse is not. Macro F1 is that of the `val`
split, so that the choice does not see the test split; ECE is after scaling and on `test`, the only split on which the
table has it. Of recipes that the paired interval does not tell apart, the simpler is taken.
"""

from typing import Any

import pandas as pd

from .. import workspace
from ..errors import CheckError
from ..files import read_json
from ..params import DecideParams, Params
from .recipes import Difference, Recipe, difference, of, same_loss, span

NEEDED = ["val_macro_f1", "macro_f1", "accuracy", "ece", "ece_scaled"]


def decide(
    frame: pd.DataFrame,
    params: Params,
    benchmark: dict[str, Any] | None = None,
    export: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Choose a recipe, the seed of it to deploy, and a fallback.

    Parameters
    ----------
    frame : DataFrame
        From `results.read`.
    params : Params
        `decide` holds the thresholds; `families` say how many teachers each takes.
    benchmark, export : dict, optional
        The student's latency and size; see `measured`.

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
    rules = params.decide
    everything = of(frame, params, NEEDED)
    recipes = [recipe for recipe in everything if recipe.seeds >= rules.min_seeds]
    left_out = [recipe for recipe in everything if recipe.seeds < rules.min_seeds]
    if not recipes:
        raise CheckError(
            f"no recipe has {rules.min_seeds} seeds",
            expected="at least one",
            hint="run more seeds, or lower decide.min_seeds in params.yaml",
        )
    why: list[str] = []
    if left_out:
        why.append(f"{_listed(left_out)}: fewer than {rules.min_seeds} seeds, so no candidates.")

    common = set.intersection(*(set(recipe.runs["seed"]) for recipe in recipes))
    if len(common) < rules.min_seeds:
        raise CheckError(
            f"the {len(recipes)} recipes have {len(common)} seeds in common",
            expected=f"{rules.min_seeds}, so that like is compared with like",
            hint="run the same seeds of every recipe, or leave rows out of the table",
        )

    def on_val(recipe: Recipe) -> float:
        return float(recipe.runs.loc[recipe.runs["seed"].isin(common), "val_macro_f1"].mean())

    leader = max(recipes, key=lambda recipe: (on_val(recipe), _simplicity(recipe)))
    why.append(
        f"Leader: of {len(recipes)} recipes, {leader.label} has the highest macro F1 on val in the mean of the "
        f"{len(common)} seeds that all have, {_share(on_val(leader))}. The choice goes by val, so that the test split "
        f"stays one for reporting; on test its mean is {_share(leader.mean('macro_f1'))}."
    )
    losses = {recipe.selector: difference(recipe, leader, "val_macro_f1") for recipe in recipes if recipe is not leader}
    acceptable = [leader]
    for recipe in recipes:
        if recipe is not leader and _acceptable(losses[recipe.selector], rules):
            acceptable.append(recipe)
    why += _on_losses(leader, recipes, acceptable, losses, rules)

    chosen = _by_calibration(leader, recipes, acceptable, losses, rules, why)
    chosen = _by_simplicity(params, chosen, acceptable, why)
    fronts = pareto(recipes)
    why.append(
        f"Pareto front: by the means of macro F1 on val and of ECE after scaling it is {_listed(fronts)}. "
        + (
            f"{chosen.label} is on it."
            if chosen in fronts
            else f"{chosen.label} is not on it: the means put it behind, the noise of the seeds does not."
        )
    )
    ok = _on_cost(benchmark, export, rules, why)

    run = chosen.runs.iloc[int(chosen.runs["val_macro_f1"].argmax())]
    why.append(
        f"Deployment: {chosen.label}, seed {run['seed']}, of its {chosen.seeds} runs the best on val "
        f"({_share(run['val_macro_f1'])}). On test it has a macro F1 of {_share(run['macro_f1'])} and, after scaling, "
        f"an ECE of {_share(run['ece_scaled'])}. Expect of a run like it the mean, {_share(chosen.mean('macro_f1'))}."
    )
    fallback = _fallback(params, chosen, recipes, acceptable, why)
    return {
        "ok": ok,
        "chosen": _described(chosen),
        "fallback": _described(fallback) if fallback else None,
        "candidates": [
            {
                **_described(recipe),
                "loss": losses[recipe.selector].mean if recipe is not leader else 0.0,
                "loss_interval": _interval(losses.get(recipe.selector)),
                "indistinguishable": recipe is leader or not losses[recipe.selector].clear,
                "acceptable": recipe in acceptable,
                "pareto": recipe in fronts,
            }
            for recipe in recipes
        ],
        "left_out": [recipe.label for recipe in left_out],
        "reasoning": why,
        "thresholds": rules.model_dump(),
    }


def measured() -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """What the pipeline measured of its student here, metrics/benchmark.json and metrics/export.json, if they exist."""
    files = [workspace.METRICS / f"{name}.json" for name in ("benchmark", "export")]
    benchmark, export = (read_json(file) if file.is_file() else None for file in files)
    return benchmark, export


def pareto(recipes: list[Recipe]) -> list[Recipe]:
    """Those that no other recipe beats or equals in both means (macro F1 on val, ECE after scaling) and beats in one.

    Latency and size are the same for every recipe, so they tell none apart.
    """

    def beaten(one: Recipe) -> bool:
        f1, ece = one.mean("val_macro_f1"), one.mean("ece_scaled")
        return any(
            other.mean("val_macro_f1") >= f1
            and other.mean("ece_scaled") <= ece
            and (other.mean("val_macro_f1") > f1 or other.mean("ece_scaled") < ece)
            for other in recipes
        )

    return [recipe for recipe in recipes if not beaten(recipe)]


def _acceptable(loss: Difference, rules: DecideParams) -> bool:
    if loss.mean <= rules.negligible_macro_f1:
        return True
    return loss.mean <= rules.large_macro_f1 and not loss.clear


def _on_losses(
    leader: Recipe,
    recipes: list[Recipe],
    acceptable: list[Recipe],
    losses: dict[str, Difference],
    rules: DecideParams,
) -> list[str]:
    why = []
    others = [recipe for recipe in recipes if recipe is not leader]
    near = [recipe for recipe in others if not losses[recipe.selector].clear]
    if near:
        why.append(
            f"Noise: the paired 95 % interval of the leader's lead on val includes zero for {len(near)} of "
            f"{len(others)} recipes, which these seeds do not tell from it: {_listed(near)}."
        )
    elif others:
        why.append("Noise: the paired 95 % interval of the leader's lead on val excludes zero for every other recipe.")
    refused = [recipe for recipe in others if recipe not in acceptable]
    taken = [f"{recipe.label} ({span(losses[recipe.selector])})" for recipe in others if recipe in acceptable]
    why.append(
        f"Macro F1: a loss of up to {_points(rules.negligible_macro_f1)} points is negligible; up to "
        f"{_points(rules.large_macro_f1)} it is accepted where the interval includes zero; above that it is large. "
        + (
            f"Beside the leader, its lead and 95 % interval in brackets, that leaves {', '.join(taken)}. "
            if taken
            else "That leaves the leader alone. "
        )
        + (f"The other {len(refused)} are refused." if len(refused) > 1 else "")
        + (f"{refused[0].label} is refused." if len(refused) == 1 else "" if refused else "None is refused.")
    )
    unproven = [recipe for recipe in refused if recipe in near]
    if unproven:
        why.append(
            f"Unproven: the large mean loss of {_listed(unproven)} may be noise, though it refuses "
            f"{'it' if len(unproven) == 1 else 'them'}; more seeds would tell."
        )
    return why


def _by_calibration(
    leader: Recipe,
    recipes: list[Recipe],
    acceptable: list[Recipe],
    losses: dict[str, Difference],
    rules: DecideParams,
    why: list[str],
) -> Recipe:
    """The acceptable recipe with the largest drop of ECE, if that drop is large and clear of noise."""
    drops = {recipe.selector: difference(recipe, leader, "ece_scaled") for recipe in recipes if recipe is not leader}
    told = []
    for recipe in recipes:
        if recipe not in acceptable and (drop := drops[recipe.selector].mean) > 0:
            kind = "large" if drop >= rules.large_ece else "minor"
            loss = losses[recipe.selector].mean
            told.append(f"{recipe.label} ({kind}: {_points(drop)} points of ECE for {_points(loss)} of macro F1)")
    if told:
        why.append(f"ECE alone: lower, but for an unacceptable loss of macro F1, is that of {', '.join(told)}.")
    better = [
        recipe
        for recipe in acceptable
        if recipe is not leader and drops[recipe.selector].mean >= rules.large_ece and drops[recipe.selector].clear
    ]
    if not better:
        why.append(
            f"Calibration: no acceptable recipe has an ECE after scaling that is lower than the leader's "
            f"({_share(leader.mean('ece_scaled'))}) by {_points(rules.large_ece)} points or more and clear of noise, "
            f"so calibration moves nothing."
        )
        return leader
    chosen = max(better, key=lambda recipe: (drops[recipe.selector].mean, _simplicity(recipe)))
    why.append(
        f"Calibration: {chosen.label} has an ECE after scaling of {_share(chosen.mean('ece_scaled'))} against the "
        f"leader's {_share(leader.mean('ece_scaled'))}, a large drop ({span(drops[chosen.selector])}) for an "
        f"acceptable loss of macro F1 ({span(losses[chosen.selector])}): it goes before {leader.label}."
    )
    return chosen


def _by_simplicity(params: Params, chosen: Recipe, acceptable: list[Recipe], why: list[str]) -> Recipe:
    """The simplest acceptable recipe that neither macro F1 nor ECE tells from the one chosen so far."""
    equals = [chosen]
    for recipe in acceptable:
        if recipe is chosen:
            continue
        f1, ece = (difference(chosen, recipe, metric) for metric in ("val_macro_f1", "ece_scaled"))
        if not f1.clear and (ece.mean < params.decide.large_ece or not ece.clear):
            equals.append(recipe)
    simplest = min(equals, key=lambda recipe: (recipe.complexity, -recipe.mean("val_macro_f1")))
    if simplest is chosen:
        why.append(f"Simplicity: no recipe that cannot be told from {chosen.label} is simpler.")
        return chosen
    what = (
        "the two train on one loss, and it is fused, so that one target is carried"
        if same_loss(params, simplest, chosen)
        else f"it is the simplest ({_teachers(simplest)} against {_teachers(chosen)})"
    )
    why.append(
        f"Simplicity: {_listed([recipe for recipe in equals if recipe is not chosen])} cannot be told from "
        f"{chosen.label} in macro F1 by the paired interval, nor in ECE by a large and clear difference. Of these "
        f"{simplest.label} is taken: {what}."
    )
    return simplest


def _on_cost(
    benchmark: dict[str, Any] | None, export: dict[str, Any] | None, rules: DecideParams, why: list[str]
) -> bool:
    """Whether the student is fast and small enough, as far as is known."""
    known = []
    ok = True
    if benchmark and "batch_1" in benchmark:
        p50, p95 = benchmark["batch_1"]["p50_ms"], benchmark["batch_1"]["p95_ms"]
        within = p95 <= rules.max_p95_ms
        ok &= within
        threads = f"{benchmark['cpu_threads']} thread" + ("s" if benchmark["cpu_threads"] > 1 else "")
        known.append(
            f"one face takes {p50:.2f} ms in the median and {p95:.2f} ms at the 95th percentile "
            f"({benchmark['machine']}, {threads}), "
            f"{'within' if within else 'above'} the limit of {rules.max_p95_ms:g} ms"
        )
    size = (export or {}).get("size_bytes", (benchmark or {}).get("model_bytes"))
    if size is not None:
        within = size / 1e6 <= rules.max_mb
        ok &= within
        known.append(f"the file has {size / 1e6:.1f} MB, {'within' if within else 'above'} {rules.max_mb:g} MB")
    why.append(
        "Latency and size: every recipe trains the same network, so they are one number for all and tell no recipe "
        "from another. " + (_sentence("; ".join(known)) if known else "They are not measured here: run `dvc repro`.")
    )
    if not ok:
        why.append("A limit is not met by any recipe: quantise the student, or change its architecture.")
    return ok


def _fallback(
    params: Params, chosen: Recipe, recipes: list[Recipe], acceptable: list[Recipe], why: list[str]
) -> Recipe | None:
    """Another recipe, not the same loss under another name: an acceptable one, and simple."""
    others = [recipe for recipe in recipes if recipe is not chosen and not same_loss(params, recipe, chosen)]
    if not others:
        why.append("Fallback: there is no other recipe.")
        return None
    good = [recipe for recipe in others if recipe in acceptable]
    if good:
        found = min(good, key=lambda recipe: (recipe.complexity, -recipe.mean("val_macro_f1")))
        reason = f"the simplest acceptable recipe beside it ({_teachers(found)})"
    else:
        found = max(others, key=lambda recipe: (recipe.mean("val_macro_f1"), _simplicity(recipe)))
        reason = "none beside it is acceptable, so the next in macro F1 on val"
    why.append(f"Fallback: {found.label}, {reason}.")
    return found


def _described(recipe: Recipe) -> dict[str, Any]:
    run = recipe.runs.iloc[int(recipe.runs["val_macro_f1"].argmax())]
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
    return tuple(-int(part) for part in recipe.complexity)


def _interval(found: Difference | None) -> list[float] | None:
    return list(found.interval) if found and found.interval else None


def _listed(recipes: list[Recipe]) -> str:
    return ", ".join(recipe.label for recipe in recipes)


def _teachers(recipe: Recipe) -> str:
    return f"{len(recipe.mixture)} teacher{'' if len(recipe.mixture) == 1 else 's'}"


def _share(value: float) -> str:
    return f"{value:.4f}"


def _points(value: float) -> str:
    return f"{100 * value:.2f}"


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."
