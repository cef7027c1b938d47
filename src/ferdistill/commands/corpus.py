"""`ferdistill corpus`."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Column, Table

from ..errors import UsageError
from ..files import write_text
from .console import wide

corpus_cli = typer.Typer(no_args_is_help=True, help="The raw corpora under data/raw.")


@corpus_cli.callback()
def corpus() -> None:
    """Keep `describe` a command of its own."""


@corpus_cli.command("describe")
def describe(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Corpus directory, as data/raw/mine.")],
    write: Annotated[bool, typer.Option("--write", help="Write corpus.yaml there, unless one is there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Guess which public layouts lie in a directory, say what was seen, and print a corpus.yaml for it.

    No image is decoded. Examples:

        ferdistill corpus describe data/raw/mine

        ferdistill corpus describe data/raw/mine --write
    """
    from ..data import describe as library

    guess = library.guess(directory)
    description = library.to_yaml(guess)
    if as_json:
        print(json.dumps(asdict(guess) | {"corpus_yaml": description}, indent=2, ensure_ascii=False))
    else:
        table = Table("adapter", Column("path", overflow="fold"), "rows", Column("recognised by", overflow="fold"))
        for source in guess.sources:
            table.add_row(source.adapter, source.path, str(source.count), source.evidence)
        wide().print(table)
        for left in guess.left_out:
            print(f"left out {left.path}: {left.reason}")
        for name in guess.unrecognised:
            print(f"not recognised: {name}")
        print(f"\n{description}", end="")
    if write:
        file = directory / "corpus.yaml"
        if file.exists():
            raise UsageError("a description is there already", where=str(file), hint="move it away first")
        write_text(file, description)
        # A program that reads the JSON wants nothing else on standard output.
        typer.echo(f"written {file}", err=as_json)
