"""Run a grid as DVC experiments: queue what is missing, keep workers on it, say what failed.

Nothing is remembered between calls but what DVC and git hold, so a call that was killed is simply made again. What a
kill can leave behind is mended first: a workspace caught while DVC was queueing, and runs whose worker died with it.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from .. import workspace
from ..errors import CheckError, UsageError
from ..files import read_json, write_json
from . import experiments
from .dvc_private import ExperimentQueue, Queued, experiment_queue, local_cache, stale
from .experiments import OWN, PlannedRun, Present, git

STATE = workspace.SCRATCH / "study"
QUEUEING = STATE / "queueing.json"
WORKERS = workspace.SCRATCH / "exps/celery"  # where DVC has the logs of its workers
POLL = 2.0  # seconds between looks at the queue
RESTART = 30.0  # seconds that workers get to come up before more are started
NOT_RUN = "it was not run"
TAIL = 8  # lines of a failed run's log to show


class Tally(NamedTuple):
    """Where a study stands. `seconds_left` is None until a run has ended; `workers` is what each node does."""

    done: int
    running: int
    waiting: int
    failed: int
    seconds_left: float | None
    workers: tuple[str, ...] = ()


class Failure(NamedTuple):
    name: str
    why: str
    log: str


def standing(runs: list[PlannedRun], now: Present) -> dict[str, str]:
    """For each run "" if it is done, else why it is not.

    A run is done if an experiment of its name, started from HEAD or an ancestor of it, fits the present workspace.
    """
    there: dict[str, list[experiments.Experiment]] = {run.name: [] for run in runs}
    for one in experiments.read(experiments.baselines([]), [], set(there)):
        there[one.name].append(one)
    found = {}
    for run in runs:
        reasons = [experiments.misfit(one, now, run.overrides) for one in there[run.name]]
        found[run.name] = "" if "" in reasons else (reasons or [NOT_RUN])[0]
    return found


def require_ready(now: Present) -> None:
    """Refuse a workspace whose runs could not be repeated, or would each make again what they share.

    A UsageError if what runs depend on is not committed, a stage before `targets` is not up to date, or DVC cannot make
    the workspaces of runs.
    """
    cache = local_cache()
    if cache and not str(cache).isascii():  # DVC writes it into a file of each run's workspace, as ASCII
        raise UsageError(
            "DVC cannot queue runs where the path of its cache has letters that are not ASCII",
            where=str(cache),
            expected="an ASCII path; that of the repository may stay as it is",
            hint="`dvc cache dir --local /ASCII/PATH`, then move there what the old folder holds",
        )
    require_committed(now.stages)
    if behind := stale([stage for stage in now.stages if stage not in OWN]):
        raise UsageError(
            f"not up to date: {_some(behind)}",
            expected="the stages that all runs share, run once and in dvc.lock",
            hint="dvc repro evaluate, or dvc pull if the data is elsewhere; then commit dvc.lock, metrics and plots",
        )


def require_committed(stages: dict[str, dict[str, Any]]) -> None:
    """Refuse a workspace in which what some stages depend on is not committed: a UsageError."""
    paths = {path for facts in stages.values() for path in facts["sources"]}
    changed = git("status", "--porcelain", "--", "dvc.yaml", "dvc.lock", "params.yaml", ".dvc/config", *sorted(paths))
    if changed:
        raise UsageError(
            f"not committed: {_some([line[3:] for line in changed.decode().splitlines()])}",
            expected="what runs depend on in a commit, so that they can be repeated",
            hint="git commit, or git stash, and start again",
        )


def run_missing(runs: list[PlannedRun], now: Present, jobs: int, tell: Callable[[Tally], None]) -> list[Failure]:
    """Run what is missing of a grid, with `jobs` workers at a time, and return what failed.

    `now` is the workspace, see `require_ready`; `tell` is called about every two seconds with where the study stands.

    Raises
    ------
    UsageError
        If another study is running here.
    CheckError
        On Ctrl-C or SIGTERM, after the workers were stopped. What is done stays; the next call goes on.
    """
    with experiment_queue(STATE / "lock") as queue:
        _mend(queue, {run.name for run in runs})
        previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            return _finish(queue, runs, now, jobs, tell)
        except KeyboardInterrupt:
            # A run that the workers had taken goes on from its last epoch when it is started again.
            _kill(_workers(queue))
            _drop(queue, queue.active())
            raise CheckError(
                "stopped, and the workers with it", hint="ferdistill study run again to go on; nothing done is lost"
            ) from None
        finally:
            signal.signal(signal.SIGTERM, previous)


def _finish(
    queue: ExperimentQueue, runs: list[PlannedRun], now: Present, jobs: int, tell: Callable[[Tally], None]
) -> list[Failure]:
    missing = {name for name, why in standing(runs, now).items() if why}
    # Those that an earlier call left queued or running.
    entries = {one.name: one for one in [*queue.waiting(), *queue.active()] if one.name in missing}
    first, later = split_by_shared([run for run in runs if run.name in missing - entries.keys()], now)
    for run in first:
        entries[run.name] = _add(queue, run)
        if len(entries) == jobs:  # queueing takes a second or two a run, so the first ones start meanwhile
            _start(jobs)
    begun = time.monotonic()
    started = float("-inf")
    finished: dict[str, str] = {}
    retried: set[str] = set()
    while True:
        waiting, active = ({one.name: one for one in part} for part in (queue.waiting(), queue.active()))
        entries |= {name: one for name, one in (waiting | active).items() if name in missing}
        ended = entries.keys() - waiting.keys() - active.keys() - finished.keys()
        if ended:
            finished |= standing([run for run in runs if run.name in ended], now)
        for leader in [name for name in later if name in finished]:
            for run in later.pop(leader):
                entries[run.name] = _add(queue, run)
        failed = [name for name, why in finished.items() if why]
        running, left = len(active.keys() & missing), len(missing) - len(finished)
        seconds = (time.monotonic() - begun) / len(finished) * left if finished else None
        done = len(runs) - len(missing) + len(finished) - len(failed)
        tell(Tally(done, running, left - running, len(failed), seconds))
        if not left:
            break
        alive = len(_workers(queue))
        if not alive:
            # Tasks that a dead worker had taken stay `Running` for ever.
            lost = active.keys() & missing
            _drop(queue, [active[name] for name in lost])
            for run in runs:
                if run.name in lost - retried:
                    entries[run.name] = _add(queue, run)
            finished |= dict.fromkeys(lost & retried, "its worker died twice, perhaps for want of memory")
            retried |= lost
        if alive < jobs and queue.waiting() and time.monotonic() - started > RESTART:
            _start(jobs)
            started = time.monotonic()
        time.sleep(POLL)
    return [_failure(queue, entries[name], finished[name]) for name in (run.name for run in runs) if name in failed]


def split_by_shared(missing: list[PlannedRun], now: Present) -> tuple[list[PlannedRun], dict[str, list[PlannedRun]]]:
    """Split runs into those to queue at once, and those to queue when a named one has ended.

    Runs that set a param of the stages before `targets` otherwise than the workspace, as other `views`, need soft
    labels of their own. One of them makes these, and leaves them in DVC's run cache for the rest; side by side, two
    workers would each make them.
    """
    shared = {key for stage, facts in now.stages.items() if stage not in OWN for key in facts["params"]}
    groups: dict[str, list[PlannedRun]] = defaultdict(list)
    for run in missing:
        changed = {key: v for key, v in run.overrides.items() if key in shared and v != now.params[key]}
        groups[repr(changed) if changed else ""].append(run)
    alike = groups.pop("", [])
    leaders = [group[0] for group in groups.values()]
    return [*leaders[::-1], *alike], {group[0].name: group[1:] for group in groups.values()}


def _add(queue: ExperimentQueue, run: PlannedRun) -> Queued:
    """Queue one run. DVC detaches HEAD and edits params.yaml meanwhile; `_mend_workspace` undoes it after a kill."""
    head = git("rev-parse", "HEAD").decode().strip()
    ref = f"refs/exps/{head[:2]}/{head[2:]}/{run.name}"
    if old := git("for-each-ref", "--format=%(objectname)", ref).decode().strip():
        # It does not fit, and DVC would refuse the name. It keeps its results under another.
        git("update-ref", f"{ref}-{old[:7]}", old)
        git("update-ref", "-d", ref)
    write_json(QUEUEING, {"head": head, "branch": _branch(), "stash": _stash()})
    # Quoted, a name such as 6E1 stays a name in Hydra's grammar.
    queued = queue.add(run.name, [f"{key}={value!r}" for key, value in run.overrides.items()])
    QUEUEING.unlink()
    return queued


def _branch() -> str:
    """The branch that HEAD is on, "" if it is detached."""
    ref = git("rev-parse", "--symbolic-full-name", "HEAD").decode().strip()
    return "" if ref == "HEAD" else ref


def _stash() -> str:
    """The newest entry of git's stash, "" if it is empty."""
    return git("for-each-ref", "--format=%(objectname)", "refs/stash").decode().strip()


def _start(jobs: int) -> None:
    """Start workers up to `jobs`; DVC starts those that are not there."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = [sys.executable, "-m", "dvc", "queue", "start", "--jobs", str(jobs)]
    # A session of their own, so that Ctrl-C here does not reach them before we decide.
    subprocess.run(
        command, env=os.environ | {"PATH": path}, start_new_session=True, stdout=subprocess.DEVNULL, check=True
    )


def _workers(queue: ExperimentQueue) -> list[psutil.Process]:
    """Living workers of this repository's queue. Asking them, as DVC does, fails when the machine is busy."""
    return [p for p in _processes("cmdline") if any(part.startswith(queue.workers) for part in p.info["cmdline"])]


def _processes(attribute: str) -> list[psutil.Process]:
    """Processes that have an attribute which we may see."""
    return [process for process in psutil.process_iter([attribute]) if process.info[attribute]]


def _mend(queue: ExperimentQueue, names: set[str]) -> None:
    """Undo what a kill left: see the module."""
    _mend_workspace()
    head = git("rev-parse", "HEAD").decode().strip()
    # Of another commit, so not what would be queued now; and failures, which are tried again.
    unfit = [one for one in queue.waiting() if one.name in names and one.baseline != head]
    unfit += [one for one in queue.failed() if one.name in names]
    if not _workers(queue):
        unfit += queue.active()
    _drop(queue, unfit)
    left = [*queue.waiting(), *queue.active()]
    if others := [one.name for one in left if one.name not in names]:
        raise UsageError(
            f"the queue holds other experiments: {_some(others)}",
            expected="a queue with runs of this grid alone, since workers take whatever is there",
            hint="let them finish with dvc queue start, or take them out with dvc queue remove",
        )
    queue.forget(names, but={one.rev for one in left})


def _mend_workspace() -> None:
    """Put HEAD, params.yaml and the user's edits back as they were when DVC was killed while it queued a run.

    DVC stashes edits, detaches HEAD, edits params.yaml, commits all that, and undoes it in the reverse order.
    """
    if not QUEUEING.is_file():
        return
    before = read_json(QUEUEING)
    Path(git("rev-parse", "--git-path", "index.lock").decode().strip()).unlink(missing_ok=True)
    edited = set(git("diff", "--name-only", "HEAD").decode().split()) - {".dvc/tmp/repro.dat"}
    stashed = _stash() != before["stash"]
    safe = git("rev-parse", "HEAD").decode().strip() == before["head"]
    if stashed:
        safe &= edited <= {"params.yaml", *git("stash", "show", "--name-only").decode().split()}
    elif _branch() == before["branch"] and "params.yaml" not in edited:
        QUEUEING.unlink()  # killed before DVC began, or after it was done
        return
    else:
        safe &= bool(before["branch"]) and not _branch() and edited <= {"params.yaml"}
    if not safe:
        raise CheckError(
            "an earlier study run was killed while DVC had the workspace in hand, and it was changed since",
            where=f"it was at {before['branch'] or 'a detached HEAD'}, {before['head'][:10]}",
            hint=f"see git status and git stash list, put HEAD and params.yaml right, then delete {QUEUEING}",
        )
    if before["branch"]:
        git("symbolic-ref", "HEAD", before["branch"])
    git("reset", "--hard", "--quiet")
    if stashed:
        git("stash", "pop", "--quiet")
    QUEUEING.unlink()


def _drop(queue: ExperimentQueue, entries: list[Queued]) -> None:
    """Take entries out of the queue, with the processes and the folders that their workers left."""
    for one in entries:
        root = queue.workspace_of(one)
        _kill([p for p in _processes("cmdline") if any(one.rev in argument for argument in p.info["cmdline"])])
        if root:
            _kill([process for process in _processes("cwd") if Path(process.info["cwd"]).is_relative_to(root)])
            shutil.rmtree(root, ignore_errors=True)
    if entries:
        queue.remove(entries)


def _kill(processes: list[psutil.Process]) -> None:
    """Kill processes and what they started."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            for one in [process, *process.children(recursive=True)]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.kill()


def _failure(queue: ExperimentQueue, run: Queued, why: str) -> Failure:
    """Why there is no experiment: what the run said last; or why the one that is there will not do."""
    log = queue.log(run)
    if log is None:
        return Failure(run.name, f"{why}, and it left no log; its worker's own may say why", WORKERS.as_posix())
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return Failure(run.name, "\n".join(lines[-TAIL:]) if why == NOT_RUN else why, str(log))


def _some(names: list[str]) -> str:
    """A few names, and how many more there are."""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more
