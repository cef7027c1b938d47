"""The exported graph in int8, with the layers that int8 hurts left in float."""

import logging
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from scipy.special import log_softmax

from ..data.images import Pixels
from ..evaluation.metrics import score
from ..params import Int8Params
from ..progress import track
from .graph import EvaluatedSplit, in_batches, onnx_logits

LAYERS = ("Conv", "Gemm", "MatMul")
# Images by which layers are told apart: 64 named the same costliest quarter of a MobileNetV3 as 256 did.
SENSITIVITY_IMAGES = 64


class CalibrationImages(CalibrationDataReader):
    """Images as ONNX Runtime's calibration reads them."""

    def __init__(self, images: Iterable[np.ndarray]) -> None:
        self.images = iter(images)

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self.images, None)
        return None if batch is None else {"images": batch}


def quantise(
    model: Path,
    path: Path,
    images: Pixels,
    calib: EvaluatedSplit,
    judged: EvaluatedSplit,
    classes: list[str],
    t_star: float,
    settings: Int8Params,
) -> dict[str, Any]:
    """Write `path` in int8, with as many layers in float as it takes to keep to the limits on images that are not test.

    Weights are int8 a channel, activations uint8 by the smallest and largest value on the calib split (static QDQ).
    The first attempt quantises every layer. If it loses too much, the layers are ranked by what each costs alone (mean
    KL divergence of the probabilities, on calib), and further attempts leave the costliest eighth, quarter, half, ...
    of them in float.

    Parameters
    ----------
    model, path
        The float32 graph: uint8 `images` (N, H, W, C) to `logits` (N, K); and where the last attempt is written,
        whether it passes or not.
    images
        All, uint8 (N, H, W, C).
    calib, judged
        What ranges are taken from and layers ranked on, and what attempts are judged on.
    t_star
        At which ECE is taken.

    Returns
    -------
    dict
        - `taken`: whether an attempt passed.
        - `attempts`: of each, `float_layers` (int), and what `compare` says on `judged`, against float32.
        - `layers`: number of layers that can be quantised.
        - `float_layers`: names of those that the last attempt left in float.
    """
    reference = onnx_logits(model, images, judged.positions)
    attempts: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        prepared, ranges, candidate = (Path(temporary) / name for name in ("prepared.onnx", "ranges.json", "int8.onnx"))
        # Gives every layer a bias of its own, for one: a shared one would keep layers from being fused to int8.
        quant_pre_process(model, prepared, skip_symbolic_shape=True)
        nodes = onnx.load(prepared).graph
        weights = {tensor.name for tensor in nodes.initializer}
        layers = [node.name for node in nodes.node if node.op_type in LAYERS and node.input[1] in weights]
        write_int8(prepared, candidate, in_batches(images, calib.positions), ranges, [])
        ranked: list[str] = []
        for attempt in range(settings.max_attempts):
            if attempt == 1:
                ranked = rank(prepared, layers, images, calib, ranges)
            in_float = ranked[: round(len(layers) * 2.0 ** (attempt - 4))]
            if attempt > 0:
                write_int8(prepared, candidate, [], ranges, in_float)
            found = onnx_logits(candidate, images, judged.positions)
            losses = compare(reference, found, judged.labels, classes, t_star)
            attempts.append({"float_layers": len(in_float), **losses})
            taken = (
                losses["macro_f1_loss"] <= settings.max_macro_f1_loss
                and losses["ece_rise"] <= settings.max_ece_rise
                and losses["same_class"] >= settings.min_same_class
            )
            if taken:
                break
        shutil.copyfile(candidate, path)
    return {"taken": taken, "attempts": attempts, "layers": len(layers), "float_layers": sorted(in_float)}


def write_int8(
    model: Path, path: Path, images: Iterable[np.ndarray], ranges: Path, in_float: list[str], only: str | None = None
) -> None:
    """Quantise all layers but `in_float`, or `only` one. The activations' ranges are kept in the file `ranges`."""
    before = logging.root.level
    logging.root.setLevel(logging.ERROR)  # it warns that the model was not prepared, even if it was
    try:
        quantize_static(
            model,
            path,
            None if ranges.exists() else CalibrationImages(images),
            op_types_to_quantize=list(LAYERS),
            per_channel=True,
            # A bit less for weights: x86 without VNNI adds pairs of products in 16 bits, which would saturate, and
            # the accuracy that is checked here would not be the accuracy there.
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_quantize=[only] if only else None,
            nodes_to_exclude=in_float,
            extra_options={"MatMulConstBOnly": True},
            calibration_cache_path=ranges,
        )
    finally:
        logging.root.setLevel(before)


def rank(model: Path, layers: list[str], images: Pixels, calib: EvaluatedSplit, ranges: Path) -> list[str]:
    """The layers, costliest first: each is quantised alone and compared with float32 on images of the calib split."""
    positions = calib.positions[:: max(1, len(calib.positions) // SENSITIVITY_IMAGES)][:SENSITIVITY_IMAGES]
    reference = log_softmax(onnx_logits(model, images, positions).astype(np.float64), axis=1)
    costs = {}
    alone = ranges.with_name("alone.onnx")
    for layer in track(layers, "ranking layers", total=len(layers)):
        write_int8(model, alone, [], ranges, [], only=layer)
        found = log_softmax(onnx_logits(alone, images, positions).astype(np.float64), axis=1)
        costs[layer] = float((np.exp(reference) * (reference - found)).sum(axis=1).mean())
    return sorted(layers, key=lambda layer: -costs[layer])


def compare(
    reference: np.ndarray, found: np.ndarray, labels: np.ndarray, classes: list[str], t_star: float
) -> dict[str, float]:
    """What `found` loses against `reference`, both logits (M, K): macro F1, how much ECE rises at T*, and agreement.

    `same_class` is the share of images to which both give one class. On some hundred images macro F1 may stay though
    the two are different classifiers, whose errors happen to weigh the same; then it moves on other images.
    """
    before, after = (score(logits, labels, classes, t_star) for logits in (reference, found))
    return {
        "macro_f1_loss": before["macro_f1"] - after["macro_f1"],
        "ece_rise": after["ece"] - before["ece"],
        "same_class": float((reference.argmax(axis=1) == found.argmax(axis=1)).mean()),
    }
