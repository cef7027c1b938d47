"""Where a broken training run goes on: everything that the next epoch depends on, in one file, after each epoch."""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from accelerate import Accelerator
from safetensors import safe_open
from safetensors.torch import save_file
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from .. import workspace
from ..files import atomic, sha256, sha256_file


class Checkpoint(NamedTuple):
    """What a file holds: tensors by name, and a JSON-safe state."""

    tensors: dict[str, Tensor]
    state: dict[str, Any]

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors whose names begin with `prefix.`, without it."""
        start = f"{prefix}."
        return {name.removeprefix(start): tensor for name, tensor in self.tensors.items() if name.startswith(start)}


@dataclass
class TrainingState:
    """What epochs change, the optimiser of a phase apart."""

    accelerator: Accelerator
    network: nn.Module  # on the accelerator's device
    ema: ModelEmaV3 | None  # a moving average of its weights
    generator: torch.Generator  # draws order and augmentation
    history: list[dict[str, Any]] = field(default_factory=list)  # a record an epoch
    best_weights: dict[str, Tensor] = field(default_factory=dict)  # of the epoch best on val, on the CPU


def path_for(facts: dict[str, Any]) -> Path:
    """The checkpoint of the run that `facts` determine, with the code and the libraries that it runs on.

    The code is all of this package that is loaded. The file lies in DVC's temporary folder of the main repository, so
    that a queued run that was killed finds it again from its next workspace; another run, or other code, never does.
    """
    package = __name__.split(".")[0]
    files = {name: module.__file__ for name, module in sys.modules.items() if name.split(".")[0] == package}
    code = {name: sha256_file(file) for name, file in files.items() if file}
    versions = {"timm": timm.__version__, "torch": torch.__version__, "cuda": torch.version.cuda}
    key = sha256(json.dumps([facts, code, versions], sort_keys=True))
    return workspace.shared_scratch() / "checkpoints" / f"{key[:32]}.safetensors"


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint, whole or not at all."""
    # safetensors refuses tensors that share memory, as tied weights do.
    whole = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in checkpoint.tensors.items()}
    with atomic(path) as temporary:
        save_file(whole, temporary, metadata={"state": json.dumps(checkpoint.state)})


def load(path: Path) -> Checkpoint | None:
    """Read a checkpoint; None where there is none. One that cannot be read is said to be so and passed over."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            state = json.loads((file.metadata() or {})["state"])
            return Checkpoint({name: file.get_tensor(name) for name in file.keys()}, state)  # noqa: SIM118 - not a dict
    except Exception as error:  # a damaged file may raise anything
        print(f"{path} cannot be read ({error}): training starts over", file=sys.stderr)
        return None


def save_training(path: Path, training: TrainingState, optimizer: torch.optim.Optimizer) -> None:
    """Write all that the next epoch depends on: the first process, after each has given what it draws from."""
    accelerator, ema = training.accelerator, training.ema
    random = {"torch": torch.get_rng_state()}
    if accelerator.device.type == "cuda":
        random["cuda"] = torch.cuda.get_rng_state()
    random = {name: accelerator.gather(drawn[None].to(accelerator.device)) for name, drawn in random.items()}
    if accelerator.is_main_process:
        parts = {
            "random": random | {"order": training.generator.get_state()},
            "network": training.network.state_dict(),
            "ema": {} if ema is None else ema.module.state_dict(),
            "best": training.best_weights,
            **{f"optimizer.{number}": values for number, values in optimizer.state_dict()["state"].items()},
        }
        tensors = {f"{part}.{name}": torch.as_tensor(t) for part, of in parts.items() for name, t in of.items()}
        scaler = accelerator.scaler.state_dict() if accelerator.scaler is not None else None
        save(path, Checkpoint(tensors, {"history": training.history, "scaler": scaler}))
    accelerator.wait_for_everyone()


def restore_training(saved: Checkpoint, training: TrainingState) -> None:
    """Put back everything but the optimiser."""
    rank = training.accelerator.process_index
    training.history, training.best_weights = saved.state["history"], saved.part("best")
    training.network.load_state_dict(saved.part("network"))
    if training.ema is not None:
        training.ema.module.load_state_dict(saved.part("ema"))
    training.generator.set_state(saved.tensors["random.order"])
    torch.set_rng_state(saved.tensors["random.torch"][rank])
    if training.accelerator.device.type == "cuda":
        torch.cuda.set_rng_state(saved.tensors["random.cuda"][rank])


def restore_optimizer(saved: Checkpoint, optimizer: torch.optim.Optimizer, scaler: Any) -> None:
    """Put back the optimiser of a phase that was broken off, and the scaler of float16's gradients, if there is one."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in saved.part("optimizer").items():
        number, _, key = name.partition(".")
        state.setdefault(int(number), {})[key] = tensor
    optimizer.load_state_dict(optimizer.state_dict() | {"state": state})
    if scaler is not None:
        scaler.load_state_dict(saved.state["scaler"])
