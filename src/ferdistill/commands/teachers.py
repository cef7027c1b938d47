"""`ferdistill teachers`."""

from itertools import combinations
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from .. import workspace
from ..errors import UsageError
from ..plain import json_text, say
from .console import wide

teachers_cli = typer.Typer(no_args_is_help=True, help="The teachers, side by side.")


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
    covered = ", ".join(f"{name} {count}" for name, count in report.get("covered", {}).items())
    among = f" that all cover ({covered})" if covered else ""
    title = f"Teachers on {split}: {report['n']} images{among}, T = {report['temperature']:g}"
    if out:
        plots.teacher_diversity(out, report, title)
    if as_json:
        print(json_text({"split": split, **report}))
    else:
        _print(report, title)


@teachers_cli.command("weigh")
def weigh(
    teachers: Annotated[
        list[str] | None, typer.Argument(metavar="[TEACHER]...", help="All of params.yaml but votes, if none is named.")
    ] = None,
    index_csv: Annotated[Path | None, typer.Option("--index", help="Index; that of params.yaml if not given.")] = None,
    temperatures: Annotated[
        bool, typer.Option("--temperatures", help="Fit a temperature of each teacher's own first.")
    ] = False,
    draws: Annotated[
        int | None, typer.Option(min=100, help="Resamples of the people; calibrate's if not given.")
    ] = None,
    write: Annotated[str | None, typer.Option("--write", help="Add a family of this name to params.yaml.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Find the weights with which the teachers' mean probabilities suit the labels of val best.

    Weights of at least 0 that sum to 1, of the least NLL of the mixture: a convex problem, solved in seconds. Folds by
    person say what they bring to people not fitted to, beside equal weights and the best single teacher. Only images
    that all these teachers cover count. Examples:

        ferdistill teachers weigh

        ferdistill teachers weigh resnet18 vit_ban --temperatures --json

        ferdistill teachers weigh --write fitted
    """
    from .. import params
    from ..data import index
    from ..evaluation import weighing as library
    from ..progress import track

    settings = params.load()
    if write is not None:
        params.check_family_name(write, settings)
    rows = index.read(index_csv or workspace.index_csv(settings.index_tag))
    report = library.of_val(
        settings,
        rows,
        teachers or [],
        temperatures=temperatures,
        draws=draws or settings.calibrate.draws,
        track=lambda steps: track(steps, "Resampling", len(steps)),
    )
    if write is not None:
        library.write_family(workspace.PARAMS, write, report)
    if as_json:
        print(json_text(report))
    else:
        _print_weights(report)
    if write is not None:
        say(f"family {write} added to {workspace.PARAMS}: `dvc exp run -S family={write}`", err=as_json)


@teachers_cli.command("oracle")
def oracle(
    out: Annotated[Path, typer.Option("--out", help="CSV to write.")] = workspace.ORACLE,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON: the file and its rows.")] = False,
) -> None:
    """Write the true distribution of a rendered corpus as a teacher's soft labels: what perfect teachers would bring.

    A row of a study to compare with, and none to deploy: docs/study.md says how it enters params.yaml. Examples:

        ferdistill teachers oracle

        ferdistill teachers oracle --out pretrained/truth.csv --json
    """
    from .. import params
    from ..data import index, truth

    settings = params.load()
    rows = index.read(workspace.index_csv(settings.index_tag)).rows["path"].tolist()
    truth.write_as_teacher(out, workspace.corpus(settings.corpus), rows, settings.classes)
    if as_json:
        print(json_text({"out": out.as_posix(), "rows": len(rows)}))
    else:
        say(f"{out}: {len(rows)} images; keep it out of git: `dvc add {out}`")


@teachers_cli.command("freeze")
def freeze(
    names: Annotated[list[str], typer.Argument(metavar="TEACHER...", help="Teachers that are trained here.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON: the file of each teacher.")] = False,
) -> None:
    """Keep teachers as they are: new images then bring their soft labels and a student, and no training of theirs.

    The weights go to pretrained/, where DVC keeps them, with a JSON that says what they were made of; params.yaml
    names them in place of the recipe, which stands in that JSON. Soft labels stay the same to the byte. Of new images
    each teacher forwards those alone. Leave index.seed and the shares of the splits as they are: under others, images
    that a teacher learnt from could come into val, calib and test. Examples:

        ferdistill teachers freeze resnet18 vit_ban

        ferdistill teachers freeze resnet18 --json
    """
    from .. import params
    from ..distill import freezing

    files = freezing.freeze(params.load(), names)
    if as_json:
        print(json_text({name: file.as_posix() for name, file in files.items()}))
        return
    for name, file in files.items():
        say(f"{name}: {file}")
    added = " ".join(f"{file}.dvc {file.with_suffix('.json')}" for file in files.values())
    say(f"Commit them: `git add params.yaml {workspace.PRETRAINED / '.gitignore'} {added}`; then `dvc repro`.")


@teachers_cli.command("run")
def run(
    teachers: Annotated[list[str] | None, typer.Argument(metavar="[TEACHER]...", help="All, if none is named.")] = None,
    executor: Annotated[str, typer.Option("--executor", help="slurm or ray; see conf/cluster.yaml.")] = "slurm",
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, help="Teachers, or ranges, at a time.")] = 4,
    ranges: Annotated[
        int | None,
        typer.Option(
            "--ranges", min=1, max=1000, help="Only soft labels, of trained teachers, each in so many ranges of shards."
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what is done and what would run.")] = False,
) -> None:
    """Train teachers and make their soft labels on other machines, each on its own, and join what comes.

    Skips those that are up to date. The stages before them must be up to date and committed. Exits with 1 if a teacher
    failed. On this machine, `dvc repro` does the same.

    With --ranges the images of a trained teacher are shared out, so that a large export takes as many machines as there
    are. What comes is held against index and weights, and refused if a range is missing; on machines of one kind the
    soft labels are the same to the byte. Examples:

        ferdistill teachers run --executor slurm --dry-run

        ferdistill teachers run vit_ban --executor slurm --ranges 16 --jobs 16

        ferdistill teachers run resnet18 vit_ban --executor ray --jobs 2
    """
    from .. import params
    from ..tracking import ranges as in_ranges
    from ..tracking import teachers as library
    from .study import elsewhere, print_failures, progress

    settings_here = params.load()
    known = settings_here.teachers
    if ranges is not None:
        _require_ranges(settings_here, teachers or known)
    if unknown := set(teachers or []) - set(known):
        raise UsageError(f"no teacher `{min(unknown)}`", expected=f"one of {', '.join(known)}")
    where = elsewhere(executor)
    if where is None:
        raise UsageError("teachers run on this machine with `dvc repro`", where="--executor", expected="slurm or ray")
    absent = library.missing(teachers or known)
    each = "" if ranges is None else f", in {ranges} ranges"
    if dry_run:
        for name in teachers or known:
            say(f"{name}: {f'would run{each}, on {where[0].told}' if name in absent else 'done'}")
        return
    to, settings = where
    total = len(absent) * (ranges or 1)
    with progress(total) as tell:
        if not absent:
            failures = []
        elif ranges is None:
            failures = library.send(absent, jobs, to, settings, tell)
        else:
            failures = in_ranges.send(absent, ranges, jobs, to, settings, tell)
    print_failures(failures)
    print(f"{total - len(failures)} {'teachers' if ranges is None else 'ranges'} came, {len(failures)} failed")
    if failures:
        raise typer.Exit(1)


def _require_ranges(settings: Any, teachers: list[str]) -> None:
    """Refuse what cannot be labelled in ranges."""
    from ..params import TableTeacher

    tables = [name for name in teachers if isinstance(settings.scale_.teachers.get(name), TableTeacher)]
    if tables or settings.views > 1:
        raise UsageError(
            f"no ranges of {', '.join(tables)}: soft labels without a network"
            if tables
            else "ranges are of the images as they are, and not of further views",
            where="--ranges" if tables else "params.yaml, views",
            expected="a network that labels images, and views: 1",
            hint="`dvc repro` makes these soft labels here",
        )


def _print_weights(report: dict[str, Any]) -> None:
    console = wide()
    title = f"Weights fitted to val: {report['n']} images of {report['people']} people"
    table = Table("teacher", "weight", "interval", "NLL alone", "temperature", title=title, title_justify="left")
    for name, of in report["teachers"].items():
        interval = f"{of['low']:.4f} to {of['high']:.4f}"
        table.add_row(name, f"{of['weight']:.4f}", interval, f"{of['nll']:.4f}", f"{of['temperature']:.4g}")
    console.print(table)
    heads = {"fitted": "fitted weights", "equal": "equal weights", "best_single": "best single teacher"}
    crossed = Table("on people not fitted to", "NLL", "interval", "more than fitted", "interval")
    for name, head in heads.items():
        of = report["cross_validated"][name]
        gain = [f"{of['gain']:+.4f}", f"{of['gain_low']:+.4f} to {of['gain_high']:+.4f}"] if "gain" in of else ["", ""]
        crossed.add_row(head, f"{of['nll']:.4f}", f"{of['low']:.4f} to {of['high']:.4f}", *gain)
    console.print(crossed)
    if report["left_out"]:
        console.print(f"Left out: {', '.join(report['left_out'])}, since labels are made of votes.")
    if report["uncovered"]:
        console.print(
            f"{report['uncovered']} images of val are not covered by all of these teachers, and do not count."
        )


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
