"""The exported bundle as a function from images to probabilities. Needs numpy and onnxruntime alone."""

import ctypes
import sys
from pathlib import Path
from typing import Literal

import numpy as np
import onnxruntime

from ..errors import CheckError, UsageError
from ..files import read_json, sha256_file

SCHEMA_VERSION = 1


class Classifier:
    """A bundle written by the stage `export`, checked and loaded.

    Parameters
    ----------
    bundle_dir : path
        Directory with `bundle.json` and `model.onnx`.
    threads : int, optional
        CPU threads of one prediction; None leaves it to ONNX Runtime.
    device : {"auto", "cpu", "cuda"}
        `auto` takes CUDA where there is a GPU, and the CPU otherwise.

    Attributes
    ----------
    info : dict
        What `bundle.json` holds: classes, image size, T*, metrics, digests.
    classes : list of str
        Names of the K columns of `predict`.
    provider : str
        The ONNX Runtime execution provider in use.

    Raises
    ------
    UsageError
        If there is no bundle, or `device` is `cuda` and no GPU can be used.
    CheckError
        If the model is not the one that `bundle.json` describes.
    """

    def __init__(
        self,
        bundle_dir: Path | str,
        threads: int | None = None,
        device: Literal["auto", "cpu", "cuda"] = "auto",
    ) -> None:
        directory = Path(bundle_dir)
        model = directory / "model.onnx"
        self.info = read_json(directory / "bundle.json")
        if self.info.get("schema_version") != SCHEMA_VERSION:
            raise CheckError(
                f"a bundle of schema version {self.info.get('schema_version')}",
                where=str(directory / "bundle.json"),
                expected=f"version {SCHEMA_VERSION}",
                hint="use the release of ferdistill that wrote it, or export again",
            )
        if not model.is_file():
            raise UsageError("a bundle without its model", where=str(model), hint="copy the whole directory")
        found = sha256_file(model)
        if found != self.info["sha256"]:
            raise CheckError(
                "the model is damaged, or belongs to another bundle",
                where=f"{model}, SHA-256 {found}",
                expected=f"SHA-256 {self.info['sha256']}, as bundle.json says",
                hint="copy the whole directory again",
            )
        self.classes: list[str] = self.info["classes"]
        options = onnxruntime.SessionOptions()
        if threads is not None:
            options.intra_op_num_threads = threads
        providers: list[str | tuple[str, dict[str, str]]] = ["CPUExecutionProvider"]
        if device == "cuda" or (device == "auto" and _has_cuda()):
            onnxruntime.preload_dlls()
            # TF32 keeps ten bits of a pixel's product: too few for the parity that `export` has checked.
            providers.insert(0, ("CUDAExecutionProvider", {"use_tf32": "0"}))
        self._session = onnxruntime.InferenceSession(model, options, providers=providers)
        self.provider: str = self._session.get_providers()[0]
        if device == "cuda" and self.provider != "CUDAExecutionProvider":
            raise UsageError(
                "ONNX Runtime cannot use a GPU here",
                where=f"providers {onnxruntime.get_available_providers()}",
                expected="onnxruntime-gpu, with an NVIDIA driver, CUDA and cuDNN",
                hint="see the messages above, or use device='cpu'",
            )

    def predict(self, images: np.ndarray) -> np.ndarray:
        """Calibrated probabilities of face images.

        Parameters
        ----------
        images : (N, size, size, channels) uint8 array
            N >= 1; RGB, or grey with one channel; cropped as the training images were.

        Returns
        -------
        (N, K) float32 array
            Columns as in `classes`; rows sum to 1.

        Raises
        ------
        UsageError
            On another dtype or shape.
        """
        size, channels = self.info["image"]["size"], self.info["image"]["channels"]
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (size, size, channels):
            raise UsageError(
                "not a batch of images that this model takes",
                where=f"{images.dtype} {images.shape}",
                expected=f"uint8 (N, {size}, {size}, {channels})",
                hint="resize first; wrap a single image as images[None]",
            )
        if len(images) == 0:
            raise UsageError("an empty batch", where=f"shape {images.shape}", expected="at least one image")
        probabilities: np.ndarray = self._session.run(["probabilities"], {"images": images})[0]
        return probabilities


def _has_cuda() -> bool:
    """Whether ONNX Runtime is built for CUDA and the NVIDIA driver sees a GPU.

    onnxruntime-gpu names CUDA as available on every machine, and fails noisily where there is no GPU.
    """
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        return False
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int(0)
    return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0
