"""Stage `export`: the student as a bundle that takes raw pixels and gives calibrated probabilities, without torch."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pandas as pd
import timm
import torch
from scipy.special import softmax

from .. import __version__, workspace
from ..data import images, index
from ..deployment import precision
from ..deployment.card import model_card
from ..deployment.graph import Deployed, Part, check_parity, export_onnx, logits_of
from ..distill.models import load_network
from ..errors import CheckError, require_same
from ..evaluation.metrics import read_predictions
from ..files import read_json, sha256_file, write_json, write_text
from ..params import ExportParams, Int8Params, Params
from ..runtime.classifier import SCHEMA_VERSION

STUDENT = workspace.STUDENT
BUNDLE = workspace.BUNDLE


def run(params: Params) -> None:
    """Write `models/bundle/` and `metrics/export.json`."""
    network, config = load_network(STUDENT)
    rows = index.read(workspace.index_csv(params.index_tag))
    require_same(
        [("index digest", rows.digest, config["index_digest"])],
        "the student was trained on another index",
        where=f"{STUDENT / 'config.json'}, against {workspace.index_csv(params.index_tag)}",
        hint="run `dvc repro student`",
    )
    result = export_bundle(
        network,
        config,
        read_json(workspace.CALIBRATION_METRICS),
        read_json(workspace.EVALUATION_METRICS),
        images.load(workspace.images_npy(params.index_tag), rows),
        {split: read_part(rows, split, config["classes"]) for split in ("val", "calib", "test")},
        pd.crosstab(rows.rows["source"], rows.rows["split"]),
        BUNDLE,
        params.export,
    )
    write_json(workspace.EXPORT_METRICS, result)
    if params.export.int8 is not None and not result["int8"]["taken"]:
        print(f"no int8 file: {refusal(result['int8'], params.export.int8)}")


def read_part(rows: index.Index, split: str, classes: list[str]) -> Part:
    """One split of the student's predictions, with its rows of the index."""
    predictions = read_predictions(STUDENT / "predictions.parquet", split, classes)
    positions = pd.Index(rows.rows["path"]).get_indexer(pd.Index(predictions.paths))
    if positions.min() < 0:
        raise CheckError(
            f"the index lacks `{predictions.paths[positions.argmin()]}`",
            where=str(STUDENT / "predictions.parquet"),
            expected="paths of the index",
            hint="run `dvc repro student`",
        )
    return Part(positions, predictions.labels, predictions.logits)


def export_bundle(
    network: torch.nn.Module,
    config: dict[str, Any],
    calibration: dict[str, Any],
    evaluation: dict[str, Any],
    images: np.ndarray,
    parts: dict[str, Part],
    sources: pd.DataFrame,
    directory: Path,
    settings: ExportParams,
) -> dict[str, Any]:
    """Export a network, compare it with torch on the test split, and write the bundle if they agree.

    Parameters
    ----------
    network, config : Module, dict
        As `distill.models.load_network` gives them.
    calibration, evaluation : dict
        What the stages `calibrate` and `evaluate` wrote.
    images : (N, H, W, C) uint8 array
        All images; may be memory-mapped.
    parts : dict
        The splits val, calib and test.
    sources : DataFrame
        Number of images by source (rows) and split (columns), for the model card.
    directory : Path
        Replaced as a whole; left as it was on an error.
    settings : ExportParams
        The opset, the tolerance, and what int8 may cost.

    Returns
    -------
    dict
        - `parity_max_abs`: largest difference of a probability between torch and ONNX Runtime on test.
        - `parity_resized_max_abs`: the same where the graph must resize and convert, on the first of these images.
        - `argmax_equal`: share of images that both give the same class; 1.0 in every bundle written.
        - `evaluated_max_abs`: largest difference of a probability, at T = 1, from what was evaluated.
        - `size_bytes`: of `model.onnx`.
        - `abstention`: on test, `coverage` of `settings.confidence`, and `accuracy` where it answers (None if nowhere).
        - `int8`: as `precision.quantise` says, `val_and_calib` and `test` (losses of the last attempt), `size_bytes`
          if taken; only where it was asked for.

    Raises
    ------
    CheckError
        If the two differ by more than the tolerance or name another class, or if the bundle does not
        reproduce what was evaluated.
    """
    size, channels = config["image"]["size"], config["image"]["channels"]
    if images.shape[1:] != (size, size, channels):
        raise CheckError(
            "the images are not of the size that the student was trained at",
            where=f"{images.dtype} {images.shape}",
            expected=f"uint8 (N, {size}, {size}, {channels})",
            hint="run `dvc repro images`",
        )
    t_star, test = calibration["t_star"], parts["test"]
    deployed = Deployed(network, config["image"], t_star).eval()
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix=f".{directory.name}-") as temporary:
        bundle = Path(temporary) / directory.name
        bundle.mkdir()
        model = bundle / "model.onnx"
        export_onnx(deployed, model, settings.opset)
        result = check_parity(deployed, model, images, test, settings.tolerance)
        result["size_bytes"] = model.stat().st_size
        result["abstention"] = abstention(test, t_star, settings.confidence)
        variants = {"fp32": model.name}
        if settings.int8 is not None:
            path = bundle / "model.int8.onnx"
            result["int8"] = add_int8(model, path, images, parts, config["classes"], t_star, settings.int8)
            if result["int8"]["taken"]:
                variants["int8"] = path.name
        info = {
            "schema_version": SCHEMA_VERSION,
            "classes": config["classes"],
            "image": config["image"],
            "t_star": t_star,
            "thresholds": {"confidence": settings.confidence},
            "variants": variants,
            "run_family": config["run_family"],
            "run_mode": config["run_mode"],
            "seed": config["seed"],
            "architecture": config["model"],
            "student_sha256": config["sha256"],
            "index_digest": config["index_digest"],
            "test": evaluation["test"],
            "abstention": result["abstention"],
            "int8": result.get("int8"),
            "versions": {
                "ferdistill": __version__,
                "torch": torch.__version__,
                "timm": timm.__version__,
                "onnx": onnx.__version__,
                "onnxruntime": onnxruntime.__version__,
            },
        }
        write_text(bundle / "README.md", model_card(info, sources))
        info["files"] = {path.name: sha256_file(path) for path in sorted(bundle.iterdir())}
        write_json(bundle / "bundle.json", info)
        shutil.rmtree(directory, ignore_errors=True)
        bundle.rename(directory)
    return result


def abstention(test: Part, t_star: float, confidence: float) -> dict[str, Any]:
    """Share of the test split that is at least so confident, and how much of that is right."""
    answered = softmax(test.logits / t_star, axis=1).max(axis=1) >= confidence
    right = test.logits.argmax(axis=1) == test.labels
    return {"coverage": float(answered.mean()), "accuracy": float(right[answered].mean()) if answered.any() else None}


def add_int8(
    model: Path,
    path: Path,
    images: np.ndarray,
    parts: dict[str, Part],
    classes: list[str],
    t_star: float,
    limits: Int8Params,
) -> dict[str, Any]:
    """Write `path` if int8 keeps to the limits on val and calib. Test is only reported: nothing is chosen by it."""
    judged = Part(*(np.concatenate(pair) for pair in zip(parts["val"], parts["calib"], strict=True)))
    found = precision.quantise(model, path, images, parts["calib"], judged, classes, t_star, limits)
    for name, part in (("val_and_calib", judged), ("test", parts["test"])):
        before, after = (logits_of(file, images, part.positions) for file in (model, path))
        found[name] = precision.compare(before, after, part.labels, classes, t_star)
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
