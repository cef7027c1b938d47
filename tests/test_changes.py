"""`ferdistill diff`, and what `dvc repro` ends with: scores beside a commit's, and the noise of seeds."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from ferdistill import workspace
from ferdistill.cli import cli
from ferdistill.files import write_json, write_text
from ferdistill.study import changes


def git(*words):
    subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *words], check=True, capture_output=True)


def results(macro_f1=0.8, ece=0.03, p95=2.0, digest="d" * 64, seed=1, corpus="mine"):
    """The metrics of a run, and its params."""
    scaled = {"nll": 0.6, "ece": ece}
    write_json(workspace.STUDENT_METRICS, {"index_digest": digest})
    write_json(workspace.CALIBRATION_METRICS, {"t_star": 1.0})
    test = {"n": 400, "macro_f1": macro_f1, "accuracy": 0.8, "raw": scaled, "scaled": scaled}
    write_json(workspace.EVALUATION_METRICS, {"test": test})
    ends = {"low": 0.77, "high": 0.83}
    write_json(
        changes.INTERVALS,
        {"people": 20, "raw": {"macro_f1": ends}, "scaled": {"ece": ends | {"basic_low": 0.01, "basic_high": 0.04}}},
    )
    write_json(changes.INDEX, {"ceiling_macro_f1": {"test": 0.9}})
    write_json(workspace.BENCHMARK_METRICS, {"batch_1": {"p95_ms": p95}, "model_bytes": 2_000_000, "machine": "m"})
    write_text(workspace.PARAMS, f"seed: {seed}\ncorpus: {corpus}\nscale: embedded\n")


def table(sd, corpus="mine"):
    """Results of one recipe whose macro F1 has that standard deviation over 20 seeds."""
    noise = np.random.default_rng(0).normal(size=20)
    f1 = 0.8 + sd * (noise - noise.mean()) / noise.std(ddof=1)
    frame = pd.DataFrame({"family": "6A", "mode": "kd", "seed": range(20), "macro_f1": f1})
    workspace.results("mine").parent.mkdir(parents=True, exist_ok=True)
    frame.assign(corpus=corpus, scale="embedded").to_csv(workspace.results("mine"), index=False)


@pytest.fixture(autouse=True)
def repository(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    git("init", "-q")
    results()
    git("add", "-A")
    git("commit", "-qm", "one")
    return tmp_path


def verdict(found, key="macro_f1"):
    return next(one["verdict"] for one in found["scores"] if one["key"] == key)


def diff(*words):
    done = CliRunner().invoke(cli, ["diff", *words])
    return done.exit_code, done.output


def test_a_change_is_held_against_the_noise_of_two_runs():
    table(0.01)  # 2.093 standard deviations of 20 seeds, times the root of two: 2.96 points
    for now, expected in ((0.8, "same"), (0.8295, "within"), (0.8297, "better"), (0.7703, "worse")):
        results(macro_f1=now)
        assert verdict(changes.beside("HEAD", own_table=True)) == expected, now
    results(ece=0.08)  # of which the table says nothing
    assert verdict(changes.beside("HEAD", own_table=True), "ece_scaled") == "worse"


def test_a_table_of_another_corpus_says_nothing_of_this_one():
    table(0.1, corpus="theirs")
    results(macro_f1=0.83)
    found = changes.beside("HEAD", own_table=True)
    assert verdict(found) == "better" and found["noise"]["source"].startswith("assumed")


def test_other_images_are_no_improvement():
    results(macro_f1=0.9, digest="e" * 64)
    found = changes.beside("HEAD")
    assert verdict(found) == "other" and not found["same_index"]
    assert diff()[0] == 0 and "other images" in diff()[1]
    assert "not compared" in changes.summary()[2] and "+0.1" not in changes.summary()[2]


def test_where_nobody_is_named_no_people_are_counted():
    assert "20 people in 400 images" in changes.summary()[0]
    write_json(changes.INTERVALS, json.loads(Path(changes.INTERVALS).read_text()) | {"people": 400})
    assert "400 images, each of another person" in changes.summary()[0]


def test_the_command_answers_people_and_machines_within_80_columns():
    results(macro_f1=0.7, p95=3.0, seed=2)
    code, text = diff()
    assert code == 1 and max(map(len, text.splitlines())) <= 80
    rows = text.splitlines()
    assert "0.8000  0.7000 [0.770, 0.830]    -0.1000" in rows[1] and rows[1].endswith("worse")
    assert "[0.010, 0.040]" in rows[4] and rows[4].endswith("same")  # the basic interval of an error
    assert "2.00 -> 3.00 ms" in text and "seed: 1 -> 2" in text
    code, text = diff("HEAD", "--json")
    found = json.loads(text)
    assert code == 1 and found["scores"][0]["change"] == pytest.approx(-0.1) and found["people"] == 20
    git("add", "-A")
    git("commit", "-qm", "two")
    assert diff()[0] == 0 and diff("HEAD~1")[0] == 1


def test_a_revision_that_is_not_there_and_a_damaged_file_are_named(monkeypatch, capsys):
    from ferdistill.cli import app

    monkeypatch.setattr("sys.argv", ["ferdistill", "diff", "nowhere"])
    with pytest.raises(SystemExit) as stopped:
        app()
    assert stopped.value.code == 2 and "nowhere" in capsys.readouterr().err
    workspace.EVALUATION_METRICS.write_text("[1]")
    monkeypatch.setattr("sys.argv", ["ferdistill", "diff"])
    with pytest.raises(SystemExit) as stopped:
        app()
    assert stopped.value.code == 1 and "evaluation.json" in capsys.readouterr().err


def test_the_pipeline_ends_with_score_ceiling_change_and_next_command(monkeypatch):
    text = "\n".join(changes.summary())
    assert "0.8000 [0.770, 0.830]" in text and "0.9000" in text and "the same score" in text and "study run" in text
    results(macro_f1=0.81, seed=2)
    text = "\n".join(changes.summary())
    assert "+0.0100" in text and "within the noise" in text and "seed: 1 -> 2" in text and "git add params.yaml" in text
    (workspace.RAW / "mine.dvc").parent.mkdir(parents=True)
    (workspace.RAW / "mine.dvc").touch()
    assert "data/raw/mine.dvc && git commit" in changes.summary()[-1]


def test_without_git_the_score_is_said_all_the_same(repository):
    git("update-ref", "-d", "HEAD")
    lines = changes.summary()
    assert "0.8000" in lines[0] and "not compared" in lines[-1]
    for file in workspace.METRICS.glob("*.json"):
        file.unlink()
    assert changes.summary() == ["there is no score yet"]


def test_experiments_stand_in_80_columns_with_what_differs(monkeypatch):
    base = subprocess.run(["git", "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    for name, seed, f1 in (("a-run-of-a-name-that-is-rather-long-s2", 2, 0.81), ("second", 3, 0.82)):
        results(macro_f1=f1, seed=seed)
        git("commit", "-qam", name)
        git("update-ref", f"refs/exps/{base[:2]}/{base[2:]}/{name}", "HEAD")
        git("reset", "-q", "--hard", base)
    done = CliRunner().invoke(cli, ["experiments"], env={"COLUMNS": "80", "TERMINAL_WIDTH": "80"})
    lines = done.output.splitlines()
    assert lines[0].split() == ["experiment", "family", "mode", "seed", "macro", "F1", "ECE"]
    assert [line.split()[-2] for line in lines[1:4]] == ["0.8000", "0.8100", "0.8200"]
    assert max(len(line.rstrip()) for line in lines) <= 80
    rows = json.loads(CliRunner().invoke(cli, ["experiments", "--json"]).output)
    assert [row["seed"] for row in rows] == [1, 2, 3] and rows[1]["macro_f1"] == 0.81
