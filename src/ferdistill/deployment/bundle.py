"""The student as a bundle that takes raw pixels and gives calibrated probabilities, without torch."""

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
import pandas as pd
import timm
import torch
from scipy.special import softmax

from .. import __version__
from ..data.images import Pixels
from ..errors import CheckError
from ..evaluation import drift
from ..files import sha256_file, write_json, write_text
from ..params import ExportParams, Int8Params, TaskParams
from ..runtime.classifier import SCHEMA_VERSION
from . import precision
from .card import model_card
from .graph import EvaluatedSplit, InferenceGraph, check_parity, export_onnx, onnx_logits


@dataclass(frozen=True)
class EvaluatedStudent:
    """A student with all that is known of it."""

    network: torch.nn.Module  # with its config, as `distill.models.load_network` gives them
    config: dict[str, Any]
    t_star: float  # the calibrated temperature
    acting: dict[str, Any]  # its sets, abstention and alerts, as the stage `calibrate` fitted them
    test: dict[str, Any]  # its scores on test, as the stage `evaluate` wrote them
    images: Pixels
    splits: dict[str, EvaluatedSplit]  # val, calib and test


class Told(NamedTuple):
    """What must be said of the use of such a model."""

    caution: str = ""  # Markdown, for the model card
    use: dict[str, Any] | None = None  # for machines, into bundle.json: intended, prohibited, notice, sources
    licences: dict[str, Any] | None = None  # of the sources of the training images: `data.licences.told`
    named: bool = True  # whether the index says of any image whose it is


def write(
    student: EvaluatedStudent,
    directory: Path,
    settings: ExportParams,
    task: TaskParams,
    sources: pd.DataFrame,
    told: Told,
) -> dict[str, Any]:
    """Export a student, compare it with torch on the test split, and write the bundle if they agree.

    `directory` is replaced as a whole, and left as it was on an error. `sources` are for the model card: see
    `card.model_card`.

    Returns
    -------
    dict
        - `parity_max_abs`: largest difference of a probability between torch and ONNX Runtime on test.
        - `parity_resized_max_abs`: the same where the graph must resize and convert, on the first of these images.
        - `argmax_equal`: share of images that both give the same class; 1.0 in every bundle written.
        - `evaluated_max_abs`: largest difference of a probability, at T = 1, from what was evaluated.
        - `size_bytes`: of `model.onnx`.
        - `abstention`: on test, `coverage` of the threshold, and `accuracy` where it answers (None if nowhere). The
          threshold is the guaranteed one, or `settings.confidence` where none is.
        - `int8`: as `precision.quantise` says, `val_and_calib` and `test` (losses of the last attempt), `size_bytes`
          if taken; only where it was asked for.

    Raises
    ------
    CheckError
        If the two differ by more than the tolerance or name another class, or if the bundle does not
        reproduce what was evaluated.
    """
    config = student.config
    size, channels = config["image"]["size"], config["image"]["channels"]
    if student.images.shape[1:] != (size, size, channels):
        raise CheckError(
            "the images are not of the size that the student was trained at",
            where=f"{student.images.dtype} {student.images.shape}",
            expected=f"uint8 (N, {size}, {size}, {channels})",
            hint="run `dvc repro images`",
        )
    graph = InferenceGraph(student.network, config["image"], student.t_star).eval()
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix=f".{directory.name}-") as temporary:
        bundle = Path(temporary) / directory.name
        bundle.mkdir()
        model = bundle / "model.onnx"
        export_onnx(graph, model, settings.opset)
        result = check_parity(graph, model, student.images, student.splits["test"], settings.tolerance)
        result["size_bytes"] = model.stat().st_size
        acting = student.acting
        guaranteed = acting["abstention"]["threshold"]
        confidence = settings.confidence if guaranteed is None else guaranteed
        result["abstention"] = abstention(student.splits["test"], student.t_star, confidence)
        variants = {"fp32": model.name}
        if settings.int8 is not None:
            path = bundle / "model.int8.onnx"
            result["int8"] = add_int8(model, path, student, settings.int8)
            if result["int8"]["taken"]:
                variants["int8"] = path.name
        info = {
            "schema_version": SCHEMA_VERSION,
            "task": task.model_dump(mode="json"),
            "use": told.use,
            "licences": told.licences,
            "classes": config["classes"],
            "image": config["image"],
            "crop": {"margin": settings.margin},
            "t_star": student.t_star,
            "thresholds": {"confidence": confidence},
            "guarantee": None
            if guaranteed is None
            else {name: acting["abstention"][name] for name in ("risk", "failure", "people")},
            "sets": acting["sets"],
            "reference": drift.reference(softmax(student.splits["test"].logits / student.t_star, axis=1), confidence),
            "alerts": {name: acting["alerts"][name] for name in ("precision", "failure", "thresholds")},
            "variants": variants,
            **{name: config[name] for name in ("run_family", "run_mode", "seed")},
            "architecture": config["model"],
            "student_sha256": config["sha256"],
            "index_digest": config["index_digest"],
            "test": student.test,
            "abstention": result["abstention"],
            "int8": result.get("int8"),
            "versions": {
                "ferdistill": __version__,
                **{library.__name__: library.__version__ for library in (torch, timm, onnx, onnxruntime)},
            },
        }
        write_text(bundle / "README.md", model_card(info, sources, told.caution, told.named))
        info["files"] = {path.name: sha256_file(path) for path in sorted(bundle.iterdir())}
        write_json(bundle / "bundle.json", info)
        shutil.rmtree(directory, ignore_errors=True)
        bundle.rename(directory)
    return result


def abstention(test: EvaluatedSplit, t_star: float, confidence: float) -> dict[str, Any]:
    """Share of the test split that is at least so confident, and how much of that is right."""
    answered = softmax(test.logits / t_star, axis=1).max(axis=1) >= confidence
    right = test.logits.argmax(axis=1) == test.labels
    return {"coverage": float(answered.mean()), "accuracy": float(right[answered].mean()) if answered.any() else None}


def add_int8(model: Path, path: Path, student: EvaluatedStudent, limits: Int8Params) -> dict[str, Any]:
    """Write `path` if int8 keeps to the limits on val and calib. Test is only reported: nothing is chosen by it."""
    images, classes, t_star = student.images, student.config["classes"], student.t_star
    val, calib, test = (student.splits[name] for name in ("val", "calib", "test"))
    judged = EvaluatedSplit(*(np.concatenate(pair) for pair in zip(val, calib, strict=True)))
    found = precision.quantise(model, path, images, calib, judged, classes, t_star, limits)
    for name, split in (("val_and_calib", judged), ("test", test)):
        before, after = (onnx_logits(file, images, split.positions) for file in (model, path))
        found[name] = precision.compare(before, after, split.labels, classes, t_star)
    if found["taken"]:
        found["size_bytes"] = path.stat().st_size
    else:
        path.unlink()
    return found


def refusal(int8: dict[str, Any], limits: Int8Params) -> str:
    """Why there is no int8 file, and what can be done."""
    tried = "; ".join(
        f"{attempt['float_layers']} of {int8['layers']} layers in float: macro F1 "
        f"{-100 * attempt['macro_f1_loss']:+.2f} points, ECE {attempt['ece_rise']:+.3f}, "
        f"{attempt['same_class']:.1%} of classes kept"
        for attempt in int8["attempts"]
    )
    return (
        f"on val and calib, against float32, it may cost {100 * limits.max_macro_f1_loss:g} points of macro F1 and "
        f"{limits.max_ece_rise:g} of ECE, and must keep {limits.min_same_class:.0%} of classes. "
        f"Tried: {tried}. Raise export.int8.max_attempts (at most 4) or its limits, or train with another "
        "seed; model.onnx is unaffected"
    )
