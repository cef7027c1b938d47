"""What the stage `evaluate` reports of the student; nothing is chosen by it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ..params import CalibrateParams
from . import intervals, known_truth
from .calibration import consistency_band, log_probabilities, reliability
from .metrics import BRIER_PARTS, CALIBRATION_ERRORS, Predictions, score
from .scaling import METHODS, fitted_to

RELIABILITY = ("nll", "brier", "ece", "ece_p", "mce", *CALIBRATION_ERRORS, *BRIER_PARTS)


def scores(
    parts: Mapping[str, Predictions],
    truth: Mapping[str, np.ndarray],
    classes: Sequence[str],
    t_star: float,
    settings: CalibrateParams,
) -> dict[str, Any]:
    """What metrics/evaluation.json holds: scores on test, raw, scaled by T* and by what stands beside it, and on val.

    `parts` are calib, val and test; `truth` is what `known_truth.read` knows of the test split. Annotators' votes are a
    truth too, of the images that have some.
    """
    bins = settings.bins
    calib, val, test = parts["calib"], parts["val"], parts["test"]
    validation = score(val.logits, val.labels, classes, bins=bins)
    fitted, fitted_truth, _ = fitted_to(calib, settings)
    fallbacks = {}
    for name in list(METHODS)[1:]:
        fallback = score(METHODS[name](fitted, fitted_truth, test.logits), test.labels, classes, bins=bins)
        # Neither keeps the arg-max.
        fallbacks[name] = {key: fallback[key] for key in ("macro_f1", "nll", "brier", "ece")}
    return {
        "test": {**of_test(test, truth, classes, t_star, bins), "fallbacks": fallbacks},
        "validation": {name: validation[name] for name in ("n", "macro_f1", "accuracy")},
    }


def of_test(
    test: Predictions, truth: Mapping[str, np.ndarray], classes: Sequence[str], t_star: float, bins: int
) -> dict[str, Any]:
    """Scores of images that nothing was fitted to or chosen by, raw and scaled by T*; `truth` as in `scores`."""
    raw, scaled = (score(test.logits, test.labels, classes, t, bins) for t in (1.0, t_star))
    return {
        "n": raw["n"],
        "macro_f1": raw["macro_f1"],
        "accuracy": raw["accuracy"],
        "f1": {name: raw["per_class"][name]["f1"] for name in classes},
        "raw": {name: raw[name] for name in RELIABILITY},
        "scaled": {name: scaled[name] for name in RELIABILITY},
        "ece_null": scaled["ece_null"],
        "truth": {of: _by_truth(known, test.logits, test.labels, t_star, bins) for of, known in truth.items()}
        | _by_votes(test, t_star, bins),
    }


def _by_truth(known: np.ndarray, logits: np.ndarray, labels: np.ndarray, t_star: float, bins: int) -> dict[str, Any]:
    return {
        "raw": known_truth.against(known, log_probabilities(logits), bins),
        "scaled": known_truth.against(known, log_probabilities(logits, t_star), bins),
        "ideal": known_truth.best_possible(known, labels, bins),
    }


def _by_votes(test: Predictions, t_star: float, bins: int) -> dict[str, Any]:
    """`votes`, with how many images have some (`n`); empty if none has."""
    has = test.has_votes
    if test.votes is None or not has.any():
        return {}
    return {
        "votes": {"n": int(has.sum())} | _by_truth(test.votes[has], test.logits[has], test.labels[has], t_star, bins)
    }


def score_intervals(test: Predictions, t_star: float, settings: CalibrateParams) -> dict[str, object]:
    """What metrics/intervals.json holds: bootstrap intervals of every score, raw, scaled, and scaled less raw."""
    found: dict[str, object] = {"people": len(np.unique(test.clusters))}
    drawn = {}
    for name, temperature in (("raw", 1.0), ("scaled", t_star)):
        values, drawn[name] = intervals.resample(
            log_probabilities(test.logits, temperature),
            test.logits.argmax(axis=1),
            test.labels,
            test.clusters,
            bins=settings.bins,
            draws=settings.draws,
            seed=settings.seed,
        )
        found[name] = {
            of: intervals.interval(of, values[of], draws, settings.level) for of, draws in drawn[name].items()
        }
    found["scaled_less_raw"] = {
        of: intervals.percentile(drawn["scaled"][of] - drawn["raw"][of], settings.level)
        for of in drawn["raw"]
        if of in RELIABILITY
    }
    return found


def tables(
    test: Predictions, classes: Sequence[str], t_star: float, settings: CalibrateParams
) -> dict[str, pd.DataFrame]:
    """The tables under plots/ by their names: confusion, per_class_f1 and reliability."""
    names = np.array(classes)
    per_class = score(test.logits, test.labels, classes, bins=settings.bins)["per_class"]
    shown = []
    for scaling, temperature in (("before", 1.0), ("after", t_star)):
        p = np.exp(log_probabilities(test.logits, temperature))
        table = reliability(p, test.labels, settings.bins)
        band = consistency_band(p.max(axis=1), settings.bins, settings.draws, settings.level, settings.seed)
        shown.append(table.join(band)[table["count"] > 0].assign(scaling=scaling))
    columns = ["confidence", "accuracy", "count", "band_low", "band_high", "scaling"]
    return {
        "confusion": pd.DataFrame({"actual": names[test.labels], "predicted": names[test.logits.argmax(axis=1)]}),
        "per_class_f1": pd.DataFrame({"class": classes}).assign(
            **{of: [per_class[k][of] for k in classes] for of in ("f1", "precision", "recall", "support")}
        ),
        "reliability": pd.concat(shown)[columns],
    }
