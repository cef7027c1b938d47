"""Where runs are sent: SLURM by submitit, or Ray. Each starts a command on a node and brings back what it printed."""

import importlib
import json
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

from pydantic import Field

from .. import workspace, yaml_file
from ..errors import UsageError
from ..params import StrictModel, explain

SETTINGS = Path("conf/cluster.yaml")
STATE = workspace.SCRATCH / "study"
LATE = 15.0  # seconds that the answer of a job which has ended gets to arrive on a shared disk
REACH = 5.0  # seconds that the head of a cluster gets to answer


class Slurm(StrictModel):
    """What `sbatch` is asked for, for one run."""

    partition: str | None = None
    cpus: int = Field(default=1, ge=1)
    gpus: int = Field(default=0, ge=0)
    memory_gb: float = Field(default=8, gt=0)
    minutes: int = Field(default=240, ge=1)
    folder: str | None = None
    options: dict[str, str | int] = Field(default={})


class Ray(StrictModel):
    """The cluster, and what one run takes of it."""

    address: str = "auto"
    cpus: float = Field(default=1, gt=0)
    gpus: float = Field(default=0, ge=0)
    memory_gb: float = Field(default=8, gt=0)


class Settings(StrictModel):
    """`conf/cluster.yaml`."""

    git: str = "origin"
    dvc: str | None = None
    python: str = "python"
    setup: list[str] = Field(default=[])
    scratch: str = "/tmp/ferdistill"
    min_free_gb: float = Field(default=2, ge=0)
    dvc_config: str | None = None
    patience_seconds: float = Field(default=600, gt=0)
    attempts: int = Field(default=5, ge=1)
    probe_seconds: float = Field(default=60, ge=0)
    slurm: Slurm = Slurm()
    ray: Ray = Ray()


class Sight(NamedTuple):
    """A run as an executor sees it: where, and what its command printed, "" if it printed nothing."""

    state: Literal["waiting", "running", "ended"]
    node: str = ""
    printed: str = ""


class Executor(Protocol):
    """A way to have commands run elsewhere. Jobs are known by an identifier of the executor's own."""

    told: str  # what a run is given, in words

    def check(self) -> None:
        """Refuse, before anything is sent, what cannot work: a UsageError."""

    def submit(self, name: str, command: list[str], text: str) -> str:
        """Start a command with a text on its standard input."""

    def look(self, jobs: list[str]) -> dict[str, Sight]:
        """How jobs stand."""

    def left(self) -> dict[str, str]:
        """Jobs that an earlier driver submitted and that have not ended, by name."""

    def cancel(self, jobs: list[str]) -> None:
        """End jobs."""


def load(path: Path = SETTINGS) -> Settings:
    """Read `conf/cluster.yaml`; the defaults if it is not there. A UsageError where it is not as expected."""
    from pydantic import ValidationError

    try:
        return Settings.model_validate(yaml_file.read(path) or {})
    except FileNotFoundError:
        return Settings()
    except ValidationError as error:
        raise UsageError(explain(error, Settings), where=str(path)) from None


def make(name: str, settings: Settings, study: str) -> Executor:
    """The executor of a name; `study` is a word that tells its jobs from those of others."""
    return SlurmExecutor(settings, study) if name == "slurm" else RayExecutor(settings, study)


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        extra = "slurm" if name == "submitit" else "ray"
        raise UsageError(f"`--executor {extra}` needs {name} here: pip install 'ferdistill[{extra}]'") from None


def _remote_function() -> Callable[[list[str], str], str]:
    """What a node does. As a function within a function it is sent by value, so that nodes need not have this package.

    Standard error goes to the job's own log.
    """

    def start(command: list[str], text: str) -> str:
        import subprocess

        return subprocess.run(command, input=text, stdout=subprocess.PIPE, text=True, check=False).stdout

    return start


class SlurmExecutor:
    """Jobs of SLURM. submitit writes the batch script and carries the answer; `squeue` says how a job stands.

    submitit itself asks `sacct`, which many clusters, and this check, do not have.
    """

    def __init__(self, settings: Settings, study: str) -> None:
        self._of, self._study = settings.slurm, study
        self._submitit = _package("submitit")
        self._folder = Path(self._of.folder or STATE / "slurm").expanduser().resolve()
        self._python = settings.python
        self._ended: dict[str, float] = {}
        gpus = f", {self._of.gpus} GPUs" if self._of.gpus else ""
        place = self._of.partition or "default"
        self.told = f"SLURM, partition {place}: {self._of.cpus} CPUs{gpus}, {self._of.memory_gb:g} GB"

    def check(self) -> None:
        if shutil.which("sbatch") is None:
            raise UsageError(
                "there is no sbatch here", expected="a node from which SLURM takes jobs", hint="log in there"
            )
        options = [f"--cpus-per-task={self._of.cpus}", f"--mem={int(self._of.memory_gb * 1024)}M"]
        options += [f"--time={self._of.minutes}"]
        options += [f"--partition={self._of.partition}"] if self._of.partition else []
        options += [f"--gpus-per-node={self._of.gpus}"] if self._of.gpus else []
        options += [f"--{key.replace('_', '-')}={value}" for key, value in self._of.options.items()]
        asked = _said(["sbatch", "--test-only", *options, "--wrap=true"])
        if asked.returncode:
            raise UsageError(
                f"SLURM would not take a run: {asked.stderr.strip()}",
                where=f"{SETTINGS}, slurm",
                expected="a partition and sizes that `sinfo` lists",
            )

    def submit(self, name: str, command: list[str], text: str) -> str:
        executor = self._submitit.SlurmExecutor(self._folder, python=self._python)
        executor.update_parameters(
            job_name=f"{self._study}:{name}",
            partition=self._of.partition,
            cpus_per_task=self._of.cpus,
            mem=f"{int(self._of.memory_gb * 1024)}M",
            time=self._of.minutes,
            **({"gpus_per_node": self._of.gpus} if self._of.gpus else {}),
            additional_parameters=dict(self._of.options),
            stderr_to_stdout=False,
        )
        return str(executor.submit(_remote_function(), command, text).job_id)

    def look(self, jobs: list[str]) -> dict[str, Sight]:
        queue = {job: (state, node) for job, _, state, node in self._queue()}
        found = {}
        for job in jobs:
            state, node = queue.get(job, ("", ""))
            answer = self._submitit.SlurmJob(self._folder, job)
            if answer.paths.result_pickle.exists():
                found[job] = Sight("ended", node, _answer(answer.result))
            elif state in ("PENDING", "REQUEUED", "CONFIGURING", "SUSPENDED", "REQUEUE_HOLD"):
                found[job] = Sight("waiting")
            elif not state and time.monotonic() - self._ended.setdefault(job, time.monotonic()) > LATE:
                found[job] = Sight("ended", node)
            else:
                found[job] = Sight("running", node)
        return found

    def left(self) -> dict[str, str]:
        mine = f"{self._study}:"
        return {name.removeprefix(mine): job for job, name, _, _ in self._queue() if name.startswith(mine)}

    def cancel(self, jobs: list[str]) -> None:
        if jobs:
            _said(["scancel", *jobs])

    def _queue(self) -> list[list[str]]:
        """Job, name, state and nodes of the user's jobs; asked again while the controller does not answer."""
        for _ in range(60):
            asked = _said(["squeue", "--noheader", "--me", "--format=%i|%j|%T|%N"])
            if not asked.returncode:
                return [line.split("|") for line in asked.stdout.splitlines()]
            time.sleep(5)
        raise UsageError(f"squeue does not answer: {asked.stderr.strip()}", hint="start again when SLURM is back")


class RayExecutor:
    """Tasks of Ray. They end with their driver, so a new driver sends what was not done."""

    def __init__(self, settings: Settings, study: str) -> None:
        self._of, self._study, self._python = settings.ray, study, settings.python
        self._ray = _package("ray")
        self._tasks: dict[str, Any] = {}
        self._sent = 0
        gpus = f", {self._of.gpus:g} GPUs" if self._of.gpus else ""
        self.told = f"Ray at {self._of.address}: {self._of.cpus:g} CPUs{gpus}, {self._of.memory_gb:g} GB"

    def check(self) -> None:
        """Join the cluster; refuse one that is not there, or in which no node is large enough."""
        address = self._of.address.rpartition("://")[2]
        host, _, port = address.rpartition(":")
        try:
            if host:
                socket.create_connection((host, int(port)), timeout=REACH).close()
            self._ray.init(self._of.address, log_to_driver=False, logging_level="error", namespace=self._study)
        except (OSError, ValueError, ConnectionError, RuntimeError, self._ray.exceptions.RayError) as error:
            raise UsageError(
                f"no head of a Ray cluster answers at {self._of.address}: {str(error).splitlines()[0]}",
                where=f"{SETTINGS}, ray.address",
                expected="HOST:PORT of `ray start --head`, or auto on one of its nodes",
            ) from None
        needs = {"CPU": self._of.cpus, "GPU": self._of.gpus, "memory": self._of.memory_gb * 1e9}
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        if not any(all(node.get(key, 0) >= size for key, size in needs.items()) for node in nodes):
            raise UsageError(
                f"no node of the Ray cluster has {self.told.partition(': ')[2]}",
                where=f"{SETTINGS}, ray",
                expected="cpus, gpus and memory_gb that a node of `ray status` has",
            )
        # Not on a node that may be lost while others work: it ends when this one does, and the driver with it.
        here = self._ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
            self._ray.get_runtime_context().get_node_id(), soft=False
        )
        self._board = self._ray.remote(_board()).options(num_cpus=0, scheduling_strategy=here).remote()
        self._work = self._ray.remote(_reporting(_remote_function()))

    def submit(self, name: str, command: list[str], text: str) -> str:
        self._sent += 1
        job = f"{name}#{self._sent}"
        options = self._work.options(
            name=f"{self._study}:{name}",
            num_cpus=self._of.cpus,
            num_gpus=self._of.gpus,
            memory=int(self._of.memory_gb * 1e9),
            max_retries=0,
        )
        self._tasks[job] = options.remote(self._board, job, command, text)
        return job

    def look(self, jobs: list[str]) -> dict[str, Sight]:
        if not jobs:
            return {}
        tasks = [self._tasks[job] for job in jobs]
        ended, _ = self._ray.wait(tasks, num_returns=len(tasks), timeout=0)
        nodes = self._ray.get(self._board.read.remote())
        found = {}
        for job, task in zip(jobs, tasks, strict=True):
            node = nodes.get(job, "")
            if task in ended:
                found[job] = Sight("ended", node, _answer(partial(self._ray.get, task)))
            else:
                found[job] = Sight("running" if node else "waiting", node)
        return found

    def left(self) -> dict[str, str]:
        return {}

    def cancel(self, jobs: list[str]) -> None:
        for job in jobs:
            self._ray.cancel(self._tasks[job], force=True)


def _board() -> type:
    """An actor that knows which node has which job; sent by value as well."""

    class Board:
        def __init__(self) -> None:
            self.nodes: dict[str, str] = {}

        def put(self, job: str, node: str) -> None:
            self.nodes[job] = node

        def read(self) -> dict[str, str]:
            return self.nodes

    return Board


def _reporting(start: Callable[[list[str], str], str]) -> Callable[[Any, str, list[str], str], str]:
    def work(board: Any, job: str, command: list[str], text: str) -> str:
        import ray

        context = ray.get_runtime_context()
        address = next((n["NodeName"] for n in ray.nodes() if n["NodeID"] == context.get_node_id()), "")
        board.put.remote(job, f"{address} {context.get_node_id()[:6]}")
        return start(command, text)

    return work


def _answer(ask: Callable[[], Any]) -> str:
    """What a command printed; if its process was lost, that, in the words of a library which has many errors for it."""
    try:
        return str(ask() or "")
    except Exception as error:
        return json.dumps({"state": "lost", "why": str(error).strip().partition("\n")[0], "node": ""})


def _said(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)
