"""`ferdistill audit`."""

import math
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from ..errors import UsageError
from ..plain import json_text, say
from .console import wide

if TYPE_CHECKING:
    from ..study.audit import Finding


def audit(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="CSV, Markdown or JSON, or a directory.")],
    grid: Annotated[
        str | None,
        typer.Option(help="Grid that T* was chosen from, as 0.8,0.9,1; that of params.yaml, else none is known."),
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(help="Classes that columns are named by, as cat,dog; those of params.yaml, else of f1_<class>."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Find what cannot be true of a table of results, from the table alone.

    A macro F1 that is not the mean of its per-class F1 (macro_f1), means, ranges and differences that do not recompute
    (mean, range, difference), runs identical to the last digit (identical_runs), T* at the edge of its grid
    (grid_edge), epochs chosen on the test set (selected_on_test), values out of range (out_of_range), fractions among
    percent (mixed_units). Rounding never makes a finding. Prints how many values of each file each check applied to.
    Exit code 1 if anything is found, 2 if a file is unreadable or no check applies to it. Examples:

        ferdistill audit metrics/

        ferdistill audit metrics/study/results_summary.csv docs/results.md --json

        ferdistill audit table.md --grid 0.5,1,1.5,2 --classes cat,dog,bird
    """
    from .. import params
    from ..study import audit as library
    from ..study import tables

    names: list[str] = []
    steps: list[float] = []
    if Path("params.yaml").is_file():
        settings = params.load()
        names, steps = settings.classes, settings.calibrate.grid
    if classes is not None:
        names = [name.strip() for name in classes.split(",")]
    if grid is not None:
        try:
            steps = [float(step) for step in grid.split(",")]
        except ValueError:
            steps = [math.nan]
        if not all(0 < step < math.inf for step in steps):
            raise UsageError(f"no grid: {grid}", where="--grid", expected="numbers above 0, as 0.8,0.9,1.0")
    findings, checked = library.audit(files, classes=names, grid=steps)
    if as_json:
        found = [finding._asdict() for finding in findings]
        print(json_text({"findings": found, "checked": checked}))
        raise typer.Exit(1 if findings else 0)
    for file, counts in checked.items():
        say(f"{file}: {', '.join(f'{kind} {counts[kind]}' for kind in library.KINDS if counts[kind]) or 'no check'}")
    if findings:
        shown = Table("file", "rows", "column", "what", "found", "expected")
        # Findings of one kind in one column that expect the same are one line, whatever numbers were found.
        groups: dict[tuple[str, ...], list[Finding]] = defaultdict(list)
        for finding in findings:
            words = "" if tables.parse(finding.found) else finding.found
            groups[finding.file, finding.column, finding.kind, finding.expected, words].append(finding)
        for alike in groups.values():
            one = alike[0]
            rows, values = _rows(alike), ", ".join(dict.fromkeys(finding.found for finding in alike))
            shown.add_row(one.file, rows, one.column, library.KINDS[one.kind], values, one.expected)
        wide().print(shown)
    checks = sum(counts.total() for counts in checked.values())
    said = f"{len(findings)} finding{'s' if len(findings) > 1 else ''}" if findings else "nothing wrong was found"
    print(f"{said} in {checks} checks")
    raise typer.Exit(1 if findings else 0)


def _rows(findings: "list[Finding]") -> str:
    """Their rows, `6, 8-10`, or places in a JSON file."""
    parts: list[list[int | str]] = []
    for row in (finding.row for finding in findings):
        last = parts[-1][-1] if parts else None
        if isinstance(row, int) and isinstance(last, int) and row == last + 1:
            parts[-1].append(row)
        else:
            parts.append([row])
    return ", ".join(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts)
