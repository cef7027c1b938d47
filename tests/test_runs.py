"""Runs of the pipeline: again from nothing, broken off, in a queue, and on labels out of step."""

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy.special import softmax

from support.repository import commit, copy_of_repository, environment, metrics, ran, run

pytestmark = pytest.mark.usefixtures("restored")


def test_a_run_killed_in_training_goes_on_and_ends_with_the_same_bytes(project):
    names = ["models/student/model.safetensors", "models/student/predictions.parquet", "metrics/student.json",
             "plots/student/plots/metrics/val/macro_f1.tsv"]  # fmt: skip
    undisturbed = {name: (project / name).read_bytes() for name in names}
    command = ["dvc", "repro", "--force", "--single-item", "student"]
    process = subprocess.Popen(
        command, cwd=project, env=environment(), start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not list(project.glob(".dvc/tmp/checkpoints/[!.]*.safetensors")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not any((project / name).exists() for name in names[:2])
    assert "goes on after epoch" in run(project, *command).stderr
    assert {name: (project / name).read_bytes() for name in names} == undisturbed
    assert not list(project.glob(".dvc/tmp/checkpoints/*"))


@pytest.mark.slow
def test_a_sweep_of_lambda_and_beta_gives_students_that_differ_and_are_recorded(project):
    run(project, "dvc", "exp", "run", "--queue", "-n", "dkd", "-S", "mode=dkd", "-S", "beta=2,8", "student")
    run(project, "dvc", "exp", "run", "--queue", "-n", "split", "-S", "family=6D", "-S", "lambda=0.5,0.7", "student")
    run(project, "dvc", "exp", "run", "--queue", "-n", "fused", "-S", "family=6B", "student")
    finish_queue(project, 5)
    found = {}
    for ref in run(project, "git", "for-each-ref", "--format=%(refname)", "refs/exps").stdout.split():
        name = ref.rpartition("/")[2]
        if name.startswith(("dkd", "split", "fused")):
            settings = yaml.safe_load(run(project, "git", "show", f"{ref}:params.yaml").stdout)
            student = json.loads(run(project, "git", "show", f"{ref}:metrics/student.json").stdout)
            assert (student["run_family"], student["run_mode"]) == (settings["family"], settings["mode"])
            found[settings["family"], settings["mode"], settings["beta"], settings["lambda"]] = student["validation"]
    assert len(found) == 5
    nll = {key: validation["nll"] for key, validation in found.items()}
    assert len({round(value, 6) for key, value in nll.items() if key[0] != "6B"}) == 4
    # 6B and 6D at lambda 0.7 are one mixture of teachers: the same student but for the rounding of its weights.
    assert nll["6B", "kd", 4.0, 0.5] == pytest.approx(nll["6D", "kd", 4.0, 0.7], rel=1e-3)


def finish_queue(project, runs):
    run(project, "dvc", "queue", "start", "-j", "2")
    deadline = time.monotonic() + 300
    while re.search(r"\b(Queued|Running)\b", status := run(project, "dvc", "queue", "status").stdout):
        assert time.monotonic() < deadline, status
        time.sleep(8)  # the question takes seconds of a core
    assert len(re.findall(r"\bSuccess\b", status)) == runs, status
    run(project, "dvc", "queue", "remove", "--success")


@pytest.mark.slow
def test_a_colleagues_table_alone_trains_a_student_in_the_queue_too(project):
    """Without any network but the student's: the table is tracked by DVC, and what depends on it follows it."""
    index = pd.read_csv(project / "data/index/ixNextAffFull.csv")
    names = yaml.safe_load((project / "params.yaml").read_text())["classes"]
    stores = [pd.read_parquet(path / "softlabels.parquet") for path in project.glob("data/softlabels/*_ixNextAffFull")]
    logits = sum(table[[f"logit_{name}" for name in names]].to_numpy() for table in stores) / len(stores)
    table = pd.DataFrame(softmax(logits / 2, axis=1), columns=names).assign(path=index["path"])
    table.sample(frac=1, random_state=0).to_csv(project / "pretrained/colleague.csv", index=False)
    raw = yaml.safe_load((project / "params.yaml").read_text())
    raw |= {"teachers": ["colleague"], "family": "colleague"}
    raw["families"] = {"none": raw["families"]["none"]} | {
        "colleague": {"fusion": "probability", "sources": [{"weight": 1.0, "teachers": {"colleague": 1.0}}]}
    }
    entry = {"softlabels": "pretrained/colleague.csv", "temperature": 2.0, "covers": "all"}
    raw["scales"]["smoke"]["teachers"] = {"colleague": entry}
    (project / "params.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))
    run(project, "dvc", "add", "pretrained/colleague.csv")
    first = ran(run(project, "dvc", "repro", "params", "evaluate"))
    assert first == [
        "params",
        "teacher@colleague",
        "softlabels@colleague",
        "targets",
        "student",
        "calibrate",
        "evaluate",
    ]
    assert metrics(project, "student")["soft_label_agreement"]["colleague"] > 0.3
    commit(project)
    assert ran(run(project, "dvc", "repro", "params", "evaluate")) == []

    (project / "pretrained/README.md").write_text("another file beside it\n")
    (project / "pretrained/other.csv").write_text("path\n")
    assert ran(run(project, "dvc", "repro", "params", "evaluate")) == ["params"]
    (project / "pretrained/other.csv").unlink()
    run(project, "git", "checkout", "-q", "pretrained/README.md")

    run(project, "dvc", "exp", "run", "--queue", "-n", "theirs", "-S", "mode=dkd", "evaluate")
    run(project, "dvc", "exp", "run", "--queue", "-n", "alone", "-S", "family=none", "evaluate")
    finish_queue(project, 2)
    difference = json.loads(run(project, "dvc", "metrics", "diff", "--json", "alone", "theirs").stdout)
    assert "soft_label_agreement.colleague" in difference["metrics/student.json"]
    assert "test.macro_f1" in difference["metrics/evaluation.json"]

    # Another file of the colleague's: what depends on it runs again, and nothing else.
    changed = pd.read_csv(project / "pretrained/colleague.csv")
    changed[names] = softmax(np.log(changed[names]) * 1.5, axis=1)
    (project / "pretrained/colleague.csv").unlink()  # a link into DVC's cache on some systems
    changed.to_csv(project / "pretrained/colleague.csv", index=False)
    again = ran(run(project, "dvc", "repro", "params", "evaluate"))
    assert again == first
    # A row that does not sum to 1 stops the run before any student.
    changed.loc[7, names[0]] += 0.5
    changed.to_csv(project / "pretrained/colleague.csv", index=False)
    done = run(project, "dvc", "repro", "params", "evaluate", check=False)
    assert done.returncode and "do not sum to 1" in done.stderr and "row 7" in done.stderr


def test_queued_runs_execute_the_code_of_their_own_workspace(project):
    """The package that is installed belongs to another checkout; a queued run must use neither it nor later edits."""
    stage = project / "src/ferdistill/stages/evaluate.py"
    code = stage.read_text()
    assert code.count("def run(params: Params) -> None:\n") == 1
    marked = code.replace(
        "def run(params: Params) -> None:\n",
        "def run(params: Params) -> None:\n    write_json('metrics/own_code.json', {'own': __file__})\n",
    )
    stage.write_text(marked)
    lines = (project / "dvc.yaml").read_text()
    (project / "dvc.yaml").write_text(
        lines.replace("      - metrics/evaluation.json:\n", "      - metrics/own_code.json:\n          cache: false\n"
                      "      - metrics/evaluation.json:\n", 1)
    )  # fmt: skip
    run(project, "dvc", "exp", "run", "--queue", "-n", "own", "-S", "family=6C,6E", "evaluate")
    run(project, "git", "checkout", "-q", ".")
    finish_queue(project, 2)
    listed = run(project, "git", "for-each-ref", "--format=%(refname)", "refs/exps").stdout
    names = sorted(re.findall(r"refs/exps/.+/own-\d", listed))
    assert len(names) == 2
    for name, family in zip(names, ("6C", "6E"), strict=True):
        own = json.loads(run(project, "git", "show", f"{name}:metrics/own_code.json").stdout)["own"]
        assert ".dvc/tmp/exps" in Path(own).as_posix()
        student = json.loads(run(project, "git", "show", f"{name}:metrics/student.json").stdout)
        assert student["run_family"] == family


@pytest.mark.slow
def test_students_on_labels_out_of_step_are_trained_apart_and_seen_by_gate_and_canary(project):
    run(project, "ferdistill", "study", "misalignment", "--dose", "0", "--dose", "1")
    result = metrics(project, "study/misalignment")
    assert result["misaligned"] is True and all(row["misaligned"] for row in result["runs"])
    gate = {row["fault"] + f" {row['dose']:g}": row["gate"] for row in result["conditions"]}
    assert gate.pop("permuted 0") == [] and len(gate) == 4 and all(gate.values())
    permuted = {row["dose"]: row for row in result["conditions"] if row["fault"] == "permuted"}
    assert permuted[0.0]["macro_f1"] == pytest.approx(metrics(project, "student")["test"]["macro_f1"])
    # On so few images macro F1 does not show it.
    assert permuted[1.0]["ece"] > permuted[0.0]["ece"]
    assert (project / "plots/study/misalignment.png").stat().st_size > 10_000
    damaged = "data/study/misalignment/permuted_1/keyed"
    done = run(project, "ferdistill", "align", "check", damaged, "--json", check=False)
    assert done.returncode == 1 and "damaged" in {problem["kind"] for problem in json.loads(done.stdout)["problems"]}


@pytest.mark.slow
def test_two_clean_runs_give_the_same_lock_but_for_timings(project, tmp_path):
    def outs(root):
        stages = yaml.safe_load((root / "dvc.lock").read_text())["stages"]
        return {name: stage.get("outs") for name, stage in stages.items() if name not in ("benchmark", "summary")}

    again = copy_of_repository(tmp_path / "ferdistill")
    run(again, "dvc", "repro", "evaluate", "export")
    assert outs(again) == outs(project)
