"""What a model costs a fresh process: seconds to load, to the first prediction; peak memory.

Run as a program, so that nothing else counts: python -m ferdistill.runtime.footprint '{"model": …}'; prints JSON.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from time import perf_counter
from typing import Any


def measure(model: Path, shape: list[int], dtype: str, threads: int | None, device: str) -> dict[str, Any]:
    """Load a model in a fresh process and run it once.

    `shape` and `dtype` are the input's, with the batch; `threads` and `device` as `session.open_session` takes them.

    Returns
    -------
    dict
        `load_s`, `first_prediction_s` (from the input to the output), and in bytes `peak_memory`, None where the system
        does not tell it.
    """
    arguments = {"model": str(model), "shape": shape, "dtype": dtype, "threads": threads, "device": device}
    # The package of this very process, wherever it was imported from.
    path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", "ferdistill.runtime.footprint", json.dumps(arguments)],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": path},
    )
    return dict(json.loads(done.stdout))


def main(model: str, shape: list[int], dtype: str, threads: int | None, device: Any) -> dict[str, Any]:
    """Measure this process; see `measure`."""
    import numpy as np

    from .session import open_session

    start = perf_counter()
    session = open_session(Path(model), threads, device)
    loaded = perf_counter()
    session.run(None, {session.get_inputs()[0].name: np.zeros(shape, dtype)})
    times = {"load_s": loaded - start, "first_prediction_s": perf_counter() - loaded}
    return times | {"peak_memory": peak_memory()}


def peak_memory() -> int | None:
    """The largest resident size of this process so far, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():
        # Not getrusage: on Linux that counts what the parent held when it forked.
        lines = status.read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(**json.loads(sys.argv[1]))))
