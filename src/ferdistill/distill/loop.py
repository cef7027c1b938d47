"""One training loop for teachers and students."""

import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate, islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator, PartialState
from rich.progress import TextColumn
from timm.layers import convert_sync_batchnorm
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from ..errors import CheckError, UsageError
from ..params import NetworkParams, Phase, TrainingParams
from ..progress import bar
from . import checkpoint as checkpoints
from .augment import Draw
from .batch_norm import share_batch_norm
from .batches import Batch, ahead, batches, count
from .checkpoint import TrainingState
from .data import Split
from .inference import as_input, evaluate

# (outputs for the batch's pixels, batch) -> mean over the batch of each term of the loss, and of their sum as `loss`,
# which is descended
Loss = Callable[[Tensor, Batch], dict[str, Tensor]]


@dataclass(frozen=True)
class Method:
    """How a network is trained: its recipe, the settings that all networks share, and the seed of all that is drawn."""

    recipe: NetworkParams
    settings: TrainingParams
    seed: int


@dataclass(frozen=True)
class TrainingData:
    """What a network is trained and judged on.

    Every `test_every` epochs, and after the last, the test split is scored too, for the record of the report's protocol
    alone: nothing is chosen by it. `views` are recorded ones of the train split.
    """

    train: Split
    val: Split
    test: Split | None = None
    test_every: int = 1
    views: list[Draw] | None = None


@dataclass(frozen=True)
class Objective:
    """What is descended, and what is called after each epoch: its result joins the epoch's record.

    `soft` says that a term of the loss is of the images as they are, where a phase mixes them for the hard labels'.
    """

    loss: Loss
    after_epoch: Callable[[], dict[str, float]] = dict
    soft: bool = False


class TrainingResult(NamedTuple):
    """A record an epoch, and which epoch, from 1, was best on val: the network has its weights."""

    history: list[dict[str, Any]]
    best_epoch: int


class _Steps(NamedTuple):
    """What makes the steps of a phase: the network as processes share it, and the learning rate by step of the run."""

    network: nn.Module
    optimizer: Any
    schedule: Callable[[int], None]
    clip_norm: float | None


def adamw(
    network: nn.Module, lr: float, weight_decay: float, steps: int, warmup: int
) -> tuple[torch.optim.Optimizer, Callable[[int], None]]:
    """AdamW, and what sets its learning rate at a step: `warmup` steps up from a hundredth of `lr`, a cosine back."""
    optimizer = create_optimizer_v2(network, "adamw", lr=lr, weight_decay=weight_decay)
    schedule = CosineLRScheduler(
        optimizer,
        steps,
        lr_min=lr / 100,
        warmup_t=warmup,
        warmup_lr_init=lr / 100,
        warmup_prefix=True,
        t_in_epochs=False,
    )
    return optimizer, schedule.step_update


def is_main_process() -> bool:
    """Whether this is the process that writes what several have trained."""
    return bool(PartialState(cpu=not torch.cuda.is_available()).is_main_process)


def fit(
    network: nn.Module,
    method: Method,
    data: TrainingData,
    objective: Objective,
    *,
    name: str,
    log: Callable[[dict[str, Any]], None] = lambda record: None,
    checkpoint: Path | None = None,
) -> TrainingResult:
    """Train `network` and load the weights of the epoch that is best on val, by `training.monitor`.

    In several processes each takes its share of every batch, so that the batch of the recipe is the global one. The
    order of the images and their augmentation do not depend on the number of processes.

    Parameters
    ----------
    name : str
        In messages.
    log : callable
        Takes each epoch's record: `epoch`, `lr`, `train_TERM` for each term of the loss, what the objective adds,
        `val_METRIC`, and at times `test_METRIC`.
    checkpoint : Path, optional
        Where to go on from, and what to write after every epoch. The end is the same, bit for bit, however often the
        run was broken off.

    Raises
    ------
    UsageError
        If `training.amp` asks for what the device cannot do.
    CheckError
        If the loss becomes NaN or infinite, a GPU cannot hold a batch, or a batch is larger than the split or smaller
        than the processes.
    """
    training = _start(network, method, data.train, name)
    accelerator, recipe = training.accelerator, method.recipe
    # Of each epoch of the run its phase, and the epoch with which that begins.
    firsts = accumulate((phase.epochs for phase in recipe.phases), initial=0)
    plan = [(phase, first) for phase, first in zip(recipe.phases, firsts, strict=False) for _ in range(phase.epochs)]
    per_epoch = count(data.train, recipe.batch)
    saved = checkpoints.load(checkpoint) if checkpoint else None
    if saved:
        checkpoints.restore_training(saved, training)
        if accelerator.is_main_process:
            print(f"{name}: goes on after epoch {len(training.history)}/{len(plan)}", file=sys.stderr, flush=True)
    for past in training.history:
        log(past)
    done, steps, seen, started = len(training.history), None, 0, time.monotonic()
    with bar(TextColumn("{task.fields[rate]}")) as progress:
        task = progress.add_task(name, total=len(plan) * per_epoch, completed=done * per_epoch, rate="")

        def advance(images: int) -> None:
            nonlocal seen
            seen += images
            progress.update(task, advance=1, rate=f"{seen / (time.monotonic() - started):.0f} images/s")

        for epoch, (phase, first) in islice(enumerate(plan), done, None):
            if steps is None or first == epoch:
                steps = _begin(training, method, phase, first, per_epoch)
                if saved and first < epoch:
                    checkpoints.restore_optimizer(saved, steps.optimizer, accelerator.scaler)
            drawn = batches(
                data.train,
                recipe.batch,
                phase,
                epoch,
                views=data.views,
                soft=objective.soft,
                generator=training.generator,
                accelerator=accelerator,
            )
            with _said_of(recipe.batch, f"{name}, epoch {epoch + 1}"):
                drawn = ahead(drawn, accelerator.device)
                terms = _train(training, steps, drawn, objective.loss, epoch * per_epoch, advance)
            record: dict[str, Any] = {"epoch": float(epoch + 1), "lr": steps.optimizer.param_groups[0]["lr"]}
            record |= {f"train_{term}": value for term, value in terms.items()} | objective.after_epoch()
            record |= _judge(training, data, method.settings.monitor, last=epoch + 1 == len(plan))
            training.history.append(record)
            log(record)
            if checkpoint:
                checkpoints.save_training(checkpoint, training, steps.optimizer)
            if progress.disable and accelerator.is_main_process:
                print(
                    f"{name}: epoch {epoch + 1}/{len(plan)}, loss {terms['loss']:.4f}, "
                    f"val macro F1 {record['val_macro_f1']:.4f}, {progress.tasks[0].fields['rate']}",
                    file=sys.stderr,
                    flush=True,
                )
            if epoch + 1 == first + phase.epochs:
                accelerator.free_memory()
    network.load_state_dict(training.best_weights)
    best = max(training.history, key=lambda record: _merit(record, method.settings.monitor))  # the first of equals
    return TrainingResult(training.history, int(best["epoch"]))


def _start(network: nn.Module, method: Method, train: Split, name: str) -> TrainingState:
    """Put a network on its device, ready for as many processes as there are."""
    settings, batch = method.settings, method.recipe.batch
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    amp, cuda = settings.amp, torch.cuda.is_available()
    if amp == "auto":
        amp = "no" if not cuda else "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    if amp == "fp16" and not cuda:
        raise UsageError(
            "float16 needs a GPU", where="params.yaml, training.amp", expected="auto, no or bf16", hint="use auto"
        )
    # The processes and devices that train together, as `accelerate launch` set them up; alone, this one.
    accelerator = Accelerator(mixed_precision=amp, cpu=not cuda)
    rank, world_size, device = accelerator.process_index, accelerator.num_processes, accelerator.device
    if not world_size <= batch <= len(train.rows):
        raise CheckError(
            f"a batch of {batch} for {len(train.rows)} training images and {world_size} processes",
            where=name,
            expected="a batch of at most the split's length, and of one image a process at least",
            hint="change `batch`, or add images",
        )
    network.to(device)
    if world_size > 1:
        torch.manual_seed(method.seed + 1_000_003 * rank)  # dropout must not fall alike in every process
        network = convert_sync_batchnorm(network) if device.type == "cuda" else share_batch_norm(network)
    ema = None if settings.ema is None else ModelEmaV3(network, decay=settings.ema, use_warmup=True)
    return TrainingState(accelerator, network, ema, torch.Generator().manual_seed(method.seed))


@contextmanager
def _said_of(batch: int, where: str) -> Iterator[None]:
    """Say what to do where a GPU cannot hold a batch, or the loss is no number."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise CheckError(
            f"a batch of {batch} does not fit into the GPU's memory: {str(error).splitlines()[0]}",
            where=where,
            expected="memory for a batch, which grows with `batch` and with the square of `image.size`",
            hint="halve `batch` in the recipe, or let more GPUs share it (launch.processes)",
        ) from None
    except FloatingPointError as error:
        raise CheckError(
            f"the loss became {error}",
            where=where,
            expected="a finite loss",
            hint="lower the learning rate of this phase, or set training.amp to no",
        ) from None


def _begin(training: TrainingState, method: Method, phase: Phase, first: int, per_epoch: int) -> _Steps:
    """The optimiser and schedule of a phase that begins with epoch `first`."""
    steps = phase.epochs * per_epoch
    # The first tenth of a phase warms up: fresh classifiers and Adam's first steps both need it.
    optimizer, set_lr = adamw(training.network, phase.lr, method.recipe.weight_decay, steps, steps // 10)
    network, wrapped = training.accelerator.prepare(training.network, optimizer)
    return _Steps(network, wrapped, lambda step: set_lr(step - first * per_epoch), method.settings.clip_norm)


def _train(
    training: TrainingState,
    steps: _Steps,
    drawn: Iterator[Batch],
    loss: Loss,
    step: int,
    advance: Callable[[int], None],
) -> dict[str, float]:
    """Train for an epoch that begins with this step of the run: the mean of each term over its images.

    Raises FloatingPointError if that of the loss is not finite.
    """
    accelerator, network = training.accelerator, training.network
    device, images = accelerator.device, 0
    totals: dict[str, Tensor] = {}
    network.train()
    for number, batch in enumerate(drawn, step):
        steps.schedule(number)
        with accelerator.autocast():
            logits = steps.network(as_input(batch.pixels, device))
        terms = loss(logits, batch)
        steps.optimizer.zero_grad(set_to_none=True)
        # Processes average their gradients; parts of unequal size must not count alike.
        accelerator.backward(terms["loss"] * (len(batch.labels) * accelerator.num_processes / batch.images))
        if steps.clip_norm is not None:
            accelerator.clip_grad_norm_(network.parameters(), steps.clip_norm)
        steps.optimizer.step()
        if training.ema is not None:
            training.ema.update(network, step=number)
        for term, value in terms.items():
            totals.setdefault(term, torch.zeros((), device=device)).add_(value.detach() * len(batch.labels))
        images += batch.images
        advance(batch.images)
    means = {term: float(accelerator.reduce(total, "sum")) / images for term, total in totals.items()}
    if not math.isfinite(means["loss"]):
        raise FloatingPointError(means["loss"])
    return means


def _merit(record: dict[str, Any], monitor: str) -> float:
    """What is highest in the epoch that is chosen."""
    return float(-record["val_nll"] if monitor == "nll" else record[f"val_{monitor}"])


def _judge(training: TrainingState, data: TrainingData, monitor: str, last: bool) -> dict[str, Any]:
    """Metrics of the weights after an epoch, of their moving average if there is one."""
    judged = training.network if training.ema is None else training.ema.module
    metrics = {f"val_{key}": value for key, value in evaluate(judged, data.val).items()}
    if data.test is not None and (last or (len(training.history) + 1) % data.test_every == 0):
        metrics |= {f"test_{key}": value for key, value in evaluate(judged, data.test).items()}
    if all(_merit(metrics, monitor) > _merit(past, monitor) for past in training.history):
        training.best_weights = {name: tensor.detach().cpu().clone() for name, tensor in judged.state_dict().items()}
    return metrics
