"""Run a grid on other machines: check, send what is missing, bring back what was made.

A run has ended when its experiment is on git's remote, and nothing else is remembered. So a run that was lost is sent
again, one that two drivers sent ends once, and a driver that was killed is simply started again.
"""

import hashlib
import json
import re
import shlex
import signal
import subprocess
import sys
import time
import tomllib
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from packaging.requirements import Requirement

from ..errors import CheckError, UsageError
from ..files import atomic
from . import dvc_private, experiments, worker
from .executors import SETTINGS, STATE, Executor, Settings, Sight
from .experiments import OWN, PlannedRun, Present, git
from .queue import NOT_RUN, TAIL, Failure, Tally, require_committed, split_by_shared, standing

LOGS = STATE / "logs"
POLL = 1.0  # seconds between looks at the jobs


class Place(NamedTuple):
    """Where runs find code and data: git's remote and its address, DVC's remote, and the ref of the commit."""

    git: str
    url: str
    dvc: str
    commit: str
    ref: str


def place_of(settings: Settings) -> Place:
    """The remotes, as the workspace names them; a UsageError if one is missing, or its address holds a password."""
    commit = git("rev-parse", "HEAD").decode().strip()
    names = git("remote").decode().split()
    if settings.git not in names:
        raise UsageError(
            f"no git remote {settings.git}: workers would have no code",
            where=f"{SETTINGS}, git",
            expected=f"one of {', '.join(names)}" if names else "a remote of git",
            hint="git remote add NAME URL",
        )
    url = git("remote", "get-url", settings.git).decode().strip()
    name, address = dvc_private.remote_of(settings.dvc)
    for what, where in (("git", url), ("DVC", address)):
        if worker.SECRET.search(where):
            raise UsageError(
                f"the address of {what}'s remote holds a password, which would be sent with each run",
                expected="an address alone",
                hint="a key of ssh, a credential helper of git, or `dvc remote modify --local` on each machine",
            )
    known = git("show", "HEAD:.dvc/config").decode()
    if f'remote "{name}"' not in known and not settings.dvc_config:
        raise UsageError(
            f"workers do not know DVC's remote {name}: .dvc/config in HEAD does not have it",
            hint=f"commit it, or name a file of a worker that has it: dvc_config in {SETTINGS}",
        )
    return Place(settings.git, url, name, commit, f"refs/ferdistill/{commit}")


@cache
def packages() -> dict[str, str]:
    """The packages that the pipeline needs, with theirs, by the release that is installed here."""
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    waiting = [*project["dependencies"], f"{project['name']}[train]"]
    found: dict[str, str] = {}
    while waiting:
        wanted = Requirement(waiting.pop())
        if wanted.name == project["name"]:
            waiting += [line for extra in wanted.extras for line in project["optional-dependencies"][extra]]
            continue
        if wanted.marker and not wanted.marker.evaluate({"extra": ""}):
            continue
        name = re.sub(r"[-_.]+", "-", wanted.name).lower()
        if name not in found:
            try:
                of = metadata.distribution(name)
            except metadata.PackageNotFoundError:
                continue
            found[name] = of.version.partition("+")[0]
            waiting += of.requires or []
    return found


def order(settings: Settings, place: Place, **of_run: Any) -> dict[str, Any]:
    """What a worker is told, see `worker`; `of_run` replaces what asks for nothing but a look at the node."""
    user = {key: git("config", f"user.{key}").decode().strip() for key in ("name", "email")}
    return {
        "python": ".".join(map(str, sys.version_info[:2])),
        "packages": packages(),
        "git": place.url,
        "commit": place.commit,
        "ref": place.ref,
        "remote": place.dvc,
        "user": user,
        "scratch": settings.scratch,
        "min_free_gb": settings.min_free_gb,
        "dvc_config": settings.dvc_config,
        "patience": settings.patience_seconds,
        "experiment": "",
        "command": [],
        "needs": [],
        "push": [],
    } | of_run


def command(settings: Settings) -> list[str]:
    """The command line of a worker: the cluster's own lines, then the text of `worker`."""
    text = Path(worker.__file__).read_text(encoding="utf-8")
    lines = ["set -e", *settings.setup, f'exec {settings.python} -c "$1"']
    return ["bash", "-c", "\n".join(lines), "worker", text]


def require_reachable(executor: Executor, settings: Settings, place: Place) -> None:
    """Refuse what would fail on every node: remotes without rights, an executor that is not there, unlike packages."""
    executor.check()
    dvc_private.require_writable(place.dvc)
    push = ["git", "push", "--quiet", place.git, f"+{place.commit}:{place.ref}"]
    pushed = subprocess.run(push, capture_output=True, text=True, check=False)
    if pushed.returncode:
        said = worker.SECRET.sub(r"\1***@", pushed.stderr.strip())
        raise UsageError(
            f"git's remote {place.git} cannot be pushed to: {said}", expected="a remote that you may read and write"
        )
    job = executor.submit("probe", command(settings), json.dumps(order(settings, place)))
    end = time.monotonic() + settings.probe_seconds
    seen = executor.look([job])[job]
    while seen.state != "ended" and time.monotonic() < end:
        time.sleep(POLL)
        seen = executor.look([job])[job]
    if seen.state == "waiting":
        executor.cancel([job])  # a busy cluster; each worker looks for itself before it begins
        return
    found = _outcome(seen)
    if found["state"] == "unfit":
        raise _unlike(found["why"])
    if found["state"] == "cut off":
        raise UsageError(
            f"a worker cannot reach git's remote: {found['why']}",
            where=f"{SETTINGS}, git and setup",
            expected=f"`git ls-remote {place.url}` to work on a node as it does here",
            hint="a job of SLURM has the environment of this command, a task of Ray that of its node's `ray start`: "
            "export in setup what git needs (GIT_SSH_COMMAND, …), or configure git and ssh on the nodes",
        )
    if found["state"] != "done":
        executor.cancel([job])
        raise UsageError(
            f"a worker did not answer: {found['why']}",
            where=f"{SETTINGS}, python and setup",
            expected=f"`{shlex.join([settings.python, '--version'])}` to work on a node after the lines of setup",
        )


def _unlike(why: str) -> UsageError:
    return UsageError(
        f"a worker's packages are others than here: {why}",
        where=f"{SETTINGS}, python and setup",
        expected="the same releases, since others may round otherwise",
        hint="pip install -c constraints.txt on both",
    )


def bring(place: Place) -> None:
    """Fetch the experiments that started from the commit. What is here under the same name gives way to it."""
    prefix = f"refs/exps/{place.commit[:2]}/{place.commit[2:]}/"
    git("fetch", "--quiet", "--no-tags", place.git, f"+{prefix}*:{prefix}*")


class Parcel(NamedTuple):
    """One run to send: what `dvc exp run` is told beside its name, what to pull before it, and to push after it."""

    name: str
    arguments: list[str]
    needs: list[str]
    push: list[str]


def send_missing(
    runs: list[PlannedRun],
    now: Present,
    jobs: int,
    executor: Executor,
    settings: Settings,
    tell: Callable[[Tally], None],
) -> list[Failure]:
    """Run what is missing of a grid, `jobs` at a time, on an executor; return what failed.

    Raises
    ------
    UsageError
        If something would fail on every node, before anything is sent; or another study is running here.
    CheckError
        On Ctrl-C or SIGTERM, after the jobs were cancelled. What is done stays; the next call goes on.
    """
    place = place_of(settings)
    with dvc_private.one_at_a_time(STATE / "lock"):
        require_reachable(executor, settings, place)
        needs = dvc_private.shared_outputs(OWN)
        bring(place)
        reasons = standing(runs, now)
        first, later = split_by_shared([run for run in runs if reasons[run.name]], now)
        # Runs with soft labels of their own make them, or find in DVC's run cache what another one made.
        whole = {run.name for group in later.values() for run in group} | later.keys()
        if first:
            dvc_private.push_shared(place.dvc, [] if whole else needs)

        def parcel(run: PlannedRun) -> Parcel:
            overrides = [part for key, v in run.overrides.items() for part in ("--set-param", f"{key}={v!r}")]
            if run.name in whole:
                return Parcel(
                    run.name, ["--pull", *overrides, "evaluate"], [], ["--run-cache", "--with-deps", "evaluate"]
                )
            return Parcel(run.name, [*overrides, "evaluate"], needs, ["targets", "student"])

        def arrived(names: list[str]) -> dict[str, str]:
            with suppress(UsageError):  # while the remote is away, nothing has arrived
                bring(place)
            return standing([run for run in runs if run.name in names], now)

        sending = Sending(executor, settings, place, jobs, arrived, tell)
        sending.run([*map(parcel, first)], {name: [*map(parcel, of)] for name, of in later.items()}, len(runs))
        there = experiments.read([place.commit], [], {run.name for run in runs} - sending.failed.keys())
        students = [one.lock()["student"]["outs"] for one in there]
        _patiently(lambda: dvc_private.fetch_students(place.dvc, students), settings)
        return list(sending.failed.values())


def require_upstream(own: tuple[str, ...], hint: str) -> None:
    """Refuse to send stages if what they read is not committed, or a stage before them is not up to date."""
    stages = {stage: facts for name in own for stage, facts in dvc_private.stages(name).items()}
    require_committed(stages)
    if behind := dvc_private.stale([stage for stage in stages if stage not in own]):
        raise UsageError(f"not up to date: {', '.join(behind)}", hint=hint)


def send_parcels(
    place: Place,
    parcels: list[Parcel],
    jobs: int,
    executor: Executor,
    settings: Settings,
    tell: Callable[[Tally], None],
) -> dict[str, Failure]:
    """Send those of which no experiment has started from the place's commit, `jobs` at a time; what failed, by name.

    An experiment that is there is done, whatever its params. Raises as `Sending.run`.
    """

    def arrived(names: list[str]) -> dict[str, str]:
        with suppress(UsageError):  # while the remote is away, nothing has arrived
            bring(place)
        there = {one.name for one in experiments.read([place.commit], [])}
        return {name: "" if name in there else NOT_RUN for name in names}

    absent = arrived([parcel.name for parcel in parcels])
    sending = Sending(executor, settings, place, jobs, arrived, tell)
    sending.run([parcel for parcel in parcels if absent[parcel.name]], {}, len(parcels))
    return sending.failed


def _patiently(step: Callable[[], None], settings: Settings) -> None:
    """Repeat a step while a remote is away, as workers do; at last with its own UsageError."""
    end = time.monotonic() + settings.patience_seconds
    while True:
        try:
            return step()
        except UsageError:
            if time.monotonic() > end:
                raise
        time.sleep(5)


class Sending:
    """Parcels on an executor, until each has arrived or failed; at most `most` at a time.

    `arrived` says of names "" if their experiment is there, else why it is not; `tell` is called about every second.
    """

    def __init__(
        self,
        executor: Executor,
        settings: Settings,
        place: Place,
        most: int,
        arrived: Callable[[list[str]], dict[str, str]],
        tell: Callable[[Tally], None],
    ) -> None:
        self.executor, self.settings, self.place, self.most = executor, settings, place, most
        self.arrived, self.tell = arrived, tell
        self.failed: dict[str, Failure] = {}
        self.outcomes: list[dict[str, Any]] = []
        self._jobs: dict[str, str] = {}
        self._tries: dict[str, int] = defaultdict(int)
        self._since: dict[str, float] = {}

    def run(self, first: list[Parcel], later: dict[str, list[Parcel]], total: int) -> None:
        """Send `first`, and those of `later` when the one that they wait for has ended; `total` counts those done too.

        A CheckError on Ctrl-C or SIGTERM, after the jobs were cancelled.
        """
        previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            self._run(first, later, total)
        except KeyboardInterrupt:
            self.executor.cancel(list(self._jobs.values()))
            raise CheckError(
                "stopped, and the jobs with it", hint="the same command again to go on; nothing done is lost"
            ) from None
        finally:
            signal.signal(signal.SIGTERM, previous)

    def _run(self, first: list[Parcel], later: dict[str, list[Parcel]], total: int) -> None:
        parcels = {one.name: one for group in (first, *later.values()) for one in group}
        missing, ended, begun = len(parcels), 0, time.monotonic()
        self._jobs = {name: job for name, job in self.executor.left().items() if name in {one.name for one in first}}
        waiting = [one for one in first if one.name not in self._jobs]
        while True:
            while waiting and len(self._jobs) < self.most:
                self._send(waiting.pop(0))
            seen = self.executor.look(list(self._jobs.values()))
            over = [name for name, job in self._jobs.items() if seen[job].state == "ended"]
            reasons = self.arrived(over) if over else {}
            for name in over:
                if self._settle(name, seen[self._jobs.pop(name)], reasons[name]):
                    waiting.append(parcels[name])
                else:
                    ended += 1
                    waiting += later.pop(name, [])
            nodes = {name: seen[job] for name, job in self._jobs.items() if job in seen}
            running = sum(sight.state == "running" for sight in nodes.values())
            left = missing - ended
            seconds = (time.monotonic() - begun) / ended * left if ended else None
            done = total - left - len(self.failed)
            self.tell(Tally(done, running, left - running, len(self.failed), seconds, self._workers(nodes)))
            if not left:
                return
            time.sleep(POLL)

    def _send(self, parcel: Parcel) -> None:
        self._tries[parcel.name] += 1
        commit = self.place.commit
        told = order(
            self.settings,
            self.place,
            experiment=f"refs/exps/{commit[:2]}/{commit[2:]}/{parcel.name}",
            command=["exp", "run", "--name", parcel.name, "--allow-missing", *parcel.arguments],
            needs=parcel.needs,
            push=parcel.push,
        )
        self._jobs[parcel.name] = self.executor.submit(parcel.name, command(self.settings), json.dumps(told))

    def _workers(self, nodes: dict[str, Sight]) -> tuple[str, ...]:
        """A line for each node: what it runs, and for how long."""
        now = time.monotonic()
        lines = []
        for name, sight in nodes.items():
            if sight.state == "running":
                since = self._since.setdefault(self._jobs[name], now)
                lines.append(f"{sight.node or 'a node'}: {name}, {now - since:.0f} s")
        return tuple(sorted(lines))

    def _settle(self, name: str, sight: Sight, missing: str) -> bool:
        """Note what came of a job that has ended; whether it is to be sent again."""
        outcome = _outcome(sight)
        self.outcomes.append(outcome)
        if not missing:
            return False
        if outcome["state"] == "unfit":
            raise _unlike(f"{outcome['why']}, on {outcome['node']}")
        why = outcome["why"] or missing
        log = ""
        if outcome.get("log"):
            with atomic(LOGS / f"{name}.log") as path:
                path.write_text(outcome["log"], encoding="utf-8")
            log = (LOGS / f"{name}.log").as_posix()
        if outcome["state"] == "lost" and self._tries[name] < self.settings.attempts:
            return True
        if outcome["state"] == "lost":
            why = f"{why}; sent {self._tries[name]} times"
        elif outcome["state"] == "done":
            why = missing if missing != NOT_RUN else f"its worker says that it is done, and git's remote has no {name}"
        lines = [line for line in why.splitlines() if line.strip()]
        self.failed[name] = Failure(name, "\n".join(lines[-TAIL:]), log)
        return False


def _outcome(sight: Sight) -> dict[str, Any]:
    """What a worker said last; `lost` if it said nothing."""
    lines = sight.printed.splitlines()
    try:
        return dict(json.loads(lines[-1]))
    except (IndexError, ValueError):
        where = f" on {sight.node}" if sight.node else ""
        return {"state": "lost", "why": f"its worker{where} ended without a word", "node": sight.node}


def word(place: Place) -> str:
    """A short word for the jobs of one commit."""
    return "fd-" + hashlib.sha256(f"{place.url} {place.commit}".encode()).hexdigest()[:8]
