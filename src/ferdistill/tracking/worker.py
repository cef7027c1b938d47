"""What a worker of a cluster does for one run. Its text is sent to the node, so it needs the standard library alone.

A JSON object comes on standard input, see `remote.order`; the last line on standard output is another, the outcome:

done     the run's data is on DVC's remote, and then its experiment on git's, so that the one implies the other
failed   a stage of it failed, as it would again
lost     the node, the disk or a remote was at fault: it may be tried again
unfit    this node's Python or packages are others than the driver's
cut off  git's remote does not answer here; said where nothing was ordered but a look at the node

A clone lies on the node's own disk and is locked while a run has it; the next run takes it over.
"""

import ctypes
import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

STOPPING = (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT)
MOST_LOG = 200_000  # characters of a log that come back
FULL = re.compile(r"No space left on device|Errno 28|Disk quota exceeded|there is no room to write")
SECRET = re.compile(r"(://)[^/@\s:]*:[^/@\s]*@")
GRACE = 20.0  # seconds that a stage gets to stop
REACH = 30.0  # seconds that git's remote gets to answer a first look


class LostError(Exception):
    """The run was not made, and not for a fault of its own."""


class Stopped(BaseException):
    """The scheduler wants the node back."""


def die_with_parent() -> None:
    """Have the kernel kill this process when the one that started it ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)


def call(command: list[str], folder: Path, log: Path, lock: int) -> int:
    """Run a command with its output in `log`, and end it and what it started if this process is to stop."""
    with log.open("a", encoding="utf-8") as file:
        file.write(f"$ {' '.join(command)}\n")
        file.flush()
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=die_with_parent,
            pass_fds=[lock],  # an orphan of it keeps the clone from others
        )
        try:
            return process.wait()
        except BaseException:
            for how in (signal.SIGINT, signal.SIGKILL):
                try:
                    os.killpg(process.pid, how)
                    process.wait(GRACE)
                    os.killpg(process.pid, signal.SIGKILL)  # what outlived it
                except (ProcessLookupError, subprocess.TimeoutExpired):
                    continue
            process.wait()
            raise


def insist(step: Callable[[], int], what: str, patience: float) -> None:
    """Repeat a step that talks to a remote until it succeeds, ever more slowly; LostError after `patience` seconds."""
    end, pause = time.monotonic() + patience, 1.0
    while step():
        if time.monotonic() + pause > end:
            raise LostError(f"{what} did not succeed within {patience:.0f} s")
        time.sleep(pause)
        pause = min(2 * pause, 30.0)


def asked(order: dict[str, Any], ref: str, patience: float) -> str:
    """What git's remote says of a ref, "" if it has none; LostError, with git's words, if it does not answer."""
    said: list[subprocess.CompletedProcess[str]] = []

    def ask() -> int:
        command = ["git", "ls-remote", order["git"], ref]
        said[:] = [subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)]
        return said[0].returncode

    try:
        insist(ask, "git ls-remote", patience)
    except LostError as error:
        raise LostError(f"{error}: {said[0].stderr.strip().partition(chr(10))[0]}") from None
    return said[0].stdout.strip()


def unlike(order: dict[str, Any]) -> str:
    """What of Python and packages is another here than where the runs were ordered; "" if nothing."""
    found = []
    python = ".".join(map(str, sys.version_info[:2]))
    if python != order["python"]:
        found.append(f"Python {python}, not {order['python']}")
    for name, version in order["packages"].items():
        try:
            here = metadata.version(name).partition("+")[0]  # 2.9.0+cpu and 2.9.0+cu128 are one release
        except metadata.PackageNotFoundError:
            here = "none"
        if here != version:
            found.append(f"{name} {here}, not {version}")
    more = f" and {len(found) - 5} more" if len(found) > 5 else ""
    return "; ".join(found[:5]) + more


def take_clone(scratch: Path) -> tuple[Path, int]:
    """The first clone here that no other run has, and the lock on it; it may not be there yet."""
    scratch.mkdir(parents=True, exist_ok=True)
    number = 0
    while True:
        lock = os.open(scratch / f"{number}.lock", os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return scratch / str(number), lock
        except BlockingIOError:
            os.close(lock)
            number += 1


def make_room(scratch: Path, clone: Path, least: float) -> None:
    """Delete clones that no run has, this one the last, until `least` GB are free; LostError if that is not enough."""
    others = sorted(path for path in scratch.iterdir() if path.is_dir() and path != clone)
    for path in [*others, clone]:
        if shutil.disk_usage(scratch).free >= least * 1e9:
            return
        lock = os.open(f"{path}.lock", os.O_CREAT | os.O_RDWR, 0o600)
        try:
            if path != clone:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path, ignore_errors=True)
        except BlockingIOError:
            pass
        finally:
            os.close(lock)
    free = shutil.disk_usage(scratch).free
    if free < least * 1e9:
        raise LostError(f"{socket.gethostname()} has {free / 1e9:.1f} GB free in {scratch}, and {least} GB are needed")


class Run:
    """One order, in one clone."""

    def __init__(self, order: dict[str, Any], clone: Path, lock: int) -> None:
        self.order, self.clone, self.lock = order, clone, lock
        self.log = Path(f"{clone}.log")
        self.log.write_text("", encoding="utf-8")
        self.seconds: dict[str, float] = {}

    def call(self, *command: str) -> int:
        return call(list(command), self.clone, self.log, self.lock)

    def dvc(self, *arguments: str) -> int:
        return self.call(sys.executable, "-m", "dvc", *arguments)

    def git(self, *arguments: str) -> str:
        """What a git command prints that talks to no remote."""
        done = subprocess.run(["git", *arguments], cwd=self.clone, capture_output=True, text=True, check=False)
        if done.returncode:
            raise LostError(f"git {arguments[0]}: {done.stderr.strip()}")
        return done.stdout.strip()

    def timed(self, name: str, step: Callable[[], Any]) -> Any:
        started = time.monotonic()
        try:
            return step()
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - started

    def fetch(self) -> None:
        """The ordered commit, in a clone as if it were new but for DVC's cache; what a killed run left is removed."""
        order = self.order
        if not (self.clone / ".git").is_dir():
            shutil.rmtree(self.clone, ignore_errors=True)
            self.clone.mkdir()
            self.git("init", "--quiet")
        for left in [*self.clone.glob(".git/*.lock"), *self.clone.glob(".git/refs/**/*.lock")]:
            left.unlink()
        for name in ("rwlock", "lock", "rwlock.lock"):
            (self.clone / ".dvc/tmp" / name).unlink(missing_ok=True)
        for key in ("name", "email"):
            self.git("config", f"user.{key}", order["user"][key])
        commit = order["commit"]
        known = subprocess.run(["git", "cat-file", "-e", commit], cwd=self.clone, capture_output=True, check=False)
        if known.returncode:
            wanted = f"+{order['ref']}:{order['ref']}"
            insist(
                lambda: self.call("git", "fetch", "--quiet", "--no-tags", order["git"], wanted),
                "git fetch",
                order["patience"],
            )
        stale = self.git("for-each-ref", "--format=delete %(refname)", "refs/exps")
        if stale:
            subprocess.run(["git", "update-ref", "--stdin"], cwd=self.clone, input=f"{stale}\n", text=True, check=True)
        self.git("checkout", "--quiet", "--force", "--detach", commit)
        self.git("clean", "-fdq")
        if order["dvc_config"]:
            shutil.copyfile(Path(order["dvc_config"]).expanduser(), self.clone / ".dvc/config.local")
            (self.clone / ".dvc/config.local").chmod(0o600)

    def is_there(self) -> bool:
        """Whether the experiment is on git's remote already."""
        return bool(asked(self.order, self.order["experiment"], self.order["patience"]))

    def pull(self) -> None:
        targets = self.order["needs"]
        remote = ["--remote", self.order["remote"]]
        if targets:
            insist(lambda: self.dvc("pull", "--quiet", *remote, *targets), "dvc pull", self.order["patience"])

    def make(self) -> None:
        """Run the stages. What fails without a stage having failed is DVC's or a remote's, and tried again."""
        end = time.monotonic() + self.order["patience"]
        while self.dvc(*self.order["command"]):
            said = self.log.read_text(encoding="utf-8", errors="replace").rpartition("\n$ ")[2]
            if FULL.search(said):
                shutil.rmtree(self.clone, ignore_errors=True)
                raise LostError(f"the disk of {socket.gethostname()} is full")
            if re.search(r"failed to run: .*exited with", said) and "exited with -" not in said:
                raise RuntimeError(said)
            if time.monotonic() > end:
                raise LostError("dvc failed, and no stage of it")
            time.sleep(5)

    def push(self) -> None:
        """The data first: an experiment that is there then has all its data there."""
        order = self.order
        remote = ["--remote", order["remote"]]
        insist(lambda: self.dvc("push", "--quiet", *remote, *order["push"]), "dvc push", order["patience"])
        if ref := order["experiment"]:
            insist(
                lambda: self.call("git", "push", "--quiet", order["git"], f"{ref}:{ref}") and not self.is_there(),
                "git push",
                order["patience"],
            )


def work(order: dict[str, Any]) -> dict[str, Any]:
    """Do as ordered; the outcome."""
    if different := unlike(order):
        return {"state": "unfit", "why": different}
    if not order["command"]:
        try:
            asked(order, order["ref"], min(REACH, order["patience"]))
        except LostError as error:
            return {"state": "cut off", "why": str(error)}
        return {"state": "done", "why": ""}
    scratch = Path(order["scratch"]).expanduser() / hashlib.sha256(order["git"].encode()).hexdigest()[:12]
    clone, lock = take_clone(scratch)
    make_room(scratch, clone, order["min_free_gb"])
    run = Run(order, clone, lock)
    outcome: dict[str, Any] = {"state": "done", "why": ""}
    try:
        run.timed("clone", run.fetch)
        if not (order["experiment"] and run.timed("look", run.is_there)):
            run.timed("pull", run.pull)
            run.timed("run", run.make)
            run.timed("push", run.push)
            (clone / ".dvc/config.local").unlink(missing_ok=True)
    except RuntimeError as error:
        outcome |= {"state": "failed", "why": str(error)[-2000:]}
    except (LostError, OSError) as error:
        outcome |= {"state": "lost", "why": str(error)}
        if isinstance(error, OSError) and error.errno == 28:
            shutil.rmtree(clone, ignore_errors=True)
    except Stopped:
        outcome |= {"state": "lost", "why": f"{socket.gethostname()} was taken back while it ran"}
    if outcome["state"] != "done":
        outcome["log"] = run.log.read_text(encoding="utf-8", errors="replace")[-MOST_LOG:]
    return outcome | {"seconds": run.seconds, "clone": str(clone)}


def stop(*_: object) -> None:
    """Stop once, however often the scheduler asks for it."""
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)
    raise Stopped


def main() -> None:
    """Read the order, and print the outcome, whatever happens."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)  # Ray's workers have SIGINT blocked, and hand that down
    for number in STOPPING:
        signal.signal(number, stop)
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGTERM)
    # `python` on a command line of dvc.yaml is this Python.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for name in ("PYTHONPATH", "DVC_ROOT", "DVC_STAGE"):
        os.environ.pop(name, None)
    started = time.monotonic()
    try:
        outcome = work(json.load(sys.stdin))
    except LostError as error:
        outcome = {"state": "lost", "why": str(error)}
    except Stopped:
        outcome = {"state": "lost", "why": "taken back before it began"}
    outcome |= {"node": socket.gethostname(), "total": time.monotonic() - started}
    told = json.dumps(outcome)
    sys.stdout.write(SECRET.sub(r"\1***@", told) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
