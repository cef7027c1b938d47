"""The batches of an epoch: one order and one augmentation for all processes, and of each batch this one's rows."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor

from .augment import Draw, apply, draw, mix
from .data import Split


@dataclass(frozen=True)
class Batch:
    """The rows of a batch that this process takes, on its device."""

    pixels: Tensor  # (B, C, H, W), augmented, from 0 to 255
    labels: Tensor  # int64, (B,); -1 of an image without one, until a mode sees it
    positions: Tensor  # int64, (B,): rows of the split that is trained on
    views: Tensor | None  # int64, (B,): which recorded view of each image; None where augmentation is drawn afresh
    epoch: int  # from 0
    images: int  # of the whole batch, over all processes


def count(split: Split, size: int) -> int:
    """Number of batches of an epoch, of about `size` images."""
    return math.ceil(len(split.rows) / size)


def batches(
    split: Split,
    size: int,
    augment: str,
    epoch: int,
    *,
    views: list[Draw] | None,
    generator: torch.Generator,
    accelerator: Accelerator,
) -> Iterator[Batch]:
    """Every image of the split once, in an order from the generator, which draws the augmentation too.

    It draws alike in every process. In epoch e image i is seen in recorded view (e + i) mod V, if there are any.
    """
    device, rank, world_size = accelerator.device, accelerator.process_index, accelerator.num_processes
    labels, side = torch.from_numpy(split.labels), split.images.shape[1]
    order = torch.randperm(len(split.rows), generator=generator)
    for rows in torch.tensor_split(order, count(split, size)):
        drawn = draw(len(rows), side, generator)
        which = None if views is None else (epoch + rows) % len(views)
        if views is not None and which is not None:
            drawn = mix(views, which, rows)
        own = torch.arange(len(rows)).tensor_split(world_size)[rank]
        positions = rows[own]
        yield Batch(
            apply(split.pixels(positions.numpy()).to(device), augment, drawn[own]),
            labels[positions].to(device),
            positions.to(device),
            None if which is None else which[own].to(device),
            epoch,
            len(rows),
        )
