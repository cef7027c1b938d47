"""What a study was run to find out: the contrasts named before its runs, and how much there was to gain at all.

Everything else that a table can be asked is exploratory: `comparison`.
"""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..errors import UsageError
from ..params import Params
from ..tracking import experiments
from . import recipes, results, statistics, stored
from .grid import Primary, Standing
from .schema import METRIC

SPLIT = "test"


def contrast(
    before: pd.DataFrame, after: pd.DataFrame, metric: str, cache: Path | None = None, bins: int = 15
) -> dict[str, Any]:
    """One recipe's metric less another's, over seeds and people jointly where the predictions are here.

    Over the seeds that both have. See `statistics.crossed`; without predictions it is Student's paired t test, over
    seeds alone, and `why` says so.

    Returns
    -------
    dict
        `seeds`, their number; `difference`, `interval` (95 %) and `p`, None with fewer than two; `of_seeds` and
        `of_people`, standard errors that each alone gives, the second None where it is not known; `people`, their
        number; `why` they are not known, or None.
    """
    seeds = [rows["seed"].tolist() for rows in (before, after)]
    both = [seed for seed in seeds[0] if seed in seeds[1]]
    sides = [rows.iloc[[each.index(seed) for seed in both]] for rows, each in zip((before, after), seeds, strict=True)]
    for rows in sides:
        if metric not in rows or rows[metric].isna().any():
            raise UsageError(f"some runs have no `{metric}`", expected="a value of each run that is compared")
    values = sides[1][metric].to_numpy() - sides[0][metric].to_numpy()
    found: dict[str, Any] = {"seeds": len(both), "difference": float(values.mean()) if both else None}
    found |= dict.fromkeys(("interval", "p", "of_seeds", "of_people", "people", "why"))
    if len(both) < 2:
        return found | {"why": "fewer than two seeds in common"}
    runs = pd.concat(sides)
    known = stored.find(runs, SPLIT, cache)
    if isinstance(known, str):
        spread = float(values.std(ddof=1) / np.sqrt(len(values)))
        interval = list(statistics.paired_t_interval(values))
        return found | {"interval": interval, "p": statistics.paired_t_p(values), "of_seeds": spread, "why": known}
    t_stars = runs["t_star"] if metric.endswith("_scaled") else [None] * len(runs)
    scored = [stored.scores(file, SPLIT, bins, t) for file, t in zip(known.files, t_stars, strict=True)]
    if metric not in scored[0]:
        raise UsageError(f"no score of predictions is `{metric}`", expected=f"one of {', '.join(scored[0])}")
    one = statistics.crossed(scored[: len(both)], scored[len(both) :], metric, known.clusters)
    return found | {
        **{"difference": one.mean, "interval": list(one.interval), "p": one.p},
        **{"of_seeds": one.of_seeds, "of_people": one.of_people, "people": known.clusters},
    }


def primary(frame: pd.DataFrame, design: Primary, params: Params, *, cache: Path | None = None) -> list[dict[str, Any]]:
    """The contrasts that a grid names before its runs: a dict each, as `contrast` gives it, with names and `p_holm`.

    Holm's adjustment runs over all of them, metrics too. Raises as `recipes.select` and `results.require_comparable`.
    """
    after, found = recipes.select(frame, design.candidate), []
    for selector in design.baselines:
        before = recipes.select(frame, selector)
        results.require_comparable(pd.concat([before, after]))
        for metric in design.metrics:
            told = {"baseline": selector, "candidate": design.candidate, "metric": metric}
            found.append(told | contrast(before, after, metric, cache, params.calibrate.bins))
    tested = [one for one in found if one["p"] is not None]
    for one, p in zip(tested, statistics.holm([one["p"] for one in tested]), strict=True):
        one["p_holm"] = p
    return found


def headroom(
    frame: pd.DataFrame, standing: Standing, params: Params, metric: str = "macro_f1", *, cache: Path | None = None
) -> dict[str, Any]:
    """How much the true distribution as the teacher brings over labels alone, and whether families can be ranked in it.

    Families differ by parts of that. Where it is no larger than the noise of one such difference, or cannot be
    distinguished from zero, the order in which they stand is noise, and there is none to tell.

    Returns
    -------
    dict
        - `metric`; `oracle` and `votes`: as `contrast`, of that row minus labels alone; None where it was not run.
        - `families`: by selector, as `contrast`, of each recipe with teachers in mode kd, best first.
        - `noise`: half the 95 % interval of a difference between neighbours in that order, in the median.
        - `ranked`: whether the headroom is larger; None without an oracle, labels alone, or two families.
        - `why`: that in words.
    """
    of = recipes.split(frame)
    labels = next((rows for rows in of.values() if rows["mode"].iloc[0] == "none"), None)
    rows = {key: _of_family(of, family) for key, family in standing.model_dump().items()}
    result: dict[str, Any] = {"metric": metric, "oracle": None, "votes": None, "families": {}, "noise": None}
    result |= {"ranked": None, "why": "no run of labels alone"}
    if labels is None:
        return result

    def over(before: pd.DataFrame, after: pd.DataFrame) -> dict[str, Any]:
        results.require_comparable(pd.concat([before, after]))
        return contrast(before, after, metric, cache, params.calibrate.bins)

    for key, some in rows.items():
        result[key] = None if some is None else over(labels, some)
    never = {family for family in standing.model_dump().values() if family}
    kd = {
        name: some for name, some in of.items() if some["mode"].iloc[0] == "kd" and some["family"].iloc[0] not in never
    }
    sign = -1 if METRIC[metric].better == "higher" else 1
    ordered = sorted(kd, key=lambda name: sign * kd[name][metric].mean())
    result["families"] = {name: over(labels, kd[name]) for name in ordered}
    apart = [over(kd[one], kd[other])["interval"] for one, other in pairwise(ordered)]
    # Of one loss under two names the difference is zero, and its interval says nothing of others'.
    halves = [(high - low) / 2 for low, high in filter(None, apart) if high > low]
    oracle = result["oracle"]
    if oracle is None or oracle["interval"] is None or not halves:
        return result | {"why": "no run with the true distribution as the teacher, or no two families beside it"}
    noise, gain = float(np.median(halves)), -sign * oracle["difference"]
    clear = min(-sign * end for end in oracle["interval"]) > 0
    told = f"the headroom over labels alone is {gain:.4f}, and two families differ by {noise:.4f} of noise alone"
    why = told if clear else f"the headroom over labels alone, {gain:.4f}, cannot be distinguished from zero"
    return result | {"noise": noise, "ranked": clear and gain > noise, "why": why}


def _of_family(of: dict[str, pd.DataFrame], family: str | None) -> pd.DataFrame | None:
    """The runs in mode kd of a family, of the recipe that has most; None if there are none."""
    found = [rows for rows in of.values() if (rows["family"].iloc[0], rows["mode"].iloc[0]) == (family, "kd")]
    return max(found, key=len, default=None)


def stated(path: Path, design: Primary) -> str | None:
    """Since when git has had these contrasts in a grid, without a break until now; None where it does not say."""
    try:
        log = experiments.git("log", "--format=%H %cI", "--", path.as_posix()).decode().split("\n")
        commits = [line.split(" ") for line in log if line]
        texts = experiments.blobs([f"{commit}:./{path.as_posix()}" for commit, _ in commits])
    except UsageError:
        return None
    since = None
    for (_, time), text in zip(commits, texts, strict=True):
        try:
            held = experiments.load_yaml(text or "")
        except Exception:  # a file of another day may hold anything
            break
        if not isinstance(held, dict) or held.get("primary") != design.model_dump():
            break
        since = time
    return since


def was_stated_before(since: str | None, frame: pd.DataFrame) -> bool | None:
    """Whether the contrasts stood before the first run of a table; None where one of the two is not known."""
    if since is None or "time" not in frame:
        return None
    times = pd.to_datetime(frame["time"], utc=True, errors="coerce").dropna()
    return bool(pd.Timestamp(since) <= times.min()) if len(times) else None
