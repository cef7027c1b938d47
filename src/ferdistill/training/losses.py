"""Distillation losses, in log space and float32 throughout.

Shapes: B images, K classes, M teachers, S sources (the targets of a family; one if the teachers are fused, one a
teacher if they are split). Losses are means over the batch.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def soft_targets(
    logits: Tensor, weights: Tensor, sources: Tensor, temperature: float, fusion: str
) -> tuple[Tensor, Tensor]:
    """Soften the teachers' logits and fuse those of one source.

    Parameters
    ----------
    logits : Tensor, (M, B, K)
    weights : Tensor, (M,)
        Weight of each teacher in the whole family; sums to 1.
    sources : Tensor of int, (M,)
        Which source each teacher belongs to, from 0.
    temperature : float, > 0
    fusion : {"probability", "probability_t1", "logit"}
        What a source averages: probabilities at `temperature` (the report, §4.1.4); probabilities at 1, softened
        afterwards; or logits.

    Returns
    -------
    log_targets : Tensor, (S, B, K)
        Log-probabilities at `temperature`.
    log_weights : Tensor, (S,)
        Logarithm of each source's weight.
    """
    logits, log_weights = logits.float(), weights.float().log()
    members = [torch.nonzero(sources == source).flatten() for source in range(int(sources.max()) + 1)]
    source_weights = torch.stack([torch.logsumexp(log_weights[rows], 0) for rows in members])
    targets = []
    for rows, total in zip(members, source_weights, strict=True):
        share = (log_weights[rows] - total)[:, None, None]
        if fusion == "probability":
            target = torch.logsumexp(share + F.log_softmax(logits[rows] / temperature, -1), 0)
        elif fusion == "probability_t1":
            target = F.log_softmax(torch.logsumexp(share + F.log_softmax(logits[rows], -1), 0) / temperature, -1)
        elif fusion == "logit":
            target = F.log_softmax((share.exp() * logits[rows]).sum(0) / temperature, -1)
        else:
            raise ValueError(f"unknown fusion {fusion!r}")
        targets.append(target)
    return torch.stack(targets), source_weights


def kl_to_sources(logits: Tensor, log_targets: Tensor, log_weights: Tensor, temperature: float) -> Tensor:
    """Weighted mean over sources of KL(p_s || q), without the factor T^2.

    Computed as the cross-entropy of q under the mixture of the sources, less the weighted mean of their entropies:
    for any weights that sum to 1, `sum_s w_s KL(p_s || q) = KL(sum_s w_s p_s || q) + constant`. So split and fused
    targets of the same probabilities give the same gradient, here to the last bit.
    """
    mixture = torch.logsumexp(log_weights[:, None, None] + log_targets, 0).exp()
    cross_entropy = -(mixture * F.log_softmax(logits.float() / temperature, -1)).sum(-1)
    entropy = -(log_weights.exp()[:, None] * (log_targets.exp() * log_targets).sum(-1)).sum(0)
    return (cross_entropy - entropy).mean()


def kd_loss(
    logits: Tensor,
    labels: Tensor,
    log_targets: Tensor,
    log_weights: Tensor,
    *,
    alpha: float,
    temperature: float,
    label_smoothing: float = 0.0,
) -> Tensor:
    """(1 - alpha) CE + alpha T^2 sum_s w_s KL(p_s || q): Hinton et al. (2015); the report, §4.1.3 and §4.1.4.

    Parameters
    ----------
    logits : Tensor, (B, K)
        The student's.
    labels : Tensor of int64, (B,)
    log_targets, log_weights : Tensor, (S, B, K) and (S,)
        From `soft_targets`, at the same temperature.
    """
    hard = F.cross_entropy(logits.float(), labels, label_smoothing=label_smoothing)
    soft = kl_to_sources(logits, log_targets, log_weights, temperature)
    return (1 - alpha) * hard + alpha * temperature**2 * soft


def dkd_loss(
    logits: Tensor,
    labels: Tensor,
    log_targets: Tensor,
    log_weights: Tensor,
    *,
    alpha: float,
    beta: float,
    temperature: float,
    target_term: str,
    label_smoothing: float = 0.0,
) -> Tensor:
    """(1 - alpha) CE + T^2 sum_s w_s (alpha TCKD_s + beta NCKD_s): the report, §4.1.5, after Zhou et al. (CVPR 2022).

    `target_term` "official" is the binary KL of (p_g, 1 - p_g), zero in value and gradient where student and teacher
    agree. "report" is `-p_g log q_g`, which drops the other half and so pulls q_g to 1 whatever the teacher says.
    Shapes as in `kd_loss`.
    """
    hard = F.cross_entropy(logits.float(), labels, label_smoothing=label_smoothing)
    log_q = F.log_softmax(logits.float() / temperature, -1).expand_as(log_targets)
    p_target, p_others = _decouple(log_targets, labels)
    q_target, q_others = _decouple(log_q, labels)
    p_rest, q_rest = torch.logsumexp(p_others, -1), torch.logsumexp(q_others, -1)

    tckd = -p_target.exp() * q_target
    if target_term == "official":
        tckd = p_target.exp() * (p_target - q_target) + p_rest.exp() * (p_rest - q_rest)
    elif target_term != "report":
        raise ValueError(f"unknown target term {target_term!r}")
    p_others, q_others = p_others - p_rest[..., None], q_others - q_rest[..., None]
    nckd = (p_others.exp() * (p_others - q_others)).sum(-1)

    soft = (log_weights.exp()[:, None] * (alpha * tckd + beta * nckd)).sum(0).mean()
    return (1 - alpha) * hard + temperature**2 * soft


def _decouple(log_p: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Split (S, B, K) into the target class's (S, B) and the others' (S, B, K - 1)."""
    number, batch, classes = log_p.shape
    is_target = F.one_hot(labels, classes).bool().expand_as(log_p)
    return log_p[is_target].reshape(number, batch), log_p[~is_target].reshape(number, batch, classes - 1)
