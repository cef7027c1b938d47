"""ONNX Runtime, opened where it was asked to run and nowhere else."""

import ctypes
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from ..errors import CheckError, UsageError

# A run may take so long, far more than any classifier needs on any machine; a loop in a graph may never end.
RUN_SECONDS, IMAGE_SECONDS = 60.0, 5.0
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}


def open_session(model: Path, threads: int | None = None, device: str = "auto") -> onnxruntime.InferenceSession:
    """Load an ONNX file to run on "cpu", "cuda", "tensorrt", or "auto": CUDA where there is a GPU, and else the CPU.

    `threads` are the CPU's of one prediction; None leaves it to ONNX Runtime.

    Raises UsageError if the device is unknown or cannot be used here; CheckError if the file is no model that this ONNX
    Runtime can load.
    """
    if device not in ("auto", *PROVIDERS):
        raise UsageError(f"no device `{device}`", where="device", expected=f"one of auto, {', '.join(PROVIDERS)}")
    if threads is not None and threads < 1:
        raise UsageError(f"{threads} threads", where="threads", expected="at least 1, or None")
    gpu = device != "cpu" and has_cuda()
    if device == "auto":
        device = "cuda" if gpu else "cpu"
    elif device != "cpu" and not gpu:  # tried all the same, ONNX Runtime prints pages of errors
        raise _unusable(device, "install `ferdistill[gpu]` in place of `ferdistill[runtime]`, or use the device cpu")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # its warnings are about its own optimiser
    if threads is not None:
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
    providers: list[str | tuple[str, dict[str, str]]] = [PROVIDERS["cpu"]]
    if device != "cpu":
        if hasattr(onnxruntime, "preload_dlls"):
            onnxruntime.preload_dlls()
        # TF32 keeps ten bits of a pixel's product: too few for the parity that `export` has checked.
        providers.insert(0, (PROVIDERS["cuda"], {"use_tf32": "0"}))
    if device == "tensorrt":
        providers.insert(0, PROVIDERS["tensorrt"])
    try:
        session = onnxruntime.InferenceSession(model, options, providers=providers)
    except Exception as error:  # it has a class of its own for each cause, and no common one
        raise CheckError(
            f"ONNX Runtime cannot load the model: {str(error).splitlines()[0]}",
            where=str(model),
            expected=f"an ONNX file that onnxruntime {onnxruntime.__version__} knows",
            hint="export it again, or install a newer onnxruntime",
        ) from None
    if session.get_providers()[0] != PROVIDERS[device]:
        raise _unusable(device, "see the messages above, or use the device cpu")
    return session


def _unusable(device: str, hint: str) -> UsageError:
    return UsageError(
        f"ONNX Runtime cannot use {device} here",
        where=f"providers {onnxruntime.get_available_providers()}",
        expected="onnxruntime-gpu, with an NVIDIA driver, CUDA and cuDNN"
        + (", and TensorRT" if device == "tensorrt" else ""),
        hint=hint,
    )


_running: dict[int, tuple[float, onnxruntime.RunOptions]] = {}  # by identity: when a run must have ended
_watch = threading.Thread()  # ends those that have not


def run(
    session: onnxruntime.InferenceSession, outputs: Sequence[str] | None, feed: dict[str, np.ndarray], count: int
) -> list[Any]:
    """Run a model on `count` images: its `outputs`, all if None. It costs 3 µs more than ONNX Runtime's own.

    Raises CheckError if ONNX Runtime cannot run it, or it takes longer than `RUN_SECONDS` and `IMAGE_SECONDS` an image:
    it then stops after the operation at hand. TensorRT, which builds a network in its first runs, has any time.
    """
    global _watch
    if not _watch.is_alive():  # not yet, or this process was forked since
        _watch = threading.Thread(target=_end_what_is_overdue, daemon=True)
        _watch.start()
    options = onnxruntime.RunOptions()
    options.log_severity_level = 4  # an error is raised, and said once
    seconds = RUN_SECONDS + IMAGE_SECONDS * count
    if session.get_providers()[0] != PROVIDERS["tensorrt"]:
        _running[id(options)] = time.monotonic() + seconds, options
    try:
        return list(session.run(outputs, feed, options))
    except Exception as error:  # ONNX Runtime has a class of its own for each cause, and no common one
        late = options.terminate
        raise CheckError(
            f"the model does not end: stopped after {seconds:g} s"
            if late
            else f"the model cannot be run: {str(error).splitlines()[0]}",
            where=", ".join(f"{name} {array.dtype} {array.shape}" for name, array in feed.items()),
            expected="a model without endless loops" if late else "a model that takes such images",
            hint="export it again, or do not use it" if late else "export it again, or give it what it takes",
        ) from None
    finally:
        _running.pop(id(options), None)


def _end_what_is_overdue() -> None:
    while True:
        time.sleep(0.5)
        for end, options in list(_running.values()):
            if time.monotonic() > end:
                options.terminate = True


def has_cuda() -> bool:
    """Whether ONNX Runtime is built for CUDA and the NVIDIA driver sees a GPU.

    onnxruntime-gpu names CUDA as available on every machine, and fails noisily where there is no GPU.
    """
    if PROVIDERS["cuda"] not in onnxruntime.get_available_providers():
        return False
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int(0)
    return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0
