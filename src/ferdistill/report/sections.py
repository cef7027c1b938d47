"""The sections of the study report: words, tables and figures, every sentence made from the numbers.

"Points" are hundredths of macro F1, accuracy or ECE. "Clear" is a difference whose 95 % interval excludes zero.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from operator import itemgetter
from typing import Any

import numpy as np
import pandas as pd

from ..evaluation import calibration
from ..study import statistics
from ..study.recipes import Difference, Recipe, points, span
from . import figures

# What the report says (fractions of macro F1): means of §8.0.7 and §8.0.1, §5.1.
REPORT_GAP_FUSED = 0.7047 - 0.7219  # 6C less 6E, kd, two seeds
REPORT_GAP_SPLIT = 0.7136 - 0.7057  # 6D at lambda .7 less 6B, kd
REPORT_6E = (0.7226347, 0.7210732, 0.7196643)  # kd, seeds 1337, 2025, 42 (§5.1)
REPORT_HEADLINE = 0.00423  # 6E less 6A, kd, three seeds
REPORT_ECE = (0.1409, 0.0442)  # 6A, 6E, kd (§5.2)


@dataclass(frozen=True)
class Picture:
    name: str
    alt: str
    caption: str
    data: bytes
    wide: bool = False
    kind: str = "picture"

    @property
    def suffix(self) -> str:
        return ".png" if self.data.startswith(b"\x89PNG") else ".svg"


@dataclass(frozen=True)
class Table:
    caption: str
    head: list[str]
    rows: list[list[str]]
    kind: str = "table"


@dataclass(frozen=True)
class Bullets:
    """Each line is a lead, which stands out and may be empty, and the rest."""

    lines: list[tuple[str, str]]
    kind: str = "bullets"


@dataclass(frozen=True)
class Section:
    id: str
    title: str
    blocks: list[str | Bullets | Table | Picture]


@dataclass
class Study:
    """What the sections are made from; None or empty where the working tree does not have it.

    Attributes
    ----------
    recipes : list of Recipe
    difference : function of (baseline, candidate, metric)
        A `Difference`.
    same_loss : function of two recipes
    examples : function of two recipes
        As `compare.examples`.
    point : function of a family and lambda
        As `Recipe.point`.
    classes : list of str
    teachers : list of str
    decision : dict or None
        From `decide.decide`; `undecided` says why there is none.
    predictions : dict
        By the selector of a recipe, its runs' (logits, labels, T*), of those found in DVC's cache.
    curves : dict
        {"val macro F1" or "train loss": {selector: frame of epochs by seeds}}.
    working_tree : dict
        The pipeline's own run: `label`, `confusion` (actual, predicted), `reliability`; empty if there is none.
    diversity, misalignment : dict
        From `evaluation.diversity.measure`, metrics/study/misalignment.json.
    drawn : dict of str to bytes
        Pictures that other modules draw: `diversity`, `misalignment`.
    """

    frame: pd.DataFrame
    recipes: list[Recipe]
    difference: Callable[[Recipe, Recipe, str], Difference]
    same_loss: Callable[[Recipe, Recipe], bool]
    examples: Callable[[Recipe, Recipe], dict[str, Any]]
    point: Callable[[str, float], tuple[tuple[str, float], ...]]
    classes: list[str]
    teachers: list[str]
    bins: int
    decision: dict[str, Any] | None
    undecided: str = ""
    benchmark: dict[str, Any] | None = None
    predictions: dict[str, list[tuple[np.ndarray, np.ndarray, float]]] = field(default_factory=dict)
    curves: dict[str, dict[str, pd.DataFrame]] = field(default_factory=dict)
    working_tree: dict[str, Any] = field(default_factory=dict)
    diversity: dict[str, Any] | None = None
    misalignment: dict[str, Any] | None = None
    drawn: dict[str, bytes] = field(default_factory=dict)

    def find(self, family: str, mode: str = "kd", **settings: Any) -> Recipe | None:
        """The recipe of this family, mode and settings, with one view unless said; the one with most seeds if many."""
        settings = {"views": 1, **settings} if family != "none" else settings
        found = [
            recipe
            for recipe in self.recipes
            if recipe.family == family
            and recipe.mode == mode
            and all(recipe.setting(name) in (value, None) for name, value in settings.items())
        ]
        return max(found, key=lambda recipe: recipe.seeds, default=None)

    @property
    def baseline(self) -> Recipe | None:
        return self.find("none", "none")

    @property
    def best_single(self) -> Recipe | None:
        """Of the recipes of one teacher in mode kd, the best on val: chosen without the test split."""
        single = [recipe for recipe in self.recipes if len(recipe.mixture) == 1 and recipe.mode == "kd"]
        return max(single, key=lambda recipe: recipe.mean("val_macro_f1"), default=None)

    @property
    def null_pairs(self) -> list[tuple[Recipe, Recipe]]:
        """Pairs that train on one loss, so that nothing but the pipeline's noise or faults can part them."""
        return [(one, other) for one, other in combinations(self.recipes, 2) if self.same_loss(one, other)]


# ---- words -------------------------------------------------------------------------------------------------


def verdict(difference: Difference) -> str:
    """What the interval says of zero."""
    if difference.interval is None:
        return "cannot be judged without more seeds"
    if not difference.clear:
        return "cannot be told from zero"
    return "is above zero" if difference.mean > 0 else "is below zero"


def listed(items: Iterable[str]) -> str:
    """Items in a row of words."""
    items = list(items)
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + " and " + items[-1] if items else "none"


def plural(count: int, one: str, many: str = "") -> str:
    """A count with its noun."""
    return f"{count} {one if count == 1 else many or one + 's'}"


# ---- the sections ------------------------------------------------------------------------------------------


def findings(study: Study) -> Section:
    """The answers in short, each a sentence that the numbers choose."""
    items = [
        ("Does distillation help?", _against_baseline(study)),
        ("Do more teachers help?", _against_single(study)),
        ("The report's principal comparison.", _headline(study)),
        ("Null pairs.", _null(study)),
        ("Which fusion makes the report's gap?", _fusion(study)),
        ("Recorded views.", _views(study)),
        ("DKD or KD?", _dkd(study)),
        ("Protocol.", _protocol(study)),
    ]
    note = (
        "Brackets hold 95 % t intervals of differences paired by seed; points are hundredths. Told from zero, or "
        "clear, is what has an interval that excludes it. One comparison's interval does not count that there are many."
    )
    return Section("findings", "Findings", [Bullets(items), note])


def _sorted_out(study: Study, baseline: Recipe, candidates: list[Recipe], name: str) -> str:
    """Who wins, loses, or cannot be told, and who still does after Holm's correction."""
    found = [(recipe, study.difference(baseline, recipe, "macro_f1")) for recipe in candidates]
    above = [(recipe, d) for recipe, d in found if d.clear and d.mean > 0]
    below = [(recipe, d) for recipe, d in found if d.clear and d.mean < 0]
    unclear = len(found) - len(above) - len(below)
    text = (
        f"Of {plural(len(found), 'recipe')}, {len(above)} {'has' if len(above) == 1 else 'have'} an interval of the "
        f"difference from {name} that lies above zero, {len(below)} below, and {unclear} cannot be told from it."
    )
    best, most = max(found, key=lambda pair: pair[1].mean)
    text += f" The largest mean difference is that of {best.label}: {span(most)}; it {verdict(most)}."
    if above or below:
        # Over every recipe of the table, as `study compare` does it, not over the candidates alone.
        every = [(recipe, study.difference(baseline, recipe, "macro_f1")) for recipe in study.recipes]
        judged = [(recipe, d) for recipe, d in every if recipe is not baseline and len(d.per_seed) > 1]
        corrected = statistics.holm([statistics.paired_t_p(list(d.per_seed.values())) for _, d in judged])
        named = {recipe.selector for recipe in candidates}
        kept = [r.label for (r, _), p in zip(judged, corrected, strict=True) if p < 0.05 and r.selector in named]
        text += f" After Holm's correction over {plural(len(judged), 'comparison')}, {len(kept)} remain at 0.05" + (
            f": {listed(kept)}." if kept else "."
        )
    return text


def _against_baseline(study: Study) -> str:
    baseline = study.baseline
    distilled = [recipe for recipe in study.recipes if recipe.mixture]
    if baseline is None or not distilled:
        return "Whether distillation helps at all cannot be said: the table lacks the baseline, or has nothing else."
    principal = study.find("6E") or distilled[0]
    difference = study.difference(baseline, principal, "macro_f1")
    outcome = (
        "beats" if difference.clear and difference.mean > 0 else "loses to" if difference.clear else "is not told from"
    )
    return f"{principal.label} {outcome} labels alone, {span(difference)}. " + _sorted_out(
        study, baseline, distilled, "labels alone"
    )


def _against_single(study: Study) -> str:
    single = study.best_single
    several = [recipe for recipe in study.recipes if len(recipe.mixture) > 1 and recipe.mode == "kd"]
    if single is None or not several:
        return "Whether more teachers help cannot be said: no student of a single teacher was run."
    return f"{single.label} is the best student of a single teacher on val. " + _sorted_out(
        study, single, several, single.label
    )


def _headline(study: Study) -> str:
    pairwise, four = study.find("6A"), study.find("6E")
    if pairwise is None or four is None:
        return "The report's principal comparison, 6E kd with 6A kd, was not run."
    f1, ece = study.difference(pairwise, four, "macro_f1"), study.difference(pairwise, four, "ece_scaled")
    if f1.interval is None:
        agree = "says nothing of"
    elif f1.clear and f1.mean > 0:
        agree = "agrees in direction with"
    elif f1.clear:
        agree = "contradicts"
    else:
        agree = "does not confirm"
    images = study.examples(pairwise, four)
    if images["available"]:
        low, high = images["metrics"]["macro_f1"]["interval"]
        apart = (
            f"Other test images alone would move the first from {points(low)} to {points(high)} (95 %, resampling "
            f"{images['clusters']} subjects or groups of copies)."
        )
    else:
        apart = f"What other test images would do is not known: {images['why']}."
    drop = pairwise.mean("ece_scaled"), four.mean("ece_scaled")
    return (
        f"{four.label} less {pairwise.label}: {span(f1)}. It {verdict(f1)}, which "
        f"{agree} the report's {points(REPORT_HEADLINE)}. ECE after scaling goes from {drop[0]:.4f} to {drop[1]:.4f} "
        f"({span(ece)}), which {verdict(ece)}; the report has {REPORT_ECE[0]:.4f} and {REPORT_ECE[1]:.4f}. " + apart
    )


def _null(study: Study) -> str:
    pairs = study.null_pairs
    if not pairs:
        return "No null pair was run, so the table says nothing of how far two runs of one loss may lie apart."
    gaps = [(one, other, study.difference(one, other, "macro_f1")) for one, other in pairs]
    gaps = [gap for gap in gaps if gap[2].per_seed]
    if not gaps:
        return "The null pairs have no seed in common, so they cannot be compared."
    one, other, worst = max(gaps, key=lambda gap: abs(gap[2].mean))
    single = max(abs(value) for *_, gap in gaps for value in gap.per_seed.values())
    text = f"One loss under two names: {'; '.join(f'{a.label} = {b.label}' for a, b, _ in gaps)}. "
    if single == 0:
        text += (
            "They agree to the last digit at every seed, so nothing in this pipeline parts them. A gap between them in "
            "another table, such as the report's, is its seeds' noise or a fault in how it was made."
        )
    else:
        text += (
            f"Their largest mean gap is {span(worst)}, {other.label} less {one.label}; at a single seed it is "
            f"{100 * single:.2f} points. "
        )
        text += (
            "That interval excludes zero, which noise seldom does: look for a fault."
            if worst.clear
            else "Rounding parts such runs, and training magnifies it: that much is noise."
        )
    pairwise, four = study.find("6A"), study.find("6E")
    if pairwise is not None and four is not None:
        effect = study.difference(pairwise, four, "macro_f1").mean
        text += (
            f" The principal effect, {points(effect)} points, is no larger than this gap, so it is no evidence."
            if abs(worst.mean) >= abs(effect)
            else f" The principal effect, {points(effect)} points, is larger than that."
        )
    noisy = four or one
    if noisy.seeds > 1:
        spread = float(noisy.runs["macro_f1"].std(ddof=1))
        own = float(np.std(REPORT_6E, ddof=1))
        # Of the difference of two means of two seeds each: sqrt(1/2 + 1/2) times that of one run.
        text += (
            f" Seeds alone: {noisy.label} spreads by {100 * spread:.2f} points (standard deviation of {noisy.seeds} "
            f"seeds), and so does the difference of two means of two seeds each, as the report has for 6C and 6E. Its "
            f"gap of {100 * abs(REPORT_GAP_FUSED):.2f} points is {abs(REPORT_GAP_FUSED) / max(spread, 1e-12):.1f} such "
            f"deviations here, and {abs(REPORT_GAP_FUSED) / own:.0f} of the report's own ({100 * own:.2f} points), too "
            "many to be its seeds' noise."
        )
    return text


def _fused_recipes(study: Study) -> list[Recipe]:
    return [recipe for family in ("6C", "6C_t1", "6C_logit") if (recipe := study.find(family)) is not None]


def _reproduces(difference: Difference, reported: float) -> str:
    """Whether the report's gap lies in the interval; by that interval alone."""
    if difference.interval is None:
        return "cannot be judged without more seeds"
    low, high = difference.interval
    if low <= reported <= high:
        return "reproduces the report's gap" if difference.clear else "is too uncertain: both zero and the gap fit"
    return "does not reproduce it" + (", though it differs from the split" if difference.clear else "")


def _fusion(study: Study) -> str:
    split = study.find("6E")
    fused = _fused_recipes(study)
    if split is None or not fused:
        return "Which fusion makes the report's gap between 6C and 6E cannot be said: they were not run."
    found = [(recipe, study.difference(split, recipe, "macro_f1")) for recipe in fused]
    told = "; ".join(f"{recipe.label} {span(d)}, {_reproduces(d, REPORT_GAP_FUSED)}" for recipe, d in found)
    reproduced = [recipe.label for recipe, d in found if _reproduces(d, REPORT_GAP_FUSED).startswith("reproduces")]
    open_ = [recipe.label for recipe, d in found if _reproduces(d, REPORT_GAP_FUSED).startswith(("is too", "cannot"))]
    if reproduced:
        end = f"So {listed(reproduced)} can make such a gap."
    elif open_:
        end = f"None reproduces it clearly; {listed(open_)} cannot be ruled out by these seeds."
    else:
        end = "None of these fusions makes such a gap here."
    return f"The report has 6C less 6E at {points(REPORT_GAP_FUSED)} points. Here, less {split.label}: {told}. {end}"


def _view_recipes(study: Study) -> list[Recipe]:
    return [r for r in study.recipes if r.family == "6E" and r.mode == "kd" and int(r.setting("views") or 1) > 1]


def _views(study: Study) -> str:
    one = study.find("6E")
    more = _view_recipes(study)
    if one is None or not more:
        return "Recorded views were not run beside one view, so what they bring is not known."
    found = [(recipe, study.difference(one, recipe, "macro_f1")) for recipe in more]
    return " ".join(f"{recipe.label} less {one.label}: {span(d)}, which {verdict(d)}." for recipe, d in found)


def _dkd(study: Study) -> str:
    found = []
    for recipe in study.recipes:
        if recipe.mode == "dkd":
            lambda_ = recipe.setting("lambda")
            kd = study.find(recipe.family, "kd", **({} if lambda_ is None else {"lambda": lambda_}))
            if kd is not None:
                found.append((recipe, study.difference(kd, recipe, "macro_f1")))
    if not found:
        return "DKD was not run beside KD of the same family."
    above = [recipe.label for recipe, d in found if d.clear and d.mean > 0]
    below = [recipe.label for recipe, d in found if d.clear and d.mean < 0]
    return (
        f"Against KD of the same family DKD is clearly better in {len(above)} of {len(found)}"
        + (f" ({listed(above)})" if above else "")
        + f", clearly worse in {len(below)}"
        + (f" ({listed(below)})" if below else "")
        + "; the rest cannot be told apart."
    )


def _protocol(study: Study) -> str:
    optimism, at_edge = study.frame["optimism_macro_f1"], study.frame["grid_at_edge"].astype(bool)
    return (
        f"Picking the best test epoch, as the report does, adds {points(float(optimism.mean()))} points of "
        f"macro F1 in the mean of {plural(len(optimism), 'run')} (from {points(float(optimism.min()))} to "
        f"{points(float(optimism.max()))}). The report's grid for T* stops at its edge in {int(at_edge.sum())} of "
        f"{len(at_edge)} runs."
    )


def results(study: Study) -> Section:
    """Means of every recipe, with intervals."""
    means = {
        "on val": "val_macro_f1",
        "accuracy": "accuracy",
        "ECE": "ece",
        "ECE scaled": "ece_scaled",
        "Brier scaled": "brier_scaled",
        "NLL scaled": "nll_scaled",
        "best test epoch": "best_test_macro_f1",
    }
    rows = [
        [
            *(recipe.label, str(len(recipe.mixture)), str(recipe.seeds), _mean(recipe, "macro_f1", interval=True)),
            *(_mean(recipe, metric) for metric in means.values()),
        ]
        for recipe in study.recipes
    ]
    head = ["recipe", "teachers", "seeds", "macro F1 [95 %]", *means]
    text = (
        f"{plural(len(study.frame), 'run')} of {plural(len(study.recipes), 'recipe')}, at most "
        f"{max(recipe.seeds for recipe in study.recipes)} and at least {min(r.seeds for r in study.recipes)} seeds. "
        "The epoch was chosen on val, T* on calib; all else is on test."
    )
    caption = (
        "Means over seeds, with the t interval of the mean; scaled: after T*. The last column is macro F1 by the "
        "report's protocol, which picks the epoch on test; it is beside the others, never compared with them."
    )
    return Section("results", "Results", [text, Table(caption, head, rows)])


def _mean(recipe: Recipe, metric: str, interval: bool = False) -> str:
    text = f"{recipe.mean(metric):.4f}"
    if interval and recipe.seeds > 1:
        low, high = statistics.paired_t_interval(recipe.runs[metric].to_numpy())
        text += f" [{low:.4f}, {high:.4f}]"
    return text


def differences(study: Study) -> Section:
    """Forest plots against labels alone and against the best single teacher."""
    blocks: list[Any] = []
    for name, baseline in (("labels alone", study.baseline), ("the best single teacher", study.best_single)):
        if baseline is None:
            blocks.append(f"There is no run of {name}, so no figure against it.")
            continue
        others = [recipe for recipe in study.recipes if recipe is not baseline]
        if not others:
            continue
        found = [(recipe.label, study.difference(baseline, recipe, "macro_f1")) for recipe in others]
        clear = [label for label, d in found if d.clear]
        key = "baseline" if baseline is study.baseline else "single"
        who = name if baseline.label == name else f"{name} ({baseline.label})"
        blocks += [
            f"Against {who}, {plural(len(clear), 'interval')} of {len(found)} "
            f"{'excludes' if len(clear) == 1 else 'exclude'} zero" + (f": {listed(clear)}." if clear else "."),
            Picture(
                f"forest_{key}",
                f"Forest plot of each recipe's paired difference of macro F1 from {baseline.label}, with 95 % "
                f"intervals; {len(clear)} of {len(found)} exclude zero.",
                f"Macro F1 less that of {baseline.label}, seed by seed. Bars are paired 95 % t intervals, ticks single "
                "seeds; a filled mark is an interval that excludes zero.",
                figures.forest([_row(label, d) for label, d in found], f"points of macro F1 over {baseline.label}"),
            ),
        ]
    return Section("differences", "Differences", blocks)


def _row(label: str, difference: Difference, **more: Any) -> dict[str, Any]:
    low, high = difference.interval or (None, None)
    single = list(difference.per_seed.values())
    return {"label": label, "mean": difference.mean, "low": low, "high": high, "points": single, **more}


def split_and_fused(study: Study) -> Section:
    """The theorem, the families in the simplex, and the null pairs."""
    blocks: list[Any] = [
        "Theorem. Let teachers p₁, p₂, … be softened at one T, with weights w that sum to 1. In mode kd with "
        "probabilities fused at T, split and fused targets give the student q one and the same gradient.",
        Bullets(
            [
                ("", "Σₘ wₘ KL(pₘ ‖ q) = Σₘ wₘ Σₖ pₘ(k) log pₘ(k) − Σₖ (Σₘ wₘ pₘ(k)) log q(k), by definition of KL."),
                ("", "KL(p̄ ‖ q) = Σₖ p̄(k) log p̄(k) − Σₖ p̄(k) log q(k), with the fused target p̄ = Σₘ wₘ pₘ."),
                (
                    "",
                    "The terms with q are equal. The rest, H(p̄) − Σₘ wₘ H(pₘ), is the teachers' Jensen-Shannon "
                    "divergence; q is not in it, so the gradients are equal. ∎",
                ),
            ]
        ),
        "So each family is a point in the simplex of the teachers' weights, and families that share a point are a "
        "null pair: whatever parts them is the pipeline's. Other fusions, and dkd, are no such points.",
    ]
    points_ = defaultdict(list)
    for recipe in study.recipes:
        if recipe.point is not None:
            points_[recipe.point].append(recipe)
    if len(points_) > 1:
        names = [" = ".join(dict.fromkeys(_short(recipe) for recipe in some)) for some in points_.values()]
        weights = np.array(
            [[some[0].mixture.get(teacher, 0.0) for teacher in study.teachers] for some in points_.values()]
        )
        kept = figures.project(weights)[2]
        blocks.append(
            Picture(
                "simplex",
                f"The {len(names)} points of the simplex of teacher weights on a plane, numbered, and each one's "
                f"weights as a bar: {'; '.join(names)}.",
                f"Families as mixtures of teachers. Above: the plane on which they lie furthest apart; it keeps "
                f"{100 * kept:.0f} % of their squared distances, so points near each other may lie apart. Below: the "
                "weights themselves, with nothing lost. '=' joins names of one point.",
                figures.simplex(names, weights, study.teachers),
            )
        )
    blocks += _null_figure(study)
    return Section("split-and-fused", "Split and fused, and what null pairs tell", blocks)


def _short(recipe: Recipe) -> str:
    """Family and lambda: all that a mixture depends on."""
    lambda_ = recipe.setting("lambda")
    return recipe.family if lambda_ is None else f"{recipe.family} λ={lambda_:g}"


def _null_figure(study: Study) -> list[Any]:
    rows = []
    for one, other in study.null_pairs:
        d = study.difference(one, other, "macro_f1")
        reported = {("6C", "6E"): -REPORT_GAP_FUSED, ("6B", "6D"): REPORT_GAP_SPLIT}.get((one.family, other.family))
        if d.per_seed:
            rows.append(_row(f"{other.label} − {one.label}", d, null=True, reference=reported))
    if not rows:
        return ["No null pair was run."]
    four, pairwise, single, none = study.find("6E"), study.find("6A"), study.best_single, study.baseline
    for candidate, against, reported in (
        (four, pairwise, REPORT_HEADLINE),
        (four, single, None),
        (four, none, None),
    ):
        if candidate is not None and against is not None:
            d = study.difference(against, candidate, "macro_f1")
            rows.append(_row(f"{candidate.label} − {against.label}", d, reference=reported))
    return [
        _null(study),
        Picture(
            "null_pairs",
            "Forest plot: null pairs, shaded, above the study's effects, with the report's values as diamonds. "
            + "; ".join(f"{row['label']}: {points(row['mean'])}" for row in rows)
            + ".",
            "Null pairs (shaded), in which nothing differs but names, beside the effects. Diamonds: the report's.",
            figures.forest(rows, "points of macro F1"),
        ),
    ]


def fusions(study: Study) -> Section:
    """Where teachers are fused, and recorded views, against the split."""
    split = study.find("6E")
    if split is None:
        return Section("fusions", "Fusions and views", ["6E kd was not run, so there is nothing to compare with."])
    others = _fused_recipes(study) + _view_recipes(study)
    if not others:
        return Section("fusions", "Fusions and views", ["No other fusion and no recorded views were run."])
    rows, table = [], []
    for recipe in others:
        f1, ece = study.difference(split, recipe, "macro_f1"), study.difference(split, recipe, "ece_scaled")
        rows.append(_row(recipe.label, f1, reference=REPORT_GAP_FUSED if recipe.family.startswith("6C") else None))
        judged = _reproduces(f1, REPORT_GAP_FUSED) if recipe.family.startswith("6C") else verdict(f1)
        table.append([recipe.label, span(f1), judged, span(ece)])
    return Section(
        "fusions",
        "Fusions and views",
        [
            _fusion(study),
            _views(study),
            Picture(
                "fusions",
                f"Forest plot of fusions and views against {split.label}: "
                + "; ".join(f"{row['label']} {points(row['mean'])}" for row in rows)
                + ".",
                f"Macro F1 less that of {split.label}. Diamonds: the report's gap between 6C and 6E.",
                figures.forest(rows, f"points of macro F1 over {split.label}"),
            ),
            Table(f"Differences from {split.label}.", ["recipe", "macro F1", "verdict", "ECE scaled"], table),
        ],
    )


def sweeps(study: Study) -> Section:
    """Macro F1 over lambda and beta."""
    blocks: list[Any] = []
    lambdas, betas, ends = defaultdict(list), defaultdict(list), {}
    for recipe in study.recipes:
        lambda_, beta = recipe.setting("lambda"), recipe.setting("beta")
        if lambda_ is not None:
            name = f"{recipe.family} {recipe.mode}" + ("" if beta is None else f" β={beta:g}")
            lambdas[name].append((float(lambda_), recipe))
            if recipe.point is not None:
                ends[name] = [
                    (end, other)
                    for end in (0.0, 1.0)
                    for other in study.recipes
                    if other.point == study.point(recipe.family, end)
                    and other.setting("views") == recipe.setting("views")
                ]
        if beta is not None:
            name = f"{_short(recipe)} dkd" + (
                " (report's term)" if recipe.setting("dkd_target_term") == "report" else ""
            )
            betas[name].append((float(beta), recipe))
    for key, symbol, groups in (("lambda", "λ", lambdas), ("beta", "β", betas)):
        swept = {name: some + ends.get(name, []) for name, some in groups.items() if len({x for x, _ in some}) > 1}
        if not swept:
            blocks.append(f"No family was run at more than one {symbol}.")
            continue
        blocks += [_best_of_sweep(study, name, symbol, some) for name, some in swept.items()]
        lines = {
            name: pd.DataFrame(
                [{"x": x, "y": y} for x, recipe in sorted(some, key=itemgetter(0)) for y in recipe.runs["macro_f1"]]
            )
            for name, some in swept.items()
        }
        blocks.append(
            Picture(
                f"sweep_{key}",
                f"Macro F1 on test over {symbol}, for {listed(swept)}: single runs and their means.",
                f"Macro F1 on test over {symbol}: single runs, and a line through their means."
                + (" At λ 0 and 1, in mode kd, it is another family, drawn if run." if key == "lambda" else ""),
                figures.sweep(lines, symbol, "macro F1"),
            )
        )
    return Section("sweeps", "Sweeps of λ and β", blocks)


def _best_of_sweep(study: Study, name: str, symbol: str, some: list[tuple[float, Recipe]]) -> str:
    """Best and worst on val, and whether the test split tells them apart."""
    ordered = sorted(some, key=lambda pair: pair[1].mean("val_macro_f1"))
    (low, worst), (high, best) = ordered[0], ordered[-1]
    difference = study.difference(worst, best, "macro_f1")
    return (
        f"{name}: on val {symbol} = {high:g} is best and {low:g} worst. On test the first less the second is "
        f"{span(difference)}; it {verdict(difference)}."
    )


def per_class(study: Study) -> Section:
    """Differences of each class's F1."""
    baseline = study.baseline or study.recipes[0]
    others = [recipe for recipe in study.recipes if recipe is not baseline]
    if not others:
        return Section("classes", "Classes", ["There is one recipe alone."])
    metrics = [f"f1_{name}" for name in study.classes]
    found = {recipe.label: [study.difference(baseline, recipe, metric) for metric in metrics] for recipe in others}
    values = pd.DataFrame(
        {label: [100 * d.mean for d in ds] for label, ds in found.items()}, index=pd.Index(study.classes)
    ).T
    marks = pd.DataFrame({label: [d.clear for d in ds] for label, ds in found.items()}, index=values.columns).T
    count, total = int(marks.to_numpy().sum()), marks.size
    blocks: list[Any] = [
        f"Of {total} differences of a class's F1 from {baseline.label}, {count} have an interval that excludes zero; "
        f"by chance alone one would expect {0.05 * total:.1f} of them to."
    ]
    pairwise, four = study.find("6A"), study.find("6E")
    if pairwise is not None and four is not None:
        of_class = [(name, study.difference(pairwise, four, f"f1_{name}")) for name in study.classes]
        clear = [f"{name} ({span(d)})" for name, d in of_class if d.clear]
        same = [name for name, d in of_class if d.per_seed and not any(d.per_seed.values())]
        blocks.append(
            f"{four.label} less {pairwise.label}, which the report's §6 shows as equal to four digits in every class: "
            f"here {len(same)} of {len(of_class)} classes are equal at every seed; "
            + (f"clear are {listed(clear)}." if clear else "no class has an interval that excludes zero.")
        )
    blocks.append(
        Picture(
            "classes",
            f"Heat map of the mean difference of each class's F1 from {baseline.label}, in points, for each recipe; "
            f"{count} of {total} are starred, for intervals that exclude zero.",
            f"F1 of each class less that of {baseline.label}, in points, means over seeds. Bold and starred: the "
            "paired 95 % interval excludes zero (not corrected for their number).",
            figures.heatmap(values, marks, f"points of F1 over {baseline.label}"),
        )
    )
    return Section("classes", "Classes", blocks)


def reliability(study: Study) -> Section:
    """Diagrams before and after scaling."""
    raw, scaled = study.frame["ece"], study.frame["ece_scaled"]
    better = int((scaled < raw).sum())
    blocks: list[Any] = [
        f"Scaling by T* lowers the ECE in {better} of {plural(len(raw), 'run')}: from {raw.mean():.4f} to "
        f"{scaled.mean():.4f} in the mean. A perfectly calibrated model would show "
        f"{study.frame['ece_null'].mean():.4f} on so few images, by chance alone."
    ]
    panels: list[dict[str, Any]] = []
    for recipe in study.recipes:
        runs = study.predictions.get(recipe.selector)
        if runs:
            labels = np.concatenate([labels for _, labels, _ in runs])
            tables = {}
            for key in ("before", "after"):
                temperatures = [t if key == "after" else 1.0 for *_, t in runs]
                probabilities = np.concatenate(
                    [
                        np.exp(calibration.log_probabilities(logits, t))
                        for (logits, *_), t in zip(runs, temperatures, strict=True)
                    ]
                )
                tables[key] = calibration.reliability(probabilities, labels, study.bins)
            title = f"{recipe.label}\nECE {recipe.mean('ece'):.3f} to {recipe.mean('ece_scaled'):.3f}"
            panels.append({"title": title, **tables})
    told = "Predictions of its runs pooled; titles give the mean ECE of the single runs."
    if not panels and "reliability" in study.working_tree:
        table = study.working_tree["reliability"]
        of = {key: table[table["scaling"] == key] for key in ("before", "after")}
        panels = [{"title": study.working_tree["label"], **of}]
        told = "The run in the working tree alone: DVC's cache here has no predictions of the study's runs."
    elif not panels:
        blocks.append("No predictions are here (DVC's cache has none of these runs), so there are no diagrams.")
    for start in range(0, len(panels), 12):
        some = panels[start : start + 12]
        titles = [str(panel["title"]).replace("\n", ", ") for panel in some]
        blocks.append(
            Picture(
                f"reliability_{start // 12 + 1}",
                f"Reliability diagrams before and after scaling. {'; '.join(titles)}.",
                f"Accuracy against confidence, dashed with circles before scaling, solid with squares after; larger "
                f"marks are fuller bins. {told}",
                figures.reliability(some),
            )
        )
    return Section("reliability", "Reliability", blocks)


def confusion(study: Study) -> Section:
    """Confusion matrices of the principal recipes."""
    blocks: list[Any] = []
    for recipe in (study.baseline, study.find("6A"), study.find("6E")):
        runs = study.predictions.get(recipe.selector) if recipe is not None else None
        if recipe is not None and runs:
            counts = np.zeros((len(study.classes),) * 2)
            for logits, labels, _ in runs:
                np.add.at(counts, (labels, logits.argmax(axis=1)), 1)
            blocks += _confusion(study, counts, recipe.label, f"{plural(len(runs), 'run')} together", recipe.family)
    if not blocks and "confusion" in study.working_tree:
        table = study.working_tree["confusion"]
        counts = np.zeros((len(study.classes),) * 2)
        at = pd.Index(study.classes)
        np.add.at(counts, (at.get_indexer(table["actual"]), at.get_indexer(table["predicted"])), 1)
        blocks += _confusion(study, counts, study.working_tree["label"], "the run in the working tree", "here")
    if not blocks:
        blocks = ["No predictions are here, so there is no confusion matrix."]
    return Section("confusion", "Confusion", blocks)


def _confusion(study: Study, counts: np.ndarray, label: str, of: str, name: str) -> list[Any]:
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    shares = wrong / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    row, column = np.unravel_index(shares.argmax(), shares.shape)
    most = (
        f"{label}: most often mistaken is {study.classes[row]} for {study.classes[column]}, "
        f"{100 * shares[row, column]:.0f} % of it."
    )
    return [
        most,
        Picture(
            f"confusion_{name}",
            f"Confusion matrix of {label} in per cent of each actual class. {most}",
            f"{label}, {of}: per cent of each actual class, on test.",
            figures.confusion(counts, study.classes, label),
        ),
    ]


def pareto(study: Study) -> Section:
    """The decision, its reasons, and the Pareto front."""
    title = "Accuracy, calibration, latency: what to deploy"
    if study.decision is None:
        return Section("deployment", title, [study.undecided])
    chosen, fallback = study.decision["chosen"], study.decision["fallback"]
    marked = {chosen["recipe"], fallback["recipe"] if fallback else ""}
    drawn = [
        {
            "ece": c["ece_scaled"],
            "macro_f1": c["val_macro_f1"],
            "label": c["label"],
            "teachers": c["teachers"],
            "front": c["pareto"],
            "name_it": c["pareto"] or c["recipe"] in marked,
        }
        for c in study.decision["candidates"]
    ]
    latency = "not measured here"
    if study.benchmark and "batch_1" in study.benchmark:
        latency = f"{study.benchmark['batch_1']['p50_ms']:.2f} ms a face, {study.benchmark['model_bytes'] / 1e6:.1f} MB"
    front = [point["label"] for point in drawn if point["front"]]
    return Section(
        "deployment",
        title,
        [
            f"Chosen: {chosen['label']}, seed {chosen['deploy']['seed']}"
            + (f"; fallback: {fallback['label']}." if fallback else "; there is no fallback."),
            Bullets([_led(sentence) for sentence in study.decision["reasoning"]]),
            Table(
                "Loss: macro F1 on val less than the leader's, in points, with its paired interval.",
                ["recipe", "teachers", "on val", "loss", "on test", "ECE scaled", "acceptable", "Pareto"],
                [_candidate(c) for c in study.decision["candidates"]],
            ),
            Picture(
                "pareto",
                f"Macro F1 on val against ECE after scaling, a mark a recipe. On the Pareto front: {listed(front)}.",
                f"Means over seeds; marks tell the number of teachers. Latency and size ({latency}) are the same for "
                "every recipe, since all train one network, so they are no axis.",
                figures.pareto(drawn),
            ),
        ],
    )


def _led(sentence: str) -> tuple[str, str]:
    """A step's name, where it begins with one, and the rest."""
    lead, colon, rest = sentence.partition(": ")
    return (lead + ":", rest) if colon and len(lead) <= 16 else ("", sentence)


def _candidate(found: dict[str, Any]) -> list[str]:
    interval = found["loss_interval"]
    bracket = f" [{points(interval[0])}, {points(interval[1])}]" if interval else ""
    return [
        found["label"],
        str(found["teachers"]),
        f"{found['val_macro_f1']:.4f}",
        points(found["loss"]) + bracket,
        f"{found['macro_f1']:.4f}",
        f"{found['ece_scaled']:.4f}",
        "yes" if found["acceptable"] else "no",
        "yes" if found["pareto"] else "no",
    ]


def learning_curves(study: Study) -> Section:
    """By epoch, of the principal recipes."""
    names = [
        recipe
        for recipe in (
            study.baseline,
            *(study.find(family) for family in ("6A", "6B", "6C")),
            study.find("6D", "kd", **{"lambda": 0.7}),
            study.find("6E"),
        )
        if recipe is not None
    ]
    panels = []
    for title, curves in study.curves.items():
        lines = {recipe.label: curves[recipe.selector] for recipe in names if recipe.selector in curves}
        if lines:
            panels.append((title, lines))
    if not panels:
        return Section(
            "curves", "Learning curves", ["The experiments' curves are not in this clone, so they are left out."]
        )
    best = study.frame["best_epoch"]
    return Section(
        "curves",
        "Learning curves",
        [
            f"The best epoch on val lies between {int(best.min())} and {int(best.max())}, in the median at "
            f"{best.median():g}. Losses of different families differ by constants (see the theorem), so compare their "
            "shapes, not their heights.",
            Picture(
                "curves",
                f"Learning curves of {listed(recipe.label for recipe in names)}: "
                f"{listed(title for title, _ in panels)} by epoch.",
                "Means over seeds as lines, with the range of the seeds as a band.",
                figures.curves(panels),
            ),
        ],
    )


def diversity(study: Study) -> Section:
    """How much the teachers differ."""
    report = study.diversity
    if report is None:
        return Section(
            "diversity",
            "Teachers",
            ["Of these runs' index the teachers' soft labels are not here: `dvc pull` at its commit brings them."],
        )
    names = report["teachers"]
    disagreement = np.array(report["disagreement"])
    pairs = [(disagreement[i, j], names[i], names[j]) for i, j in combinations(range(len(names)), 2)]
    most, least = max(pairs), min(pairs)
    variance = report["variance"]
    best = max(names, key=lambda name: report["each"][name]["macro_f1"])
    gain = report["fused"]["macro_f1"] - report["each"][best]["macro_f1"]
    kept = "nothing varies" if variance["ratio"] is None else f"{100 * variance['ratio']:.0f} %"
    return Section(
        "diversity",
        "Teachers",
        [
            f"On {report['n']} test images at T = {report['temperature']:g}, {most[1]} and {most[2]} class most images "
            f"differently ({100 * most[0]:.1f} %), {least[1]} and {least[2]} fewest ({100 * least[0]:.1f} %). At least "
            f"one teacher is right on {100 * report['oracle_accuracy']:.1f} %.",
            f"Their mean has a macro F1 of {report['fused']['macro_f1']:.4f}, {points(gain)} points from the best "
            f"teacher's ({best}). It keeps of the teachers' variance {kept}; the report's §4.1.4, which takes them as "
            f"independent, would have {100 * variance['ratio_if_independent']:.0f} %.",
            Picture(
                "diversity",
                f"Four panels: pairwise Jensen-Shannon divergence and disagreement of {listed(names)}, and each one's "
                "entropy and distance from the truth, or accuracy.",
                "How much the teachers' soft labels differ, how soft they are, and how far from the truth.",
                study.drawn["diversity"],
                wide=True,
            ),
        ],
    )


def misalignment(study: Study) -> Section:
    """What soft labels out of step cost."""
    report = study.misalignment
    if report is None:
        return Section(
            "misalignment",
            "Soft labels out of step",
            ["Not run on this index: `ferdistill study misalignment` does it."],
        )
    conditions = pd.DataFrame(report["conditions"])
    permuted = conditions[conditions["fault"] == "permuted"].sort_values("dose")
    clean = permuted[permuted["dose"] == 0]
    if clean.empty:
        words = ["There is no intact run beside the damaged ones."]
    else:
        base, ece = clean["macro_f1"].iloc[0], clean["ece"].iloc[0]
        damaged = conditions[conditions["dose"] > 0]
        worst = damaged.iloc[int(damaged["macro_f1"].argmin())]
        missed = damaged[damaged["gate"].map(len) == 0]
        quiet = damaged[damaged["canary"] != "misaligned"]
        words = [
            f"{plural(int(conditions['seeds'].min()), 'seed')} a dose. The costliest damage is '{worst['fault']}' "
            f"({100 * worst['dose']:.0f} % of rows): {points(worst['macro_f1'] - base)} points of macro F1, and an ECE "
            f"of {worst['ece']:.3f} against {ece:.3f}. The gate sees {len(damaged) - len(missed)} of {len(damaged)} "
            f"damaged stores; the canary, which has no keys, calls {len(damaged) - len(quiet)} of them misaligned."
        ]
    return Section(
        "misalignment",
        "Soft labels out of step",
        [
            *words,
            Picture(
                "misalignment",
                "Macro F1 and ECE against the share of soft labels out of step, and for three historic faults, with "
                "the verdicts of gate and canary.",
                f"Students of {report['run_family']} {report['run_mode']} on damaged soft labels. These runs are "
                "marked misaligned and enter no comparison above.",
                study.drawn["misalignment"],
                wide=True,
            ),
        ],
    )


def threats(study: Study) -> Section:
    """What the numbers cannot show."""
    frame = study.frame
    fewest = min(study.recipes, key=lambda recipe: recipe.seeds)
    corpora, scales = sorted(set(frame["corpus"])), sorted(set(frame["scale"]))
    comparisons = len(study.recipes) - 1
    items = [
        (
            "Few seeds.",
            f"{fewest.label} has {fewest.seeds}. With few seeds an interval is wide, and not finding a difference "
            "is not finding equality.",
        ),
        (
            "One split.",
            f"Every run has the same train and test images ({listed(corpora)}, scale {listed(scales)}). Seeds vary the "
            "student's training alone, so these intervals say nothing of other images, subjects or corpora.",
        ),
        (
            "One set of teachers.",
            "Each was trained once, with its own seed. Another training of them could order the families otherwise.",
        ),
        (
            "Many comparisons.",
            f"{comparisons} against one baseline give {0.05 * comparisons:.1f} clear differences by chance, if none is "
            "real. Holm's correction is named where it is made.",
        ),
        (
            "One set of settings.",
            "Learning rate, epochs and augmentation are the same for all recipes and tuned for none, so a recipe may "
            "lose for want of tuning.",
        ),
        (
            "Normal noise.",
            "A t interval takes seeds' noise as normal; with this few it cannot be checked. Pairing by seed helps only "
            "as far as two recipes answer to a seed alike.",
        ),
    ]
    if "embedded" in corpora:
        items.append(
            (
                "Rendered faces.",
                "The embedded corpus is drawn, with labels from a known distribution. Which recipe wins on photographs "
                "is for a run on photographs to say.",
            )
        )
    versions = frame["code"].nunique()
    if versions > 1:
        items.append(("Code.", f"The runs come from {versions} versions of the code that trains and evaluates."))
    return Section("threats", "Threats to validity", [Bullets(items)])


def provenance(study: Study) -> Section:
    """Where each number is from."""
    frame = study.frame
    single = {
        "index": f"{listed(sorted(set(frame['index_tag'])))}, digest {listed(sorted(set(frame['index_digest'])))}",
        "corpus and scale": f"{listed(sorted(set(frame['corpus'])))}, {listed(sorted(set(frame['scale'])))}",
        "code": listed(sorted(set(frame["code"].astype(str)))),
        "first and last run": f"{frame['time'].min()}, {frame['time'].max()}",
        "alpha, temperature": "; ".join(
            sorted({f"{a:g}, {t:g}" for a, t in zip(frame["alpha"], frame["temperature"], strict=True) if pd.notna(a)})
        ),
    }
    runs = [
        [
            str(row["experiment"]), recipe.label, str(row["seed"]),
            f"{row['macro_f1']:.4f}", f"{row['ece_scaled']:.4f}",
            str(row["commit"])[:10], str(row["model"])[:10], str(row["time"]),
        ]
        for recipe in study.recipes
        for _, row in recipe.runs.iterrows()
    ]  # fmt: skip
    return Section(
        "provenance",
        "Provenance",
        [
            Table("What all runs share.", ["", "value"], [[name, value] for name, value in single.items()]),
            Table(
                "Every run; `dvc exp apply EXPERIMENT` brings it back.",
                ["experiment", "recipe", "seed", "macro F1", "ECE scaled", "commit", "model", "time"],
                runs,
            ),
        ],
    )


SECTIONS: Sequence[Callable[[Study], Section]] = (
    findings, results, differences, split_and_fused, fusions, sweeps, per_class, reliability, confusion, pareto,
    learning_curves, diversity, misalignment, threats, provenance,
)  # fmt: skip
