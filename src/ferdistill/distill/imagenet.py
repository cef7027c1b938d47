"""ImageNet's weights of timm's networks, as our pixels want them."""

from typing import Any

import torch
from torch import nn

# Of pixels scaled to [0, 1]. ImageNet's for RGB, since most of its weights expect them.
NORMALISATION = {1: ([0.5], [0.25]), 3: ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])}


def fit_pixels(network: nn.Module, channels: int) -> None:
    """Change the first layer so that pixels normalised as ours mean to it what those that it learnt from meant.

    A network that learnt from (p - m) / s sees (p - m') / s' here: weights are multiplied by s' / s, and what the means
    differ by goes into the bias, or off the running mean of the batch normalisation that follows. Where the layer pads,
    the padding is our mean and no longer theirs; else this is exact for RGB. Grey goes by the mean over the channels.
    """
    config: Any = network.pretrained_cfg
    theirs = torch.tensor([config["mean"], config["std"]])
    if channels == 1:
        theirs = theirs.mean(dim=1, keepdim=True)
    ours = torch.tensor(NORMALISATION[channels])
    if torch.equal(theirs, ours):
        return
    first: Any = network.get_submodule(config["first_conv"])
    with torch.no_grad():
        weight = first.weight / theirs[1][:, None, None]
        shift = (weight * (ours[0] - theirs[0])[:, None, None]).sum(dim=(1, 2, 3))
        first.weight.copy_(weight * ours[1][:, None, None])
        if first.bias is not None:
            first.bias.add_(shift)
            return
        layers = list(network.modules())
        after: Any = next(layer for layer in layers[layers.index(first) :] if isinstance(layer, nn.BatchNorm2d))
        after.running_mean.sub_(shift)
