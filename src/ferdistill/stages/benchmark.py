"""Stage `benchmark`: latency and memory of the bundle on the CPU, beside torch in the same rounds."""

import numpy as np
import torch

from ..files import write_json
from ..params import Params
from ..runtime import footprint, latency
from ..runtime.session import open_session
from ..training.models import load_network
from .export import BUNDLE, STUDENT


def run(params: Params) -> None:
    """Write `metrics/benchmark.json`.

    All take the same uint8 images at the network's size to probabilities, on `benchmark.threads` threads. Torch, eager,
    does not resize, as nobody would there. `torch_ratio` is torch's median time divided by ONNX Runtime's: above 1,
    ONNX Runtime is the faster. `batch_N` is the float32 file; a bundle with others has `int8.batch_N` and so on.
    """
    settings = params.benchmark
    network, _ = load_network(STUDENT)
    models = latency.models_at(BUNDLE)
    (t_star, image), names = (models[0].info[key] for key in ("t_star", "image")), list(models[0].info["variants"])
    mean, std = torch.tensor(image["mean"]), torch.tensor(image["std"])

    def in_torch(images: np.ndarray) -> None:
        with torch.inference_mode():
            pixels = ((torch.from_numpy(images).float() / 255 - mean) / std).permute(0, 3, 1, 2)
            torch.softmax(network(pixels) / t_star, dim=1)

    before = torch.get_num_threads()
    torch.set_num_threads(settings.threads)
    sessions = [open_session(model.file, settings.threads, "cpu") for model in models]
    rows: list[dict[str, object]] = [{} for _ in models]
    for batch in settings.batches:
        images = latency.draw(models[0], sessions[0], batch)
        calls = [latency.caller(session, images) for session in sessions]
        *own, peer = latency.interleave([*calls, lambda: in_torch(images)], settings.warmup, settings.repeats)  # noqa: B023
        torch_ms = float(np.median(peer)) * 1000
        for row, seconds in zip(rows, own, strict=True):
            found = latency.summary(seconds, batch)
            row[f"batch_{batch}"] = found | {"torch_p50_ms": torch_ms, "torch_ratio": torch_ms / found["p50_ms"]}
    torch.set_num_threads(before)
    shape = [1, image["size"], image["size"], image["channels"]]
    for row, model in zip(rows, models, strict=True):
        row["model_bytes"] = model.file.stat().st_size
        row["peak_memory_bytes"] = footprint.measure(model.file, shape, "uint8", settings.threads, "cpu")["peak_memory"]
    result = rows[0] | dict(zip(names[1:], rows[1:], strict=True))
    result["cpu_threads"] = settings.threads
    result["machine"] = latency.processor()
    result["versions"] = latency.versions() | {"torch": torch.__version__}
    write_json("metrics/benchmark.json", result)
