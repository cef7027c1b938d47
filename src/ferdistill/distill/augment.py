"""Augmentation of image tensors, drawn and applied apart, so that what was drawn can be recorded and drawn again."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

# What recorded views are drawn again from.
VIEW_SEED = 1
# What `strong` draws of each image, in this order, and how far each goes at a strength of 1: turn (radians), log of the
# scale, shear, moves across and down (shares of the side), logs of the factors of brightness, contrast and saturation.
REACHES = (math.pi / 6, 0.35, 0.3, 0.12, 0.12, 0.5, 0.5, 0.5)
BLUR = 0.02  # deviation, as a share of the side, at most
BLURRED, ERASED = 0.4, 0.5  # shares of the images at a strength of 1
LEAST_ERASED, MOST_ERASED = 0.1, 0.4  # sides of the box, as shares of the image's
GREY = (0.299, 0.587, 0.114)  # ITU-R 601


@dataclass(frozen=True)
class Draw:
    """What was drawn for each of B images, on the CPU."""

    mirrored: Tensor  # bool, (B,)
    shift: Tensor  # int64, (2, B): pixels down and right, from 0 to twice `reach`; half of that is no shift
    brightness: Tensor  # float32, (B,): a factor, 0.8 to 1.2
    strong: Tensor | None = None  # float32, (B, 13): by `REACHES`, then blur, and the box erased; None if not asked for

    def __getitem__(self, rows: Tensor) -> "Draw":
        strong = None if self.strong is None else self.strong[rows]
        return Draw(self.mirrored[rows], self.shift[:, rows], self.brightness[rows], strong)


def reach(side: int) -> int:
    """Pixels by which an image of this side is moved at most."""
    return side // 12


def draw(count: int, side: int, generator: torch.Generator, how: str = "flip_shift", strength: float = 0.5) -> Draw:
    """Draw for `count` images of `side` pixels; `how` and `strength` are as in `apply`."""
    drawn = Draw(
        torch.rand(count, generator=generator) < 0.5,
        torch.randint(0, 2 * reach(side) + 1, (2, count), generator=generator),
        0.8 + 0.4 * torch.rand(count, generator=generator),
    )
    if how != "strong":
        return drawn
    chance = torch.rand(count, len(REACHES) + 7, generator=generator)
    moves = (2 * chance[:, : len(REACHES)] - 1) * torch.tensor(REACHES) * strength
    is_blurred, blur, is_erased, *box = chance[:, len(REACHES) :].unbind(1)
    blur = torch.where(is_blurred < BLURRED * strength, BLUR * blur, 0.0)
    width, height = (LEAST_ERASED + (MOST_ERASED - LEAST_ERASED) * of for of in box[:2])
    width = torch.where(is_erased < ERASED * strength, width, 0.0)
    places = [of * (1 - size) for of, size in zip(box[2:], (width, height), strict=True)]
    strong = torch.cat([moves, torch.stack([blur, width, height, *places], 1)], 1)
    return Draw(drawn.mirrored, drawn.shift, drawn.brightness, strong)


def recorded(views: int, count: int, side: int, how: str = "flip_shift", seed: int = VIEW_SEED) -> list[Draw]:
    """The draws of recorded views: view v of image i is the same wherever it is asked for.

    A teacher is asked about these very views and the student trains on them: FKD (Shen and Xing, ECCV 2022) and
    TinyViT (Wu et al., ECCV 2022) store such seeds beside their soft labels.
    """
    generators = (torch.Generator().manual_seed(seed * 1_000_003 + view) for view in range(views))
    return [draw(count, side, generator, how) for generator in generators]


def choose(views: list[Draw], which: Tensor, rows: Tensor) -> Draw:
    """Of image `rows[b]` the view `which[b]`."""
    strong = [view.strong for view in views if view.strong is not None]
    return Draw(
        torch.stack([view.mirrored for view in views])[which, rows],
        torch.stack([view.shift for view in views], 1)[:, which, rows],
        torch.stack([view.brightness for view in views])[which, rows],
        torch.stack(strong)[which, rows] if strong else None,
    )


def apply(images: Tensor, how: str, drawn: Draw) -> Tensor:
    """Augment a batch (B, C, H, W) with values from 0 to 255, each image by its own draw, on the device it is on.

    `flip` mirrors those drawn to be. `shift` moves each by up to a twelfth of its side, edges repeated, and scales its
    brightness. `flip_shift` does both, `none` nothing. `strong` mirrors, turns, scales, shears and moves each, changes
    brightness, contrast and saturation, blurs some and erases a box of some, each as far as drawn by its strength, from
    0 to 1: what RandAugment (Cubuk et al., 2020) and random erasing (Zhong et al., 2020) do, less what would make
    another picture of a photograph, such as inverting it.
    """
    if how == "none":
        return images
    device, (count, channels, side, _) = images.device, images.shape
    mirrored = drawn.mirrored.to(device)
    if how in ("flip", "strong"):
        images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
    if how == "flip":
        return images
    if how == "strong":
        if drawn.strong is None:
            raise ValueError('`strong` was not drawn: draw(..., how="strong")')
        return _strong(images.float(), drawn.strong.to(device))
    # An index past an edge stays on it: the edge is repeated.
    offsets = torch.arange(side, device=device) - reach(side)
    rows, columns = (drawn.shift.to(device)[:, :, None] + offsets).clamp_(0, side - 1)
    if how == "flip_shift":
        columns = torch.where(mirrored[:, None], side - 1 - columns, columns)
    # Whole pixels are picked, one after another as they lie in memory: twice as fast as by an index an axis.
    lines = torch.arange(count, device=device)[:, None] * side + rows
    places = (lines[:, :, None] * side + columns[:, None, :]).flatten()
    moved = images.permute(0, 2, 3, 1).reshape(-1, channels).index_select(0, places)
    moved = moved.view(count, side, side, channels).permute(0, 3, 1, 2)
    return moved.float().mul_(drawn.brightness.to(device)[:, None, None, None]).clamp_(0, 255)


def _strong(images: Tensor, drawn: Tensor) -> Tensor:
    turn, scale, shear, across, down, brightness, contrast, saturation, blur, *box = drawn.unbind(1)
    # Where each output pixel comes from, in coordinates from -1 to 1: the inverse of turn, shear and scale.
    cosine, sine, size = turn.cos() / scale.exp(), turn.sin() / scale.exp(), 2 * torch.stack([across, down], 1)
    rows = [torch.stack([cosine, sine + shear * cosine, size[:, 0]], 1)]
    rows += [torch.stack([-sine, cosine - shear * sine, size[:, 1]], 1)]
    grid = F.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    images = F.grid_sample(images, grid, padding_mode="border", align_corners=False)

    images = _blurred(images, blur)
    images = images * brightness.exp()[:, None, None, None]
    middle = images.mean(dim=(1, 2, 3), keepdim=True)
    images = middle + (images - middle) * contrast.exp()[:, None, None, None]
    if images.shape[1] == 3:
        grey = torch.einsum("bchw,c->bhw", images, torch.tensor(GREY, device=images.device))[:, None]
        images = grey + (images - grey) * saturation.exp()[:, None, None, None]

    width, height, left, top = (of[:, None] for of in box)
    places = (torch.arange(images.shape[2], device=images.device) + 0.5) / images.shape[2]
    columns = (places >= left) & (places < left + width)
    lines = (places >= top) & (places < top + height)
    erased = (lines[:, :, None] & columns[:, None, :])[:, None]
    return torch.where(erased, middle, images).clamp(0, 255)


def _blurred(images: Tensor, blur: Tensor) -> Tensor:
    """Each image under a Gaussian of its own deviation, a share of the side, along both sides; edges are repeated."""
    count, channels, side, _ = images.shape
    radius = max(1, math.ceil(2 * BLUR * side))
    distance = torch.arange(-radius, radius + 1, device=images.device) / side
    weight = torch.exp(-0.5 * (distance / blur.clamp(min=1e-6)[:, None]) ** 2)
    kernel = (weight / weight.sum(dim=1, keepdim=True)).repeat_interleave(channels, 0)[:, None]
    stacked = F.pad(images.reshape(1, count * channels, side, side), (radius,) * 4, mode="replicate")
    across = F.conv2d(stacked, kernel[:, :, None, :], groups=count * channels)
    return F.conv2d(across, kernel[:, :, :, None], groups=count * channels).reshape(images.shape)
