"""The command line. Each command reads its arguments, calls the library, and prints."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from . import __version__, params
from .commands.corpus import corpus_cli
from .commands.index import index_cli
from .commands.study import study_cli
from .errors import FerdistillError, UsageError
from .files import write_json

cli = typer.Typer(
    name="ferdistill",
    help="Distil facial-expression teachers into one small student. The pipeline itself runs with `dvc repro`.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
align_cli = typer.Typer(no_args_is_help=True, help="Do soft labels belong to their images, row by row?")
cli.add_typer(align_cli, name="align")
cli.add_typer(corpus_cli, name="corpus")
cli.add_typer(index_cli, name="index")
cli.add_typer(study_cli, name="study")


@cli.callback(invoke_without_command=True)
def main(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    """Options that stand before a command."""
    if version:
        print(__version__)
        raise typer.Exit


@align_cli.command("check")
def align_check(
    directories: Annotated[
        list[Path] | None, typer.Argument(metavar="[DIR]...", help="Soft-label directories; all teachers' if none.")
    ] = None,
    index_csv: Annotated[Path | None, typer.Option("--index", help="Index; that of params.yaml if not given.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 on any problem.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    out: Annotated[Path | None, typer.Option("--out", help="Write the JSON to this file too.")] = None,
) -> None:
    """Check soft labels against the index: length, order, labels, classes, digests, values, checkpoints.

    Reads our own stores, and .npz, .npy, .pt, CSV and Parquet of other programs. Nothing is truncated, repaired or
    unpickled. Examples:

        ferdistill align check --strict

        ferdistill align check data/softlabels/resnet18_ixNextAffFull --json

        ferdistill align check old/softlabels/resnet18 --index data/index/ixNextAffFull.csv --out alignment.json
    """
    from .corpus import index
    from .softlabels import alignment, store

    if not (index_csv and directories):
        settings = params.load()
        directories = directories or [settings.softlabels_dir(name) for name in settings.teachers]
        index_csv = index_csv or settings.index_csv
    rows = index.read(index_csv, store.KEYS)
    checkpoints = alignment.read_checkpoints(Path("models/teachers"))
    report = alignment.check(directories, rows, rows.description["classes"], checkpoints)
    if out:
        write_json(out, report)
    if as_json:
        print(json.dumps(report, indent=2, ensure_ascii=False))
    else:
        _print_alignment(report)
    if strict and not report["ok"]:
        raise typer.Exit(1)


def _print_alignment(report: dict) -> None:
    console = Console()
    table = Table(Column("directory", overflow="fold"), Column("holds", overflow="fold"), *report["splits"])
    for directory, soft in zip(report["dirs"], report["soft_labels"], strict=True):
        found = [p for p in report["problems"] if p["dir"] == directory]
        general = [p["kind"] for p in found if not p["split"]]
        cells = []
        for split in report["splits"]:
            kinds = [*general, *(p["kind"] for p in found if p["split"] == split)]
            cells.append(f"[red]{', '.join(kinds)}[/red]" if kinds else "[green]in step[/green]")
        table.add_row(escape(directory), escape(f"{soft['kind']}, {soft['kind_from']}"), *cells)
    console.print(table)
    for problem in report["problems"]:
        place = problem["dir"] + (f", {problem['split']}" if problem["split"] else "")
        place += f", row {problem['row']}" if problem["row"] is not None else ""
        console.print(f"[bold]{problem['kind']}[/bold] in {escape(place)}", highlight=False)
        console.print(
            f"  expected {problem['expected']}\n  found    {problem['found']}\n  do       {problem['hint']}",
            markup=False,
        )
    console.print("[green]in step[/green]" if report["ok"] else f"[red]{len(report['problems'])} problems[/red]")


@cli.command()
def pretrain(
    networks: Annotated[
        list[str] | None, typer.Argument(metavar="[NETWORK]...", help="Teachers, or `student`; all if none is named.")
    ] = None,
    renders: Annotated[int, typer.Option(min=640, help="Faces to render for each of two courses.")] = 12_000,
    epochs: Annotated[int, typer.Option(min=1, help="Epochs of each course.")] = 8,
    lr: Annotated[float, typer.Option(min=1e-6)] = 2e-3,
    seed: Annotated[int, typer.Option()] = 1,
) -> None:
    """Make starting weights anew, by regressing action units on rendered faces of other identities.

    Writes each file that a recipe's `init` names in the chosen scale. Examples:

        ferdistill pretrain resnet18 vit_ban

        ferdistill pretrain student --epochs 3 --lr 6e-3
    """
    from .training import pretrain as library

    settings = params.load()
    recipes = {
        name: recipe
        for name, recipe in {**settings.scale_.teachers, "student": settings.scale_.student}.items()
        if isinstance(recipe, params.Recipe)
        and recipe.init.endswith(".safetensors")
        and (not networks or name in networks)
    }
    if not recipes or set(networks or []) - set(recipes):
        raise UsageError(
            f"no starting weights to make for {', '.join(networks or ['any network'])}",
            where=f"params.yaml, scales.{settings.scale}",
            expected="a teacher, or student, whose `init` is a .safetensors file",
        )
    image = settings.scale_.image
    courses = [library.draw_renders(renders, seed, image, plain) for plain in (True, False)]
    for name, recipe in recipes.items():
        network, unexplained = library.pretrain(recipe, image, courses, epochs=epochs, lr=lr, seed=seed, name=name)
        path = Path(recipe.init)
        library.save(
            network,
            path,
            task="action-unit regression on rendered faces",
            model=recipe.model,
            options=recipe.options,
            stem=recipe.stem,
            renders=renders,
            epochs=epochs,
            lr=lr,
            seed=seed,
            unexplained=f"{unexplained:.4f}",
        )
        print(f"{path}: {unexplained:.1%} of the variance unexplained, {path.stat().st_size / 1e6:.1f} MB", flush=True)


def app() -> None:
    """The entry point: a known error prints its message and gives its exit code."""
    try:
        cli()
    except FerdistillError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
