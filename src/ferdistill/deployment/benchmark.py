"""Latency and memory of the bundle on the CPU, beside torch in the same rounds."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..params import BenchmarkParams
from ..runtime import footprint, latency
from ..runtime.session import open_session


def measure_beside_torch(network: nn.Module, bundle: Path, settings: BenchmarkParams) -> dict[str, Any]:
    """Measure a bundle and the network that it was made of.

    All take the same uint8 images at the network's size to probabilities, on `settings.threads` threads. Torch, eager,
    does not resize, as nobody would there. `torch_ratio` is torch's median time divided by ONNX Runtime's: above 1,
    ONNX Runtime is the faster. `batch_N` is the float32 file; a bundle with others has `int8.batch_N` and so on.
    """
    models = latency.models_at(bundle)
    image, names = models[0].info["image"], list(models[0].info["variants"])
    in_torch = eager(network, models[0].info)
    before = torch.get_num_threads()
    torch.set_num_threads(settings.threads)
    sessions = [open_session(model.file, settings.threads, "cpu") for model in models]
    rows: list[dict[str, Any]] = [{} for _ in models]
    for batch in settings.batches:
        images = latency.random_images(models[0], sessions[0], batch)
        calls = [latency.caller(session, images) for session in sessions]
        *own, peer = latency.interleave([*calls, lambda: in_torch(images)], settings.warmup, settings.repeats)  # noqa: B023
        torch_ms = float(np.median(peer)) * 1000
        for row, seconds in zip(rows, own, strict=True):
            own_ms = latency.summary(seconds, batch)
            row[f"batch_{batch}"] = own_ms | {"torch_p50_ms": torch_ms, "torch_ratio": torch_ms / own_ms["p50_ms"]}
    torch.set_num_threads(before)
    shape = [1, image["size"], image["size"], image["channels"]]
    for row, model in zip(rows, models, strict=True):
        row["model_bytes"] = model.file.stat().st_size
        row["peak_memory_bytes"] = footprint.measure(model.file, shape, "uint8", settings.threads, "cpu")["peak_memory"]
    found = rows[0] | dict(zip(names[1:], rows[1:], strict=True))
    versions = latency.versions() | {"torch": torch.__version__}
    return found | {"cpu_threads": settings.threads, "machine": latency.processor(), "versions": versions}


def eager(network: nn.Module, info: dict[str, Any]) -> Callable[[np.ndarray], torch.Tensor]:
    """What the bundle's graph does, in torch, but for resizing.

    The network is in evaluation mode, on the CPU; of `info`, the bundle's description, `image` and `t_star` are used.
    The function takes uint8 images (N, H, W, C) of the network's size and gives calibrated probabilities (N, K).
    """
    mean, std = (torch.tensor(info["image"][key]) for key in ("mean", "std"))

    def predict(images: np.ndarray) -> torch.Tensor:
        with torch.inference_mode():
            pixels = ((torch.from_numpy(images).float() / 255 - mean) / std).permute(0, 3, 1, 2)
            return torch.softmax(network(pixels) / info["t_star"], dim=1)

    return predict
