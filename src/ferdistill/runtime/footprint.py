"""What a model costs a fresh process: seconds to import, to load, to the first prediction; peak memory.

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
        `import_s`, `load_s`, `first_prediction_s` (from the input to the output), and in bytes `import_memory`
        (resident before the model is loaded) and `peak_memory`; the latter two None where the system tells neither.
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
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def main(model: str, shape: list[int], dtype: str, threads: int | None, device: Any) -> dict[str, Any]:
    """Measure this process; see `measure`."""
    start = perf_counter()
    import numpy as np

    from .session import open_session

    imported, import_memory = perf_counter(), peak_memory()
    session = open_session(Path(model), threads, device)
    loaded = perf_counter()
    session.run(None, {session.get_inputs()[0].name: np.zeros(shape, dtype)})
    return {
        "import_s": imported - start,
        "load_s": loaded - imported,
        "first_prediction_s": perf_counter() - loaded,
        "import_memory": import_memory,
        "peak_memory": peak_memory(),
    }


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
