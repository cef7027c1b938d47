"""What is known of a rendered corpus. Only figures are drawn from it: no stage trains or chooses by it."""

from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import rel_entr
from sklearn.metrics import f1_score


def ceiling(corpus_dir: Path, rows: pd.DataFrame, classes: list[str]) -> dict[str, float] | None:
    """Macro F1 on each split of the best possible classifier, the arg-max of the annotators' known distribution.

    Parameters
    ----------
    rows : DataFrame
        Of an index, with path, split and label.

    Returns
    -------
    dict or None
        None for a corpus without a truth file, as every real one is.
    """
    known = _distribution(corpus_dir, rows, classes)
    if known is None:
        return None
    best = pd.Series([classes[code] for code in known.argmax(axis=1)], index=rows.index)
    return {
        str(split): float(f1_score(part["label"], best[part.index], labels=classes, average="macro", zero_division=0))
        for split, part in rows.groupby("split")
    }


def distance(
    corpus_dir: Path, rows: pd.DataFrame, probabilities: np.ndarray, classes: list[str]
) -> dict[str, float] | None:
    """How far probabilities (N, K) of `rows` are from the annotators' known distribution q, in the mean over rows.

    Returns
    -------
    dict or None
        `kl`, KL(q || p) in nats, and `total_variation`, half the sum of |q - p|, 0 to 1; None without a truth file.
    """
    known = _distribution(corpus_dir, rows, classes)
    if known is None:
        return None
    return {
        "kl": float(rel_entr(known, probabilities).sum(axis=1).mean()),
        "total_variation": float(np.abs(known - probabilities).sum(axis=1).mean() / 2),
    }


def _distribution(corpus_dir: Path, rows: pd.DataFrame, classes: list[str]) -> np.ndarray | None:
    file = corpus_dir / "truth" / "samples.csv"
    if not file.is_file():
        return None
    columns = [f"q_{name}" for name in classes]
    known = pd.read_csv(file, index_col="path", usecols=["path", *columns])
    return known.loc[rows["path"], columns].to_numpy()
