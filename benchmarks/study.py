"""Time of collecting a study's experiments into a table, and of its report, on made-up experiments.

Works in a throw-away clone of the repository that it is called in, where `dvc repro` or `dvc pull` must have run: the
clone needs the index.
"""

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from ferdistill.files import write_json

EXAMPLES = """
examples:
  python benchmarks/study.py                        200 experiments
  python benchmarks/study.py --experiments 1000 --json out.json
"""
FILES = ["params.yaml", "dvc.lock", "metrics/student.json", "metrics/calibration.json", "metrics/evaluation.json"]
FAMILIES = ["6A", "6B", "6C", "6D", "6E"]


def made_up(number: int) -> dict[str, Any]:
    """Params of experiment `number`: families in turn, a seed of its own."""
    return {"family": FAMILIES[number % len(FAMILIES)], "mode": "kd", "seed": 1000 + number}


def write_experiments(root: Path, experiments: dict[str, dict[str, Any]], baseline: str = "HEAD") -> None:
    """Write made-up experiments into a repository as DVC would: refs on commits that follow `baseline`.

    Each has the repository's own files with the params given, in `params.yaml` and in `dvc.lock`, and scores drawn
    from its name. Names map to params.
    """
    start = git(root, "rev-parse", baseline)
    texts = {path: git(root, "show", f"{start}:{path}") for path in FILES}
    params, lock = (yaml.load(texts[path], yaml.CSafeLoader) for path in FILES[:2])
    stream = []
    for name, overrides in experiments.items():
        own = params | overrides
        metrics = {path: json.loads(texts[path]) for path in FILES[2:]}
        draw = random.Random(name)
        metrics[FILES[2]] |= {"run_family": own["family"], "run_mode": own["mode"]}
        f1 = {key: draw.uniform(0.6, 0.9) for key in params["classes"]}
        metrics[FILES[4]]["test"] |= {"f1": f1, "macro_f1": sum(f1.values()) / len(f1)}
        for entry in lock["stages"].values():
            tracked = entry.get("params", {}).get("params.yaml", {})
            families = [key for key in tracked if key.startswith("families.")]
            for key in families:
                del tracked[key]
                tracked[f"families.{own['family']}"] = params["families"][own["family"]]
            tracked.update({key: value for key, value in own.items() if key in tracked})
        contents = [yaml.dump(own, Dumper=yaml.CSafeDumper), yaml.dump(lock, Dumper=yaml.CSafeDumper)]
        contents += [json.dumps(metrics[path]) for path in FILES[2:]]
        stream.append(
            f"commit refs/exps/{start[:2]}/{start[2:]}/{name}\ncommitter x <x@example.org> 1764000000 +0000\n"
        )
        stream.append(f"data 0\nfrom {start}\n")
        for path, text in zip(FILES, contents, strict=True):
            stream.append(f"M 100644 inline {path}\ndata {len(text.encode())}\n{text}\n")
    given = "".join(stream).encode()
    subprocess.run(["git", "fast-import", "--quiet"], cwd=root, input=given, check=True)


def git(root: Path, *arguments: str) -> str:
    """What a git command prints in a repository."""
    return subprocess.run(["git", *arguments], cwd=root, check=True, capture_output=True, text=True).stdout.strip()


def commands() -> list[list[str]]:
    """What is timed: `study collect`, and `study report` where there is one."""
    shown = subprocess.run(["ferdistill", "study", "--help"], capture_output=True, text=True, check=True).stdout
    found = [["ferdistill", "study", "collect"]]
    return [*found, ["ferdistill", "study", "report"]] if " report " in shown else found


def measure(here: Path, root: Path, count: int) -> list[dict[str, Any]]:
    """Clone, make `count` experiments, and time each command from start to exit."""
    git(here, "clone", "--quiet", "--no-local", str(here), str(root))
    cache = subprocess.run(["dvc", "cache", "dir"], cwd=here, check=True, capture_output=True, text=True).stdout.strip()
    settings = yaml.safe_load((root / "params.yaml").read_text())
    described = Path("data/index") / f"{settings['index_tag']}.json"
    (root / described).parent.mkdir(parents=True, exist_ok=True)
    (root / described).write_bytes((here / described).read_bytes())
    subprocess.run(["dvc", "cache", "dir", "--local", cache], cwd=root, check=True, capture_output=True)
    write_experiments(root, {f"made-up-{number}": made_up(number) for number in range(count)})
    rows = []
    for command in commands():
        start = perf_counter()
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
        rows.append({"command": " ".join(command), "experiments": count, "seconds": round(perf_counter() - start, 2)})
        if done.returncode:
            sys.exit(f"{' '.join(command)} exited with {done.returncode}\n{done.stdout}{done.stderr}")
    return rows


def main() -> None:
    """Measure, and show or write what was found."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--experiments", type=int, default=200, help="experiments to make up (default: 200)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there instead of a table")
    arguments = parser.parse_args()
    if arguments.experiments < 1:
        parser.error("--experiments: at least 1")
    with tempfile.TemporaryDirectory() as name:
        rows = measure(Path.cwd(), Path(name) / "clone", arguments.experiments)
    device = {"machine": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()}
    if arguments.json:
        write_json(arguments.json, {"device": device, "rows": rows})
        return
    table = Table("", "experiments", "seconds", title=f"{device['machine']}, {device['cores']} cores")
    for row in rows:
        table.add_row(row["command"], str(row["experiments"]), f"{row['seconds']:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
