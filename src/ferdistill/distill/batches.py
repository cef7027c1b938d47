"""The batches of an epoch: one order and one augmentation for all processes, and of each batch this one's rows."""

import math
import queue
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from ..params import Phase
from . import mixing
from .augment import Draw, apply, choose, draw
from .data import Split

DEPTH = 2  # batches that wait


@dataclass(frozen=True)
class Batch:
    """The rows of a batch that this process takes, on its device."""

    # (B, C, H, W), augmented, from 0 to 255; where they are mixed too, (2 B, C, H, W): first as they are, then mixed
    pixels: Tensor
    labels: Tensor  # int64, (B,); -1 of an image without one, until a mode sees it
    positions: Tensor  # int64, (B,): rows of the split that is trained on
    views: Tensor | None  # int64, (B,): which recorded view of each image; None where augmentation is drawn afresh
    epoch: int  # from 0
    images: int  # of the whole batch, over all processes
    mixed: mixing.Mixed | None = None  # what else the hard labels are of, where images are mixed

    def plain(self, outputs: Tensor) -> Tensor:
        """Of the outputs for `pixels` those of the images as they are, (B, ...)."""
        return outputs[: len(self.labels)]

    def hard(self, outputs: Tensor) -> Tensor:
        """Those that hard labels are of, (B, ...): of the mixed images, where there are any."""
        return outputs[-len(self.labels) :]


def count(split: Split, size: int) -> int:
    """Number of batches of an epoch, of about `size` images."""
    return math.ceil(len(split.rows) / size)


def batches(
    split: Split,
    size: int,
    phase: Phase,
    epoch: int,
    *,
    views: list[Draw] | None,
    soft: bool,
    generator: torch.Generator,
    accelerator: Accelerator,
) -> Iterator[Batch]:
    """Every image of the split once, in an order from the generator, which draws the augmentation too.

    It draws alike in every process, as the phase has it. In epoch e image i is seen in recorded view (e + i) mod V, if
    there are any. Where the phase mixes images, they come as they are too if `soft`: if a term of the loss is of those.
    """
    device, rank, world_size = accelerator.device, accelerator.process_index, accelerator.num_processes
    labels, side = torch.from_numpy(split.labels), split.images.shape[1]
    order = torch.randperm(len(split.rows), generator=generator)
    for rows in torch.tensor_split(order, count(split, size)):
        drawn = draw(len(rows), side, generator, phase.augment, phase.strength)
        which = None if views is None else (epoch + rows) % len(views)
        if views is not None and which is not None:
            drawn = choose(views, which, rows)
        mix = mixing.draw(labels[rows], side, phase, generator)
        own = torch.arange(len(rows)).tensor_split(world_size)[rank]
        positions, mixed = rows[own], None
        # Those that own ones are mixed with may be another process's; in one process this is the batch in its order.
        needed, places = (own if mix is None else torch.cat([own, mix.others[own]])).unique(return_inverse=True)
        pixels = apply(_moved(split.pixels(rows[needed].numpy()), device), phase.augment, drawn[needed])
        if mix is not None:
            plain, others = pixels[places.to(device)].chunk(2)
            pixels = mixing.apply(plain, others, mix[own])
            pixels = torch.cat([plain.float(), pixels]) if soft else pixels
            mixed = mixing.Mixed(labels[rows[mix.others[own]]].to(device), mix.share[own].to(device))
        yield Batch(
            pixels,
            labels[positions].to(device),
            positions.to(device),
            None if which is None else which[own].to(device),
            epoch,
            len(rows),
            mixed,
        )


def _moved(pixels: Tensor, device: torch.device) -> Tensor:
    """On the device; to a GPU from pinned memory, so that the copy waits for nothing."""
    return pixels.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else pixels


def ahead(drawn: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """The same batches in the same order, gathered, moved and augmented by a thread while the steps before are at work.

    On a GPU that happens on a stream of its own, for which the steps' stream waits. An error of the thread is raised
    here; whoever stops early stops it.
    """
    cuda = device.type == "cuda"
    stream = torch.cuda.Stream(device) if cuda else None
    ready: queue.Queue[tuple[Batch, Any] | BaseException | None] = queue.Queue(DEPTH)
    stopped, threads = threading.Event(), torch.get_num_threads()

    def put(found: tuple[Batch, Any] | BaseException | None) -> bool:
        while not stopped.is_set():
            try:
                ready.put(found, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def gather() -> None:
        torch.set_num_threads(threads)  # each thread has a number of its own
        try:
            with torch.cuda.stream(stream) if cuda else nullcontext():
                for batch in drawn:
                    if not put((batch, stream.record_event() if stream else None)):
                        return
            put(None)
        except BaseException as error:  # whatever it is, it belongs to the loop
            put(error)

    def taken() -> tuple[Batch, Any] | BaseException | None:
        while True:
            alive = thread.is_alive()
            try:
                return ready.get(timeout=1)
            except queue.Empty:
                if not alive:  # without room for an error of its own
                    return MemoryError("the thread that gathers batches has ended")

    thread = threading.Thread(target=gather, name="batches", daemon=True)
    thread.start()
    try:
        while (found := taken()) is not None:
            if isinstance(found, BaseException):
                raise found
            batch, event = found
            if cuda:
                torch.cuda.current_stream(device).wait_event(event)
                for tensor in (batch.pixels, batch.labels, batch.positions, *(batch.mixed or ())):
                    tensor.record_stream(torch.cuda.current_stream(device))
            yield batch
    finally:
        stopped.set()
        thread.join()
