"""Copies of this repository at the smoke scale, and commands run in them."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

ROOT = Path(__file__).parents[2]
TEACHERS = ["resnet18", "convnext_tiny", "efficientnet_b3", "vit_ban"]
ONWARD = ["student", "calibrate", "evaluate", "robustness", "export", "benchmark", "summary"]
UPSTREAM = ["params", "corpus", "index", "images"]
EVERY = [*UPSTREAM, *(f"{stage}@{t}" for t in TEACHERS for stage in ("teacher", "softlabels")), "targets", *ONWARD]


def environment():
    """That of a user: the commands of this Python first on the path."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {"PATH": path, "OMP_WAIT_POLICY": "passive"}


def recording(folder):
    """The same, in which each stage writes into `folder` what it loaded and read: see `recorder/sitecustomize.py`."""
    python_path = os.pathsep.join(filter(None, [str(ROOT / "tests" / "recorder"), os.environ.get("PYTHONPATH")]))
    return environment() | {"FERDISTILL_RECORD": str(folder), "PYTHONPATH": python_path}


def run(project, *command, check=True, env=None):
    env = env or environment()
    done = subprocess.run(command, cwd=project, env=env, capture_output=True, text=True, check=False)
    if check and done.returncode:
        pytest.fail(f"{' '.join(command)} exited with {done.returncode}\n{done.stdout}\n{done.stderr}", pytrace=False)
    return done


def ran(done):
    """The stages that DVC ran, by what it printed."""
    return re.findall(r"^Running stage '([^']+)'", done.stdout, re.M)


def set_param(project, old, new):
    text = (project / "params.yaml").read_text()
    assert old in text
    (project / "params.yaml").write_text(text.replace(old, new, 1))


def commit(project):
    run(project, "git", "add", "-A")
    run(project, "git", "commit", "-qm", "state")


def copy_of_repository(root):
    """A repository of its own with this one's files, at the smoke scale, without any result."""
    listed = run(ROOT, "git", "ls-files", "-co", "--exclude-standard", "-z").stdout.split("\0")
    for name in filter(None, listed):
        if (ROOT / name).is_file() and not name.startswith(("metrics/", "plots/", "dvc.lock")):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, root / name)
    set_param(root, "scale: embedded", "scale: smoke")
    set_param(root, "max_attempts: 4", "max_attempts: 1")  # one at int8 is enough here, and saves ranking the layers
    set_param(root, "repeats: 200", "repeats: 10")
    run(root, "git", "init", "-q")
    run(root, "git", "config", "user.name", "tester")
    run(root, "git", "config", "user.email", "tester@example.org")
    commit(root)
    return root


def built(folder):
    """In `folder` a copy in which the pipeline has run (6E, kd), `ferdistill`, and its stages' `records`; made once.

    Several processes may ask for it: the first makes it, the others wait. Nobody changes it.
    """
    with FileLock(f"{folder}.lock"):
        if not (folder / "done").exists():
            shutil.rmtree(folder, ignore_errors=True)
            (folder / "records").mkdir(parents=True)
            project = copy_of_repository(folder / "ferdistill")
            done = run(project, "dvc", "repro", env=recording(folder / "records"))
            assert sorted(ran(done)) == sorted(EVERY)
            commit(project)
            (folder / "done").touch()
    return folder


def restore(project, revision):
    """Code, params, results and data as they were committed."""
    from dvc.repo import Repo  # here, since every run of pytest loads this module, and this takes a second

    run(project, "git", "reset", "-q", "--hard", revision)
    with Repo(str(project)) as repo:
        repo.checkout(force=True)


def metrics(project, name):
    return json.loads((project / "metrics" / f"{name}.json").read_text())
