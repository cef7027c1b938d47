"""ONNX Runtime, opened where it was asked to run and nowhere else."""

import ctypes
import sys
from pathlib import Path

import onnxruntime

from ..errors import CheckError, UsageError

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
    if device == "auto":
        device = "cuda" if has_cuda() else "cpu"
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
        raise UsageError(
            f"ONNX Runtime cannot use {device} here",
            where=f"providers {onnxruntime.get_available_providers()}",
            expected="onnxruntime-gpu, with an NVIDIA driver, CUDA and cuDNN"
            + (", and TensorRT" if device == "tensorrt" else ""),
            hint="see the messages above, or use the device cpu",
        )
    return session


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
