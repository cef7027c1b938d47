"""Anybody's predictions: a label, and a logit or a probability for each class."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ..errors import CheckError, UsageError
from ..softlabels import probability_files
from ..softlabels.parts import TOLERANCE
from ..softlabels.probability_files import KEYS
from . import guarantees, intervals
from .calibration import consistency_band, log_probabilities, reliability
from .metrics import clusters_of, score

ARRAYS = {"logits": "logit_", "probs": "prob_"}
# What stands for the logarithm of a probability of 0: its exponential is 0 to every digit.
LOG_ZERO = -1e4


class Scored(NamedTuple):
    """What `read` found."""

    logits: np.ndarray  # (N, K) float64: those of the file, or logarithms of its probabilities, `LOG_ZERO` for 0
    labels: np.ndarray  # (N,) in 0..K-1
    classes: list[str]  # in the order of the file's columns
    clusters: np.ndarray  # (N,) as `metrics.clusters_of` gives them
    impossible: int  # how many samples give their own label a probability of 0, so that the NLL is infinite


def read(file: Path, split: str | None = None) -> Scored:
    """Read a `.csv`, `.parquet` or `.npz` file and check every row.

    A table has a column `label` and for each class `logit_<class>` or `prob_<class>`; `split`, `subject`, `group` and
    `path` are used if they are there, others are left alone. An npz holds such columns as arrays (N,), or `logits` or
    `probs` (N, K) and if you like `classes` (K,), which are otherwise named 0 to K-1. A label is a class's name or, if
    not all are, its place among the columns, from 0. Rows are counted from 0, the header apart. A row of
    probabilities is divided by its sum, which may differ from 1 by `TOLERANCE`. `split` names the rows to keep, or is
    `all`; it is needed where the file holds more than one split.

    Raises a UsageError if the file is not there, has another suffix, or the split is not in it or not chosen, and a
    CheckError if it cannot be read, lacks a column, or a row does not hold a label and finite logits, or probabilities.
    """
    frame = _load(file)
    kind, classes = probability_files.kind_and_classes(list(map(str, frame.columns)), file)
    if len(classes) < 2:
        raise CheckError(
            f"one class alone: {classes[0]}" if classes else "neither logits nor probabilities",
            where=f"{file}: {', '.join(map(str, frame.columns[:20]))}",
            expected="for each class, of two at least, a column logit_<class>, or for each a column prob_<class>",
        )
    if "label" not in frame.columns:
        raise CheckError("no column `label`", where=f"{file}: {', '.join(map(str, frame.columns))}")
    # Before any row is left out, so that messages count the file's rows.
    frame = _of_split(frame, file, split)
    values = np.column_stack([_numbers(frame[f"{kind}{name}"], file) for name in classes])
    labels = _labels(frame["label"], classes, file)
    impossible = 0
    if kind == "prob_":
        values = _log_probabilities(values, frame.index, classes, file)
        impossible = int((values[np.arange(len(labels)), labels] == LOG_ZERO).sum())
    return Scored(values, labels, classes, clusters_of(frame), impossible)


def report(
    scored: Scored,
    *,
    temperature: float,
    bins: int,
    draws: int,
    level: float,
    seed: int,
    track: Callable[[range], Iterable[int]] = iter,
) -> dict[str, Any]:
    """Every score of softmax(logits / temperature), as plain numbers.

    What `metrics.score` gives, `aurc` (see `guarantees.measure`), `people`, `classes`, `temperature`, `bins`,
    `impossible`, and `reliability`: a row a bin that is not empty, as `calibration.reliability` and `consistency_band`
    give it. If `draws` is above 0 also `intervals`: {score: `intervals.interval`}. `nll` and its interval are None if
    any sample is impossible.
    """
    logits, labels, classes, clusters, impossible = scored
    scores = score(logits, labels, classes, temperature, bins)
    log_probs = log_probabilities(logits, temperature)
    probabilities = np.exp(log_probs)
    band = consistency_band(probabilities.max(axis=1), bins, level=level, seed=seed)
    table = reliability(probabilities, labels, bins).join(band)
    found: dict[str, Any] = {
        **scores,
        "people": len(np.unique(clusters)),
        "classes": classes,
        "temperature": temperature,
        "bins": bins,
        "impossible": impossible,
        "reliability": table[table["count"] > 0].to_dict("records"),
    }
    confidence, wrong = probabilities.max(axis=1), (logits.argmax(axis=1) != labels).astype(float)
    found["aurc"] = float(guarantees.risk_coverage(confidence, wrong)[1].mean())
    if draws:
        values, drawn = intervals.resample(
            log_probs, logits.argmax(axis=1), labels, clusters, bins=bins, draws=draws, seed=seed, track=track
        )
        found["intervals"] = {name: intervals.interval(name, values[name], drawn[name], level) for name in drawn}
    if impossible:
        found["nll"] = None
        found.get("intervals", {})["nll"] = None
    return found


def acting(fitted: Scored, scored: Scored, temperature: float, wanted: guarantees.Wanted) -> dict[str, Any]:
    """What `guarantees.fit` finds on one split, with its `warnings`, and does on another: `measured`.

    Raises a CheckError if the two have other classes, or a person in common.
    """
    if fitted.classes != scored.classes:
        raise CheckError("two splits of other classes", where=f"{fitted.classes} and {scored.classes}")
    if both := sorted(
        set(fitted.clusters) & set(scored.clusters) - {f"row {row}" for row in range(len(fitted.labels))}
    ):
        raise CheckError(
            f"{len(both)} people are in both splits",
            where=f"the first is {both[0]}",
            expected="people of whom the fit has seen nothing",
        )
    probabilities = np.exp(log_probabilities(fitted.logits, temperature))
    found, warnings = guarantees.fit(probabilities, fitted.labels, fitted.clusters, fitted.classes, wanted)
    tried = np.exp(log_probabilities(scored.logits, temperature))
    shares = guarantees.as_shares(scored.labels, len(scored.classes))
    measured = guarantees.measure(tried, shares, scored.clusters, scored.classes, found)
    return found | {"warnings": warnings, "measured": measured}


def _load(file: Path) -> pd.DataFrame:
    """Every column of the file; `label` and the other keys are missing where they are empty."""
    if file.suffix.lower() not in (".csv", ".parquet", ".npz") or not file.is_file():
        what = "a file of another kind" if file.is_file() else "a directory" if file.is_dir() else "no such file"
        raise UsageError(
            what,
            where=str(file),
            expected="a .csv, .parquet or .npz file of predictions",
            hint="name a file in it" if file.is_dir() else "",
        )
    found = probability_files.read(file)
    frame = _frame(found, file) if file.suffix.lower() == ".npz" else pd.DataFrame(found)
    if len(frame) == 0:
        raise CheckError("no rows", where=str(file), expected="at least two")
    return frame.assign(**{name: frame[name].replace("", None) for name in KEYS if name in frame})


def _frame(arrays: dict[str, np.ndarray], file: Path) -> pd.DataFrame:
    """The table that an npz stands for."""
    columns: list[tuple[str, np.ndarray]] = []
    for name, array in arrays.items():
        if name in ARRAYS and array.ndim == 2:
            names = arrays.get("classes", np.arange(array.shape[1]))
            if names.shape != array.shape[1:]:
                found = f"classes of shape {names.shape} for {array.shape[1]} columns"
                raise CheckError(found, where=f"{file}, {name}", expected=f"shape ({array.shape[1]},)")
            columns += [(f"{ARRAYS[name]}{of}", array[:, k]) for k, of in enumerate(names.tolist())]
        elif name != "classes":
            if array.ndim != 1:
                raise CheckError(f"an array of shape {array.shape}", where=f"{file}, {name}", expected="shape (N,)")
            columns.append((name, array))
    lengths = {name: len(array) for name, array in columns}
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise CheckError("arrays of different lengths", where=f"{file}: {found}", expected="a value for each row")
    probability_files.require_names([name for name, _ in columns], file)
    return pd.DataFrame(dict(columns))


def _of_split(frame: pd.DataFrame, file: Path, split: str | None) -> pd.DataFrame:
    if "split" not in frame.columns:
        if split not in (None, "all"):
            raise UsageError("no column `split`", where=f"{file}, --split {split}", hint="leave --split out")
        return frame
    found = sorted(set(frame["split"].dropna().astype(str)))
    if split == "all" or (split is None and len(found) <= 1):
        return frame
    if split not in found:
        raise UsageError(
            "a file of more than one split" if split is None else f"no split `{split}`",
            where=f"{file}, column split",
            expected=f"--split with one of {', '.join(found)}, or all",
        )
    return frame[frame["split"].astype(str) == split]


def _numbers(column: pd.Series, file: Path) -> np.ndarray:
    """A class's column as float64, every value finite."""
    where = f"{file}, column {column.name}"
    if column.dtype.kind not in "iufO" and not pd.api.types.is_string_dtype(column.dtype):
        raise CheckError(f"a column of type {column.dtype}", where=where, expected="numbers")
    try:
        values = pd.to_numeric(column, errors="coerce").to_numpy(np.float64)
    except (TypeError, ValueError, OverflowError) as error:  # lists, mappings, whole numbers beyond any float
        raise CheckError(f"not a column of numbers: {error}", where=where, expected="finite numbers") from None
    wrong = ~np.isfinite(values)
    if wrong.any():
        first = int(wrong.argmax())
        found = "nothing" if pd.isna(column.iloc[first]) else column.iloc[first]
        raise CheckError(
            f"{wrong.sum()} of {len(values)} values are no finite numbers; the first is {found}",
            where=f"{file}, data row {column.index[first]}, column {column.name}",
            expected="a finite number",
        )
    return values


def _log_probabilities(values: np.ndarray, rows: pd.Index, classes: list[str], file: Path) -> np.ndarray:
    row, k = map(int, np.unravel_index(values.argmin(), values.shape))
    if values[row, k] < 0:
        raise CheckError(
            f"a negative probability: {values[row, k]:g}",
            where=f"{file}, data row {rows[row]}, column prob_{classes[k]}",
            expected="probabilities of at least 0",
            hint="name the columns logit_<class> if these are logits before the softmax",
        )
    sums = values.sum(axis=1, keepdims=True)
    worst = int(np.abs(sums - 1).argmax())
    if abs(sums[worst, 0] - 1) > TOLERANCE:
        off = int((np.abs(sums - 1) > TOLERANCE).sum())
        raise CheckError(
            f"{off} of {len(sums)} rows of probabilities do not sum to 1; the worst sums to {sums[worst, 0]:g}",
            where=f"{file}, data row {rows[worst]}, columns prob_{classes[0]} to prob_{classes[-1]}",
            expected=f"1, within {TOLERANCE:g}",
            hint="divide by 100 if these are percent"
            if abs(sums[worst, 0] - 100) < 1
            else "give every class its column; name them logit_<class> if these are logits before the softmax",
        )
    return np.where(values > 0, np.log(np.where(values > 0, values / sums, 1)), LOG_ZERO)


def _labels(column: pd.Series, classes: list[str], file: Path) -> np.ndarray:
    """Places in `classes`, (N,)."""
    text = column.where(column.isna(), column.astype(str))
    labels = pd.Index(classes).get_indexer(pd.Index(text))
    places = {str(k): k for k in range(len(classes))}
    if (labels < 0).all():
        labels = np.array([places.get(label, -1) for label in text])
    if (labels < 0).any():
        first = int((labels < 0).argmax())
        found = "an empty label" if pd.isna(column.iloc[first]) else f"a label that is no class: {column.iloc[first]}"
        raise CheckError(
            found,
            where=f"{file}, data row {column.index[first]}, column label",
            expected=f"one of {', '.join(classes)}, or in every row a number from 0 to {len(classes) - 1}",
        )
    if len(np.unique(labels)) < 2:
        raise CheckError(
            f"every label is {classes[labels[0]]}",
            where=f"{file}, column label, {len(labels)} rows",
            expected="samples of at least two classes",
        )
    return labels
