"""The command line. Each command reads its arguments, calls the library, and prints."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from . import __version__, params
from .commands.align import align_cli
from .commands.audit import audit
from .commands.bench import bench
from .commands.corpus import corpus_cli
from .commands.data import data_cli
from .commands.index import index_cli
from .commands.runtime import predict, watch
from .commands.score import score
from .commands.serve import serve
from .commands.study import study_cli
from .commands.teachers import teachers_cli
from .errors import FerdistillError, UsageError

cli = typer.Typer(
    name="ferdistill",
    help="Distil facial-expression teachers into one small student. The pipeline itself runs with `dvc repro`.",
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
for command in (audit, score, serve, bench, predict, watch):
    cli.command()(command)


@cli.callback(invoke_without_command=True)
def main(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    """Options that stand before a command."""
    if version:
        print(__version__)
        raise typer.Exit


@cli.command()
def pretrain(
    networks: Annotated[
        list[str] | None, typer.Argument(metavar="[NETWORK]...", help="Teachers, or `student`; all if none is named.")
    ] = None,
    renders: Annotated[int, typer.Option(min=640, help="Faces to render for each of two courses.")] = 12_000,
    epochs: Annotated[int, typer.Option(min=1, help="Epochs of each course.")] = 8,
    lr: Annotated[float, typer.Option(min=1e-6, max=1, help="Highest learning rate of a course.")] = 2e-3,
    seed: Annotated[int, typer.Option(min=0, help="Of renders, weights and batches.")] = 1,
) -> None:
    """Make starting weights anew, by regressing action units on rendered faces of other identities.

    Writes each file that a recipe's `init` names in the chosen scale. Examples:

        ferdistill pretrain resnet18 vit_ban

        ferdistill pretrain student --epochs 3 --lr 6e-3
    """
    settings = params.load()
    recipes = {
        name: recipe
        for name, recipe in {**settings.scale_.teachers, "student": settings.scale_.student}.items()
        if isinstance(recipe, params.NetworkParams)
        and recipe.init.endswith(".safetensors")
        and (not networks or name in networks)
    }
    if not recipes or set(networks or []) - set(recipes):
        raise UsageError(
            f"no starting weights to make for {', '.join(networks or ['any network'])}",
            where=f"params.yaml, scales.{settings.scale}",
            expected="a teacher, or student, whose `init` is a .safetensors file",
        )
    from .faces import pretrain as library

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
