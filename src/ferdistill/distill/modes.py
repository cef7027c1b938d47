"""What a student learns by: each mode of params.yaml by its name.

A mode is a function of params, the student's logits (B, K), the batch, its cross-entropy with hard labels, and the
soft targets of its rows; it gives `loss` and its terms. The baseline is given soft targets of no source.
"""

from collections.abc import Callable

from torch import Tensor

from ..params import Params
from . import losses
from .batches import Batch
from .losses import SoftTargets

ModeLoss = Callable[[Params, Tensor, Batch, Tensor, SoftTargets], dict[str, Tensor]]


def none(params: Params, logits: Tensor, batch: Batch, ce: Tensor, targets: SoftTargets) -> dict[str, Tensor]:
    """Hard labels alone."""
    return {"loss": ce, "ce": ce}


def kd(params: Params, logits: Tensor, batch: Batch, ce: Tensor, targets: SoftTargets) -> dict[str, Tensor]:
    """Distillation."""
    return losses.kd_loss(logits, ce, targets, alpha=params.alpha, temperature=params.temperature)


def dkd(params: Params, logits: Tensor, batch: Batch, ce: Tensor, targets: SoftTargets) -> dict[str, Tensor]:
    """Decoupled distillation, whose soft part grows over the first `dkd_warmup` epochs."""
    return losses.dkd_loss(
        logits,
        batch.labels,
        ce,
        targets,
        alpha=params.alpha,
        beta=params.beta,
        temperature=params.temperature,
        target_term=params.dkd_target_term,
        warmup=min((batch.epoch + 1) / params.dkd_warmup, 1.0) if params.dkd_warmup else 1.0,
    )


MODES: dict[str, ModeLoss] = {"none": none, "kd": kd, "dkd": dkd}
