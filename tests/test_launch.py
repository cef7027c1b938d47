"""The line of docs/cluster.md that trains over nodes, as it stands there, on submitit's local executor."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("submitit")

ROOT = Path(__file__).parents[1]
# What a stage does with the processes that it finds itself among.
STAGE = """\
import os, sys
import torch
from accelerate import PartialState
assert sys.argv[1:] == ["student"] and "LOCAL_RANK" in os.environ
state = PartialState(cpu=True)
total = torch.ones(1) * (state.process_index + 1)
torch.distributed.all_reduce(total)
if state.is_main_process:
    open("student", "w").write(f"{state.num_processes} processes, {total.item():g}")
torch.distributed.destroy_process_group()
sys.exit(int(os.environ.get("FAILS", 0)))
"""


@pytest.mark.parametrize("fails", ["0", "3"])
def test_the_documented_line_starts_processes_that_know_of_one_another(tmp_path, fails):
    (line,) = re.findall(r"^python -c '(import subprocess, submitit;.*)' && dvc commit --force student$",
                         (ROOT / "docs/cluster.md").read_text(encoding="utf-8"), re.M)  # fmt: skip
    here = line.replace('(".dvc/tmp/launch")', '(".dvc/tmp/launch", cluster="local")')
    here = here.replace("nodes=2, tasks_per_node=4, gpus_per_node=4", "nodes=1, tasks_per_node=2, gpus_per_node=0")
    assert here.count("local") == 1 and "gpus_per_node=0" in here
    (tmp_path / "src").mkdir()
    (tmp_path / "src/stage.py").write_text(STAGE)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "FAILS": fails, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", here], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode != 0) == (fails != "0"), done.stderr
    assert (tmp_path / "student").read_text() == "2 processes, 3"
