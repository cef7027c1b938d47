"""`ferdistill experiments`."""

from typing import Annotated, Any

import typer
from rich.table import Column, Table

from ..plain import json_text
from .console import wide

SCORES = {"macro_f1": "macro F1", "ece_scaled": "ECE"}
ALWAYS = ("family", "mode", "seed")


def experiments(
    revs: Annotated[
        list[str] | None,
        typer.Option("--rev", help="Commit that experiments started from; HEAD and ancestors if none."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """List DVC's experiments in 80 columns: name, family, mode, seed, what else differs, macro F1 and ECE on test.

    The workspace stands first. `dvc exp show` has every column, some 400; `dvc queue status` has what waits or failed.

    Examples:
        ferdistill experiments

        ferdistill experiments --rev main --json
    """
    from ..study.schema import FILES, METRIC, SETTING
    from ..tracking import experiments as library

    names = [*ALWAYS, *(key for key in SETTING if SETTING[key].sweepable), "corpus", "scale"]
    rows: list[dict[str, Any]] = []
    for one in [library.workspace_run(FILES), *library.read(library.baselines(revs or []), FILES)]:
        metrics = {path: library.load_yaml(one.files[path] or "{}") for path in FILES}
        raw = one.params()
        rows.append({"experiment": one.name, **{name: raw.get(name) for name in names}})
        rows[-1] |= {key: METRIC[key].of(metrics, [])[key] for key in SCORES}
    if as_json:
        print(json_text(rows))
        return
    shown = [name for name in names if name in ALWAYS or len({str(row[name]) for row in rows}) > 1]
    table = Table(Column("experiment", overflow="fold", min_width=9), *shown, *SCORES.values(), box=None)
    for row in rows:
        scores = ["-" if row[key] is None else f"{row[key]:.4f}" for key in SCORES]
        table.add_row(row["experiment"], *("" if row[name] is None else str(row[name]) for name in shown), *scores)
    wide().print(table)
    if len(rows) == 1:
        print(library.why_none(library.baselines(revs or []))[0])
