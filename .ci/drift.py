"""Fail if code, params or tracked files no longer match dvc.lock. Needs no data: what is absent is not compared."""

import json
import subprocess
import sys


def dvc(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run DVC and return what it printed."""
    return subprocess.run(["dvc", *arguments], capture_output=True, text=True, check=False)


# `--dry --allow-missing` does not see a changed file inside a directory, and `status` not a missing lock entry.
dry = dvc("repro", "--dry", "--allow-missing")
drifted = [line for line in dry.stdout.splitlines() if line.startswith("Running stage")]
if dry.returncode:
    drifted.append(dry.stderr.strip())

status = dvc("status", "--json")
if status.returncode:
    drifted.append(status.stderr.strip())
absent = {"deleted", "not in cache"}
for stage, reports in json.loads(status.stdout or "{}").items():
    for report in reports:
        if not isinstance(report, dict):
            drifted.append(f"{stage}: {report}")
            continue
        for kind, paths in report.items():
            # Of a file of params, what became of each.
            states = {path: state if isinstance(state, str) else json.dumps(state) for path, state in paths.items()}
            drifted += [f"{stage}: {kind}: {path} {state}" for path, state in states.items() if state not in absent]

for line in drifted:
    print(f"drift: {line}", file=sys.stderr)
if drifted:
    print("run `dvc repro` and commit dvc.lock with metrics/ and plots/", file=sys.stderr)
sys.exit(bool(drifted))
