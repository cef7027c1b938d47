"""Where a broken training run goes on: everything that the next epoch depends on, in one file, after each epoch."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..files import atomic, sha256, sha256_file


def path_for(facts: dict[str, Any]) -> Path:
    """The checkpoint of the run that `facts` determine, with the code and the libraries that it runs on.

    It lies in DVC's temporary folder of the main repository, so that a queued run that was killed finds it again from
    its next workspace; another run, or other code, never does.
    """
    code = {file.name: sha256_file(file) for file in sorted(Path(__file__).parent.glob("*.py"))}
    versions = {"timm": timm.__version__, "torch": torch.__version__, "cuda": torch.version.cuda}
    key = sha256(json.dumps([facts, code, versions], sort_keys=True))
    return Path(os.environ.get("DVC_ROOT", ".")) / ".dvc" / "tmp" / "checkpoints" / f"{key[:32]}.safetensors"


def save(path: Path, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
    """Write tensors and a JSON-safe state, whole or not at all."""
    # safetensors refuses tensors that share memory, as tied weights do.
    whole = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    with atomic(path) as temporary:
        save_file(whole, temporary, metadata={"state": json.dumps(state)})


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Read a checkpoint; None where there is none. One that cannot be read is said to be so and passed over."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            state = json.loads((file.metadata() or {})["state"])
            return {name: file.get_tensor(name) for name in file.keys()}, state  # noqa: SIM118 - not a dict
    except Exception as error:  # a damaged file may raise anything
        print(f"{path} cannot be read ({error}): training starts over", file=sys.stderr)
        return None


def with_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix.`, without it."""
    return {name.removeprefix(f"{prefix}."): t for name, t in tensors.items() if name.startswith(f"{prefix}.")}
