"""This machine in a cluster's place: what would be sent to a node is started as a process."""

import subprocess
import sys
from contextlib import suppress

from ferdistill.tracking.executors import Settings, Sight


class Here:
    """Jobs as processes of this machine; `lost` of them end without a word."""

    told = "this machine"

    def __init__(self, lost=0):
        self.processes, self.lost, self.submitted = {}, lost, []

    def check(self):
        pass

    def submit(self, name, command, text):
        self.submitted.append(name)
        if name != "probe" and self.lost:
            self.lost -= 1
            command = ["true"]
        job = str(len(self.submitted))
        self.processes[job] = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        with suppress(BrokenPipeError):  # of one that ended at once
            self.processes[job].stdin.write(text)
            self.processes[job].stdin.close()
        return job

    def look(self, jobs):
        found = {}
        for job in jobs:
            process = self.processes[job]
            if process.poll() is None:
                found[job] = Sight("running", "here")
            else:
                found[job] = Sight("ended", "here", process.stdout.read())
        return found

    def left(self):
        return {}

    def cancel(self, jobs):
        for job in jobs:
            self.processes[job].terminate()


def settings(folder, **values):
    """With which workers run here, in clones below the folder."""
    usual = {"python": sys.executable, "scratch": str(folder / "scratch"), "min_free_gb": 0, "patience_seconds": 20}
    return Settings.model_validate(usual | values)
