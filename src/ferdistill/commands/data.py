"""`ferdistill data`."""

import json
from typing import Annotated

import typer

from ..errors import CheckError
from ..plain import say

data_cli = typer.Typer(no_args_is_help=True, help="The pipeline's data, as DVC holds it.")


@data_cli.callback()
def data() -> None:
    """Keep `check` a command of its own."""


@data_cli.command("check")
def check(
    repair: Annotated[bool, typer.Option("--repair", help="Set aside what is damaged, to be made anew.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """Read all data again and name what is not what DVC takes it for; DVC itself trusts its cache unread.

    For after a crash, a full or failing disk, a copied cache. Exits with 1 if there is damage that was left as it is.
    With --repair it is moved to .dvc/tmp/damaged; then `dvc repro`, or `dvc pull`, brings it anew. Examples:

        ferdistill data check

        ferdistill data check --repair && dvc repro
    """
    from ..tracking import damage as library

    found = library.find()
    paths = [str(path) for path in [*found.damaged_objects, *found.damaged_files]]
    if repair:
        library.set_aside(found)
    if as_json:
        counts = {"objects": found.objects, "files": found.files}
        print(json.dumps(counts | {"damaged": paths, "set_aside": repair and bool(paths)}, indent=2))
        if paths and not repair:
            raise typer.Exit(1)
        return
    print(f"{found.objects} objects of DVC's cache and {found.files} files read, {len(paths)} damaged")
    if repair:
        for path in paths:
            say(f"set aside {path}")
        if paths:
            print(f"moved to {library.ASIDE}; now run `dvc repro`, or `dvc pull`")
    elif paths:
        raise CheckError(
            f"{len(paths)} files are damaged, and DVC takes them for whole",
            where=", ".join(paths[:5]) + (f" and {len(paths) - 5} more" if len(paths) > 5 else ""),
            expected="the bytes that their names, or dvc.lock, say",
            hint="ferdistill data check --repair && dvc repro",
        )
