"""The driver of many runs, whose workers do nothing: `python -m cluster.thousand FOLDER RUNS JOBS`.

A worker here puts an experiment on git's remote when it is sent. What is left is the driver's own work.
Prints its seconds and memory.
"""

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import yaml

from cluster import tiny
from ferdistill.tracking import executors, experiments, remote
from ferdistill.tracking.executors import Sight


class Simulated:
    """A cluster whose runs end when they are sent."""

    told = "nowhere"

    def __init__(self, git, head):
        self.git, self.head = git, head
        self.lock = yaml.safe_load(Path("dvc.lock").read_text())
        self.params = yaml.safe_load(Path("params.yaml").read_text())
        self.sent = 0

    def check(self):
        pass

    def submit(self, name, command, text):
        self.sent += 1
        if name == "probe":
            return json.dumps({"state": "done", "why": ""})
        overrides = {"family": "b", "seed": int(name.rpartition("-")[2]), "wait": 0}
        for stage in self.lock["stages"].values():
            stage["params"]["params.yaml"] |= overrides
        files = {"params.yaml": yaml.safe_dump(self.params | overrides), "dvc.lock": yaml.safe_dump(self.lock)}
        stream = f"commit {json.loads(text)['experiment']}\ncommitter t <t@example.org> {int(time.time())} +0000\n"
        stream += f"data 0\nfrom {self.head}\n"
        for path, content in files.items():
            stream += f"M 100644 inline {path}\ndata {len(content)}\n{content}\n"
        subprocess.run(["git", "fast-import", "--quiet"], cwd=self.git, input=stream, text=True, check=True)
        return json.dumps({"state": "done", "why": "", "name": name})

    def look(self, jobs):
        return {job: Sight("ended", "", job) for job in jobs}

    def left(self):
        return {}

    def cancel(self, jobs):
        pass


def main():
    folder, number, jobs = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    shutil.rmtree(folder, ignore_errors=True)
    tiny.write(folder / "driver")
    os.chdir(folder / "driver")
    subprocess.run(["git", "init", "-q", "--bare", "../git"], check=True)
    subprocess.run(["git", "remote", "add", "origin", str(folder / "git")], check=True)
    subprocess.run(
        [sys.executable, "-m", "dvc", "remote", "add", "-q", "--default", "d", str(folder / "dvc")], check=True
    )
    subprocess.run(["git", "commit", "-qam", "remotes"], check=True)
    subprocess.run([sys.executable, "-m", "dvc", "push", "-q"], check=True)
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    remote.POLL = 0.0
    now = experiments.present()
    moments = []
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()

    def tell(tally):
        moments.append((tally.done, time.monotonic() - started))

    executor = Simulated(folder / "git", head)
    failures = remote.send_missing(tiny.planned(number, 0), now, jobs, executor, executors.load(), tell)
    seconds = time.monotonic() - started
    at = dict(moments)
    tenth = number // 10
    early, late = (at[min(at, key=lambda done: abs(done - wanted))] for wanted in (tenth, number - tenth))
    print(
        json.dumps(
            {
                "runs": number,
                "failed": len(failures),
                "seconds": round(seconds, 1),
                "cpu_seconds": round(sum(resource.getrusage(resource.RUSAGE_SELF)[:2]), 1),
                "ms_a_run_first_tenth": round(1000 * early / tenth, 1),
                "ms_a_run_last_tenth": round(1000 * (at[number] - late) / tenth, 1),
                "memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
                "memory_mb_before": round(before / 1024),
            }
        )
    )


if __name__ == "__main__":
    main()
