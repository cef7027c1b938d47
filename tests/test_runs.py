"""Runs of the pipeline: again from nothing, broken off, in a queue, and on labels out of step."""

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from support.repository import copy_of_repository, environment, metrics, run

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
        time.sleep(4)
    assert len(re.findall(r"\bSuccess\b", status)) == runs, status
    run(project, "dvc", "queue", "remove", "--success")


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


def test_students_on_labels_out_of_step_are_trained_apart_and_seen_by_gate_and_canary(project):
    run(project, "ferdistill", "study", "misalignment", "--dose", "0", "--dose", "1")
    result = metrics(project, "study/misalignment")
    assert result["misaligned"] is True and all(row["misaligned"] for row in result["runs"])
    gate = {row["fault"] + f" {row['dose']:g}": row["gate"] for row in result["conditions"]}
    assert gate.pop("permuted 0") == [] and len(gate) == 4 and all(gate.values())
    f1 = {row["dose"]: row["macro_f1"] for row in result["conditions"] if row["fault"] == "permuted"}
    assert f1[0.0] == pytest.approx(metrics(project, "student")["test"]["macro_f1"]) and f1[1.0] < f1[0.0]
    assert (project / "plots/study/misalignment.png").stat().st_size > 10_000
    damaged = "data/study/misalignment/permuted_1/keyed"
    done = run(project, "ferdistill", "align", "check", damaged, "--json", check=False)
    assert done.returncode == 1 and "damaged" in {problem["kind"] for problem in json.loads(done.stdout)["problems"]}


def test_two_clean_runs_give_the_same_lock_but_for_timings(project, tmp_path):
    def outs(root):
        stages = yaml.safe_load((root / "dvc.lock").read_text())["stages"]
        return {name: stage.get("outs") for name, stage in stages.items() if name != "benchmark"}

    again = copy_of_repository(tmp_path / "ferdistill")
    run(again, "dvc", "repro", "evaluate", "export")
    assert outs(again) == outs(project)
