"""What the study report is made from: the table's recipes and their differences, and what lies around them.

"Points" are hundredths of macro F1, accuracy or ECE. "Clear" is a difference whose 95 % interval excludes zero.
"""

import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, cached_property
from io import StringIO
from itertools import combinations
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd

from .. import workspace
from ..data import index
from ..errors import CheckError, UsageError
from ..evaluation import diversity, plots
from ..evaluation.metrics import read_predictions
from ..files import read_json
from ..params import Params, TaskParams
from ..progress import track
from ..softlabels import families, store
from ..study import comparison, contrasts, grid, recipes, results, schema
from ..study import decision as deciding
from ..study.recipes import Difference, Recipe, point
from ..tracking import dvc_private, experiments
from .replication import Published, Replication, Selector

Facts = dict[str, Any]
CURVES = {
    "macro F1 on val": "plots/student/plots/metrics/val/macro_f1.tsv",
    "loss on train": "plots/student/plots/metrics/train/loss.tsv",
}
# What every run must have; settings do not apply to every recipe, and a run may have lost its predictions or commit.
NEEDED = [
    *("experiment", "best_epoch", "val_macro_f1", "accuracy", "ece", "ece_scaled", "brier_scaled", "nll_scaled"),
    *("ece_null", "grid_at_edge", "best_test_macro_f1", "optimism_macro_f1"),
    *("scale", "corpus", "index_tag", "index_digest", "code", "time"),
]


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
        As `comparison.examples`.
    point : function of a family and lambda
        As `Recipe.point`.
    task : TaskParams
        What is classified, in words.
    classes, teachers : list of str
    decision : dict or None
        From `decision.decide`; `undecided` says why there is none.
    headroom : dict
        From `contrasts.headroom`.
    replication : Replication or None
        The published report that the study repeats.
    predictions : dict
        By the selector of a recipe, its runs' (logits, labels, T*), of those found in DVC's cache.
    curves : dict
        {"val macro F1" or "train loss": {selector: frame of epochs by seeds}}.
    working_tree : dict
        The pipeline's own run: `label`, `confusion` (actual, predicted), `reliability`; empty if there is none.
    diversity, misalignment : dict
        From `evaluation.diversity.measure`, metrics/study/misalignment.json.
    splits : dict of str to int
        Images in each split, where the runs' index is here.
    drawn : dict of str to bytes
        Pictures that other modules draw: `diversity`, `misalignment`.
    """

    frame: pd.DataFrame
    recipes: list[Recipe]
    difference: Callable[[Recipe, Recipe, str], Difference]
    same_loss: Callable[[Recipe, Recipe], bool]
    examples: Callable[[Recipe, Recipe], dict[str, Any]]
    point: Callable[[str, float], tuple[tuple[str, float], ...]]
    task: TaskParams
    classes: list[str]
    teachers: list[str]
    bins: int
    decision: dict[str, Any] | None
    undecided: CheckError | None = None
    headroom: dict[str, Any] = field(default_factory=dict)
    replication: Replication | None = None
    benchmark: dict[str, Any] | None = None
    predictions: dict[str, list[tuple[np.ndarray, np.ndarray, float]]] = field(default_factory=dict)
    curves: dict[str, dict[str, pd.DataFrame]] = field(default_factory=dict)
    working_tree: dict[str, Any] = field(default_factory=dict)
    diversity: dict[str, Any] | None = None
    misalignment: dict[str, Any] | None = None
    splits: dict[str, int] = field(default_factory=dict)
    drawn: dict[str, bytes] = field(default_factory=dict)

    def find(self, selector: Selector) -> Recipe | None:
        """The recipe that a selector names; the one with most seeds if it names many."""
        found = [
            recipe
            for recipe in self.recipes
            if (recipe.family, recipe.mode) == (selector.family, selector.mode)
            and all(recipe.setting(key) in (value, None) for key, value in selector.settings.items())
        ]
        return max(found, key=lambda recipe: recipe.seeds, default=None)

    def beside(self, recipe: Recipe, but: set[str], **wanted: Any) -> Recipe | None:
        """The recipe with most seeds that differs from one in the settings `but` alone, and has what is wanted."""
        found = [
            other
            for other in self.recipes
            if other.family == recipe.family
            and all((other.mode if key == "mode" else other.setting(key)) == value for key, value in wanted.items())
            and all(
                other.setting(key) == recipe.setting(key) or None in (other.setting(key), recipe.setting(key))
                for key in schema.SETTING.keys() - but
            )
        ]
        return max(found, key=lambda other: other.seeds, default=None)

    @cached_property
    def baseline(self) -> Recipe | None:
        """Labels alone."""
        return next((recipe for recipe in self.recipes if recipe.mode == "none"), None)

    @cached_property
    def best_single(self) -> Recipe | None:
        """Of the recipes of one teacher in mode kd, the best on val: chosen without the test split."""
        single = [recipe for recipe in self.recipes if len(recipe.mixture) == 1 and recipe.mode == "kd"]
        return max(single, key=lambda recipe: recipe.mean("val_macro_f1"), default=None)

    @cached_property
    def headline(self) -> tuple[Recipe | None, Recipe | None]:
        """Baseline and candidate of the comparison that the repeated report rests on, where they were run."""
        if self.replication is None:
            return None, None
        return self.find(self.replication.headline.baseline), self.find(self.replication.headline.candidate)

    @cached_property
    def principal(self) -> Recipe | None:
        """The repeated report's candidate, or else the best on val of the recipes with teachers."""
        distilled = [recipe for recipe in self.recipes if recipe.mixture]
        return self.headline[1] or max(distilled, key=lambda recipe: recipe.mean("val_macro_f1"), default=None)

    @cached_property
    def null_pairs(self) -> list[tuple[Recipe, Recipe]]:
        """Pairs that train on one loss, so that nothing but the pipeline's noise or faults can part them."""
        return [(one, other) for one, other in combinations(self.recipes, 2) if self.same_loss(one, other)]

    @cached_property
    def published(self) -> list[tuple[Recipe, Recipe, Published]]:
        """Baseline, candidate and what the repeated report says of them, of the comparisons whose recipes were run."""
        report = self.replication
        found = [
            (self.find(one.baseline), self.find(one.candidate), one)
            for one in ([report.headline, *report.differences] if report else [])
        ]
        return [(one, other, said) for one, other, said in found if one is not None and other is not None]

    def reported(self, baseline: Recipe, candidate: Recipe) -> float | None:
        """What the repeated report has for candidate minus baseline, whichever way round it has them."""
        for one, other, said in self.published:
            if (one, other) in ((baseline, candidate), (candidate, baseline)):
                return said.macro_f1 if one is baseline else -said.macro_f1
        return None

    @cached_property
    def effects(self) -> list[Facts]:
        """What the study is after: the headline, and the principal recipe against a single teacher and labels alone."""
        pairs = [
            (against, self.principal)
            for against in (self.headline[0], self.best_single, self.baseline)
            if against is not None and self.principal is not None and against is not self.principal
        ]
        return [effect(self, *pair) for pair in pairs]

    @cached_property
    def null(self) -> Facts:
        """Null pairs beside the effects, and the noise of a seed beside the gaps that the repeated report has."""
        gaps = [effect(self, one, other, null=True) for one, other in self.null_pairs]
        gaps = [gap for gap in gaps if gap["points"]]
        noisy = self.principal or (gaps[0]["baseline"] if gaps else None)
        spread = float(noisy.runs["macro_f1"].std(ddof=1)) if noisy and noisy.seeds > 1 else None
        pairs = [(one, other, said) for one, other, said in self.published if self.same_loss(one, other)]
        return {
            "pairs": len(self.null_pairs),
            "gaps": gaps,
            "worst": max(gaps, key=lambda gap: abs(gap["mean"]), default=None),
            "single": max((abs(value) for gap in gaps for value in gap["points"]), default=0.0),
            "effects": self.effects,
            "noisy": noisy,
            "spread": spread,
            "noise": _noise(self, max(pairs, key=lambda pair: abs(pair[2].macro_f1), default=None), spread),
        }

    @cached_property
    def variants(self) -> list[Facts]:
        """Other fusions of the same teachers, and recorded views, each against the split with one view."""
        groups = defaultdict(list)
        for recipe in self.recipes:
            if recipe.mixture:
                rest = [str(recipe.setting(key)) for key in schema.SETTING if key not in ("lambda", "fusion", "views")]
                groups[recipe.mode, point(recipe.mixture), *rest].append(recipe)
        return [made for some in groups.values() if (made := _variants(self, some))]


def effect(study: Study, baseline: Recipe, candidate: Recipe, null: bool = False) -> Facts:
    """A row of a forest plot, with the recipes and the difference that it shows."""
    difference = study.difference(baseline, candidate, "macro_f1")
    low, high = difference.interval or (None, None)
    return {
        "label": f"{candidate.label} − {baseline.label}",
        "baseline": baseline,
        "candidate": candidate,
        "difference": difference,
        "mean": difference.mean,
        "low": low,
        "high": high,
        "points": list(difference.per_seed.values()),
        "null": null,
        "reference": study.reported(baseline, candidate),
    }


def _noise(study: Study, pair: tuple[Recipe, Recipe, Published] | None, spread: float | None) -> Facts | None:
    """A null pair's published gap in standard deviations of the difference of two means of so many seeds each."""
    if pair is None or spread is None or study.replication is None:
        return None
    one, other, said = pair
    of_means = np.sqrt(2 / said.seeds)
    own = float(np.std(study.replication.headline.per_seed, ddof=1))
    gap = abs(said.macro_f1)
    return {
        **{"baseline": one, "candidate": other, "seeds": said.seeds, "gap": gap, "spread": spread * of_means},
        **{"here": gap / max(spread * of_means, 1e-12), "there": gap / max(own * of_means, 1e-12), "own": own},
    }


def _variants(study: Study, some: list[Recipe]) -> Facts | None:
    one_view, averaged = schema.SETTING["views"].assumed, "probability"
    plain = [r for r in some if r.setting("views") in (one_view, None) and r.setting("fusion") == averaged]
    reference = max(plain, key=lambda recipe: recipe.sources, default=None)
    if reference is None or len(plain) == len(some):
        return None
    others = sorted((r for r in some if r is not reference), key=lambda r: r.setting("views") or one_view)
    gap_of = next((recipe for recipe in others if study.reported(reference, recipe) is not None), None)
    gap = study.reported(reference, gap_of) if gap_of else None
    rows = []
    for recipe in others:
        fused = recipe.setting("views") in (one_view, None)
        row = effect(study, reference, recipe) | {"label": recipe.label, "reference": gap if fused else None}
        judged = reproduces(row["difference"], gap) if gap is not None and fused else ""
        ece = study.difference(reference, recipe, "ece_scaled")
        rows.append(row | {"fused": fused, "reproduces": judged, "ece": ece})
    return {"reference": reference, "gap": gap, "gap_of": gap_of, "rows": rows}


def reproduces(difference: Difference, reported: float) -> str:
    """Whether a reported gap lies in the interval: unknown, yes, open (so does zero), no, or other (nor does zero)."""
    if difference.interval is None:
        return "unknown"
    low, high = difference.interval
    if low <= reported <= high:
        return "yes" if difference.clear else "open"
    return "other" if difference.clear else "no"


def gather(frame: pd.DataFrame, params: Params, store: Path | None, replication: Replication | None = None) -> Study:
    """Everything that the sections need, from the table, DVC's cache, git and the working tree."""
    classes = results.classes_of(frame)
    found = recipes.of(frame, params, [*NEEDED, *(f"f1_{name}" for name in classes)])
    digests = set(frame["index_digest"])  # what this workspace has of another index has no place beside these runs
    benchmark, export, costs = deciding.measured()
    keys = "index_digest", "conditions", "run_family", "run_mode"
    misalignment = _json_if_there(workspace.METRICS / "study/misalignment.json", *keys)
    if misalignment is not None and misalignment["index_digest"] not in digests:
        misalignment = None
    drawn = {}
    if misalignment is not None and (picture := workspace.PLOTS / "study/misalignment.png").is_file():
        drawn["misalignment"] = picture.read_bytes()
    teachers = _diversity(params, digests)
    if teachers is not None:
        with TemporaryDirectory() as directory:
            picture = Path(directory) / "diversity.png"
            plots.teacher_diversity(picture, teachers, f"Teachers on {teachers['n']} test images")
            drawn["diversity"] = picture.read_bytes()
    standing = grid.read(workspace.STUDY_GRID).standing if workspace.STUDY_GRID.is_file() else grid.Standing()
    try:
        decision = deciding.decide(frame, params, benchmark, export, costs, cache=store, never=standing.oracle)
        undecided = None
    except CheckError as error:  # too few seeds: the rest of the report stands without it
        decision, undecided = None, error
    return Study(
        frame=frame,
        recipes=found,
        difference=cache(recipes.difference),
        same_loss=lambda one, other: bool(recipes.same_loss(params, one.row, other.row)),
        examples=lambda one, other: comparison.examples(one.runs, other.runs, store, params.calibrate.bins),
        point=lambda family, lambda_: recipes.point(families.mixture(params.families[family], lambda_)),
        task=params.task,
        classes=classes,
        teachers=params.teachers,
        bins=params.calibrate.bins,
        decision=decision,
        undecided=undecided,
        headroom=contrasts.headroom(frame, standing, params, cache=store),
        replication=replication,
        benchmark=benchmark,
        predictions=_predictions(found, classes, store),
        curves=_curves(found),
        working_tree=_working_tree(digests),
        diversity=teachers,
        misalignment=misalignment if "misalignment" in drawn else None,
        splits=_splits(params, digests),
        drawn=drawn,
    )


def _json_if_there(path: Path, *keys: str) -> Any:
    return read_json(path, *keys) if path.is_file() else None


def _splits(params: Params, digests: set[str]) -> dict[str, int]:
    described = _json_if_there(workspace.index_csv(params.index_tag).with_suffix(".json"), "digest", "splits")
    if described is None or described["digest"] not in digests:
        return {}
    return {split: part["length"] for split, part in described["splits"].items()}


def _diversity(params: Params, digests: set[str]) -> dict[str, Any] | None:
    """`diversity.of_split` on test of the teachers that cover it, if the runs' index and all soft labels are here."""
    directories = [workspace.softlabels(name, params.index_tag) for name in params.teachers]
    if not workspace.index_csv(params.index_tag).is_file() or not all(directory.is_dir() for directory in directories):
        return None
    rows = index.read(workspace.index_csv(params.index_tag))
    covered = [read_json(directory / store.MANIFEST).get("covered") for directory in directories]
    teachers = [name for name, of in zip(params.teachers, covered, strict=True) if of is None or of["test"]]
    if rows.digest not in digests or not teachers:
        return None
    return diversity.of_split(params.model_copy(update={"teachers": teachers}), rows, "test", params.temperature)


def _predictions(found: list[recipes.Recipe], classes: list[str], store: Path | None) -> dict[str, list[Any]]:
    """Logits and labels on test, and T*, of the runs whose predictions lie in the cache."""
    read: dict[str, list[Any]] = {}
    if store is None:
        return read
    for recipe in track(found, "predictions"):
        for md5, t_star in zip(recipe.runs["predictions"], recipe.runs["t_star"], strict=True):
            path = dvc_private.stored(store, str(md5))
            if re.fullmatch("[0-9a-f]{32}", str(md5)) and path.is_file():
                test = read_predictions(path, "test", classes)
                read.setdefault(recipe.selector, []).append((test.logits, test.labels, float(t_star)))
    return read


def _curves(found: list[recipes.Recipe]) -> dict[str, dict[str, pd.DataFrame]]:
    """By title and recipe, a frame of epochs by seeds, from the experiments' commits, of those in this clone."""
    wanted = [
        (title, recipe.selector, int(seed), f"{commit}:{path}")
        for recipe in found
        for commit, seed in zip(recipe.runs["commit"], recipe.runs["seed"], strict=True)
        if re.fullmatch("[0-9a-f]{7,64}", str(commit))
        for title, path in CURVES.items()
    ]
    try:
        texts = experiments.blobs([name for *_, name in wanted])
    except UsageError:  # no git, or no repository: the report stands without curves
        return {}
    curves: dict[str, dict[str, dict[int, pd.Series]]] = {}
    for (title, selector, seed, _), text in zip(wanted, texts, strict=True):
        if text is not None:
            table = pd.read_csv(StringIO(text), sep="\t", index_col="step")
            curves.setdefault(title, {}).setdefault(selector, {})[seed] = table.iloc[:, -1]
    return {title: {selector: pd.DataFrame(series) for selector, series in of.items()} for title, of in curves.items()}


def _working_tree(digests: set[str]) -> dict[str, Any]:
    """The pipeline's own run, as `dvc repro` left it, if it is of the runs' index."""
    files = {name: workspace.PLOTS / f"{name}.csv" for name in ("confusion", "reliability")}
    student = _json_if_there(workspace.STUDENT_METRICS, "run_family", "run_mode", "index_digest")
    if student is None or student["index_digest"] not in digests or not all(map(Path.is_file, files.values())):
        return {}
    label = f"{student['run_family']} {student['run_mode']}, working tree"
    return {"label": label, **{name: pd.read_csv(path) for name, path in files.items()}}
