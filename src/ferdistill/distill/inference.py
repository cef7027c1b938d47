"""What a network says about images, and how well: nothing here is of training."""

import math
import os
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..f1 import counts, f1
from ..progress import track
from .augment import Draw, apply
from .data import Split
from .imagenet import NORMALISATION


def training_device() -> torch.device:
    """CUDA where it is there, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def make_deterministic(seed: int) -> None:
    """Seed everything that draws, and refuse operations whose result may vary from run to run."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS may vary, and torch refuses it
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True)
    # Deterministic mode also fills every new tensor, for code that reads what it never wrote. None here does.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def as_input(images: Tensor, device: torch.device) -> Tensor:
    """Pixels (B, C, H, W) from 0 to 255, uint8 or float32, as normalised float32 on a device, channels last."""
    mean, std = (torch.tensor(v, device=device)[:, None, None] for v in NORMALISATION[images.shape[1]])
    scaled = images.to(device, non_blocking=True) / 255
    return scaled.sub_(mean).div_(std).contiguous(memory_format=torch.channels_last)


def predict(
    network: nn.Module, split: Split, view: tuple[str, Draw] | None = None, batch: int = 256, title: str = ""
) -> np.ndarray:
    """Logits of a split, float32 (n, K), in the order of its rows.

    Of a recorded view of each image, if its augmentation and what was drawn are given. With a `title`, a bar shows how
    far it is.
    """
    device = training_device()
    network.to(device).eval()
    logits = []
    parts = np.array_split(np.arange(len(split.rows)), max(1, math.ceil(len(split.rows) / batch)))
    with torch.inference_mode():
        for positions in track(parts, title, len(parts)) if title else parts:
            images = split.pixels(positions).to(device)
            if view is not None:
                images = apply(images, view[0], view[1][torch.from_numpy(positions)])
            logits.append(network(as_input(images, device)).float().cpu())
    return torch.cat(logits).numpy()


def evaluate(network: nn.Module, split: Split, title: str = "") -> dict[str, Any]:
    """`scores` of a network on a split."""
    return scores(predict(network, split, title=title), split.labels)


def scores(logits: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Macro F1, F1 of each class (a list), accuracy and negative log-likelihood of logits (n, K)."""
    predicted = logits.argmax(1)
    of_class = f1(*counts(labels, predicted, logits.shape[1]))
    return {
        "macro_f1": float(of_class.mean()),
        "f1": of_class.tolist(),
        "accuracy": float((predicted == labels).mean()),
        "nll": float(F.cross_entropy(torch.from_numpy(logits).double(), torch.from_numpy(labels))),
    }


def final_metrics(on_val: dict[str, Any] | None, on_test: dict[str, Any] | None, classes: list[str]) -> dict[str, Any]:
    """What a stage records of two `scores`: `validation`, and `test` with F1 by class name; None stays None."""
    return {
        "validation": on_val and {name: value for name, value in on_val.items() if name != "f1"},
        "test": on_test and on_test | {"f1": dict(zip(classes, on_test["f1"], strict=True))},
    }
