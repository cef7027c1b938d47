"""The command line. Each command reads its arguments, calls the library, and prints."""

import sys
from typing import Annotated

import typer

from . import __version__
from .commands.align import align_cli
from .commands.audit import audit
from .commands.bench import bench
from .commands.corpus import corpus_cli
from .commands.data import data_cli
from .commands.index import index_cli
from .commands.predict import predict
from .commands.score import score
from .commands.study import study_cli
from .commands.teachers import teachers_cli
from .errors import FerdistillError
from .faces.commands import pretrain, serve, watch

cli = typer.Typer(
    name="ferdistill",
    help="Distil several teachers into one small student. The pipeline itself runs with `dvc repro`.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
cli.add_typer(align_cli, name="align")
cli.add_typer(corpus_cli, name="corpus")
cli.add_typer(data_cli, name="data")
cli.add_typer(index_cli, name="index")
cli.add_typer(study_cli, name="study")
cli.add_typer(teachers_cli, name="teachers")
for command in (audit, score, serve, bench, predict, watch, pretrain):
    cli.command()(command)


@cli.callback(invoke_without_command=True)
def main(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    """Options that stand before a command."""
    if version:
        print(__version__)
        raise typer.Exit


def app() -> None:
    """The entry point: a known error prints its message and gives its exit code."""
    try:
        cli()
    except FerdistillError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
