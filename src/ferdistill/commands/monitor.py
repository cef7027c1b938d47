"""`ferdistill monitor`."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from .. import workspace
from ..errors import UsageError
from ..plain import json_text
from . import options
from .console import wide


def monitor(
    log: Annotated[Path, typer.Argument(metavar="LOG", help="JSON lines of `predict` or `watch --json`.")],
    bundle: options.Bundle = workspace.BUNDLE,
    level: Annotated[float, typer.Option("--level", min=0.0001, max=0.5, help="p below which it has drifted.")] = 0.05,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    out: Annotated[Path | None, typer.Option("--out", help="Draw both distributions as a PNG.")] = None,
) -> None:
    """Say whether a bundle's answers have drifted from those on its test split: classes, confidence, abstention.

    Goes by the records alone: no image and no label is needed or kept. A track counts once. Other people and another
    mix of classes are a drift too; a drift does not say that answers are worse, and none does not say that they are
    right. Exit code 1 if it has drifted. Examples:

        ferdistill monitor watched.jsonl

        ferdistill monitor predictions.jsonl --bundle models/bundle --json --out drift.png
    """
    from ..evaluation import drift, plots
    from ..runtime.classifier import read_bundle

    info = read_bundle(bundle)
    if not isinstance(info.get("reference"), dict):
        raise UsageError(
            "a bundle that keeps nothing of its answers on test",
            where=str(bundle / "bundle.json"),
            expected="`reference`, as the stage `export` writes it",
            hint="export it again",
        )
    classes = info["classes"]
    report = drift.compare(
        drift.read(log, classes, info["task"]["detector"]), info["reference"], classes, info["image"]["size"], level
    )
    if out is not None:
        plots.drift(out, report, classes, f"{log.name}: {report['answers']} answers")
    if as_json:
        print(json_text({"log": str(log), **report}))
    else:
        _print(report, log)
    if report["drifted"]:
        raise typer.Exit(1)


def _print(report: dict[str, Any], log: Path) -> None:
    console = wide()
    title = f"{log}: {report['answers']} answers, {'drifted' if report['drifted'] else 'no drift shown'}"
    table = Table("what", "difference", "p", "p, Holm", title=title, title_justify="left")
    for name, of in report["tests"].items():
        apart = (
            f"{of['distance']:.3f} (total variation)"
            if "distance" in of
            else f"{of['share']:.1%}, on test {of['reference']:.1%}"
        )
        table.add_row(name, apart, f"{of['p']:.3g}", f"{of['p_holm']:.3g}")
    console.print(table)
    if report["small_crops"] is not None:
        console.print(f"{report['small_crops']:.1%} of the crops are smaller than the network's input.")
    if report["unread"]:
        console.print(f"{report['unread']} pictures could not be read, and do not count.")
