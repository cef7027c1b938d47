"""What a stage that stopped had made before, back in its place: DVC clears that away before it runs a stage."""

import os
import subprocess
import sys
from pathlib import Path

from ..errors import FerdistillError
from .experiments import git, load_yaml


def put_back(stage: str) -> None:
    """Bring back each output of a stage that is gone: from DVC's cache as dvc.lock has it, or from git's index.

    Nothing is said where one cannot be: the stage's own error is what counts.
    """
    lock = Path("dvc.lock")
    stages = load_yaml(lock.read_text(encoding="utf-8"))["stages"] if lock.is_file() else {}
    gone = [out["path"] for out in stages.get(stage, {}).get("outs", []) if not os.path.lexists(out["path"])]
    if not gone:
        return
    try:
        tracked = git("ls-files", "--deleted", "-z", "--", *gone)
        if tracked:
            git("checkout-index", "-z", "--stdin", stdin=tracked)
    except FerdistillError:
        pass
    if not all(map(os.path.lexists, gone)):
        subprocess.run([sys.executable, "-m", "dvc", "checkout", "--quiet", stage], capture_output=True, check=False)
