"""Scores of a model's logits against labels, and the reader of the file that holds both."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ..errors import CheckError, UsageError
from ..f1 import counts, f1, macro_f1, share
from .calibration import (
    check_scored,
    expected_calibration_error,
    log_probabilities,
    maximum_calibration_error,
    negative_log_likelihood,
    null_calibration_errors,
    reliability,
)
from .intervals import scores_of, tabulate

CALIBRATION_ERRORS = ("ece_equal_mass", "ece_classwise", "ece_smooth")
BRIER_PARTS = ("brier_reliability", "brier_resolution", "brier_uncertainty", "brier_within_bins")


class Predictions(NamedTuple):
    """One split of `predictions.parquet`."""

    logits: np.ndarray  # (N, K) float32, columns in the order of the classes
    labels: np.ndarray  # (N,) in 0..K-1
    paths: np.ndarray  # (N,) text, as in the index
    clusters: np.ndarray  # (N,) text, as `clusters_of` gives them: samples of one are not independent
    votes: np.ndarray | None = None  # (N, K) shares of the annotators' votes, NaN where an image has none

    @property
    def has_votes(self) -> np.ndarray:
        """Which samples have votes, bool, (N,)."""
        return np.zeros(len(self.labels), bool) if self.votes is None else ~np.isnan(self.votes).any(axis=1)


def read_stored(path: Path | str) -> pd.DataFrame:
    """A `predictions.parquet` as it stands; a UsageError if it is not there, a CheckError if it is damaged."""
    try:
        return pd.read_parquet(path)
    except FileNotFoundError:
        raise UsageError("a file is missing", where=str(path), hint="run `dvc repro student`, or `dvc pull`") from None
    except Exception as error:  # a damaged file may raise anything
        raise CheckError(
            f"cannot be read: {str(error).splitlines()[0]}",
            where=str(path),
            expected="a whole Parquet file",
            hint="`ferdistill data check --repair` sets damaged files aside; then run `dvc repro`, or `dvc pull`",
        ) from None


def classes_of(frame: pd.DataFrame) -> list[str]:
    """The classes that predictions are for, in the order of their columns."""
    return [name.removeprefix("logit_") for name in frame.columns if name.startswith("logit_")]


def read_predictions(path: Path | str, split: str, classes: Sequence[str]) -> Predictions:
    """Read one split of a `predictions.parquet`.

    Raises as `read_stored`, and a CheckError if it lacks a column or the split, or was made for other classes.
    """

    def refused(what: str, expected: str) -> CheckError:
        return CheckError(what, where=str(path), expected=expected, hint="run `dvc repro student`")

    frame = read_stored(path)
    lacking = [name for name in ("path", "split", "label") if name not in frame.columns]
    if lacking:
        expected = "path, split, label, and for each class logit_<class>"
        raise refused(f"predictions without {', '.join(lacking)}", expected)
    found = classes_of(frame)
    if found != list(classes):
        raise refused(f"predictions are for the classes {found}", f"{list(classes)}, in this order")
    frame = frame[frame["split"] == split]
    labels = pd.Index(classes).get_indexer(pd.Index(frame["label"]))
    if len(frame) == 0 or labels.min() < 0:
        unknown = sorted(set(frame["label"]) - set(classes))
        what = f"unknown labels {unknown}" if unknown else f"no predictions of the split `{split}`"
        raise refused(what, f"rows of `{split}`, labelled with {list(classes)}")
    logits = frame[[f"logit_{name}" for name in classes]].to_numpy(np.float32)
    columns = [f"vote_{name}" for name in classes]
    votes = frame[columns].to_numpy(np.float64) if set(columns) <= set(frame.columns) else None
    return Predictions(logits, labels, frame["path"].to_numpy(str), clusters_of(frame), votes)


def clusters_of(frame: pd.DataFrame) -> np.ndarray:
    """What each row is of (N,), from the columns `subject`, `group` and `path`: the first of them that is not empty.

    A row with none of them is its own. The kinds are kept apart: a group is no subject of the same name.
    """
    clusters = pd.Series([f"row {row}" for row in range(len(frame))], index=frame.index, dtype=object)
    for column in ("path", "group", "subject"):
        if column in frame.columns:
            text = frame[column].fillna("").astype(str)
            clusters = clusters.where(text == "", f"{column} " + text)
    return clusters.to_numpy(str)


def score(
    logits: np.ndarray, labels: np.ndarray, classes: Sequence[str], temperature: float = 1.0, bins: int = 15
) -> dict[str, Any]:
    """Every score of softmax(logits / temperature), in float64 and at full precision.

    Of finite logits (N, K), their columns in the order of `classes`, and labels (N,) in 0..K-1. Raises a CheckError on
    wrong shapes, no rows, labels out of range, or logits that are not finite.

    Returns
    -------
    dict
        - `n`: number of samples.
        - `macro_f1`: mean of F1 over all K classes, an absent one counting as 0; in [0, 1] (report §4.1.2).
        - `accuracy`: share of samples whose arg-max is the label; in [0, 1] (report §4.1.2).
        - `nll`: mean negative log-likelihood, in nats (report §4.1.6, item 3).
        - `brier`: mean over samples of the squared error summed over classes; in [0, 2] (item 2).
        - `ece`, `mce`: expected and maximum calibration error; in [0, 1] (item 1; Guo et al. 2017, eq. 3, 5).
        - `ece_null`: the mean `ece` that perfect calibration would show here, see `null_calibration_errors`.
        - `ece_p`: the share of those that are at least `ece`, itself counted among them: the p-value of perfect
          calibration; in [1 / (NULL_DRAWS + 1), 1].
        - `ece_equal_mass`: the ECE in bins cut at quantiles of the confidences (Nguyen & O'Connor 2015); in [0, 1].
        - `ece_classwise`: the ECE of each class's probability against the rest, in equal-width bins, in the mean over
          classes; in [0, 1] (Kull et al. 2019, eq. 2).
        - `ece_smooth`: see `intervals.smooth_ece`; in [0, 1].
        - `brier_reliability`, `brier_resolution`, `brier_uncertainty`: Murphy's decomposition (1973) of each class
          against the rest, in equal-width bins of its probability, summed over classes; and `brier_within_bins`, what
          binning leaves over (Stephenson et al. 2008). `brier` is reliability - resolution + uncertainty + the last.
        - `per_class`: {class: {precision, recall, f1, support}}, 0 where a denominator is 0 (report §4.1.2).
    """
    logits, labels = np.asarray(logits), np.asarray(labels)
    check_scored(logits, labels)
    if logits.shape[1] != len(classes):
        raise CheckError(
            "logits and classes do not fit together",
            where=f"logits {logits.shape}, {len(classes)} classes",
            expected=f"logits (N, {len(classes)})",
        )
    log_probs = log_probabilities(logits, temperature)
    probabilities = np.exp(log_probs)
    # From the logits, so that no rounding of the softmax can turn two near ones into a tie.
    predicted = logits.argmax(axis=1)
    hits, actual, found = counts(labels, predicted, len(classes))
    by_class = {
        "precision": share(hits, found).tolist(),
        "recall": share(hits, actual).tolist(),
        "f1": f1(hits, actual, found).tolist(),
        "support": actual.tolist(),
    }
    table = reliability(probabilities, labels, bins)
    ece, null = expected_calibration_error(table), null_calibration_errors(probabilities.max(axis=1), bins)
    sums = tabulate(log_probs, predicted, labels, bins).sum(axis=0)[None]
    more = {name: float(value[0]) for name, value in scores_of(sums, len(classes), bins).items()}
    return {
        "n": len(labels),
        "macro_f1": macro_f1(labels, predicted, len(classes)),
        "accuracy": float((predicted == labels).mean()),
        "nll": negative_log_likelihood(log_probs, labels),
        "brier": float(((probabilities - np.eye(len(classes))[labels]) ** 2).sum(axis=1).mean()),
        "ece": ece,
        "mce": maximum_calibration_error(table),
        "ece_null": float(null.mean()),
        "ece_p": float((1 + (null >= ece).sum()) / (1 + len(null))),
        **{name: more[name] for name in (*CALIBRATION_ERRORS, *BRIER_PARTS)},
        "per_class": {name: {of: by_class[of][k] for of in by_class} for k, name in enumerate(classes)},
    }
