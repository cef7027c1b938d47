"""How often a planted gap between groups is found, and one that is not there: `evaluation.groups` on simulated people.

People of two groups, 12 images each in the mean, are answered for alike; then answers of one group are made wrong until
its accuracy is that many points lower. Of each draw the largest gap of macro F1 and its permutation p are taken. A rate
is given with its standard error.
"""

import json
import sys
from pathlib import Path
from typing import Any

import measure
import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from ferdistill import params
from ferdistill.evaluation import groups, guarantees
from ferdistill.evaluation.metrics import Predictions
from ferdistill.progress import track

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from support.people import People

PARAMS = Path(__file__).parents[1] / "params.yaml"
EXAMPLES = """
  python benchmarks/gaps.py               200 draws of each case, a few minutes
  python benchmarks/gaps.py --draws 20
"""
LEVEL = 0.05
GAPS = (0.0, 0.05, 0.10)  # of accuracy
PEOPLE = (76, 300)  # 76 are in the test split of the embedded corpus


def draw(seed: int, gap: float, people: int) -> tuple[Predictions, pd.DataFrame]:
    """Predictions for persons of two groups, `gap` lower in accuracy for one of them, and the group of each image."""
    rng = np.random.default_rng([seed, people])
    p, labels, whose = People(spread=0.2, images=12.0).draw(rng, people, votes=False)
    group = np.where(whose.astype(int) % 2 == 0, "a", "b")
    right = p.argmax(axis=1) == labels
    wronged = (group == "b") & right & (rng.random(len(p)) < gap / right[group == "b"].mean())
    logits = np.log(np.where(wronged[:, None], np.roll(p, 1, axis=1), p))
    return Predictions(logits, labels, np.arange(len(p)).astype(str), whose), pd.DataFrame({"group": group})


def case(settings: params.Params, gap: float, people: int, draws: int) -> dict[str, Any]:
    """How often p is below `LEVEL`, and what was measured, over draws."""
    # Of intervals, sets and thresholds, which p does not depend on, as little as will do.
    quick = settings.calibrate.model_copy(update={"draws": 2})
    limits = settings.groups.model_copy(update={"permutations": 200})
    test, _ = draw(0, 0.0, people)
    wanted = guarantees.Wanted(quick.sets, quick.abstention, quick.alerts)
    acting, _ = guarantees.fit(np.exp(test.logits), test.labels, test.clusters, People().names, wanted)
    found, apart = [], []
    for seed in track(range(draws), f"{100 * gap:g} points, {people} people"):
        test, told = draw(seed, gap, people)
        measured = groups.measure(test, told, 1.0, acting, quick, limits)["group"]
        found.append(measured["gap_p"] < LEVEL)
        apart.append(measured["gap"])
    share = float(np.mean(found))
    error = float(np.sqrt(share * (1 - share) / draws))
    return {"points": 100 * gap, "people": people, "found": share, "error": error, "mean_gap": float(np.mean(apart))}


def main() -> None:
    """Count, print and write."""
    arguments = measure.parser(__doc__, EXAMPLES)
    arguments.add_argument("--draws", type=int, default=200, help="of each case")
    options = arguments.parse_args()
    settings = params.load(PARAMS)
    result = [case(settings, gap, people, options.draws) for people in PEOPLE for gap in GAPS]
    table = Table("people", "planted, points", "found", "measured gap of macro F1")
    for row in result:
        found = f"{row['found']:.3f} ± {row['error']:.3f}"
        table.add_row(str(row["people"]), f"{row['points']:g}", found, f"{row['mean_gap']:.3f}")
    Console(width=100).print(table)
    if options.json:
        options.json.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
