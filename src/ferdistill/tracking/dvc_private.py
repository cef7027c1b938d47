"""All that this package uses of DVC's inside, which a release may change unsaid: then this module alone is mended.

Importing it imports DVC, which takes a second, so that is done where it is needed.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from hashlib import sha256
from pathlib import Path, PurePath
from typing import Any, NamedTuple
from uuid import uuid4

import dvc

from ..errors import CheckError, UsageError
from ..files import read_json

KNOWN = "3.67"  # as in pyproject.toml


@contextmanager
def known_interface() -> Iterator[None]:
    """Turn what a changed interface raises into one error that says so."""
    try:
        yield
    except (AttributeError, ImportError, TypeError) as error:
        raise UsageError(
            f"DVC {dvc.__version__} is not inside as this package knows it: {error}",
            expected=f"DVC {KNOWN}",
            hint=f"pip install 'dvc=={KNOWN}.*'",
        ) from error


with known_interface():
    from celery.result import AsyncResult
    from dvc.exceptions import DvcException, NotDvcRepoError
    from dvc.lock import LockError, make_lock
    from dvc.repo import Repo, lock_repo
    from dvc.repo.experiments.queue.remove import remove_tasks
    from dvc_data.hashfile.hash_info import HashInfo
    from networkx import topological_sort


class Queued(NamedTuple):
    """An experiment in DVC's queue: its name, the commit that it is stashed in, and the one that it starts from."""

    name: str
    rev: str
    baseline: str
    entry: Any


class Output(NamedTuple):
    """A file or folder that DVC keeps and takes for unchanged, with the MD5 that it recorded."""

    path: Path
    md5: str
    is_folder: bool


@known_interface()
def local_cache() -> Path | None:
    """DVC's cache of the repository one stands in; None outside of one."""
    try:
        with Repo() as repo:
            return Path(repo.cache.local_cache_dir)
    except NotDvcRepoError:
        return None


def stored(cache: Path, md5: str) -> Path:
    """Where DVC's cache holds a file, if it does."""
    return cache / "files" / "md5" / md5[:2] / md5[2:]


@known_interface()
def stages(target: str) -> dict[str, dict[str, Any]]:
    """The stages up to a target: the command, the hashes of the files that no stage makes, the params tracked.

    Not the hash of params.yaml, which a stage may read whole: no two experiments have the same one.
    """
    with Repo() as repo:
        # A .dvc file has outs, but no command: its data is a source.
        found = [stage for stage in repo.stage.collect(target, with_deps=True) if stage.cmd]
        others = [PurePath("params.yaml"), *(PurePath(out.def_path) for stage in found for out in stage.outs)]
        facts = {}
        for stage in found:
            stage.save_deps(allow_missing=True)
            sources, tracked = {}, []
            for dep in stage.deps:
                path = PurePath(dep.def_path)
                if hasattr(dep, "params"):
                    tracked += dep.params
                elif not any(path.is_relative_to(out) or out.is_relative_to(path) for out in others):
                    sources[dep.def_path] = dep.hash_info.value
            facts[stage.addressing] = {"cmd": stage.cmd, "sources": sources, "params": tracked}
    return facts


@known_interface()
def stale(names: list[str]) -> list[str]:
    """Which of some stages are not up to date."""
    with Repo() as repo:
        return list(repo.status(targets=names))


@known_interface()
def changes(targets: list[str]) -> tuple[dict[str, list[str]], dict[str, list[Any]]]:
    """The stages with a command up to some targets, or all, in the order in which they run.

    Returns
    -------
    upstream
        Of each stage, those that make what it reads.
    changed
        Of each stage that is not up to date, what `dvc status` says.

    Raises UsageError if DVC cannot say: there is no repository, no such target, a dvc.yaml that cannot be read.
    """
    try:
        return _changes(targets)
    except DvcException as error:
        raise UsageError(f"DVC cannot say what has changed: {error}", hint="see `dvc status`") from None


def _changes(targets: list[str]) -> tuple[dict[str, list[str]], dict[str, list[Any]]]:
    with Repo() as repo:
        wanted = list(repo.index.stages)
        if targets:
            wanted = [stage for target in targets for stage in repo.stage.collect(target, with_deps=True)]
        names = {stage.addressing for stage in wanted if stage.cmd}
        graph = repo.index.graph
        upstream = {
            stage.addressing: [before.addressing for before in graph.successors(stage) if before.addressing in names]
            for stage in reversed(list(topological_sort(graph)))
            if stage.addressing in names
        }
        changed = repo.status(targets=targets or None, with_deps=bool(targets))
    return upstream, {name: changed[name] for name in upstream if name in changed}


@known_interface()
def unchanged_outputs() -> tuple[Path, list[Output]]:
    """The folder of the cache's objects, and what DVC takes for unchanged in the workspace, or cannot read."""
    with Repo() as repo:
        found = []
        for out in repo.index.outs:
            if not out.hash_info or not out.exists:
                continue
            try:
                edited = bool(out.workspace_status())
            except OSError:
                edited = False
            if not edited:
                found.append(Output(Path(out.fs_path), out.hash_info.value, out.hash_info.isdir))
        return Path(repo.cache.local.path), found


class ExperimentQueue:
    """DVC's queue of experiments in a repository."""

    @known_interface()
    def __init__(self, repo: Repo) -> None:
        self._repo, self._queue = repo, repo.experiments.celery_queue
        # How DVC names the workers of this repository on their command lines.
        self.workers = f"dvc-exp-{sha256(self._queue.wdir.encode()).hexdigest()[:6]}-"

    @known_interface()
    def waiting(self) -> list[Queued]:
        """Experiments that no worker has taken."""
        return list(map(_queued, self._queue.iter_queued()))

    @known_interface()
    def active(self) -> list[Queued]:
        """Experiments that a worker has taken; also one that has died since."""
        return list(map(_queued, self._queue.iter_active()))

    @known_interface()
    def failed(self) -> list[Queued]:
        return [_queued(result.entry) for result in self._queue.iter_failed()]

    @known_interface()
    def add(self, name: str, overrides: list[str]) -> Queued:
        """Queue an experiment up to `evaluate`, with `name=value` of Hydra's grammar laid over params.yaml."""
        with lock_repo(self._repo):
            entry = self._repo.experiments.queue_one(
                self._queue, targets=["evaluate"], params={"params.yaml": overrides}, name=name
            )
        return _queued(entry)

    @known_interface()
    def workspace_of(self, queued: Queued) -> str:
        """The folder in which a worker runs an experiment; "" if it was not made yet."""
        try:
            return str(read_json(self._queue.get_infofile_path(queued.rev))["root_dir"])
        except (CheckError, UsageError):
            return ""

    @known_interface()
    def remove(self, entries: list[Queued]) -> None:
        """Take experiments out of the queue, wherever they stand."""
        # DVC's own removal needs a result, which a task that died does not have, so those messages go first.
        revs = {one.rev for one in entries}
        for message in list(self._queue.celery.iter_processed()):
            arguments, keywords, _ = message.decode()
            entry = keywords.get("entry_dict") or arguments[0]
            if entry["stash_rev"] in revs and not AsyncResult(message.headers["id"], app=self._queue.celery).ready():
                self._queue.celery.purge(message.delivery_tag)
        remove_tasks(self._queue, [one.entry for one in entries])

    @known_interface()
    def forget(self, names: set[str], but: set[str]) -> None:
        """Drop stashed experiments of these names, but for those of some revs."""
        stashed = self._queue.stash.stash_revs
        self._queue.stash.remove_revs([e for rev, e in stashed.items() if e.name in names and rev not in but])

    @known_interface()
    def log(self, queued: Queued) -> Path | None:
        """What an experiment printed, if it is there."""
        information = self._queue.proc.get(queued.rev)
        path = Path(information.stdout) if information else None
        return path if path and path.is_file() else None


@contextmanager
def one_at_a_time(lock: Path) -> Iterator[None]:
    """Hold a lock that the system lets go when the process dies; a UsageError if another study has it."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        try:
            held.enter_context(make_lock(str(lock)))
        except LockError:
            raise UsageError("another study is running in this workspace", hint="wait for it, or stop it") from None
        yield


@contextmanager
def experiment_queue(lock: Path) -> Iterator[ExperimentQueue]:
    """The queue of the repository one stands in, see `one_at_a_time`."""
    with one_at_a_time(lock), Repo() as repo:
        yield ExperimentQueue(repo)


@known_interface()
def shared_outputs(own: tuple[str, ...]) -> list[str]:
    """What DVC keeps of the outputs that stages named `own` read and others make."""
    with Repo() as repo:
        found = [stage for stage in repo.index.stages if stage.cmd]
        read = [PurePath(dep.def_path) for stage in found if stage.addressing in own for dep in stage.deps]
        needed = []
        for stage in found:
            outs = [PurePath(out.def_path) for out in stage.outs if stage.addressing not in own]
            # All of a stage's outputs: `targets` goes by digests in git, and reads the soft labels that they are of.
            if any(out.is_relative_to(path) or path.is_relative_to(out) for out in outs for path in read):
                needed += [out.def_path for out in stage.outs if out.use_cache]
        # What no stage makes, whoever reads it: stage `params` is run each time, and reads weights that were brought.
        data = [out.def_path for stage in repo.index.stages if not stage.cmd for out in stage.outs]
        every = [PurePath(dep.def_path) for stage in found for dep in stage.deps]
        return sorted(needed + [out for out in data if any(PurePath(out).is_relative_to(path) for path in every)])


@known_interface()
def remote_of(name: str | None) -> tuple[str, str]:
    """The name and the address of a DVC remote, the default one for None; a UsageError if there is none."""
    with Repo() as repo:
        name = name or repo.config["core"].get("remote")
        section = repo.config["remote"].get(name) if name else None
    if section is None:
        raise UsageError(
            f"no DVC remote {name}" if name else "no DVC remote: workers would have no data",
            hint="`dvc remote add --default NAME URL`, and commit .dvc/config",
        )
    return str(name), str(section["url"])


@known_interface()
def require_writable(name: str) -> None:
    """Write a file to a DVC remote and remove it again; a UsageError if that cannot be done."""
    with Repo() as repo:
        try:
            store = repo.cloud.get_remote_odb(name)
            path = store.fs.join(store.path, f"ferdistill-{uuid4().hex}")
            store.fs.makedirs(store.path, exist_ok=True)
            store.fs.pipe_file(path, b"")
            store.fs.remove(path)
        except Exception as error:  # each kind of remote has errors of its own
            raise UsageError(
                f"DVC's remote {name} cannot be written to: {type(error).__name__} {error}",
                expected="a remote that you may read and write",
                hint="see `dvc push`",
            ) from None


@known_interface()
def push_shared(remote: str, outputs: list[str]) -> None:
    """Put on a remote what is not there of some outputs; a UsageError if that fails, or one is not in the cache."""
    with Repo() as repo:
        try:
            repo.push(targets=outputs, remote=remote)
        except Exception as error:
            raise UsageError(
                f"`dvc push` failed: {error}", hint="dvc push names what is missing, dvc repro makes it"
            ) from None


@known_interface()
def pull(remote: str, outputs: list[str]) -> None:
    """Bring outputs of dvc.lock from a remote into the workspace; a UsageError if one cannot be had."""
    with Repo() as repo:
        try:
            repo.pull(targets=outputs, remote=remote, force=True)
        except Exception as error:
            raise UsageError(f"`dvc pull` failed: {error}", hint="the same command again") from None


@known_interface()
def fetch(remote: str, md5s: list[str]) -> None:
    """Bring files, by digest, from a remote into the cache; a UsageError if one cannot be had."""
    with Repo() as repo:
        try:
            failed = repo.cloud.pull({HashInfo("md5", md5) for md5 in md5s}, remote=remote).failed
        except Exception as error:  # each kind of remote has errors of its own
            raise UsageError(f"`dvc fetch` failed: {error}", hint="the same command again; the runs are done") from None
    if failed:
        raise UsageError(f"{len(failed)} files of runs are not on DVC's remote {remote}", hint="run those again")


@known_interface()
def fetch_students(remote: str, outs: list[list[dict[str, Any]]]) -> None:
    """Bring what stage `student` made in several runs, by its entries of dvc.lock, into the cache.

    By digest: to have DVC read each run's files takes it a fifth of a second a run. A UsageError if one cannot be had.
    """
    with Repo() as repo:
        (stage,) = repo.stage.collect("student")
        kept = {out.def_path for out in stage.outs if out.use_cache}
    fetch(remote, [out["md5"] for run in outs for out in run if out["path"] in kept])


def _queued(entry: Any) -> Queued:
    return Queued(entry.name, entry.stash_rev, entry.baseline_rev, entry)
