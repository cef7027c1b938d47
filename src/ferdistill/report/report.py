"""The study report: one HTML file that needs no network, and the same in Markdown with its figures beside it.

Same table, cache and working tree: same bytes. Nothing in it is a fixed claim; see `sections`.
"""

import base64
import re
from functools import cache
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from .. import workspace
from ..data import index
from ..errors import CheckError, UsageError
from ..evaluation import diversity, plots
from ..evaluation.metrics import read_predictions
from ..files import atomic, read_json, write_text
from ..params import Params
from ..progress import track
from ..softlabels import families
from ..study import comparison as compare
from ..study import decision as decide
from ..study import recipes, results
from ..tracking import dvc_private, experiments
from .sections import SECTIONS, Picture, Section, Study

CURVES = {
    "macro F1 on val": "plots/student/plots/metrics/val/macro_f1.tsv",
    "loss on train": "plots/student/plots/metrics/train/loss.tsv",
}
NEEDED = [
    *("experiment", *decide.NEEDED, "brier_scaled", "nll_scaled", "ece_null", "best_epoch", "grid_at_edge"),
    *("best_test_macro_f1", "optimism_macro_f1", "scale", "corpus", "index_tag", "index_digest", "code", "time"),
]


def make(table: Path, params: Params, html: Path, markdown: Path, store: Path | None = None) -> list[Path]:
    """Read what there is, and write the report.

    Parameters
    ----------
    table : Path
        The results, see `results.read`.
    params : Params
    html, markdown : Path
        What to write. Figures of the Markdown go to a directory beside it, of the same name without suffix.
    store : Path, optional
        DVC's cache, where the runs' predictions are looked up; by default that of the repository one stands in.

    Returns
    -------
    list of Path
        Everything written.

    Raises
    ------
    UsageError, CheckError
        See `results.read` and `recipes.of`.
    """
    frame = results.read(table)
    study = gather(frame, params, dvc_private.local_cache() if store is None else store)
    made = [section(study) for section in track(SECTIONS, "sections")]
    chosen = study.decision["chosen"]["label"] if study.decision else None
    summary = {"runs": len(frame), "recipes": len(study.recipes), "chosen": chosen, "table": table.as_posix()}
    figures = markdown.with_suffix("")
    written = [html, markdown]
    for picture in (block for section in made for block in section.blocks if isinstance(block, Picture)):
        path = figures / (picture.name + picture.suffix)
        with atomic(path) as temporary:
            temporary.write_bytes(picture.data)
        written.append(path)
    for stale in set(figures.glob("*.svg")) | set(figures.glob("*.png")):
        if stale not in written:
            stale.unlink()
    write_text(html, render("report.html.j2", made, summary, figures.name))
    write_text(markdown, render("report.md.j2", made, summary, figures.name))
    return written


def render(template: str, sections: list[Section], summary: dict[str, Any], figures: str) -> str:
    """Fill one of the two templates."""
    environment = Environment(
        loader=PackageLoader("ferdistill.report"),
        autoescape=template.endswith(".html.j2"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["data_uri"] = _data_uri
    environment.filters["md"] = _markdown
    return environment.get_template(template).render(sections=sections, summary=summary, figures=figures)


def gather(frame: pd.DataFrame, params: Params, store: Path | None) -> Study:
    """Everything that the sections need, from the table, DVC's cache, git and the working tree."""
    classes = results.classes_of(frame)
    found = recipes.of(frame, params, [*NEEDED, *(f"f1_{name}" for name in classes)])
    digests = set(frame["index_digest"])  # what this workspace has of another index has no place beside these runs
    benchmark, export = decide.measured()
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
    try:
        decision, undecided = decide.decide(frame, params, benchmark, export), ""
    except CheckError as error:  # too few seeds: the rest of the report stands without it
        decision, undecided = None, f"Nothing is decided: {error.what}. To decide, {error.hint}."
    return Study(
        frame=frame,
        recipes=found,
        difference=cache(recipes.difference),
        same_loss=lambda one, other: bool(recipes.same_loss(params, one.row, other.row)),
        examples=lambda one, other: compare.examples(one.runs, other.runs, store, params.calibrate.bins),
        point=lambda family, lambda_: recipes.point(families.mixture(params.families[family], lambda_)),
        classes=classes,
        teachers=params.teachers,
        bins=params.calibrate.bins,
        decision=decision,
        undecided=undecided,
        benchmark=benchmark,
        predictions=_predictions(found, classes, store),
        curves=_curves(found),
        working_tree=_working_tree(digests),
        diversity=teachers,
        misalignment=misalignment if "misalignment" in drawn else None,
        drawn=drawn,
    )


def _json_if_there(path: Path, *keys: str) -> Any:
    return read_json(path, *keys) if path.is_file() else None


def _diversity(params: Params, digests: set[str]) -> dict[str, Any] | None:
    """`diversity.of_split` on test, if the runs' index and every teacher's soft labels are here."""
    directories = [workspace.softlabels(name, params.index_tag) for name in params.teachers]
    if not workspace.index_csv(params.index_tag).is_file() or not all(directory.is_dir() for directory in directories):
        return None
    rows = index.read(workspace.index_csv(params.index_tag))
    return diversity.of_split(params, rows, "test", params.temperature) if rows.digest in digests else None


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


def _data_uri(picture: Picture) -> str:
    kind = {".svg": "image/svg+xml", ".png": "image/png"}[picture.suffix]
    return f"data:{kind};base64,{base64.b64encode(picture.data).decode('ascii')}"


def _markdown(text: str) -> str:
    """Plain text as Markdown: no character of it is markup."""
    for character in "\\`*|<[":
        text = text.replace(character, "\\" + character)
    return text
