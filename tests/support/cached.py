"""Predictions as runs leave them in DVC's cache."""

from pathlib import Path

import numpy as np
import pandas as pd

from conftest import CLASSES


def predictions(logits: np.ndarray, labels: np.ndarray, split: str, each: int) -> pd.DataFrame:
    """A `predictions.parquet` of one split: logits (N, K), labels (N,), and `each` images a person."""
    rows = range(len(labels))
    frame = pd.DataFrame(logits.astype(np.float32), columns=[f"logit_{name}" for name in CLASSES])
    people = [f"p{row // each}" for row in rows]
    frame = frame.assign(path=[f"{split}/{row:03d}.png" for row in rows], split=split, subject=people, group=people)
    frame["label"] = [CLASSES[label] for label in labels]
    return frame


def store(cache: Path, digest: str, frame: pd.DataFrame) -> None:
    """Put it where DVC keeps what has this md5."""
    target = cache / "files" / "md5" / digest[:2] / digest[2:]
    target.parent.mkdir(parents=True, exist_ok=True)
    frame.to_parquet(target)
