"""Mixup and CutMix: of two images of a batch one, whose hard label is each one's by its share. Drawn and applied apart.

mixup (Zhang et al., ICLR 2018) adds the pixels of both; CutMix (Yun et al., ICCV 2019) takes a box from the other. Each
image has a share and a box of its own, and is mixed with the labelled image before it in its batch, whose order is
random. An image without a label is left alone, since it has no hard label to mix.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from scipy.special import betaincinv
from torch import Tensor

from ..params import Phase


@dataclass(frozen=True)
class Mix:
    """What was drawn for each of B images, on the CPU."""

    others: Tensor  # int64, (B,): which image of the batch it is mixed with; itself, where it has no label
    share: Tensor  # float32, (B,): its own share of the mixed image and of that one's label
    box: Tensor  # int64, (B, 4): left, top, right and bottom of what is the other's; 0 in all where pixels are added

    def __getitem__(self, rows: Tensor) -> "Mix":
        return Mix(self.others[rows], self.share[rows], self.box[rows])


class Mixed(NamedTuple):
    """The rest of the hard labels of B mixed images, on their device."""

    labels: Tensor  # int64, (B,): of the other image; -1 where there is none
    share: Tensor  # float32, (B,): of the image's own label


def draw(labels: Tensor, side: int, phase: Phase, generator: torch.Generator) -> Mix | None:
    """Draw for images of `side` pixels with these labels, int64 (B,), -1 of one without; None where the phase has none.

    A share has the Beta distribution of `phase.mixup` or `phase.cutmix`; with both, either is as likely. Under CutMix
    it becomes what the box, cut off at the edges, leaves.
    """
    if not (phase.mixup or phase.cutmix):
        return None
    quantile, kind, across, down = torch.rand(4, len(labels), generator=generator)
    is_cut = kind < (0.5 if phase.mixup and phase.cutmix else float(phase.cutmix > 0))
    alpha = np.where(is_cut.numpy(), phase.cutmix, phase.mixup)
    share = torch.from_numpy(betaincinv(alpha, alpha, quantile.double().numpy()))

    centres = (torch.stack([across, down], 1) * side).long()
    half = (0.5 * (1 - share).sqrt() * side).long()[:, None]
    box = torch.cat([(centres - half).clamp(min=0), (centres + half).clamp(max=side)], 1)
    box = box.where(is_cut[:, None] & (labels >= 0)[:, None], 0)
    area = (box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1])
    share = share.where(~is_cut, 1 - area / side**2).where(labels >= 0, 1).float()

    others, labelled = torch.arange(len(labels)), (labels >= 0).nonzero().flatten()
    others[labelled] = labelled.roll(1)
    return Mix(others, share, box)


def apply(images: Tensor, others: Tensor, drawn: Mix) -> Tensor:
    """Images (B, C, H, W) mixed with others of the same shape, as float32 of their range, on the device they are on."""
    device, side = images.device, images.shape[2]
    images, others, share = images.float(), others.float(), drawn.share.to(device)[:, None, None, None]
    left, top, right, bottom = drawn.box.to(device)[:, :, None].unbind(1)
    places = torch.arange(side, device=device)
    columns, rows = (places >= left) & (places < right), (places >= top) & (places < bottom)
    in_box = (rows[:, :, None] & columns[:, None, :])[:, None]
    added = others * (1 - share) + images * share
    return others.where(in_box, images.where((right > left)[:, :, None, None], added))
