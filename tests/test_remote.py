"""Runs on other machines: what is refused before anything is sent, and a worker, its clone and what it pushes.

The cluster here is this machine: commands are started as processes. Real ones are in tests/cluster.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cluster import tiny
from ferdistill.cli import cli
from ferdistill.errors import UsageError
from ferdistill.tracking import dvc_private, executors, experiments, queue, remote, teachers, worker
from ferdistill.tracking.experiments import PlannedRun
from support.nodes import Here, settings

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="nodes of clusters run Linux")


def send(folder, runs, executor, **values):
    now = experiments.present()
    return remote.send_missing(runs, now, 2, executor, settings(folder, **values), lambda tally: None)


def test_runs_are_made_in_clones_and_come_back_and_failures_with_their_logs(driver):
    runs = [PlannedRun(f"run-{seed}", {"family": "b", "seed": seed}) for seed in (1, 13)]
    executor = Here(lost=1)
    (failure,) = send(driver, runs, executor)
    assert failure.name == "run-13" and "exited with 1" in failure.why
    assert "an unlucky number" in Path(failure.log).read_text()
    # The one that was lost was sent again, the one that failed was not.
    assert executor.submitted.count("run-1") + executor.submitted.count("run-13") == 3
    assert queue.standing(runs, experiments.present()) == {"run-1": "", "run-13": queue.NOT_RUN}
    # What a student says came with it.
    (one,) = [one for one in experiments.read(experiments.baselines([]), []) if one.name == "run-1"]
    md5 = one.lock()["student"]["outs"][0]["md5"]
    assert dvc_private.stored(dvc_private.local_cache(), md5).is_file()
    # What is done is not sent again.
    again = Here()
    assert send(driver, runs[:1], again) == [] and again.submitted == ["probe"]


def test_a_worker_finds_what_another_has_pushed_and_a_killed_ones_clone_is_taken_over(driver):
    run = PlannedRun("run-7", {"family": "b", "seed": 7})
    executor = Here()
    assert send(driver, [run], executor) == []
    place = remote.place_of(settings(driver))
    (ref,) = subprocess.run(
        ["git", "for-each-ref", "--format=%(refname)", "refs/exps"], cwd=place.url, capture_output=True, text=True
    ).stdout.split()
    (clone,) = [path for path in (driver / "scratch").glob("*/*") if path.is_dir()]
    (clone / ".git/index.lock").touch()
    (clone / "waits.py").write_text("broken")
    order = remote.order(settings(driver), place, experiment=ref, command=["exp", "run"])
    outcome = subprocess.run(remote.command(settings(driver)), input=json.dumps(order), capture_output=True, text=True)
    told = json.loads(outcome.stdout)
    assert told["state"] == "done" and "run" not in told["seconds"] and told["clone"] == str(clone)
    assert (clone / "waits.py").read_text() == tiny.CODE and not (clone / ".git/index.lock").exists()


TEACHERS = (
    tiny.TEACHERS
    + """\
  softlabels:
    foreach: [a, b]
    do:
      cmd: python waits.py labels-${item} && echo {} > ${item}.json
      deps: ["teacher-${item}"]
      params: [seed]
      outs: ["labels-${item}"]
      metrics: [{"${item}.json": {cache: false}}]
"""
)


def test_teachers_come_from_other_machines_and_are_joined(driver):
    Path("dvc.yaml").write_text(TEACHERS)
    subprocess.run([sys.executable, "-m", "dvc", "repro", "-q", "images"], check=True)
    for command in ("git add -A", "git commit -qm teachers"):
        subprocess.run(command.split(), check=True)
    assert teachers.missing(["a", "b"]) == ["a", "b"]
    assert teachers.send(["a", "b"], 2, Here(), settings(driver), lambda tally: None) == []
    assert teachers.missing(["a", "b"]) == []
    assert {name: Path(name).read_text()[:9] for name in ("teacher-a", "labels-b")} == {
        "teacher-a": "teacher-a",
        "labels-b": "labels-b ",
    }
    assert Path("a.json").is_file()
    # One whose data is lost is not joined.
    shutil.rmtree(driver / "dvc")
    shutil.rmtree(driver / "driver/.dvc/cache")
    Path("labels-a").unlink()
    with pytest.raises(UsageError, match="dvc pull"):
        teachers.join(["a"], subprocess.check_output(["git", "rev-parse", "HEAD"], text=True).strip(), "storage")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        ("git remote remove origin", "no git remote origin"),
        ("git remote set-url origin https://me:secret@example.org/x.git", "holds a password"),
        ("git remote set-url origin /nowhere", "git's remote origin cannot be pushed to"),
        ("dvc remote remove storage", "no DVC remote"),
        ("dvc remote modify storage url /proc/nowhere", "DVC's remote storage cannot be written to"),
    ],
)
def test_remotes_that_cannot_serve_are_refused_before_anything_is_sent(driver, spoil, words):
    if spoil.startswith("dvc"):
        spoil = f"{sys.executable} -m {spoil}"
    subprocess.run(spoil.split(), check=True)
    executor = Here()
    with pytest.raises(UsageError) as caught:
        send(driver, [PlannedRun("run-1", {"seed": 1})], executor)
    assert words in caught.value.what and "secret" not in str(caught.value)
    assert executor.submitted == []


def test_a_remote_that_only_this_machine_knows_is_refused(driver):
    (driver / "driver/.dvc/config").rename(driver / "driver/.dvc/config.local")
    (driver / "driver/.dvc/config").write_text("")
    subprocess.run(["git", "commit", "-qam", "no remote"], check=True)
    with pytest.raises(UsageError, match=r"workers do not know DVC's remote storage"):
        remote.place_of(settings(driver))
    assert remote.place_of(settings(driver, dvc_config="/etc/dvc-of-ours")).dvc == "storage"


def test_other_packages_on_a_worker_are_refused_before_a_run_is_sent(driver, monkeypatch):
    monkeypatch.setattr(remote, "packages", lambda: {"dvc": "1.0"})
    executor = Here()
    with pytest.raises(UsageError, match=r"a worker's packages are others than here: dvc 3\.[\d.]+, not 1\.0"):
        send(driver, [PlannedRun("run-1", {"seed": 1})], executor)
    assert executor.submitted == ["probe"]


def test_a_worker_that_git_s_remote_does_not_answer_is_refused_before_a_run_is_sent(driver):
    """As on a node of Ray, which has not the environment of the driver."""
    executor = Here()
    values = {"setup": ["export GIT_ALLOW_PROTOCOL=none"], "patience_seconds": 1, "probe_seconds": 60}
    with pytest.raises(UsageError, match=r"cannot reach git's remote: .*not allowed(.|\n)*GIT_SSH_COMMAND"):
        send(driver, [PlannedRun("run-1", {"seed": 1})], executor, **values)
    assert executor.submitted == ["probe"]


def test_a_worker_lets_the_signals_through_that_end_a_stage():
    """Ray's workers have SIGINT blocked, and what they start inherits that."""
    program = """
import signal
from ferdistill.tracking import worker
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
worker.main()
assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == set()
"""
    order = json.dumps({"python": "2.7", "packages": {}})
    done = subprocess.run([sys.executable, "-c", program], input=order, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["state"] == "unfit"


def test_a_worker_without_its_python_is_refused(driver):
    with pytest.raises(UsageError, match="a worker did not answer"):
        send(driver, [PlannedRun("run-1", {"seed": 1})], Here(), python="/no/python", probe_seconds=30)


def test_a_study_that_is_running_is_not_joined_by_another(driver):
    with dvc_private.one_at_a_time(executors.STATE / "lock"), pytest.raises(UsageError, match="another study"):
        send(driver, [PlannedRun("run-1", {"seed": 1})], Here())


def test_too_little_room_is_said_and_unused_clones_give_way(tmp_path):
    for name in ("0", "1"):
        (tmp_path / name).mkdir()
    clone, lock = worker.take_clone(tmp_path)
    with pytest.raises(worker.LostError, match="GB free"):
        worker.make_room(tmp_path, clone, 1e9)
    assert not (tmp_path / "0").exists() and not (tmp_path / "1").exists()
    os.close(lock)


def test_patience_with_a_remote_has_an_end():
    answers = iter([1, 1, 0])
    started = time.monotonic()
    worker.insist(lambda: next(answers), "a step", 60)
    assert time.monotonic() - started < 20
    with pytest.raises(worker.LostError, match="a step"):
        worker.insist(lambda: 1, "a step", 0.5)


@pytest.mark.parametrize(
    ("text", "words"),
    [("slurm: {partitoin: all}", "slurm.partitoin"), ("attempts: 0", "attempts"), ("ray: {cpus: many}", "ray.cpus")],
)
def test_settings_that_are_not_known_are_named(tmp_path, text, words):
    (tmp_path / "cluster.yaml").write_text(text)
    with pytest.raises(UsageError, match=words):
        executors.load(tmp_path / "cluster.yaml")


def test_an_unreachable_head_is_one_message(tmp_path):
    pytest.importorskip("ray")
    made = executors.make("ray", settings(tmp_path, ray={"address": "127.0.0.1:9"}), "word")
    with pytest.raises(UsageError, match=r"no head of a Ray cluster answers at 127\.0\.0\.1:9"):
        made.check()


@pytest.mark.parametrize(("package", "extra"), [("submitit", "slurm"), ("ray", "ray")])
def test_a_missing_extra_is_one_line(driver, package, extra, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UsageError) as caught:
        executors.make(extra, settings(driver), "word")
    assert caught.value.exit_code == 2 and "\n" not in str(caught.value)
    assert f"pip install 'ferdistill[{extra}]'" in caught.value.what


def test_an_executor_that_is_not_known_is_refused():
    done = CliRunner().invoke(cli, ["teachers", "run", "--executor", "pigeons"])
    assert isinstance(done.exception, UsageError) and "no executor `pigeons`" in done.exception.what
