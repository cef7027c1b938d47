"""What a change does to results, for its review: review/summary.md, and review/plots/index.html to open.

Compares metrics, params and index with a base revision (origin/main if none is named), draws their plots over one
another, and ends with .ci/drift.py: exit code 1 if code, params and data no longer give what dvc.lock says. Needs no
data, but to name the images of an index that changed.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

REVIEW = Path("review")
HEADLINE = [
    ("macro F1 on test", "metrics/evaluation.json", "test.macro_f1"),
    ("accuracy on test", "metrics/evaluation.json", "test.accuracy"),
    ("ECE", "metrics/evaluation.json", "test.raw.ece"),
    ("ECE, scaled", "metrics/evaluation.json", "test.scaled.ece"),
    ("NLL", "metrics/evaluation.json", "test.raw.nll"),
    ("NLL, scaled", "metrics/evaluation.json", "test.scaled.nll"),
    ("macro F1 on val", "metrics/student.json", "validation.macro_f1"),
    ("T*", "metrics/calibration.json", "t_star"),
]


def said(*command: str) -> str:
    """What a command prints; its complaint instead, if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else f"```\n{done.stderr.strip()}\n```"


def table(text: str, otherwise: str) -> str:
    """A Markdown table, or a sentence in place of one without rows."""
    return text if len(text.splitlines()) > 2 else otherwise


def headline(diff: str) -> str:
    """The scores to look at first, changed or not, from DVC's JSON."""
    if diff.startswith("```"):
        return diff
    changes = json.loads(diff)
    rows = ["| score | base | now | change |", "|---|---|---|---|"]
    for name, path, key in HEADLINE:
        change = changes.get(path, {}).get(key, {})
        sides = [("old", ".4f"), ("new", ".4f"), ("diff", "+.4f")]
        cells = ["-" if change.get(side) is None else f"{change[side]:{form}}" for side, form in sides]
        rows.append(f"| {' | '.join([name, *cells])} |")
    return "\n".join(rows)


def index_of(lock: str) -> Any:
    """What the stage `index` wrote, by a dvc.lock."""
    stages = (yaml.safe_load(lock) or {}).get("stages", {})
    return stages.get("index", {}).get("outs")


base = sys.argv[1] if len(sys.argv) > 1 else "origin/main"
if subprocess.run(["git", "rev-parse", "--quiet", "--verify", f"{base}^{{commit}}"], capture_output=True).returncode:
    sys.exit(f"error: no revision `{base}`\n  do:       name one: make review BASE=main")
REVIEW.mkdir(exist_ok=True)
drift = subprocess.run([sys.executable, ".ci/drift.py"], capture_output=True, text=True, check=False)
plots = said("dvc", "plots", "diff", base, "--out", str(REVIEW / "plots"))
lock = subprocess.run(["git", "show", f"{base}:dvc.lock"], capture_output=True, text=True, check=False).stdout
index = "The index did not change."
if index_of(lock) != index_of(Path("dvc.lock").read_text(encoding="utf-8")):
    changed = said("ferdistill", "index", "diff", base, "--limit", "3")
    failed = changed.startswith("```")
    index = f"The index changed; to name its images needs its data:\n\n{changed}" if failed else f"```\n{changed}\n```"
lines = [
    f"## Results beside `{base}`",
    "### Metrics",
    headline(said("dvc", "metrics", "diff", base, "--all", "--json")),
    "<details><summary>Every metric that changed</summary>",
    table(said("dvc", "metrics", "diff", base, "--md", "--precision", "4"), "No metric changed."),
    "</details>",
    "### Index",
    index,
    "### Params",
    table(said("dvc", "params", "diff", base, "--md"), "No param changed."),
    "### Plots",
    "review/plots/index.html; on GitHub, in the artifact `plots`" if plots.endswith("index.html") else plots,
    "### Drift",
    f"```\n{drift.stderr.strip()}\n```" if drift.returncode else "Code, params and data give what dvc.lock says.",
]
summary = "\n\n".join(lines) + "\n"
(REVIEW / "summary.md").write_text(summary, encoding="utf-8")
print(summary)
sys.exit(drift.returncode)
