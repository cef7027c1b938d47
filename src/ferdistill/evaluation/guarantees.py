"""What may be acted on: prediction sets, a threshold of abstention and thresholds of alerts, each with its guarantee.

All of it is fitted on a split that neither trained nor chose the network, and holds for people of whom that split's are
a random sample. Images of one person are not independent; every bound here says how it takes them.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from pydantic import ValidationError
from scipy.special import betainc
from scipy.stats import t as student

from ..errors import UsageError
from ..params import AbstentionParams, AlertParams, CalibrateParams, SetParams
from ..runtime.guarantees import prediction_sets, set_scores
from .calibration import log_probabilities
from .metrics import Predictions
from .scaling import fitted_to

# What `score` calls each setting.
OPTION = {
    "score": "--sets",
    "target_coverage": "--coverage",
    "max_risk": "--risk",
    "min_precision": "--precision",
    "delta": "--failure",
}
STEPS = 50  # thresholds that are tried, of each guarantee


def as_shares(truth: np.ndarray, classes: int) -> np.ndarray:
    """Labels (N,) or votes (N, K) as shares of each class, (N, K)."""
    return np.eye(classes)[truth] if truth.ndim == 1 else truth


def conformal_limit(scores: np.ndarray, shares: np.ndarray, clusters: np.ndarray, coverage: float) -> float | None:
    """The score that at least the share `coverage` of new samples does not exceed; None if there are too few people.

    Hierarchical conformal prediction (Lee, Barber & Willett 2023): the people are exchangeable, the samples of one are
    not. Each of P people weighs 1 / (P + 1), spread evenly over what is known of that person, and a new one as much as
    the last, at infinity. If each sample is a person of its own, this is the k-th least score, k = ceil((N + 1)
    coverage), of split conformal prediction (Papadopoulos et al. 2002). The guarantee is of a random image of a new
    person. `scores` are (N, K), `shares` (N, K) are those that each class has of the truth: all of it the label, or
    those of the annotators' votes, for a random annotator of a random image; `clusters` (N,) say whose each image is.
    """
    _, of = np.unique(clusters, return_inverse=True)
    of_person = np.bincount(of, weights=shares.sum(axis=1))
    people = int((of_person > 0).sum())
    mass = shares / np.where(of_person > 0, of_person, 1)[of][:, None] / (people + 1)
    held = mass > 0
    order = np.argsort(scores[held], kind="stable")
    reached = mass[held][order].cumsum()
    place = int(np.searchsorted(reached, coverage - 1e-9))
    return float(scores[held][order][place]) if place < len(reached) else None


def people_needed(coverage: float) -> int:
    """How many people a limit of `conformal_limit` takes at least: with fewer a set must hold every class."""
    return math.ceil(coverage / (1 - coverage) - 1e-9)


def fit_sets(
    probabilities: np.ndarray, truth: np.ndarray, clusters: np.ndarray, classes: Sequence[str], settings: SetParams
) -> dict[str, Any]:
    """Prediction sets that hold the truth of a new person's image with probability `settings.target_coverage` at least.

    Of probabilities (N, K), labels (N,) or votes (N, K), and whose each image is, (N,). With `class_conditional` that
    holds for each class by itself (Vovk 2012), at the price of larger sets.

    Returns
    -------
    dict
        `method`, `coverage`, `by_class`; `limits` {class: see `runtime.guarantees.prediction_sets`}; `people` {class:
        how many that class's limit rests on}; `people_needed`, with fewer of whom a limit is None, so that the class is
        in every set.
    """
    shares = as_shares(truth, len(classes))
    scores = set_scores(probabilities, settings.score)
    limits: dict[str, float | None] = {}
    people: dict[str, int] = {}
    for k, name in enumerate(classes):
        column = np.eye(len(classes))[k] if settings.class_conditional else 1.0
        of_class = shares * column
        limits[name] = conformal_limit(scores, of_class, clusters, settings.target_coverage)
        people[name] = len(np.unique(clusters[of_class.any(axis=1)]))
    return {
        "method": settings.score,
        "coverage": settings.target_coverage,
        "by_class": settings.class_conditional,
        "limits": limits,
        "people": people,
        "people_needed": people_needed(settings.target_coverage),
    }


def binomial_p(errors: float, n: float, risk: float) -> float:
    """The probability of at most `errors` errors in `n` at a rate of `risk`; the incomplete beta function between."""
    return float(betainc(n - errors, errors + 1, 1 - risk)) if errors < n else 1.0


def least_sample(rate: float, risk: float, failure: float) -> int | None:
    """The least number of independent answers with the share `rate` of errors that shows a risk of `risk`.

    At a confidence of 1 - `failure`; None if no number does.
    """
    if rate >= risk:
        return None
    n = math.ceil(math.log(failure) / math.log1p(-risk))
    while binomial_p(rate * n, n, risk) > failure:
        n = math.ceil(n * 1.02) + 1
    return n


def intraclass_correlation(wrong: np.ndarray, clusters: np.ndarray) -> float:
    """How alike the errors (N,) of one person are: the ANOVA estimate, in [0, 1]; 0 where nobody has two images."""
    _, of, sizes = np.unique(clusters, return_inverse=True, return_counts=True)
    people, n = len(sizes), len(wrong)
    if people < 2 or people == n:
        return 0.0
    means = np.bincount(of, weights=wrong) / sizes
    between = float((sizes * (means - wrong.mean()) ** 2).sum()) / (people - 1)
    within = float(((wrong - means[of]) ** 2).sum()) / (n - people)
    size = (n - (sizes**2).sum() / n) / (people - 1)
    total = between + (size - 1) * within
    return float(np.clip((between - within) / total, 0, 1)) if total > 0 else 0.0


class Bounded(NamedTuple):
    """A threshold above which errors are bounded."""

    threshold: float | None  # None if none can be guaranteed
    answered: int  # images of calib at or above it, or, without one, at or above the first that was tried
    errors: float  # how many of these are wrong, a vote being a share
    needed: int | None  # images above the first threshold that would do at its rate of errors; None if none would


def bound_errors(
    scores: np.ndarray,
    wrong: np.ndarray,
    clusters: np.ndarray,
    correlation: float,
    *,
    risk: float,
    failure: float,
    first: int = 1,
) -> Bounded:
    """The lowest threshold at or above which at most the share `risk` is wrong, with probability 1 - `failure`.

    `scores` (N,) in [0, 1] are compared with it; `wrong` (N,) is 1, 0 or a share of votes; `clusters` (N,) say whose
    each image is. Thresholds are tried in a fixed order, from the one that leaves `first` answers, or as many as could
    prove anything, downwards; the first that cannot be shown ends the search, so that all together fail no more often
    than one (fixed-sequence testing: Angelopoulos et al. 2021, "Learn then test"; it asks that errors do not become
    rarer as the score falls). Each is tested by the exact binomial tail, in which n answers of P people count as
    n / (1 + (m - 1) correlation), m being the mean size of an answer's person (Kish 1965), less the correction for a
    variance known from P people (Korn & Graubard 1998). If each image is a person of its own, it is exact.
    """
    order = np.argsort(-scores, kind="stable")
    falling, lost = scores[order], wrong[order].cumsum()
    _, of = np.unique(clusters, return_inverse=True)
    of = of[order]
    people, n = int(of.max()) + 1, len(scores)
    # Above the j-th score lie j - 1 answers, or j where the next is lower.
    ends = np.flatnonzero(np.append(falling[:-1] > falling[1:], True)) + 1
    ends = ends[ends >= first]
    ends = ends[np.unique(np.linspace(0, len(ends) - 1, min(STEPS, len(ends))).astype(int))]
    found = Bounded(None, n, float(lost[-1]), least_sample(0.0, risk, failure))
    for end in ends.tolist() if people > 1 else []:
        sizes = np.bincount(of[:end])
        effect = 1.0
        if people < n:
            few, many = student.ppf(1 - failure, [max((sizes > 0).sum() - 1, 1), max(end - 1, 1)])
            effect = (1 + ((sizes**2).sum() / end - 1) * correlation) * (few / many) ** 2
        errors = float(lost[end - 1])
        if binomial_p(0.0, end / effect, risk) > failure:
            continue  # so few prove nothing, right or wrong
        if binomial_p(errors / effect, end / effect, risk) > failure:
            if found.threshold is None:
                enough = least_sample(errors / end, risk, failure)
                found = Bounded(None, end, errors, enough and math.ceil(enough * effect))
            break
        threshold = float(falling[end - 1] + falling[end]) / 2 if end < n else 0.0
        found = Bounded(threshold, end, errors, None)
    return found


def fit_abstention(
    probabilities: np.ndarray, shares: np.ndarray, clusters: np.ndarray, settings: AbstentionParams
) -> dict[str, Any]:
    """Thresholds of the confidence, from which on at most `risk` of the answers are wrong.

    `risks` has one for `settings.max_risk`, which is deployed, and each of `settings.beside`, by percent.
    """
    n = len(probabilities)
    wrong = 1 - shares[np.arange(n), probabilities.argmax(axis=1)]
    correlation = intraclass_correlation(wrong, clusters)
    risks = {}
    for risk in sorted({settings.max_risk, *settings.beside}):
        bounded = bound_errors(
            probabilities.max(axis=1), wrong, clusters, correlation,
            risk=risk, failure=settings.delta, first=math.ceil(n / 5),
        )  # fmt: skip
        risks[percent(risk)] = bounded._asdict() | {"share_answered": bounded.answered / n}
    return {
        "risk": settings.max_risk,
        "failure": settings.delta,
        "threshold": risks[percent(settings.max_risk)]["threshold"],
        "people": len(np.unique(clusters)),
        "error_correlation": correlation,
        "risks": risks,
    }


def percent(share: float) -> str:
    """A share as a key, in percent."""
    return f"{100 * share:g}%"


def fit_alerts(
    probabilities: np.ndarray,
    shares: np.ndarray,
    clusters: np.ndarray,
    classes: Sequence[str],
    settings: AlertParams,
) -> dict[str, Any]:
    """For each class the probability from which on at least `precision` of its alerts are right.

    Of each class by itself, with probability 1 - `failure`; not of all at once.
    """
    wrong = 1 - shares[np.arange(len(probabilities)), probabilities.argmax(axis=1)]
    correlation = intraclass_correlation(wrong, clusters)
    of_class = {
        name: bound_errors(
            probabilities[:, k], 1 - shares[:, k], clusters, correlation,
            risk=1 - settings.min_precision, failure=settings.delta,
        )._asdict()
        for k, name in enumerate(classes)
    }  # fmt: skip
    return {
        "precision": settings.min_precision,
        "failure": settings.delta,
        "thresholds": {name: of["threshold"] for name, of in of_class.items()},
        "of_class": of_class,
    }


class Wanted(NamedTuple):
    """What should be guaranteed."""

    sets: SetParams
    abstention: AbstentionParams
    alerts: AlertParams


def wanted(method: str, coverage: float, by_class: bool, risk: float, precision: float, failure: float) -> Wanted:
    """What should be guaranteed, checked as params.yaml is; a UsageError names the first value that cannot be."""
    try:
        return Wanted(
            SetParams.model_validate({"score": method, "target_coverage": coverage, "class_conditional": by_class}),
            AbstentionParams(max_risk=risk, delta=failure, beside=[]),
            AlertParams(min_precision=precision, delta=failure),
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(
            f"{first['input']} is none",
            where=OPTION[str(first["loc"][0])],
            expected=first["msg"],
        ) from None


def calibrate(
    calib: Predictions, t_star: float, classes: Sequence[str], settings: CalibrateParams
) -> tuple[dict[str, Any], list[str]]:
    """What metrics/calibration.json holds of all three, and what the user should know of it.

    The truth is that which T* was fitted to, see `scaling.fitted_to`.
    """
    logits, truth, clusters = fitted_to(calib, settings)
    wanted = Wanted(settings.sets, settings.abstention, settings.alerts)
    return fit(np.exp(log_probabilities(logits, t_star)), truth, clusters, classes, wanted)


def fit(
    probabilities: np.ndarray, truth: np.ndarray, clusters: np.ndarray, classes: Sequence[str], wanted: Wanted
) -> tuple[dict[str, Any], list[str]]:
    """`sets`, `abstention` and `alerts` of probabilities (N, K), their truth and whose they are, and what to know."""
    shares = as_shares(truth, len(classes))
    sets = fit_sets(probabilities, truth, clusters, classes, wanted.sets)
    abstention = fit_abstention(probabilities, shares, clusters, wanted.abstention)
    alerts = fit_alerts(probabilities, shares, clusters, classes, wanted.alerts)
    warnings = []
    if absent := [name for k, name in enumerate(classes) if not shares[:, k].any()]:
        warnings.append(f"no image is of {', '.join(absent)}: nothing is guaranteed of such.")
    if short := [name for name, limit in sets["limits"].items() if limit is None]:
        few = min(sets["people"][name] for name in short)
        of, held = (f" of {', '.join(short)}", "these") if wanted.sets.class_conditional else ("", "every class")
        warnings.append(
            f"prediction sets of coverage {wanted.sets.target_coverage:g} take images of {sets['people_needed']} "
            f"people{of}; there are {few}. Until then every set holds {held}."
        )
    if abstention["threshold"] is None:
        risk, at = percent(wanted.abstention.max_risk), abstention["risks"][percent(wanted.abstention.max_risk)]
        enough = f"At this rate {at['needed']} would do" if at["needed"] else "At this rate no number would do"
        warnings.append(
            f"no threshold of abstention can be guaranteed to leave at most {risk} of errors, failing in "
            f"{percent(wanted.abstention.delta)} of fits: of the {at['answered']} most confident images, of "
            f"{abstention['people']} people in all, {at['errors']:g} are wrong. {enough}, of two people at least."
        )
    return {"sets": sets, "abstention": abstention, "alerts": alerts}, warnings


def risk_coverage(confidence: np.ndarray, wrong: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The share answered and the risk among these, where the most confident 1, 2, … N are; ties share their mean.

    `confidence` (N,), `wrong` (N,) 1, 0 or a share of votes. El-Yaniv & Wiener 2010.
    """
    order = np.argsort(-confidence, kind="stable")
    _, of = np.unique(-confidence[order], return_inverse=True)
    tied = np.bincount(of, weights=wrong[order]) / np.bincount(of)
    answered = np.arange(1, len(wrong) + 1)
    return answered / len(wrong), tied[of].cumsum() / answered


def measure(
    probabilities: np.ndarray,
    shares: np.ndarray,
    clusters: np.ndarray,
    classes: Sequence[str],
    fitted: dict[str, Any],
) -> dict[str, Any]:
    """What the thresholds of `fit` do on images that they were not fitted to.

    Of probabilities (N, K), the truth as shares (N, K), and whose each image is.

    Returns
    -------
    dict
        - `sets`: `coverage` of images, `coverage_by_person` (the mean of each person's, which is guaranteed),
          `mean_size`, `empty` (share), `one` (share with one class), `coverage_of` {class; None without one}.
        - `abstention`: by risk, `answered` (share) and `errors` (share of these, None if none is); only where there is
          a threshold.
        - `aurc`: the area under the risk against the share answered, in [0, 1].
        - `alerts`: {class: `raised` (images), `precision`, `recall`}, where there is a threshold.
    """
    n = len(probabilities)
    sets = fitted["sets"]
    inside = prediction_sets(probabilities, sets["method"], [sets["limits"][name] for name in classes])
    covered = (inside * shares).sum(axis=1)
    _, of = np.unique(clusters, return_inverse=True)
    size = inside.sum(axis=1)
    confidence = probabilities.max(axis=1)
    wrong = 1 - shares[np.arange(n), probabilities.argmax(axis=1)]
    of_class = shares.sum(axis=0)
    answers = {}
    for name, bounded in fitted["abstention"]["risks"].items():
        if bounded["threshold"] is not None:
            answered = confidence >= bounded["threshold"]
            errors = float(wrong[answered].mean()) if answered.any() else None
            answers[name] = {"answered": float(answered.mean()), "errors": errors}
    alerts = {}
    for k, name in enumerate(classes):
        least = fitted["alerts"]["thresholds"][name]
        if least is not None:
            raised = probabilities[:, k] >= least
            right = float(shares[raised, k].sum())
            alerts[name] = {
                "raised": int(raised.sum()),
                "precision": right / int(raised.sum()) if raised.any() else None,
                "recall": right / float(of_class[k]) if of_class[k] else None,
            }
    return {
        "sets": {
            "coverage": float(covered.mean()),
            "coverage_by_person": float((np.bincount(of, weights=covered) / np.bincount(of)).mean()),
            "mean_size": float(size.mean()),
            "empty": float((size == 0).mean()),
            "one": float((size == 1).mean()),
            "coverage_of": {
                name: float((inside[:, k] * shares[:, k]).sum() / of_class[k]) if of_class[k] else None
                for k, name in enumerate(classes)
            },
        },
        "abstention": answers,
        "aurc": float(risk_coverage(confidence, wrong)[1].mean()),
        "alerts": alerts,
    }


def report(test: Predictions, t_star: float, classes: Sequence[str], fitted: dict[str, Any]) -> dict[str, Any]:
    """`measure` by `labels` and, of the images that have some, by `votes`, with how many these are (`n`)."""
    probabilities = np.exp(log_probabilities(test.logits, t_star))
    by_labels = measure(probabilities, as_shares(test.labels, len(classes)), test.clusters, classes, fitted)
    has = test.has_votes
    if test.votes is None or not has.any():
        return {"labels": by_labels}
    by_votes = measure(probabilities[has], test.votes[has], test.clusters[has], classes, fitted)
    return {"labels": by_labels, "votes": {"n": int(has.sum())} | by_votes}


def risk_table(logits: np.ndarray, labels: np.ndarray, temperature: float) -> pd.DataFrame:
    """The curve of `risk_coverage` at 200 points at most: `answered` and `risk`, both in [0, 1]."""
    confidence = np.exp(log_probabilities(logits, temperature)).max(axis=1)
    answered, risk = risk_coverage(confidence, (logits.argmax(axis=1) != labels).astype(float))
    kept = np.unique(np.linspace(0, len(answered) - 1, 200).round().astype(int))
    return pd.DataFrame({"answered": answered[kept], "risk": risk[kept]})
