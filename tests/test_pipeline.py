"""The pipeline as its users run it: real `dvc repro`, experiments and a queue, at the smoke scale."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from safetensors.numpy import load_file

from support.repository import commit, copy_of_repository, run, set_param

TEACHERS = ["resnet18", "convnext_tiny", "efficientnet_b3", "vit_ban"]
ONWARD = ["student", "calibrate", "evaluate", "export", "benchmark"]
UPSTREAM = ["params", "corpus", "index", "images"]
EVERY = [*UPSTREAM, *(f"{stage}@{t}" for t in TEACHERS for stage in ("teacher", "softlabels")), "targets", *ONWARD]


def ran(done):
    return re.findall(r"^Running stage '([^']+)'", done.stdout, re.M)


@pytest.fixture(scope="module")
def projects(tmp_path_factory):
    """Two such repositories, the pipeline run once in each (6E, kd), side by side to save time."""
    roots = [copy_of_repository(tmp_path_factory.mktemp("project") / "ferdistill") for _ in range(2)]
    with ThreadPoolExecutor() as pool:
        for done in pool.map(lambda root: run(root, "dvc", "repro"), roots):
            assert sorted(ran(done)) == sorted(EVERY)
    for root in roots:
        commit(root)
    return roots


@pytest.fixture(scope="module")
def project(projects):
    return projects[0]


@pytest.fixture(autouse=True)
def restored(project):
    """Each test leaves the project as it found it: code, params, results and data."""
    head = run(project, "git", "rev-parse", "HEAD").stdout.strip()
    yield
    run(project, "git", "reset", "-q", "--hard", head)
    run(project, "dvc", "checkout", "-q", "--force")


def metrics(project, name):
    return json.loads((project / "metrics" / f"{name}.json").read_text())


def test_a_second_repro_runs_nothing(project):
    started = time.monotonic()
    assert ran(run(project, "dvc", "repro")) == []
    assert time.monotonic() - started < 30  # a hang, not a benchmark
    assert "up to date" in run(project, "dvc", "status").stdout


def test_every_artifact_is_there_and_bound_to_the_index(project):
    digest = json.loads((project / "data/index/ixNextAffFull.json").read_text())["digest"]
    for teacher in TEACHERS:
        manifest = json.loads((project / f"data/softlabels/{teacher}_ixNextAffFull/manifest.json").read_text())
        assert manifest["index_digest"] == digest
    assert json.loads((project / "data/targets/alignment.json").read_text())["ok"] is True
    assert json.loads((project / "data/targets/plan.json").read_text())["index_digest"] == digest
    tensors = load_file(project / "data/targets/targets.safetensors")
    rows = pd.read_csv(project / "data/index/ixNextAffFull.csv")
    assert tensors["logits"].shape == (4, 1, (rows["split"] == "train").sum(), 7)
    np.testing.assert_allclose(tensors["weights"], 0.25)
    predictions = pd.read_parquet(project / "models/student/predictions.parquet")
    assert set(predictions["split"]) == {"val", "calib", "test"}
    assert list(predictions["path"]) == list(rows.loc[rows["split"] != "train", "path"])
    assert metrics(project, "student")["run_family"] == "6E"
    assert (project / "models/bundle/model.onnx").stat().st_size == metrics(project, "export")["size_bytes"]


def test_the_exported_bundle_predicts_what_was_evaluated(project):
    from ferdistill.runtime.classifier import Classifier

    rows = pd.read_csv(project / "data/index/ixNextAffFull.csv")
    predictions = pd.read_parquet(project / "models/student/predictions.parquet").set_index("path")
    images = np.load(project / "data/images/ixNextAffFull.npy")
    test = np.flatnonzero(rows["split"] == "test")
    found = Classifier(project / "models/bundle").predict(images[test])
    logits = predictions.loc[rows["path"][test]].filter(like="logit_").to_numpy(np.float64)
    scaled = np.exp(logits / metrics(project, "calibration")["t_star"])
    np.testing.assert_allclose(found, scaled / scaled.sum(1, keepdims=True), atol=1e-4)


def test_another_family_and_seed_retrain_only_the_student_onward(project):
    done = run(project, "dvc", "exp", "run", "-S", "family=6C", "-S", "seed=2025")
    assert sorted(ran(done)) == sorted(["params", "targets", *ONWARD])
    assert metrics(project, "student")["run_family"] == "6C"
    difference = run(project, "dvc", "metrics", "diff", "--md", "--no-path", "HEAD").stdout
    assert "test.macro_f1" in difference
    page = run(project, "dvc", "plots", "diff", "HEAD", "-o", "page").stdout.strip()
    assert page.endswith("index.html") and "reliability" in (project / "page" / "index.html").read_text()


def test_a_teachers_recipe_retrains_that_teacher_and_the_students_of_its_families(project):
    retrained = ["params", "teacher@vit_ban", "softlabels@vit_ban", "targets"]
    set_param(project, "born_again: {generations: 1, alpha: 0.5", "born_again: {generations: 1, alpha: 0.6")
    assert sorted(ran(run(project, "dvc", "repro", "params", "student"))) == sorted([*retrained, "student"])
    set_param(project, "family: 6E", "family: 6A")
    assert sorted(ran(run(project, "dvc", "repro", "params", "student"))) == ["params", "student", "targets"]
    set_param(project, "born_again: {generations: 1, alpha: 0.6", "born_again: {generations: 1, alpha: 0.7")
    assert sorted(ran(run(project, "dvc", "repro", "params", "student"))) == sorted(retrained)


def test_an_edit_of_another_family_retrains_no_student(project):
    set_param(project, "{resnet18: 0.7, efficientnet_b3: 0.3}", "{resnet18: 0.6, efficientnet_b3: 0.4}")
    assert ran(run(project, "dvc", "repro")) == ["params"]


def test_fused_and_split_students_are_one_student_and_the_baseline_has_one_name(project):
    split = (project / "models/student/model.safetensors").read_bytes()
    set_param(project, "family: 6E", "family: 6C")
    run(project, "dvc", "repro", "student")
    assert (project / "models/student/model.safetensors").read_bytes() == split
    set_param(project, "mode: kd", "mode: none")
    run(project, "dvc", "repro", "student")
    plain = metrics(project, "student")
    assert (plain["run_family"], plain["run_mode"]) == ("none", "none")
    set_param(project, "family: 6C", "family: none")
    assert "student" not in ran(run(project, "dvc", "repro", "student"))


def test_a_run_killed_in_training_goes_on_and_ends_with_the_same_bytes(projects):
    for root in projects:
        set_param(root, "seed: 1337 ", "seed: 99 ")
    killed, undisturbed = projects
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    process = subprocess.Popen(
        ["dvc", "repro", "student"], cwd=killed, env=os.environ | {"PATH": path}, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not list(killed.glob(".dvc/tmp/checkpoints/[!.]*.safetensors")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done = run(killed, "dvc", "repro", "student")
    assert "goes on after epoch" in done.stderr
    run(undisturbed, "dvc", "repro", "student")
    for name in ("models/student/model.safetensors", "models/student/predictions.parquet", "metrics/student.json",
                 "plots/student/plots/metrics/val/macro_f1.tsv"):  # fmt: skip
        assert (killed / name).read_bytes() == (undisturbed / name).read_bytes(), name
    assert not list(killed.glob(".dvc/tmp/checkpoints/*"))
    run(undisturbed, "git", "reset", "-q", "--hard")
    run(undisturbed, "dvc", "checkout", "-q", "--force")


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
        time.sleep(2)
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
    run(project, "dvc", "exp", "run", "--queue", "-n", "own", "-S", "family=6C,6E", "-S", "seed=7", "evaluate")
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


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("family: 6E", "family: 6Z", "family: unknown `6Z`; known here: none, 6A"),
        ("alpha: 0.5", "alpah: 0.5", "alpah: unknown parameter; did you mean `alpha`?"),
        ("temperature: 2.0", "temperature: -2.0", "temperature: input should be greater than 0; found -2.0"),
        ("corpus: embedded", "corpus: absent", "no corpus `absent`"),
    ],
)
def test_wrong_params_stop_with_one_message_and_lose_nothing(project, old, new, message):
    before = (project / "models/student/model.safetensors").read_bytes()
    set_param(project, old, new)
    done = run(project, "dvc", "repro", check=False)
    assert done.returncode
    assert message in done.stderr and "Traceback" not in done.stderr
    assert (project / "models/student/model.safetensors").read_bytes() == before
    stage = run(project, sys.executable, "src/stage.py", "params", check=False)
    assert stage.returncode == 2 and message in stage.stderr


def test_soft_labels_one_row_short_stop_before_any_student(project):
    directory = project / "data/softlabels/convnext_tiny_ixNextAffFull"
    table = pd.read_parquet(directory / "softlabels.parquet")
    whole = (project / "data/targets/targets.safetensors").read_bytes()
    (directory / "softlabels.parquet").chmod(0o644)
    table.drop(index=5).to_parquet(directory / "softlabels.parquet", index=False)
    done = run(project, sys.executable, "src/stage.py", "targets", check=False)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "convnext_tiny" in done.stderr and "out of step" in done.stderr
    assert (project / "data/targets/targets.safetensors").read_bytes() == whole
    cli = run(project, "ferdistill", "align", "check", "--json", check=False)
    assert cli.returncode == 1
    kinds = {problem["kind"]: problem["row"] for problem in json.loads(cli.stdout)["problems"]}
    assert {"length", "missing"} <= set(kinds)
    (directory / "softlabels.parquet").unlink()


def test_an_undecodable_image_stops_the_index_and_is_named(project):
    picture = next((project / "data/raw/embedded/folders/train/happy").iterdir())
    picture.unlink()  # a link into DVC's cache on some systems: never write through it
    picture.write_bytes(b"\x89PNG\r\n\x1a\n and nothing more")
    done = run(project, sys.executable, "src/stage.py", "index", check=False)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert picture.name in done.stderr


def test_the_index_explains_itself_and_notices_an_edit_of_the_corpus(project):
    shown = json.loads(run(project, "ferdistill", "index", "show", "--json").stdout)
    assert shown["rows_listed"] == 600 == shown["length"] + sum(shown["left_out"].values())
    assert "No image changed" in run(project, "ferdistill", "index", "diff", "HEAD").stdout
    assert "as indexed" in run(project, "ferdistill", "index", "verify").stdout
    paths = pd.read_csv(project / "data/index/ixNextAffFull.csv")["path"]
    picture = project / "data/raw/embedded" / paths[paths.str.startswith("folders/train/happy/")].iloc[0]
    picture.unlink()
    done = run(project, "ferdistill", "index", "verify", "--json", check=False)
    assert done.returncode == 1 and picture.name in done.stdout
    table = project / "data/raw/embedded/subjects.csv"
    lines = [line for line in table.read_text().splitlines() if picture.name not in line]
    table.unlink()
    table.write_text("\n".join(lines) + "\n")
    run(project, sys.executable, "src/stage.py", "index")
    changed = run(project, "ferdistill", "index", "diff", "HEAD").stdout
    assert "1 went" in changed and picture.name in changed


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


def test_two_clean_runs_give_the_same_lock_but_for_timings(projects):
    def outs(root):
        stages = yaml.safe_load((root / "dvc.lock").read_text())["stages"]
        return {name: stage.get("outs") for name, stage in stages.items() if name != "benchmark"}

    assert outs(projects[0]) == outs(projects[1])
