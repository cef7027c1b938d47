"""Stage `evaluate`: score the student once on the test split, for the report; nothing is chosen by it."""

import numpy as np
import pandas as pd

from ..evaluation.calibration import log_probabilities, reliability
from ..evaluation.metrics import read_predictions, score
from ..files import read_json, write_json, write_text
from ..params import Params

PREDICTIONS = "models/student/predictions.parquet"


def run(params: Params) -> None:
    """Write `metrics/evaluation.json` and the tables under `plots/`."""
    classes, bins = params.classes, params.calibrate.bins
    t_star = read_json("metrics/calibration.json")["t_star"]
    test = read_predictions(PREDICTIONS, "test", classes)
    val = read_predictions(PREDICTIONS, "val", classes)
    raw = score(test.logits, test.labels, classes, bins=bins)
    scaled = score(test.logits, test.labels, classes, t_star, bins)
    validation = score(val.logits, val.labels, classes, bins=bins)
    reliability_scores = ("nll", "brier", "ece", "mce")
    write_json(
        "metrics/evaluation.json",
        {
            "test": {
                "n": raw["n"],
                "macro_f1": raw["macro_f1"],
                "accuracy": raw["accuracy"],
                "f1": {name: raw["per_class"][name]["f1"] for name in classes},
                "raw": {name: raw[name] for name in reliability_scores},
                "scaled": {name: scaled[name] for name in reliability_scores},
                "ece_null": scaled["ece_null"],
            },
            "validation": {name: validation[name] for name in ("n", "macro_f1", "accuracy")},
        },
    )

    names = np.array(classes)
    confusion = pd.DataFrame({"actual": names[test.labels], "predicted": names[test.logits.argmax(axis=1)]})
    per_class = pd.DataFrame({"class": classes}).assign(
        **{name: [raw["per_class"][k][name] for k in classes] for name in ("f1", "precision", "recall", "support")}
    )
    tables = []
    for scaling, temperature in (("before", 1.0), ("after", t_star)):
        table = reliability(np.exp(log_probabilities(test.logits, temperature)), test.labels, bins)
        tables.append(table[table["count"] > 0].assign(scaling=scaling))
    reliability_table = pd.concat(tables)[["confidence", "accuracy", "count", "scaling"]]
    for name, frame in (
        ("confusion", confusion),
        ("per_class_f1", per_class),
        ("reliability", reliability_table),
    ):
        write_text(f"plots/{name}.csv", frame.to_csv(index=False, float_format="%.6f", lineterminator="\n"))
