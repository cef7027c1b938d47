"""Latency of models side by side. Needs numpy and onnxruntime alone."""

import platform
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime

from ..errors import CheckError, UsageError
from . import footprint
from .classifier import read_bundle
from .onnx_file import require_modest
from .session import PROVIDERS, open_session, run

OF_TRAINING = ("run_family", "run_mode", "architecture")  # texts in bundle.json that only its figures need
DTYPES = {"tensor(uint8)": "uint8", "tensor(float)": "float32", "tensor(float16)": "float16"}


class Model(NamedTuple):
    """A file to be measured."""

    name: str  # the path as it was given, and the variant of a bundle that has several
    file: Path  # ONNX
    shape: tuple[int, ...] | None  # of one input, without the batch; None where the graph must tell
    info: dict[str, Any]  # what bundle.json says; empty for a bare file


def models_at(path: Path, shape: tuple[int, ...] | None = None) -> list[Model]:
    """The variants of a bundle, or the one model of an ONNX file; raises as `read_bundle` if there is neither."""
    if path.is_file():
        require_modest(path, beside=None)
        return [Model(str(path), path, shape, {})]
    if not path.is_dir():
        raise UsageError("no model there", where=str(path), expected="an ONNX file, or the directory of a bundle")
    info = read_bundle(path)
    said = [info.get(name) for name in OF_TRAINING]
    scores = info.get("test")
    score = scores.get("macro_f1") if isinstance(scores, dict) else None
    if not all(isinstance(text, str) for text in said) or not isinstance(score, (int, float)):
        raise CheckError(
            "bundle.json does not say what was trained, and how good it is",
            where=str(path / "bundle.json"),
            expected=f"{', '.join(OF_TRAINING)}, and test.macro_f1",
            hint="export it again, or measure its model alone",
        )
    size, channels = info["image"]["size"], info["image"]["channels"]
    several = len(info["variants"]) > 1
    return [
        Model(f"{path} {variant}" if several else str(path), path / name, shape or (size, size, channels), info)
        for variant, name in info["variants"].items()
    ]


def bench(
    models: list[Model],
    batches: list[int],
    threads: int,
    device: str,
    warmup: int,
    repeats: int,
    advance: Callable[[], object] = lambda: None,
) -> dict[str, Any]:
    """Measure models in turn, so that a machine that slows down slows all of them.

    `batches` are numbers of images of a call, each measured by itself, after which `advance` is called. Every model is
    called once a round; `repeats` rounds count, the `warmup` before them do not. `threads` and `device` are as
    `session.open_session` takes them.

    Returns
    -------
    dict
        `models`: of each `name`, `provider`, `size_bytes`, `load_s`, `first_prediction_s`, `peak_memory_bytes` (of a
        fresh process, at the largest batch), for bundles `run_family`, `run_mode`, `architecture`, `macro_f1`, and
        `batch_N`: `summary` of N images a call, with `ratio`: this model's median time divided by the first one's.
        `threads`, `machine`, `versions`.

    Raises
    ------
    UsageError, CheckError
        If a model cannot be loaded, or does not take such inputs.
    """
    sessions = [open_session(model.file, threads, device) for model in models]
    pairs = list(zip(models, sessions, strict=True))
    inputs = [[random_images(*pair, batch) for batch in batches] for pair in pairs]
    rows = []
    for (model, session), drawn in zip(pairs, inputs, strict=True):
        largest = max(drawn, key=len)
        run(session, None, {session.get_inputs()[0].name: largest}, len(largest))  # or an error says why not
        used = next(name for name, provider in PROVIDERS.items() if provider == session.get_providers()[0])
        fresh = footprint.measure(model.file, list(largest.shape), str(largest.dtype), threads, used)
        row = {"name": model.name, "provider": used, "size_bytes": model.file.stat().st_size}
        row |= {name: fresh[name] for name in ("load_s", "first_prediction_s")}
        row["peak_memory_bytes"] = fresh["peak_memory"]
        if model.info:
            row |= {name: model.info[name] for name in OF_TRAINING}
            row["macro_f1"] = model.info["test"]["macro_f1"]
        rows.append(row)
    for number, batch in enumerate(batches):
        calls = [caller(session, drawn[number]) for session, drawn in zip(sessions, inputs, strict=True)]
        times = interleave(calls, warmup, repeats)
        for row, own in zip(rows, times, strict=True):
            row[f"batch_{batch}"] = summary(own, batch) | {"ratio": float(np.median(own) / np.median(times[0]))}
        advance()
    return {"models": rows, "threads": threads, "machine": processor(), "versions": versions()}


def random_images(model: Model, session: onnxruntime.InferenceSession, batch: int) -> np.ndarray:
    """Random input for a model: uint8 in 0..255, or floats in [0, 1)."""
    taken = session.get_inputs()
    if len(taken) != 1 or taken[0].type not in DTYPES or not taken[0].shape:
        raise UsageError(
            f"a model with inputs {[(one.name, one.type, one.shape) for one in taken]}",
            where=model.name,
            expected="one input of images, uint8 or float",
        )
    # Axes that the graph leaves open are strings or None.
    graph: list[Any] = taken[0].shape
    own = graph[1:] if model.shape is None else list(model.shape)
    if not all(isinstance(size, int) for size in own):
        raise UsageError(
            f"the graph leaves the shape of its input open: {graph}",
            where=model.name,
            hint="give it with --shape, as --shape 48,48,1",
        )
    shape = [batch, *own]
    if len(shape) != len(graph) or any(
        isinstance(fixed, int) and fixed != size for fixed, size in zip(graph, shape, strict=True)
    ):
        raise UsageError(f"an input of shape {shape}", where=model.name, expected=f"{graph}, as the graph says")
    rng, dtype = np.random.default_rng(0), np.dtype(DTYPES[taken[0].type])
    if dtype == np.uint8:
        return rng.integers(0, 256, shape, dtype=np.uint8)
    return rng.random(shape, dtype=np.float32).astype(dtype)


def caller(session: onnxruntime.InferenceSession, images: np.ndarray) -> Callable[[], object]:
    """A call that gives probabilities, or all outputs of a model that has none by that name."""
    outputs = [output.name for output in session.get_outputs()]
    feed, wanted = {session.get_inputs()[0].name: images}, ["probabilities"] if "probabilities" in outputs else None
    return lambda: session.run(wanted, feed)


def interleave(calls: list[Callable[[], object]], warmup: int, repeats: int) -> np.ndarray:
    """Seconds (calls, repeats) of each call; in every round each is called once, the first of them in turn."""
    times = np.empty((len(calls), repeats))
    for round_ in range(-warmup, repeats):
        for number in range(len(calls)):
            which = (number + round_) % len(calls)
            start = time.perf_counter()
            calls[which]()
            if round_ >= 0:
                times[which, round_] = time.perf_counter() - start
    return times


def summary(seconds: np.ndarray, batch: int) -> dict[str, float]:
    """Percentiles of the calls in ms, and images per second over all of them."""
    percentiles = np.percentile(seconds * 1000, [50, 95, 99]).tolist()
    found = dict(zip(("p50_ms", "p95_ms", "p99_ms"), percentiles, strict=True))
    return found | {"images_per_s": batch * len(seconds) / float(seconds.sum())}


def processor() -> str:
    """The CPU's model name."""
    linux = Path("/proc/cpuinfo")
    description = linux.read_text(encoding="utf-8") if linux.exists() else ""
    found = re.search(r"^model name\s*: (.+)$", description, re.MULTILINE)
    return found.group(1) if found else platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Of what the runtime is made of."""
    return {"onnxruntime": onnxruntime.__version__, "numpy": np.__version__, "python": platform.python_version()}
