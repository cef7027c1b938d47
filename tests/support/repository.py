"""Copies of this repository at the smoke scale, and commands run in them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


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
    run(root, "git", "init", "-q")
    run(root, "git", "config", "user.name", "tester")
    run(root, "git", "config", "user.email", "tester@example.org")
    commit(root)
    return root
