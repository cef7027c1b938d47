"""`ferdistill repro`."""

import subprocess
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from ..plain import json_text
from .console import wide

if TYPE_CHECKING:
    from ..tracking.plan import Planned


def repro(
    targets: Annotated[list[str] | None, typer.Argument(help="Stages, as teacher@vit_ban; all if not given.")] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Say what would run, and why, and run nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --plan, print JSON instead of a table.")] = False,
) -> None:
    """Run what has changed, as `dvc repro` does; or say beforehand what that is.

    A stage whose code, params or data changed will run. One that reads what such a stage makes runs only if that comes
    out different. Times are of the last run on this machine. Examples:

        ferdistill repro --plan

        ferdistill repro --plan --json student

        ferdistill repro
    """
    if not plan:
        raise typer.Exit(subprocess.run(["dvc", "repro", *(targets or [])], check=False).returncode)
    from ..tracking.plan import plan as planned

    found = planned(targets or [])
    if as_json:
        print(json_text([asdict(stage) for stage in found]))
        return
    if not found:
        print("everything is up to date: nothing would run")
        return
    table = Table("stage", "runs", "why", "last time", title_justify="left")
    for stage in found:
        last = "never here" if stage.seconds is None else f"{stage.seconds:,.0f} s"
        table.add_row(stage.stage, "yes" if stage.certain else "perhaps", "\n".join(stage.reasons), last)
    wide().print(table)
    certain = [stage for stage in found if stage.certain]
    unknown = sum(stage.seconds is None for stage in found)
    print(
        f"{len(certain)} will run{_seconds(certain)}; with all that may follow {len(found)}{_seconds(found)}"
        + (f"; {unknown} have never run here" if unknown else "")
    )


def _seconds(stages: "list[Planned]") -> str:
    known = [stage.seconds for stage in stages if stage.seconds is not None]
    return f", {sum(known):,.0f} s the last time" if known else ""
