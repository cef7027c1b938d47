"""Which labels contradict what networks say that have not learnt from them."""

import numpy as np
import pandas as pd

from ..errors import CheckError


def margins(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Log odds of the label against the likeliest other class, in nats, (N,); below 0 the other is likelier.

    Of probabilities (N, K), which no network gave that was trained on these labels (N,). Odds, and no difference of
    probabilities: 0.01 against 0.5 speaks more against a label than 0.3 against 0.7.
    """
    rows = np.arange(len(labels))
    logs = np.log(np.maximum(probabilities, np.finfo(np.float64).tiny))
    others = logs.copy()
    others[rows, labels] = -np.inf
    return logs[rows, labels] - others.max(axis=1)


def confident(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Labels that confident learning takes for errors, bool, (N,) (the confident joint of Northcutt et al. 2021).

    A class counts of an image if its probability is at least the mean that it has on the images labelled so. A label is
    taken for an error if, of the classes that count, the likeliest is another.
    """
    classes = probabilities.shape[1]
    least = np.array([probabilities[labels == k, k].mean() if (labels == k).any() else np.inf for k in range(classes)])
    counting = np.where(probabilities >= least - 1e-12, probabilities, -1)
    return (counting.max(axis=1) >= 0) & (counting.argmax(axis=1) != labels)


def ranked(rows: pd.DataFrame, probabilities: np.ndarray, labels: np.ndarray, classes: list[str]) -> pd.DataFrame:
    """The rows, those of which the label is least believed first.

    `rows` (N) has path, label, split and subject. Added are `suggested`, the likeliest class, its `probability`,
    `label_probability`, `margin`, by which they are ordered, and `confident`; ties are in the order of `rows`. Raises a
    CheckError if probabilities are not finite.
    """
    if not np.isfinite(probabilities).all():
        raise CheckError("probabilities that are not finite", where=f"{len(rows)} images", hint="train again")
    every = np.arange(len(labels))
    best = probabilities.argmax(axis=1)
    table = rows.reset_index(drop=True).assign(
        suggested=np.array(classes)[best],
        probability=probabilities[every, best],
        label_probability=probabilities[every, labels],
        margin=margins(probabilities, labels),
        confident=confident(probabilities, labels),
    )
    return table.sort_values("margin", kind="stable", ignore_index=True)
