"""Run a grid as DVC experiments: queue what is missing, keep workers on it, say what failed.

Nothing is remembered between calls but what DVC and git hold, so a call that was killed is simply made again. What a
kill can leave behind is mended first: a workspace caught while DVC was queueing, and runs whose worker died with it.
"""

import contextlib
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from celery.result import AsyncResult
from dvc.lock import LockError, make_lock
from dvc.repo import Repo, lock_repo
from dvc.repo.experiments.queue.base import QueueEntry
from dvc.repo.experiments.queue.celery import LocalCeleryQueue
from dvc.repo.experiments.queue.remove import remove_tasks

from .. import workspace
from ..errors import CheckError, UsageError
from ..files import read_json, write_json
from ..study.grid import Run
from . import experiments
from .experiments import OWN, Experiment, Present, git

STATE = workspace.SCRATCH / "study"
QUEUEING = STATE / "queueing.json"
POLL = 2.0  # seconds between looks at the queue
RESTART = 30.0  # seconds that workers get to come up before more are started
NOT_RUN = "it was not run"
TAIL = 8  # lines of a failed run's log to show


class Progress(NamedTuple):
    """Where a study stands. `seconds_left` is None until a run has ended."""

    done: int
    running: int
    waiting: int
    failed: int
    seconds_left: float | None


class Failure(NamedTuple):
    name: str
    why: str
    log: str


def standing(runs: list[Run], now: Present) -> dict[str, str]:
    """For each run "" if it is done, else why it is not.

    A run is done if an experiment of its name, started from HEAD or an ancestor of it, fits the present workspace.
    """
    by_name: dict[str, list[Experiment]] = {}
    for experiment in experiments.read(experiments.baselines([]), []):
        by_name.setdefault(experiment.name, []).append(experiment)
    found = {}
    for run in runs:
        reasons = [experiments.misfit(experiment, now, run.overrides) for experiment in by_name.get(run.name, [])]
        found[run.name] = "" if "" in reasons else (reasons or [NOT_RUN])[0]
    return found


def require_ready(now: Present) -> None:
    """Refuse a workspace whose runs could not be repeated, or would each make again what they share.

    Raises
    ------
    UsageError
        If what runs depend on is not committed, or a stage before `targets` is not up to date.
    """
    paths = {path for facts in now.stages.values() for path in facts["sources"]}
    changed = git("status", "--porcelain", "--", "dvc.yaml", "dvc.lock", "params.yaml", ".dvc/config", *sorted(paths))
    if changed:
        files = [line[3:] for line in changed.decode().splitlines()]
        raise UsageError(
            f"not committed: {_some(files)}",
            expected="what runs depend on in a commit, so that they can be repeated",
            hint="git commit, or git stash, and start again",
        )
    with Repo() as repo:
        stale = repo.status(targets=[stage for stage in now.stages if stage not in OWN])
    if stale:
        raise UsageError(
            f"not up to date: {_some(list(stale))}",
            expected="the stages that all runs share, run once and in dvc.lock",
            hint="dvc repro evaluate, or dvc pull if the data is elsewhere; then commit dvc.lock, metrics and plots",
        )


def run(runs: list[Run], now: Present, jobs: int, tell: Callable[[Progress], None]) -> list[Failure]:
    """Run what is missing, and return what failed.

    Parameters
    ----------
    runs : list of Run
        The grid.
    now : Present
        The workspace; see `require_ready`.
    jobs : int
        Workers at a time.
    tell : callable
        Called about every two seconds with where the study stands.

    Raises
    ------
    UsageError
        If another study is running here.
    CheckError
        On Ctrl-C or SIGTERM, after the workers were stopped. What is done stays; the next call goes on.
    """
    with _alone(), Repo() as repo:
        queue = repo.experiments.celery_queue
        _mend(queue, {run.name for run in runs})
        previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            return _finish(repo, queue, runs, now, jobs, tell)
        except KeyboardInterrupt:
            _stop(queue)
            raise CheckError(
                "stopped, and the workers with it", hint="ferdistill study run again to go on; nothing done is lost"
            ) from None
        finally:
            signal.signal(signal.SIGTERM, previous)


def _finish(
    repo: Repo,
    queue: LocalCeleryQueue,
    runs: list[Run],
    now: Present,
    jobs: int,
    tell: Callable[[Progress], None],
) -> list[Failure]:
    missing = {name for name, why in standing(runs, now).items() if why}
    entries = _entries(queue, missing)
    first, later = _pioneers([run for run in runs if run.name in missing - entries.keys()], now)
    for run in first:
        entries[run.name] = _queue(repo, queue, run)
        if len(entries) == jobs:  # queueing takes a second or two a run, so the first ones start meanwhile
            _start(jobs)
    begun = time.monotonic()
    started = float("-inf")
    finished: dict[str, str] = {}
    retried: set[str] = set()
    while True:
        queued, active = _names(queue.iter_queued()), _names(queue.iter_active())
        entries |= {name: entry for name, entry in (queued | active).items() if name in missing}
        ended = entries.keys() - queued.keys() - active.keys() - finished.keys()
        if ended:
            finished |= standing([run for run in runs if run.name in ended], now)
        for pioneer in [name for name in later if name in finished]:
            for run in later.pop(pioneer):
                entries[run.name] = _queue(repo, queue, run)
        failed = [name for name, why in finished.items() if why]
        waiting = len(missing) - len(finished) - len(active.keys() & missing)
        pace = (time.monotonic() - begun) / len(finished) if finished else None
        left = None if pace is None else pace * (len(missing) - len(finished))
        done = len(runs) - len(missing) + len(finished) - len(failed)
        tell(Progress(done, len(active.keys() & missing), waiting, len(failed), left))
        if len(finished) == len(missing):
            break
        alive = len(_workers(queue))
        if not alive:
            # Tasks that a dead worker had taken stay `Running` for ever.
            lost = {name for name in active if name in missing}
            _drop(queue, [active[name] for name in lost])
            for run in runs:
                if run.name in lost and run.name not in retried:
                    entries[run.name] = _queue(repo, queue, run)
            finished |= dict.fromkeys(lost & retried, "its worker died twice, perhaps for want of memory")
            retried |= lost
        if alive < jobs and _names(queue.iter_queued()) and time.monotonic() - started > RESTART:
            _start(jobs)
            started = time.monotonic()
        time.sleep(POLL)
    return [_failure(queue, entries[name], finished[name]) for name in (run.name for run in runs) if name in failed]


def _pioneers(missing: list[Run], now: Present) -> tuple[list[Run], dict[str, list[Run]]]:
    """Split runs into those to queue at once, and those to queue when a named one has ended.

    Runs with other `views` than the workspace need soft labels of their own. One of them makes these, and leaves them
    in DVC's run cache for the rest; side by side, two workers would each make them.
    """
    leaders: dict[int, str] = {}
    first: list[Run] = []
    later: dict[str, list[Run]] = {}
    for run in missing:
        views = run.overrides.get("views", now.params["views"])
        if views == now.params["views"]:
            first.append(run)
        elif views not in leaders:
            leaders[views] = run.name
            later[run.name] = []
            first.insert(0, run)
        else:
            later[leaders[views]].append(run)
    return first, later


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Hold the lock of this workspace's study; the system lets it go when the process dies."""
    STATE.mkdir(parents=True, exist_ok=True)
    try:
        with make_lock(str(STATE / "lock")):
            yield
    except LockError:
        raise UsageError("another study is running in this workspace", hint="wait for it, or stop it") from None


def _queue(repo: Repo, queue: LocalCeleryQueue, run: Run) -> QueueEntry:
    """Queue one run. DVC detaches HEAD and edits params.yaml meanwhile; `_mend_workspace` undoes it after a kill."""
    head = git("rev-parse", "HEAD").decode().strip()
    ref = f"refs/exps/{head[:2]}/{head[2:]}/{run.name}"
    if old := git("for-each-ref", "--format=%(objectname)", ref).decode().strip():
        # It does not fit, and DVC would refuse the name. It keeps its results under another.
        git("update-ref", f"{ref}-{old[:7]}", old)
        git("update-ref", "-d", ref)
    write_json(QUEUEING, {"head": head, "branch": _branch(), "stash": _stash()})
    params = {"params.yaml": [f"{key}={_override(value)}" for key, value in run.overrides.items()]}
    with lock_repo(repo):
        entry = repo.experiments.queue_one(queue, targets=["evaluate"], params=params, name=run.name)
    QUEUEING.unlink()
    return entry


def _branch() -> str:
    """The branch that HEAD is on, "" if it is detached."""
    done = subprocess.run(["git", "symbolic-ref", "-q", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def _override(value: Any) -> str:
    """A value in Hydra's grammar. Quoted, a name such as 6E1 stays a name."""
    return f"'{value}'" if isinstance(value, str) else repr(value)


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


def _workers(queue: LocalCeleryQueue) -> list[psutil.Process]:
    """Living workers of this repository's queue. Asking them, as DVC does, fails when the machine is busy."""
    node = f"dvc-exp-{hashlib.sha256(queue.wdir.encode()).hexdigest()[:6]}-"
    return [process for process in _processes("cmdline") if any(a.startswith(node) for a in process.info["cmdline"])]


def _processes(*attributes: str) -> list[psutil.Process]:
    """Processes whose attributes we may see."""
    return [p for p in psutil.process_iter([*attributes]) if all(p.info[name] for name in attributes)]


def _names(entries: Iterable[QueueEntry]) -> dict[str, QueueEntry]:
    return {entry.name: entry for entry in entries}


def _entries(queue: LocalCeleryQueue, names: set[str]) -> dict[str, QueueEntry]:
    """Entries of ours that an earlier call left queued or running."""
    found = _names(queue.iter_queued()) | _names(queue.iter_active())
    return {name: entry for name, entry in found.items() if name in names}


def _mend(queue: LocalCeleryQueue, names: set[str]) -> None:
    """Undo what a kill left: see the module."""
    _mend_workspace()
    head = git("rev-parse", "HEAD").decode().strip()
    # Of another commit, so not what would be queued now; and failures, which are tried again.
    stale = [entry for entry in queue.iter_queued() if entry.name in names and entry.baseline_rev != head]
    stale += [result.entry for result in queue.iter_failed() if result.entry.name in names]
    if not _workers(queue):
        stale += queue.iter_active()
    _drop(queue, stale)
    waiting = [*queue.iter_queued(), *queue.iter_active()]
    others = [entry.name for entry in waiting if entry.name not in names]
    if others:
        raise UsageError(
            f"the queue holds other experiments: {_some(others)}",
            expected="a queue with runs of this grid alone, since workers take whatever is there",
            hint="let them finish with dvc queue start, or take them out with dvc queue remove",
        )
    known = {entry.stash_rev for entry in waiting}
    stashed = queue.stash.stash_revs
    queue.stash.remove_revs([e for rev, e in stashed.items() if e.name in names and rev not in known])


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


def _drop(queue: LocalCeleryQueue, entries: list[QueueEntry]) -> None:
    """Take entries out of the queue, with the processes and the folders that their workers left."""
    if not entries:
        return
    for entry in entries:
        info = Path(queue.get_infofile_path(entry.stash_rev))
        root = ""
        with contextlib.suppress(CheckError, UsageError):
            root = read_json(info)["root_dir"]
        for process in _processes("cmdline"):
            if any(entry.stash_rev in argument for argument in process.info["cmdline"]):
                _kill([process])
        if root:
            _kill([process for process in _processes("cwd") if Path(process.info["cwd"]).is_relative_to(root)])
            shutil.rmtree(root, ignore_errors=True)
    # DVC's own removal wants a result, which a task that died does not have, so those messages go first.
    revs = {entry.stash_rev for entry in entries}
    for message in list(queue.celery.iter_processed()):
        arguments, keywords, _ = message.decode()
        entry_ = keywords.get("entry_dict") or arguments[0]
        if entry_["stash_rev"] in revs and not AsyncResult(message.headers["id"], app=queue.celery).ready():
            queue.celery.purge(message.delivery_tag)
    remove_tasks(queue, entries)


def _kill(processes: list[psutil.Process]) -> None:
    """Kill processes and what they started."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            for one in [process, *process.children(recursive=True)]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.kill()


def _stop(queue: LocalCeleryQueue) -> None:
    """Kill the workers; a run that they had taken goes on from its last epoch when it is started again."""
    _kill(_workers(queue))
    _drop(queue, list(queue.iter_active()))


def _failure(queue: LocalCeleryQueue, entry: QueueEntry, why: str) -> Failure:
    """Why there is no experiment: what the run said last; or why the one that is there will not do."""
    information = queue.proc.get(entry.stash_rev)
    if information is None or not Path(information.stdout).is_file():
        return Failure(entry.name, f"{why}, and it left no log", "")
    text = Path(information.stdout).read_text(encoding="utf-8", errors="replace")
    lines = [line for line in text.splitlines() if line.strip()]
    return Failure(entry.name, "\n".join(lines[-TAIL:]) if why == NOT_RUN else why, information.stdout)


def _some(names: list[str]) -> str:
    """A few names, and how many more there are."""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more
