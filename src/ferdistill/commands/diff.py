"""`ferdistill diff`."""

from typing import Annotated

import typer

from ..plain import json_text, shown


def diff(
    rev: Annotated[str, typer.Argument(metavar="REV", help="Branch, tag or commit to compare with.")] = "HEAD",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Compare the workspace's scores on test with those of a commit, and say what another seed alone could do.

    Scores stand with 95 % intervals over people, changes with 95 % intervals over seeds: two runs that differ in the
    seed alone differ by less, as the study's table tells of this corpus and scale, or else as on the embedded
    corpus. Latency stands apart. Needs git alone, no data. Exits with 1 if a score is worse by more than that
    noise, with 2 if there is no such commit. Examples:

        ferdistill diff

        ferdistill diff main

        ferdistill diff HEAD~1 --json
    """
    from ..study import changes

    found = changes.beside(rev, own_table=True)
    print(json_text(found) if as_json else shown("\n".join(changes.table_of(found)), lines=True))
    if any(one["verdict"] == "worse" for one in found["scores"]):
        raise typer.Exit(1)
