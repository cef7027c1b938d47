"""Soft labels in ranges of shards on other machines: each range is an experiment, and what they make is joined here.

The runs start from a commit of their own, HEAD with one more stage in dvc.yaml: `range`, which is `softlabels` of some
shards alone. No branch has it.
"""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import PurePath
from typing import Any

import yaml

from .. import workspace
from ..errors import CheckError
from ..files import atomic
from . import dvc_private, experiments
from .executors import STATE, Executor, Settings
from .experiments import git
from .queue import Failure, Tally
from .remote import Parcel, place_of, require_reachable, require_upstream, send_parcels


def keys_of(teachers: list[str], number: int) -> dict[str, list[str]]:
    """For each teacher the names of its ranges, by which the stages are told apart."""
    return {teacher: [f"{teacher}~{part}~{number}" for part in range(1, number + 1)] for teacher in teachers}


def commit_with_ranges(teachers: list[str], number: int) -> str:
    """The commit that runs of ranges start from; the same each time for the same HEAD."""
    pipeline = yaml.safe_load(git("show", "HEAD:dvc.yaml"))
    stage: dict[str, Any] = dict(pipeline["stages"]["softlabels"]["do"])
    stage.pop("metrics", None)
    stage["deps"] = [
        dep.replace("${item}", "${item.teacher}")
        for dep in stage["deps"]
        if not PurePath(dep).is_relative_to(workspace.RAW)  # only to compare with a known truth, which joining does
    ]
    stage["outs"] = [workspace.range_made("${key}").as_posix()]
    stage["desc"] = "One teacher's logits for the images of some shards"
    keys = {key: {"teacher": teacher} for teacher, its in keys_of(teachers, number).items() for key in its}
    pipeline["stages"]["range"] = {"foreach": keys, "do": stage}
    text = yaml.safe_dump(pipeline, sort_keys=False, allow_unicode=True).encode()
    blob = git("hash-object", "-w", "--stdin", stdin=text).strip()
    entries = git("ls-tree", "HEAD").splitlines(keepends=True)
    changed = [b"100644 blob %s\tdvc.yaml\n" % blob if line.endswith(b"\tdvc.yaml\n") else line for line in entries]
    tree = git("mktree", stdin=b"".join(changed)).strip()
    head = git("rev-parse", "HEAD").strip()
    when = git("show", "-s", "--format=%ct", "HEAD").strip()
    who = b" ".join([git("config", "user.name").strip(), b"<%s>" % git("config", "user.email").strip(), when, b"+0000"])
    lines = [b"tree " + tree, b"parent " + head, b"author " + who, b"committer " + who, b"", b"Ranges of soft labels\n"]
    return git("hash-object", "-t", "commit", "-w", "--stdin", stdin=b"\n".join(lines)).decode().strip()


def send(
    teachers: list[str],
    number: int,
    jobs: int,
    executor: Executor,
    settings: Settings,
    tell: Callable[[Tally], None],
) -> list[Failure]:
    """Make the soft labels of teachers elsewhere, each in `number` ranges, `jobs` at a time, and join what came.

    The teachers must be up to date and committed. Returns what failed; a teacher of which a range failed is not
    joined. Raises as `remote.send_missing`, and a CheckError if what came does not fit together.
    """
    own = tuple(f"softlabels@{teacher}" for teacher in teachers)
    require_upstream(own, "ranges are of teachers that are trained: run these first, and commit dvc.lock")
    place = place_of(settings)
    commit = commit_with_ranges(teachers, number)
    place = place._replace(commit=commit, ref=f"refs/ferdistill/{commit}")
    with dvc_private.one_at_a_time(STATE / "lock"):
        require_reachable(executor, settings, place)
        needs = [out for out in dvc_private.shared_outputs(own) if not PurePath(out).is_relative_to(workspace.RAW)]
        dvc_private.push_shared(place.dvc, needs)
        keys = keys_of(teachers, number)
        parcels = [
            Parcel(name_of(key), [f"range@{key}"], needs, [f"range@{key}"]) for its in keys.values() for key in its
        ]
        failed = send_parcels(place, parcels, jobs, executor, settings, tell)
        for teacher, its in keys.items():
            if not any(name_of(key) in failed for key in its):
                join(teacher, its, commit, place.dvc)
        return list(failed.values())


def name_of(key: str) -> str:
    """The name of a range's experiment."""
    return "labels-" + key.replace("~", "-", 1).replace("~", "-of-")


def join(teacher: str, keys: list[str], commit: str, remote: str) -> None:
    """Give a teacher's ranges to its stage `softlabels`, which holds them against index and weights and joins them.

    A UsageError if a file of one cannot be had, a CheckError if the stage fails.
    """
    locks = {one.name: one.lock() for one in experiments.read([commit], [])}
    if missing := [key for key in keys if name_of(key) not in locks]:
        raise CheckError(
            f"ranges are missing: {', '.join(map(name_of, missing[:10]))}", hint="the same command makes them"
        )
    md5s = {key: locks[name_of(key)][f"range@{key}"]["outs"][0]["md5"] for key in keys}
    dvc_private.fetch(remote, list(md5s.values()))
    cache, folder = dvc_private.local_cache(), workspace.ranges(teacher)
    assert cache is not None
    shutil.rmtree(folder, ignore_errors=True)
    try:
        for key, md5 in md5s.items():
            _, part, of = key.split("~")
            with atomic(folder / f"{part}-of-{of}.safetensors") as temporary:
                shutil.copyfile(dvc_private.stored(cache, md5), temporary)
        command = [sys.executable, "-m", "dvc", "repro", "--quiet", "--single-item", f"softlabels@{teacher}"]
        if subprocess.run(command, check=False).returncode:
            raise CheckError(
                f"the ranges of {teacher} came, and were not joined",
                where=f"softlabels@{teacher}",
                hint="its message stands above",
            )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
