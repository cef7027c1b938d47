"""How much teachers differ, what fusing them keeps, and how near they come to a known truth.

Shapes: M teachers, N images, K classes. Everything is in float64 and in nats.
"""

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
from scipy.special import entr, log_softmax, logsumexp, rel_entr

from .. import workspace
from ..data.index import Index
from ..data.truth import distribution, kl_from_truth, total_variation
from ..errors import CheckError, UsageError
from ..f1 import macro_f1
from ..params import Params
from ..softlabels import alignment, parts, store
from .calibration import check_scored


def jensen_shannon(probabilities: np.ndarray) -> np.ndarray:
    """Jensen-Shannon divergence of each pair of teachers, in the mean over images.

    `JS(p, q) = KL(p || m) / 2 + KL(q || m) / 2` with `m = (p + q) / 2`; 0 for equals, at most ln 2 (Lin 1991). Of
    probabilities (M, N, K), zeros allowed; (M, M), in nats, symmetric, with a diagonal of 0.
    """
    found = np.zeros((len(probabilities),) * 2)
    for i, j in combinations(range(len(probabilities)), 2):
        p, q = probabilities[i], probabilities[j]
        # 2 p against p + q, not p against the mean: the mean of 0 and the least float would be 0, and the KL infinite.
        found[i, j] = found[j, i] = (rel_entr(2 * p, p + q) + rel_entr(2 * q, p + q)).sum(axis=-1).mean() / 4
    return found


def disagreement(predicted: np.ndarray) -> np.ndarray:
    """Share of images (M, N) for which two teachers predict different classes; (M, M), with a diagonal of 0.

    Kuncheva & Whitaker (2003) count instead where exactly one of the two is right. For two classes that is the
    same; for more, two different mistakes count here and not there.
    """
    return (predicted[:, None] != predicted[None]).mean(axis=-1)


def variance_shrinkage(probabilities: np.ndarray) -> dict[str, float | None]:
    """How much of the teachers' variance the fused target keeps (report §4.1.4, "Information Smoothing Observation").

    The report: "Under an (approximate) independence assumption among teachers for class c, variance shrinks as
    Var[mean_m p_m(c)] = 1/M^2 sum_m Var[p_m(c)]", that is to 1/M of the teachers' mean variance. Teachers that see
    the same image are far from independent, and those that agree lose nothing.

    Of probabilities (M, N, K): `teachers`, their variance over images (divided by N) in the mean over classes and
    teachers; `fused`, the same of the teachers' mean; `ratio`, fused / teachers, in [0, 1], or None where no teacher's
    output varies; `ratio_if_independent`, what the report assumes.
    """
    teachers = float(probabilities.var(axis=1).mean())
    fused = float(probabilities.mean(axis=0).var(axis=0).mean())
    return {
        "teachers": teachers,
        "fused": fused,
        "ratio": fused / teachers if np.ptp(probabilities, axis=1).any() else None,
        "ratio_if_independent": 1 / len(probabilities),
    }


def oracle_accuracy(predicted: np.ndarray, labels: np.ndarray) -> float:
    """Share of images that at least one teacher of (M, N) gets right: no choice among the teachers can do better."""
    return float((predicted == labels).any(axis=0).mean())


def measure(
    logits: np.ndarray,
    labels: np.ndarray,
    teachers: Sequence[str],
    temperature: float,
    truth: np.ndarray | None = None,
) -> dict[str, Any]:
    """Every figure of this module, for the softened probabilities softmax(logits / temperature).

    "Fused" is the unweighted mean of those probabilities over the teachers, as in the report's §4.1.4. The logits
    (M, N, K) are finite, the labels (N,) in 0..K-1, the temperature above 0; `truth` (N, K) is the true distribution
    q of each image's label.

    Returns
    -------
    dict of plain numbers, lists and strings
        - `n`, `temperature`, `teachers`.
        - `each`: {teacher: scores}, and `fused`: scores. Scores are `accuracy`, `macro_f1`, `entropy` (mean, at most
          ln K) and, given the truth, `kl_from_truth` and `total_variation`. These compare with q softened alike,
          `q^(1/T)` normalised: a target is for a student that is softened too. At T = 1 that is q itself.
        - `oracle_accuracy`: see there.
        - `jensen_shannon`, `disagreement`: M rows of M, in the order of `teachers`.
        - `jensen_shannon_of_all`: entropy of the fused less the mean of the teachers' (Lin 1991). By this constant
          the split loss of kd exceeds the fused; it has no gradient.
        - `variance`: see `variance_shrinkage`.

    Raises a UsageError if the temperature is not above 0, a CheckError on shapes that do not fit together, no images,
    labels out of range, or logits that are not finite.
    """
    if not 0 < temperature < np.inf:
        raise UsageError("a temperature must be above 0 and finite", where=f"temperature {temperature}")
    if logits.ndim != 3 or len(logits) != len(teachers) or not len(teachers):
        raise CheckError(
            "teachers and their logits do not fit together",
            where=f"logits {logits.shape}, {len(teachers)} teachers",
            expected="logits (M, N, K) of M teachers",
        )
    for of_teacher in logits:
        check_scored(of_teacher, labels)
    if truth is not None and truth.shape != logits.shape[1:]:
        raise CheckError(
            "the truth and the logits do not fit together",
            where=f"truth {truth.shape}, logits {logits.shape}",
            expected=f"truth {logits.shape[1:]}",
        )

    log_p = log_softmax(logits.astype(np.float64) / temperature, axis=-1)
    log_fused = logsumexp(log_p, axis=0) - np.log(len(log_p))
    probabilities, predicted = np.exp(log_p), logits.argmax(axis=-1)
    if truth is not None:
        truth = truth ** (1 / temperature)
        truth /= truth.sum(axis=1, keepdims=True)

    def scores(log_p: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
        p = np.exp(log_p)
        found = {
            "accuracy": float((predicted == labels).mean()),
            "macro_f1": macro_f1(labels, predicted, p.shape[1]),
            "entropy": float(entr(p).sum(axis=-1).mean()),
        }
        if truth is not None:
            found |= {"kl_from_truth": kl_from_truth(truth, log_p), "total_variation": total_variation(truth, p)}
        return found

    each = {name: scores(*of_teacher) for name, *of_teacher in zip(teachers, log_p, predicted, strict=True)}
    fused = scores(log_fused, log_fused.argmax(axis=-1))
    return {
        "n": len(labels),
        "temperature": float(temperature),
        "teachers": list(teachers),
        "each": each,
        "fused": fused,
        "oracle_accuracy": oracle_accuracy(predicted, labels),
        "jensen_shannon": jensen_shannon(probabilities).tolist(),
        "disagreement": disagreement(predicted).tolist(),
        "jensen_shannon_of_all": fused["entropy"] - float(np.mean([of["entropy"] for of in each.values()])),
        "variance": variance_shrinkage(probabilities),
    }


def of_split(params: Params, rows: Index, split: str, temperature: float) -> dict[str, Any]:
    """`measure` the teachers of params.yaml on a split of an index, beside the truth where the corpus has one.

    On the images that all of them cover; where these are not all, `covered` says how many each has. Raises as `shared`.
    """
    at, logits, has = shared(params, rows, split, params.teachers)
    found = measure(
        logits,
        rows.codes(params.classes)[at],
        params.teachers,
        temperature,
        distribution(workspace.corpus(params.corpus), rows.rows["path"].iloc[at].tolist(), params.classes),
    )
    covered = dict(zip(params.teachers, has.sum(axis=1).tolist(), strict=True))
    return found if has.all() else found | {"covered": covered}


def shared(
    params: Params, rows: Index, split: str, teachers: Sequence[str]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of the images of a split that all of some teachers cover: positions in the index (n,), and logits (M, n, K).

    And which of the split's N images each teacher covers, bool (M, N).

    Raises a CheckError if soft labels are out of step with the index, or no image is covered by all teachers.
    """
    directories = [workspace.softlabels(name, params.index_tag) for name in teachers]
    alignment.require(alignment.check(directories, rows, params.classes))
    at = rows.positions(split)
    logits = np.stack([store.read_rows(directory, params.classes, at) for directory in directories])
    has = np.stack([parts.covered(of_teacher) for of_teacher in logits])
    by_all = has.all(axis=0)
    if not by_all.any():
        least = int(has.sum(axis=1).argmin())
        raise CheckError(
            f"no image of {split} that every teacher covers",
            where=f"{teachers[least]} covers {has[least].sum()} of {len(at)}",
            expected="images that all teachers have soft labels for",
            hint="look at another split, or leave that teacher out",
        )
    return at[by_all], logits[:, by_all], has
