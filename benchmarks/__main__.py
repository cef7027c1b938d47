"""All benchmarks in turn, and docs/performance.md from what they measure: `python benchmarks`.

Each runs in a process of its own, so that none inherits another's memory. Run it from the repository's root on a quiet
machine, after `dvc repro`; `make bench` does all that, and installs the peers.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import measure
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter

from ferdistill.files import atomic, write_json
from ferdistill.progress import track
from ferdistill.report import figures

EXAMPLES = """
  python benchmarks                                        all, about an hour and a half, 15 GB of disk
  python benchmarks --only pipeline study                  these again, the others as they are
  python benchmarks --peer .bench/fer/bin/python           with the public package in an environment of its own
  python benchmarks --page                                 only the page, from docs/performance.json
"""
HERE = Path(__file__).parent
DATA, PAGE, PICTURE = (
    HERE.parent / "docs" / name for name in ("performance.json", "performance.md", "images/growth.svg")
)
# In the order of the page: what each is about.
SCRIPTS = {
    "index": "Finding duplicates",
    "alignment": "Checking alignment",
    "rows": "More rows",
    "changes": "A change of the data",
    "training": "Training the student",
    "input": "The input of training",
    "runtime": "The exported student",
    "pipeline": "The pipeline",
    "study": "Collecting a study",
    "study_report": "Reporting on a study",
}
HEAD = """# Performance

`make bench` measures all of this, and writes this page. Beside ours stands a peer's figure, the bare limit's, or ours
done another way, taken in the same run, wherever there is one and it ends in minutes; the last column says whose it
is. The ratio is **above 1 where ours is better**, whatever the unit. In brackets are the least and the greatest ratio
of the rounds, where both sides took turns. What is done in a row, each benchmark says itself:
`python benchmarks/index.py --help`.
"""
GROWTH = """
## Growth

![What time and speed become with more rows, teachers, hashes and experiments](images/growth.svg)

Ours are the solid lines, the peers the dashed ones.

"""


def main() -> None:
    """Run the scripts, write their results and the page."""
    parser = measure.parser(__doc__, EXAMPLES)
    parser.add_argument("--only", nargs="+", choices=SCRIPTS, metavar="NAME", help=f"of {', '.join(SCRIPTS)}")
    parser.add_argument("--peer", metavar="PYTHON", help="Python of an environment with `fer`, for runtime")
    parser.add_argument("--page", action="store_true", help="write the page from the results that there are")
    arguments = parser.parse_args()
    results = json.loads(DATA.read_text(encoding="utf-8")) if DATA.is_file() else {}
    names = [] if arguments.page else arguments.only or list(SCRIPTS)
    for name in track(names, "benchmarks", len(names)):
        more = ["--peer", arguments.peer] if name == "runtime" and arguments.peer else []
        results[name] = measured(name, *more)
        write_json(DATA, {name: results[name] for name in SCRIPTS if name in results})
    if not results:
        sys.exit(f"{DATA} is not there: run `make bench`")
    write(results)


def measured(name: str, *options: str) -> dict[str, Any]:
    """What a script writes; its table goes to the terminal."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "result.json"
        command = [sys.executable, str(HERE / f"{name}.py"), *options, "--json", str(file)]
        if subprocess.run(command, check=False).returncode:
            sys.exit(f"benchmarks/{name}.py stopped; once mended: python benchmarks --only {name}")
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


def write(results: dict[str, Any]) -> None:
    """The page and its picture."""
    with atomic(PAGE) as temporary:
        temporary.write_text(page(results), encoding="utf-8")
    with atomic(PICTURE) as temporary:
        temporary.write_bytes(picture(results))


def page(results: dict[str, Any]) -> str:
    """The results as Markdown, a table a benchmark."""
    parts = [HEAD]
    for name, title in SCRIPTS.items():
        if name in results:
            parts.append(f"\n## {title}\n\n`python benchmarks/{name}.py`, {described(results[name])}:\n\n")
            parts.append(table(results[name]["rows"]))
    return "".join([*parts, GROWTH.rstrip("\n") + "\n"])


def described(result: dict[str, Any]) -> str:
    """Device and versions."""
    versions = (f"{name} {version}" for name, version in result["versions"].items() if version)
    return ", ".join([result["device"], *versions])


def table(rows: list[dict[str, Any]]) -> str:
    """Rows as a table; the column of sizes only where something grows."""
    sized = any(row["size"] for row in rows)
    head = ["", *["size"] * sized, "ours", "beside it", "unit", "ratio", "beside it is"]
    lines = [head, ["---"] * len(head)]
    for row in rows:
        spread = " ({:g} to {:g})".format(*row["spread"]) if row["spread"] else ""
        size = ", ".join(f"{count:,} {what}" for what, count in (row["size"] or {}).items())
        lines.append(
            [
                row["name"],
                *[size] * sized,
                *(shown(row[key]) for key in ("ours", "theirs")),
                row["unit"],
                "" if row["ratio"] is None else f"{row['ratio']:g}{spread}",
                "" if row["theirs"] is None else row["peer"],
            ]
        )
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def shown(value: float | None) -> str:
    """A figure as people read it."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:g}"


def picture(results: dict[str, Any]) -> bytes:
    """A plot for each quantity that was measured at several sizes."""
    curves: dict[tuple[str, str, str], list[tuple[int, float, float | None]]] = {}
    for name in SCRIPTS:
        for row in results.get(name, {}).get("rows", []):
            if row["size"] and (row["unit"] in ("s", "MiB") or row["unit"].endswith("/s")):
                ((what, count),) = row["size"].items()
                curves.setdefault((row["name"], what, row["unit"]), []).append((count, row["ours"], row["theirs"]))
    several = {key: points for key, points in curves.items() if len(points) > 1}
    across = 3
    down = -(-len(several) // across)

    with figures.drawing(2.5 * down, width=9.5) as (figure, file):
        grid = figure.subplots(down, across, squeeze=False).flat
        for ((name, what, unit), points), axes in zip(several.items(), grid, strict=False):
            plot(axes, name, what, unit, points)
        for axes in list(grid):
            axes.set_axis_off()
    return file.getvalue()


def plot(axes: Axes, name: str, what: str, unit: str, points: list[tuple[int, float, float | None]]) -> None:
    """One curve, ours and theirs, on logarithmic axes."""
    theirs = [(size, other) for size, _, other in points if other is not None]
    sizes, own = [size for size, _, _ in points], [value for _, value, _ in points]
    axes.loglog(sizes, own, "o-", color=figures.BLUE)
    axes.loglog([size for size, _ in theirs], [other for _, other in theirs], "s--", color=figures.RED)
    values = [*own, *(other for _, other in theirs)]
    axes.set_ylim(min(values) / 2, max(values) * 2)
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0,) if max(values) > 20 * min(values) else (1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes], rotation=30 if max(sizes) >= 10_000 else 0)
    axes.set_xticks([], minor=True)
    axes.set_title(name.replace(": ", "\n"), loc="left")
    axes.set_xlabel(what)
    axes.set_ylabel(unit)
    axes.grid(color="0.9")


if __name__ == "__main__":
    main()
