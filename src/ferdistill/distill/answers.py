"""What a network answers to images, of which none is forwarded that it has answered before."""

import hashlib
import math
from importlib import metadata
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import nn

from ..data.images import Pixels
from ..data.memo import NOTHING_KNOWN, Memo, code_key, key_of
from ..progress import track
from .inference import as_input, make_deterministic, training_device

BATCH = 256  # images; another number may change the last bit of an answer
MODULES = ("distill.answers", "distill.inference", "distill.models", "distill.frozen")


def identity_of(config: dict[str, Any]) -> dict[str, Any]:
    """What a teacher's answers follow from, out of its config.json: all but its name and the index of the day."""
    return {fact: value for fact, value in config.items() if fact not in ("teacher", "index_digest")}


def answers(
    network: nn.Module,
    packed: Pixels,
    identity: object = None,
    memo: Memo = NOTHING_KNOWN,
    rows: np.ndarray | None = None,
) -> np.ndarray:
    """Logits of all images, or of these rows, float32 (N, K); only those that `memo` does not know are forwarded.

    What a network answers follows from `identity`, the facts that determine it, as its weights' digest. All batches are
    of one size, the last filled up with images that it has already: in another, a network's sums may be taken in
    another order. So, on a CPU, an answer is the same to the bit whatever else is in its batch.
    """
    make_deterministic(0)
    device = training_device()
    network.to(device).eval()
    code = code_key(MODULES, *_machine(device), identity)
    rows = np.arange(len(packed)) if rows is None else rows
    keys = [
        key_of(code, hashlib.sha256(pixels).digest())
        for start in range(0, len(rows), BATCH)
        for pixels in packed[rows[start : start + BATCH]]
    ]
    known = memo.get(keys)
    new = [place for place, key in enumerate(keys) if key not in known]
    if len(new) < len(keys):
        print(f"{len(new)} of {len(keys)} images are new to this teacher")
    with torch.inference_mode():
        for start in track(range(0, len(new), BATCH), "labelling images", total=math.ceil(len(new) / BATCH)):
            places = new[start : start + BATCH]
            pixels = torch.from_numpy(packed[rows[np.resize(places, BATCH)]]).permute(0, 3, 1, 2)
            logits = network(as_input(pixels, device)).float().cpu().numpy()[: len(places)]
            fresh = {keys[place]: logit.tobytes() for place, logit in zip(places, logits, strict=True)}
            memo.put(fresh)
            known |= fresh
    return np.frombuffer(b"".join(known[key] for key in keys), np.float32).reshape(len(keys), -1)


def _machine(device: torch.device) -> tuple[object, ...]:
    """What may change the last bit of an answer, beside the network and the image."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
    versions = metadata.version("torch"), metadata.version("timm"), onnxruntime.__version__
    return device.type, name, torch.get_num_threads(), BATCH, *versions
