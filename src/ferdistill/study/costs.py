"""What each student of a table costs: latency, memory and size of its ONNX file, measured side by side."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ..deployment.graph import InferenceGraph, export_onnx
from ..distill import models
from ..params import Params
from ..runtime import latency
from . import results
from .rescore import network_of, stored_models


def measure(table: Path, settings: Params) -> dict[str, Any]:
    """Export one run's student of each architecture in a table, and time them in turn on one image, on the CPU.

    Threads, rounds and warm-up are those of `benchmark` in params.yaml, and ONNX's opset that of `export`. Weights come
    from DVC's cache.

    Returns
    -------
    dict
        `students`: by the name of the timm model, `parameters`, `size_bytes`, `peak_memory_bytes`, `p50_ms`, `p95_ms`
        and `images_per_s` of one image a call. `threads`, `machine`, `versions`.

    Raises
    ------
    UsageError, CheckError
        As `results.read`; if the table names no student, or one is not in DVC's cache or of another architecture.
    """
    frame, own = results.read(table), settings.scale_.student.model
    names = frame["student"].replace("", own) if "student" in frame else own
    first = frame.assign(student=names).drop_duplicates("student")
    size, channels = settings.scale_.image.size, settings.scale_.image.channels
    mean, std = models.NORMALISATION[channels]
    image = {"size": size, "channels": channels, "mean": mean, "std": std}
    found: dict[str, dict[str, Any]] = {}
    with TemporaryDirectory() as folder:
        exported = []
        for (_, row), file in zip(first.iterrows(), stored_models(first), strict=True):
            network = network_of(row, file, settings).eval()
            onnx = Path(folder) / f"{len(found)}.onnx"
            export_onnx(InferenceGraph(network, image, float(row["t_star"])).eval(), onnx, settings.export.opset)
            exported.append(latency.Model(row["student"], onnx, (size, size, channels), {}))
            found[row["student"]] = {"parameters": models.size(network)}
        rules = settings.benchmark
        timed = latency.bench(exported, [1], rules.threads, "cpu", rules.warmup, rules.repeats)
    for one in timed["models"]:
        kept = {key: one["batch_1"][key] for key in ("p50_ms", "p95_ms", "images_per_s")}
        found[one["name"]] |= {key: one[key] for key in ("size_bytes", "peak_memory_bytes")} | kept
    return {"students": found} | {key: timed[key] for key in ("threads", "machine", "versions")}
