"""What is known of a rendered corpus. Only figures are drawn from it: no stage trains or chooses by it."""

from pathlib import Path

import pandas as pd
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
    file = corpus_dir / "truth" / "samples.csv"
    if not file.is_file():
        return None
    columns = [f"q_{name}" for name in classes]
    known = pd.read_csv(file, index_col="path", usecols=["path", *columns])[columns].loc[rows["path"]]
    best = pd.Series([classes[code] for code in known.to_numpy().argmax(axis=1)], index=rows.index)
    return {
        str(split): float(f1_score(part["label"], best[part.index], labels=classes, average="macro", zero_division=0))
        for split, part in rows.groupby("split")
    }
