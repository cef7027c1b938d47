"""The script of `make gpu-check`, tried on a CPU: it runs, and what it reports holds there."""

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow
SMALL = ["--images", "16", "--batch", "8", "--side", "64", "--networks", "mobilenetv3_small_050", "--rounds", "1"]


def run(*arguments):
    return subprocess.run(
        [sys.executable, "benchmarks/gpu.py", *arguments], capture_output=True, text=True, check=False
    )


def test_a_small_run_reports_speed_memory_and_whether_bytes_hold(tmp_path):
    done = run("--cpu", *SMALL, "--json", str(tmp_path / "gpu.json"))
    assert done.returncode == 0, done.stderr
    rows = {row["name"].partition(": ")[2]: row for row in json.loads((tmp_path / "gpu.json").read_text())["rows"]}
    assert rows["training"]["ratio"] == pytest.approx(rows["training"]["ours"] / rows["training"]["theirs"], rel=0.01)
    assert rows["two runs, same bytes"]["ours"] == rows["one broken off, same bytes"]["ours"] == 1
    assert rows["logits of CPU and card, float32, apart by"]["ours"] == 0


def test_without_a_gpu_nothing_is_measured(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    done = run()
    assert done.returncode == 1 and "nothing was measured" in done.stderr
