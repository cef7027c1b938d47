"""Whether a bundle's answers have drifted from those on its test split, by what `predict` and `watch` wrote alone."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import chi2_contingency, fisher_exact

from ..errors import CheckError, UsageError
from .intervals import holm

BINS = 10  # of the confidence, at the quantiles of the reference


class Log(NamedTuple):
    """What was answered; a track of `watch` counts once, since its frames are not independent."""

    probabilities: np.ndarray  # (N, K); of a track the last smoothed ones
    answered: np.ndarray  # (N,) bool: whether there was a label
    sides: np.ndarray  # (N,) the shorter side of each box in pixels, NaN where there is none
    unread: int  # pictures that could not be read


def reference(probabilities: np.ndarray, threshold: float) -> dict[str, Any]:
    """What a bundle keeps of its answers on test, (N, K): counts of `classes` and of `confidence` bins, and `edges`.

    `abstained` is how many lie below `threshold`. No image can be had from it.
    """
    confidence = probabilities.max(axis=1)
    edges = np.unique(np.quantile(confidence, np.arange(1, BINS) / BINS))
    return {
        "images": len(probabilities),
        "classes": np.bincount(probabilities.argmax(axis=1), minlength=probabilities.shape[1]).tolist(),
        "edges": edges.tolist(),
        "confidence": np.bincount(np.searchsorted(edges, confidence, side="right"), minlength=len(edges) + 1).tolist(),
        "abstained": int((confidence < threshold).sum()),
    }


def read(file: Path, classes: Sequence[str], detector: str | None) -> Log:
    """Read the JSON lines that `predict` or `watch --json` wrote with a bundle of these classes and detector.

    Raises a UsageError if the file is not there, and a CheckError at a line that is none of theirs, or without answers.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UsageError(
            "no such log", where=str(file), hint="`ferdistill watch 0 --json log.jsonl` writes one"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise CheckError(f"a log that cannot be read: {error}", where=str(file), expected="text in UTF-8") from None
    last: dict[str, tuple[list[float], bool, float]] = {}
    unread = 0
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            record = json.loads(line)
            unread += "error" in record
            every = [] if "error" in record else record[detector] if detector else [record]
            for place, one in enumerate(every):
                shares = [float(one.get("smoothed", one["probabilities"])[name]) for name in classes]
                if not (min(shares) >= 0 and abs(sum(shares) - 1) < 1e-3):
                    raise ValueError("no probabilities")
                box = one.get("box", [np.nan] * 4)
                # Without a detector the whole of what is watched is one track.
                track = one.get("track", 0 if "frame" in record else None)
                key = f"line {number}, {place}" if track is None else f"track {track}"
                last[key] = (shares, one["label"] is not None, float(min(box[2], box[3])))
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise CheckError(
                f"no record: {error if isinstance(error, ValueError) else f'it lacks {error}'}",
                where=f"{file}, line {number}",
                expected=f"what `predict` or `watch --json` writes with this bundle, of {', '.join(classes)}",
                hint="give the bundle that wrote it",
            ) from None
    if not last:
        raise CheckError("a log without answers", where=str(file), expected="at least one")
    every_share, answered, sides = map(np.array, zip(*last.values(), strict=True))
    return Log(every_share, answered, sides, unread)


def compare(log: Log, known: dict[str, Any], classes: Sequence[str], size: int, level: float = 0.05) -> dict[str, Any]:
    """Tests of the log against what the bundle keeps of its test split.

    Returns
    -------
    dict
        - `answers`, `unread`: how many.
        - `tests`: `classes` and `confidence` (chi-squared test of homogeneity; `shares` of the log, those of the
          `reference`, and `distance`, the total variation between them) and `abstention` (Fisher's exact test; `share`
          and `reference`), each with `p` and `p_holm`, adjusted over the three.
        - `drifted`: whether any `p_holm` is below `level`.
        - `small_crops`: share of boxes whose side is below the network's `size`; None without boxes.
    """
    confidence = log.probabilities.max(axis=1)
    found = {
        "classes": np.bincount(log.probabilities.argmax(axis=1), minlength=len(classes)),
        "confidence": np.bincount(
            np.searchsorted(known["edges"], confidence, side="right"), minlength=len(known["edges"]) + 1
        ),
    }
    tests: dict[str, dict[str, Any]] = {}
    for name, counts in found.items():
        table = np.array([counts, known[name]], float)
        shares = table / table.sum(axis=1, keepdims=True)
        there = table[:, table.sum(axis=0) > 0]
        p = chi2_contingency(there, correction=False).pvalue if there.shape[1] > 1 else 1.0
        tests[name] = {
            "shares": shares[0].tolist(),
            "reference": shares[1].tolist(),
            "distance": float(np.abs(shares[0] - shares[1]).sum() / 2),
            "p": float(p),
        }
    without = int((~log.answered).sum())
    both = [[without, len(log.answered) - without], [known["abstained"], known["images"] - known["abstained"]]]
    tests["abstention"] = {
        "share": without / len(log.answered),
        "reference": known["abstained"] / known["images"],
        "p": float(fisher_exact(both).pvalue),
    }
    for name, p in zip(tests, holm([of["p"] for of in tests.values()]), strict=True):
        tests[name]["p_holm"] = p
    boxes = log.sides[~np.isnan(log.sides)]
    return {
        "answers": len(log.answered),
        "unread": log.unread,
        "tests": tests,
        "drifted": any(of["p_holm"] < level for of in tests.values()),
        "small_crops": float((boxes < size).mean()) if len(boxes) else None,
    }
