"""`ferdistill score`."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from ..errors import UsageError
from ..plain import json_text
from .console import wide

HEADS = {
    "macro_f1": "macro F1",
    "accuracy": "accuracy",
    "nll": "NLL (nats)",
    "brier": "Brier",
    "brier_reliability": "  reliability",
    "brier_resolution": "  resolution",
    "brier_uncertainty": "  uncertainty",
    "brier_within_bins": "  within bins",
    "ece": "ECE, equal width",
    "ece_null": "  if perfectly calibrated",
    "ece_p": "  p of perfect calibration",
    "ece_equal_mass": "ECE, equal mass",
    "ece_classwise": "ECE, classwise",
    "ece_smooth": "ECE, smooth",
    "mce": "MCE",
    "aurc": "area under risk and coverage",
}
ENDS = (("low", "high"), ("basic_low", "basic_high"))


def score(
    file: Annotated[Path, typer.Argument(metavar="PREDICTIONS", help="A .csv, .parquet or .npz file.")],
    split: Annotated[str | None, typer.Option("--split", help="Rows to score, or `all`.")] = None,
    temperature: Annotated[float, typer.Option("--temperature", min=0.01, max=100, help="Divides the logits.")] = 1.0,
    bins: Annotated[int, typer.Option("--bins", min=2, max=1000, help="Bins of every binned score.")] = 15,
    intervals: Annotated[bool, typer.Option(help="Bootstrap intervals, by subject where the file names them.")] = True,
    draws: Annotated[int, typer.Option("--draws", min=100, help="Resamples for the intervals.")] = 1000,
    level: Annotated[float, typer.Option("--level", min=0.5, max=0.999, help="Of intervals and bands.")] = 0.95,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the resamples.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    out: Annotated[Path | None, typer.Option("--out", help="Draw the reliability diagram as a PNG.")] = None,
    fit: Annotated[
        str | None, typer.Option("--fit", metavar="SPLIT", help="Fit sets, abstention and alerts on these rows.")
    ] = None,
    method: Annotated[str, typer.Option("--sets", help="lac or aps.")] = "lac",
    coverage: Annotated[float, typer.Option(help="Of the sets, above 0 and below 1.")] = 0.9,
    by_class: Annotated[bool, typer.Option("--by-class", help="That coverage for each class by itself.")] = False,
    risk: Annotated[float, typer.Option(help="Errors among the answers, as a share.")] = 0.1,
    precision: Annotated[float, typer.Option(help="Right ones among the alerts of a class, as a share.")] = 0.9,
    failure: Annotated[float, typer.Option(help="Share of fits that may miss a risk or a precision.")] = 0.1,
    curve: Annotated[Path | None, typer.Option("--curve", help="Draw the risk against the coverage as a PNG.")] = None,
) -> None:
    """Score anybody's predictions: macro F1, calibration in several forms, P, R and F1 of each class.

    A table has a column `label` (a class's name, or its place from 0) and for each class `logit_<class>` or
    `prob_<class>`. An npz holds the same as arrays, or `label` and `logits` or `probs` (N, K). With a column `subject`
    or `group`, the intervals come from resampled subjects, not rows. Examples:

        ferdistill score predictions.csv

        ferdistill score models/student/predictions.parquet --split test --temperature 0.91 --out reliability.png

        ferdistill score predictions.npz --no-intervals --json

        ferdistill score models/student/predictions.parquet --split test --fit calib --risk 0.05 --curve risk.png

    With --fit, prediction sets, a threshold of abstention and thresholds of alerts are fitted on one split and tried on
    the other: docs/acting.md. They hold for people who are like those of the first.
    """
    from ..evaluation import guarantees, plots, predictions
    from ..progress import track

    def bar(chunks: range) -> Iterable[int]:
        return track(chunks, "Resampling", len(chunks))

    wanted = guarantees.wanted(method, coverage, by_class, risk, precision, failure)
    scored = predictions.read(file, split)
    report = predictions.report(
        scored,
        temperature=temperature,
        bins=bins,
        draws=draws if intervals else 0,
        level=level,
        seed=seed,
        track=bar,
    )
    name = f"{file.name}, {split}" if split else file.name
    title = f"{name}: {report['n']} samples, T = {temperature:g}"
    if out:
        plots.reliability_diagram(out, report["reliability"], bins, title)
    if fit:
        if fit == split:
            raise UsageError("the split that is scored", where=f"--fit {fit}", expected="another than --split")
        report["acting"] = predictions.acting(predictions.read(file, fit), scored, temperature, wanted)
    if curve:
        plots.risk_curve(
            curve, guarantees.risk_table(scored.logits, scored.labels, temperature), report.get("acting"), title
        )
    if as_json:
        print(json_text({"file": str(file), "split": split, **report}))
    else:
        _print(report, title, level)


def _print(report: dict[str, Any], title: str, level: float) -> None:
    console = wide()
    table = Table("score", "value", title=title, title_justify="left")
    found = report.get("intervals", {})
    if found:
        table.add_column(f"{100 * level:g} % interval")
        table.add_column("basic interval")
    for name, head in HEADS.items():
        value = "infinite" if report[name] is None else f"{report[name]:.4f}"
        interval = found.get(name) or {}
        shown = [f"{interval[low]:.4f} to {interval[high]:.4f}" if low in interval else "" for low, high in ENDS]
        table.add_row(head, value, *(shown if found else []))
    console.print(table)
    classes = Table("class", "precision", "recall", "F1", "samples")
    for name, of in report["per_class"].items():
        classes.add_row(name, *(f"{of[key]:.4f}" for key in ("precision", "recall", "f1")), str(of["support"]))
    console.print(classes)
    if "acting" in report:
        _print_acting(report["acting"], console)
    if report["impossible"]:
        console.print(
            f"{report['impossible']} samples give their own label a probability of 0, hence the infinite NLL."
        )
    if found:
        console.print(f"Intervals: {report['people']} subjects (or rows, where none is named), resampled.")


def _print_acting(acting: dict[str, Any], console: Console) -> None:
    """What was fitted, and what it does on the scored rows."""
    measured, sets = acting["measured"], acting["sets"]
    table = Table("guaranteed", "threshold", "on these rows", title="What may be acted on", title_justify="left")
    limits = {limit for limit in sets["limits"].values() if limit is not None}
    table.add_row(
        f"sets ({sets['method']}) hold the truth in {sets['coverage']:g}{' of each class' if sets['by_class'] else ''}",
        "too few people" if not limits else f"{limits.pop():.4f}" if len(limits) == 1 else "by class",
        f"{measured['sets']['coverage_by_person']:.4f} by person, {measured['sets']['mean_size']:.2f} classes",
    )
    for name, bounded in acting["abstention"]["risks"].items():
        on = measured["abstention"].get(name)
        table.add_row(
            f"at most {name} of the answers wrong",
            "none" if on is None else f"{bounded['threshold']:.4f}",
            "" if on is None else f"{on['answered']:.1%} answered, {_share(on['errors'])} wrong",
        )
    for name, threshold in acting["alerts"]["thresholds"].items():
        on = measured["alerts"].get(name)
        table.add_row(
            f"alerts of {name} right in {acting['alerts']['precision']:g}",
            "none" if threshold is None else f"{threshold:.4f}",
            "" if on is None else f"{on['raised']} raised, {_share(on['precision'])} right",
        )
    console.print(table)
    for warning in acting["warnings"]:
        console.print(warning)


def _share(value: float | None) -> str:
    return "none" if value is None else f"{value:.1%}"
