"""Stage `export`: the student as one ONNX file that takes raw pixels and gives calibrated probabilities."""

import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pandas as pd
import timm
import torch
from scipy.special import softmax

from .. import __version__
from ..corpus import index
from ..errors import CheckError
from ..evaluation.metrics import read_predictions
from ..files import read_json, sha256_file, write_json, write_text
from ..params import ExportParams, Params
from ..runtime.classifier import SCHEMA_VERSION
from ..training.models import load_network

STUDENT = Path("models/student")
BUNDLE = Path("models/bundle")
BATCH = 256
# The student may have been evaluated on another device, in other batches. Wrong preprocessing moves
# probabilities by far more than this.
EVALUATED_TOLERANCE = 0.01


class Deployed(torch.nn.Module):
    """Images uint8 (N, H, W, C) to logits (N, K) and probabilities softmax(logits / T*), both float32.

    Parameters
    ----------
    network : takes normalised float32 (N, C, H, W), gives logits (N, K)
    mean, std : of each channel, for pixels in [0, 1]
    t_star : the calibrated temperature
    """

    def __init__(self, network: torch.nn.Module, mean: list[float], std: list[float], t_star: float) -> None:
        super().__init__()
        self.network = network
        self.mean = torch.nn.Buffer(torch.tensor(mean, dtype=torch.float32))
        self.std = torch.nn.Buffer(torch.tensor(std, dtype=torch.float32))
        self.t_star = t_star

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        pixels = (images.to(torch.float32) / 255 - self.mean) / self.std
        logits = self.network(pixels.permute(0, 3, 1, 2))
        return logits, torch.softmax(logits / self.t_star, dim=1)


def run(params: Params) -> None:
    """Write `models/bundle/` and `metrics/export.json`."""
    network, config = load_network(STUDENT)
    rows = index.read(params.index_csv)
    if config["index_digest"] != rows.digest:
        raise CheckError(
            "the student was trained on another index",
            where=f"{STUDENT / 'config.json'}, digest {config['index_digest']}",
            expected=f"digest {rows.digest}, of {params.index_csv}",
            hint="run `dvc repro student`",
        )
    test = read_predictions(STUDENT / "predictions.parquet", "test", config["classes"])
    positions = pd.Index(rows.rows["path"]).get_indexer(test.paths)
    if positions.min() < 0:
        raise CheckError(
            f"the index lacks `{test.paths[positions.argmin()]}`",
            where=str(STUDENT / "predictions.parquet"),
            expected=f"paths of {params.index_csv}",
            hint="run `dvc repro student`",
        )
    sources = pd.crosstab(rows.rows["source"], rows.rows["split"])
    result = export_bundle(
        network,
        config,
        read_json("metrics/calibration.json"),
        read_json("metrics/evaluation.json"),
        np.load(params.images_npy, mmap_mode="r"),
        positions,
        test.logits,
        sources,
        BUNDLE,
        params.export,
    )
    write_json("metrics/export.json", result)


def export_bundle(
    network: torch.nn.Module,
    config: dict[str, Any],
    calibration: dict[str, Any],
    evaluation: dict[str, Any],
    images: np.ndarray,
    positions: np.ndarray,
    evaluated: np.ndarray,
    sources: pd.DataFrame,
    directory: Path,
    settings: ExportParams,
) -> dict[str, Any]:
    """Export a network, compare it with torch on the test split, and write the bundle if they agree.

    Parameters
    ----------
    network, config : Module, dict
        As `training.models.load_network` gives them.
    calibration, evaluation : dict
        What the stages `calibrate` and `evaluate` wrote.
    images : (N, H, W, C) uint8 array
        All images; may be memory-mapped.
    positions : (M,) array
        The rows of `images` that are the test split.
    evaluated : (M, K) array
        The logits that `evaluation` was computed from.
    sources : DataFrame
        Number of images by source (rows) and split (columns), for the model card.
    directory : Path
        Replaced as a whole; left as it was on an error.
    settings : ExportParams
        The opset and the tolerance.

    Returns
    -------
    dict
        - `parity_max_abs`: largest difference of a probability between torch and ONNX Runtime.
        - `argmax_equal`: share of images that both give the same class; 1.0 in every bundle written.
        - `evaluated_max_abs`: largest difference of a probability, at T = 1, from `evaluated`.
        - `size_bytes`: of `model.onnx`.

    Raises
    ------
    CheckError
        If the two differ by more than the tolerance or name another class, or if the bundle does not
        reproduce `evaluated`.
    """
    size, channels = config["image"]["size"], config["image"]["channels"]
    if images.dtype != np.uint8 or images.shape[1:] != (size, size, channels):
        raise CheckError(
            "the images are not of the size that the student was trained at",
            where=f"{images.dtype} {images.shape}",
            expected=f"uint8 (N, {size}, {size}, {channels})",
            hint="run `dvc repro images`",
        )
    t_star = calibration["t_star"]
    deployed = Deployed(network, config["image"]["mean"], config["image"]["std"], t_star).eval()
    example = torch.zeros((2, size, size, channels), dtype=torch.uint8)
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix=f".{directory.name}-") as temporary:
        bundle = Path(temporary) / directory.name
        bundle.mkdir()
        model = bundle / "model.onnx"
        export_onnx(deployed, example, model, settings.opset)
        result = check_parity(deployed, model, images, positions, evaluated, settings.tolerance)
        result["size_bytes"] = model.stat().st_size
        info = {
            "schema_version": SCHEMA_VERSION,
            "classes": config["classes"],
            "image": {"size": size, "channels": channels},
            "t_star": t_star,
            "run_family": config["run_family"],
            "run_mode": config["run_mode"],
            "seed": config["seed"],
            "architecture": config["model"],
            "sha256": sha256_file(model),
            "student_sha256": config["sha256"],
            "index_digest": config["index_digest"],
            "test": evaluation["test"],
            "versions": {
                "ferdistill": __version__,
                "torch": torch.__version__,
                "timm": timm.__version__,
                "onnx": onnx.__version__,
                "onnxruntime": onnxruntime.__version__,
            },
        }
        write_json(bundle / "bundle.json", info)
        write_text(bundle / "MODEL_CARD.md", model_card(info, sources))
        shutil.rmtree(directory, ignore_errors=True)
        bundle.rename(directory)
    return result


def export_onnx(deployed: Deployed, example: torch.Tensor, path: Path, opset: int) -> None:
    """Write one ONNX file with input `images`, outputs `logits` and `probabilities`, and a free batch size.

    `example` has two images or more: of one, the exporter would fix the batch size in some networks.
    """
    with warnings.catch_warnings():
        # The newer exporter splits weights into a second file; this one is deprecated, but does not.
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            deployed,
            (example,),
            path,
            dynamo=False,
            opset_version=opset,
            input_names=["images"],
            output_names=["logits", "probabilities"],
            dynamic_axes={name: {0: "batch"} for name in ("images", "logits", "probabilities")},
        )
    onnx.checker.check_model(path, full_check=True)


def check_parity(
    deployed: Deployed,
    model: Path,
    images: np.ndarray,
    positions: np.ndarray,
    evaluated: np.ndarray,
    tolerance: float,
) -> dict[str, Any]:
    """Run torch and ONNX Runtime on the same images; see `export_bundle`."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    parity = evaluated_difference = 0.0
    same = 0
    for start in range(0, len(positions), BATCH):
        batch = np.array(images[positions[start : start + BATCH]])
        with torch.inference_mode():
            expected = deployed(torch.from_numpy(batch))[1].numpy()
        logits, probabilities = session.run(["logits", "probabilities"], {"images": batch})
        reference = softmax(evaluated[start : start + BATCH], axis=1)
        # np.maximum keeps a NaN, which max() might drop.
        parity = np.maximum(parity, np.abs(probabilities - expected).max())
        evaluated_difference = np.maximum(evaluated_difference, np.abs(softmax(logits, axis=1) - reference).max())
        same += int((probabilities.argmax(axis=1) == expected.argmax(axis=1)).sum())
    if not parity <= tolerance or same != len(positions):
        raise CheckError(
            f"ONNX Runtime and torch disagree: probabilities by up to {parity:.3g}, "
            f"the class of {len(positions) - same} images",
            where=f"the {len(positions)} images of the test split",
            expected=f"at most {tolerance:g}, and the same class for each",
            hint="try another export.opset; no bundle was written",
        )
    if not evaluated_difference <= EVALUATED_TOLERANCE:
        raise CheckError(
            f"the bundle's predictions are not those that were evaluated: off by {evaluated_difference:.3g}",
            where=f"probabilities at T = 1 of the {len(positions)} images of the test split",
            expected=f"at most {EVALUATED_TOLERANCE:g}",
            hint="run `dvc repro student`; if that does not help, config.json holds another mean or std",
        )
    return {
        "parity_max_abs": float(parity),
        "argmax_equal": same / len(positions),
        "evaluated_max_abs": float(evaluated_difference),
    }


def model_card(info: dict[str, Any], sources: pd.DataFrame) -> str:
    """The model card, Markdown. `info` is what `bundle.json` holds; `sources` as for `export_bundle`."""
    test = info["test"]
    size, channels = info["image"]["size"], info["image"]["channels"]
    recipe = (
        "cross-entropy alone, without teachers"
        if info["run_family"] == "none"
        else f"distillation of teacher family {info['run_family']}, mode {info['run_mode']}"
    )
    splits = [name for name in ("train", "val", "calib", "test") if name in sources.columns]
    data = "\n".join(
        " | ".join([f"| {source}", *(str(row[name]) for name in splits)]) + " |" for source, row in sources.iterrows()
    )
    scores = "\n".join(f"| {name} | {value:.3f} |" for name, value in test["f1"].items())
    return f"""# Facial-expression classifier

{info["architecture"]}, {recipe}, seed {info["seed"]}.
One face image in, probabilities of {len(info["classes"])} expressions out: {", ".join(info["classes"])}.

## Intended use
Research on facial-expression recognition and on distillation. The input is one cropped face, uint8,
{size} x {size} pixels, {"RGB" if channels == 3 else "grey"}, cropped as the training images were.
Probabilities are softmax(logits / T*) with T* = {info["t_star"]:.4g}, fitted on the calib split.

## Training data
Images by source and split, after exact duplicates, label conflicts and leaks were dropped.
Index digest `{info["index_digest"]}`.

| Source | {" | ".join(splits)} |
|---|{"---|" * len(splits)}
{data}

## Metrics
Test split, n = {test["n"]}; used for nothing but this report.

| Metric | Raw | At T* |
|---|---|---|
| Macro F1 | {test["macro_f1"]:.3f} | the same |
| Accuracy | {test["accuracy"]:.3f} | the same |
| NLL | {test["raw"]["nll"]:.3f} | {test["scaled"]["nll"]:.3f} |
| Brier score | {test["raw"]["brier"]:.3f} | {test["scaled"]["brier"]:.3f} |
| ECE | {test["raw"]["ece"]:.3f} | {test["scaled"]["ece"]:.3f} |

A perfectly calibrated model would show an ECE of about {test["ece_null"]:.3f} on a test split of this size:
an ECE near it is no sign of miscalibration.

| Class | F1 |
|---|---|
{scores}

## Limits
- One training run. Another seed gives other numbers; differences between runs need several seeds.
- Scores hold for images like the test split's. Other cameras, crops, ages, skin tones and cultures were not
  measured.
- Calibration holds for the class frequencies of the calib split.
- Classes with a low F1 above are not to be relied on.

## Ethics
A facial expression is not an emotion: the same face can go with different feelings, and people differ in how
they show them. Do not use this model to judge a person's state of mind, honesty, health or fitness, nor for
decisions on employment, education, credit, policing or migration. The law restricts emotion recognition in
some places (in the European Union, at work and in education). Ask people before their faces are processed.
"""
