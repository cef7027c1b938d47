"""A pipeline of stages that only wait, for what concerns the sending of runs and not the runs."""

import json
import os
import subprocess
import sys
from pathlib import Path

from ferdistill.tracking import executors, experiments, remote
from ferdistill.tracking.experiments import PlannedRun

# Not named as a module of Python's is: Ray imports `code`, and would run it in the driver's place.
CODE = """\
import sys, time, yaml
params = yaml.safe_load(open('params.yaml'))
time.sleep(params['wait'])
open(sys.argv[1], 'w').write(f"{sys.argv[1]} of {params['family']} {params['seed']}")
sys.exit('an unlucky number' if params['seed'] == 13 else 0)
"""
PARAMS = "{family: a, seed: 0, scale: s, corpus: c, index_tag: t, wait: 0}\n"
STAGE = """\
  {stage}:
    cmd: python waits.py {stage}
    deps: [waits.py{before}]
    params: [family, seed, wait]
    outs: [{stage}]
"""
# The stages before those of soft labels, where teachers are what is sent.
TEACHERS = """\
stages:
  images:
    cmd: python waits.py images
    params: [seed]
    outs: [images]
  teacher:
    foreach: [a, b]
    do:
      cmd: python waits.py teacher-${item}
      deps: [images]
      params: [seed]
      outs: ["teacher-${item}"]
"""


def write(folder):
    """The pipeline, run once with `wait: 0`."""
    folder.mkdir(parents=True)
    stages = zip(("", *experiments.OWN), experiments.OWN, strict=False)
    text = "".join(STAGE.format(stage=stage, before=before and f", {before}") for before, stage in stages)
    (folder / "dvc.yaml").write_text(f"stages:\n{text}")
    (folder / "waits.py").write_text(CODE)
    (folder / "params.yaml").write_text(PARAMS)
    (folder / "conf").mkdir()
    root = Path(__file__).parents[2]
    (folder / "conf/cluster.yaml").write_text((root / "conf/cluster.yaml").read_text())
    (folder / "pyproject.toml").write_text((root / "pyproject.toml").read_text())
    commands = "git init -q -b main; git config user.name tester; git config user.email tester@example.org; dvc init -q"
    for command in (*commands.split("; "), "dvc repro -q", "git add -A", "git commit -qm one"):
        subprocess.run(command.split(), cwd=folder, check=True)


def planned(number, wait):
    return [PlannedRun(f"run-{seed}", {"family": "b", "seed": seed, "wait": wait}) for seed in range(100, 100 + number)]


def results(project):
    """The experiments of HEAD: what each made, by name."""
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=project, capture_output=True, text=True, check=True)
    here = Path.cwd()
    os.chdir(project)
    try:
        return {
            one.name: {stage: entry["outs"][0]["md5"] for stage, entry in one.lock().items()}
            for one in experiments.read([head.stdout.strip()], [])
        }
    finally:
        os.chdir(here)


def drive():
    """A driver: `python -m cluster.tiny EXECUTOR RUNS WAIT JOBS`."""
    executor, number, wait, jobs = sys.argv[1], *map(float, sys.argv[2:])
    settings = executors.load()
    where = executors.make(executor, settings, remote.word(remote.place_of(settings)))
    now = experiments.present()

    def tell(tally):
        print(json.dumps(tally._asdict()), flush=True)

    failures = remote.send_missing(planned(int(number), wait), now, int(jobs), where, settings, tell)
    print(json.dumps({"failures": [failure._asdict() for failure in failures]}), flush=True)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    drive()
