"""`ferdistill study`."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Column, Table

from .. import params

study_cli = typer.Typer(no_args_is_help=True, help="Experiments about the recipes themselves.")
DOSES = [0.0, 0.02, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0]


@study_cli.callback()
def study() -> None:
    """Keep a single command a command of its own."""


@study_cli.command("misalignment")
def misalignment(
    doses: Annotated[
        list[float] | None, typer.Option("--dose", help="Share of rows out of step; may be given again.")
    ] = None,
    seeds: Annotated[list[int] | None, typer.Option("--seed", help="Student's seed; may be given again.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Train students on soft labels that lost step on purpose, and see what it costs and who notices.

    Trains eleven students a seed with the family and mode of params.yaml, after `dvc repro`; what is done is kept.
    Writes metrics/study/misalignment.json and plots/study/misalignment.{csv,png}. Examples:

        ferdistill study misalignment

        ferdistill study misalignment --dose 0 --dose 0.5 --seed 1337 --seed 2025
    """
    from ..study import misalignment as library

    settings = params.load()
    result = library.run(settings, doses or DOSES, seeds or [settings.seed])
    if as_json:
        print((library.METRICS).read_text(encoding="utf-8"), end="")
        return
    table = Table("fault", "dose", "macro F1", "ECE", "gate", "canary", "slip row")
    for row in result["conditions"]:
        cells = [row["fault"], f"{row['dose']:.1%}", f"{row['macro_f1']:.4f}", f"{row['ece']:.4f}"]
        slip = "" if row["slip_row"] is None else str(row["slip_row"])
        table.add_row(*cells, ", ".join(row["gate"]) or "in step", row["canary"], slip)
    Console().print(table)
    print(f"{library.METRICS}, {library.TABLE} and {library.PICTURE} written")


ResultsOption = Annotated[Path, typer.Option("--results", help="Table of runs, one a row.")]
RESULTS = Path("metrics/study/results_summary.csv")


@study_cli.command("decide")
def decide(
    table: ResultsOption = RESULTS,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of sentences.")] = False,
) -> None:
    """Choose the student to deploy and a fallback, and say why, step by step.

    A large drop of ECE for a negligible loss of macro F1 is acceptable, the reverse is not; of recipes that the seeds
    do not tell apart, the simpler is taken. The thresholds are under `decide` in params.yaml. Reads
    metrics/benchmark.json and metrics/export.json too, and exits with 1 if the student is too slow or too
    large. Examples:

        ferdistill study decide

        ferdistill study decide --results other/results_summary.csv --json
    """
    from ..files import read_json
    from ..study import decide as library
    from ..study import results

    settings = params.load()
    measured = [Path("metrics") / f"{name}.json" for name in ("benchmark", "export")]
    benchmark, export = (read_json(path) if path.is_file() else None for path in measured)
    decision = library.decide(results.read(table), settings, benchmark, export)
    if as_json:
        print(json.dumps(decision, indent=2, ensure_ascii=False, allow_nan=False))
    else:
        heads = ["teachers", "seeds", "F1 val", "F1 test", "ECE scaled", "acceptable", "Pareto"]
        shown = Table(Column("recipe", overflow="fold"), *heads)
        for row in decision["candidates"]:
            numbers = [f"{row[key]:.4f}" for key in ("val_macro_f1", "macro_f1", "ece_scaled")]
            flags = ["yes" if row[key] else "" for key in ("acceptable", "pareto")]
            shown.add_row(row["label"], str(row["teachers"]), str(row["seeds"]), *numbers, *flags)
        console = Console()
        console.print(shown)
        for number, sentence in enumerate(decision["reasoning"], 1):
            console.print(f"{number}. {sentence}", markup=False, highlight=False)
    if not decision["ok"]:
        raise typer.Exit(1)


@study_cli.command("report")
def report(
    table: ResultsOption = RESULTS,
    out: Annotated[Path, typer.Option("--out", help="The page; one file that needs no network.")] = Path(
        "plots/study/report.html"
    ),
    markdown: Annotated[
        Path, typer.Option("--markdown", help="The same as Markdown, with a directory of figures beside it.")
    ] = Path("docs/study-report.md"),
    cache: Annotated[
        Path, typer.Option("--cache", help="DVC's cache of files by MD5, for the runs' predictions.")
    ] = Path(".dvc/cache/files/md5"),
    as_json: Annotated[bool, typer.Option("--json", help="Print what was written as JSON.")] = False,
) -> None:
    """Write the study report: tables, figures and findings, every sentence made from the numbers.

    What is not here (predictions, soft labels, curves of experiments) is left out, and the report says so. Examples:

        ferdistill study report

        ferdistill study report --results other/results_summary.csv --out other/report.html --markdown other/report.md
    """
    from ..study import report as library

    written = library.make(table, params.load(), out, markdown, cache)
    if as_json:
        print(json.dumps({"written": [path.as_posix() for path in written]}, indent=2))
    else:
        print(f"{out} ({out.stat().st_size / 1e6:.1f} MB) and {markdown} written, with {len(written) - 2} figures")
