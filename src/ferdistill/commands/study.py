"""`ferdistill study`."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import TextColumn
from rich.table import Table

from .. import params
from ..errors import CheckError
from ..progress import bar

study_cli = typer.Typer(no_args_is_help=True, help="Experiments about the recipes themselves.")
DOSES = [0.0, 0.02, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0]


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


@contextmanager
def _progress(total: int) -> Iterator[Callable[[Any], None]]:
    """Show where a study stands: a bar on a terminal, else a line whenever that changes."""
    with bar(TextColumn("{task.fields[state]}")) as progress:
        progress.speed_estimate_period = 24 * 3600  # a run takes minutes
        task = progress.add_task("runs", total=total, state="")
        last: list[str] = []

        def tell(now: Any) -> None:
            state = f"{now.running} running, {now.waiting} waiting, {now.failed} failed"
            progress.update(task, completed=now.done + now.failed, state=state)
            if progress.disable and last != [state]:
                left = "" if now.seconds_left is None else f"; about {timedelta(seconds=round(now.seconds_left))} left"
                print(f"{datetime.now():%H:%M:%S} {now.done} of {total} done, {state}{left}", file=sys.stderr)
            last[:] = [state]

        yield tell


@study_cli.command("run")
def run(
    grid: Annotated[Path, typer.Option("--grid", help="The runs to make.")] = Path("conf/study.yaml"),
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, help="Runs at a time.")] = 1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what is done and what would run.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON at the end instead of text.")] = False,
) -> None:
    """Run a grid of recipes and seeds as DVC experiments, skipping what is done; killed, it goes on when called again.

    A run is done if the experiment of its name fits the present code, params and data. The stages before `targets`,
    which all runs share, must be up to date and committed. Exits with 1 if a run failed. Examples:

        ferdistill study run --dry-run

        ferdistill study run --jobs 2

        ferdistill study run --grid my_study.yaml --json
    """
    from ..study import experiments
    from ..study import grid as grids
    from ..study import queue as library

    params.load()
    runs = grids.load(grid, experiments.load_yaml(Path("params.yaml").read_text(encoding="utf-8")))
    failures: list[Any] = []
    with Console(stderr=True).status("Comparing code, params and data with dvc.lock"):
        now = experiments.present()
        if not dry_run:
            library.require_ready(now)
    if not dry_run:
        with _progress(len(runs)) as tell:
            failures = library.run(runs, now, jobs, tell)
    standing = library.standing(runs, now)
    failed = {failure.name for failure in failures}
    if as_json:
        state = {name: "failed" if name in failed else "missing" if why else "done" for name, why in standing.items()}
        listed = [{"name": name, "state": state[name], "why": why} for name, why in standing.items()]
        print(json.dumps({"runs": listed, "failures": [failure._asdict() for failure in failures]}, indent=2))
    else:
        for name, why in standing.items():
            if dry_run:
                print(f"{name}: {'done' if not why else f'would run, {why}'}")
        for failure in failures:
            said = "\n".join(f"    {line}" for line in failure.why.splitlines())
            print(f"{failure.name} failed\n{said}\n    log: {failure.log or 'none'}", file=sys.stderr)
        print(f"{sum(not why for why in standing.values())} of {len(runs)} runs are done, {len(failed)} failed")
    if failures:
        raise typer.Exit(1)


@study_cli.command("collect")
def collect(
    out: Annotated[Path, typer.Option("--out", help="Table to write.")] = Path("metrics/study/results_summary.csv"),
    tz_offset: Annotated[float, typer.Option("--tz-offset", min=-14, max=14, help="Hours from UTC of its times.")] = 8,
    revs: Annotated[
        list[str] | None,
        typer.Option("--rev", help="Commit that experiments started from; HEAD and ancestors if none."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a summary as JSON.")] = False,
) -> None:
    """Write every experiment that belongs in one table, a row a run: scores, calibration, provenance.

    Runs of another index, scale or setting than the workspace's, misaligned runs, and runs that a newer one repeats are
    left out, and named on standard error with the reason. The workspace is not a run. Examples:

        ferdistill study collect

        ferdistill study collect --tz-offset 0 --rev main --out main.csv --json
    """
    from ..study import collect as library

    found = library.collect(params.load(), revs or [], tz_offset)
    for name, reason in found.left_out:
        print(f"left out {name}: {reason}", file=sys.stderr)
    if not found.rows:
        raise CheckError(
            "no experiment belongs in the table", hint="ferdistill study run makes them; see git log, --rev"
        )
    library.write(out, found.rows)
    if as_json:
        left_out = [{"experiment": name, "reason": reason} for name, reason in found.left_out]
        print(json.dumps({"out": str(out), "rows": len(found.rows), "left_out": left_out}, indent=2))
    else:
        print(f"{out}: {len(found.rows)} runs, {len(found.left_out)} experiments left out")
