"""`ferdistill corpus`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Column, Table

from ..errors import UsageError
from ..files import write_text
from ..plain import json_text, say, shown
from .console import wide

corpus_cli = typer.Typer(no_args_is_help=True, help="The raw corpora under data/raw.")


@corpus_cli.callback()
def corpus() -> None:
    """Keep `describe` a command of its own."""


@corpus_cli.command("describe")
def describe(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Corpus directory, as data/raw/mine.")],
    classes: Annotated[
        list[str] | None, typer.Option("--classes", metavar="CLASS", help="A class, once for each; else params.yaml's.")
    ] = None,
    write: Annotated[bool, typer.Option("--write", help="Write corpus.yaml there, unless one is there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Guess which layouts lie in a directory, say what was seen, and print a corpus.yaml for it.

    No image is decoded. Examples:

        ferdistill corpus describe data/raw/mine

        ferdistill corpus describe data/raw/mine --write

        ferdistill corpus describe data/raw/mine --classes cat --classes dog
    """
    from .. import params
    from ..data.survey import survey, to_yaml

    found = survey(directory, params.check_classes(classes) if classes else params.load().classes)
    description = to_yaml(found)
    sources = [(source.description, source.images, source.evidence) for source in found.sources]
    if as_json:
        parts = {
            "sources": [one.model_dump() | {"images": n, "evidence": evidence} for one, n, evidence in sources],
            "left_out": [{"path": item.path, "reason": item.reason} for item in found.left_out],
            "unrecognised": found.unrecognised,
            "subjects": found.subjects,
            "corpus_yaml": description,
        }
        print(json_text(parts))
    else:
        table = Table("adapter", Column("path", overflow="fold"), "images", Column("recognised by", overflow="fold"))
        for one, images, evidence in sources:
            table.add_row(one.adapter, one.path, str(images), evidence)
        wide().print(table)
        for left in found.left_out:
            say(f"left out {left.path}: {left.reason}")
        for name in found.unrecognised:
            say(f"not recognised: {name}")
        print(shown(f"\n{description}", lines=True), end="")
    if write:
        file = directory / "corpus.yaml"
        if file.exists():
            raise UsageError("a description is there already", where=str(file), hint="move it away first")
        write_text(file, description)
        # A program that reads the JSON wants nothing else on standard output.
        say(f"written {file}", err=as_json)
