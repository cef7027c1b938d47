"""One training loop for teachers and students."""

import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator, PartialState
from rich.progress import TextColumn
from timm.layers import convert_sync_batchnorm
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from ..data.index import Index
from ..errors import CheckError, UsageError
from ..f1 import counts, f1
from ..params import NetworkParams, TrainingParams
from ..progress import bar
from . import checkpoint as checkpoints
from .augment import Draw, apply, draw, mix
from .batch_norm import share_batch_norm
from .losses import balanced_class_weights, ce_loss
from .models import NORMALISATION


@dataclass(frozen=True)
class Split:
    """Images (N, H, W, C) uint8 of the whole index, the rows of one split, and its labels, int64 (n,)."""

    images: np.ndarray
    rows: np.ndarray
    labels: np.ndarray


def splits_of(index: Index, images: np.ndarray, classes: list[str]) -> tuple[Split, Split, Split]:
    """The train, val and test splits of an index."""
    codes = index.codes(classes)
    train, val, test = (
        Split(images, index.positions(split), codes[index.positions(split)]) for split in ("train", "val", "test")
    )
    return train, val, test


@dataclass(frozen=True)
class Batch:
    """What a loss may look at beside the logits.

    Attributes
    ----------
    labels : Tensor of int64, (B,)
    positions : Tensor of int64, (B,)
        Rows of the train split.
    views : Tensor of int64 or None, (B,)
        Which recorded view of each image this is; None where augmentation is drawn afresh.
    epoch : int
        From 0.
    """

    labels: Tensor
    positions: Tensor
    views: Tensor | None
    epoch: int


# (logits, batch) -> mean loss of the batch
Loss = Callable[[Tensor, Batch], Tensor]


def hard_weights(settings: TrainingParams, labels: Tensor, classes: list[str]) -> Tensor | None:
    """Weight of each class in the hard cross-entropy, on the training device; None for equal ones."""
    if settings.class_weights == "none":
        return None
    return balanced_class_weights(labels, classes).to(device())


def hard_loss(recipe: NetworkParams, weights: Tensor | None) -> Loss:
    """Cross-entropy with a recipe's label smoothing."""
    smoothing = recipe.label_smoothing
    return lambda logits, batch: ce_loss(logits, batch.labels, class_weights=weights, label_smoothing=smoothing)


@dataclass
class Fit:
    """What training gives: one record an epoch, and the weights of the epoch best on val."""

    history: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int = 0
    best_state: dict[str, Tensor] = field(default_factory=dict)


def device() -> torch.device:
    """CUDA where it is there, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def accelerator_for(settings: TrainingParams) -> Accelerator:
    """The processes and devices that train together, as `accelerate launch` set them up; alone, this one.

    Raises
    ------
    UsageError
        If `training.amp` asks for what the device cannot do.
    """
    cuda = torch.cuda.is_available()
    amp = settings.amp
    if amp == "auto":
        amp = "no" if not cuda else "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    if amp == "fp16" and not cuda:
        raise UsageError(
            "float16 needs a GPU", where="params.yaml, training.amp", expected="auto, no or bf16", hint="use auto"
        )
    return Accelerator(mixed_precision=amp, cpu=not cuda)


def is_main_process() -> bool:
    """Whether this is the process that writes what several have trained."""
    return bool(PartialState(cpu=not torch.cuda.is_available()).is_main_process)


def fit(
    network: nn.Module,
    train: Split,
    val: Split,
    recipe: NetworkParams,
    settings: TrainingParams,
    seed: int,
    loss: Loss,
    *,
    name: str,
    test: Split | None = None,
    test_every: int = 0,
    views: list[Draw] | None = None,
    watch: Callable[[], dict[str, float]] = dict,
    log: Callable[[dict[str, Any]], None] = lambda record: None,
    checkpoint: Path | None = None,
) -> Fit:
    """Train `network` by a recipe and keep the weights of the epoch with the best macro F1 on val.

    In several processes each takes its share of every batch, so that the batch of the recipe is the global one. The
    order of the images and their augmentation do not depend on the number of processes.

    Parameters
    ----------
    test, test_every : Split, int
        Every `test_every` epochs, and after the last, the test split is scored too, for the record of the report's
        protocol alone: nothing is chosen by it.
    views : list of Draw, optional
        Recorded views. In epoch e image i is seen in view (e + i) mod V, and in no other.
    watch : callable
        Called after each epoch; what it returns joins the epoch's record.
    log : callable
        Takes each epoch's record.
    checkpoint : Path, optional
        Where to go on from, and what to write after every epoch. The end is the same, bit for bit, however often the
        run was broken off.

    Returns
    -------
    Fit
        The network itself ends with the best weights loaded.

    Raises
    ------
    CheckError
        If the loss becomes NaN or infinite, or a batch is larger than the split or smaller than the processes.
    """
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    accelerator = accelerator_for(settings)
    share, shares = accelerator.process_index, accelerator.num_processes
    if not shares <= recipe.batch <= len(train.rows):
        raise CheckError(
            f"a batch of {recipe.batch} for {len(train.rows)} training images and {shares} processes",
            where=name,
            expected="a batch of at most the split's length, and of one image a process at least",
            hint="change `batch`, or add images",
        )
    where = accelerator.device
    network.to(where)
    if shares > 1:
        torch.manual_seed(seed + 1_000_003 * share)  # dropout must not fall alike on every share
        network = convert_sync_batchnorm(network) if where.type == "cuda" else share_batch_norm(network)
    generator = torch.Generator().manual_seed(seed)
    labels = torch.from_numpy(train.labels)
    side = train.images.shape[1]
    batches = math.ceil(len(train.rows) / recipe.batch)
    epochs = sum(phase.epochs for phase in recipe.phases)
    ema = None if settings.ema is None else ModelEmaV3(network, decay=settings.ema, use_warmup=True)
    judged = network if ema is None else ema.module
    result, started, seen = Fit(), time.monotonic(), 0

    resumed = checkpoint and checkpoints.load(checkpoint)
    tensors, state = resumed or ({}, {"history": [], "best_epoch": 0})
    result.history, result.best_epoch = state["history"], state["best_epoch"]
    for past in result.history:
        log(past)
    if resumed:
        result.best_state = checkpoints.with_prefix(tensors, "best")
        network.load_state_dict(checkpoints.with_prefix(tensors, "network"))
        if ema is not None:
            ema.module.load_state_dict(checkpoints.with_prefix(tensors, "ema"))
        generator.set_state(tensors["random.order"])
        torch.set_rng_state(tensors["random.torch"][share])
        if where.type == "cuda":
            torch.cuda.set_rng_state(tensors["random.cuda"][share])
        if accelerator.is_main_process:
            print(f"{name}: goes on after epoch {len(result.history)}/{epochs}", file=sys.stderr, flush=True)

    with bar(TextColumn("{task.fields[rate]}")) as progress:
        task = progress.add_task(name, total=epochs * batches, completed=len(result.history) * batches, rate="")
        first = 0  # epoch of the run at which the phase begins
        for phase in recipe.phases:
            if first + phase.epochs <= len(result.history):
                first += phase.epochs
                continue
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
            if len(result.history) > first:
                _load_optimizer(optimizer, tensors)
                if accelerator.scaler is not None:
                    accelerator.scaler.load_state_dict(state["scaler"])
            wrapped, stepper = accelerator.prepare(network, optimizer)
            for epoch in range(len(result.history), first + phase.epochs):
                network.train()
                order = torch.randperm(len(train.rows), generator=generator)
                total = torch.zeros((), device=where)
                for number, everywhere in enumerate(torch.tensor_split(order, batches)):
                    scheduler.step_update((epoch - first) * batches + number)
                    drawn = draw(len(everywhere), side, generator)
                    which = None if views is None else (epoch + everywhere) % len(views)
                    if views is not None and which is not None:
                        drawn = mix(views, which, everywhere)
                    mine = torch.arange(len(everywhere)).tensor_split(shares)[share]
                    positions = everywhere[mine]
                    batch = Batch(
                        labels[positions].to(where),
                        positions.to(where),
                        None if which is None else which[mine].to(where),
                        epoch,
                    )
                    inputs = apply(_tensor(train, positions.numpy()).to(where), phase.augment, drawn[mine])
                    with accelerator.autocast():
                        logits = wrapped(as_input(inputs, where))
                    value = loss(logits, batch)
                    stepper.zero_grad(set_to_none=True)
                    # Processes average their gradients; shares of unequal size must not count alike.
                    accelerator.backward(value * (len(mine) * shares / len(everywhere)))
                    if settings.clip_norm is not None:
                        accelerator.clip_grad_norm_(network.parameters(), settings.clip_norm)
                    stepper.step()
                    if ema is not None:
                        ema.update(network, step=epoch * batches + number)
                    total += value.detach() * len(positions)
                    seen += len(everywhere)
                    rate = seen / (time.monotonic() - started)
                    progress.update(task, advance=1, rate=f"{rate:.0f} images/s")

                train_loss = float(accelerator.reduce(total, "sum")) / len(train.rows)
                if not math.isfinite(train_loss):
                    raise CheckError(
                        f"the loss became {train_loss}",
                        where=f"{name}, epoch {epoch + 1}",
                        expected="a finite loss",
                        hint="lower the learning rate of this phase, or set training.amp to no",
                    )
                record: dict[str, Any] = {
                    "epoch": float(epoch + 1),
                    "lr": optimizer.param_groups[0]["lr"],
                    "train_loss": train_loss,
                }
                record |= watch()
                record |= {f"val_{key}": value for key, value in evaluate(judged, val).items()}
                if test is not None and ((epoch + 1) % test_every == 0 or epoch + 1 == epochs):
                    record |= {f"test_{key}": value for key, value in evaluate(judged, test).items()}
                best = max((past["val_macro_f1"] for past in result.history), default=-1.0)
                if record["val_macro_f1"] > best:
                    result.best_epoch = epoch + 1
                    result.best_state = {k: v.detach().cpu().clone() for k, v in judged.state_dict().items()}
                result.history.append(record)
                log(record)
                if checkpoint:
                    _save_checkpoint(checkpoint, accelerator, result, network, ema, optimizer, generator)
                if progress.disable and accelerator.is_main_process:
                    print(
                        f"{name}: epoch {epoch + 1}/{epochs}, loss {train_loss:.4f}, "
                        f"val macro F1 {record['val_macro_f1']:.4f}, {rate:.0f} images/s",
                        file=sys.stderr,
                        flush=True,
                    )
            accelerator.free_memory()
            first += phase.epochs
    network.load_state_dict(result.best_state)
    return result


def _save_checkpoint(
    path: Path,
    accelerator: Accelerator,
    result: Fit,
    network: nn.Module,
    ema: ModelEmaV3 | None,
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
) -> None:
    where = accelerator.device
    tensors = {"random.torch": accelerator.gather(torch.get_rng_state()[None].to(where))}
    if where.type == "cuda":
        tensors["random.cuda"] = accelerator.gather(torch.cuda.get_rng_state()[None].to(where))
    if accelerator.is_main_process:
        tensors["random.order"] = generator.get_state()
        tensors |= {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
        tensors |= {f"best.{name}": tensor for name, tensor in result.best_state.items()}
        if ema is not None:
            tensors |= {f"ema.{name}": tensor for name, tensor in ema.module.state_dict().items()}
        for number, values in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{number}.{name}": torch.as_tensor(value) for name, value in values.items()}
        scaler = accelerator.scaler.state_dict() if accelerator.scaler is not None else None
        state = {"history": result.history, "best_epoch": result.best_epoch, "scaler": scaler}
        checkpoints.save(path, tensors, state)
    accelerator.wait_for_everyone()


def _load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in checkpoints.with_prefix(tensors, "optimizer").items():
        number, _, key = name.partition(".")
        state.setdefault(int(number), {})[key] = tensor
    optimizer.load_state_dict(optimizer.state_dict() | {"state": state})


def predict(network: nn.Module, split: Split, view: tuple[str, Draw] | None = None, batch: int = 256) -> np.ndarray:
    """Logits of a split, float32 (n, K), in the order of its rows.

    Of a recorded view of each image, if its augmentation and what was drawn are given.
    """
    where = device()
    network.to(where).eval()
    logits = []
    with torch.inference_mode():
        for positions in np.array_split(np.arange(len(split.rows)), max(1, math.ceil(len(split.rows) / batch))):
            images = _tensor(split, positions).to(where)
            if view is not None:
                images = apply(images, view[0], view[1][torch.from_numpy(positions)])
            logits.append(network(as_input(images, where)).float().cpu())
    return torch.cat(logits).numpy()


def evaluate(network: nn.Module, split: Split) -> dict[str, Any]:
    """Macro F1, F1 of each class (a list), accuracy and negative log-likelihood on a split."""
    logits = predict(network, split)
    predicted = logits.argmax(1)
    of_class = f1(*counts(split.labels, predicted, logits.shape[1]))
    return {
        "macro_f1": float(of_class.mean()),
        "f1": of_class.tolist(),
        "accuracy": float((predicted == split.labels).mean()),
        "nll": float(F.cross_entropy(torch.from_numpy(logits).double(), torch.from_numpy(split.labels))),
    }


def by_class(metrics: dict[str, Any], classes: list[str]) -> dict[str, Any]:
    """The metrics of `evaluate`, F1 by class name."""
    return metrics | {"f1": dict(zip(classes, metrics["f1"], strict=True))}


def make_deterministic(seed: int) -> None:
    """Seed everything that draws, and refuse operations whose result may vary from run to run."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS may vary, and torch refuses it
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True)
    # Deterministic mode also fills every new tensor, for code that reads what it never wrote. None here does.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def _tensor(split: Split, positions: np.ndarray) -> Tensor:
    return torch.from_numpy(split.images[split.rows[positions]]).permute(0, 3, 1, 2)


def as_input(images: Tensor, where: torch.device) -> Tensor:
    """Pixels (B, C, H, W) from 0 to 255 as normalised float32 on a device, channels last in memory."""
    mean, std = (torch.tensor(v, device=where)[:, None, None] for v in NORMALISATION[images.shape[1]])
    scaled = images.to(where, non_blocking=True).float() / 255
    return ((scaled - mean) / std).contiguous(memory_format=torch.channels_last)
