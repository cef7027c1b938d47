"""Augmentation of image tensors, drawn and applied apart, so that what was drawn can be recorded and drawn again."""

from dataclasses import dataclass

import torch
from torch import Tensor

# What recorded views are drawn again from.
VIEW_SEED = 1


@dataclass(frozen=True)
class Draw:
    """What was drawn for each of B images, on the CPU."""

    mirrored: Tensor  # bool, (B,)
    shift: Tensor  # int64, (2, B): pixels down and right, from 0 to twice `reach`; half of that is no shift
    brightness: Tensor  # float32, (B,): a factor, 0.8 to 1.2

    def __getitem__(self, rows: Tensor) -> "Draw":
        return Draw(self.mirrored[rows], self.shift[:, rows], self.brightness[rows])


def reach(side: int) -> int:
    """Pixels by which an image of this side is moved at most."""
    return side // 12


def draw(count: int, side: int, generator: torch.Generator) -> Draw:
    """Draw for `count` images of `side` pixels."""
    return Draw(
        torch.rand(count, generator=generator) < 0.5,
        torch.randint(0, 2 * reach(side) + 1, (2, count), generator=generator),
        0.8 + 0.4 * torch.rand(count, generator=generator),
    )


def recorded(views: int, count: int, side: int, seed: int = VIEW_SEED) -> list[Draw]:
    """The draws of recorded views: view v of image i is the same wherever it is asked for.

    A teacher is asked about these very views and the student trains on them: FKD (Shen and Xing, ECCV 2022) and
    TinyViT (Wu et al., ECCV 2022) store such seeds beside their soft labels.
    """
    return [draw(count, side, torch.Generator().manual_seed(seed * 1_000_003 + view)) for view in range(views)]


def mix(views: list[Draw], which: Tensor, rows: Tensor) -> Draw:
    """Of image `rows[b]` the view `which[b]`."""
    return Draw(
        torch.stack([view.mirrored for view in views])[which, rows],
        torch.stack([view.shift for view in views], 1)[:, which, rows],
        torch.stack([view.brightness for view in views])[which, rows],
    )


def apply(images: Tensor, how: str, drawn: Draw) -> Tensor:
    """Augment a batch (B, C, H, W) with values from 0 to 255, each image by its own draw.

    `flip` mirrors those drawn to be. `shift` moves each by up to a twelfth of its side, edges repeated, and scales its
    brightness. `flip_shift` does both, `none` nothing.
    """
    if how == "none":
        return images
    device, side = images.device, images.shape[2]
    if how != "shift":
        images = torch.where(drawn.mirrored.to(device)[:, None, None, None], images.flip(3), images)
    if how == "flip":
        return images
    # An index past an edge stays on it: the edge is repeated.
    offsets = torch.arange(side, device=device) - reach(side)
    rows, columns = (drawn.shift.to(device)[:, :, None] + offsets).clamp_(0, side - 1)
    which = torch.arange(len(images), device=device)[:, None, None]
    moved = images[which, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    return (moved.float() * drawn.brightness.to(device)[:, None, None, None]).clamp_(0, 255)
