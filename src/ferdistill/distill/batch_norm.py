"""Batch normalisation over several CPU processes, which torch's own SyncBatchNorm leaves to accelerators."""

from types import MethodType

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce
from torch.nn.modules.batchnorm import _BatchNorm


def share_batch_norm(network: nn.Module) -> nn.Module:
    """Let every batch normalisation of `network` use the mean and variance of the global batch.

    The gradient passes through the sums over processes, so that averaged gradients are those of one process with the
    whole batch (Ioffe and Szegedy, 2015, with the batch spread out). Changes the network in place, and returns it; its
    weights keep their names and shapes.
    """
    for layer in network.modules():
        if isinstance(layer, _BatchNorm):
            layer.forward = MethodType(_forward, layer)  # type: ignore[method-assign]
    return network


def _forward(layer: _BatchNorm, images: Tensor) -> Tensor:
    """Images (B, C, ...) of this process normalised; then what timm's layers add, dropout and the activation."""
    if layer.training:
        normalised = _normalise(layer, images.float()).to(images.dtype)
    else:
        normalised = F.batch_norm(
            images, layer.running_mean, layer.running_var, layer.weight, layer.bias, eps=layer.eps
        )
    for name in ("drop", "act"):
        if hasattr(layer, name):
            normalised = getattr(layer, name)(normalised)
    return normalised


def _normalise(layer: _BatchNorm, images: Tensor) -> Tensor:
    across = [axis for axis in range(images.ndim) if axis != 1]
    by_channel = (1, -1, *[1] * (images.ndim - 2))
    count = images.new_tensor(images.numel() / images.shape[1])
    dist.all_reduce(count)
    # Two passes: the mean square less the squared mean would lose digits.
    mean = all_reduce(images.sum(across)) / count
    centred = images - mean.view(by_channel)
    variance = all_reduce(centred.square().sum(across)) / count
    if layer.running_mean is not None and layer.running_var is not None and layer.num_batches_tracked is not None:
        layer.num_batches_tracked += 1
        rate = 1 / float(layer.num_batches_tracked) if layer.momentum is None else layer.momentum
        with torch.no_grad():
            layer.running_mean.lerp_(mean, rate)
            layer.running_var.lerp_(variance * count / (count - 1), rate)
    normalised = centred * torch.rsqrt(variance + layer.eps).view(by_channel)
    if layer.affine:
        normalised = normalised * layer.weight.view(by_channel) + layer.bias.view(by_channel)
    return normalised
