"""Losses with named terms, in log space and in float32 or better throughout.

Shapes: B images, K classes, M teachers, S sources (the targets of a family; one if the teachers are fused, one a
teacher if they are split). Losses are means over the batch. Half and bfloat16 logits are raised to float32, also
under autocast; float64 stays float64. Values and gradients are finite for logits of +-1e4.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import CheckError, UsageError
from ..params import Fusion, NetworkParams, TrainingParams
from .batches import Batch
from .mixing import Mixed


class SoftTargets(NamedTuple):
    """What sources say of each image, and how much each counts."""

    log_targets: Tensor  # (S, B, K): log-probabilities at the temperature of the loss
    # (S,): logarithm of each source's weight; (S, B) where teachers are partial: of one without a row it is -inf there
    log_weights: Tensor

    def at(self, rows: Tensor) -> "SoftTargets":
        """Of these rows alone."""
        weights = self.log_weights if self.log_weights.ndim == 1 else self.log_weights[:, rows]
        return SoftTargets(self.log_targets[:, rows], weights)

    def weights(self) -> Tensor:
        """Each source's weight, (S, 1) or (S, B); they sum to 1, or to 0 in a row that no teacher covers."""
        return self._by_row().exp()

    def mixture(self) -> Tensor:
        """The sources' weighted mean as probabilities, (B, K); 0 in a row that no teacher covers."""
        return torch.logsumexp(self._by_row()[..., None] + self.log_targets, 0).exp()

    def _by_row(self) -> Tensor:
        return self.log_weights[:, None] if self.log_weights.ndim == 1 else self.log_weights

    def to(self, device: torch.device) -> "SoftTargets":
        """The same on a device."""
        return SoftTargets(self.log_targets.to(device), self.log_weights.to(device))


def soft_targets(
    logits: Tensor,
    weights: Tensor,
    sources: Tensor,
    temperature: float,
    fusion: str,
    covered: Tensor | None = None,
) -> SoftTargets:
    """Soften the teachers' logits and fuse those of one source.

    Called once a run, so it is here that the teachers' side is checked.

    Parameters
    ----------
    logits : (M, B, K)
        Finite, where covered.
    weights : (M,)
        Weight of each teacher in the whole family: at least 0; sums to 1. A teacher of weight 0 is left out, and so is
        a source that has no other; the rest are given in ascending order of their number.
    sources : int, (M,)
        Which source each teacher belongs to.
    fusion : {"probability", "probability_t1", "logit"}
        What a source averages: probabilities at `temperature` (the report, §4.1.4); probabilities at 1, softened
        afterwards; or logits.
    covered : bool, (M, B), optional
        Which rows each teacher has; all, if not given. In a row that some lack, the others' weights are scaled to 1; in
        one that all lack there is no target: its weights are 0.

    Raises
    ------
    UsageError
        On shapes that do not fit together, weights that are negative or do not sum to 1 (within 1e-5), a temperature
        that is not above 0, or an unknown fusion.
    CheckError
        On logits that are not finite.
    """
    _check_teachers(logits, weights, sources, temperature, fusion, covered)
    held = weights > 0
    logits, sources = _at_least_float32(logits[held]), sources[held]
    # In float64, so that the weight of a source that holds all teachers is 1 to the last bit of the loss's float32.
    log_weights = weights[held].double().log()[:, None]
    if covered is not None:
        log_weights = log_weights.where(covered[held], -torch.inf)
        logits = logits.where(covered[held][..., None], 0)
    log_weights = log_weights - _log_total(log_weights)
    targets, totals = [], []
    for source in sources.unique():
        members = sources == source
        within = (log_weights[members] - _log_total(log_weights[members])).to(logits.dtype)[..., None]
        if fusion == "probability":
            target = torch.logsumexp(within + F.log_softmax(logits[members] / temperature, -1), 0)
        elif fusion == "probability_t1":
            target = F.log_softmax(torch.logsumexp(within + F.log_softmax(logits[members], -1), 0) / temperature, -1)
        else:
            target = F.log_softmax((within.exp() * logits[members]).sum(0) / temperature, -1)
        if covered is not None:  # where the source has no teacher, a target that counts nothing, and is finite
            target = target.where(within.isfinite().any(0), -math.log(logits.shape[-1]))
        targets.append(target)
        totals.append(torch.logsumexp(log_weights[members], 0).to(logits.dtype))
    weights_of = torch.stack(totals)
    return SoftTargets(torch.stack(targets), weights_of if covered is not None else weights_of[:, 0])


def _log_total(log_weights: Tensor) -> Tensor:
    """Logarithm of the sum of weights (M, 1 or B) over the first axis; 0 where there is none to scale by."""
    total = torch.logsumexp(log_weights, 0)
    return total.where(total.isfinite(), 0)


def balanced_class_weights(labels: Tensor, classes: Sequence[str]) -> Tensor:
    """N / (K n_k) for each class k of labels (N,) in 0..K-1: scikit-learn's "balanced", after King & Zeng (2001).

    float32 (K,), above 0; 1 for every class if all are equally frequent. Their mean over the labels is 1.

    Raises CheckError if a label is out of range, or a class has no image: its weight would be infinite.
    """
    if len(labels) and (int(labels.min()) < 0 or int(labels.max()) >= len(classes)):
        raise CheckError(
            "labels do not name a class",
            where=f"labels from {int(labels.min())} to {int(labels.max())}",
            expected=f"integers in 0..{len(classes) - 1}",
        )
    counts = torch.bincount(labels, minlength=len(classes))
    absent = [name for name, count in zip(classes, counts.tolist(), strict=True) if count == 0]
    if absent:
        raise CheckError(
            f"no image of {', '.join(absent)}",
            where=f"{len(labels)} labels",
            expected="every class, since a class is weighed by the inverse of its frequency",
            hint="add images of it, or train without class weights",
        )
    return (len(labels) / (len(classes) * counts.double())).float()


def ce_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    class_weights: Tensor | None = None,
    label_smoothing: float = 0.0,
    some_unlabelled: bool = False,
    mixed: Mixed | None = None,
) -> Tensor:
    """Cross-entropy with hard labels: the whole loss of the baseline, a part of the others.

    With class weights w and smoothing e it is torch's weighted mean,
    `-sum_i [(1 - e) w_y log q_y + e / K sum_k w_k log q_k] / sum_i w_y`, y being the label of image i. Shapes: logits
    (B, K), labels int64 (B,), class weights (K,), above 0, on the device of the logits; smoothing in [0, 1].

    With `some_unlabelled` a label may be -1: such an image adds nothing, but counts in the mean over the batch. So the
    loss of each image is the same whatever others are in its batch.

    Of images that are `mixed` with others the label is both, each by its share, and so is the weight in the mean: under
    mixup and CutMix this is the cross-entropy with the mixed label.
    """
    logits = _at_least_float32(logits)
    weights = None if class_weights is None else class_weights.to(logits.dtype)
    if mixed is not None:
        return _mixed_ce(logits, labels, weights, label_smoothing, mixed)
    if not some_unlabelled:
        return F.cross_entropy(logits, labels, weight=weights, label_smoothing=label_smoothing)
    total = F.cross_entropy(
        logits, labels, weight=weights, label_smoothing=label_smoothing, ignore_index=-1, reduction="sum"
    )
    known = (labels >= 0).to(logits.dtype)
    of_each = known if weights is None else known * weights[labels.clamp(min=0)]
    return total / of_each.sum().clamp(min=torch.finfo(logits.dtype).tiny) * known.mean()


def _mixed_ce(logits: Tensor, labels: Tensor, weights: Tensor | None, label_smoothing: float, mixed: Mixed) -> Tensor:
    known, total, of_each = (labels >= 0).to(logits.dtype), logits.new_zeros(()), logits.new_zeros(())
    for named, share in ((labels, mixed.share), (mixed.labels, 1 - mixed.share)):
        of_image = F.cross_entropy(
            logits, named, weight=weights, label_smoothing=label_smoothing, ignore_index=-1, reduction="none"
        )
        total = total + (share * of_image).sum()
        of_each = of_each + (share * known * (1 if weights is None else weights[named.clamp(min=0)])).sum()
    return total / of_each.clamp(min=torch.finfo(logits.dtype).tiny) * known.mean()


def cross_entropy_for(
    recipe: NetworkParams, settings: TrainingParams, labels: Tensor, classes: Sequence[str], device: torch.device
) -> Callable[[Tensor, Batch], Tensor]:
    """`ce_loss` of a network's outputs for a batch, with the label smoothing and class weights that params ask for.

    `labels`, int64 (N,), are those that are trained on, -1 where there is none; the weights lie on `device`, as the
    logits will.
    """
    known = labels[labels >= 0]
    weights = None
    if settings.class_weights == "balanced":
        weights = balanced_class_weights(known, classes).to(device)
    some_unlabelled = len(known) < len(labels)

    def cross_entropy(outputs: Tensor, batch: Batch) -> Tensor:
        return ce_loss(
            batch.hard(outputs),
            batch.labels,
            class_weights=weights,
            label_smoothing=recipe.label_smoothing,
            some_unlabelled=some_unlabelled,
            mixed=batch.mixed,
        )

    return cross_entropy


def kl_to_sources(logits: Tensor, targets: SoftTargets, temperature: float) -> Tensor:
    """Weighted mean over sources of KL(p_s || q), without the factor T^2.

    Computed as the cross-entropy of q under the mixture of the sources, minus the weighted mean of their entropies:
    for any weights that sum to 1, `sum_s w_s KL(p_s || q) = KL(sum_s w_s p_s || q) + constant`. So split and fused
    targets of the same probabilities give the same gradient, in float32 to the last bit.

    Shapes as in `kd_loss`. Raises UsageError if they do not fit together.
    """
    _check_shapes(logits, targets)
    log_targets = targets.log_targets
    cross_entropy = -(targets.mixture() * F.log_softmax(_at_least_float32(logits) / temperature, -1)).sum(-1)
    entropy = -(targets.weights() * (log_targets.exp() * log_targets).sum(-1)).sum(0)
    return (cross_entropy - entropy).mean()


def kd_loss(logits: Tensor, ce: Tensor, targets: SoftTargets, *, alpha: float, temperature: float) -> dict[str, Tensor]:
    """(1 - alpha) CE + alpha T^2 sum_s w_s KL(p_s || q): Hinton et al. (2015); the report, §4.1.3 and §4.1.4.

    The student's `logits` are (B, K); `ce` is the cross-entropy with hard labels, as `ce_loss` gives it; `targets` are
    those of `soft_targets` at the same temperature, above 0; `alpha` is in [0, 1]. Gives `loss`, and its terms without
    their factors: `ce`, and `kd`, the weighted mean of the divergences.

    Raises UsageError if the student's and the teachers' shapes do not fit together: nothing broadcasts.
    """
    kd = kl_to_sources(logits, targets, temperature)
    return {"loss": (1 - alpha) * ce + alpha * temperature**2 * kd, "ce": ce, "kd": kd}


def dkd_loss(
    logits: Tensor,
    labels: Tensor,
    ce: Tensor,
    targets: SoftTargets,
    *,
    alpha: float,
    beta: float,
    temperature: float,
    target_term: str,
    warmup: float = 1.0,
) -> dict[str, Tensor]:
    """(1 - alpha) CE + warmup T^2 sum_s w_s (alpha TCKD_s + beta NCKD_s): the report, §4.1.5.

    After Zhou et al. (CVPR 2022), whose code weighs CE by 1, with alpha 1, beta 8 and a warm-up of 20 epochs.

    Parameters
    ----------
    logits, ce, targets, temperature
        As in `kd_loss`.
    labels : int64, (B,)
    alpha, beta
        Weights of TCKD, on the target class g against the rest, in [0, 1]; and of NCKD, among the other classes, at
        least 0. With two classes there is one other, and NCKD is 0.
    target_term : {"official", "report"}
        "official" is the binary KL of (p_g, 1 - p_g), zero in value and gradient where student and teacher agree.
        "report" is `-p_g log q_g`, which drops the other half and so pulls q_g to 1 whatever the teacher says.
    warmup
        Factor of the soft part, in [0, 1]: `min(epoch / warm-up epochs, 1)`.

    Returns
    -------
    dict
        `loss`, and its terms without their factors: `ce`, `tckd` and `nckd`, weighted means over the sources.

    Raises
    ------
    UsageError
        If the student's and the teachers' shapes do not fit together, or on an unknown target term.
    """
    _check_shapes(logits, targets)
    log_targets, weights = targets.log_targets, targets.weights()
    log_q = F.log_softmax(_at_least_float32(logits) / temperature, -1)
    is_target = F.one_hot(labels, logits.shape[-1]).bool()
    p_target, p_rest = _target_and_rest(log_targets, is_target)
    q_target, q_rest = _target_and_rest(log_q, is_target)

    if target_term == "official":
        tckd = p_target.exp() * (p_target - q_target) + p_rest.exp() * (p_rest - q_rest)
    elif target_term == "report":
        tckd = -p_target.exp() * q_target
    else:
        raise UsageError(f"unknown target term {target_term!r}", expected="official or report")
    # The target class weighs 0 here and keeps a finite logarithm: with -inf it would give 0 * -inf, which is NaN.
    p_others, q_others = log_targets - p_rest[..., None], log_q - q_rest[..., None]
    nckd = (p_others.where(~is_target, -torch.inf).exp() * (p_others - q_others)).sum(-1)

    soft = (weights * (alpha * tckd + beta * nckd)).sum(0).mean()
    terms = {"tckd": (weights * tckd.detach()).sum(0).mean(), "nckd": (weights * nckd.detach()).sum(0).mean()}
    return {"loss": (1 - alpha) * ce + warmup * temperature**2 * soft, "ce": ce, **terms}


def _target_and_rest(log_p: Tensor, is_target: Tensor) -> tuple[Tensor, Tensor]:
    """Logarithms of the target class's probability and of the others' sum, (..., B), from (..., B, K)."""
    return log_p.where(is_target, 0).sum(-1), torch.logsumexp(log_p.where(~is_target, -torch.inf), -1)


def _at_least_float32(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _check_shapes(logits: Tensor, targets: SoftTargets) -> None:
    log_targets, log_weights = targets
    fits = log_weights.shape in (log_targets.shape[:1], log_targets.shape[:2])
    if not fits or log_targets.shape[1:] != logits.shape or logits.ndim != 2:
        raise UsageError(
            "student and soft targets do not fit together",
            where=f"logits {(*logits.shape,)}, targets {(*log_targets.shape,)}, weights {(*log_weights.shape,)}",
            expected="logits (B, K), targets (S, B, K) and weights (S,) or (S, B)",
            hint="soft targets must be of the same classes and the same rows as the batch",
        )


def _check_teachers(
    logits: Tensor, weights: Tensor, sources: Tensor, temperature: float, fusion: str, covered: Tensor | None
) -> None:
    if logits.ndim != 3 or not weights.shape == sources.shape == logits.shape[:1]:
        raise UsageError(
            "teachers' logits, weights and sources do not fit together",
            where=f"logits {(*logits.shape,)}, weights {(*weights.shape,)}, sources {(*sources.shape,)}",
            expected="logits (M, B, K), weights (M,) and sources (M,)",
        )
    if not ((weights >= 0).all() and abs(float(weights.double().sum()) - 1) <= 1e-5):
        raise UsageError(
            "the teachers' weights are not shares of 1",
            where=f"weights {weights.tolist()}, which sum to {float(weights.double().sum()):g}",
            expected="weights of at least 0 that sum to 1",
        )
    if not 0 < temperature < float("inf"):
        raise UsageError("a temperature must be above 0 and finite", where=f"temperature {temperature}")
    if fusion not in get_args(Fusion):
        raise UsageError(f"unknown fusion {fusion!r}", expected=f"one of {', '.join(get_args(Fusion))}")
    finite = logits.isfinite().all(-1)
    finite = (finite if covered is None else finite | ~covered).all(1)
    if not finite.all():
        raise CheckError(
            "soft labels that are not finite",
            where=f"teacher {int(finite.int().argmin())} of {len(finite)}, counted from 0",
            expected="finite logits",
            hint="train that teacher again, with a lower learning rate",
        )
