"""A teacher's logits for every image of an index, and for recorded views of the training images."""

from typing import Any

import numpy as np
from scipy.special import log_softmax
from torch import nn

from ..data import truth
from ..data.index import SPLITS, Index
from .augment import recorded
from .data import Split, splits_of
from .inference import make_deterministic, predict


def label_images(
    network: nn.Module, rows: Index, packed: np.ndarray, classes: list[str], views: int, augment: str
) -> tuple[np.ndarray, np.ndarray | None]:
    """Logits (N, K) of all images; and with more than one view, augmented so, those of the train split's, (V, n, K)."""
    make_deterministic(0)
    logits = predict(network, Split(packed, np.arange(len(rows.rows)), rows.codes(classes)), title="labelling")
    if views == 1:
        return logits, None
    train, _, _ = splits_of(rows, packed, classes)
    drawn = recorded(views, len(train.rows), packed.shape[1])
    return logits, np.stack([predict(network, train, (augment, view), title="labelling views") for view in drawn])


def agreement(logits: np.ndarray, rows: Index, classes: list[str]) -> dict[str, float]:
    """Share of the images of each split whose label a teacher names."""
    agrees = logits.argmax(1) == rows.codes(classes)
    return {split: float(agrees[rows.positions(split)].mean()) for split in SPLITS}


def distance_to_truth(known: np.ndarray, logits: np.ndarray) -> dict[str, Any]:
    """How far a teacher is from the distribution that labels (N, K) were drawn from, by its logits (N, K)."""
    log_probabilities = log_softmax(logits.astype(np.float64), axis=1)
    return {
        "kl": truth.kl_from_truth(known, log_probabilities),
        "total_variation": truth.total_variation(known, np.exp(log_probabilities)),
    }
