"""What a change does to results, for its review: review/summary.md, and review/plots/index.html to open.

Compares metrics, params and index with a base revision (origin/main if none is named), draws their plots over one
another, and ends with .ci/drift.py: exit code 1 if code, params and data no longer give what dvc.lock says. Needs no
data, but to name the images of an index that changed. Whatever names and values the change brings, they are text in the
summary, never markup, and cannot make it long.
"""

import html
import json
import re
import subprocess
import sys
from collections.abc import Iterator
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
ROWS, LETTERS, LINES = 300, 200, 100  # of a table, of a cell, and of what a command prints


def said(*command: str) -> tuple[str, bool]:
    """What a command prints, and True; its complaint and False, if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    return (done.stderr if done.returncode else done.stdout).strip(), done.returncode == 0


def cell(value: Any) -> str:
    """A value as text of a Markdown table."""
    text = "-" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)
    text = re.sub(r"\s+|[\x00-\x1f\x7f-\x9f]", " ", text)
    text = text if len(text) <= LETTERS else f"{text[:LETTERS]} … ({len(text) - LETTERS:,} letters more)"
    return re.sub(r"([\\`*_\[\]|~@]|://)", r"\\\1", html.escape(text))


def block(text: str) -> str:
    """What a command printed, fenced so that nothing in it ends the fence."""
    lines = re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "�", text).splitlines()
    more = [f"… and {len(lines) - LINES:,} lines more"] if len(lines) > LINES else []
    kept = [line if len(line) <= 5 * LETTERS else f"{line[: 5 * LETTERS]} …" for line in lines[:LINES]]
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return "\n".join([f"{fence}text", *kept, *more, fence])


def table(head: list[str], rows: list[list[Any]], otherwise: str = "") -> str:
    """A Markdown table, or a sentence in place of one without rows."""
    if not rows:
        return otherwise
    shown = [f"| {' | '.join(map(cell, row))} |" for row in rows[:ROWS]]
    more = [f"\nand {len(rows) - ROWS:,} rows more"] if len(rows) > ROWS else []
    return "\n".join([f"| {' | '.join(head)} |", "|---" * len(head) + "|", *shown, *more])


def changes(what: str, base: str, *options: str) -> tuple[dict[str, Any], str]:
    """DVC's comparison of metrics or params, by file and name; and what it says instead, if it fails."""
    text, good = said("dvc", what, "diff", base, "--json", *options)
    return (json.loads(text or "{}"), "") if good else ({}, block(text))


def listed(diff: dict[str, Any]) -> Iterator[list[Any]]:
    """A row for each thing that changed: file, name, before, now, and by how much."""
    for path, values in diff.items():
        for name, change in values.items():
            if change.get("old") != change.get("new"):
                yield [path, name, change.get("old"), change.get("new"), change.get("diff")]


def headline(diff: dict[str, Any]) -> str:
    """The scores to look at first, changed or not; `-` where there is no number."""
    rows = []
    for name, path, key in HEADLINE:
        change = diff.get(path, {}).get(key, {})
        values = [change.get("old"), change.get("new"), change.get("diff")]
        numbers = [value if isinstance(value, int | float) and abs(value) < 1e300 else None for value in values]
        forms = [".4f", ".4f", "+.4f"]
        cells = [None if number is None else f"{number:{form}}" for number, form in zip(numbers, forms, strict=True)]
        rows.append([name, *cells])
    return table(["score", "base", "now", "change"], rows)


def index_of(lock: str) -> Any:
    """What the stage `index` wrote, by a dvc.lock; the text itself if it is none."""
    try:
        return (yaml.safe_load(lock) or {})["stages"]["index"]["outs"]
    except (yaml.YAMLError, ValueError, TypeError, KeyError, RecursionError):
        return lock


base = sys.argv[1] if len(sys.argv) > 1 else "origin/main"
verify = ["git", "rev-parse", "--quiet", "--verify", "--end-of-options", f"{base}^{{commit}}"]
commit, known = said(*verify)
if not known:
    sys.exit(f"error: no revision `{base}`\n  do:       name one: make review BASE=main")
if not re.fullmatch(r"\w[\w./~^-]*", base):
    base = commit[:12]  # a name that a command line or a page could take for more than a name
REVIEW.mkdir(exist_ok=True)
drift, in_step = said(sys.executable, ".ci/drift.py")
plots, drawn = said("dvc", "plots", "diff", base, "--out", str(REVIEW / "plots"))
metrics, no_metrics = changes("metrics", base, "--all")
params, no_params = changes("params", base)
lock, _ = said("git", "show", f"{base}:dvc.lock")
index = "The index did not change."
now = Path("dvc.lock").read_text(encoding="utf-8", errors="replace") if Path("dvc.lock").is_file() else ""
if index_of(lock) != index_of(now.strip()):
    changed, good = said("ferdistill", "index", "diff", base, "--limit", "3")
    index = block(changed) if good else f"The index changed; to name its images needs its data:\n\n{block(changed)}"
head = ["file", "name", "base", "now"]
lines = [
    f"## Results beside `{base}`",
    "### Metrics",
    no_metrics or headline(metrics),
    "<details><summary>Every metric that changed</summary>",
    table([*head, "change"], list(listed(metrics)), "No metric changed."),
    "</details>",
    "### Index",
    index,
    "### Params",
    no_params or table(head, [row[:4] for row in listed(params)], "No param changed."),
    "### Plots",
    "review/plots/index.html; on GitHub, in the artifact `plots`" if drawn and plots else block(plots or "no plot"),
    "### Drift",
    "Code, params and data give what dvc.lock says." if in_step else block(drift),
]
summary = "\n\n".join(lines) + "\n"
(REVIEW / "summary.md").write_text(summary, encoding="utf-8")
print(summary)
sys.exit(not in_step)
