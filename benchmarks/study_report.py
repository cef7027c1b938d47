"""Time and size of `ferdistill study report` on a table of invented runs, with predictions of every run.

The time is of the whole command, a process of its own, imports included.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

import measure
import numpy as np
import pandas as pd

from ferdistill import params
from ferdistill.study import results

EXAMPLES = """
  python benchmarks/study_report.py                    50 to 800 runs of 800 test images each
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


def report(runs: int, images: int) -> list[dict[str, Any]]:
    """Generate, and run the command."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        shutil.copy(ROOT / "params.yaml", directory)
        subprocess.run(["dvc", "init", "-q", "--no-scm"], cwd=directory, check=True)
        table = generate(directory, runs, images)
        command = [str(Path(sys.executable).with_name("ferdistill")), "study", "report", "--results", table.name]
        start, before = perf_counter(), os.times()
        subprocess.run([*command, "--out", "r.html", "--markdown", "r.md"], cwd=directory, check=True)
        wall, after = perf_counter() - start, os.times()
        cpu = after.children_user + after.children_system - before.children_user - before.children_system
        size = (directory / "r.html").stat().st_size / 1e6
    figures = [("time", wall, "s"), ("time of the CPU", cpu, "s"), ("page", size, "MB")]
    return [
        measure.row(f"study report: {what}", value, None, unit, "", size={"runs": runs})
        for what, value, unit in figures
    ]


def main() -> None:
    """Grow the table."""
    parser = measure.parser(__doc__, EXAMPLES)
    parser.add_argument("--runs", type=int, nargs="+", default=[50, 200, 800], help="to invent (default: 50 200 800)")
    parser.add_argument("--images", type=int, default=800, help="test images of each run (default: 800)")
    arguments = parser.parse_args()
    if min(*arguments.runs, arguments.images) < 1:
        parser.error("--runs and --images: at least 1")
    rows = [row for runs in arguments.runs for row in report(runs, arguments.images)]
    measure.finish(measure.result(rows, "ferdistill", "matplotlib", "pandas", "scipy"), arguments.json)


if __name__ == "__main__":
    main()
