"""The whole of inference as one ONNX graph: raw pixels of any size in, calibrated probabilities out."""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
import torch
from scipy.special import softmax
from torch import Tensor

from ..data.images import Pixels
from ..errors import CheckError

BATCH = 256
# ITU-R 601 in 1/65536, as Pillow's convert("L"). Their sum is 65536, so a grey pixel repeated three times keeps its
# value; all sums stay under 2**24, so float32 holds them exactly.
LUMA = (19595.0, 38470.0, 7471.0)
# The student may have been evaluated on another device, in other batches. Wrong preprocessing moves
# probabilities by far more than this.
EVALUATED_TOLERANCE = 0.01


class EvaluatedSplit(NamedTuple):
    """One split, as the exported model is checked on it."""

    positions: np.ndarray  # (M,): its rows of the packed images
    labels: np.ndarray  # (M,): integers in 0..K-1
    logits: np.ndarray  # (M, K): what the student was evaluated with


class InferenceGraph(torch.nn.Module):
    """Images uint8 (N, H, W, C) to logits (N, K) and probabilities softmax(logits / T*), both float32.

    H and W are any, C is 1 (grey) or 3 (RGB), whatever the network takes. Grey is ITU-R 601, rounded, as Pillow's;
    resizing is bilinear and antialiased, see `resampling`, and keeps images of the network's size bit for bit.

    `network` takes normalised float32 (N, C, size, size) and gives logits (N, K). `image` has `size`, `channels`, and
    `mean` and `std` of each channel for pixels in [0, 1]. `t_star` is the calibrated temperature.
    """

    def __init__(self, network: torch.nn.Module, image: dict[str, Any], t_star: float) -> None:
        super().__init__()
        self.network = network
        self.size, self.channels = image["size"], image["channels"]
        self.mean = torch.nn.Buffer(torch.tensor(image["mean"], dtype=torch.float32)[:, None, None])
        self.std = torch.nn.Buffer(torch.tensor(image["std"], dtype=torch.float32)[:, None, None])
        self.t_star = t_star

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        pixels = images.to(torch.float32)
        if self.channels == 1:
            pixels = torch.floor(((pixels * torch.tensor(LUMA)).sum(3) + 32768) / 65536)[:, None]
        else:
            pixels = (pixels * torch.ones(3)).permute(0, 3, 1, 2)
        # A matrix for each side, not ONNX's Resize: that has no antialiasing before opset 18, and costs more when
        # there is nothing to resize.
        pixels = pixels @ resampling(images.shape[2], self.size).T
        pixels = resampling(images.shape[1], self.size) @ pixels
        logits = self.network((pixels / 255 - self.mean) / self.std)
        return logits, torch.softmax(logits / self.t_star, dim=1)


def resampling(length: int, size: int) -> Tensor:
    """The matrix (size, length), float32, that resamples a line of `length` pixels to `size`.

    Each row is a triangle about the new pixel's centre, as wide as a pixel of the longer line, and sums to 1: Pillow's
    BILINEAR without its rounding, and torch's `interpolate(mode="bilinear", antialias=True)`.
    """
    scale = torch.as_tensor(length).to(torch.float32) / size  # the exporter traces `length`, a tensor then
    centres = (torch.arange(size) + 0.5)[:, None] * scale
    distance = (centres - torch.arange(length) - 0.5).abs()
    rows = torch.relu(1 - distance / scale.clamp(min=1))
    return rows / rows.sum(1, keepdim=True)


def export_onnx(graph: InferenceGraph, path: Path, opset: int) -> None:
    """Write one ONNX file with input `images`, outputs `logits` and `probabilities`; all of N, H, W and C are free."""
    # Two images: of one, the exporter would fix the batch size in some networks.
    example = torch.zeros((2, graph.size, graph.size, graph.channels), dtype=torch.uint8)
    free = {"images": {0: "batch", 1: "height", 2: "width", 3: "channels"}}
    free |= {"logits": {0: "batch"}, "probabilities": {0: "batch"}}
    with warnings.catch_warnings():
        # The newer exporter splits weights into a second file; this one is deprecated, but does not.
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        torch.onnx.export(
            graph,
            (example,),
            path,
            dynamo=False,
            opset_version=opset,
            input_names=["images"],
            output_names=["logits", "probabilities"],
            dynamic_axes=free,
        )
    onnx.checker.check_model(path, full_check=True)


def open_model(model: Path) -> onnxruntime.InferenceSession:
    """On the CPU, which everybody has: the parity that is promised is that of this provider."""
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # leaves the cores to torch in between
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def in_batches(images: Pixels, positions: np.ndarray) -> Iterator[np.ndarray]:
    """The images at these rows, (B, H, W, C) at a time."""
    for start in range(0, len(positions), BATCH):
        yield np.array(images[positions[start : start + BATCH]])


def onnx_logits(model: Path, images: Pixels, positions: np.ndarray) -> np.ndarray:
    """Logits (M, K) of the images at these rows."""
    session = open_model(model)
    return np.concatenate([session.run(["logits"], {"images": batch})[0] for batch in in_batches(images, positions)])


def check_parity(
    graph: InferenceGraph, model: Path, images: Pixels, test: EvaluatedSplit, tolerance: float
) -> dict[str, Any]:
    """Run torch and ONNX Runtime on the same images: the test split as it is, and its first batch in another shape.

    Raises CheckError as `bundle.write` says.
    """
    session = open_model(model)
    parity = evaluated_difference = 0.0
    same = 0
    for number, batch in enumerate(in_batches(images, test.positions)):
        expected, logits, probabilities = run_both(graph, session, batch)
        reference = softmax(test.logits[number * BATCH :][: len(batch)], axis=1)
        # np.maximum keeps a NaN, which max() might drop.
        parity = np.maximum(parity, np.abs(probabilities - expected).max())
        evaluated_difference = np.maximum(evaluated_difference, np.abs(softmax(logits, axis=1) - reference).max())
        same += int((probabilities.argmax(axis=1) == expected.argmax(axis=1)).sum())
    first = next(in_batches(images, test.positions))
    # Half as high again, with the other number of channels.
    tall = np.repeat(first[:, : first.shape[1] * 3 // 4], 2, axis=1)
    other = np.repeat(tall, 3, axis=3) if first.shape[3] == 1 else np.ascontiguousarray(tall[..., 1:2])
    expected, _, probabilities = run_both(graph, session, other)
    resized = np.abs(probabilities - expected).max()
    if not np.maximum(parity, resized) <= tolerance or same != len(test.positions):
        raise CheckError(
            f"ONNX Runtime and torch disagree: probabilities by up to {parity:.3g}, by {resized:.3g} where images are "
            f"resized, the class of {len(test.positions) - same} images",
            where=f"the {len(test.positions)} images of the test split",
            expected=f"at most {tolerance:g}, and the same class for each",
            hint="try another export.opset; no bundle was written",
        )
    if not evaluated_difference <= EVALUATED_TOLERANCE:
        raise CheckError(
            f"the bundle's predictions are not those that were evaluated: off by {evaluated_difference:.3g}",
            where=f"probabilities at T = 1 of the {len(test.positions)} images of the test split",
            expected=f"at most {EVALUATED_TOLERANCE:g}",
            hint="run `dvc repro student`; if that does not help, config.json holds another mean or std",
        )
    return {
        "parity_max_abs": float(parity),
        "parity_resized_max_abs": float(resized),
        "argmax_equal": same / len(test.positions),
        "evaluated_max_abs": float(evaluated_difference),
    }


def run_both(
    graph: InferenceGraph, session: onnxruntime.InferenceSession, batch: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Torch's probabilities, then ONNX Runtime's logits and probabilities, each (B, K)."""
    with torch.inference_mode():
        expected = graph(torch.from_numpy(batch))[1].numpy()
    logits, probabilities = session.run(["logits", "probabilities"], {"images": batch})
    return expected, logits, probabilities
