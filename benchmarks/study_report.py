"""Time and size of `ferdistill study report` on a table of invented runs, with predictions of every run.

The time is of the whole command, a process of its own, imports included.
"""

import argparse
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from ferdistill import params
from ferdistill.files import write_json
from ferdistill.study import results

EXAMPLES = """
examples:
  python benchmarks/study_report.py                    200 runs of 800 test images each
  python benchmarks/study_report.py --runs 60 --json out.json
"""
ROOT = Path(__file__).parents[1]


def recipes(families: list[str]) -> list[dict[str, Any]]:
    """The baseline, every family in mode kd, 6D over lambda, and dkd over beta."""
    distilled = [name for name in families if name not in ("none", "6D")]
    made: list[dict[str, Any]] = [{"family": "none", "mode": "none"}]
    made += [{"family": name, "mode": "kd"} for name in distilled]
    made += [{"family": "6D", "mode": "kd", "lambda": value} for value in (0.3, 0.5, 0.7)]
    made += [{"family": name, "mode": "dkd", "beta": beta} for name in distilled[:4] for beta in (2, 4, 8)]
    return [*made, {"family": "6E", "mode": "kd", "views": 4}]


def generate(directory: Path, runs: int, images: int) -> Path:
    """Write a table of runs and, in the form of DVC's cache, the predictions of each."""
    settings = params.load(ROOT / "params.yaml")
    rng = np.random.default_rng(0)
    kinds = recipes(list(settings.families))
    labels = np.arange(images) % len(settings.classes)
    stem = pd.DataFrame({"path": [f"{row:06d}.png" for row in range(images)], "split": "test"})
    stem["label"] = np.array(settings.classes)[labels]
    stem["group"] = stem["subject"] = [f"s{row // 10}" for row in range(images)]
    rows = []
    for number in range(runs):
        kind, f1 = kinds[number % len(kinds)], 0.78 + rng.normal(0, 0.01)
        md5 = hashlib.md5(str(number).encode()).hexdigest()
        logits = rng.normal(0, 1, (images, len(settings.classes))) + 2.5 * np.eye(len(settings.classes))[labels]
        store = directory / ".dvc" / "cache" / "files" / "md5" / md5[:2]
        store.mkdir(parents=True, exist_ok=True)
        names = [f"logit_{name}" for name in settings.classes]
        stem.join(pd.DataFrame(logits.astype(np.float32), columns=names)).to_parquet(store / md5[2:])
        scores = [
            name for name in results.columns(settings.classes) if "f1" in name or name.endswith(("acc", "accuracy"))
        ]
        errors = [name for name in results.columns(settings.classes) if name.startswith(("ece", "mce", "nll", "brier"))]
        rows.append(
            {
                **{name: f1 + rng.normal(0, 0.01) for name in scores},
                **{name: abs(rng.normal(0.03, 0.01)) for name in errors},
                **{"views": 1, "fusion": settings.families[kind["family"]].fusion, "alpha": 0.5, "temperature": 2.0},
                **({"dkd_target_term": "official"} if kind["mode"] == "dkd" else {}),
                **kind,
                **{"experiment": f"run-{number}", "seed": number // len(kinds), "best_epoch": 5, "best_test_epoch": 5},
                **{"optimism_macro_f1": 0.01, "t_star": 1.1, "t_star_grid": 1.1, "grid_at_edge": "false"},
                **{"scale": "embedded", "corpus": "invented", "index_tag": "t", "index_digest": "d", "code": "c"},
                **{"misaligned": "false", "time": "2026-11-25T00:00:00+00:00", "predictions": md5},
            }
        )
    table = directory / "results.csv"
    pd.DataFrame(rows, columns=results.columns(settings.classes)).to_csv(table, index=False)
    return table


def main() -> None:
    """Generate, run the command, print and write what was measured."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--images", type=int, default=800, help="test images of each run")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        shutil.copy(ROOT / "params.yaml", directory)
        subprocess.run(["dvc", "init", "-q", "--no-scm"], cwd=directory, check=True)
        table = generate(directory, arguments.runs, arguments.images)
        command = [str(Path(sys.executable).with_name("ferdistill")), "study", "report", "--results", table.name]
        start, before = perf_counter(), os.times()
        subprocess.run([*command, "--out", "r.html", "--markdown", "r.md"], cwd=directory, check=True)
        wall, after = perf_counter() - start, os.times()
        found = {
            "runs": arguments.runs,
            "wall_s": round(wall, 2),
            "cpu_s": round(
                after.children_user + after.children_system - before.children_user - before.children_system, 2
            ),
            "page_mb": round((directory / "r.html").stat().st_size / 1e6, 2),
            "cpus": os.cpu_count(),
            "machine": platform.machine(),
            "matplotlib": version("matplotlib"),
        }
    shown = Table(*found)
    shown.add_row(*map(str, found.values()))
    Console().print(shown)
    if arguments.json:
        write_json(arguments.json, found)


if __name__ == "__main__":
    main()
