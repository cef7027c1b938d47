"""`ferdistill study`."""

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

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
