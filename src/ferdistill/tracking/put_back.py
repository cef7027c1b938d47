"""What a stage that stopped had made before, back in its place: DVC clears that away before it runs a stage."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

from ..errors import FerdistillError


def put_back(stage: str) -> None:
    """Bring the outputs of a stage back as dvc.lock has them: from git's index, else from DVC's cache if they are gone.

    Nothing is said where that cannot be done: the stage's own error is what counts.
    """
    from .experiments import git, load_yaml  # here, so that a stage that ends well has loaded nothing of it

    lock = Path("dvc.lock")
    stages = load_yaml(lock.read_text(encoding="utf-8"))["stages"] if lock.is_file() else {}
    outs = [out["path"] for out in stages.get(stage, {}).get("outs", [])]
    if not outs:
        return
    with contextlib.suppress(FerdistillError, OSError):
        git("checkout-index", "--force", "-z", "--stdin", stdin=git("ls-files", "-z", "--", *outs))
        if not all(map(os.path.lexists, outs)):
            subprocess.run(
                [sys.executable, "-m", "dvc", "checkout", "--quiet", stage], capture_output=True, check=False
            )
