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
from rich.table import Column, Table

from .. import workspace
from ..errors import CheckError, UsageError
from ..plain import json_text, say, shown
from ..progress import bar
from .console import wide

study_cli = typer.Typer(no_args_is_help=True, help="Experiments about the recipes themselves.")
As_json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Results = Annotated[Path | None, typer.Option("--results", help="CSV of runs.", show_default=False)]


@study_cli.command("misalignment")
def misalignment(
    doses: Annotated[
        list[float] | None, typer.Option("--dose", min=0, max=1, help="Share of rows out of step; may be given again.")
    ] = None,
    seeds: Annotated[list[int] | None, typer.Option("--seed", help="Student's seed; may be given again.")] = None,
    as_json: As_json = False,
) -> None:
    """Train students on soft labels that lost step on purpose, and see what it costs and who notices.

    Trains eleven students a seed with the family and mode of params.yaml, after `dvc repro`; what is done is kept.
    Writes metrics/study/misalignment.json and plots/study/misalignment.{csv,png}. Examples:

        ferdistill study misalignment

        ferdistill study misalignment --dose 0 --dose 0.5 --seed 1337 --seed 2025
    """
    from .. import params
    from ..study import misalignment as library

    settings = params.load()
    result = library.measure(settings, doses or library.DOSES, seeds or [settings.seed])
    if as_json:
        print(library.METRICS.read_text(encoding="utf-8"), end="")
        return
    table = Table("fault", "dose", "macro F1", "ECE", "gate", "canary", "slip row")
    for row in result["conditions"]:
        cells = [row["fault"], f"{row['dose']:.1%}", f"{row['macro_f1']:.4f}", f"{row['ece']:.4f}"]
        slip = "" if row["slip_row"] is None else str(row["slip_row"])
        table.add_row(*cells, ", ".join(row["gate"]) or "in step", row["canary"], slip)
    wide().print(table)
    print(f"{library.METRICS}, {library.TABLE} and {library.PICTURE} written")


@contextmanager
def progress(total: int) -> Iterator[Callable[[Any], None]]:
    """Show where a study stands: a bar on a terminal, else a line whenever that changes."""
    with bar(TextColumn("{task.fields[state]}")) as progress:
        progress.speed_estimate_period = 24 * 3600  # a run takes minutes
        task = progress.add_task("runs", total=total, state="")
        last: list[str] = []

        def tell(now: Any) -> None:
            state = f"{now.running} running, {now.waiting} waiting, {now.failed} failed"
            shown_state = "\n".join([state, *now.workers])
            progress.update(task, completed=now.done + now.failed, state=shown_state)
            state = "; ".join([state, *(line.rpartition(", ")[0] for line in now.workers)])
            if progress.disable and last != [state]:
                left = "" if now.seconds_left is None else f"; about {timedelta(seconds=round(now.seconds_left))} left"
                print(f"{datetime.now():%H:%M:%S} {now.done} of {total} done, {state}{left}", file=sys.stderr)
            last[:] = [state]

        yield tell


def print_failures(failures: list[Any]) -> None:
    """Say of each what failed, why, and where its log is."""
    for failure in failures:
        said = "\n".join(f"    {line}" for line in failure.why.splitlines())
        whole = f"{failure.name} failed\n{said}\n    log: {failure.log or 'none'}"
        print(shown(whole, lines=True), file=sys.stderr)


def elsewhere(executor: str) -> Any:
    """The executor of other machines of this name with its settings; None for this one."""
    if executor == "local":
        return None
    if executor not in ("slurm", "ray"):
        raise UsageError(f"no executor `{executor}`", where="--executor", expected="local, slurm or ray")
    from ..tracking import executors, remote

    settings = executors.load()
    return executors.make(executor, settings, remote.word(remote.place_of(settings))), settings


@study_cli.command("run")
def run(
    grid: Annotated[Path, typer.Option("--grid", help="The runs to make.")] = workspace.STUDY_GRID,
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, help="Runs at a time.")] = 1,
    executor: Annotated[
        str,
        typer.Option("--executor", help="local, slurm or ray: where they run; see conf/cluster.yaml."),
    ] = "local",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what is done and what would run.")] = False,
    as_json: As_json = False,
) -> None:
    """Run a grid of recipes and seeds as DVC experiments, skipping what is done; killed, it goes on when called again.

    A run is done if the experiment of its name fits the present code, params and data. The stages before `targets`,
    which all runs share, must be up to date and committed. Exits with 1 if a run failed. Examples:

        ferdistill study run --dry-run

        ferdistill study run --jobs 2

        ferdistill study run --grid my_study.yaml --json

        ferdistill study run --executor slurm --jobs 16
    """
    from .. import params
    from ..study.grid import load
    from ..tracking import experiments
    from ..tracking import queue as library

    params.load()
    runs = load(grid, experiments.load_yaml(workspace.PARAMS.read_text(encoding="utf-8")))
    failures: list[Any] = []
    with Console(stderr=True).status("Comparing code, params and data with dvc.lock"):
        now = experiments.present()
        if not dry_run:
            library.require_ready(now)
    where = elsewhere(executor)
    if not dry_run:
        with progress(len(runs)) as tell:
            if where is None:
                failures = library.run_missing(runs, now, jobs, tell)
            else:
                from ..tracking import remote

                to, settings = where
                failures = remote.send_missing(runs, now, jobs, to, settings, tell)
    standing = library.standing(runs, now)
    failed = {failure.name for failure in failures}
    if as_json:
        state = {name: "failed" if name in failed else "missing" if why else "done" for name, why in standing.items()}
        listed = [{"name": name, "state": state[name], "why": why} for name, why in standing.items()]
        print(json.dumps({"runs": listed, "failures": [failure._asdict() for failure in failures]}, indent=2))
    else:
        for name, why in standing.items() if dry_run else ():
            to = f", on {where[0].told}" if where else ""
            say(f"{name}: {f'would run, {why}{to}' if why else 'done'}")
        print_failures(failures)
        print(f"{sum(not why for why in standing.values())} of {len(runs)} runs are done, {len(failed)} failed")
    why, hint = experiments.why_none(experiments.baselines([])) if dry_run else ("", "")
    if why:
        print(f"note: {why}\n  do: {hint}", file=sys.stderr)
    if failures:
        raise typer.Exit(1)


@study_cli.command("collect")
def collect(
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Table to write; metrics/study/CORPUS.csv if none.", show_default=False),
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Write over a table that has other runs.")] = False,
    tz_offset: Annotated[
        float | None,
        typer.Option("--tz-offset", min=-14, max=14, help="Hours from UTC of its times; the machine's zone if none."),
    ] = None,
    revs: Annotated[
        list[str] | None,
        typer.Option("--rev", help="Commit that experiments started from; HEAD and ancestors if none."),
    ] = None,
    predictions: Annotated[
        bool, typer.Option("--predictions", help="Copy the runs' predictions to metrics/study/predictions, too.")
    ] = False,
    as_json: As_json = False,
) -> None:
    """Write every experiment that belongs in one table, a row a run: scores, calibration, provenance.

    Runs of another index, scale or setting than the workspace's, misaligned runs, and runs that a newer one repeats are
    left out, and named on standard error with the reason. The workspace is not a run. A table that has other runs is
    not written over unless told. Of the embedded corpus it is metrics/study/results_summary.csv. With --predictions,
    committed with the table, who clones it has the intervals over people too. Examples:

        ferdistill study collect

        ferdistill study collect --predictions

        ferdistill study collect --tz-offset 0 --rev main --out main.csv --json
    """
    import pandas as pd

    from .. import params
    from ..study import collect as library
    from ..study import stored
    from ..tracking import experiments

    settings = params.load()
    out = out or workspace.results(settings.corpus)
    rows, unfit = library.collect(settings, revs or [], tz_offset)
    for name, reason in unfit:
        say(f"left out {name}: {reason}", err=True)
    if not rows:
        why, hint = experiments.why_none(experiments.baselines(revs or []))
        raise CheckError(
            why or "no experiment belongs in the table",
            expected="experiments of this workspace's index, scale and settings",
            hint=hint
            or "`ferdistill study run` makes them; those of another index or setting are collected where they were "
            "run: `git checkout COMMIT && dvc checkout && ferdistill study collect --out older.csv`",
        )
    if not replace:
        library.require_kept(out, rows)
    if predictions:
        stored.keep(pd.DataFrame(rows))
    library.write(out, rows)
    if as_json:
        left_out = [{"experiment": name, "reason": reason} for name, reason in unfit]
        print(json.dumps({"out": str(out), "rows": len(rows), "left_out": left_out}, indent=2))
    else:
        say(f"{out}: {len(rows)} runs, {len(unfit)} experiments left out")


@study_cli.command("rescore")
def rescore(
    corpus: Annotated[Path, typer.Argument(metavar="DIR", help="Corpus directory, with a corpus.yaml.")],
    results: Annotated[Path | None, typer.Option("--results", help="Table of runs; the workspace's if none.")] = None,
    out: Annotated[Path, typer.Option("--out", help="Table to write.")] = workspace.RESCORED,
    as_json: As_json = False,
) -> None:
    """Score the students of a table on another corpus, as a large test set, and write the table anew with that.

    Every labelled image is scored, at each run's own T*; nothing is fitted or chosen. The students come from DVC's
    cache. `compare` reads the new table by `--results`. Examples:

        ferdistill corpus render data/raw/fresh --images 20000 --subjects 4000 --seed 2026

        ferdistill study rescore data/raw/fresh

        ferdistill study compare --results metrics/study/rescored.csv --baseline none --candidate 6E:kd
    """
    from .. import params
    from ..study import collect
    from ..study import rescore as library

    rows = library.rescore(table_of(results), corpus, params.load())
    collect.write(out, rows)
    if as_json:
        print(json.dumps({"out": str(out), "rows": len(rows), "corpus": corpus.as_posix()}, indent=2))
    else:
        say(f"{out}: {len(rows)} runs, scored on {corpus}")


def table_of(named: Path | None) -> Path:
    """The table named, or the workspace's own."""
    from .. import params
    from ..study import results

    return named or results.require_own(params.load())


@study_cli.command("compare")
def compare(
    baseline: Annotated[str, typer.Option(help="Recipe to compare with: FAMILY:MODE[:NAME=VALUE,…], or none.")],
    candidate: Annotated[str | None, typer.Option(help="Recipe to compare; this, or --all.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Compare every other recipe of the table.")] = False,
    metrics: Annotated[
        list[str] | None, typer.Option("--metric", help="Column to compare; may be given again.", show_default=False)
    ] = None,
    equal: Annotated[
        str | None, typer.Option(help="Compare only with recipes of the baseline's epochs, or images_seen.")
    ] = None,
    table: Results = None,
    as_json: As_json = False,
) -> None:
    """Compare recipes, with every uncertainty that a few seeds and a few test images leave.

    Reads the table that `collect` writes, if it is of the workspace's corpus, scale and index, or any CSV that is
    named, with at least family, mode, seed and macro_f1. Examples:

        ferdistill study compare --baseline 6A:kd --candidate 6E:kd

        ferdistill study compare --baseline none --all --metric macro_f1 --metric ece --json

        ferdistill study compare --baseline none:none:epochs=30 --all --equal images_seen

        ferdistill study compare --baseline 6D:kd:lambda=0.7 --candidate 6E:dkd:beta=4 --results runs.csv
    """
    from ..study import comparison as library
    from ..study import results

    if every == (candidate is not None):
        raise UsageError("one of --candidate and --all", expected="--candidate RECIPE, or --all")
    compared = library.compare(results.read(table_of(table)), baseline, candidate, metrics=metrics, equal=equal)
    if as_json:
        print(json_text(compared if every else compared[0]))
    elif every:
        _print_comparisons(compared)
    else:
        _print_comparison(compared[0])
        print(shown("\n".join(library.sentences(compared[0])), lines=True))


def _print_comparison(result: dict[str, Any]) -> None:
    """One column a metric, one row a quantity."""
    from ..study.schema import title_of

    metrics = result["metrics"]
    shown = Table(f"{result['candidate']['label']} against {result['baseline']['label']}", *map(title_of, metrics))
    rows: dict[str, list[str]] = {}
    for found in metrics.values():
        for line in found["per_seed"]:
            pair = f"{digits(line['baseline'])} → {digits(line['candidate'])}"
            rows.setdefault(f"seed {line['seed']}", []).append(pair)
        cells = {
            "pairs of seeds": str(found["pairs"]),
            "mean difference": digits(found["mean_difference"], "+.4f"),
            "95 % t interval, paired": digits(found["t_interval"], "+.4f"),
            "95 % Welch interval, unpaired": digits(found["welch_interval"], "+.4f"),
            "bootstrap interval, unpaired": digits(found["bootstrap_interval"], "+.4f"),
            "  its coverage at this n": digits(found["bootstrap_coverage"], ".0%").replace("%", " %"),
            "permutation p, unpaired (least possible)": _p(found, "permutation_p"),
            "sign-flip p, paired (least possible)": _p(found, "paired_p"),
            f"Dunnett's p, {result['comparisons']} compared": digits(found["dunnett_p"], ".3g"),
            f"Dunnett's interval, {result['comparisons']} compared": digits(found["dunnett_interval"], "+.4f"),
            "Cohen's d, pooled": digits(found["cohens_d"], ".3g"),
            "d_z, paired": digits(found["d_z"], ".3g"),
            "pairs of seeds for 80 % power": str(found["seeds_needed"] or "-"),
        }
        for title, told in cells.items():
            rows.setdefault(title, []).append(told)
    if result["examples"]["available"]:
        images = result["examples"]["metrics"]
        intervals = [images[name]["interval"] if name in images else None for name in metrics]
        rows["95 % interval over test images"] = [digits(interval, "+.4f") for interval in intervals]
    for title, line_cells in rows.items():
        shown.add_row(title, *line_cells)
    wide().print(shown)


def _print_comparisons(compared: list[dict[str, Any]]) -> None:
    """One table a metric, one row a recipe."""
    from ..study.schema import title_of

    for name in compared[0]["metrics"]:
        shown = Table(
            f"{title_of(name)} against {compared[0]['baseline']['label']}",
            *("pairs", "difference", "95 % t interval", "p t", "p Dunnett", "p permutation", "least", "d_z"),
        )
        for result in compared:
            if found := result["metrics"].get(name):
                same = " (same loss)" if result["null_pair"]["identical_losses"] else ""
                shown.add_row(
                    result["candidate"]["label"] + same,
                    str(found["pairs"]),
                    *(digits(found[key], "+.4f") for key in ("mean_difference", "t_interval")),
                    *(digits(found[key], ".3g") for key in ("t_p", "dunnett_p", "permutation_p")),
                    *(digits(found[key], ".3g") for key in ("permutation_p_min", "d_z")),
                )
        wide().print(shown)
    print(f"Recipes compared, all of which Dunnett's p counts: {len(compared)}. Differences are minus the baseline.")
    if any(result["null_pair"]["identical_losses"] for result in compared):
        print("A recipe of the same loss can differ from the baseline by noise or by a fault alone.")


def digits(value: float | list[float] | None, form: str = ".4f") -> str:
    """A number or an interval; a dash where there is none."""
    if value is None:
        return "-"
    return " to ".join(f"{part:{form}}" for part in (value if isinstance(value, list) else [value]))


def _p(found: dict[str, Any], name: str) -> str:
    """A p value, and the least that these seeds can give."""
    return "-" if found[name] is None else f"{found[name]:.3g} ({found[name + '_min']:.3g})"


@study_cli.command("decide")
def decide(
    by: Annotated[
        str, typer.Option("--by", help="calib_macro_f1, or val_macro_f1, which chose epochs.")
    ] = "calib_macro_f1",
    table: Results = None,
    as_json: As_json = False,
) -> None:
    """Choose the student to deploy and a fallback, and say why, step by step.

    Of the recipes that are better than the default with the probability of `decide.confidence` in params.yaml the one
    is taken whose true difference is surest to be large; the default where there is none. It says how probable it is
    that the choice is within half a point of the best, and which further seeds would change it. Scores of the test
    split have no part in it. Reads metrics/study/results_summary.csv, if it is of the workspace's corpus, scale and
    index, or the table that is named, and metrics/benchmark.json and metrics/export.json; of several students, what
    `study cost` measured. Exits with 1 if the student is too slow or large. Examples:

        ferdistill study decide

        ferdistill study decide --results other/results_summary.csv --json
    """
    from .. import params
    from ..study import decision as library
    from ..study import results
    from ..study.grid import read

    settings = params.load()
    never = read(workspace.STUDY_GRID).standing.oracle if workspace.STUDY_GRID.is_file() else None
    if by not in library.MERITS:
        raise UsageError(f"nothing is decided by `{by}`", where="--by", expected=f"one of {', '.join(library.MERITS)}")
    frame = results.read(table_of(table))
    decision = library.decide(frame, settings, *library.measured(), merit=by, never=never)
    if as_json:
        print(json_text(decision))
    else:
        heads = ["teachers", "seeds", "difference", "shrunken", "95 %", "score", "better"]
        shown = Table(Column("recipe", overflow="fold"), *heads)
        for row in decision["candidates"]:
            numbers = [digits(row[key], "+.4f") for key in ("difference", "expected", "interval", "score")]
            shown.add_row(row["label"], str(row["teachers"]), str(row["seeds"]), *numbers, f"{row['better']:.2f}")
        wide().print(shown)
        if decision["students"]:
            wide().print(_students(decision["students"], by))
        for number, sentence in enumerate(decision["reasoning"], 1):
            say(f"{number}. {sentence}")
    if not decision["ok"]:
        raise typer.Exit(1)


def _students(students: list[dict[str, Any]], by: str) -> Table:
    from ..study.schema import title_of

    shown = Table("student", "parameters", "p95, ms", "MB", "best recipe", title_of(by), "front")
    for one in students:
        cost = [f"{one['parameters']:,}", f"{one['p95_ms']:.2f}", f"{one['size_bytes'] / 1e6:.1f}"]
        front = "yes" if one["front"] else ""
        shown.add_row(one["student"], *cost, one["label"], digits(one[by]), front if one["within"] else "too costly")
    return shown


@study_cli.command("cost")
def cost(
    table: Results = None,
    out: Annotated[Path, typer.Option("--out", help="File to write, which `decide` reads.")] = workspace.COSTS,
    as_json: As_json = False,
) -> None:
    """Measure what each student of a table costs: latency, memory and size of its ONNX file, all side by side.

    Of each architecture one run's student is exported and called with one image, in turn with the others, on the CPU;
    threads and rounds are those of `benchmark` in params.yaml. The students come from DVC's cache. Examples:

        ferdistill study cost

        ferdistill study cost --results other/results_summary.csv --out other/costs.json --json
    """
    from .. import params
    from ..files import write_json
    from ..study import costs as library

    with Console(stderr=True).status("Exporting and timing students"):
        found = library.measure(table_of(table), params.load())
    write_json(out, found)
    if as_json:
        print(json_text(found))
        return
    shown = Table("student", "parameters", "MB", "p50, ms", "p95, ms", "images/s")
    for name, one in found["students"].items():
        times = [f"{one[key]:.2f}" for key in ("p50_ms", "p95_ms")]
        size = [f"{one['parameters']:,}", f"{one['size_bytes'] / 1e6:.1f}"]
        shown.add_row(name, *size, *times, f"{one['images_per_s']:,.0f}")
    wide().print(shown)
    say(f"{out} written: {found['machine']}, threads: {found['threads']}")


@study_cli.command("report")
def report(
    table: Results = None,
    name: Annotated[
        str | None, typer.Option("--name", help="Folder below reports/; the corpus's name if none.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="The page, one file; reports/NAME/report.html.", show_default=False)
    ] = None,
    markdown: Annotated[
        Path | None,
        typer.Option(
            "--markdown",
            help="The same as Markdown, with a directory of figures beside it; reports/NAME/report.md.",
            show_default=False,
        ),
    ] = None,
    replication: Annotated[
        Path | None, typer.Option(help="A published report that the study repeats, as conf/report.yaml.")
    ] = None,
    as_json: As_json = False,
) -> None:
    """Write the study report: tables, figures and findings, every sentence made from the numbers.

    Reads the table that `collect` writes, if it is of the workspace's corpus, scale and index, or the table that is
    named. What is not here (predictions, soft labels, curves) is left out, and the report says so. Examples:

        ferdistill study report

        ferdistill study report --name friday

        ferdistill study report --replication conf/report.yaml

        ferdistill study report --results other/results_summary.csv --out other/report.html --markdown other/report.md
    """
    from .. import params
    from ..report import report as library

    settings = params.load()
    folder = workspace.REPORTS / (name or settings.corpus)
    out, markdown = out or folder / "report.html", markdown or folder / "report.md"
    written = library.make(table_of(table), settings, out, markdown, replication=replication)
    if as_json:
        print(json.dumps({"written": [path.as_posix() for path in written]}, indent=2))
    else:
        print(f"{out} ({out.stat().st_size / 1e6:.1f} MB) and {markdown} written, with {len(written) - 2} figures")
