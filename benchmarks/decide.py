"""What `study decide` loses against the truly best recipe, in simulated studies whose truth is known.

A study has a default of eight seeds, seven other recipes of eight, and fifteen of three, as this repository's own. A
score is the true one, what the people of calib add to a recipe, what a seed adds to every recipe, and noise. Regret is
the best true score less that of the recipe taken, in points, with its standard error. Beside it: the highest mean; and
the simplest recipe within one standard error of that (Breiman et al. 1984), recipes being simpler in no order that has
to do with the truth. Every rule sees the same numbers; ours is told 1 point of spread and 0.6 of noise, in all cases.
"""

import json
from pathlib import Path
from typing import Any

import measure
import numpy as np
from rich.console import Console
from rich.table import Table

from ferdistill import params
from ferdistill.study import shrinkage

EXAMPLES = """
  python benchmarks/decide.py                       1,000 studies of each case, seconds
  python benchmarks/decide.py --studies 10000
"""
RULES = params.load(Path(__file__).parents[1] / "params.yaml").decide
SEEDS = np.array([8] * 8 + [3] * 15)  # the default first
NEAR_OF = 50  # studies of which the probability of being near the best is compared with how often it was
# In points: mean and standard deviation of the true gains over the default; standard deviations of what a seed adds to
# every recipe and to one, and of a difference on other people.
CASES = {
    "recipes all alike": (0.0, 0.0, 0.35, 0.5, 0.6),
    "a gain, and hardly a choice": (1.0, 0.2, 0.35, 0.5, 0.6),
    "some better, some worse": (0.0, 1.0, 0.35, 0.5, 0.6),
    "far apart": (1.0, 1.5, 0.35, 0.5, 0.6),
    "noisy seeds": (1.0, 0.6, 0.3, 1.0, 0.3),
    "noisy seeds, no other noise": (0.5, 0.6, 0.0, 1.2, 0.0),
    "few people": (1.0, 0.6, 0.35, 0.5, 1.2),
}


def study(of: tuple[float, ...], studies: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """True scores (M, R), means of the runs (M, R) and their standard errors (M, R), and the default's runs (M, 8)."""
    gain, spread, shared, own, people = of
    number = len(SEEDS)
    true = np.concatenate([np.zeros((studies, 1)), rng.normal(gain, spread, (studies, number - 1))], axis=1)
    scores = (true + rng.normal(0, people / np.sqrt(2), (studies, number)))[:, :, None]
    scores = scores + rng.normal(0, shared, (studies, 1, 8)) + rng.normal(0, own, (studies, number, 8))
    return true, np.where(np.arange(8) < SEEDS[:, None], scores, np.nan), scores[:, 0]


def choices(scores: np.ndarray, default: np.ndarray, people: float) -> dict[str, np.ndarray]:
    """What each rule takes, (M,): the recipe's place, 0 for the default."""
    means = np.nanmean(scores, axis=2)
    errors = np.nanstd(scores, axis=2, ddof=1) / np.sqrt(SEEDS)
    best = means.argmax(axis=1)[:, None]
    within = np.take_along_axis(means - errors, best, axis=1)
    return {
        "ours": _ours(means, default, people)[0],
        "highest mean": best[:, 0],
        "one standard error": (means >= within).argmax(axis=1),
    }


def _ours(means: np.ndarray, default: np.ndarray, people: float) -> tuple[np.ndarray, shrinkage.Posterior]:
    noise = shrinkage.noise_of_seeds(default, 100 * RULES.seed_noise)
    differences = means[:, 1:] - means[:, :1]
    found = shrinkage.posterior(differences, SEEDS[1:], SEEDS[0], noise[:, None], people**2, 100 * RULES.spread)
    better = found.probability() > RULES.confidence
    score = np.where(better, found.score(), -np.inf)
    return np.where(better.any(axis=1), score.argmax(axis=1) + 1, 0), found


def _changed(rule: str, scores: np.ndarray, default: np.ndarray, people: float, rng: np.random.Generator) -> float:
    """How often leaving out one recipe, neither the default nor the one taken, changes what is taken."""
    before = choices(scores, default, people)[rule]
    out = rng.integers(1, len(SEEDS), len(scores))
    kept = out != before
    less = scores.copy()
    less[np.arange(len(scores)), out] -= 1e3  # so bad that no rule can take it, nor measure by it
    return float(np.mean(choices(less, default, people)[rule][kept] != before[kept]))


def case(name: str, studies: int) -> list[dict[str, Any]]:
    """A row a rule."""
    rng = np.random.default_rng(sorted(CASES).index(name))
    of, people = CASES[name], CASES[name][-1]
    true, scores, default = study(of, studies, rng)
    found = []
    for rule, taken in choices(scores, default, people).items():
        regret = true.max(axis=1) - np.take_along_axis(true, taken[:, None], axis=1)[:, 0]
        few = SEEDS[taken[taken > 0]] == SEEDS.min()
        found.append(
            {
                **{"case": name, "rule": rule, "regret": float(regret.mean())},
                "error": float(regret.std() / np.sqrt(studies)),
                "near": float(np.mean(regret <= 0.5)),
                "default": float(np.mean(taken == 0)),
                "few": float(few.mean()) if len(few) else None,
                "changed": _changed(rule, scores, default, people, rng),
                "stated": None,
            }
        )
    taken, posterior = _ours(np.nanmean(scores, axis=2), default, people)
    some = min(NEAR_OF, studies)
    stated = [
        shrinkage.probability_near_best(
            shrinkage.Posterior(*(part[at] for part in np.broadcast_arrays(*posterior))),
            int(taken[at]) - 1 if taken[at] else None,
            0.5,
        )
        for at in range(some)
    ]
    found[0]["stated"] = float(np.mean(stated))
    return found


def main() -> None:
    """Simulate every case and print what each rule loses."""
    parser = measure.parser(__doc__, EXAMPLES)
    parser.add_argument("--studies", type=int, default=1000, help="of each case (1,000)")
    arguments = parser.parse_args()
    rows = [row for name in CASES for row in case(name, arguments.studies)]
    table = Table(
        "case",
        "rule",
        "regret",
        "within 0.5",
        "stated",
        "default",
        f"few seeds ({np.mean(SEEDS[1:] == 3):.2f})",
        "changed",
    )
    for row in rows:
        numbers = [row["near"], row["stated"], row["default"], row["few"], row["changed"]]
        regret = f"{row['regret']:.3f} ± {row['error']:.3f}"
        table.add_row(row["case"], row["rule"], regret, *("-" if one is None else f"{one:.2f}" for one in numbers))
    Console(width=120).print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
