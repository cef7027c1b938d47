"""Stages depend on what they run and read, no more and no less: held against real runs at the smoke scale."""

import ast
import json
import random
import re
import runpy
import shutil
import subprocess
import sys
from collections import defaultdict
from contextlib import chdir
from functools import reduce
from operator import getitem
from pathlib import Path

import pytest
import yaml
from dvc.repo import Repo

from ferdistill import params, workspace
from support.repository import ROOT, ran, recording, run

EXEMPT = runpy.run_path(str(ROOT / ".ci" / "dependencies.py"))["CANNOT_CHANGE_A_RESULT"]
# Read to find a file, to refuse a run, or for a line on the screen: no output depends on it but through its path.
READ_ALL_THE_SAME = {
    "*": {"corpus", "index_tag", "scale", "teachers"},  # dvc.yaml has the first three in its paths and names
    "student": {"family", "families"},  # to refuse targets of another family, which a run by hand may meet
}
# Stages run again with other params, since the first run read what its mode and its teachers need alone.
BROUGHT = {"softlabels": "pretrained/brought", "temperature": None, "covers": "all"}
VARIANTS = [
    ({"mode": "dkd"}, ["student"]),
    ({"family": "6D"}, ["targets"]),
    ({"family": "resnet18", "views": 2}, ["softlabels resnet18", "targets", "student"]),
    ({"scales.smoke.teachers.resnet18": BROUGHT}, ["params", "teacher resnet18", "softlabels resnet18"]),
]


def test_dvc_yaml_lists_the_code_that_each_stage_imports():
    done = subprocess.run(
        [sys.executable, ".ci/dependencies.py"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{done.stdout}\npython .ci/dependencies.py --write corrects dvc.yaml"


def test_every_file_that_no_stage_needs_to_name_is_there_and_has_a_reason():
    assert all((ROOT / name).is_file() and reason for name, reason in EXEMPT.items())


def test_no_value_of_params_yaml_reaches_a_command_line():
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    commands = {stage.get("do", stage)["cmd"] for stage in stages.values()}
    assert commands == {f"python src/stage.py {name}" for name in stages}


@pytest.fixture(scope="module")
def listed(project):
    """What dvc.yaml lists, as DVC resolves it: by stage, its files of code, its params and its other paths."""
    found = {}
    with chdir(project), Repo() as repo:
        for stage in repo.index.stages:
            code, names, paths = found[stage.addressing] = (set(), set(), {out.def_path for out in stage.outs})
            for dependency in stage.deps:
                if hasattr(dependency, "params"):
                    names |= set(dependency.params)
                else:
                    (code if dependency.def_path.startswith("src/") else paths).add(dependency.def_path)
    return found


@pytest.fixture(scope="module")
def recorded(project, records, tmp_path_factory):
    """By stage the modules that it loaded and the params that it read, in the pipeline and in `VARIANTS`."""
    copy = tmp_path_factory.mktemp("variants") / "project"
    shutil.copytree(project, copy, symlinks=True, ignore=shutil.ignore_patterns(".git", "tmp"))
    original = (copy / "params.yaml").read_text(encoding="utf-8")
    settings = yaml.safe_load(original)
    shutil.copytree(copy / workspace.softlabels("resnet18", settings["index_tag"]), copy / BROUGHT["softlabels"])
    for changes, commands in VARIANTS:
        changed = yaml.safe_load(original)
        for name, value in changes.items():
            *groups, last = name.split(".")
            reduce(getitem, groups, changed)[last] = value
        (copy / "params.yaml").write_text(yaml.safe_dump(changed, sort_keys=False), encoding="utf-8")
        for command in commands:
            done = subprocess.run(
                [sys.executable, "src/stage.py", *command.split()],
                cwd=copy, env=recording(records), capture_output=True, text=True, check=False,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
    modules, read = defaultdict(set), defaultdict(set)
    for file in records.glob("*.json"):
        record = json.loads(file.read_text(encoding="utf-8"))
        name = "@".join([record["stage"], *record["of"]])
        modules[name] |= {f"src/{module}" for module in record["modules"]}
        # Each run has a family of its own, which dvc.yaml names by the one that is chosen.
        chosen = f"families.{settings['family']}"
        read[name] |= {re.sub(r"^families\.\w+", chosen, param) for param in record["read"]}
    # All teachers' stages are one of dvc.yaml, which names what any of them may run.
    of_all = defaultdict(set)
    for name, loaded in modules.items():
        of_all[name.partition("@")[0]] |= loaded
    return {name: of_all[name.partition("@")[0]] for name in modules}, read


def as_listed(file):
    """The file, or the folder of adapters that stands for it."""
    return str(Path(file).parent) if Path(file).parent.name == "corpora" else file


def empty(project, file):
    """Whether a file holds a docstring at most."""
    return all(isinstance(node, ast.Expr) for node in ast.parse((project / file).read_text(encoding="utf-8")).body)


def test_no_stage_loads_code_that_it_does_not_list(project, listed, recorded):
    modules, _ = recorded
    assert modules.keys() == listed.keys()
    for stage, loaded in modules.items():
        needed = {as_listed(file) for file in loaded if file not in EXEMPT and not empty(project, file)}
        assert not needed - listed[stage][0], f"{stage} loads and does not list these"


def covers(name, param):
    return param == name or param.startswith(f"{name}.")


def test_each_stage_lists_the_params_that_it_reads_and_no_others(listed, recorded):
    _, read = recorded
    for stage, (_, names, paths) in listed.items():
        if stage == "params":  # it depends on the whole file
            assert "params.yaml" in paths and not names
            continue
        others = READ_ALL_THE_SAME["*"] | READ_ALL_THE_SAME.get(stage, set())
        unlisted = {p for p in read[stage] if not any(covers(name, p) for name in names | others)}
        assert not unlisted, f"{stage} reads and does not list {sorted(unlisted)}"
        unread = {name for name in names if not any(covers(name, p) for p in read[stage])}
        assert not unread, f"{stage} lists and does not read {sorted(unread)}"


def test_an_edit_marks_exactly_the_stages_that_run_the_line(project, recorded):
    modules, _ = recorded
    files = [f for f in sorted(project.glob("src/**/*.py")) if f.relative_to(project).as_posix() not in EXEMPT]
    lines = [(file, number) for file in files for number in range(len(file.read_text("utf-8").splitlines()))]
    with chdir(project):
        for file, number in random.Random(20).sample(lines, 20):
            name = as_listed(file.relative_to(project).as_posix())
            runs = {stage for stage, loaded in modules.items() if name in {as_listed(each) for each in loaded}}
            text = file.read_text("utf-8")
            edited = text.splitlines()
            edited[number] += "  # edited"
            file.write_text("\n".join(edited) + "\n", encoding="utf-8")
            try:
                with Repo() as repo:
                    assert set(repo.status()) == runs, f"{file}, line {number + 1}"
            finally:
                file.write_text(text, encoding="utf-8")


def test_a_dropped_file_of_weights_retrains_nobody(project):
    file = project / "pretrained" / "somebody_elses.onnx"
    file.write_bytes(b"not read")
    try:
        assert ran(run(project, "dvc", "repro", "student")) == ["params"]
    finally:
        file.unlink()


def test_the_paths_of_the_workspace_are_those_of_dvc_yaml(project, listed):
    settings = params.load(project / "params.yaml")
    tag, teacher = settings.index_tag, settings.teachers[0]

    def paths(stage):
        return {Path(path) for path in listed[stage][2]}

    assert workspace.CHECKED in paths("params")
    assert workspace.EMBEDDED in paths("corpus")
    assert {workspace.corpus(settings.corpus), workspace.index_csv(tag)} <= paths("index")
    assert {workspace.index_csv(tag), workspace.images(tag)} <= paths("images")
    assert {workspace.teacher(teacher), workspace.checked_weights(teacher)} <= paths(f"teacher@{teacher}")
    assert {workspace.teacher(teacher), workspace.softlabels(teacher, tag)} <= paths(f"softlabels@{teacher}")
    assert any(path.is_relative_to(workspace.TARGETS) for path in paths("targets"))
    assert {workspace.PREDICTIONS, workspace.STUDENT_METRICS, workspace.STUDENT_CURVES} <= paths("student")
    assert workspace.CALIBRATION_METRICS in paths("calibrate")
    assert workspace.EVALUATION_METRICS in paths("evaluate")
    assert workspace.ROBUSTNESS_METRICS in paths("robustness")
    assert {workspace.BUNDLE, workspace.EXPORT_METRICS} <= paths("export")
    assert {workspace.BUNDLE, workspace.BENCHMARK_METRICS} <= paths("benchmark")
