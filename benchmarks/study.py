"""Time of collecting a study's experiments into a table, beside `dvc exp show`, on made-up experiments.

Works in throw-away clones of the repository that it is called in, where `dvc repro` or `dvc pull` must have run: a
clone needs the index. Each command is timed from start to exit.
"""

import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

import measure
import yaml

EXAMPLES = """
  python benchmarks/study.py                        50 to 800 experiments, some minutes
  python benchmarks/study.py --experiments 1000 --json out.json
"""
OURS = ["ferdistill", "study", "collect"]
THEIRS = ["dvc", "exp", "show", "--csv"]
FILES = ["params.yaml", "dvc.lock", "metrics/student.json", "metrics/calibration.json", "metrics/evaluation.json"]
FAMILIES = ["6A", "6B", "6C", "6D", "6E"]


def made_up(number: int) -> dict[str, Any]:
    """Params of experiment `number`: families in turn, and a new seed once each has had the last."""
    turn, place = divmod(number, len(FAMILIES))
    return {"family": FAMILIES[place], "mode": "kd", "seed": 1000 + turn}


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


def compare(here: Path, root: Path, count: int) -> list[dict[str, Any]]:
    """Clone, make `count` experiments, and time both commands."""
    git(here, "clone", "--quiet", "--no-local", str(here), str(root))
    cache = subprocess.run(["dvc", "cache", "dir"], cwd=here, check=True, capture_output=True, text=True).stdout.strip()
    settings = yaml.safe_load((root / "params.yaml").read_text())
    described = Path("data/index") / f"{settings['index_tag']}.json"
    (root / described).parent.mkdir(parents=True, exist_ok=True)
    (root / described).write_bytes((here / described).read_bytes())
    subprocess.run(["dvc", "cache", "dir", "--local", cache], cwd=root, check=True, capture_output=True)
    write_experiments(root, {f"made-up-{number}": made_up(number) for number in range(count)})
    seconds = [run_time(command, root) for command in (OURS, THEIRS)]
    peer = f"dvc {measure.installed('dvc')}, exp show"
    return [measure.row("study collect", *seconds, "s", peer, size={"experiments": count})]


def run_time(command: list[str], root: Path) -> float:
    """Seconds of a command from start to exit."""
    start = perf_counter()
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    seconds = perf_counter() - start
    if done.returncode:
        sys.exit(f"{' '.join(command)} exited with {done.returncode}\n{done.stdout}{done.stderr}")
    return seconds


def main() -> None:
    """Grow the experiments."""
    parser = measure.parser(__doc__, EXAMPLES)
    parser.add_argument(
        "--experiments", type=int, nargs="+", default=[50, 200, 800], help="to make up (default: 50 200 800)"
    )
    arguments = parser.parse_args()
    if min(arguments.experiments) < 1:
        parser.error("--experiments: at least 1")
    rows = []
    for count in arguments.experiments:
        with tempfile.TemporaryDirectory() as name:
            rows += compare(Path.cwd(), Path(name) / "clone", count)
    measure.finish(measure.result(rows, "ferdistill", "dvc", "pandas"), arguments.json)


if __name__ == "__main__":
    main()
