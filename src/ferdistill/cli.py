"""The command line. Each command reads its arguments, calls the library, and prints."""

import sys
from typing import Annotated

import typer

from . import __version__, extras
from .commands.align import align_cli
from .commands.audit import audit
from .commands.bench import bench
from .commands.corpus import corpus_cli
from .commands.data import data_cli
from .commands.design import mixture, primary, surface
from .commands.diff import diff
from .commands.experiments import experiments
from .commands.index import index_cli
from .commands.labels import labels_cli
from .commands.monitor import monitor
from .commands.predict import predict
from .commands.repro import repro
from .commands.robustness import robustness
from .commands.score import score
from .commands.study import study_cli
from .commands.teachers import teachers_cli
from .commands.weights import weights_cli
from .faces.commands import crops_cli, detector_cli, fetch_teachers, pretrain, render_corpus, serve, watch, witness
from .output import one_message

cli = typer.Typer(
    name="ferdistill",
    help="Distil several teachers into one small student. The pipeline itself runs with `dvc repro`.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
groups = {"align": align_cli, "corpus": corpus_cli, "crops": crops_cli, "data": data_cli, "detector": detector_cli}
groups |= {"index": index_cli, "labels": labels_cli, "study": study_cli, "teachers": teachers_cli}
groups |= {"weights": weights_cli}
for name, group in groups.items():
    cli.add_typer(group, name=name)
corpus_cli.command("render")(render_corpus)
corpus_cli.command("witness")(witness)
teachers_cli.command("fetch")(fetch_teachers)
study_cli.command()(primary)
study_cli.command()(mixture)
study_cli.command()(surface)
for command in (repro, diff, experiments, audit, score, robustness, monitor, serve, bench, predict, watch, pretrain):
    cli.command()(command)


@cli.callback(invoke_without_command=True)
def main(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    """Options that stand before a command."""
    if version:
        print(__version__)
        raise typer.Exit


def app() -> None:
    """The entry point: what a user can act on ends with a message and its exit code."""
    with one_message():
        try:
            cli()
        except ModuleNotFoundError as error:
            command = next((word for word in sys.argv[1:] if not word.startswith("-")), "")
            raise extras.missing(error, command) or error from None
