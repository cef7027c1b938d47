"""What is known of a rendered corpus. Only figures are drawn from it, and a teacher that is a row to compare with."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import entr

from ..errors import CheckError
from ..f1 import macro_f1
from ..files import atomic


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
    rows = rows[rows["label"] != ""]
    known = distribution(corpus_dir, rows["path"].tolist(), classes)
    if known is None:
        return None
    codes = pd.Categorical(rows["label"], categories=classes).codes
    splits = rows["split"].to_numpy()
    return {
        str(split): macro_f1(codes[splits == split], known.argmax(axis=1)[splits == split], len(classes))
        for split in sorted(set(splits))
    }


def write_as_teacher(file: Path, corpus_dir: Path, paths: Sequence[str], classes: Sequence[str]) -> None:
    """Write the annotators' known distribution as soft labels at temperature 1: a CSV with `path` and `prob_<class>`.

    A CheckError if the corpus has no such truth; see also `distribution`.
    """
    known = distribution(corpus_dir, paths, classes)
    if known is None:
        raise CheckError(
            "the true distribution of these images is not known",
            where=str(corpus_dir),
            expected="a rendered corpus, whose truth/samples.csv has it",
        )
    frame = pd.DataFrame(known, columns=[f"prob_{name}" for name in classes])
    frame.insert(0, "path", list(paths))
    with atomic(file) as temporary:
        frame.to_csv(temporary, index=False, lineterminator="\n")


def kl_from_truth(truth: np.ndarray, log_probabilities: np.ndarray) -> float:
    """KL(q || p) of the true distribution q (N, K) from log p (N, K), in nats, in the mean over images."""
    return float((-entr(truth) - truth * log_probabilities).sum(axis=-1).mean())


def total_variation(truth: np.ndarray, probabilities: np.ndarray) -> float:
    """Half the sum over classes of |q - p|, both (N, K), in the mean over images; in [0, 1]."""
    return float(np.abs(truth - probabilities).sum(axis=-1).mean() / 2)


def attributes(corpus_dir: Path, paths: Sequence[str], names: Sequence[str]) -> pd.DataFrame:
    """What is known of who was drawn: these columns of the truth, as text, a row for each of `paths`.

    Without columns for a corpus that has no truth, as every real one.

    Raises
    ------
    CheckError
        If the truth cannot be read, or lacks a column or an image.
    """
    file = corpus_dir / "truth" / "samples.csv"
    if not file.is_file():
        return pd.DataFrame(index=range(len(paths)))
    try:
        known = pd.read_csv(file, usecols=["path", *names], dtype=str, keep_default_na=False).set_index("path")
        return known.loc[list(paths), list(names)].reset_index(drop=True)
    except (OSError, ValueError, KeyError) as error:
        raise CheckError(
            f"what is known of who was drawn cannot be read: {error}",
            where=str(file),
            expected=f"columns path, {', '.join(names)}, and a row for each image",
            hint="correct groups.truth in params.yaml, or run `dvc repro corpus index`",
        ) from None


def distribution(corpus_dir: Path, paths: Sequence[str], classes: Sequence[str]) -> np.ndarray | None:
    """The annotators' known distribution (N, K) over the images at `paths`; None for a corpus that has none.

    Raises
    ------
    CheckError
        If the corpus's file of it cannot be read, lacks a column or an image, or does not hold distributions.
    """
    file = corpus_dir / "truth" / "samples.csv"
    if not file.is_file():
        return None
    columns = [f"q_{name}" for name in classes]
    try:
        known = pd.read_csv(file, index_col="path", dtype=dict.fromkeys(columns, np.float64))
        if not known.index.is_unique:
            raise ValueError("a path has two rows")
    except (ValueError, OSError) as error:
        raise CheckError(
            f"the truth cannot be read: {error}",
            where=str(file),
            expected=f"a CSV in UTF-8 with a column path, and numbers in {', '.join(columns)}",
            hint="run `dvc repro corpus index`",
        ) from None
    absent = [*(name for name in columns if name not in known), *(name for name in paths if name not in known.index)]
    if absent:
        raise CheckError(
            f"the truth lacks {absent[0]}",
            where=str(file),
            expected=f"columns {', '.join(columns)}, and a row for each image",
            hint="run `dvc repro corpus index`",
        )
    truth = known.loc[list(paths), columns].to_numpy(np.float64)
    wrong = ~((truth >= 0).all(axis=1) & (np.abs(truth.sum(axis=1) - 1) < 1e-6))
    if wrong.any():
        raise CheckError(
            "the truth does not hold distributions",
            where=f"{file}, {paths[int(wrong.argmax())]}",
            expected="values of at least 0 that sum to 1",
        )
    return truth
