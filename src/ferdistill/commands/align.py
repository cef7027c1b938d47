"""`ferdistill align`: the gate, the canary and the repair."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Column, Table
from rich.text import Text

from .. import params, workspace
from ..files import write_json
from ..plain import json_text, say
from .console import wide

align_cli = typer.Typer(no_args_is_help=True, help="Do soft labels belong to their images, row by row?")

Directories = Annotated[
    list[Path] | None, typer.Argument(metavar="[DIR]...", help="Soft-label directories; all teachers' if none.")
]
IndexOption = Annotated[Path | None, typer.Option("--index", help="Index; that of params.yaml if not given.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
OutOption = Annotated[Path | None, typer.Option("--out", help="Write the JSON to this file too.")]


@align_cli.command("check")
def check(
    directories: Directories = None,
    index_csv: IndexOption = None,
    strict: Annotated[
        bool, typer.Option("--strict/--no-strict", help="Whether a problem exits with 1, or is only reported.")
    ] = True,
    present: Annotated[bool, typer.Option("--present", help="Check those that are there; none is no problem.")] = False,
    with_canary: Annotated[
        bool, typer.Option("--canary/--no-canary", help="Whether the canary looks at values whose keys are in order.")
    ] = True,
    as_json: JsonOption = False,
    out: OutOption = None,
) -> None:
    """Check soft labels against the index: length, order, labels, classes, digests, values, checkpoints.

    Keys in order do not say that the values are theirs, so the canary then compares those with the labels. Its
    `misaligned` is a problem, of kind `values`; its `inconclusive` is none. `--no-canary` leaves it out.

    Reads our own stores, and .npz, .npy, .pt, CSV and Parquet of other programs. Nothing is truncated, repaired or
    unpickled. Exits with 1 on any problem. An index of your own is a CSV with path, label and split, beside it a
    .json of the same name with schema_version, digest and classes: docs/alignment.md. Examples:

        ferdistill align check

        ferdistill align check data/softlabels/resnet18_ixNextAffFull --json

        ferdistill align check old/softlabels/resnet18 --index data/index/ixNextAffFull.csv --out alignment.json

        ferdistill align check --present  # in a hook: those stores that are there
    """
    from ..softlabels import alignment, foreign
    from ..softlabels import canary as canary_library

    directories, csv = _resolve(directories, index_csv)
    if present:
        directories = [directory for directory in directories if directory.is_dir()]
        if not directories:
            nothing = {"dirs": [], "ok": True, "problems": []}
            print(json.dumps(nothing) if as_json else "no soft labels here, so none out of step")
            return
    rows = _read(csv)
    checkpoints = alignment.read_checkpoints(workspace.TEACHERS)
    report = alignment.check(directories, rows, rows.description["classes"], checkpoints, foreign.describe)
    if with_canary:
        faulty = {problem["dir"] for problem in report["problems"]}
        in_step = [directory for directory in directories if directory.as_posix() not in faulty]
        report = alignment.add_canary(report, canary_library.check(in_step, rows))
    _show(report, as_json, out, _print_alignment)
    if strict and not report["ok"]:
        raise typer.Exit(1)


def _print_alignment(report: dict) -> None:
    from ..softlabels import alignment

    console = wide()
    table = Table(Column("directory", overflow="fold"), Column("holds", overflow="fold"), *report["splits"])
    for directory, soft in zip(report["dirs"], report["soft_labels"], strict=True):
        found = [p for p in report["problems"] if p["dir"] == directory]
        general = [p["kind"] for p in found if not p["split"]]
        cells = []
        for split in report["splits"]:
            kinds = [*general, *(p["kind"] for p in found if p["split"] == split)]
            cells.append(Text(", ".join(kinds), "red") if kinds else Text("in step", "green"))
        table.add_row(directory, f"{soft['kind']}, {soft['kind_from']}", *cells)
    console.print(table)
    for problem in report["problems"]:
        console.print(Text(problem["kind"], "bold"), f"in {alignment.place(problem)}", soft_wrap=True)
        console.print(
            f"  expected {problem['expected']}\n  found    {problem['found']}\n  do       {problem['hint']}",
            soft_wrap=True,  # a command to copy stays on one line
        )
    count = len(report["problems"])
    console.print(Text("in step", "green") if report["ok"] else Text(f"{count} problem{'s' * (count > 1)}", "red"))


@align_cli.command("canary")
def canary(
    directories: Directories = None,
    index_csv: IndexOption = None,
    as_json: JsonOption = False,
    out: OutOption = None,
) -> None:
    """Tell without any key whether soft labels are in step with the index, and where and how they lost it.

    Looks only at how arg-max and labels agree, and teachers with one another. Exits with 1 if any is misaligned;
    `inconclusive` means that the evidence is too thin for either. Examples:

        ferdistill align canary

        ferdistill align canary old/resnet18 old/vit --index data/index/ixNextAffFull.csv --json
    """
    from ..softlabels import canary as library

    directories, csv = _resolve(directories, index_csv)
    report = library.check(directories, _read(csv))
    _show(report, as_json, out, _print_canary)
    if any(found["verdict"] == "misaligned" for found in report["results"]):
        raise typer.Exit(1)


def _print_canary(report: dict) -> None:
    colours = {"aligned": "green", "inconclusive": "yellow", "misaligned": "red"}
    table = Table(Column("directory", overflow="fold"), "split", "verdict", "agreement", "chance", "p", "slips at")
    for found in report["results"]:
        slip = "" if found["slip_row"] is None else f"{found['slip_row']} {found['slip_interval']}"
        numbers = [f"{found['agreement']:.1%}", f"{found['chance']:.1%}", f"{found['p_value']:.2g}", slip]
        table.add_row(found["dir"], found["split"], Text(found["verdict"], colours[found["verdict"]]), *numbers)
    wide().print(table)
    for found in report["results"]:
        place = found["dir"] + (f", {found['split']}" if found["split"] else "")
        say(f"{place}: {found['why']}")
        if found["hint"]:
            say(f"  do       {found['hint']}")


@align_cli.command("repair")
def repair(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Soft labels with a path for each row.")],
    out: Annotated[Path, typer.Option("--out", help="Directory to make; never DIR itself.")],
    index_csv: IndexOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the new manifest.")] = False,
) -> None:
    """Write keyed soft labels anew in the order of the index, if they cover it. Exits with 1 if they do not.

    DIR is left as it is. What was moved or left out is in the new manifest, under `provenance`. Example:

        ferdistill align repair old/resnet18 --index data/index/ixNextAffFull.csv --out data/softlabels/resnet18_fixed
    """
    from ..softlabels import repair as library

    csv = index_csv or workspace.index_csv(params.load().index_tag)
    manifest = library.repair(directory, _read(csv), out)
    _show(manifest, as_json, None, partial(_print_repair, out))


def _print_repair(out: Path, manifest: dict) -> None:
    done = manifest["provenance"]
    reordered = done["classes"] not in (None, manifest["classes"])
    say(
        f"{out} written: {done['moved']} of {done['rows']} rows moved, {done['refiled']} filed under another split, "
        f"{len(done['doubled'])} copies dropped, {len(done['left_out'])} rows left out that the index does not have"
        + (f"; columns put in order, from {', '.join(done['classes'])}" if reordered else "")
    )


def _resolve(directories: list[Path] | None, index_csv: Path | None) -> tuple[list[Path], Path]:
    """The directories and the index, from params.yaml where they are not given."""
    if directories and index_csv:
        return directories, index_csv
    settings = params.load()
    tag = settings.index_tag
    stores = [workspace.softlabels(name, tag) for name in settings.teachers]
    return directories or stores, index_csv or workspace.index_csv(tag)


def _read(csv: Path) -> Any:
    """The index, as far as soft labels are held against it."""
    from ..data import index
    from ..softlabels import store

    return index.read(csv, store.KEYS)


def _show(report: dict, as_json: bool, out: Path | None, show: Callable[[dict], None]) -> None:
    """Write a report as JSON where it was asked for, and show it as JSON or else in words."""
    if out:
        write_json(out, report)
    if as_json:
        print(json_text(report))
    else:
        show(report)
