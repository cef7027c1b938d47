"""Faults at random moments: `python -m cluster.faults slurm FOLDER MINUTES SEED` (with tests/ and src/ on PYTHONPATH).

Studies of four runs are made one after another while workers, stages, nodes, drivers and remotes are killed or kept
away. After each, what every run made must be what an undisturbed study made, with one experiment a run. Prints a line a
study, and the counts at the end.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import psutil

from cluster import clusters, project, tiny

RUNS, WAIT, AWAY = 4, 1.5, 8.0


class Trials:
    def __init__(self, kind, folder, seed):
        self.kind, self.folder, self.random = kind, folder, random.Random(seed)
        self.ssh = clusters.Ssh(folder / "ssh")
        self.cluster = clusters.Slurm(folder / "slurm") if kind == "slurm" else clusters.Ray(Path(f"/tmp/fd{seed}"))
        self.drivers = {}
        self.after = []  # (moment, what undoes a fault)

    def prepare(self):
        tiny.write(self.folder / "tiny")
        self.driver = project.clone(self.folder / "tiny", self.folder, self.ssh)
        root = Path(__file__).parents[2]
        python_path = {"PYTHONPATH": f"{root / 'src'}:{root / 'tests'}"}
        self.environment = os.environ | self.cluster.environment | self.ssh.environment | python_path
        more = {"ray": {"address": self.cluster.address, "memory_gb": 1}} if self.kind == "ray" else {}
        more |= {"slurm": {"memory_gb": 1}, "setup": project.setup(self.ssh)}
        subprocess_settings = {"patience_seconds": 240, "attempts": 30, "min_free_gb": 0.2, "probe_seconds": 200}
        project.settle(self.driver, self.folder, sys.executable, **subprocess_settings, **more)
        self.second = self.folder / "second"
        shutil.copytree(self.driver, self.second, symlinks=True)

    def start(self, where):
        log = (self.folder / f"{where.name}.out").open("a")
        command = [sys.executable, "-m", "cluster.tiny", self.kind, str(RUNS), str(WAIT), "2"]
        self.drivers[where] = subprocess.Popen(command, cwd=where, env=self.environment, stdout=log, stderr=log)

    def forget(self):
        """Remove the experiments of the last study, here and on the remote."""
        for place in (self.driver, self.second, self.folder / "git-remote"):
            refs = subprocess.run(
                ["git", "for-each-ref", "--format=delete %(refname)", "refs/exps"],
                cwd=place,
                capture_output=True,
                text=True,
                check=True,
            )
            subprocess.run(["git", "update-ref", "--stdin"], cwd=place, input=refs.stdout, text=True, check=True)
        for runs in self.folder.glob("scratch/*/*/.dvc/cache/runs"):
            shutil.rmtree(runs)

    def processes(self, mark):
        """Those of these trials with a word in their command; a worker under Ray shows it by git's key alone."""
        found = []
        for process in psutil.process_iter(["cmdline"]):
            words = process.info["cmdline"] or []
            if not any(mark in word for word in words):
                continue
            with suppress(psutil.Error):
                about = [process.cwd(), *words, process.environ().get("GIT_SSH_COMMAND", "")]
                if any(str(self.folder) in word for word in about):
                    found.append(process)
        return found

    def strike(self, mark, how):
        victims = self.processes(mark)
        if not victims:
            return False
        with suppress(psutil.NoSuchProcess):
            self.random.choice(victims).send_signal(how)
        return True

    def worker(self):
        return self.strike("What a worker of a cluster does", signal.SIGKILL)

    def preempted(self):
        return self.strike("What a worker of a cluster does", signal.SIGTERM)

    def dvc(self):
        return self.strike("exp", signal.SIGKILL)

    def stage(self):
        return self.strike("waits.py", signal.SIGKILL)

    def node(self):
        name = self.random.choice(["n1", "n2"])
        if self.kind == "ray":
            self.cluster.end_node(name)
            again = [f"--address={self.cluster.address}", "--num-cpus=1"]
            self.after.append((time.monotonic() + AWAY, lambda: self.cluster.start_node(name, *again)))
            return True
        process = self.cluster.nodes[name]
        for one in [process.pid, *[p.pid for p in psutil.Process(process.pid).children(recursive=True)]]:
            with suppress(ProcessLookupError):
                os.kill(one, signal.SIGKILL)
        for step in self.processes("slurmstepd"):
            with suppress(psutil.NoSuchProcess):
                step.kill()
        process.wait()
        self.after.append((time.monotonic() + AWAY, lambda: self.cluster.start_node(name)))
        return True

    def killed_driver(self):
        where = self.random.choice(list(self.drivers))
        if self.drivers[where].poll() is not None:
            return False
        self.drivers[where].kill()
        self.drivers[where].wait()
        self.start(where)
        return True

    def second_driver(self):
        if self.second in self.drivers:
            return False
        self.start(self.second)
        return True

    def remote_away(self):
        if self.ssh.process.poll() is not None:
            return False
        for process in psutil.Process(self.ssh.process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self.ssh.process.kill()
        self.ssh.process.wait()
        self.after.append((time.monotonic() + AWAY, self.ssh.serve))
        return True

    def undo(self, everything=False):
        for moment, undo in [*self.after]:
            if everything or moment < time.monotonic():
                self.after.remove((moment, undo))
                undo()

    def study(self, faults, limit=900):
        """One study with so many faults: how long it took, the faults, and what the runs made."""
        self.forget()
        self.drivers, made, started = {}, [], time.monotonic()
        kinds = ["worker", "preempted", "dvc", "stage", "node", "killed_driver", "second_driver", "remote_away"]
        self.start(self.driver)
        due = time.monotonic() + self.random.uniform(10, 40)
        while any(driver.poll() is None for driver in self.drivers.values()):
            assert time.monotonic() - started < limit, "it did not end"
            time.sleep(0.3)
            self.undo()
            running = bool(self.processes("What a worker of a cluster does"))
            if len(made) < faults and time.monotonic() > due and running:
                kind = self.random.choice(kinds)
                if getattr(self, kind)():
                    made.append(kind)
                    due = time.monotonic() + self.random.uniform(2, 15)
        self.undo(everything=True)
        codes = [driver.returncode for driver in self.drivers.values()]
        return time.monotonic() - started, made, codes, tiny.results(self.driver)


def main():
    kind, folder, minutes, seed = sys.argv[1], Path(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    trials, total, wrong = Trials(kind, folder, seed), Counter(), 0
    with clusters.running(trials.ssh, trials.cluster):
        trials.prepare()
        seconds, _, codes, expected = trials.study(0)
        print(
            json.dumps({"undisturbed": True, "seconds": round(seconds), "codes": codes, "runs": len(expected)}),
            flush=True,
        )
        assert codes == [0] and len(expected) == RUNS
        end = time.monotonic() + 60 * minutes
        while time.monotonic() < end:
            seconds, made, codes, found = trials.study(4)
            same = found == expected
            wrong += not same
            total.update(made)
            line = {"seconds": round(seconds), "faults": made, "codes": codes, "same": same, "runs": len(found)}
            print(json.dumps(line), flush=True)
    print(json.dumps({"faults": sum(total.values()), "by_kind": total, "studies_that_differ": wrong}), flush=True)


if __name__ == "__main__":
    main()
