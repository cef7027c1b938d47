"""The benchmarks: what their rows say, that each runs, and that docs/performance.md is what they measured."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import measure
import pytest

ROOT = Path(__file__).parents[1]


def test_a_ratio_is_above_one_where_ours_is_better():
    assert measure.row("time", 2.0, 6.0, "s", "them")["ratio"] == 3
    assert measure.row("speed", 2.0, 6.0, "images/s", "them")["ratio"] == 0.333
    assert measure.row("found", 0.5, 1.0, "share", "them")["ratio"] is None
    assert measure.row("alone", 2.0, None, "s", "")["ratio"] is None


def test_rounds_taken_in_turn_give_the_ratio_and_its_spread():
    row = measure.row("time", 1.23456, 4, "s", "them", [3.5, 2.0, 3.0], {"rows": 10})
    assert (row["ratio"], row["spread"], row["ours"], row["size"]) == (3, [2, 3.5], 1.235, {"rows": 10})


@pytest.fixture(scope="module")
def every():
    spec = importlib.util.spec_from_file_location("benchmarks_all", ROOT / "benchmarks/__main__.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_says_what_was_measured(every):
    results = json.loads(every.DATA.read_text(encoding="utf-8"))
    assert list(results) == [name for name in every.SCRIPTS if name in results] and {"index", "study"} <= results.keys()
    assert every.PAGE.read_text(encoding="utf-8") == every.page(results)
    assert every.PICTURE.read_bytes() == every.picture(results)
    rows = [row for result in results.values() for row in result["rows"]]
    assert all(result["device"] and result["versions"]["python"] for result in results.values())
    assert {"ours", "theirs", "ratio", "unit", "peer"} <= set.intersection(*map(set, rows))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("input", ["--images", "20", "--side", "32", "--batch", "8", "--rounds", "1"]),
        ("index", ["--rows", "100", "--most", "5000"]),
        ("alignment", ["--rows", "1000", "--teachers", "1", "--repeats", "1"]),
        ("canary", ["--rows", "100", "--trials", "1"]),
        ("damage", ["--rows", "500", "--seeds", "1", "--intact", "1"]),
        ("keyless", ["--rows", "3000", "--teachers", "2"]),
        ("keyless", ["--rows", "20000", "--teachers", "3", "--classes", "300"]),
        ("rows", ["--rows", "1000"]),
        ("rows", ["--rows", "1000", "--classes", "100", "--top-k", "5"]),
        ("changes", ["--rows", "120", "--side", "32"]),
        ("study_report", ["--runs", "30", "--images", "70"]),
    ],
)
def test_a_small_run_gives_rows(name, options, tmp_path):
    file = tmp_path / "out.json"
    subprocess.run([sys.executable, f"benchmarks/{name}.py", *options, "--json", str(file)], cwd=ROOT, check=True)
    assert all(row["name"] for row in json.loads(file.read_text())["rows"])
