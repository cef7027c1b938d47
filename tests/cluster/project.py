"""A very small study of this repository, with remotes of its own over SSH."""

import csv
import getpass
import shlex
import shutil
import subprocess
from pathlib import Path

import yaml

from support import repository

GRID = """\
seeds: {two: [1, 2]}
cells:
  - {family: none, mode: none, seeds: two}
  - {family: 6A, mode: kd, seeds: two}
  - {family: 6E, mode: kd, seeds: two}
  - {family: 6E, mode: dkd, beta: [2], seeds: two}
"""
TIMES = {"commit", "time", "seconds", "student_seconds"}


def build(folder):
    """A copy of the repository in which all that runs share was made and committed: minutes, so made once."""
    project = folder / "built"
    if not (folder / "done").exists():
        shutil.rmtree(folder, ignore_errors=True)
        repository.copy_of_repository(project)
        params = yaml.safe_load((project / "params.yaml").read_text())
        smoke = params["scales"]["smoke"]
        smoke["corpus"] |= {"images": 300, "subjects": 60}
        for one in (*smoke["teachers"].values(), smoke["student"]):
            one["phases"] = [one["phases"][0] | {"epochs": 1}]
        smoke["teachers"]["vit_ban"]["born_again"] = None
        smoke["student"]["test_every"] = 1
        params["calibrate"]["draws"] = 100
        (project / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
        (project / "conf/eight.yaml").write_text(GRID)
        repository.run(project, "dvc", "repro", "evaluate")
        repository.commit(project)
        (folder / "done").touch()
    return project


def clone(built, folder, ssh):
    """The project `driver` in a folder, with a bare git remote and a DVC remote there, both behind SSH."""
    driver = folder / "driver"
    shutil.copytree(built, driver, symlinks=True)
    repository.run(folder, "git", "init", "-q", "--bare", "git-remote")
    at = f"{getpass.getuser()}@127.0.0.1"
    (folder / "dvc-remote").mkdir()
    repository.run(driver, "git", "remote", "add", "origin", f"ssh://{at}:{ssh.port}{folder}/git-remote")
    for words in (
        f"add --default storage ssh://{at}/{folder}/dvc-remote",
        f"modify storage port {ssh.port}",
        f"modify storage keyfile {ssh.at}/key",
    ):
        repository.run(driver, "dvc", "remote", *words.split())
    repository.run(driver, "git", "add", ".dvc/config")
    return driver


def setup(ssh):
    """What a worker does first: Ray's have the environment of their node, not the driver's."""
    return [f"export {name}={shlex.quote(value)}" for name, value in ssh.environment.items()]


def settle(driver, folder, python, **settings):
    text = yaml.safe_load((driver / "conf/cluster.yaml").read_text())
    text |= {"python": str(python), "scratch": str(folder / "scratch"), "min_free_gb": 0.5}
    for name, value in settings.items():
        text[name] = text[name] | value if isinstance(text[name], dict) else value
    (driver / "conf/cluster.yaml").write_text(yaml.safe_dump(text, sort_keys=False))
    repository.commit(driver)


def table(driver, environment):
    """What `study collect` gives, less what belongs to the time and the place."""
    out = driver / ".dvc/tmp/table.csv"
    command = ["ferdistill", "study", "collect", "--out", str(out)]
    subprocess.run(command, cwd=driver, env=environment, check=True, capture_output=True)
    with out.open() as file:
        return [{key: v for key, v in row.items() if key not in TIMES} for row in csv.DictReader(file)]


def root_of(file=__file__):
    return Path(file).parents[2]
