"""`ferdistill audit`."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from .. import params
from ..errors import UsageError
from .console import wide


def audit(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="CSV, Markdown or JSON, or a directory.")],
    grid: Annotated[
        str | None,
        typer.Option(help="Grid that T* was chosen from, as 0.8,0.9,1; that of params.yaml, else the report's."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Find what cannot be true of a table of results, from the table alone.

    A macro F1 that is not the mean of its per-class F1, means, ranges and differences that do not recompute, runs
    identical to the last digit, T* at the edge of its grid, epochs chosen on the test set, values out of range,
    fractions among percent. Rounding never makes a finding. Exit code 1 if anything is found, 2 if a file is
    unreadable. Examples:

        ferdistill audit metrics/

        ferdistill audit metrics/study/results_summary.csv docs/results.md --json

        ferdistill audit table.md --grid 0.5,1,1.5,2
    """
    from ..study import audit as library
    from ..study import tables

    classes: list[str] = list(tables.CLASSES)
    steps: list[float] = list(library.REPORT_GRID)
    if Path("params.yaml").is_file():
        settings = params.load()
        classes, steps = settings.classes, settings.calibrate.grid
    if grid is not None:
        try:
            steps = [float(step) for step in grid.split(",")]
        except ValueError:
            raise UsageError(f"no grid: {grid}", where="--grid", expected="numbers, as 0.8,0.9,1.0") from None
    findings = library.audit(files, classes=classes, grid=steps)
    if as_json:
        print(json.dumps({"findings": [finding._asdict() for finding in findings]}, indent=2, ensure_ascii=False))
    elif findings:
        shown = Table("file", "row", "column", "what", "found", "expected")
        for finding in findings:
            what = library.KINDS[finding.kind]
            shown.add_row(finding.file, str(finding.row), finding.column, what, finding.found, finding.expected)
        wide().print(shown)
        print(f"{len(findings)} findings")
    else:
        print("nothing wrong was found")
    raise typer.Exit(1 if findings else 0)
