"""A teacher's logits for every image of an index, and for recorded views of the training images."""

from typing import Any

import numpy as np
from scipy.special import log_softmax
from torch import nn

from ..data import truth
from ..data.images import Pixels
from ..data.index import SPLITS, Index
from ..data.memo import NOTHING_KNOWN, Memo
from ..softlabels import parts
from .answers import answers
from .augment import recorded
from .data import trained_by
from .inference import predict


def label_images(
    network: nn.Module,
    rows: Index,
    packed: Pixels,
    classes: list[str],
    views: int,
    augment: str,
    identity: object = None,
    memo: Memo = NOTHING_KNOWN,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Logits (N, K) of all images; and, with more views than one, those of the n trained on, augmented, (V, n, K).

    `identity` and `memo` as in `answers`; views are always forwarded.
    """
    logits = answers(network, packed, identity, memo)
    if views == 1:
        return logits, None
    trained = trained_by(rows, packed, classes)
    drawn = recorded(views, len(trained.rows), packed.shape[1], augment)
    return logits, np.stack([predict(network, trained, (augment, view), title="labelling views") for view in drawn])


def agreement(logits: np.ndarray, rows: Index, classes: list[str]) -> dict[str, float | None]:
    """Share of the images of each split whose label a teacher names; None where a partial one covers no image."""
    agrees, has = logits.argmax(1) == rows.codes(classes), parts.covered(logits)
    found = {split: agrees[rows.positions(split)][has[rows.positions(split)]] for split in SPLITS}
    return {split: float(right.mean()) if len(right) else None for split, right in found.items()}


def distance_to_truth(known: np.ndarray, logits: np.ndarray) -> dict[str, Any]:
    """How far a teacher is from the distribution that labels (N, K) were drawn from, by its logits (N, K)."""
    log_probabilities = log_softmax(logits.astype(np.float64), axis=1)
    return {
        "kl": truth.kl_from_truth(known, log_probabilities),
        "total_variation": truth.total_variation(known, np.exp(log_probabilities)),
    }
