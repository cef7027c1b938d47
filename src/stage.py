"""Run one pipeline stage: `python src/stage.py student`, `python src/stage.py teacher resnet18`.

Under DVC the teacher is the one that the stage is named after, so that no value of params.yaml reaches a shell;
`softlabels` of a range is of a stage named `range@resnet18~2~8`.

It stands directly under `src/` so that Python puts that folder first on its path: a queued experiment, which runs in
a copy of the repository, then runs the copy's code and not the code of an editable install.
"""

import importlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from ferdistill.errors import UsageError
from ferdistill.files import write_json
from ferdistill.output import one_message
from ferdistill.tracking.put_back import put_back

OF_A_TEACHER = {"softlabels": (1, 3), "teacher": (1,)}  # how many words follow
TRAINING = ("student", "teacher")


def stop_with(parent: int) -> None:
    """End this process within half a second of its parent.

    DVC killed alone leaves its stage at work, which would write into what the next `dvc repro` makes.
    """
    while os.getppid() == parent:
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGKILL)


def launch(processes: int, arguments: list[str]) -> int:
    """Start this script in several processes that train together; their exit code."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return subprocess.run([*command, __file__, *arguments], check=False).returncode


def run(stage: str, teacher: list[str]) -> None:
    """Run one stage, in several processes where params.yaml says so."""
    from ferdistill import params, workspace  # here, since its second is long enough for a Ctrl-C

    started, settings = time.monotonic(), params.load()
    if not set(teacher[:1]) <= set(settings.teachers):
        raise UsageError(
            f"no teacher `{teacher[0]}`",
            where="params.yaml, teachers",
            expected=f"one of {', '.join(settings.teachers)}",
        )
    processes = settings.launch.processes if stage in TRAINING else 1
    if processes == 1 or "LOCAL_RANK" in os.environ:
        importlib.import_module(f"ferdistill.stages.{stage}").run(settings, *teacher)
    elif code := launch(processes, [stage, *teacher]):
        sys.exit(code)
    if "LOCAL_RANK" not in os.environ and workspace.shared_scratch().is_dir():
        write_json(workspace.duration("@".join([stage, *teacher])), {"seconds": time.monotonic() - started})


if __name__ == "__main__":
    if "DVC_STAGE" in os.environ and os.name == "posix":
        threading.Thread(target=stop_with, args=[os.getppid()], daemon=True).start()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that both ways to stop leave no temporary file
    # Queue workers share the cores, and threads that wait by spinning starve one another: 3 to 10 times slower on two
    # cores. Alone, spinning is faster. OpenMP reads this when torch loads it, so it must be set before a stage is.
    if Path(os.environ.get("DVC_ROOT", ".")).resolve() != Path.cwd():
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    known = sorted(file.stem for file in Path(__file__).parent.glob("ferdistill/stages/[a-z]*.py"))
    stage, *teacher = sys.argv[1:] or [""]
    if stage in OF_A_TEACHER and not teacher:
        teacher = [word for word in re.split("[@~]", os.environ.get("DVC_STAGE", ""))[1:] if word]
    if stage not in known or len(teacher) not in OF_A_TEACHER.get(stage, (0,)):
        print(
            f"usage: python src/stage.py STAGE [TEACHER], STAGE one of {', '.join(known)}; "
            f"{' and '.join(OF_A_TEACHER)} take a teacher",
            file=sys.stderr,
        )
        sys.exit(2)
    with one_message():
        try:
            run(stage, teacher)
        except KeyboardInterrupt:
            print("error: stopped; `dvc repro` goes on, training from its last epoch", file=sys.stderr)
            sys.exit(130)
        except (Exception, SystemExit):
            if "DVC_STAGE" in os.environ and "LOCAL_RANK" not in os.environ:
                put_back(os.environ["DVC_STAGE"])
            raise
