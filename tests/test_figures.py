"""The figures of README and docs/ are those of the committed tables."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FIGURES = runpy.run_path(str(ROOT / "docs/figures.py"))
placed = FIGURES["placed"]


def test_every_figure_is_that_of_the_tables():
    command = [sys.executable, "docs/figures.py", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}\npython docs/figures.py corrects numbers"


@pytest.mark.parametrize(
    ("page", "start", "end"),
    [
        ("README.md", "At the embedded scale", "The faces are rendered."),
        ("docs/calibration.md", "6E, kd, seed", "So the student's"),
    ],
)
def test_no_figure_of_a_result_is_written_by_hand(page, start, end):
    text = (ROOT / page).read_text(encoding="utf-8")
    for of_page, sentence, numbers in FIGURES["figures"]():
        if of_page == page:
            text = placed(text, sentence, ["#"] * len(numbers))
    section = text[text.index(start) : text.index(end)]
    assert re.findall(r"(?<![\d.])\d+\.\d+(?![\d.])", section) == []


def test_numbers_are_placed_across_ends_of_lines_and_nowhere_else():
    text = "A macro F1 of\n0.75, for 1,024 images; a macro F1 for -1.\n"
    assert placed(text, "macro F1 of {}, for {} images", ["0.8", "96"]) == text.replace("0.75", "0.8").replace(
        "1,024", "96"
    )
    for sentence in ("accuracy of {}", "macro F1 {}", "macro F1 of {}, for {} faces"):
        with pytest.raises(ValueError, match="0 times"):
            placed(text, sentence, ["1", "2"])
    with pytest.raises(ValueError, match="2 times"):
        placed(text + text, "macro F1 of {}", ["1"])
