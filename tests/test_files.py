"""Files are written whole or not at all, on a full disk too; what was written must agree with what is read."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import save_file

from ferdistill import tensor_files
from ferdistill.errors import CheckError, UsageError, require_same
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


def test_facts_that_agree_pass_and_the_first_that_differ_are_named():
    require_same([("classes", ["a"], ["a"]), ("digest", "f" * 64, "f" * 64)], "never said")
    facts = [("classes", ["a"], ["a"]), ("digest", "f" * 64, "0" * 63 + "1"), ("shape", 1, 2)]
    with pytest.raises(CheckError) as caught:
        require_same(facts, "these are others", where="here", hint="do this")
    error = caught.value
    assert (error.what, error.expected) == (f"these are others: digest {'0' * 12}", f"digest {'f' * 12}")
    assert (error.where, error.hint) == ("here", "do this")


@pytest.mark.parametrize("framework", ["np", "pt"])
def test_tensors_come_back_and_a_file_that_is_none_says_so(tmp_path, framework):
    file = tmp_path / "t.safetensors"
    with pytest.raises(UsageError, match="no file of tensors"):
        tensor_files.read(file, framework)
    save_file({"a": np.arange(6.0).reshape(2, 3)}, file)
    assert tensor_files.read(file, framework)["a"].tolist() == [[0, 1, 2], [3, 4, 5]]
    whole = file.read_bytes()
    for broken in (b"", whole[:-1], whole[:20], b"\xff" * 8 + whole[8:]):
        file.write_bytes(broken)
        with pytest.raises(CheckError, match="not a whole safetensors file"):
            tensor_files.read(file, framework)
    with pytest.raises(CheckError, match="not a whole safetensors file"):
        tensor_files.read(tmp_path, framework)


def test_tensors_of_a_type_that_numpy_lacks_are_an_error(tmp_path):
    header = json.dumps({"a": {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]}}).encode()
    file = tmp_path / "t.safetensors"
    file.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    assert tensor_files.read(file, "pt")["a"].float().tolist() == [0, 0, 0, 0]
    with pytest.raises(CheckError, match="not a whole safetensors file"):
        tensor_files.read(file)
