"""What the pipeline costs beside its stages: `dvc status`, a `dvc repro` with nothing to do, and an experiment.

`dvc status` and `dvc repro` are set beside the same in a repository of one stage that has nothing to do, which is what
DVC itself takes to start. An experiment, `dvc exp run --temp` with a new seed, is set beside the same stages called by
hand. All happens in throw-away clones of the commit that is checked out here, whose `dvc repro` must have run; DVC's
cache is copied.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import measure
import yaml

from ferdistill.progress import track

EXAMPLES = """
  python benchmarks/pipeline.py                        three minutes
  python benchmarks/pipeline.py --repeats 9 --experiments 5 --json out.json
"""
STAGES = ["student", "calibrate", "evaluate"]  # what a new seed runs
SEED = 900_001  # none that a study uses


def clone(here: Path, root: Path, cache: Path) -> None:
    """A clone with all results of the pipeline, whose cache is `cache`."""
    run(here, "git", "clone", "--quiet", "--no-local", str(here), str(root))
    run(root, "dvc", "cache", "dir", "--local", str(cache))
    run(root, "dvc", "checkout", "--quiet")
    if "up to date" not in (printed := run(root, "dvc", "status")[1]):
        sys.exit(f"a clone of this commit is not up to date: run `dvc repro` and commit its results\n{printed}")


def bare(root: Path) -> None:
    """A repository of one stage that has nothing to do."""
    root.mkdir()
    run(root, "git", "init", "--quiet")
    run(root, "dvc", "init", "--quiet")
    (root / "data").write_text("nothing\n")
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"one": {"cmd": "python -c pass", "deps": ["data"]}}}))
    run(root, "dvc", "repro")


def run(root: Path, *command: str) -> tuple[float, str]:
    """Seconds of a command from start to exit, and what it printed."""
    start = perf_counter()
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    seconds = perf_counter() - start
    if done.returncode:
        sys.exit(f"{' '.join(command)} exited with {done.returncode}\n{done.stdout}{done.stderr}")
    return seconds, done.stdout


def compare(name: str, root: Path, peer: Path, repeats: int, *command: str) -> dict[str, Any]:
    """A command in both repositories in turn."""
    rounds = [(run(root, *command)[0], run(peer, *command)[0]) for _ in range(repeats)]
    ours, theirs = (median(one[side] for one in rounds) for side in (0, 1))
    label = f"dvc {measure.installed('dvc')}, one stage"
    return measure.row(name, ours, theirs, "s", label, [theirs / ours for ours, theirs in rounds])


def experiment(root: Path, seed: int) -> float:
    """Seconds of an experiment of its own, and no stage but those of a new seed."""
    seconds, printed = run(root, "dvc", "exp", "run", "--temp", "-S", f"seed={seed}", STAGES[-1])
    ran = re.findall(r"^Running stage '([^']+)'", printed, re.MULTILINE)
    if ran != STAGES:
        sys.exit(f"the experiment ran {ran}, expected {STAGES}")
    return seconds


def by_hand(root: Path, seed: int) -> float:
    """Seconds of the same stages, each a command."""
    params = root / "params.yaml"
    text, count = re.subn(r"^seed: \d+", f"seed: {seed}", params.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert count == 1
    params.write_text(text, encoding="utf-8")
    return sum(run(root, "python", "src/stage.py", stage)[0] for stage in STAGES)


def main() -> None:
    """Clone, and measure all three."""
    parser = measure.parser(__doc__, EXAMPLES)
    parser.add_argument("--repeats", type=int, default=7, help="of status and repro (default 7)")
    parser.add_argument("--experiments", type=int, default=3, help="each with a seed of its own (default 3)")
    arguments = parser.parse_args()
    if min(arguments.repeats, arguments.experiments) < 1:
        parser.error("--repeats and --experiments: at least 1")
    here = Path.cwd()
    with tempfile.TemporaryDirectory() as name:
        ours, hand, one = (Path(name) / part for part in ("ours", "hand", "one"))
        shutil.copytree(run(here, "dvc", "cache", "dir")[1].strip(), Path(name) / "cache")
        for root in (ours, hand):
            clone(here, root, Path(name) / "cache")
        bare(one)
        rows = [
            compare("dvc status, nothing changed", ours, one, arguments.repeats, "dvc", "status"),
            compare("dvc repro, nothing to do", ours, one, arguments.repeats, "dvc", "repro"),
        ]
        seeds = range(SEED, SEED + arguments.experiments)
        pairs = [(experiment(ours, seed), by_hand(hand, seed)) for seed in track(seeds, "experiments", len(seeds))]
    taken, stages = (median(pair[side] for pair in pairs) for side in (0, 1))
    ratios = [theirs / ours for ours, theirs in pairs]
    rows.append(measure.row("an experiment", taken, stages, "s", "its stages by hand", ratios))
    rows.append(measure.row("an experiment's own cost", median(ours - theirs for ours, theirs in pairs), None, "s", ""))
    measure.finish(measure.result(rows, "ferdistill", "dvc", "torch"), arguments.json)


if __name__ == "__main__":
    main()
