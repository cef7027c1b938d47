"""`ferdistill teachers`."""

import json
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from .. import workspace
from ..errors import UsageError
from .console import wide

teachers_cli = typer.Typer(no_args_is_help=True, help="The teachers, side by side.")


@teachers_cli.callback()
def teachers() -> None:
    """Keep `diversity` a command of its own."""


@teachers_cli.command("diversity")
def diversity(
    index_csv: Annotated[Path | None, typer.Option("--index", help="Index; that of params.yaml if not given.")] = None,
    split: Annotated[str, typer.Option("--split", help="train, val, calib or test.")] = "test",
    temperature: Annotated[
        float | None, typer.Option("--temperature", min=0.01, max=100, help="Softens all; params.yaml's if not given.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    out: Annotated[Path | None, typer.Option("--out", help="Draw the figures as a PNG too.")] = None,
) -> None:
    """Say how much the teachers' soft labels differ, what their mean keeps, and how near the truth they are.

    Reads the soft labels of every teacher in params.yaml. Distances to the truth are given where it is known, as for
    the embedded corpus. Nothing trains or chooses by these figures. Examples:

        ferdistill teachers diversity

        ferdistill teachers diversity --split val --temperature 1 --json

        ferdistill teachers diversity --out diversity.png
    """
    from .. import params
    from ..data import index
    from ..evaluation import diversity as library
    from ..evaluation import plots

    if split not in index.SPLITS:
        raise UsageError(f"no split `{split}`", where="--split", expected=f"one of {', '.join(index.SPLITS)}")
    settings = params.load()
    rows = index.read(index_csv or workspace.index_csv(settings.index_tag))
    report = library.of_split(settings, rows, split, settings.temperature if temperature is None else temperature)
    title = f"Teachers on {split}: {report['n']} images, T = {report['temperature']:g}"
    if out:
        plots.teacher_diversity(out, report, title)
    if as_json:
        typer.echo(json.dumps({"split": split, **report}, indent=2, ensure_ascii=False, allow_nan=False))
    else:
        _print(report, title)


def _print(report: dict[str, Any], title: str) -> None:
    console = wide()
    heads = {
        "accuracy": "accuracy",
        "macro_f1": "macro F1",
        "entropy": "entropy",
        "kl_from_truth": "KL from truth",
        "total_variation": "total variation",
    }
    shown = [key for key in heads if key in report["fused"]]
    table = Table("teacher", *(heads[key] for key in shown), title=title, title_justify="left")
    for name, scores in report["each"].items():
        table.add_row(name, *(f"{scores[key]:.4f}" for key in shown))
    table.add_section()
    table.add_row("fused (mean of all)", *(f"{report['fused'][key]:.4f}" for key in shown))
    table.add_row("oracle (at least one right)", f"{report['oracle_accuracy']:.4f}")
    console.print(table)

    pairs = Table("pair", "Jensen-Shannon", "disagreement", title="Pairs", title_justify="left")
    for i, j in combinations(range(len(report["teachers"])), 2):
        names = f"{report['teachers'][i]}, {report['teachers'][j]}"
        pairs.add_row(names, f"{report['jensen_shannon'][i][j]:.4f}", f"{report['disagreement'][i][j]:.4f}")
    if pairs.rows:
        console.print(pairs)

    variance = report["variance"]
    kept = "none" if variance["ratio"] is None else f"{variance['ratio']:.1%}"
    console.print(
        f"Variance over images: {variance['teachers']:.4f} in the mean of the teachers. The fused target keeps {kept}, "
        f"or {variance['ratio_if_independent']:.1%} if they were independent, as the report assumes.\n"
        f"The split loss of kd is the fused one and {report['jensen_shannon_of_all']:.4f} alpha T^2, a constant.\n"
        "Entropies and divergences are in nats; the truth is softened at T too."
    )
