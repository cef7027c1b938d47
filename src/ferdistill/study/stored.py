"""The predictions that runs left in DVC's cache, or that lie beside their table: their scores, on other people too."""

import re
import shutil
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from .. import workspace
from ..errors import CheckError
from ..evaluation.metrics import classes_of, read_predictions, read_stored
from ..files import atomic
from . import statistics

# `keep` copies them there, since a clone has git's files and no cache.
KEPT = workspace.SUMMARY.parent / "predictions"


class Stored(NamedTuple):
    """One split of a run's predictions, ordered by path."""

    logits: np.ndarray  # (N, K)
    labels: np.ndarray  # (N,)
    groups: np.ndarray  # (N,) the index's: a subject, or copies of one image where no subject is known
    paths: np.ndarray  # (N,)
    classes: list[str]


class Found(NamedTuple):
    """The predictions of some runs, all of the same images."""

    files: list[Path]
    rows: int
    clusters: int


def find(runs: pd.DataFrame, split: str, cache: Path | None = None) -> Found | str:
    """Where the predictions of runs lie, or why they cannot be had.

    `runs` are rows of a table with `predictions`, DVC's md5 of each run's predictions.parquet. `cache` is DVC's, by
    default that of the repository one stands in; what is not there may be among the `KEPT`.

    Raises
    ------
    CheckError
        If the predictions are not of the same images, labels and classes.
    """
    if "predictions" not in runs:
        return "the table has no column `predictions`"
    listed = [str(digest) for digest in runs["predictions"]]
    if not all(re.fullmatch(r"[0-9a-f]{32}", digest) for digest in listed):
        return "a run has no md5 of its predictions"
    from ..tracking import dvc_private  # which takes a second

    root = dvc_private.local_cache() if cache is None else cache
    files = [KEPT / f"{digest}.parquet" for digest in listed]
    if root is not None:
        cached = [dvc_private.stored(root, digest) for digest in listed]
        files = [there if there.is_file() else kept for there, kept in zip(cached, files, strict=True)]
    if absent := sum(not file.is_file() for file in files):
        have = f"predictions of {absent} of {len(files)} runs are neither in DVC's cache nor in {KEPT}"
        return f"{have}; `dvc fetch` brings them"
    first = read(files[0], split)
    for file in files[1:]:
        other = read(file, split)
        if (
            other.classes != first.classes
            or not np.array_equal(other.paths, first.paths)
            or not np.array_equal(other.labels, first.labels)
        ):
            raise CheckError(
                "stored predictions are not of the same images, labels and classes",
                where=f"{file} against {files[0]}",
                expected=f"{len(first.paths)} rows of {split}, alike in all runs",
                hint="collect the results again; runs of two indexes cannot be compared",
            )
    return Found(files, len(first.labels), len(np.unique(first.groups)))


def keep(runs: pd.DataFrame, cache: Path | None = None) -> None:
    """Copy the predictions of runs to `KEPT`, which git may take: 0.1 MB a run of 1,600 images.

    Raises
    ------
    CheckError
        If they cannot be had, see `find`, or are not of the same images.
    """
    found = find(runs, "test", cache)
    if isinstance(found, str):
        raise CheckError(found)
    for digest, file in zip(runs["predictions"], found.files, strict=True):
        if file.parent != KEPT:
            with atomic(KEPT / f"{digest}.parquet") as temporary:
                shutil.copyfile(file, temporary)


@lru_cache(maxsize=512)
def read(file: Path, split: str) -> Stored:
    """One split of a `predictions.parquet`; raises as `read_predictions`."""
    frame = read_stored(file)
    names = classes_of(frame)
    found = read_predictions(file, split, names)
    groups = frame.loc[frame["split"] == split, "group"].to_numpy(str)
    order = np.argsort(found.paths, kind="stable")
    return Stored(found.logits[order], found.labels[order], groups[order], found.paths[order], names)


@lru_cache(maxsize=1024)
def scores(file: Path, split: str, bins: int, t_star: float | None = None) -> statistics.Resampled:
    """Scores of a run, and of resamples of the people, alike for every run; given T*, also `nll_scaled` and so on."""
    one = read(file, split)
    found = statistics.resampled(one.logits, one.labels, one.groups, bins=bins)
    if t_star is None:
        return found
    scaled = statistics.resampled(one.logits, one.labels, one.groups, bins=bins, temperature=t_star)
    return found | {f"{name}_scaled": value for name, value in scaled.items() if name not in ("macro_f1", "accuracy")}
