"""Teachers on other machines: each is an experiment of its own stages, and its results are joined here."""

from collections.abc import Callable
from pathlib import Path

import yaml

from ..errors import CheckError
from ..files import atomic
from . import dvc_private, experiments
from .executors import STATE, Executor, Settings
from .experiments import git
from .queue import Failure, Tally
from .remote import Parcel, place_of, require_reachable, require_upstream, send_parcels

LOCK = Path("dvc.lock")


def stages_of(teacher: str) -> list[str]:
    """The stages that are a teacher's own."""
    return [f"teacher@{teacher}", f"softlabels@{teacher}"]


def name_of(teacher: str) -> str:
    """The name of its experiment."""
    return f"teacher-{teacher}"


def missing(teachers: list[str]) -> list[str]:
    """Which teachers, or their soft labels, are not up to date here."""
    return [teacher for teacher in teachers if dvc_private.stale(stages_of(teacher))]


def send(
    teachers: list[str], jobs: int, executor: Executor, settings: Settings, tell: Callable[[Tally], None]
) -> list[Failure]:
    """Train teachers and make their soft labels elsewhere, `jobs` at a time, and join what came; return what failed.

    What the stages read must be committed and up to date. Raises as `remote.send_missing`, and a CheckError if what was
    joined is not what dvc.lock says.
    """
    own = tuple(stage for teacher in teachers for stage in stages_of(teacher))
    require_upstream(own, "dvc repro images, then commit dvc.lock")
    place = place_of(settings)
    with dvc_private.one_at_a_time(STATE / "lock"):
        require_reachable(executor, settings, place)
        needs = dvc_private.shared_outputs(own)
        dvc_private.push_shared(place.dvc, needs)
        parcels = [Parcel(name_of(t), stages_of(t), needs, stages_of(t)) for t in teachers]
        failed = send_parcels(place, parcels, jobs, executor, settings, tell)
        join([teacher for teacher in teachers if name_of(teacher) not in failed], place.commit, place.dvc)
        return list(failed.values())


def join(teachers: list[str], commit: str, remote: str) -> None:
    """Take the teachers' files and their part of dvc.lock from their experiments; DVC's digests say that all is there.

    A CheckError if a file is not what the lock says, as when one is missing.
    """
    there = {one.name: one for one in experiments.read([commit], [])}
    lock = yaml.safe_load(LOCK.read_text(encoding="utf-8"))
    wanted = []
    for teacher in teachers:
        its = there[name_of(teacher)]
        for stage in stages_of(teacher):
            lock["stages"][stage] = its.lock()[stage]
            for out in lock["stages"][stage]["outs"]:
                # What DVC does not keep is in the experiment's own files.
                if git("ls-tree", its.commit, "--", out["path"]):
                    git("checkout", its.commit, "--", out["path"])
                else:
                    wanted.append(out["path"])
    with atomic(LOCK) as path:
        path.write_text(yaml.safe_dump(lock, sort_keys=False), encoding="utf-8")
    dvc_private.pull(remote, wanted)
    if wrong := missing(teachers):
        raise CheckError(
            f"what came of {', '.join(wrong)} is not what its dvc.lock says",
            hint="`dvc status` names the files; the same command again makes them anew",
        )
