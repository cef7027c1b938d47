"""What a change does to results, for its review: review/summary.md, and review/plots/index.html to open.

Compares metrics and params with a base revision (origin/main if none is named), draws their plots over one another,
and ends with .ci/drift.py: exit code 1 if code, params and data no longer give what dvc.lock says. Needs no data.
"""

import subprocess
import sys
from pathlib import Path

REVIEW = Path("review")


def dvc(*arguments: str) -> str:
    """What a DVC command prints; its complaint instead, if it fails."""
    done = subprocess.run(["dvc", *arguments], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else f"```\n{done.stderr.strip()}\n```"


def table(text: str, otherwise: str) -> str:
    """A Markdown table, or a sentence in place of one without rows."""
    return text if len(text.splitlines()) > 2 else otherwise


base = sys.argv[1] if len(sys.argv) > 1 else "origin/main"
if subprocess.run(["git", "rev-parse", "--quiet", "--verify", f"{base}^{{commit}}"], capture_output=True).returncode:
    sys.exit(f"error: no revision `{base}`\n  do:       name one: make review BASE=main")
REVIEW.mkdir(exist_ok=True)
drift = subprocess.run([sys.executable, ".ci/drift.py"], capture_output=True, text=True, check=False)
plots = dvc("plots", "diff", base, "--out", str(REVIEW / "plots"))
lines = [
    f"## Results beside `{base}`",
    "### Metrics",
    table(dvc("metrics", "diff", base, "--md", "--precision", "4"), "No metric changed."),
    "### Params",
    table(dvc("params", "diff", base, "--md"), "No param changed."),
    "### Plots",
    "review/plots/index.html; on GitHub, in the artifact `plots`" if plots.endswith("index.html") else plots,
    "### Drift",
    f"```\n{drift.stderr.strip()}\n```" if drift.returncode else "Code, params and data give what dvc.lock says.",
]
summary = "\n\n".join(lines) + "\n"
(REVIEW / "summary.md").write_text(summary, encoding="utf-8")
print(summary)
sys.exit(drift.returncode)
