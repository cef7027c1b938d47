"""Files are written whole or not at all, on a full disk too."""

import os
import subprocess
import sys

import pytest

from ferdistill.errors import CheckError
from ferdistill.files import atomic, write_text

FULL = """
import resource, signal, sys
import numpy as np
from safetensors.numpy import save_file
from ferdistill.errors import CheckError
from ferdistill.files import atomic, write_text
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
stopped = 0
try:
    write_text("text.txt", "x" * (1 << 20))
except CheckError as error:
    print(error)
    stopped += 1
try:
    with atomic("weights.safetensors") as temporary:
        save_file({"a": np.zeros(1 << 20)}, temporary)
except CheckError as error:
    print(error)
    stopped += 1
sys.exit(0 if stopped == 2 else 3)
"""


def test_a_full_disk_is_said_and_what_was_there_stays(tmp_path):
    for name in ("text.txt", "weights.safetensors"):
        (tmp_path / name).write_text("before")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", FULL]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("there is no room to write a file") == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["text.txt", "weights.safetensors"]
    assert all(path.read_text() == "before" for path in tmp_path.iterdir())


def test_a_block_that_fails_leaves_nothing_behind(tmp_path):
    with pytest.raises(ZeroDivisionError), atomic(tmp_path / "a.txt") as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []
    write_text(tmp_path / "a.txt", "whole")
    with pytest.raises(CheckError), atomic(tmp_path / "a.txt"):
        raise OSError(28, "No space left on device")
    assert (tmp_path / "a.txt").read_text() == "whole"
