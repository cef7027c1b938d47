"""For whom a student errs: scores by attribute of who is shown, and whether the gaps are more than chance.

Attributes are what sources or a table say. Nothing is inferred from an image.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from ..errors import CheckError
from ..f1 import f1
from ..params import CalibrateParams, GroupParams
from ..runtime.guarantees import prediction_sets
from .calibration import expected_calibration_error, log_probabilities, reliability
from .intervals import draw_clusters, holm, percentile
from .metrics import Predictions

NUMBERS = 6  # an attribute of more different numbers than these is cut into three groups


def group_names(values: pd.Series) -> np.ndarray:
    """The group of each image (N,), text, "" where nothing is said.

    Values are groups as they are, but for numbers of which more than `NUMBERS` differ: these are cut where a third and
    two thirds of the images lie below, into `18 to 34` and so on.
    """
    text = values.fillna("").astype(str).to_numpy(object)
    known = text != ""
    numbers = pd.to_numeric(pd.Series(text[known]), errors="coerce").to_numpy(np.float64)
    if not np.isfinite(numbers).all() or len(np.unique(numbers)) <= NUMBERS:
        return text.astype(str)
    cuts = np.unique(np.quantile(numbers, [1 / 3, 2 / 3], method="lower"))
    part = np.searchsorted(cuts, numbers, side="left")
    names = {k: f"{numbers[part == k].min():g} to {numbers[part == k].max():g}" for k in np.unique(part)}
    text[known] = [names[k] for k in part]
    return text.astype(str)


def counts_of(labels: np.ndarray, predicted: np.ndarray, of: np.ndarray, classes: int) -> np.ndarray:
    """Hits, images and predictions of each class, in rows by `of` (N,), numbers from 0: (U, 3, K)."""
    units = int(of.max()) + 1

    def counted(found: np.ndarray, rows: np.ndarray) -> np.ndarray:
        return np.bincount(of[rows] * classes + found[rows], minlength=units * classes).reshape(units, classes)

    every = np.ones(len(of), bool)
    parts = [counted(labels, labels == predicted), counted(labels, every), counted(predicted, every)]
    return np.stack(parts, axis=1).astype(float)


def macro_f1_of(counts: np.ndarray) -> np.ndarray:
    """Macro F1 of counts (..., 3, K), over the classes that there are images of; 0 without any."""
    hits, actual, found = np.moveaxis(counts, -2, 0)
    there = actual > 0
    return (f1(hits, actual, found) * there).sum(axis=-1) / np.maximum(there.sum(axis=-1), 1)


def largest_gap(scores: np.ndarray) -> np.ndarray:
    """The largest less the smallest score of groups (..., G)."""
    return scores.max(axis=-1) - scores.min(axis=-1)


def permuted_gaps(counts: np.ndarray, group: np.ndarray, unit: np.ndarray | None, draws: int, seed: int) -> np.ndarray:
    """The largest gaps of macro F1, (draws,), where groups are handed out to units by chance.

    `counts` (M, 3, K) are of M parts, each of one group, which `group` (M,) gives. Without `unit` all parts are
    permuted, as persons of one sex each; with it, (M,), the parts of each unit among themselves, as a person's images
    with and without glasses. Either keeps how many parts a group has.
    """
    rng = np.random.default_rng(seed)
    flat = counts.reshape(len(counts), -1)
    groups = int(group.max()) + 1
    gaps = np.empty(draws)
    for draw in range(draws):
        keys = rng.random(len(group))
        handed = np.empty_like(group)
        if unit is None:
            handed = group[np.argsort(keys)]
        else:
            handed[np.argsort(unit, kind="stable")] = group[np.lexsort((keys, unit))]
        summed = np.zeros((groups, flat.shape[1]))
        np.add.at(summed, handed, flat)
        gaps[draw] = largest_gap(macro_f1_of(summed.reshape(groups, *counts.shape[1:])))
    return gaps


def measure(
    test: Predictions,
    attributes: pd.DataFrame,
    t_star: float,
    acting: dict[str, Any],
    settings: CalibrateParams,
    limits: GroupParams,
) -> dict[str, Any]:
    """Scores by group of each attribute (a column of `attributes`, N rows), and the largest gap of macro F1.

    Returns
    -------
    dict
        By attribute:

        - `groups`: by name `images` and `people`; and unless there are too few of either (`too_few`): `macro_f1` over
          the classes that the group has, with `low` and `high` when its people are resampled; `accuracy`; `ece` at T*;
          `answered` at the deployed threshold, and `errors` among these; `set_size` and `covered` of the sets. The last
          four are None where there are no such thresholds, or no answers.
        - `unknown`: images of which nothing is said.
        - `gap`: of macro F1 between the scored groups; `gap_p`, the share of permutations with as large a one, itself
          counted; `gap_p_holm`, adjusted over the attributes. None with fewer than two groups.
    """
    probabilities = np.exp(log_probabilities(test.logits, t_star))
    predicted = test.logits.argmax(axis=1)
    classes = probabilities.shape[1]
    _, person = np.unique(test.clusters, return_inverse=True)
    found: dict[str, Any] = {}
    for name in map(str, attributes):
        of = group_names(attributes[name])
        scored = {}
        groups: dict[str, Any] = {}
        for group in sorted(set(of) - {""}):
            rows = np.flatnonzero(of == group)
            people = len(np.unique(person[rows]))
            groups[group] = {"images": len(rows), "people": people}
            if len(rows) < limits.min_images or people < limits.min_people:
                groups[group]["too_few"] = True
                continue
            scored[group] = rows
            _, own = np.unique(person[rows], return_inverse=True)
            counts = counts_of(test.labels[rows], predicted[rows], own, classes)
            times = draw_clusters(np.random.default_rng(settings.seed), len(counts), settings.draws)
            drawn = macro_f1_of((times @ counts.reshape(len(counts), -1)).reshape(-1, 3, classes))
            groups[group] |= {
                "macro_f1": float(macro_f1_of(counts.sum(axis=0))),
                **percentile(drawn, settings.level),
                "accuracy": float((predicted == test.labels)[rows].mean()),
                "ece": expected_calibration_error(reliability(probabilities[rows], test.labels[rows], settings.bins)),
                **_acted(probabilities[rows], test.labels[rows], acting),
            }
        found[name] = {"groups": groups, "unknown": int((of == "").sum()), "gap": None, "gap_p": None}
        if len(scored) > 1:
            rows = np.concatenate(list(scored.values()))
            group_of = np.repeat(np.arange(len(scored)), [len(part) for part in scored.values()])
            parts = person[rows] * len(scored) + group_of
            # Where most people are in several groups, each image is a part.
            within = len(np.unique(parts)) > 1.5 * len(np.unique(person[rows]))
            _, first, part = np.unique(
                np.arange(len(rows)) if within else parts, return_index=True, return_inverse=True
            )
            counts = counts_of(test.labels[rows], predicted[rows], part, classes)
            gap = float(largest_gap(np.array([groups[group]["macro_f1"] for group in scored])))
            unit = person[rows] if within else None
            chance = permuted_gaps(counts, group_of[first], unit, limits.permutations, settings.seed)
            found[name] |= {"gap": gap, "gap_p": float((1 + (chance >= gap - 1e-12).sum()) / (1 + len(chance)))}
    tested = [name for name in found if found[name]["gap_p"] is not None]
    for name in found:
        found[name]["gap_p_holm"] = None
    for name, p in zip(tested, holm([found[name]["gap_p"] for name in tested]), strict=True):
        found[name]["gap_p_holm"] = p
    return found


def _acted(probabilities: np.ndarray, labels: np.ndarray, acting: dict[str, Any]) -> dict[str, float | None]:
    """Abstention and sets of one group, by what `guarantees.fit` fitted."""
    sets = acting["sets"]
    inside = prediction_sets(probabilities, sets["method"], list(sets["limits"].values()))
    threshold = acting["abstention"]["threshold"]
    answered = probabilities.max(axis=1) >= threshold if threshold is not None else np.zeros(len(labels), bool)
    wrong = (probabilities.argmax(axis=1) != labels)[answered]
    return {
        "answered": None if threshold is None else float(answered.mean()),
        "errors": float(wrong.mean()) if len(wrong) else None,
        "set_size": float(inside.sum(axis=1).mean()),
        "covered": float(inside[np.arange(len(labels)), labels].mean()),
    }


def joined(attributes: pd.DataFrame, paths: Sequence[str], rows: pd.Series) -> pd.DataFrame:
    """The attributes of an index, by `rows` its paths, of the images at `paths`; a CheckError if it lacks one."""
    if attributes.empty:
        return pd.DataFrame(index=range(len(paths)))
    places = pd.Index(rows).get_indexer(list(paths))
    if places.min() < 0:
        raise CheckError(
            f"the index lacks `{paths[int(places.argmin())]}`",
            where="the student's predictions, against the index",
            expected="paths of the index",
            hint="run `dvc repro student`",
        )
    return attributes.iloc[places].reset_index(drop=True)
