"""A teacher's logits for every image of an index, and for recorded views of the training images."""

import hashlib
import math
from importlib import metadata
from typing import Any

import numpy as np
import torch
from scipy.special import log_softmax
from torch import nn

from ..data import truth
from ..data.images import Pixels
from ..data.index import SPLITS, Index
from ..data.memo import NOTHING_KNOWN, Memo, code_key, key_of
from ..progress import track
from ..softlabels import parts
from .augment import recorded
from .data import trained_by
from .inference import as_input, make_deterministic, predict, training_device

BATCH = 256  # images; another number may change the last bit of an answer
MODULES = ("distill.labelling", "distill.inference", "distill.models", "distill.frozen")


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
    make_deterministic(0)
    logits = answers(network, packed, identity, memo)
    if views == 1:
        return logits, None
    trained = trained_by(rows, packed, classes)
    drawn = recorded(views, len(trained.rows), packed.shape[1])
    return logits, np.stack([predict(network, trained, (augment, view), title="labelling views") for view in drawn])


def answers(network: nn.Module, packed: Pixels, identity: object = None, memo: Memo = NOTHING_KNOWN) -> np.ndarray:
    """Logits of all images, float32 (N, K); only those that `memo` does not know are forwarded.

    What a network answers follows from `identity`, the facts that determine it, as its weights' digest. All batches are
    of one size, the last filled up with images that it has already: in another, a network's sums may be taken in
    another order. So, on a CPU, an answer is the same to the bit whatever else is in its batch.
    """
    device = training_device()
    network.to(device).eval()
    code = code_key(MODULES, *_machine(device), identity)
    keys = [
        key_of(code, hashlib.sha256(pixels).digest())
        for start in range(0, len(packed), BATCH)
        for pixels in packed[start : start + BATCH]
    ]
    known = memo.get(keys)
    new = [row for row, key in enumerate(keys) if key not in known]
    if len(new) < len(keys):
        print(f"{len(new)} of {len(keys)} images are new to this teacher")
    with torch.inference_mode():
        for start in track(range(0, len(new), BATCH), "labelling images", total=math.ceil(len(new) / BATCH)):
            rows = new[start : start + BATCH]
            pixels = torch.from_numpy(packed[np.resize(rows, BATCH)]).permute(0, 3, 1, 2)
            logits = network(as_input(pixels, device)).float().cpu().numpy()[: len(rows)]
            fresh = {keys[row]: logit.tobytes() for row, logit in zip(rows, logits, strict=True)}
            memo.put(fresh)
            known |= fresh
    return np.frombuffer(b"".join(known[key] for key in keys), np.float32).reshape(len(keys), -1)


def _machine(device: torch.device) -> tuple[object, ...]:
    """What may change the last bit of an answer, beside the network and the image."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
    versions = [metadata.version(library) for library in ("torch", "timm", "onnxruntime-gpu")]
    return device.type, name, torch.get_num_threads(), BATCH, *versions


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
