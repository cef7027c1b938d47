"""Weights with which several teachers' probabilities, averaged, suit the labels best.

The mixture's NLL, `-mean_i log sum_m w_m p_m(y_i)`, is convex in the weights, and these stand in the simplex: there is
one least value, and how far any weights are from it can be bounded.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.linalg import cho_factor, solve_triangular
from scipy.optimize import minimize, nnls
from sklearn.model_selection import GroupKFold

from .. import yaml_file
from ..data.index import Index
from ..errors import CheckError, UsageError
from ..files import write_text
from ..params import CalibrateParams, Params, VotesTeacher
from .calibration import check_scored, log_probabilities
from .diversity import shared
from .intervals import draw_clusters, percentile
from .metrics import clusters_of
from .scaling import T_MAX, T_MIN

TOLERANCE = 1e-9  # nats by which other weights may be better
STEPS = 200


class Weights(NamedTuple):
    """What `fit` found."""

    weights: np.ndarray  # (M,), at least 0, of sum 1
    nll: float  # of the mixture, in nats
    gap: float  # no weights have an NLL that is lower by more


def fit(log_likelihoods: np.ndarray, counts: np.ndarray | None = None) -> Weights:
    """The weights of least NLL, from log p_m(y_i), (N, M), finite; sample i counts `counts[i]` times, or once.

    The sum constraint is dropped for a term `sum_m w_m`, which has the same optimum, so that each Newton step is a
    non-negative least-squares problem (Kim et al. 2020, "mixsqp"). With a_m = mean_i p_m(y_i) / sum_l w_l p_l(y_i), the
    NLL is within max_m a_m - 1 of the least, which is the gap.

    Raises a CheckError if the gap is still above `TOLERANCE` after `STEPS`.
    """
    shares = np.full(len(log_likelihoods), 1 / len(log_likelihoods)) if counts is None else counts / counts.sum()
    held = shares > 0
    logs, shares = log_likelihoods[held], shares[held]
    top = logs.max(axis=1)
    likelihoods = np.exp(logs - top[:, None])  # of which one at least is 1
    teachers = likelihoods.shape[1]

    def cost(weights: np.ndarray) -> float:
        mixed = likelihoods @ weights
        return float(-(shares @ np.log(mixed)) + weights.sum() - 1) if (mixed > 0).all() else np.inf

    weights = np.full(teachers, 1 / teachers)
    for _ in range(STEPS):
        ratios = likelihoods / (likelihoods @ weights)[:, None]
        slope = shares @ ratios
        if slope.max() - 1 <= TOLERANCE:
            break
        curvature = (ratios * shares[:, None]).T @ ratios
        curvature[np.diag_indices(teachers)] += 1e-12 * np.trace(curvature)  # teachers may be alike
        factor, _ = cho_factor(curvature)
        factor = np.triu(factor)
        target, _ = nnls(factor, solve_triangular(factor, curvature @ weights + slope - 1, trans="T"))
        step, length, gain = target - weights, 1.0, 1e-4 * float((slope - 1) @ (target - weights))
        now = cost(weights)
        now += 4 * np.finfo(float).eps * max(1.0, abs(now))  # near the least a step gains less than rounding costs
        while length > 1e-12 and cost(weights + length * step) > now - length * gain:
            length /= 2
        weights = weights + length * step
        weights /= weights.sum()
    else:
        raise CheckError(
            f"no weights were found: others may be better by {slope.max() - 1:.3g} nats",
            where=f"{len(shares)} samples, {teachers} teachers",
            expected=f"weights within {TOLERANCE:g} of the best",
            hint="leave out a teacher whose probabilities of the labels are near 0 everywhere",
        )
    return Weights(weights, float(-(shares @ (np.log(likelihoods @ weights) + top))), float(slope.max() - 1))


def _at_labels(logits: np.ndarray, labels: np.ndarray, temperatures: np.ndarray) -> np.ndarray:
    """Log p_m(y_i), (N, M), of logits (M, N, K)."""
    rows = np.arange(len(labels))
    found = [log_probabilities(of, t)[rows, labels] for of, t in zip(logits, temperatures, strict=True)]
    return np.column_stack(found)


def fit_temperatures(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Of logits (M, N, K), a temperature a teacher, (M,), that lowers the NLL of the mixture with the best weights.

    Those that suit each teacher alone would not do: a mixture is less sure than its teachers. Together with the weights
    this is not convex; the search descends from 1, so that it never ends above what the weights alone reach.
    """
    rows, teachers = np.arange(len(labels)), range(len(logits))

    def profile(log_t: np.ndarray) -> tuple[float, np.ndarray]:
        temperatures = np.exp(log_t)
        log_p = [log_probabilities(logits[m], temperatures[m]) for m in teachers]
        at = np.column_stack([of[rows, labels] for of in log_p])
        best = fit(at)
        share = best.weights * np.exp(at + _mixed(at, best.weights)[:, None])  # of each teacher in the mixture
        slope = np.array(
            [share[:, m] @ (logits[m][rows, labels] - (np.exp(log_p[m]) * logits[m]).sum(axis=1)) for m in teachers]
        )
        return best.nll, slope / temperatures / len(labels)

    bounds = [(np.log(T_MIN), np.log(T_MAX))] * len(logits)
    found = minimize(profile, np.zeros(len(logits)), jac=True, method="L-BFGS-B", bounds=bounds)
    return np.exp(found.x) if found.fun < profile(np.zeros(len(logits)))[0] else np.ones(len(logits))


def _temperatures(logits: np.ndarray, labels: np.ndarray, fitted: bool) -> np.ndarray:
    return fit_temperatures(logits, labels) if fitted else np.ones(len(logits))


def _mixed(log_likelihoods: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """NLL of each sample under the mixture, (N,)."""
    top = log_likelihoods.max(axis=1)
    return -(np.log(np.exp(log_likelihoods - top[:, None]) @ weights) + top)


def weigh(
    logits: np.ndarray,
    labels: np.ndarray,
    clusters: np.ndarray,
    teachers: Sequence[str],
    settings: CalibrateParams,
    *,
    draws: int,
    temperatures: bool = False,
    track: Callable[[range], Iterable[int]] = iter,
) -> dict[str, Any]:
    """Fit weights to teachers' logits (M, N, K) and labels (N,), and say what they bring to people not fitted to.

    None of `clusters` (N,), what each sample is of, as a subject, is in two of the folds of `settings`, which also has
    the level of intervals and the seed of both. `temperatures` also divides each teacher's logits by a temperature of
    its own: see `fit_temperatures`.

    Returns
    -------
    dict of plain numbers
        - `n`, `people`, `folds_used`, `gap` (see `fit`).
        - `teachers`: by name `weight` with the interval `low`, `high` of fits to resampled people at these
          temperatures, `nll` alone, and `temperature` (1 unless fitted).
        - `nll`: the mixture's, on what it was fitted to.
        - `cross_validated`: of `fitted`, `equal` weights and the `best_single` teacher of each fold's other people, the
          `nll` on people not fitted to, with `low` and `high`; of the two last also `gain`, that NLL less the fitted
          one's, paired by sample, with `gain_low` and `gain_high`.

    Raises a CheckError as `check_scored` and `fit` do, or if all samples are of one cluster.
    """
    for of in logits:
        check_scored(of, labels)
    names, of_cluster = np.unique(clusters, return_inverse=True)
    if len(names) < 2:
        raise CheckError(
            "all images are of one subject",
            where=f"{len(labels)} images",
            expected="at least two subjects (or groups of copies), to fit to some and score by others",
        )
    plain = _at_labels(logits, labels, np.ones(len(logits)))
    losses = {name: np.empty(len(labels)) for name in ("fitted", "equal", "best_single")}
    equal = np.full(len(logits), 1 / len(logits))
    folds, level = min(settings.folds, len(names)), settings.level
    parts = GroupKFold(folds, shuffle=True, random_state=settings.seed)
    for rest, held in parts.split(labels, groups=of_cluster):
        scaled = _at_labels(logits, labels, _temperatures(logits[:, rest], labels[rest], temperatures))
        losses["fitted"][held] = _mixed(scaled[held], fit(scaled[rest]).weights)
        losses["equal"][held] = _mixed(plain[held], equal)
        losses["best_single"][held] = -plain[held, plain[rest].mean(axis=0).argmax()]

    found_at = _temperatures(logits, labels, temperatures)
    scaled = _at_labels(logits, labels, found_at)
    best = fit(scaled)
    times = draw_clusters(np.random.default_rng(settings.seed), len(names), draws)
    refits = np.array([fit(scaled, times[draw][of_cluster].astype(float)).weights for draw in track(range(draws))])
    per_cluster = {name: np.bincount(of_cluster, weights=loss) for name, loss in losses.items()}
    sizes = times @ np.bincount(of_cluster)
    drawn = {name: times @ of / sizes for name, of in per_cluster.items()}
    crossed: dict[str, Any] = {
        name: {"nll": float(loss.mean()), **percentile(drawn[name], level)} for name, loss in losses.items()
    }
    for name in ("equal", "best_single"):
        gain = percentile(drawn[name] - drawn["fitted"], level)
        crossed[name] |= {
            "gain": crossed[name]["nll"] - crossed["fitted"]["nll"],
            "gain_low": gain["low"],
            "gain_high": gain["high"],
        }
    return {
        "n": len(labels),
        "people": len(names),
        "folds_used": folds,
        "gap": best.gap,
        "nll": best.nll,
        "teachers": {
            name: {
                "weight": float(best.weights[m]),
                **percentile(refits[:, m], level),
                "nll": float(-plain[:, m].mean()),
                "temperature": float(found_at[m]),
            }
            for m, name in enumerate(teachers)
        },
        "cross_validated": crossed,
    }


def rounded(weights: Sequence[float], digits: int = 4) -> list[float]:
    """Weights in so many digits whose sum is 1 still: what rounding down left goes to the largest remainders."""
    exact = np.array(weights) / sum(weights) * 10**digits
    whole = np.floor(exact)
    whole[np.argsort(whole - exact, kind="stable")[: round(10**digits - whole.sum())]] += 1
    return (whole / 10**digits).tolist()


def of_val(
    params: Params,
    rows: Index,
    teachers: Sequence[str],
    *,
    temperatures: bool,
    draws: int,
    track: Callable[[range], Iterable[int]] = iter,
) -> dict[str, Any]:
    """`weigh` teachers of params.yaml on the val split of an index, in the folds that `calibrate` has.

    All, if none is named, but those whose soft labels are the votes that the labels were made of (`left_out`): these
    name the labels by construction. Images that one of the teachers lacks are left out, and counted (`uncovered`).

    Raises a UsageError if a teacher is not in params.yaml or made of votes, a CheckError as `diversity.shared` and
    `weigh` do.
    """
    votes = [name for name in params.teachers if isinstance(params.scale_.teachers[name], VotesTeacher)]
    for name in teachers:
        if name not in params.teachers or name in votes:
            raise UsageError(
                f"`{name}` cannot be weighed: labels are made of votes" if name in votes else f"no teacher `{name}`",
                where="params.yaml, teachers",
                expected=f"some of {', '.join(of for of in params.teachers if of not in votes)}",
            )
    chosen = list(dict.fromkeys(teachers)) or [name for name in params.teachers if name not in votes]
    at, logits, has = shared(params, rows, "val", chosen)
    found = weigh(
        logits,
        rows.codes(params.classes)[at],
        clusters_of(rows.rows.iloc[at]),
        chosen,
        params.calibrate,
        draws=draws,
        temperatures=temperatures,
        track=track,
    )
    left_out = [] if teachers else votes
    return found | {"left_out": left_out, "uncovered": int((~has.all(axis=0)).sum())}


def write_family(file: Path, name: str, report: dict[str, Any]) -> None:
    """Add a family with a report's weights, in four digits, to a params file, whose other lines stay as they are."""
    weights = dict(zip(report["teachers"], rounded([of["weight"] for of in report["teachers"].values()]), strict=True))
    weights = {teacher: weight for teacher, weight in weights.items() if weight > 0}
    teachers = ", ".join(f"{teacher}: {weight:g}" for teacher, weight in weights.items())
    lines = [
        f"{name}:  # `ferdistill teachers weigh`: least NLL on val, {report['n']} images",
        "  fusion: probability",
        "  sources:",
        f"    - {{weight: 1.0, teachers: {{{teachers}}}}}",
    ]
    at = {teacher: report["teachers"][teacher]["temperature"] for teacher in weights}
    if any(temperature != 1 for temperature in at.values()):
        lines.append(f"  temperatures: {{{', '.join(f'{teacher}: {t:.4f}' for teacher, t in at.items())}}}")
    changed = yaml_file.with_entry(file.read_text(encoding="utf-8"), "families", "\n".join(lines))
    write_text(file, changed)
