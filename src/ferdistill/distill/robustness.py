"""A network under the corruptions of `evaluation.corruptions`, with its own temperature and threshold."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import nn

from ..data.images import Pixels
from ..data.index import Index
from ..errors import require_same
from ..evaluation import corruptions, guarantees, scaling
from ..evaluation.metrics import Predictions, clusters_of
from ..params import Params
from .data import Split
from .inference import make_deterministic, predict


def require_ours(config: dict[str, Any], directory: Path, rows: Index, classes: list[str]) -> None:
    """Raise a CheckError if a network, by its config.json, was trained on another index or for other classes."""
    require_same(
        [("classes", classes, config["classes"]), ("index digest", rows.digest, config.get("index_digest"))],
        "the network was trained on other data",
        where=str(directory / "config.json"),
        hint="run `dvc repro`",
    )


def answer(network: nn.Module, images: np.ndarray) -> np.ndarray:
    """Logits (n, K) of images, uint8 (n, H, W, C)."""
    make_deterministic(0)
    return predict(network, Split(images, np.arange(len(images)), np.zeros(len(images), np.int64)))


def deployed(network: nn.Module, rows: Index, packed: Pixels, params: Params) -> corruptions.Deployed:
    """T* and threshold of any network, fitted to its answers on calib as the stage `calibrate` fits the student's."""
    calib = rows.positions("calib")
    told, votes = rows.rows.iloc[calib], rows.votes(params.classes)
    answers = Predictions(
        answer(network, packed[calib]),
        rows.codes(params.classes)[calib],
        told["path"].to_numpy(str),
        clusters_of(told),
        None if votes is None else votes[calib],
    )
    logits, truth, _ = scaling.fitted_to(answers, params.calibrate)
    t_star = scaling.fit_temperature(logits, truth, params.calibrate.grid).t_star
    fitted, _ = guarantees.calibrate(answers, t_star, params.classes, params.calibrate)
    return as_deployed(t_star, fitted["abstention"]["threshold"], params)


def as_deployed(t_star: float, threshold: float | None, params: Params) -> corruptions.Deployed:
    """With the threshold that the bundle falls back on where none is guaranteed."""
    return corruptions.Deployed(
        t_star, params.export.confidence if threshold is None else threshold, params.calibrate.bins
    )


def measure(
    network: nn.Module, rows: Index, packed: Pixels, classes: list[str], how: corruptions.Deployed, title: str
) -> pd.DataFrame:
    """The table of `corruptions.measure` for a network."""
    return corruptions.measure(rows, packed, classes, lambda images: answer(network, images), how, title)
