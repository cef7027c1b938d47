"""How often sets, abstention and alerts keep what they promise, where truth is known; MAPIE's sets; and their latency.

People differ in how clear their images are, images of one person are alike in that. Of each of many fits, T* and all
thresholds are fitted to a few people and tried on 1,000 others. A rate is given with its standard error.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import measure
import numpy as np
import onnxruntime
from rich.console import Console
from rich.table import Table

from ferdistill import workspace
from ferdistill.evaluation import guarantees
from ferdistill.evaluation.calibration import log_probabilities
from ferdistill.evaluation.scaling import fit_temperature
from ferdistill.progress import track
from ferdistill.runtime.classifier import Classifier
from ferdistill.runtime.latency import processor

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from support.people import People

EXAMPLES = """
  python benchmarks/guarantees.py                               1,000 fits of each case, five minutes
  python benchmarks/guarantees.py --refits 100 --case "an image a person"
  PYTHONPATH=.bench/mapie python benchmarks/guarantees.py --mapie   MAPIE's sets of the same numbers alone
  python benchmarks/guarantees.py --latency                     what sets and alerts take of an answer of models/bundle
"""
# Spread between people, people that are fitted to, whether by votes, and how much less clear the people are who come
# after: the last is what no guarantee speaks of.
CASES = {
    "an image a person": (0.0, 400, False, 1.0),
    "33 people, alike": (0.0, 33, False, 1.0),
    "33 people, unlike": (0.5, 33, False, 1.0),
    "100 people, unlike": (0.5, 100, False, 1.0),
    "100 people, very unlike": (1.0, 100, False, 1.0),
    "100 people, by votes": (0.5, 100, True, 1.0),
    "100 people, then less clear ones": (0.5, 100, False, 0.7),
}
GRID = [0.8, 0.9, 1.0, 1.1, 1.2]


def case(name: str, refits: int) -> dict[str, Any]:
    """Coverage in the mean, and how often risk and precision were missed, over fits."""
    spread, count, votes, clearness = CASES[name]
    people = People(spread=spread, images=1.0 if name == "an image a person" else 12.0)
    later = People(spread=spread, images=people.images, clearness=clearness)
    p, truth, whose = later.draw(np.random.default_rng(10**6), 1000, votes)
    logits, shares = np.log(p), guarantees.as_shares(truth, people.classes)
    wanted = guarantees.wanted("lac", 0.9, False, 0.1, 0.9, 0.1)
    kept: dict[str, list[float]] = {"coverage": [], "size": [], "answered": [], "missed": [], "alerts": [], "false": []}
    for seed in track(range(refits), name):
        fitted, own, clusters = people.draw(np.random.default_rng(seed), count, votes)
        t = fit_temperature(np.log(fitted), own, GRID).t_star
        found, _ = guarantees.fit(np.exp(log_probabilities(np.log(fitted), t)), own, clusters, people.names, wanted)
        tried = guarantees.measure(np.exp(log_probabilities(logits, t)), shares, whose, people.names, found)
        kept["coverage"].append(tried["sets"]["coverage_by_person"])
        kept["size"].append(tried["sets"]["mean_size"])
        answers = tried["abstention"].get("10%", {"answered": 0.0, "errors": None})
        kept["answered"].append(answers["answered"])
        kept["missed"].append((answers["errors"] or 0.0) > 0.1)
        # One class stands for all: each is promised by itself.
        alert = tried["alerts"].get(people.names[0], {"precision": None, "recall": 0.0})
        kept["alerts"].append(alert["recall"])
        kept["false"].append(alert["precision"] is not None and alert["precision"] < 0.9)
    result: dict[str, Any] = {"case": name}
    for key, values in kept.items():
        error = float(np.std(values) / np.sqrt(refits))
        result[key] = {"mean": float(np.mean(values)), "error": error}
    return result


def beside_mapie() -> dict[str, Any]:
    """Sets by LAC of the same 2,000 probabilities, a person an image: ours and MAPIE's."""
    import mapie
    from mapie.classification import SplitConformalClassifier
    from sklearn.base import BaseEstimator, ClassifierMixin

    class Known(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
        """Gives back what it is given."""

        def fit(self, x: np.ndarray, y: np.ndarray) -> "Known":
            self.classes_, self.fitted_ = np.arange(x.shape[1]), True
            return self

        def predict_proba(self, x: np.ndarray) -> np.ndarray:
            return x

        def predict(self, x: np.ndarray) -> np.ndarray:
            return x.argmax(axis=1)

    people = People(images=1.0)
    p, labels, whose = people.draw(np.random.default_rng(0), 500, votes=False)
    new, _, _ = people.draw(np.random.default_rng(1), 2000, votes=False)
    differing = {}
    for coverage in (0.8, 0.9, 0.95):
        wanted = guarantees.wanted("lac", coverage, False, 0.1, 0.9, 0.1)
        limits = guarantees.fit_sets(p, labels, whose, people.names, wanted.sets)["limits"]
        ours = guarantees.prediction_sets(new, "lac", list(limits.values()))
        known = Known().fit(p, labels)
        theirs = SplitConformalClassifier(known, confidence_level=coverage, prefit=True, conformity_score="lac")
        _, sets = theirs.conformalize(p, labels).predict_set(new)
        differing[f"{coverage:g}"] = int((ours != sets[:, :, 0]).any(axis=1).sum())
    return {"peer": f"MAPIE {mapie.__version__}", "sets": len(new), "differing": differing}


def latency(rounds: int) -> dict[str, Any]:
    """CPU time of an answer to one image, with sets and alerts by without: the two in turn, in one process and thread.

    `ratio` is the median of the rounds' and `interval` that of 95 % of resampled rounds. A side of a round is 20
    answers; which begins, alternates.
    """
    plain, acting = (Classifier(workspace.BUNDLE, 1, "cpu") for _ in range(2))
    plain.info = plain.info | {"sets": None, "alerts": None}
    size, channels = plain.info["image"]["size"], plain.info["image"]["channels"]
    images = np.random.default_rng(0).integers(0, 256, (20, 1, size, size, channels), dtype=np.uint8)

    def spent(classifier: Classifier) -> float:
        start = time.process_time_ns()
        for image in images:
            classifier.answer(classifier.predict(image)[0], classifier.confidence)
        return (time.process_time_ns() - start) / len(images) / 1e6

    found = np.empty((rounds + 10, 2))
    for number in track(range(len(found)), "answering"):
        for side in (0, 1) if number % 2 else (1, 0):
            found[number, side] = spent((plain, acting)[side])
    found = found[10:]  # the first warm up
    ratios = found[:, 1] / found[:, 0]
    drawn = np.random.default_rng(0).integers(0, rounds, (2000, rounds))
    return {
        "without_ms": float(np.median(found[:, 0])),
        "with_ms": float(np.median(found[:, 1])),
        "ratio": float(np.median(ratios)),
        "interval": np.quantile(np.median(ratios[drawn], axis=1), [0.025, 0.975]).tolist(),
        "rounds": rounds,
        "machine": processor(),
        "onnxruntime": onnxruntime.__version__,
    }


def main() -> None:
    """Count, print and write."""
    arguments = measure.parser(__doc__, EXAMPLES)
    arguments.add_argument("--refits", type=int, default=1000, help="of each case")
    arguments.add_argument("--case", choices=CASES, action="append", help="of these alone; may be repeated")
    arguments.add_argument("--mapie", action="store_true", help="compare sets with MAPIE, and nothing else")
    arguments.add_argument("--latency", action="store_true", help="time an answer of models/bundle, and nothing else")
    arguments.add_argument("--rounds", type=int, default=400, help="of the latency")
    options = arguments.parse_args()
    if options.latency:
        result: Any = latency(options.rounds)
        print(json.dumps(result))
    elif options.mapie:
        result = beside_mapie()
        print(json.dumps(result))
    else:
        result = [case(name, options.refits) for name in options.case or CASES]
        table = Table("case", "coverage", "classes", "answered", "risk missed", "recall of alerts", "precision missed")
        for row in result:
            figures = [f"{row[key]['mean']:.3f} ± {row[key]['error']:.3f}" for key in row if key != "case"]
            table.add_row(row["case"], *figures)
        Console(width=160).print(table)
    if options.json:
        options.json.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
