"""Two recipes side by side: what the seeds say, what the test examples say, and whether anything differed at all."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from .. import params, workspace
from ..errors import UsageError
from ..progress import track
from . import recipes, results, statistics, stored
from .schema import COMPARED, SETTING, title_of

SPLIT = "test"


def compare(
    frame: pd.DataFrame,
    baseline: str,
    candidate: str | None = None,
    *,
    metrics: Sequence[str] | None = None,
    cache: Path | None = None,
    settings: params.Params | None = None,
    equal: str | None = None,
) -> list[dict[str, Any]]:
    """Compare a recipe, or every other one of a table, with a baseline, seed by seed and example by example.

    Differences are candidate minus baseline. A seed is a pair where both have a value of the metric.

    Parameters
    ----------
    frame : DataFrame
        As `results.read` gives it.
    baseline, candidate : str
        Selectors, see `recipes.select`. Without a candidate, every other recipe is one, in the table's order.
    metrics : sequence of str, optional
        Numeric columns of the frame that are no setting; those of `schema.COMPARED` that it has by default.
    cache : Path, optional
        DVC's cache, where stored predictions are looked up; by default that of the repository one stands in.
    settings : Params, optional
        Whose families say which recipes share a loss; by default ./params.yaml, if there is one.
    equal : str, optional
        A column, as `epochs` or `images_seen`: recipes that differ from the baseline in it are no candidates.

    Returns
    -------
    list of dict
        JSON-ready, one a candidate. `baseline`, `candidate` (selector, label, seeds), `level`, `comparisons` (recipes
        that Dunnett's test counts), `null_pair` (`identical_losses`: true, false or null for unknown, and `why`),
        `examples` (see `examples`), and `metrics`: for each

        - `per_seed`: list of seed, baseline, candidate, difference; null where a run is missing.
        - `pairs`: their number; `unpaired_seeds`: those left out of pairing.
        - `mean_difference`: over pairs if there are two or more, else `mean_difference_unpaired`, over all seeds.
        - `t_interval`, `t_p`: Student's, of the paired difference; `welch_interval`: of the unpaired one.
        - `bootstrap_interval`, `bootstrap_coverage`: percentile, unpaired as in the report's §5.1, and what share
          of such intervals holds the truth at these n. `paired_bootstrap_interval`, `paired_bootstrap_coverage`.
        - `permutation_p`, `permutation_p_min`, `permutation_method`: unpaired; `paired_p`, `paired_p_min`,
          `paired_method`: sign flips.
        - `cohens_d` (pooled), `d_z` (paired), `seeds_needed`: pairs for 80 % power at that d_z.
        - `dunnett_p`, `dunnett_interval`: see `statistics.dunnett`, of every recipe of the table against this
          baseline; over all seeds of each, unpaired.

        What cannot be computed from so few seeds is null.

    Raises
    ------
    UsageError
        On a selector that finds no recipe or several, or a metric that the table does not have.
    CheckError
        If the runs may not be compared, see `results.require_comparable`, or stored predictions do not fit together.
    """
    if settings is None and workspace.PARAMS.is_file():
        settings = params.load()
    names = _metrics(frame, metrics)
    before = recipes.select(frame, baseline)
    if equal is not None:
        frame = _equal(frame, before, equal)
    own, asked = recipes.identity(before), None
    if candidate is None:
        results.require_comparable(frame)
    else:
        after = recipes.select(frame, candidate)
        asked = recipes.identity(after)
        if asked == own:
            raise UsageError(f"`{baseline}` and `{candidate}` are one recipe", expected="two recipes")
        results.require_comparable(pd.concat([before, after]))
        frame = results.comparable_with(frame, before.iloc[0])
    others = {selector: rows for selector, rows in recipes.split(frame).items() if recipes.identity(rows) != own}
    if not others:
        raise UsageError("the table has no other recipe", where=baseline, expected="a second family, mode or parameter")
    compared = {}
    for selector, rows in track(list(others.items()), f"against {baseline}"):
        if asked is None or recipes.identity(rows) == asked:
            named = {"baseline": (baseline, before), "candidate": (candidate or selector, rows)}
            compared[selector] = _pair(frame, named, names, cache, settings) | {"comparisons": len(others)}
    for name in names:
        _adjust(compared, name, before, others)
    return list(compared.values())


def examples(before: pd.DataFrame, after: pd.DataFrame, cache: Path | None = None, bins: int = 15) -> dict[str, Any]:
    """What the choice of test images adds: `statistics.over_examples` on the stored predictions.

    Both tables are runs of one recipe, with `predictions` and `cache` as for `stored.find`; `bins` are of the expected
    calibration error.

    Returns
    -------
    dict
        `available`; if false, `why`. If true: `split`, `seeds` (averaged over), `rows`, `clusters` (the index's
        `group`: a subject, or copies of one image where no subject is known), `resamples`, and `metrics`: for each
        `difference` and `interval`.

    Raises
    ------
    CheckError
        If the predictions are not of the same images, labels and classes.
    """
    seeds = [int(seed) for seed in before["seed"] if seed in set(after["seed"])]
    if not seeds:
        return {"available": False, "why": "no seed in common"}
    found = stored.find(pd.concat([rows.set_index("seed").loc[seeds] for rows in (before, after)]), SPLIT, cache)
    if isinstance(found, str):
        return {"available": False, "why": found}
    scored = [stored.scores(file, SPLIT, bins) for file in found.files]
    differences = statistics.over_examples(scored[: len(seeds)], scored[len(seeds) :])
    return {
        "available": True,
        "split": SPLIT,
        "seeds": seeds,
        "rows": found.rows,
        "clusters": found.clusters,
        "resamples": statistics.EXAMPLE_RESAMPLES,
        "metrics": {name: {"difference": d, "interval": list(i)} for name, (d, i) in differences.items()},
    }


def sentences(result: dict[str, Any]) -> list[str]:
    """What a result of `compare` allows one to say of its first metric, and what not, in plain sentences."""
    before, after = result["baseline"]["label"], result["candidate"]["label"]
    if not result["metrics"]:
        return [f"{before} and {after} cannot be compared: in no metric asked for has each of them a value."]
    name, main = next(iter(result["metrics"].items()))
    said = []
    if result["null_pair"]["identical_losses"]:
        said.append(
            f"{before} and {after} minimise the same loss ({result['null_pair']['why']}): whatever differs between "
            "them is noise, or a fault of the pipeline, and not an effect of the recipe."
        )
    said.append(_said_of_difference(result, title_of(name), main))
    counts = [sum(line[side] is not None for line in main["per_seed"]) for side in ("baseline", "candidate")]
    text = (
        f"{counts[0]} against {counts[1]} seeds cannot give p < {_floor(main['permutation_p_min'])} unpaired "
        f"(found {main['permutation_p']:.3g})"
    )
    if main["pairs"]:
        pairs = f"{main['pairs']} {'pairs' if main['pairs'] > 1 else 'pair'}"
        least, found = _floor(main["paired_p_min"]), main["paired_p"]
        text += f", and {pairs} cannot give p < {least} by sign flips (found {found:.3g})"
    said.append(f"{text}.")
    coverage = main["bootstrap_coverage"]
    if coverage is not None and coverage < 0.93:
        said.append(f"Of bootstrap intervals called 95 %, {100 * coverage:.0f} % hold the truth at these seeds.")
    images = result["examples"]
    if not images["available"]:
        said.append(f"No interval over test images: {images['why']}.")
    elif name in images["metrics"]:
        low, high = images["metrics"][name]["interval"]
        said.append(
            f"With these very models, other test images would move the difference between {low:+.4f} and {high:+.4f} "
            f"(95 %, {images['clusters']} subjects or groups of copies)."
        )
    return said


def _said_of_difference(result: dict[str, Any], title: str, main: dict[str, Any]) -> str:
    before, after = result["baseline"]["label"], result["candidate"]["label"]
    difference = main["mean_difference"]
    moved = f"is {abs(difference):.4f} {'above' if difference > 0 else 'below'} {before}"
    text = f"{title}: {after} {moved}" if difference else f"{title}: {after} and {before} have the same mean"
    if not main["t_interval"]:
        return f"{text}. With fewer than two seeds in common there is no paired interval."
    low, high = main["t_interval"]
    text += f" (95 % t interval {low:+.4f} to {high:+.4f}, {main['pairs']} pairs of seeds, noise taken as normal)"
    if low <= 0 <= high:
        return f"{text}. The interval holds zero: these seeds cannot distinguish them."
    if result["comparisons"] == 1:
        return f"{text}. The interval leaves zero out."
    adjusted = f"p = {main['dunnett_p']:.3g} by Dunnett's test of all"
    return f"{text}. The interval leaves zero out, but {result['comparisons']} recipes were compared: {adjusted}."


def _pair(
    frame: pd.DataFrame,
    sides: dict[str, tuple[str, pd.DataFrame]],
    names: list[str],
    cache: Path | None,
    settings: params.Params | None,
) -> dict[str, Any]:
    """What `compare` says of a baseline and a candidate, each a selector and its runs."""
    before, after = (rows for _, rows in sides.values())
    identical = recipes.same_loss(settings, before.iloc[0], after.iloc[0]) if settings else None
    return {
        **{
            side: {
                "selector": selector,
                "label": recipes.label_in(frame, rows.iloc[0]),
                "seeds": rows["seed"].tolist(),
            }
            for side, (selector, rows) in sides.items()
        },
        "level": statistics.LEVEL,
        "comparisons": 1,
        "null_pair": {"identical_losses": identical, "why": _why(settings, before.iloc[0], identical)},
        "metrics": {
            name: _metric(*_by_seed(before, after, name))
            for name in names
            if before[name].notna().any() and after[name].notna().any()
        },
        "examples": examples(before, after, cache, settings.calibrate.bins if settings else 15),
    }


def _by_seed(before: pd.DataFrame, after: pd.DataFrame, name: str) -> tuple[pd.Series, pd.Series]:
    """The values of a metric by seed, those that are there."""
    return before.set_index("seed")[name].dropna(), after.set_index("seed")[name].dropna()


def _tests(a: pd.Series, b: pd.Series) -> dict[str, Any]:
    """The three p values of one comparison."""
    if not len(a) or not len(b):
        return {}
    differences = (b - a).reindex(a.index.intersection(b.index)).to_numpy()
    unpaired = statistics.permutation(a.to_numpy(), b.to_numpy())
    paired = statistics.sign_flip(differences) if len(differences) else (None, None, None)
    return {
        **{f"permutation_{name}": value for name, value in zip(unpaired._fields, unpaired, strict=True)},
        **{f"paired_{name}": value for name, value in zip(unpaired._fields, paired, strict=True)},
        "t_p": statistics.paired_t_p(differences) if len(differences) > 1 else None,
    }


def _metric(a: pd.Series, b: pd.Series) -> dict[str, Any]:
    """What `compare` says of one metric, from its values by seed."""
    both = pd.DataFrame({"baseline": a, "candidate": b}).reindex(list(dict.fromkeys([*a.index, *b.index])))
    paired = both.dropna()
    differences = (paired["candidate"] - paired["baseline"]).to_numpy()
    left, right = a.to_numpy(), b.to_numpy()
    unpaired_difference = float(b.mean() - a.mean())
    enough, pairs = min(len(a), len(b)) > 1, len(paired)
    d_z = statistics.cohens_dz(differences)
    return {
        "per_seed": [
            {"seed": seed, "baseline": _or_none(x), "candidate": _or_none(y), "difference": _or_none(y - x)}
            for seed, x, y in zip(both.index.tolist(), both["baseline"], both["candidate"], strict=True)
        ],
        "pairs": pairs,
        "unpaired_seeds": both.index.difference(paired.index, sort=False).tolist(),
        "mean_baseline": float(a.mean()),
        "mean_candidate": float(b.mean()),
        "mean_difference": float(differences.mean()) if pairs > 1 else unpaired_difference,
        "mean_difference_unpaired": unpaired_difference,
        "t_interval": list(statistics.paired_t_interval(differences)) if pairs > 1 else None,
        "welch_interval": list(statistics.welch_interval(left, right)) if enough else None,
        "bootstrap_interval": list(statistics.bootstrap_interval(left, right)) if enough else None,
        "bootstrap_coverage": statistics.bootstrap_coverage(len(a), len(b)) if enough else None,
        "paired_bootstrap_interval": list(statistics.bootstrap_interval(differences)) if pairs > 1 else None,
        "paired_bootstrap_coverage": statistics.bootstrap_coverage(pairs) if pairs > 1 else None,
        **_tests(a, b),
        "cohens_d": _or_none(statistics.cohens_d(left, right)),
        "d_z": _or_none(d_z),
        "seeds_needed": statistics.seeds_needed(d_z),
    }


def _adjust(
    compared: dict[str, dict[str, Any]], name: str, before: pd.DataFrame, others: dict[str, pd.DataFrame]
) -> None:
    """Add Dunnett's p and interval of a metric to each comparison, over all recipes that have the metric."""
    baseline = before[name].dropna().to_numpy()
    values = {selector: rows[name].dropna().to_numpy() for selector, rows in others.items()}
    values = {selector: some for selector, some in values.items() if len(some)}
    if not values or not len(baseline):
        return
    found = dict(zip(values, statistics.dunnett(baseline, list(values.values())), strict=True))
    for selector, result in compared.items():
        if metric := result["metrics"].get(name):
            one = found[selector]
            known = math.isfinite(one.interval[0])
            metric |= {"dunnett_p": one.p, "dunnett_interval": list(one.interval) if known else None}


def _equal(frame: pd.DataFrame, before: pd.DataFrame, column: str) -> pd.DataFrame:
    """The rows that have the baseline's value in a column."""
    values = before[column].dropna().unique().tolist() if column in frame else []
    if len(values) != 1:
        raise UsageError(
            f"the baseline has {len(values)} values of `{column}`",
            expected="one, so that others can equal it",
            hint="collect the table anew: older ones have no such column" if column not in frame else "",
        )
    return frame[frame[column] == values[0]]


def _metrics(frame: pd.DataFrame, metrics: Sequence[str] | None) -> list[str]:
    numeric = [name for name in frame.columns if frame[name].dtype == np.float64 and name not in SETTING]
    unknown = [name for name in metrics or [] if name not in numeric]
    if unknown:
        raise UsageError(f"no metric {', '.join(unknown)} in the table", expected=f"of {', '.join(numeric)}")
    empty = [name for name in metrics or [] if frame[name].isna().all()]
    if empty:
        raise UsageError(f"no run of the table has a value of {', '.join(empty)}", expected="metrics with values")
    return list(dict.fromkeys(metrics)) if metrics else [name for name in COMPARED if name in numeric]


def _why(settings: params.Params | None, row: pd.Series, identical: bool | None) -> str:
    if settings is None:
        return "no params.yaml here to look the families up in"
    if identical is None:
        return "a family is not in params.yaml"
    if not identical:
        return "the losses differ"
    parts = recipes.loss_parts(settings, row) or {}
    weights = ", ".join(f"{' + '.join(map(str, part))} {weight:g}" for part, weight in parts.items())
    return f"teacher weights {weights}" if weights else "cross-entropy alone"


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _floor(p: float) -> str:
    return f"{p:.2f}" if p >= 0.01 else f"{p:.1g}"
