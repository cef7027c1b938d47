"""One training loop for teachers and students."""

import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from rich.progress import TextColumn
from sklearn.metrics import f1_score
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from torch import Tensor, nn

from ..errors import CheckError
from ..params import Recipe
from ..progress import bar
from .models import NORMALISATION

# (logits, labels, positions in the train split) -> loss
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Split:
    """Images (N, H, W, C) uint8 of the whole index, the rows of one split, and its labels, int64 (n,)."""

    images: np.ndarray
    rows: np.ndarray
    labels: np.ndarray


@dataclass
class Fit:
    """What training gives: one record an epoch, and the weights of the epoch best on val."""

    history: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    best_state: dict[str, Tensor] = field(default_factory=dict)


def device() -> torch.device:
    """CUDA where it is there, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def fit(
    network: nn.Module,
    train: Split,
    val: Split,
    recipe: Recipe,
    seed: int,
    loss: Loss,
    *,
    name: str,
    test: Split | None = None,
    test_every: int = 0,
    log: Callable[[dict[str, float]], None] = lambda record: None,
) -> Fit:
    """Train `network` by a recipe and keep the weights of the epoch with the best macro F1 on val.

    Parameters
    ----------
    loss : callable
        Given logits (B, K), labels (B,) and the batch's positions in the train split (B,).
    test, test_every : Split, int
        Every `test_every` epochs, and after the last, the test split is scored too, for the record of the report's
        protocol alone: nothing is chosen by it.
    log : callable
        Takes each epoch's record.

    Returns
    -------
    Fit
        The network itself ends with the best weights loaded.

    Raises
    ------
    CheckError
        If the loss becomes NaN or infinite, or a batch would be larger than the split.
    """
    if recipe.batch > len(train.rows):
        raise CheckError(
            f"a batch of {recipe.batch} is larger than the train split of {len(train.rows)}",
            where=name,
            expected="a batch of at most the split's length",
            hint="lower `batch`, or add images",
        )
    where = device()
    network.to(where)
    generator = torch.Generator().manual_seed(seed)
    labels = torch.from_numpy(train.labels).to(where)
    batches = math.ceil(len(train.rows) / recipe.batch)
    epochs = sum(phase.epochs for phase in recipe.phases)
    result, best, epoch, seen, started = Fit(), -1.0, 0, 0, time.monotonic()

    with bar(TextColumn("{task.fields[rate]}")) as progress:
        task = progress.add_task(name, total=epochs * batches, rate="")
        for phase in recipe.phases:
            optimizer = create_optimizer_v2(network, "adamw", lr=phase.lr, weight_decay=recipe.weight_decay)
            steps = phase.epochs * batches
            # The first tenth of a phase warms up: fresh classifiers and Adam's first steps both need it.
            scheduler = CosineLRScheduler(
                optimizer,
                steps,
                lr_min=phase.lr / 100,
                warmup_t=steps // 10,
                warmup_lr_init=phase.lr / 100,
                warmup_prefix=True,
                t_in_epochs=False,
            )
            step = 0
            for _ in range(phase.epochs):
                network.train()
                order = torch.randperm(len(train.rows), generator=generator)
                total = torch.zeros((), device=where)
                for positions in torch.tensor_split(order, batches):
                    scheduler.step_update(step)
                    inputs = augment(_tensor(train, positions.numpy()), phase.augment, generator)
                    positions = positions.to(where)
                    with torch.autocast(where.type, torch.bfloat16, enabled=where.type == "cuda"):
                        logits = network(as_input(inputs, where))
                    value = loss(logits.float(), labels[positions], positions)
                    optimizer.zero_grad(set_to_none=True)
                    value.backward()
                    nn.utils.clip_grad_norm_(network.parameters(), 5.0)
                    optimizer.step()
                    total += value.detach() * len(positions)
                    step += 1
                    seen += len(positions)
                    rate = seen / (time.monotonic() - started)
                    progress.update(task, advance=1, rate=f"{rate:.0f} images/s")

                epoch += 1
                train_loss = float(total) / len(train.rows)
                if not math.isfinite(train_loss):
                    raise CheckError(
                        f"the loss became {train_loss}",
                        where=f"{name}, epoch {epoch}",
                        expected="a finite loss",
                        hint="lower the learning rate of this phase",
                    )
                record = {
                    "epoch": float(epoch),
                    "lr": optimizer.param_groups[0]["lr"],
                    "train_loss": train_loss,
                }
                record |= {f"val_{key}": value for key, value in evaluate(network, val).items()}
                if test is not None and (epoch % test_every == 0 or epoch == epochs):
                    record |= {f"test_{key}": value for key, value in evaluate(network, test).items()}
                result.history.append(record)
                log(record)
                if record["val_macro_f1"] > best:
                    best, result.best_epoch = record["val_macro_f1"], epoch
                    result.best_state = {k: v.detach().cpu().clone() for k, v in network.state_dict().items()}
                if progress.disable:
                    print(
                        f"{name}: epoch {epoch}/{epochs}, loss {train_loss:.4f}, "
                        f"val macro F1 {record['val_macro_f1']:.4f}, {rate:.0f} images/s",
                        file=sys.stderr,
                        flush=True,
                    )
    network.load_state_dict(result.best_state)
    return result


def predict(network: nn.Module, split: Split, batch: int = 256) -> np.ndarray:
    """Logits of a split, float32 (n, K), in the order of its rows."""
    where = device()
    network.to(where).eval()
    logits = []
    with torch.inference_mode():
        for positions in np.array_split(np.arange(len(split.rows)), max(1, math.ceil(len(split.rows) / batch))):
            logits.append(network(as_input(_tensor(split, positions), where)).float().cpu())
    return torch.cat(logits).numpy()


def evaluate(network: nn.Module, split: Split) -> dict[str, float]:
    """Macro F1, accuracy and negative log-likelihood on a split."""
    logits = predict(network, split)
    predicted = logits.argmax(1)
    classes = range(logits.shape[1])
    return {
        "macro_f1": float(f1_score(split.labels, predicted, labels=classes, average="macro", zero_division=0)),
        "accuracy": float((predicted == split.labels).mean()),
        "nll": float(F.cross_entropy(torch.from_numpy(logits).double(), torch.from_numpy(split.labels))),
    }


def augment(images: Tensor, how: str, generator: torch.Generator) -> Tensor:
    """Augment a batch of uint8 (B, C, H, W), each image by its own draw.

    `flip` mirrors half of them. `flip_shift` also moves each by up to a twelfth of its side, edges repeated, and
    scales its brightness by 0.8 to 1.2.
    """
    if how == "none":
        return images
    batch, _, side, _ = images.shape
    mirrored = torch.rand(batch, generator=generator) < 0.5
    images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
    if how == "flip":
        return images
    reach = side // 12
    padded = F.pad(images.float(), (reach,) * 4, mode="replicate")
    offsets = torch.randint(0, 2 * reach + 1, (2, batch, 1), generator=generator)
    rows, columns = offsets + torch.arange(side)
    which = torch.arange(batch)[:, None, None]
    moved = padded[which, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    brightness = 0.8 + 0.4 * torch.rand(batch, 1, 1, 1, generator=generator)
    return (moved * brightness).clamp_(0, 255)


def make_deterministic(seed: int) -> None:
    """Seed everything that draws, and refuse operations whose result may vary from run to run."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS may vary, and torch refuses it
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True)


def _tensor(split: Split, positions: np.ndarray) -> Tensor:
    return torch.from_numpy(split.images[split.rows[positions]]).permute(0, 3, 1, 2)


def as_input(images: Tensor, where: torch.device) -> Tensor:
    """Pixels (B, C, H, W) from 0 to 255 as normalised float32 on a device, channels last in memory."""
    mean, std = (torch.tensor(v, device=where)[:, None, None] for v in NORMALISATION[images.shape[1]])
    scaled = images.to(where, non_blocking=True).float() / 255
    return ((scaled - mean) / std).contiguous(memory_format=torch.channels_last)
