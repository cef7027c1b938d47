"""How far networks that learnt from photographs agree with the labels, or the known truth, of a corpus."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import softmax

from ..data import truth
from ..data.reader import map_images, read_rows
from ..data.sources import Dropped, Record
from ..errors import CheckError, UsageError
from ..evaluation import plots
from ..f1 import counts, f1
from .public import Witness

TOGETHER = "mean"  # of the networks' probabilities
CLEAR = 0.9  # an expression is clear if as large a share of annotators would name it
CLEARNESS = (0.0, 0.5, 0.7, CLEAR, 1.0)
INTENSITY = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
BATCH = 256


def examine(witnesses: Mapping[str, Witness], corpus: Path, classes: list[str]) -> dict[str, Any]:
    """Ask each witness about every labelled image of a corpus; each takes the whole crop that the corpus has.

    The right answer is the label; or where the annotators' distribution is known, as in a rendered corpus, what most
    annotators would say. Then `by_clearness` has the scores of images on which annotators agree so far, with the
    `ceiling`, the score that the labels themselves have; and `by_intensity` those of faces that
    show their expression so strongly: by the column `intensity` of truth/samples.csv, or else by the strongest of its
    action units.

    Returns
    -------
    dict
        `images`, `left_out` (rule -> rows), `witnesses` (name -> what it was trained on), `against` (`labels`, or
        `known distribution`), `scores` of each witness and of the `mean` of their probabilities (`accuracy`,
        `macro_f1`, and `f1` by class), `agreement` (a pair of names -> share of images that they class alike), and
        where the distribution is known `ceiling`, `by_clearness` and `by_intensity`. A macro F1 of some images is over
        the classes among their right answers.

    Raises
    ------
    UsageError, CheckError
        As `data.reader.read_rows`, on a row or an image that cannot be read, and if nothing is labelled.
    """
    records, left_out = _records(corpus, classes)
    probabilities = {name: np.concatenate(list(found)) for name, found in _ask(witnesses, corpus, records).items()}
    probabilities[TOGETHER] = np.mean(list(probabilities.values()), axis=0)
    answers = {name: found.argmax(axis=1) for name, found in probabilities.items()}
    paths = [record.path for record in records]
    labels = np.array([classes.index(record.label) for record in records])
    known = truth.distribution(corpus, paths, classes)
    right = labels if known is None else known.argmax(axis=1)
    report: dict[str, Any] = {
        "images": len(records),
        "left_out": dict(left_out),
        "witnesses": {name: witness.facts["trained_on"] for name, witness in witnesses.items()},
        "against": "labels" if known is None else "known distribution",
        "scores": {name: _score(right, found, classes) for name, found in answers.items()},
        "agreement": {
            f"{one}, {other}": float((answers[one] == answers[other]).mean())
            for one, other in combinations(witnesses, 2)
        },
    }
    if known is not None:
        report["ceiling"] = _macro_f1(right, labels, len(classes))
        report["by_clearness"] = _by(known.max(axis=1), CLEARNESS, answers, right, labels, len(classes))
        strength = _intensity(corpus, paths)
        if strength is not None:
            report["by_intensity"] = _by(strength, INTENSITY, answers, right, labels, len(classes))
    return report


def _records(corpus: Path, classes: list[str]) -> tuple[list[Record], Counter[str]]:
    records: list[Record] = []
    left_out = Counter[str]()
    for _, row in read_rows(corpus, classes):
        if isinstance(row, CheckError):
            raise row
        if isinstance(row, Dropped):
            left_out[row.reason] += 1
        else:
            records.append(row)
    if not records:
        raise UsageError("no image here has a label", where=str(corpus), expected="labels of at least one image")
    return records, left_out


def _ask(witnesses: Mapping[str, Witness], corpus: Path, records: Sequence[Record]) -> dict[str, list[np.ndarray]]:
    """Probabilities of each witness, in the order of the records, batch by batch."""
    found: dict[str, list[np.ndarray]] = {name: [] for name in witnesses}
    for batch in _batches(corpus, records):
        for name, witness in witnesses.items():
            found[name].append(softmax(witness.logits(batch).astype(np.float64), axis=1))
    return found


def _batches(corpus: Path, records: Sequence[Record]) -> Iterator[list[np.ndarray]]:
    batch: list[np.ndarray] = []
    for pixels in map_images(_as_it_is, corpus, records, "asking the witnesses", workers=1):
        if isinstance(pixels, CheckError):
            raise pixels
        batch.append(pixels)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _as_it_is(pixels: np.ndarray) -> np.ndarray:
    return pixels


def _score(right: np.ndarray, found: np.ndarray, classes: list[str]) -> dict[str, Any]:
    of_class = f1(*counts(right, found, len(classes)))
    return {
        "accuracy": float((right == found).mean()),
        "macro_f1": _macro_f1(right, found, len(classes)),
        "f1": dict(zip(classes, of_class.tolist(), strict=True)),
    }


def _macro_f1(right: np.ndarray, found: np.ndarray, classes: int) -> float:
    hits, actual, predicted = counts(right, found, classes)
    return float(f1(hits, actual, predicted)[actual > 0].mean())


def _intensity(corpus: Path, paths: list[str]) -> np.ndarray | None:
    """How strongly each face shows what it shows, in [0, 1], as the truth of a rendered corpus has it."""
    table = pd.read_csv(corpus / "truth" / "samples.csv", index_col="path").loc[paths]
    if "intensity" in table:
        return table["intensity"].to_numpy(np.float64)
    units = table.filter(regex=r"^au\d+$")
    return None if units.empty else units.max(axis=1).to_numpy(np.float64)


def _by(
    values: np.ndarray,
    edges: Sequence[float],
    answers: Mapping[str, np.ndarray],
    right: np.ndarray,
    labels: np.ndarray,
    classes: int,
) -> list[dict[str, Any]]:
    """The scores of the images whose value lies from one edge up to the next; bins without an image are left out."""
    rows = []
    bins = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(edges) - 2)
    for place in np.unique(bins):
        here = bins == place
        scores = {name: _macro_f1(right[here], found[here], classes) for name, found in answers.items()}
        row = {"from": edges[place], "to": edges[place + 1], "images": int(here.sum())}
        rows.append(row | {"ceiling": _macro_f1(right[here], labels[here], classes), "macro_f1": scores})
    return rows


def draw(path: Path, report: dict[str, Any], title: str) -> None:
    """Draw F1 by class, and where a truth is known macro F1 by clearness and by intensity, as a PNG."""
    bins = {"by_clearness": "share of annotators who agree", "by_intensity": "intensity"}
    parts = [(key, name) for key, name in bins.items() if key in report]
    scores = report["scores"]
    colours = dict(zip(scores, ("#56B4E9", plots.ORANGE, "#009E73", *["#CC79A7"] * len(scores)), strict=False))
    colours[TOGETHER] = "black"
    with plots.png(path, (7 + 4 * len(parts), 4.5)) as figure:
        panels = figure.subplots(1, 1 + len(parts), squeeze=False, width_ratios=[1.7, *[1] * len(parts)])[0]
        names = list(scores[TOGETHER]["f1"])
        width = 0.8 / len(scores)
        for place, (witness, score) in enumerate(scores.items()):
            across = np.arange(len(names)) + (place - (len(scores) - 1) / 2) * width
            label = f"{witness}, macro F1 {score['macro_f1']:.2f}"
            panels[0].bar(across, list(score["f1"].values()), width, color=colours[witness], label=label)
        panels[0].set_xticks(range(len(names)), names, rotation=20)
        panels[0].set(ylim=(0, 1), ylabel="F1")
        panels[0].legend(frameon=False, fontsize=8, loc="upper right")
        for panel, (key, name) in zip(panels[1:], parts, strict=True):
            rows = report[key]
            middle = [(row["from"] + row["to"]) / 2 for row in rows]
            panel.plot(middle, [row["ceiling"] for row in rows], "--", color=plots.GREY, label="ceiling")
            for witness in scores:
                panel.plot(middle, [row["macro_f1"][witness] for row in rows], "o-", color=colours[witness])
            for at, row in zip(middle, rows, strict=True):
                panel.text(at, 0.01, f"n {row['images']}", ha="center", fontsize=7, color=plots.GREY)
            panel.set(xlim=(0, 1), ylim=(0, 1), xlabel=name, ylabel="Macro F1")
            panel.legend(frameon=False, fontsize=8, loc="upper left")
        for panel in panels:
            panel.spines[["top", "right"]].set_visible(False)
        figure.suptitle(title)
