"""Stage `benchmark`: latency and throughput of the bundle on the CPU, beside torch in the same run."""

import platform
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

from ..files import read_json, write_json
from ..params import BenchmarkParams, Params
from ..runtime.classifier import Classifier
from ..training.models import load_network
from .export import BUNDLE, STUDENT, Deployed


def run(params: Params) -> None:
    """Write `metrics/benchmark.json`.

    Both peers take the same uint8 images to probabilities, on `benchmark.threads` threads. `torch_ratio` is
    torch's median time divided by ONNX Runtime's: above 1, ONNX Runtime is the faster.
    """
    settings = params.benchmark
    classifier = Classifier(BUNDLE, settings.threads, device="cpu")
    network, config = load_network(STUDENT)
    t_star = read_json(BUNDLE / "bundle.json")["t_star"]
    deployed = Deployed(network, config["image"]["mean"], config["image"]["std"], t_star).eval()
    torch.set_num_threads(settings.threads)

    def run_torch(images: np.ndarray) -> None:
        with torch.inference_mode():
            deployed(torch.from_numpy(images))

    size, channels = config["image"]["size"], config["image"]["channels"]
    rng = np.random.default_rng(0)
    result: dict[str, Any] = {}
    for batch in settings.batches:
        images = rng.integers(0, 256, (batch, size, size, channels), dtype=np.uint8)
        ours, peer = measure(classifier.predict, images, settings), measure(run_torch, images, settings)
        result[f"batch_{batch}"] = ours | {
            "torch_p50_ms": peer["p50_ms"],
            "torch_ratio": peer["p50_ms"] / ours["p50_ms"],
        }
    result["model_bytes"] = (BUNDLE / "model.onnx").stat().st_size
    result["cpu_threads"] = settings.threads
    result["machine"] = processor()
    result["versions"] = {
        "onnxruntime": onnxruntime.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    write_json("metrics/benchmark.json", result)


def measure(
    function: Callable[[np.ndarray], object], images: np.ndarray, settings: BenchmarkParams
) -> dict[str, float]:
    """Time `function(images)`: percentiles over the calls in ms, and images per second over all of them."""
    for _ in range(settings.warmup):
        function(images)
    times = np.empty(settings.repeats)
    for i in range(settings.repeats):
        start = time.perf_counter()
        function(images)
        times[i] = time.perf_counter() - start
    p50, p95, p99 = (float(value) for value in np.percentile(times * 1000, [50, 95, 99]))
    return {
        "p50_ms": p50,
        "p95_ms": p95,
        "p99_ms": p99,
        "images_per_s": len(images) * len(times) / float(times.sum()),
    }


def processor() -> str:
    """The CPU's model name."""
    try:
        description = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        description = ""  # not Linux
    found = re.search(r"^model name\s*: (.+)$", description, re.MULTILINE)
    return found.group(1) if found else platform.processor() or platform.machine()
