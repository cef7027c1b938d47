"""What the benchmarks share: rows beside a peer, the machine, versions, and figures taken in a process of its own."""

import argparse
import os
import platform
import resource
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from ferdistill.files import write_json
from ferdistill.runtime.latency import processor

# Units of which less is better; of `…/s` more is.
COSTS = {"s", "ms", "MiB", "MB"}


def parser(about: str | None, examples: str) -> argparse.ArgumentParser:
    """A command line with `--json`, which says what the script is about."""
    made = argparse.ArgumentParser(
        description=about, epilog=f"examples:\n{examples}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--json", type=Path, metavar="FILE", help="write the result to this file too")
    return made


def row(
    name: str,
    ours: float | None,
    theirs: float | None,
    unit: str,
    peer: str,
    ratios: list[float] | None = None,
    size: dict[str, int] | None = None,
) -> dict[str, Any]:
    """One comparison.

    Parameters
    ----------
    name : str
        What was measured.
    ours, theirs : float or None
        The figures, None where nothing was measured.
    unit : str
        `s`, `ms`, `MiB`, `MB`, something `/s`, or what is counted.
    peer : str
        Whose figure `theirs` is, with its version: a peer's, a bare limit's, or ours done another way.
    ratios : list of float, optional
        Of the rounds, if both were measured in turn: `ratio` is their median and `spread` the least and the greatest.
    size : dict, optional
        What grows, and how many of it there are, for a row that is a point of a growth curve.

    Returns
    -------
    dict
        `name`, `size`, `ours`, `theirs`, `ratio`, `spread`, `unit`, `peer`. The ratio is above 1 where ours is better;
        None for units that are neither a cost nor a speed.
    """
    ratio = spread = None
    if ratios:
        ratio = median(ratios)
        if len(ratios) > 1:
            spread = [three_digits(min(ratios)), three_digits(max(ratios))]
    elif ours and theirs and (unit in COSTS or unit.endswith("/s")):
        ratio = theirs / ours if unit in COSTS else ours / theirs
    return {
        "name": name,
        "size": size,
        "ours": ours if ours is None else rounded(ours),
        "theirs": theirs if theirs is None else rounded(theirs),
        "ratio": ratio if ratio is None else three_digits(ratio),
        "spread": spread,
        "unit": unit,
        "peer": peer,
    }


def rounded(value: float) -> float:
    """Four digits; whole numbers stay as they are."""
    return value if isinstance(value, int) else float(f"{value:.4g}")


def three_digits(value: float) -> float:
    """The value to three significant digits."""
    return float(f"{value:.3g}")


def result(rows: list[dict[str, Any]], *packages: str, device: str | None = None) -> dict[str, Any]:
    """Rows with the device they were measured on and the versions of the packages that took part."""
    versions = {"python": platform.python_version()} | {name: installed(name) for name in packages}
    return {"device": device or cpu(), "versions": versions, "rows": rows}


def installed(package: str) -> str | None:
    """The version of a package; None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def cpu() -> str:
    """The processor, and how many of its cores this process may use."""
    return f"{processor()}, {len(os.sched_getaffinity(0))} cores"


def finish(measured: dict[str, Any], file: Path | None) -> None:
    """Print a result as a table, and write it to a file if there is one."""
    if file:
        write_json(file, measured)
    versions = ", ".join(f"{name} {number}" for name, number in measured["versions"].items() if number)
    table = Table(
        "", "size", "ours", "beside it", "ratio", "unit", "beside it is", title=f"{measured['device']}; {versions}"
    )
    for one in measured["rows"]:
        spread = f" ({one['spread'][0]:g} to {one['spread'][1]:g})" if one["spread"] else ""
        ratio = "-" if one["ratio"] is None else f"{one['ratio']:g}{spread}"
        figures = ("-" if one[key] is None else f"{one[key]:,}" for key in ("ours", "theirs"))
        size = ", ".join(f"{count:,} {what}" for what, count in (one["size"] or {}).items())
        table.add_row(one["name"], size, *figures, ratio, one["unit"], one["peer"])
    Console(width=160).print(table)


def alone(
    function: Callable[..., Any], *arguments: Any, start: Literal["spawn", "fork"] = "spawn"
) -> tuple[Any, float]:
    """What a function returns in a process of its own, and the peak MiB of that process or the largest it started.

    A spawned process starts empty; a forked one has what is imported here, and so have those that it starts.
    """
    with ProcessPoolExecutor(1, mp_context=get_context(start)) as pool:
        return pool.submit(function, *arguments).result(), pool.submit(peak_memory).result()


def peak_memory() -> float:
    """In MiB, of this process or of the largest child that has ended."""
    return max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / 1024
