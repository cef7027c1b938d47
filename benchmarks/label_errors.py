"""How many planted label errors come first: our ranking of labels beside cleanlab's, of the same probabilities.

The probabilities are the mean of the teachers' for images that they were not trained on: val, calib and test. Of their
labels a share is made wrong, at random, or into the class that images of this class are taken for most. Labels that are
doubtful by themselves are among the others, and count as no errors. At the number planted precision is recall.
"""

import json
from collections.abc import Callable
from typing import Any

import measure
import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table
from scipy.special import softmax

from ferdistill import params, workspace
from ferdistill.data import index
from ferdistill.evaluation import label_errors
from ferdistill.progress import track
from ferdistill.softlabels import store

EXAMPLES = """
  python benchmarks/label_errors.py                                    ours alone
  pip install --target .bench/cleanlab cleanlab
  PYTHONPATH=.bench/cleanlab python benchmarks/label_errors.py --peer  beside cleanlab
"""
SHARE = 0.05


def answers() -> tuple[np.ndarray, np.ndarray, list[str]]:
    """The teachers' mean probabilities (N, K) for images that none was trained on, their labels, and the classes."""
    settings = params.load()
    rows = index.read(workspace.index_csv(settings.index_tag))
    held = np.concatenate([rows.positions(split) for split in ("val", "calib", "test")])
    columns = [f"logit_{name}" for name in settings.classes]
    found = [
        softmax(store.read(workspace.softlabels(name, settings.index_tag))[0][columns].to_numpy()[held], axis=1)
        for name in settings.teachers
    ]
    return np.mean(found, axis=0, dtype=np.float64), rows.codes(settings.classes)[held], settings.classes


def plant(p: np.ndarray, labels: np.ndarray, kind: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels of which the share `SHARE` is wrong, and which these are."""
    rng = np.random.default_rng(seed)
    classes = p.shape[1]
    wrong = np.zeros(len(labels), bool)
    wrong[rng.choice(len(labels), round(SHARE * len(labels)), replace=False)] = True
    taken_for = np.array([p[labels == k].mean(axis=0) for k in range(classes)])
    np.fill_diagonal(taken_for, -1)
    other = (labels + rng.integers(1, classes, len(labels))) % classes
    return np.where(wrong, other if kind == "random" else taken_for.argmax(axis=1)[labels], labels), wrong


def ours(p: np.ndarray, labels: np.ndarray, classes: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers, the least believed first, and which labels are taken for errors."""
    table = label_errors.ranked(pd.DataFrame({"row": np.arange(len(labels))}), p, labels, classes)
    return table["row"].to_numpy(), label_errors.confident(p, labels)


def cleanlab(p: np.ndarray, labels: np.ndarray, classes: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Likewise, by `find_label_issues` with its defaults, those first, and then the others, by self-confidence."""
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    errors = find_label_issues(labels, p, n_jobs=1)
    quality = get_label_quality_scores(labels, p)
    return np.lexsort((quality, ~errors)), errors


def score(order: np.ndarray, errors: np.ndarray, wrong: np.ndarray) -> dict[str, float]:
    """Precision at the number planted; and of what is taken for an error, how many, precision and recall."""
    return {
        "at_planted": float(wrong[order[: wrong.sum()]].mean()),
        "taken": int(errors.sum()),
        "precision": float(wrong[errors].mean()),
        "recall": float(errors[wrong].mean()),
    }


def main() -> None:
    """Plant, rank, print and write."""
    arguments = measure.parser(__doc__, EXAMPLES)
    arguments.add_argument("--draws", type=int, default=20, help="of what is planted")
    arguments.add_argument("--peer", action="store_true", help="cleanlab too")
    options = arguments.parse_args()
    p, labels, classes = answers()
    rankings: dict[str, Callable[..., tuple[np.ndarray, np.ndarray]]] = {"ours": ours}
    if options.peer:
        rankings["cleanlab"] = cleanlab
    result: list[dict[str, Any]] = []
    heads = ("at the number planted", "taken for errors", "precision", "recall")
    table = Table("planted", "ranking", *heads, title=f"{len(labels)} labels")
    for kind in ("random", "confusable"):
        planted = [plant(p, labels, kind, seed) for seed in range(options.draws)]
        for name, rank in rankings.items():
            found = pd.DataFrame(
                [score(*rank(p, made, classes), wrong) for made, wrong in track(planted, f"{kind}, {name}")]
            )
            error = found.std() / np.sqrt(len(found))
            row = {"kind": kind, "ranking": name, "mean": found.mean().to_dict(), "error": error.to_dict()}
            result.append(row)
            digits = {key: 0 if key == "taken" else 3 for key in found}
            cells = [f"{found[key].mean():.{digits[key]}f} ± {error[key]:.{digits[key]}f}" for key in found]
            table.add_row(kind, name, *cells)
    Console(width=120).print(table)
    if options.json:
        options.json.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
