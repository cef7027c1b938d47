"""A real SLURM and a real Ray of two nodes each, workers with clones of their own, remotes over SSH. All slow."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from cluster import clusters, faults, project, tiny
from support import repository

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux" or bool(clusters.lacking()), reason=f"needs {clusters.lacking()}"),
]
SRC = {"PYTHONPATH": str(Path(__file__).parents[2] / "src")}


def service_of(kind, folder):
    return clusters.Slurm(folder / "slurm") if kind == "slurm" else clusters.Ray(Path(f"/tmp/fd{os.getpid()}{kind}"))


def settings_of(kind, service, memory_gb):
    return {"slurm": {"memory_gb": memory_gb}} | (
        {"ray": {"address": service.address, "memory_gb": memory_gb}} if kind == "ray" else {}
    )


def test_eight_runs_give_the_same_table_here_on_slurm_and_on_ray(tmp_path):
    built = project.build(tmp_path / "base")
    tables = {}
    for kind in ("local", "slurm", "ray"):
        folder = tmp_path / kind
        folder.mkdir()
        ssh, service = clusters.Ssh(folder / "ssh"), service_of(kind, folder)
        with clusters.running(ssh, *([] if kind == "local" else [service])):
            driver = project.clone(built, folder, ssh)
            more = {} if kind == "local" else settings_of(kind, service, 3)
            project.settle(driver, folder, sys.executable, probe_seconds=240, setup=project.setup(ssh), **more)
            environment = repository.environment() | SRC | ssh.environment
            environment |= {} if kind == "local" else service.environment
            command = ["ferdistill", "study", "run", "--grid", "conf/eight.yaml", "--executor", kind, "--jobs", "2"]
            dry = repository.run(driver, *command, "--dry-run", env=environment)
            assert dry.stdout.count("would run") == 8
            assert kind == "local" or dry.stdout.count("1 CPUs") == 8
            done = repository.run(driver, *command, "--json", env=environment)
            assert {one["state"] for one in json.loads(done.stdout)["runs"]} == {"done"}
            tables[kind] = project.table(driver, environment)
    assert len(tables["local"]) == 8
    assert tables["slurm"] == tables["local"] and tables["ray"] == tables["local"]


@pytest.mark.parametrize("kind", ["slurm", "ray"])
def test_what_faults_disturb_ends_once_and_as_if_undisturbed(kind, tmp_path):
    trials = faults.Trials(kind, tmp_path / "trials", seed=os.getpid())
    trials.folder.mkdir()
    with clusters.running(trials.ssh, trials.cluster):
        trials.prepare()
        _, _, codes, expected = trials.study(0)
        assert codes == [0] and len(expected) == faults.RUNS
        _, made, _, found = trials.study(4)
        assert len(made) and found == expected


def test_slurm_refuses_a_partition_that_is_not_there_before_anything_is_sent(tmp_path):
    ssh, service = clusters.Ssh(tmp_path / "ssh"), clusters.Slurm(tmp_path / "slurm")
    with clusters.running(ssh, service):
        tiny.write(tmp_path / "tiny")
        driver = project.clone(tmp_path / "tiny", tmp_path, ssh)
        project.settle(driver, tmp_path, sys.executable, slurm={"partition": "nowhere", "memory_gb": 1})
        python_path = f"{SRC['PYTHONPATH']}{os.pathsep}{Path(__file__).parents[1]}"
        environment = repository.environment() | ssh.environment | service.environment | {"PYTHONPATH": python_path}
        command = [sys.executable, "-m", "cluster.tiny", "slurm", "1", "0", "1"]
        done = repository.run(driver, *command, check=False, env=environment)
        assert done.returncode and "SLURM would not take a run" in done.stderr and "nowhere" in done.stderr
        assert not list((driver / ".dvc/tmp/study/slurm").glob("*"))


def test_teachers_are_trained_on_nodes_of_their_own_and_joined(tmp_path):
    built = project.build(tmp_path / "base")
    ssh, service = clusters.Ssh(tmp_path / "ssh"), clusters.Slurm(tmp_path / "slurm")
    with clusters.running(ssh, service):
        driver = project.clone(built, tmp_path, ssh)
        project.settle(driver, tmp_path, sys.executable, probe_seconds=240, slurm={"memory_gb": 3})
        environment = repository.environment() | SRC | ssh.environment | service.environment
        # Another seed makes other teachers.
        before = (driver / "dvc.lock").read_text()
        repository.set_param(driver, "seed: 101", "seed: 201")
        repository.commit(driver)
        command = ["ferdistill", "teachers", "run", "--executor", "slurm", "--jobs", "2"]
        assert "resnet18: would run" in repository.run(driver, *command, "--dry-run", env=environment).stdout
        assert "1 teachers came, 0 failed" in repository.run(driver, *command, env=environment).stdout
        joined = (driver / "dvc.lock").read_text()
        assert joined != before
        # What came is what this machine makes.
        shutil.rmtree(driver / ".dvc/cache/runs", ignore_errors=True)
        repository.run(driver, "dvc", "repro", "--force", "--single-item", "teacher@resnet18", env=environment)
        repository.run(driver, "dvc", "repro", "--force", "--single-item", "softlabels@resnet18", env=environment)
        outs = [
            {
                name: stage["outs"]
                for name, stage in project.yaml.safe_load(text)["stages"].items()
                if "resnet18" in name
            }
            for text in (joined, (driver / "dvc.lock").read_text())
        ]
        assert outs[0] == outs[1]
