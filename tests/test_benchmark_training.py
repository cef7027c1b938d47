"""The training benchmark: it runs, and all its variants do the same work."""

import importlib.util
import json
import sys

import pytest
import torch

pytestmark = pytest.mark.slow
SCRIPT = "benchmarks/training.py"


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("benchmark_training", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def one_batch(benchmark, tmp_path_factory):
    """In one batch without augmentation the order is no matter, and no step comes before the loss."""
    return benchmark.make_task(tmp_path_factory.mktemp("task"), benchmark.settings_for(augment="none"), 64)


def test_a_small_run_reports_every_peer_that_is_installed(benchmark, monkeypatch, tmp_path):
    threads = str(torch.get_num_threads())  # as they are, for the tests that follow
    arguments = [
        "--images",
        "64",
        "--rounds",
        "1",
        "--teachers",
        "2",
        "--threads",
        threads,
        "--json",
        str(tmp_path / "out.json"),
    ]
    monkeypatch.setattr(sys, "argv", [SCRIPT, *arguments])
    benchmark.main()
    result = json.loads((tmp_path / "out.json").read_text())
    assert [row["name"] for row in result["rows"]] == [
        "bare loop", "torchdistill, teachers online", "torchdistill, stored logits", "ours, teachers online",
        "stored soft labels",
    ]  # fmt: skip
    for row in result["rows"]:
        if row["peer"].startswith("torchdistill") and result["versions"]["torchdistill"] is None:
            assert row["theirs"] is row["ratio"] is None
        else:
            assert row["ratio"] == pytest.approx(row["ours"] / row["theirs"], rel=0.01)
    bare, *_, online, grown = result["rows"]
    assert grown["size"] == {"teachers": 2}
    assert online["theirs"] < bare["theirs"]  # four teachers take time


@pytest.mark.parametrize("arguments", [["--images", "63"], ["--rounds", "0"], ["--threads", "0"]])
def test_a_run_without_a_batch_or_a_round_is_refused(benchmark, monkeypatch, capsys, arguments):
    monkeypatch.setattr(sys, "argv", [SCRIPT, *arguments])
    with pytest.raises(SystemExit, match="2"):
        benchmark.main()
    assert arguments[0] in capsys.readouterr().err.splitlines()[-1]


def test_our_loop_and_the_bare_one_compute_the_same_loss(benchmark, one_batch):
    assert benchmark.bare(one_batch).loss == pytest.approx(benchmark.ours(one_batch).loss, rel=1e-5)


def test_torchdistill_computes_the_same_loss_as_ours(benchmark, one_batch):
    pytest.importorskip("torchdistill")
    stored, online = benchmark.ours(one_batch).loss, benchmark.ours_online(one_batch).loss
    assert benchmark.torchdistill(one_batch, benchmark.Stored(one_batch)).loss == pytest.approx(stored, rel=1e-5)
    assert benchmark.torchdistill(one_batch, benchmark.Online(one_batch)).loss == pytest.approx(online, rel=1e-5)
    assert online != pytest.approx(stored, rel=0.1)  # random networks, and made-up logits
