"""The numbers of each section of the study report, which its template sets in words."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from operator import itemgetter
from typing import Any

import numpy as np
import pandas as pd

from .. import workspace
from ..evaluation import calibration
from ..study import schema, statistics
from ..study.recipes import Recipe
from . import figures
from .gathered import Facts, Study, effect

Section = Callable[[Study], Facts]
PANELS = 12  # of one picture
LATENCY = "p95 of one call, ms (lower is better)"
SAME = ("index_tag", "index_digest", "corpus", "scale", "code")


@dataclass(frozen=True)
class Picture:
    """A figure of the report, under the name of its file."""

    name: str
    data: bytes
    wide: bool = False

    @property
    def file(self) -> str:
        return self.name + (".png" if self.data.startswith(b"\x89PNG") else ".svg")


def opening(study: Study) -> Facts:
    """What the study is of, what it shows and what it does not, for the head of the page."""
    distilled = [recipe for recipe in study.recipes if recipe.mixture]
    several = [recipe for recipe in distilled if len(recipe.mixture) > 1 and recipe.mode == "kd"]
    named = [(study.baseline, distilled, "labels alone"), (study.best_single, several, "the best single teacher")]
    found = [_standings(study, baseline, candidates) for baseline, candidates, _ in named]
    seeds = [recipe.seeds for recipe in study.recipes]
    absent = {
        "the runs' predictions": study.predictions,
        "learning curves": study.curves,
        "the teachers' soft labels": study.diversity,
        "students on soft labels out of step": study.misalignment,
    }
    return {
        "corpora": sorted(set(study.frame["corpus"])),
        "scales": sorted(set(study.frame["scale"])),
        "splits": study.splits,
        "recipes": [recipe.label for recipe in study.recipes],
        "fewest": min(seeds),
        "most": max(seeds),
        "standings": [one for one in found if one],
        "names": {baseline.selector: name for baseline, _, name in named if baseline is not None},
        "absent": [name for name, there in absent.items() if not there],
    }


def findings(study: Study) -> Facts:
    """The answers in short."""
    distilled = [recipe for recipe in study.recipes if recipe.mixture]
    several = [recipe for recipe in distilled if len(recipe.mixture) > 1 and recipe.mode == "kd"]
    views = []
    for recipe in study.recipes:
        one = study.beside(recipe, {"views"}, mode=recipe.mode, views=schema.SETTING["views"].assumed)
        if recipe.mixture and one is not None and one is not recipe:
            views.append((recipe, one, study.difference(one, recipe, "macro_f1")))
    pairwise, candidate = study.headline
    headline: Facts | None = None
    if pairwise is not None and candidate is not None:
        headline = {
            **{"baseline": pairwise, "candidate": candidate, "images": study.examples(pairwise, candidate)},
            **{key: study.difference(pairwise, candidate, key) for key in ("macro_f1", "ece_scaled")},
        }
    return {
        "against_labels": _standings(study, study.baseline, distilled),
        "against_single": _standings(study, study.best_single, several),
        "headline": headline,
        "views": views,
        "modes": [_beside_kd(study, mode) for mode in schema.MODES if mode not in ("none", "kd")],
        "optimism": study.frame["optimism_macro_f1"],
        "at_edge": int(study.frame["grid_at_edge"].astype(bool).sum()),
    }


def _beside_kd(study: Study, mode: str) -> Facts:
    """The recipes of a mode against those of kd with the same family and settings."""
    pairs = [(recipe, study.beside(recipe, {"fusion"}, mode="kd")) for recipe in study.recipes if recipe.mode == mode]
    found = [(recipe, study.difference(kd, recipe, "macro_f1")) for recipe, kd in pairs if kd is not None]
    return {
        **{"name": mode, "pairs": len(found)},
        "better": [recipe.label for recipe, d in found if d.clear and d.mean > 0],
        "worse": [recipe.label for recipe, d in found if d.clear and d.mean < 0],
    }


def _standings(study: Study, baseline: Recipe | None, candidates: list[Recipe]) -> Facts | None:
    """Who wins, loses, or cannot be told, and whom Dunnett's test still distinguishes from the baseline."""
    if baseline is None or not candidates:
        return None
    found = [(recipe, study.difference(baseline, recipe, "macro_f1")) for recipe in candidates]
    clear = [(recipe, d) for recipe, d in found if d.clear]
    best, most = max(found, key=lambda pair: pair[1].mean)
    # Over every recipe of the table, as `study compare` does it, not over the candidates alone.
    every = [recipe for recipe in study.recipes if recipe is not baseline]
    tested = statistics.dunnett(
        baseline.runs["macro_f1"].to_numpy(), [recipe.runs["macro_f1"].to_numpy() for recipe in every]
    )
    named = {recipe.selector for recipe in candidates}
    return {
        "baseline": baseline,
        "count": len(found),
        "above": sum(d.mean > 0 for _, d in clear),
        "below": sum(d.mean < 0 for _, d in clear),
        "best": best,
        "most": most,
        "judged": len(every),
        "kept": [r.label for r, one in zip(every, tested, strict=True) if one.p < 0.05 and r.selector in named],
    }


def results(study: Study) -> Facts:
    """Means of every recipe, with intervals."""
    limits = schema.METRIC["macro_f1"].limits
    rows = []
    for recipe in study.recipes:
        f1 = recipe.runs["macro_f1"].to_numpy()
        interval = statistics.paired_t_interval(f1) if recipe.seeds > 1 else None
        # Near its ends the normal noise of a t interval would leave the range that the score has.
        rows.append((recipe, tuple(np.clip(interval, *limits)) if interval else None))
    return {"rows": rows, "seeds": [recipe.seeds for recipe in study.recipes]}


def differences(study: Study) -> Facts:
    """Forest plots against labels alone and against the best single teacher."""
    made: list[Facts] = []
    for key, baseline in (("baseline", study.baseline), ("single", study.best_single)):
        others = [recipe for recipe in study.recipes if recipe is not baseline]
        if baseline is None or not others:
            made.append({"key": key, "baseline": baseline, "rows": []})
            continue
        rows = [effect(study, baseline, recipe) | {"label": recipe.label, "reference": None} for recipe in others]
        picture = Picture(f"forest_{key}", figures.forest(rows, f"points of macro F1 over {baseline.label}"))
        clear = [row["label"] for row in rows if row["difference"].clear]
        made.append({"key": key, "baseline": baseline, "rows": rows, "excluding": clear, "picture": picture})
    return {"against": made}


def split_and_fused(study: Study) -> Facts:
    """The families in the simplex, and the null pairs."""
    mixtures = defaultdict(list)
    for recipe in study.recipes:
        if recipe.point is not None:
            mixtures[recipe.point].append(recipe)
    made: Facts = {"names": [" = ".join(dict.fromkeys(_short(one) for one in some)) for some in mixtures.values()]}
    if len(mixtures) > 1:
        weights = np.array([[some[0].mixture.get(name, 0.0) for name in study.teachers] for some in mixtures.values()])
        made["kept"] = figures.project(weights)[2]
        made["simplex"] = Picture("simplex", figures.simplex(made["names"], weights, study.teachers))
    if study.null["gaps"]:
        made["rows"] = [*study.null["gaps"], *study.effects]
        made["null_pairs"] = Picture("null_pairs", figures.forest(made["rows"], "points of macro F1"))
    return made


def _short(recipe: Recipe) -> str:
    """Family and lambda: all that a mixture depends on."""
    weights = [one for one in schema.SETTINGS if one.named and not one.in_loss]
    said = [one.label.format(value) for one in weights if (value := recipe.setting(one.key)) is not None]
    return " ".join([recipe.family, *said])


def fusions(study: Study) -> Facts:
    """Where teachers are fused, and recorded views, against the split."""
    made = []
    for number, group in enumerate(study.variants, start=1):
        drawn = figures.forest(group["rows"], f"points of macro F1 over {group['reference'].label}")
        made.append({**group, "picture": Picture("fusions" if number == 1 else f"fusions_{number}", drawn)})
    return {"groups": made}


def sweeps(study: Study) -> Facts:
    """Macro F1 over each number that recipes differ in; views have a section of their own."""
    made = []
    for one in schema.SETTINGS:
        lines = _lines(study, one) if one.sweepable and one.kind is not str and one.key != "views" else {}
        if not lines:
            continue
        groups = []
        for name, some in lines.items():
            ordered = sorted(some, key=lambda pair: pair[1].mean("val_macro_f1"))
            (low, worst), (high, best) = ordered[0], ordered[-1]
            difference = study.difference(worst, best, "macro_f1")
            groups.append({"name": name, "low": low, "high": high, "difference": difference})
        runs = {
            name: pd.DataFrame(
                [{"x": x, "y": y} for x, recipe in sorted(some, key=itemgetter(0)) for y in recipe.runs["macro_f1"]]
            )
            for name, some in lines.items()
        }
        picture = Picture(f"sweep_{one.key}", figures.sweep(runs, one.symbol, schema.title_of("macro_f1")))
        made.append({"setting": one, "groups": groups, "picture": picture})
    return {"swept": made}


def _lines(study: Study, swept: schema.Setting) -> dict[str, list[tuple[float, Recipe]]]:
    """By name, recipes that differ in one setting alone, with its value; of lambda also what it is at 0 and 1."""
    lines: dict[str, list[tuple[float, Recipe]]] = defaultdict(list)
    for recipe in study.recipes:
        if (value := recipe.setting(swept.key)) is not None:
            alike = [one for one in study.recipes if (one.family, one.mode) == (recipe.family, recipe.mode)]
            varying = [key for key in schema.SETTING if len({one.setting(key) for one in alike}) > 1]
            lines[schema.label(recipe.runs.iloc[0].drop(swept.key), varying)].append((float(value), recipe))
    lines = {name: some for name, some in lines.items() if len({x for x, _ in some}) > 1}
    for some in lines.values():
        first = some[0][1]
        if swept.key == "lambda" and first.point is not None:
            some += [
                (end, other)
                for end in (0.0, 1.0)
                for other in study.recipes
                if other.point == study.point(first.family, end) and other.setting("views") == first.setting("views")
            ]
    return lines


def classes(study: Study) -> Facts:
    """Differences of each class's F1."""
    baseline = study.baseline or study.recipes[0]
    others = [recipe for recipe in study.recipes if recipe is not baseline]
    if not others:
        return {"count": 0}
    found = {
        recipe.label: [study.difference(baseline, recipe, f"f1_{name}") for name in study.classes] for recipe in others
    }
    index = pd.Index(study.classes)
    values = pd.DataFrame({label: [100 * d.mean for d in ds] for label, ds in found.items()}, index=index).T
    marks = pd.DataFrame({label: [d.clear for d in ds] for label, ds in found.items()}, index=index).T
    made: Facts = {"baseline": baseline, "count": marks.size, "clear": int(marks.to_numpy().sum())}
    made["picture"] = Picture("classes", figures.heatmap(values, marks, f"points of F1 over {baseline.label}"))
    pairwise, candidate = study.headline
    if pairwise is not None and candidate is not None:
        of_class = [(name, study.difference(pairwise, candidate, f"f1_{name}")) for name in study.classes]
        made["headline_clear"] = [(name, d) for name, d in of_class if d.clear]
        made["headline_equal"] = sum(bool(d.per_seed) and not any(d.per_seed.values()) for _, d in of_class)
    return made


def reliability(study: Study) -> Facts:
    """Diagrams before and after scaling."""
    raw, scaled = study.frame["ece"], study.frame["ece_scaled"]
    panels: list[Facts] = []
    for recipe in study.recipes:
        runs = study.predictions.get(recipe.selector)
        if runs:
            labels = np.concatenate([labels for _, labels, _ in runs])
            pooled = {
                key: np.concatenate(
                    [np.exp(calibration.log_probabilities(logits, t if scale else 1.0)) for logits, _, t in runs]
                )
                for key, scale in (("before", False), ("after", True))
            }
            tables = {key: calibration.reliability(of, labels, study.bins) for key, of in pooled.items()}
            title = f"{recipe.label}\nECE {recipe.mean('ece'):.3f} to {recipe.mean('ece_scaled'):.3f}"
            panels.append({"title": title, **tables})
    source = "runs" if panels else "working tree" if "reliability" in study.working_tree else ""
    if source == "working tree":
        table = study.working_tree["reliability"]
        of = {key: table[table["scaling"] == key] for key in ("before", "after")}
        panels = [{"title": study.working_tree["label"], **of}]
    parts = [panels[start : start + PANELS] for start in range(0, len(panels), PANELS)]
    return {
        **{"better": int((scaled < raw).sum()), "raw": raw.mean(), "scaled": scaled.mean()},
        **{"null": study.frame["ece_null"].mean(), "source": source},
        "pictures": [
            (Picture(f"reliability_{number}", figures.reliability(part)), [one["title"] for one in part])
            for number, part in enumerate(parts, start=1)
        ],
    }


def confusion(study: Study) -> Facts:
    """Confusion matrices of the repeated report's recipes, or else of the baseline, a single teacher and the best."""
    chosen = _chosen(study, [study.baseline, study.best_single, study.principal], "confusion")
    made = []
    for recipe in chosen:
        if runs := study.predictions.get(recipe.selector):
            predicted = [(labels, logits.argmax(axis=1)) for logits, labels, _ in runs]
            name = recipe.family if sum(one.family == recipe.family for one in chosen) == 1 else recipe.selector
            made.append(_confusion(study, predicted, recipe.label, re.sub("[^A-Za-z0-9_.-]", "-", name), len(runs)))
    if not made and "confusion" in study.working_tree:
        table, at = study.working_tree["confusion"], pd.Index(study.classes)
        predicted = [(at.get_indexer(table["actual"]), at.get_indexer(table["predicted"]))]
        made.append(_confusion(study, predicted, study.working_tree["label"], "here", 0))
    return {"matrices": made}


def _confusion(study: Study, runs: list[tuple[np.ndarray, np.ndarray]], label: str, name: str, count: int) -> Facts:
    counts = np.zeros((len(study.classes),) * 2)
    for actual, predicted in runs:
        np.add.at(counts, (actual, predicted), 1)
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    shares = wrong / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    row, column = np.unravel_index(shares.argmax(), shares.shape)
    return {
        **{"label": label, "runs": count, "share": 100 * shares[row, column]},
        **{"actual": study.classes[row], "predicted": study.classes[column]},
        "picture": Picture(f"confusion_{name}", figures.confusion(counts, study.classes, label)),
    }


def _chosen(study: Study, otherwise: Sequence[Recipe | None], what: str) -> list[Recipe]:
    """The recipes that the repeated report would have shown, or else those that any study has; each once."""
    named = [study.find(one) for one in getattr(study.replication, what)] if study.replication else otherwise
    return list(dict.fromkeys(recipe for recipe in named if recipe is not None))


def deployment(study: Study) -> Facts:
    """The decision, its reasons, what each recipe is expected to bring, and the Pareto front."""
    if study.decision is None:
        return {}
    merit, chosen, fallback = (study.decision[key] for key in ("merit", "chosen", "fallback"))
    marked = {chosen["recipe"], fallback["recipe"] if fallback else ""}
    front = pareto(study.recipes, merit)
    drawn = [
        {
            **{"x": one.mean("ece_scaled"), "y": one.mean(merit), "label": one.label, "teachers": len(one.mixture)},
            **{"front": one in front, "name_it": one in front or one.selector in marked},
        }
        for one in study.recipes
    ]
    axes = [f"{schema.title_of(key)} ({schema.METRIC[key].better} is better)" for key in ("ece_scaled", merit)]
    rows = [
        {"label": one["label"], "mean": one["expected"], "low": one["interval"][0], "high": one["interval"][1]}
        | {"points": [one["difference"]]}
        for one in study.decision["candidates"]
    ]
    over = f"points of {schema.title_of(merit)} over {study.decision['default']['label']}"
    students = study.decision["students"]
    teachers = {one.label: len(one.mixture) for one in study.recipes}
    costly = [
        {"x": one["p95_ms"], "y": one[merit], "label": one["student"], "teachers": teachers[one["label"]]}
        | {"front": one["front"], "name_it": True}
        for one in students
    ]
    return {
        "front": [one.label for one in front],
        "measured": study.benchmark if study.benchmark and "batch_1" in study.benchmark else None,
        **({"expected": Picture("expected", figures.forest(rows, over))} if rows else {}),
        "picture": Picture("pareto", figures.pareto(drawn, *axes)),
        **({"students": Picture("students", figures.pareto(costly, LATENCY, axes[1]))} if students else {}),
    }


def pareto(recipes: Sequence[Recipe], merit: str) -> list[Recipe]:
    """Those that no other recipe beats or equals in both means (the merit, ECE after scaling) and beats in one."""
    merits = [(one.mean(merit), -one.mean("ece_scaled")) for one in recipes]

    def beats(one: tuple[float, float], other: tuple[float, float]) -> bool:
        return one != other and one[0] >= other[0] and one[1] >= other[1]

    return [r for r, own in zip(recipes, merits, strict=True) if not any(beats(other, own) for other in merits)]


def curves(study: Study) -> Facts:
    """By epoch, of the repeated report's recipes, or else of the baseline, a single teacher and the best."""
    chosen = _chosen(study, [study.baseline, study.best_single, study.principal], "curves")
    panels = []
    for title, of in study.curves.items():
        lines = {recipe.label: of[recipe.selector] for recipe in chosen if recipe.selector in of}
        if lines:
            panels.append((title, lines))
    if not panels:
        return {}
    return {
        "best": study.frame["best_epoch"],
        "names": [recipe.label for recipe in chosen],
        "titles": [title for title, _ in panels],
        "picture": Picture("curves", figures.curves(panels)),
    }


def diversity(study: Study) -> Facts:
    """How much the teachers differ."""
    report = study.diversity
    if report is None:
        return {}
    names = report["teachers"]
    pairs = [(report["disagreement"][i][j], names[i], names[j]) for i, j in combinations(range(len(names)), 2)]
    best = max(names, key=lambda name: report["each"][name]["macro_f1"])
    return {
        **{"report": report, "most": max(pairs, default=None), "least": min(pairs, default=None), "best": best},
        "gain": report["fused"]["macro_f1"] - report["each"][best]["macro_f1"],
        "picture": Picture("diversity", study.drawn["diversity"], wide=True),
    }


def misalignment(study: Study) -> Facts:
    """What soft labels out of step cost."""
    report = study.misalignment
    if report is None:
        return {}
    conditions = pd.DataFrame(report["conditions"])
    made: Facts = {"report": report, "picture": Picture("misalignment", study.drawn["misalignment"], wide=True)}
    clean = conditions[(conditions["fault"] == "permuted") & (conditions["dose"] == 0)]
    damaged = conditions[conditions["dose"] > 0]
    if len(clean) and len(damaged):
        made |= {"clean": clean.iloc[0], "worst": damaged.iloc[int(damaged["macro_f1"].argmin())]}
        made |= {"seeds": int(conditions["seeds"].min()), "damaged": len(damaged)}
        made["seen"] = int((damaged["gate"].map(len) > 0).sum())
        made["canary"] = int((damaged["canary"] == "misaligned").sum())
    return made


def threats(study: Study) -> Facts:
    """What the numbers cannot show."""
    frame = study.frame
    return {
        "fewest": min(study.recipes, key=lambda recipe: recipe.seeds),
        "corpora": sorted(set(frame["corpus"])),
        "rendered": workspace.EMBEDDED.name in set(frame["corpus"]),
        "scales": sorted(set(frame["scale"])),
        "comparisons": len(study.recipes) - 1,
        "versions": frame["code"].nunique(),
    }


def provenance(study: Study) -> Facts:
    """Where each number is from."""
    frame = study.frame
    losses = {(a, t) for a, t in zip(frame["alpha"], frame["temperature"], strict=True) if pd.notna(a)}
    return {
        "same": {
            key: sorted(set(frame[key].astype(str))) for key in ("index_tag", "index_digest", "corpus", "scale", "code")
        },
        "time": (frame["time"].min(), frame["time"].max()),
        "losses": sorted(losses),
        "runs": [(recipe, row) for recipe in study.recipes for _, row in recipe.runs.iterrows()],
    }


# In the order of the page; the template of each has its name.
SECTIONS: Sequence[Section] = (
    findings, results, differences, split_and_fused, fusions, sweeps, classes, reliability, confusion, deployment,
    curves, diversity, misalignment, threats, provenance,
)  # fmt: skip


def pictures(value: Any) -> Iterator[Picture]:
    """The pictures among a section's facts, in their order."""
    if isinstance(value, Picture):
        yield value
    elif isinstance(value, (dict, list, tuple)):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from pictures(inner)
