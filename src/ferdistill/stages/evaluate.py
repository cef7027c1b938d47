"""Stage `evaluate`: score the student once on the test split, for the report; nothing is chosen by it."""

import numpy as np
import pandas as pd

from .. import workspace
from ..evaluation import intervals, known_truth
from ..evaluation.calibration import METHODS, consistency_band, log_probabilities, reliability
from ..evaluation.metrics import BRIER_PARTS, CALIBRATION_ERRORS, Predictions, read_predictions, score
from ..files import read_json, write_json, write_text
from ..params import Params

PREDICTIONS = "models/student/predictions.parquet"
RELIABILITY = ("nll", "brier", "ece", "ece_p", "mce", *CALIBRATION_ERRORS, *BRIER_PARTS)


def run(params: Params) -> None:
    """Write `metrics/evaluation.json`, `metrics/intervals.json` and the tables under `plots/`."""
    classes, settings = params.classes, params.calibrate
    bins = settings.bins
    t_star = read_json(workspace.CALIBRATION_METRICS, "t_star")["t_star"]
    calib, test, val = (read_predictions(PREDICTIONS, split, classes) for split in ("calib", "test", "val"))
    raw = score(test.logits, test.labels, classes, bins=bins)
    scaled = score(test.logits, test.labels, classes, t_star, bins)
    validation = score(val.logits, val.labels, classes, bins=bins)
    log_probs = {"raw": log_probabilities(test.logits), "scaled": log_probabilities(test.logits, t_star)}
    fallbacks = {}
    for name in list(METHODS)[1:]:
        fallback = score(METHODS[name](calib.logits, calib.labels, test.logits), test.labels, classes, bins=bins)
        # Neither keeps the arg-max.
        fallbacks[name] = {key: fallback[key] for key in ("macro_f1", "nll", "brier", "ece")}
    laws = known_truth.read(workspace.corpus(params.corpus), test.paths.tolist(), classes)
    write_json(
        workspace.EVALUATION_METRICS,
        {
            "test": {
                "n": raw["n"],
                "macro_f1": raw["macro_f1"],
                "accuracy": raw["accuracy"],
                "f1": {name: raw["per_class"][name]["f1"] for name in classes},
                "raw": {name: raw[name] for name in RELIABILITY},
                "scaled": {name: scaled[name] for name in RELIABILITY},
                "ece_null": scaled["ece_null"],
                "fallbacks": fallbacks,
                "truth": {
                    of: {
                        **{name: known_truth.against(law, p, bins) for name, p in log_probs.items()},
                        "ideal": known_truth.ideal(law, test.labels, bins),
                    }
                    for of, law in laws.items()
                },
            },
            "validation": {name: validation[name] for name in ("n", "macro_f1", "accuracy")},
        },
    )
    write_json(workspace.METRICS / "intervals.json", _intervals(params, test, log_probs))

    names = np.array(classes)
    confusion = pd.DataFrame({"actual": names[test.labels], "predicted": names[test.logits.argmax(axis=1)]})
    per_class = pd.DataFrame({"class": classes}).assign(
        **{name: [raw["per_class"][k][name] for k in classes] for name in ("f1", "precision", "recall", "support")}
    )
    tables = []
    for scaling, p in (("before", log_probs["raw"]), ("after", log_probs["scaled"])):
        table = reliability(np.exp(p), test.labels, bins)
        band = consistency_band(np.exp(p).max(axis=1), bins, settings.draws, settings.level, settings.seed)
        tables.append(table.join(band)[table["count"] > 0].assign(scaling=scaling))
    columns = ["confidence", "accuracy", "count", "band_low", "band_high", "scaling"]
    for name, frame in (
        ("confusion", confusion),
        ("per_class_f1", per_class),
        ("reliability", pd.concat(tables)[columns]),
    ):
        write_text(workspace.PLOTS / f"{name}.csv", frame.to_csv(index=False, float_format="%.6f", lineterminator="\n"))


def _intervals(params: Params, test: Predictions, log_probs: dict[str, np.ndarray]) -> dict[str, object]:
    """Bootstrap intervals of every score on test, raw and scaled, and of scaled less raw."""
    settings = params.calibrate
    predicted = test.logits.argmax(axis=1)

    values, drawn = {}, {}
    for name, p in log_probs.items():
        values[name], drawn[name] = intervals.resample(
            p,
            predicted,
            test.labels,
            test.people,
            bins=settings.bins,
            draws=settings.draws,
            seed=settings.seed,
        )
    return {
        "people": len(np.unique(test.people)),
        **{
            name: {
                score: intervals.interval(score, values[name][score], draws, settings.level)
                for score, draws in of_scores.items()
            }
            for name, of_scores in drawn.items()
        },
        "scaled_less_raw": {
            score: intervals.percentile(drawn["scaled"][score] - drawn["raw"][score], settings.level)
            for score in drawn["raw"]
            if score in RELIABILITY
        },
    }
