"""The study's grid, its queue and its table."""

import csv
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import psutil
import pytest
import yaml
from dvc.utils.hydra import apply_overrides
from typer.testing import CliRunner

from ferdistill import params
from ferdistill.cli import cli
from ferdistill.errors import CheckError, UsageError
from ferdistill.study import collect, grid, results, schema
from ferdistill.tracking import dvc_private, experiments, queue
from ferdistill.tracking.experiments import PlannedRun
from support import repository
from support.repository import commit, copy_of_repository, run

ROOT = Path(__file__).parents[1]
SETTINGS = yaml.safe_load((ROOT / "params.yaml").read_text())


def load_benchmark():
    spec = importlib.util.spec_from_file_location("benchmark_study", ROOT / "benchmarks/study.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_grid(path, text):
    path.write_text(text)
    return path


def test_the_studys_grid_is_the_reports_and_more():
    runs = grid.load(ROOT / grid.GRID, SETTINGS)
    assert len(runs) == 104 == len({run.name for run in runs})
    by_name = {run.name: run.overrides for run in runs}
    assert by_name["study-none-s1337"] == {"family": "none", "mode": "none", "seed": 1337}
    assert by_name["study-6D-dkd-lambda0.7-beta4-s42"] == {
        "family": "6D", "mode": "dkd", "lambda": 0.7, "beta": 4.0, "seed": 42,
    }  # fmt: skip
    assert by_name["study-6E-kd-views4-s47"]["views"] == 4
    for recipe in ("none", "6A-kd", "6C-kd", "6E-kd", "6C_t1-kd", "6C_logit-kd", "6E-kd-views4"):
        assert sum(name.startswith(f"study-{recipe}-s") for name in by_name) == 8


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("{family: 6Z, mode: kd, seeds: [1]}", "unknown `6Z`"),
        ("{family: 6A, mode: kd, seeds: many}", "cells.0.seeds: unknown `many`; known here: one"),
        ("{family: 6A, mode: kd, sedes: one}", "sedes: unknown parameter; did you mean `seeds`?"),
        ("{family: 6A, mode: kd, seeds: one, beta: [2]}", "expected: beta with mode dkd"),
        (
            "{family: 6A, mode: kd, seeds: one, lambda: [0.5]}",
            "lambda with a family with a source of weight lambda",
        ),
        ("{family: 6D, mode: kd, seeds: one, lambda: [1.5]}", "less than or equal to 1"),
        ("{family: 6A, mode: kd, seeds: [1, 1]}", "`study-6A-kd-s1` stands in the grid twice"),
        ("{family: 6A, mode: kd, seeds: one, views: [0]}", "greater than or equal to 1"),
        ("{family: 6A, mode: kd, seeds: []}", "at least 1 item"),
        ("{family: 6A, mode: kd, seeds: one, alpha: [1.5]}", "alpha: input should be less than or equal to 1"),
        ("{family: 6A, mode: kd, seeds: one, fusion: [logit]}", "fusion: unknown parameter"),
        ("{family: 6A, mode: dkd, seeds: one, dkd_target_term: [ours]}", "input should be 'official' or 'report'"),
    ],
)
def test_a_wrong_grid_is_refused_before_anything_runs(tmp_path, cell, message):
    path = write_grid(tmp_path / "grid.yaml", f"seeds: {{one: [1]}}\ncells:\n  - {cell}\n")
    with pytest.raises(UsageError) as caught:
        grid.load(path, SETTINGS)
    assert message in str(caught.value) and str(path) in str(caught.value)


def test_a_grid_sweeps_every_setting(tmp_path):
    cell = "{family: 6D, mode: dkd, seeds: [1], lambda: [0.5], beta: [2], dkd_target_term: [report], dkd_warmup: [3],"
    path = write_grid(tmp_path / "grid.yaml", f"seeds: {{}}\ncells:\n  - {cell} alpha: [0.3], temperature: [4]}}\n")
    (run,) = grid.load(path, SETTINGS)
    assert run.name == "study-6D-dkd-lambda0.5-beta2-dkd_target_termreport-dkd_warmup3-alpha0.3-temperature4-s1"
    assert run.overrides["dkd_target_term"] == "report" and run.overrides["alpha"] == 0.3


def test_a_grid_sweeps_the_epochs_and_the_learning_rate_of_the_students_only_phase(tmp_path):
    cell = "{family: none, mode: none, seeds: [1], epochs: [30], lr: [0.001, 0.004]}"
    path = write_grid(tmp_path / "grid.yaml", f"seeds: {{}}\ncells:\n  - {cell}\n")
    first, second = grid.load(path, SETTINGS)
    assert (first.name, second.name) == ("study-none-epochs30-lr0.001-s1", "study-none-epochs30-lr0.004-s1")
    place = f"scales.{SETTINGS['scale']}.student.phases.0"
    assert second.overrides == {
        "family": "none",
        "mode": "none",
        f"{place}.epochs": 30,
        f"{place}.lr": 0.004,
        "seed": 1,
    }
    laid = experiments.laid_over(SETTINGS, second.overrides)
    assert params.Params.model_validate(laid).scale_.student.phases[0].epochs == 30
    assert experiments.lookup(SETTINGS, f"{place}.epochs") == 10  # the settings themselves stay
    # And DVC writes them where they belong.
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    apply_overrides(tmp_path / "params.yaml", [f"{key}={value!r}" for key, value in second.overrides.items()])
    assert yaml.safe_load((tmp_path / "params.yaml").read_text()) == laid
    two = experiments.laid_over(SETTINGS, {f"scales.{SETTINGS['scale']}.student.phases": [
        {"epochs": 2, "lr": 1e-3, "augment": "none"}, {"epochs": 1, "lr": 1e-4, "augment": "none"}]})  # fmt: skip
    with pytest.raises(UsageError, match="epochs with a student of one phase"):
        grid.load(path, two)


def test_a_grid_sweeps_students_and_what_they_start_from(tmp_path):
    cell = "{family: 6E, mode: kd, seeds: [1], student: [lcnet_050, mobilenetv3_large_100], init: [scratch]}"
    path = write_grid(tmp_path / "grid.yaml", f"seeds: {{}}\ncells:\n  - {cell}\n")
    first, second = grid.load(path, SETTINGS)
    assert first.name == "study-6E-kd-studentlcnet_050-initscratch-s1"
    laid = params.Params.model_validate(experiments.laid_over(SETTINGS, second.overrides))
    assert (laid.scale_.student.model, laid.scale_.student.init) == ("mobilenetv3_large_100", "scratch")
    assert laid.scale_.student.phases == params.Params.model_validate(SETTINGS).scale_.student.phases
    path.write_text(path.read_text().replace("scratch", "pretrained/student.safetensors"))
    assert grid.load(path, SETTINGS)[0].name == "study-6E-kd-studentlcnet_050-initpretrained_student.safetensors-s1"


def test_the_budgets_grid_compares_what_saw_as_many_images():
    runs = grid.load(ROOT / "conf/budget.yaml", SETTINGS)
    assert len(runs) == 54 + 48 + 48
    design = grid.read(ROOT / "conf/budget.yaml").primary
    at = [re.findall(r"epochs=(\d+)", selector) for selector in (design.candidate, *design.baselines)]
    assert at == [["30"]] * 3


def test_one_run_with_other_views_goes_first_and_its_like_wait_for_it():
    runs = [PlannedRun(f"{views}-{seed}", {"views": views, "seed": seed}) for seed in (1, 2) for views in (1, 4)]
    stages = {"softlabels@a": {"params": ["classes", "views"]}, "student": {"params": ["seed", "views"]}}
    first, later = queue.split_by_shared(runs, experiments.Present({"views": 1, "seed": 0}, {}, stages))
    assert [run.name for run in first] == ["4-1", "1-1", "1-2"]
    assert {name: [run.name for run in waiting] for name, waiting in later.items()} == {"4-1": ["4-2"]}


MADE_UP = ["study-none-s7", "study-6A-kd-s1337", "study-6D-kd-lambda0.7-s42", "study-6E-dkd-beta4-s42"]


@pytest.fixture(scope="module")
def made_up(tmp_path_factory):
    """This repository's files in one of its own, and made-up experiments that started from two commits."""
    root = tmp_path_factory.mktemp("made_up") / "ferdistill"
    root.mkdir()
    names = ["params.yaml", "dvc.yaml", "dvc.lock", ".dvc", "metrics", "src", "conf", ".gitignore", ".dvcignore"]
    for name in names:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("tmp", "cache", "config.local", "__pycache__", "offline.html")
            shutil.copytree(ROOT / name, root / name, ignore=ignored)
        else:
            shutil.copy2(ROOT / name, root / name)
    student = json.loads((root / "metrics/student.json").read_text())
    index = root / f"data/index/{SETTINGS['index_tag']}.json"
    index.parent.mkdir(parents=True)
    index.write_text(json.dumps({"digest": student["index_digest"]}))
    benchmark = load_benchmark()
    benchmark.git(root, "init", "-q")
    benchmark.git(root, "config", "user.name", "tester")
    benchmark.git(root, "config", "user.email", "tester@example.org")
    benchmark.git(root, "add", "-A")
    benchmark.git(root, "commit", "-qm", "one")
    old = {"repeated": {"family": "6A", "mode": "kd", "seed": 1}}
    benchmark.write_experiments(root, old)
    benchmark.git(root, "commit", "-q", "--allow-empty", "-m", "two")
    runs = {run.name: run.overrides for run in grid.load(root / grid.GRID, SETTINGS) if run.name in MADE_UP}
    strange = {
        "other-scale": {"scale": "smoke"},
        "other-tag": {"index_tag": "another"},
        "other-training": {"training": SETTINGS["training"] | {"clip_norm": 1.0}},
        "same-recipe": {"family": "6A", "mode": "kd", "seed": 1},
    }
    benchmark.write_experiments(root, runs | strange)
    return root


@pytest.fixture
def inside(made_up, monkeypatch):
    monkeypatch.chdir(made_up)
    return made_up


def test_collect_writes_one_row_a_run_and_says_what_it_leaves_out_and_why(inside, tmp_path):
    arguments = ["study", "collect", "--out", str(tmp_path / "a.csv"), "--json"]
    done = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    left_out = {item["experiment"]: item["reason"] for item in json.loads(done.stdout)["left_out"]}
    assert left_out["other-scale"] == "its scale is smoke, the workspace's is embedded"
    assert "index tag is another" in left_out["other-tag"]
    assert "differs from the workspace in training" in left_out["other-training"]
    assert len(left_out) == 4  # and one of the two that repeat a recipe
    with (tmp_path / "a.csv").open(newline="") as file:
        rows = {row["experiment"]: row for row in csv.DictReader(file)}
    assert len(rows) == 5
    frame = results.read(tmp_path / "a.csv")
    assert list(frame.columns) == results.columns(SETTINGS["classes"], SETTINGS["teachers"])
    assert frame[["ece_smooth", "val_nll", "vector_cv_gain", "label_kl_scaled"]].notna().all(axis=None)
    row = rows["study-6D-kd-lambda0.7-s42"]
    assert (row["family"], row["mode"], row["lambda"], row["beta"], row["seed"]) == ("6D", "kd", "0.7", "", "42")
    assert (row["fusion"], row["alpha"], row["temperature"]) == ("probability", "0.5", "2.0")
    assert (row["student"], row["init"]) == ("mobilenetv3_small_050", "pretrained/student.safetensors")
    images = json.loads((inside / "metrics/index.json").read_text())["images_in"]["train"]
    assert (row["epochs"], row["lr"], row["images_seen"]) == ("10", "0.002", str(10 * images))
    assert (row["misaligned"], row["time"]) == (
        "false",
        datetime.fromisoformat("2025-11-25T00:00:00+08:00").astimezone().isoformat(),
    )
    ref = load_benchmark().git(inside, "for-each-ref", "--format=%(objectname)", f"refs/exps/*/*/{row['experiment']}")
    assert row["commit"] == ref
    shown = json.loads(load_benchmark().git(inside, "show", f"{ref}:metrics/evaluation.json"))["test"]
    assert {name: repr(value) for name, value in shown["f1"].items()} == {
        name: row[f"f1_{name}"] for name in SETTINGS["classes"]
    }
    plain = rows["study-none-s7"]
    assert [plain[key] for key in ("lambda", "beta", "dkd_target_term", "fusion", "alpha", "temperature")] == [""] * 6
    # The same bytes again; another offset changes the times alone.
    CliRunner().invoke(cli, [*arguments[:3], str(tmp_path / "b.csv")], catch_exceptions=False)
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
    CliRunner().invoke(cli, [*arguments[:3], str(tmp_path / "c.csv"), "--tz-offset", "0"], catch_exceptions=False)
    assert "2025-11-24T16:00:00+00:00" in (tmp_path / "c.csv").read_text()


def test_collect_takes_the_commits_that_are_named(inside):
    rows, left_out = collect.collect(params.load(), ["HEAD~1"], 0)
    assert [row["experiment"] for row in rows] == ["repeated"] and not left_out
    with pytest.raises(UsageError, match="no commit `no-such`"):
        collect.collect(params.load(), ["no-such"], 0)


def test_why_there_are_no_experiments_is_said(inside, tmp_path, monkeypatch):
    assert experiments.why_none(experiments.baselines([])) == ("", "")
    assert "no experiment started from these commits" in experiments.why_none(["0" * 40])[0]
    described = Path(f"data/index/{SETTINGS['index_tag']}.json")
    before = described.read_text()
    described.write_text(json.dumps({"digest": "0" * 64}))
    refused = CliRunner().invoke(cli, ["study", "collect", "--out", str(tmp_path / "none.csv")])
    described.write_text(before)
    assert "git checkout COMMIT && dvc checkout" in str(refused.exception) and "its index digest is" in refused.stderr
    load_benchmark().git(tmp_path, "clone", "-q", str(inside), "clone")
    monkeypatch.chdir(tmp_path / "clone")
    assert "git clone leaves those behind" in experiments.why_none(experiments.baselines([]))[0]


def test_a_misaligned_run_and_one_without_its_own_student_are_left_out(inside):
    settings = params.load()
    digest = json.loads(Path("metrics/student.json").read_text())["index_digest"]
    experiment = next(e for e in experiments.read(experiments.baselines([]), schema.FILES) if "6A" in e.name)
    student = json.loads(experiment.files["metrics/student.json"])
    marked = experiment.files | {"metrics/student.json": json.dumps(student | {"misaligned": True})}
    for files, reason in (
        (marked, "marked misaligned"),
        (experiment.files | {"metrics/evaluation.json": None}, "it has no metrics/evaluation.json"),
        (experiment.files | {"params.yaml": (inside / "params.yaml").read_text()}, "was not run with its own params"),
    ):
        with pytest.raises(CheckError, match=reason):
            collect.row_of(experiment._replace(files=files), settings, digest)


def test_a_run_is_done_only_while_code_params_and_data_are_those_it_was_run_with(inside):
    now = experiments.present()
    # The lock of a repository whose code was edited since its last `dvc repro` says so; then no run could be done.
    for name, facts in now.stages.items():
        locked = {dep["path"]: dep["md5"] for dep in now.lock[name]["deps"]}
        facts["sources"] = {path: locked[path] for path in facts["sources"] if path in locked}
        facts["params"] = list(now.lock[name].get("params", {}).get("params.yaml", {}))
        facts["cmd"] = now.lock[name]["cmd"]
    runs = grid.load(Path("conf/study.yaml"), SETTINGS)
    standing = queue.standing(runs, now)
    assert [name for name, why in standing.items() if not why] == MADE_UP
    assert {why for why in standing.values() if why} == {queue.NOT_RUN}

    def why(changed):
        return queue.standing([run for run in runs if run.name == MADE_UP[1]], changed)[MADE_UP[1]]

    student = now.stages["student"]
    path = "src/ferdistill/stages/student.py"
    edited = now._replace(stages=now.stages | {"student": student | {"sources": student["sources"] | {path: "0"}}})
    assert why(edited) == f"its student was run with another {path}"
    assert why(now._replace(params=now.params | {"alpha": 0.9})) == "its student was run with other params"
    assert why(now._replace(params=now.params | {"scale": "smoke"})) == "its scale is embedded, not smoke"
    families = now.params["families"] | {"6B": {"fusion": "logit", "sources": []}}
    assert why(now._replace(params=now.params | {"families": families})) == ""
    images = now.lock["images"] | {"outs": []}
    assert why(now._replace(lock=now.lock | {"images": images})) == "its images gave other files"
    # What the stage `params` writes names the weights that a student starts from, which a run may set.
    checked = now._replace(lock=now.lock | {"params": now.lock["params"] | {"outs": []}})
    assert why(checked) == "its params gave other files"
    (run,) = (run for run in runs if run.name == MADE_UP[1])
    place = f"scales.{SETTINGS['scale']}.student.init"
    own = run._replace(overrides=run.overrides | {place: experiments.lookup(SETTINGS, place)})
    assert queue.standing([own], checked) == {own.name: ""}


KILLED_WHILE_QUEUEING = """
import os, signal
from pathlib import Path
from dvc.repo.experiments.queue.base import BaseStashQueue
from ferdistill.tracking import queue
from ferdistill.tracking.dvc_private import experiment_queue
from ferdistill.tracking.experiments import PlannedRun

edit = BaseStashQueue._update_params
def die(*arguments, **keywords):
    edit(*arguments, **keywords)
    os.kill(os.getpid(), signal.SIGKILL)

BaseStashQueue._update_params = die
with experiment_queue(queue.STATE / "lock") as waiting:
    queue._add(waiting, PlannedRun("killed", {"family": "6A", "seed": 5}))
"""


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
@pytest.mark.parametrize("edited", [True, False])
def test_a_kill_while_dvc_holds_the_workspace_loses_no_edit(inside, edited):
    git = load_benchmark().git
    branch = git(inside, "symbolic-ref", "HEAD")
    listed = (inside / ".gitignore").read_text()
    if edited:
        (inside / ".gitignore").write_text(f"{listed}# mine\n")
    before = git(inside, "diff")
    killed = subprocess.run([sys.executable, "-c", KILLED_WHILE_QUEUEING], cwd=inside, check=False, env=environment())
    assert killed.returncode == -signal.SIGKILL
    assert subprocess.run(["git", "symbolic-ref", "-q", "HEAD"], cwd=inside, check=False).returncode
    assert "seed: 5" in (inside / "params.yaml").read_text()
    queue._mend_workspace()
    assert git(inside, "symbolic-ref", "HEAD") == branch
    assert git(inside, "diff") == before and not git(inside, "stash", "list") and not git(inside, "diff", "--cached")
    assert not queue.QUEUEING.exists()
    (inside / ".gitignore").write_text(listed)


def test_another_interface_of_dvc_is_one_clear_error(inside, monkeypatch):
    now = experiments.Present(SETTINGS, {}, {})
    monkeypatch.delattr("dvc.repo.experiments.Experiments.celery_queue")
    monkeypatch.setattr("dvc.__version__", "9.9")
    with pytest.raises(UsageError) as caught:
        queue.run_missing([PlannedRun("never", {"seed": 1})], now, 1, print)
    assert "DVC 9.9" in caught.value.what and "celery_queue" in caught.value.what
    assert caught.value.expected == f"DVC {dvc_private.KNOWN}"


def test_the_version_of_dvc_that_is_known_is_the_one_that_is_installed():
    text = (ROOT / "pyproject.toml").read_text()
    assert f'"dvc=={dvc_private.KNOWN}.*"' in text
    inside = re.compile(r"^\s*(from|import) (dvc(?!\.(api|exceptions))|celery|dvc_task)\b", re.MULTILINE)
    users = {path.name for path in (ROOT / "src").rglob("*.py") if inside.search(path.read_text())}
    assert users == {"dvc_private.py"}


def environment():
    source = os.pathsep.join([str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])])
    return repository.environment() | {"PYTHONPATH": source}


TINY = {
    "params.yaml": "{family: a, seed: 0, scale: s, corpus: c, index_tag: t}\n",
    "code.py": "import sys, yaml\nseed = yaml.safe_load(open('params.yaml'))['seed']\n"
    "open(sys.argv[1], 'w').write(str(seed))\nsys.exit('an unlucky number' if seed == 13 else 0)\n",
    # As in the pipeline, a stage reads all of params.yaml, which no two experiments have alike.
    "dvc.yaml": "stages:\n  params:\n    cmd: echo sound\n    deps: [params.yaml]\n"
    + "".join(
        f"  {stage}:\n    cmd: python code.py {stage}\n    deps: [code.py{before and ', ' + before}]\n"
        f"    params: [family, seed]\n    outs: [{stage}]\n"
        for before, stage in zip(("", *experiments.OWN), experiments.OWN, strict=False)
    ),
}


def test_a_real_queue_runs_what_is_missing_and_says_what_failed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("PATH", "PYTHONPATH"):
        monkeypatch.setenv(name, environment()[name])
    for name, text in TINY.items():
        (tmp_path / name).write_text(text)
    commands = "git init -q; git config user.name tester; git config user.email tester@example.org; dvc init -q"
    for command in (*commands.split("; "), "dvc repro -q", "git add -A", "git commit -qm one"):
        subprocess.run(command.split(), check=True)
    runs = [PlannedRun(f"run-{seed}", {"family": "b", "seed": seed}) for seed in (1, 13)]
    now = experiments.present()
    queue.require_ready(now)
    told = []
    (failure,) = queue.run_missing(runs, now, 1, told.append)
    assert failure.name == "run-13" and "an unlucky number" in failure.why and Path(failure.log).is_file()
    assert queue.standing(runs, now) == {"run-1": "", "run-13": queue.NOT_RUN}
    assert (told[-1].done, told[-1].failed, told[-1].running, told[-1].waiting) == (1, 1, 0, 0)
    # What failed is tried again, what is done is not.
    (tmp_path / "params.yaml").write_text(TINY["params.yaml"] + "# mine\n")
    with pytest.raises(UsageError, match=r"not committed: params\.yaml"):
        queue.require_ready(now)


# ---- the real thing ----------------------------------------------------------------------------------------

STUDY = """\
seeds: {two: [1, 2]}
cells:
  - {family: 6A, mode: kd, seeds: two}
  - {family: none, mode: none, seeds: two}
  - {family: 6E, mode: kd, seeds: [13]}
"""
UNLUCKY = '    if params.seed == 13:\n        raise SystemExit("an unlucky number")\n'


def study(project, *arguments):
    command = ["ferdistill", "study", *arguments]
    return subprocess.run(command, cwd=project, env=environment(), capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
def test_a_study_killed_with_its_workers_goes_on_to_the_same_table_and_tells_what_failed(tmp_path):
    project = copy_of_repository(tmp_path / "ferdistill")
    stage = project / "src/ferdistill/stages/student.py"
    head = "    rows = index.read(workspace.index_csv(params.index_tag))\n"
    assert stage.read_text().count(head) == 1
    stage.write_text(stage.read_text().replace(head, UNLUCKY + head))
    write_grid(project / "conf/small.yaml", STUDY)
    commit(project)
    refused = study(project, "run", "--grid", "conf/small.yaml")
    assert refused.returncode == 2 and "not up to date" in refused.stderr and "dvc repro" in refused.stderr
    run(project, "dvc", "repro", "evaluate")
    refused = study(project, "run", "--grid", "conf/small.yaml")
    assert refused.returncode == 2 and "not committed: dvc.lock" in refused.stderr
    commit(project)

    command = ["ferdistill", "study", "run", "--grid", "conf/small.yaml", "--jobs", "2"]
    process = subprocess.Popen(command, cwd=project, env=environment(), stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        if " 2 running" in line:
            break
    workers = [
        p
        for p in psutil.process_iter(["cmdline", "cwd"])
        if "queue-worker" in (p.info["cmdline"] or []) and Path(p.info["cwd"] or "/").is_relative_to(project)
    ]
    time.sleep(10)
    process.kill()
    process.wait()
    assert len(workers) == 2
    for worker in workers:
        worker.kill()

    again = study(project, *command[2:])
    assert again.returncode == 1
    assert "study-6E-kd-s13 failed" in again.stderr and "an unlucky number" in again.stderr
    assert "4 of 5 runs are done, 1 failed" in again.stdout
    assert run(project, "git", "status", "--porcelain").stdout == ""
    assert json.loads(study(project, "collect", "--json").stdout)["rows"] == 4
    table = (project / results.SUMMARY).read_text()

    # What was not disturbed gives the same scores and weights.
    for name in ("study-6A-kd-s1", "study-6A-kd-s2", "study-none-s1", "study-none-s2"):
        run(project, "dvc", "exp", "remove", name)
    shutil.rmtree(project / ".dvc/cache/runs")
    (project / results.SUMMARY).unlink()
    undisturbed = study(project, *command[2:])
    assert "4 of 5 runs are done" in undisturbed.stdout
    study(project, "collect")

    def scores(text):
        return [{k: v for k, v in row.items() if k not in ("commit", "time")} for row in csv.DictReader(text.split())]

    assert scores((project / results.SUMMARY).read_text()) == scores(table)
    assert "4 of 5 runs are done" in study(project, "run", "--dry-run", "--grid", "conf/small.yaml").stdout
