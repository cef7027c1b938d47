"""`ferdistill align`: the gate, the canary and the repair."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Column, Table
from rich.text import Text

from .. import workspace
from ..errors import FerdistillError, UsageError
from ..files import write_json
from ..plain import json_text, say
from .console import wide

if TYPE_CHECKING:
    from ..data.index import Index
    from ..softlabels.labelled import Labelled

align_cli = typer.Typer(no_args_is_help=True, help="Do soft labels belong to their images, row by row?")

Paths = Annotated[
    list[Path] | None,
    typer.Argument(metavar="[FILE|DIR]...", help="Soft labels; those of all teachers of params.yaml if none."),
]
IndexOption = Annotated[
    Path | None,
    typer.Option("--index", help="An index of ours; that of params.yaml if none. Needs ferdistill[train]."),
]
LabelsOption = Annotated[
    Path | None, typer.Option("--labels", help="Instead of an index any CSV with path and label, perhaps split.")
]
ClassesOption = Annotated[
    str | None, typer.Option("--classes", help="With --labels: the classes in the columns' order, by commas.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
OutOption = Annotated[Path | None, typer.Option("--out", help="Write the JSON to this file too.")]
COLOURS = {"in step": "green", "in step, incomplete": "yellow", "cannot tell": "yellow"}  # else red


@align_cli.command("check")
def check(
    paths: Paths = None,
    index_csv: IndexOption = None,
    labels_csv: LabelsOption = None,
    classes: ClassesOption = None,
    strict: Annotated[
        bool, typer.Option("--strict/--no-strict", help="Whether a problem exits with 1, or is only reported.")
    ] = True,
    present: Annotated[bool, typer.Option("--present", help="Check those that are there; none is no problem.")] = False,
    with_canary: Annotated[
        bool, typer.Option("--canary/--no-canary", help="Whether the canary looks at the values.")
    ] = True,
    as_json: JsonOption = False,
    out: OutOption = None,
) -> None:
    """Check soft labels against the labels of their images, and give a verdict on each file.

    Where rows have a path, the gate compares all that is said of them: length, order, labels, classes, digests. The
    canary then compares the values with the labels, as it does where there are no paths: it tells whether the rows are
    in step, and if not where and how they lost it. `cannot tell` is a problem, for rows without paths.

    Reads .npy, .npz, .csv, .parquet and .pt, directories of them, and our own stores. Nothing is truncated, repaired or
    unpickled. What cannot be read is a problem of its own. Exits with 1 on any problem, with 2 if there is nothing at
    any of the paths. Rows are counted from 0. More: docs/alignment.md. Examples:

        ferdistill align check P.npy Q.npz --labels labels.csv

        ferdistill align check  # every teacher's, against the index of params.yaml

        ferdistill align check old/softlabels/resnet18 --index data/index/ixNextAffFull.csv --out alignment.json

        ferdistill align check --present  # in a hook: those stores that are there
    """
    from ..softlabels import alignment, verdicts

    paths = paths or _stores(labels_csv)
    if present:
        paths = [path for path in paths if path.exists()]
        if not paths:
            nothing = {"dirs": [], "ok": True, "problems": []}
            print(json.dumps(nothing) if as_json else "no soft labels here, so none out of step")
            return
    against = _against(index_csv, labels_csv, classes, paths)
    names = against.classes if labels_csv else against.description["classes"]  # type: ignore[union-attr]
    checkpoints = {} if labels_csv else alignment.read_checkpoints(workspace.TEACHERS)
    refused: dict[Path, FerdistillError] = {}
    report = verdicts.check(paths, against, names, checkpoints, with_canary, refused)
    if refused and len(paths) == 1 and not as_json:
        raise refused[paths[0]]
    _show(report, as_json, out, _print_alignment)
    if len(refused) == len(paths) and all(isinstance(error, UsageError) for error in refused.values()):
        raise typer.Exit(UsageError.exit_code)
    if strict and not report["ok"]:
        raise typer.Exit(1)


def _print_alignment(report: dict) -> None:
    from ..softlabels import alignment

    console = wide()
    if report["classes_from"] != "the index":
        console.print(f"classes: {', '.join(report['classes'])} ({report['classes_from']})", soft_wrap=True)
    table = Table(*(Column(name, overflow="fold") for name in ("soft labels", "holds", "rows", "verdict", "why")))
    read = {soft["dir"]: soft for soft in report["soft_labels"]}
    for verdict in report["verdicts"]:
        soft = read.get(verdict["dir"])
        table.add_row(
            verdict["dir"],
            f"{soft['kind']}, {soft['kind_from']}" if soft else "",
            "\n".join(map(_held, soft.get("held", []))) or "those of the index" if soft else "",
            Text(verdict["verdict"], COLOURS.get(verdict["verdict"], "red")),
            _why(verdict),
        )
    console.print(table)
    for problem in report["problems"]:
        console.print(Text(problem["kind"], "bold"), f"in {alignment.place(problem)}", soft_wrap=True)
        told = {"expected": problem["expected"], "found   ": problem["found"], "do      ": problem["hint"]}
        lines = [f"  {name} {text}" for name, text in told.items() if text != ""]
        console.print("\n".join(lines), soft_wrap=True)  # a command to copy stays on one line
    count = len(report["problems"])
    console.print(Text("in step", "green") if report["ok"] else Text(f"{count} problem{'s' * (count > 1)}", "red"))


def _why(verdict: dict[str, Any]) -> str:
    """Why, what it cannot show, and whether it can be repaired at which price."""
    price = ""
    if verdict["mend"]:
        kept = verdict["keeps"]
        price = f"\nrepairable: {kept[0]:,} of {kept[1]:,} images would keep a soft label" if kept else "\nrepairable"
    return verdict["why"] + (f"\n{verdict['caveat']}" if verdict["caveat"] else "") + price


def _held(held: dict[str, Any]) -> str:
    """Of which images the rows of a part are, and how that is known."""
    of = f"{held['rows']} of {held['split'] or 'all'}" + (f", {held['guessed']}" if held["guessed"] else "")
    paths = held["paths"] or "no paths"
    return f"{of}; {paths}" + (f", matched {held['rule']}" if held["rule"] else "")


@align_cli.command("repair")
def repair(
    path: Annotated[Path, typer.Argument(metavar="FILE|DIR", help="Soft labels that `align check` calls repairable.")],
    out: Annotated[
        Path, typer.Option("--out", help="An .npz to make; or, for an index, a directory. Never FILE itself.")
    ],
    index_csv: IndexOption = None,
    labels_csv: LabelsOption = None,
    classes: ClassesOption = None,
    columns: Annotated[
        str | None, typer.Option("--columns", help="The classes that the file's columns hold, in its order, by commas.")
    ] = None,
    drop_unmatched: Annotated[
        bool, typer.Option("--drop-unmatched", help="Leave out rows of no certain image; list images without a row.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the new manifest.")] = False,
) -> None:
    """Write soft labels anew in the order of the labels. Exits with 1 if that is not certain.

    Rows go where their paths say; without paths, where the canary is certain: rotated or reversed rows, and other sort
    orders, to the row; after a lost, doubled or moved row all but the few near it, with --drop-unmatched. FILE is left
    as it is. What was moved or left out, and how that is known, is in the new manifest, under `provenance`. Examples:

        ferdistill align repair P.npy --labels labels.csv --out P.repaired.npz

        ferdistill align repair Q.npz --labels labels.csv --drop-unmatched --out Q.repaired.npz

        ferdistill align repair old/resnet18 --index data/index/ixNextAffFull.csv --out data/softlabels/resnet18_fixed
    """
    from ..softlabels import repair as library

    against = _against(index_csv, labels_csv, classes, [path])
    order = None if columns is None else columns.split(",")
    manifest = library.repair(path, against, out, columns=order, drop_unmatched=drop_unmatched)
    _show(manifest, as_json, None, partial(_print_repair, out))


def _print_repair(out: Path, manifest: dict) -> None:
    done = manifest["provenance"]
    reordered = done["classes"] not in (None, manifest["classes"])
    counts = {
        "rows moved to the split of their image": done["refiled"],
        "copies of rows dropped": len(done["doubled"]),
        "rows left out": len(done["left_out"]),
    }
    say(
        f"{out} written: {done['moved']} of {done['rows']} rows moved"
        + "".join(f", {what}: {count}" for what, count in counts.items() if count)
        + (f"; columns put in order, from {', '.join(done['classes'])}" if reordered else "")
    )
    if done["placed"]["by"] == "canary":
        for part in done["placed"]["parts"]:
            say(f"without paths, by the canary: {part['why'] or 'in step'}")
    elif done["placed"]["rule"] != "equal as they are":
        say(f"paths matched {done['placed']['rule']}")
    if done["unlabelled"]:
        say(f"images without a soft label now: {len(done['unlabelled'])}")
        for path in done["unlabelled"]:
            say(f"  {path}")


def _stores(labels_csv: Path | None) -> list[Path]:
    """The stores of params.yaml's teachers."""
    if labels_csv:
        raise UsageError("no soft labels named", where="--labels", hint="name one file or more before it")
    from .. import params

    settings = params.load()
    return [workspace.softlabels(name, settings.index_tag) for name in settings.teachers]


def _against(
    index_csv: Path | None, labels_csv: Path | None, classes: str | None, paths: list[Path]
) -> "Index | Labelled":
    """What the soft labels are held against."""
    if index_csv and labels_csv:
        raise UsageError("both an index and a table of labels", where="--index, --labels", hint="give one of them")
    if labels_csv:
        from ..softlabels import labelled

        return labelled.read(labels_csv, None if classes is None else classes.split(","))
    if classes is not None:
        raise UsageError("an index names its classes itself", where="--classes", hint="give --labels with it")
    if index_csv is None:
        if not workspace.PARAMS.is_file():
            hint = f"ferdistill align check {' '.join(map(str, paths))} --labels labels.csv  # path,label"
            raise UsageError("no labels to hold the soft labels against", where="no params.yaml here", hint=hint)
        from .. import params

        index_csv = workspace.index_csv(params.load().index_tag)
    from ..data import index

    return index.read(index_csv, ["path", "label", "split"])


def _show(report: dict, as_json: bool, out: Path | None, show: Callable[[dict], None]) -> None:
    """Write a report as JSON where it was asked for, and show it as JSON or else in words."""
    if out:
        write_json(out, report)
    if as_json:
        print(json_text(report))
    else:
        show(report)
