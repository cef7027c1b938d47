"""The workspace's results beside those of a commit, and whether another seed alone could have made the difference.

What git holds suffices: no data, no model.
"""

import json
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from .. import workspace
from ..errors import CheckError, FerdistillError, clipped
from ..tracking import experiments
from .results import RECIPE
from .schema import FILES, METRIC
from .statistics import pooled_variance

SHOWN = {"macro_f1": "macro F1", "accuracy": "accuracy", "nll_scaled": "NLL, scaled", "ece_scaled": "ECE, scaled"}
# Standard deviations over seeds where no table tells: those of the embedded corpus, pooled over three recipes.
ASSUMED = {"macro_f1": 0.0065, "accuracy": 0.0057, "nll_scaled": 0.0095, "ece_scaled": 0.0071}
LEVEL = 0.95
INTERVALS, INDEX, BENCHMARK, PARAMS = (
    path.as_posix()
    for path in (
        workspace.METRICS / "intervals.json",
        workspace.METRICS / "index.json",
        workspace.BENCHMARK_METRICS,
        workspace.PARAMS,
    )
)
CODE = ("src", "dvc.yaml", workspace.PRETRAINED.as_posix())
NAMED = 5  # params that are written out
VERDICTS = {"within": "noise", "other": "other images", "same": "same", "better": "better", "worse": "worse"}


def beside(rev: str, own_table: bool = False) -> dict[str, Any]:
    """The workspace's scores, params, code and latency beside those of a commit.

    Parameters
    ----------
    rev : str
        A branch, tag or commit.
    own_table : bool
        Whether the noise of seeds is taken from the workspace's table of a study; else from the one at `rev`. Where
        there is none, or it has no runs of this corpus and scale, `ASSUMED` stands in.

    Returns
    -------
    dict
        JSON-ready: `rev`, `commit`, `params` (name, then, now), `code` (files that differ), `same_index`, `corpus`,
        `images` and `people` of the test split, `ceiling` (macro F1, or null), `noise` (`source`, `level`), `latency`
        (of one image, `p95_ms`, `bytes`, `machine`, each then and now), and `scores`: for each of `SHOWN` its `then`
        and `now` with their `interval` over people, `change`, its `interval` over seeds, and the `verdict`: same,
        within (the noise of seeds), better, worse, other (images, which say nothing of the recipe), or null without
        two values.

    Raises
    ------
    UsageError
        If there is no such commit, or no git.
    CheckError
        If a file of metrics is damaged.
    """
    commit = experiments.baselines([rev])[0]
    now = here()
    ours = {key: str(now["params"].get(key)) for key in ("corpus", "scale")}
    table = workspace.results(ours["corpus"])
    paths = [*FILES, INTERVALS, INDEX, BENCHMARK, PARAMS, table.as_posix()]
    texts = dict(zip(paths, experiments.blobs([f"{commit}:{path}" for path in paths]), strict=True))
    then = _side(texts, f"{rev}:")
    own = table.read_text(encoding="utf-8") if own_table and table.is_file() else None
    noise, source = _noise(own if own_table else texts[table.as_posix()], ours, table.as_posix())
    same_index = then["index"] == now["index"]
    scores = []
    for key, title in SHOWN.items():
        one = {"key": key, "title": title, "then": then["scores"][key], "now": now["scores"][key]}
        scores.append(one | _change(key, then["scores"][key]["value"], now["scores"][key]["value"], noise, same_index))
    differing = experiments.differing("", then["params"], now["params"])
    code = experiments.git("diff", "--name-only", "-z", commit, "--", *CODE).decode().split("\0")
    return {
        **{"rev": rev, "commit": commit},
        "params": [{"name": name, "then": before, "now": after} for name, before, after in differing],
        "code": sorted(filter(None, code)),
        "same_index": same_index,
        **{"corpus": ours["corpus"], **{key: now[key] for key in ("images", "people", "ceiling")}},
        "noise": {"source": source, "level": LEVEL},
        "scores": scores,
        "latency": {key: {"then": then["latency"][key], "now": now["latency"][key]} for key in now["latency"]},
    }


def here() -> dict[str, Any]:
    """The workspace's own scores, and what they are of."""
    paths = [*FILES, INTERVALS, INDEX, BENCHMARK, PARAMS]
    return _side(experiments.workspace_run(paths).files, "")


def _side(texts: dict[str, str | None], where: str) -> dict[str, Any]:
    files: dict[str, Any] = {}
    for path in (*FILES, INTERVALS, INDEX, BENCHMARK):
        try:
            files[path] = dict(json.loads(texts[path] or "{}"))
        except (ValueError, TypeError) as error:
            raise CheckError(f"not a JSON object: {error}", where=f"{where}{path}", hint="`dvc repro`") from None
    scores = {}
    for key in SHOWN:
        part, _, name = METRIC[key].at.removeprefix("test.").rpartition(".")
        found = experiments.lookup(files[INTERVALS], f"{part or 'raw'}.{name}") or {}
        ends = ["basic_low", "basic_high"] if "basic_low" in found else ["low", "high"]  # of errors: calibration.md
        interval = [found[end] for end in ends] if found else None
        scores[key] = {"value": METRIC[key].of(files, [])[key], "interval": interval}
    one = files[BENCHMARK].get("batch_1", {})
    return {
        "scores": scores,
        "params": experiments.load_yaml(texts[PARAMS] or "") or {},
        "index": experiments.lookup(files[FILES[0]], "index_digest"),
        "images": experiments.lookup(files[FILES[2]], "test.n"),
        "people": files[INTERVALS].get("people"),
        "ceiling": experiments.lookup(files[INDEX], "ceiling_macro_f1.test"),
        "latency": {
            **{"p95_ms": one.get("p95_ms"), "bytes": files[BENCHMARK].get("model_bytes")},
            "machine": files[BENCHMARK].get("machine"),
        },
    }


def _noise(table: str | None, ours: dict[str, str], where: str) -> tuple[dict[str, float], str]:
    """By metric, what two runs that differ in the seed alone differ by at most, at `LEVEL`; and where that is from."""
    assumed = {key: float(stats.norm.ppf((1 + LEVEL) / 2)) * np.sqrt(2) * sd for key, sd in ASSUMED.items()}
    try:
        frame = pd.read_csv(StringIO(table or "family\n"), dtype=str)
        frame = frame.assign(**{key: pd.to_numeric(frame[key]) for key in SHOWN if key in frame})
    except ValueError as error:
        raise CheckError(f"no table of results: {error}", where=where, hint="`ferdistill study collect`") from None
    for key, value in ours.items():
        frame = frame[frame[key] == value] if key in frame else frame[:0]
    by = [name for name in RECIPE if name in frame]
    found: dict[str, float] = {}
    runs = 0
    for key in [name for name in SHOWN if name in frame and len(frame)]:
        seeds = [of.dropna().to_numpy() for _, of in frame.groupby(by, dropna=False)[key]]
        variance, freedom = pooled_variance([of for of in seeds if len(of)])
        if freedom > 1:
            found[key], runs = float(stats.t.ppf((1 + LEVEL) / 2, freedom)) * np.sqrt(2 * variance), len(frame)
    if not found:
        return assumed, "assumed: no table has seeds of this corpus"
    return assumed | found, f"of {runs} runs in {where}"


def _change(key: str, then: float | None, now: float | None, noise: dict[str, float], same: bool) -> dict[str, Any]:
    if then is None or now is None:
        return {"change": None, "interval": None, "verdict": None}
    change = now - then
    better = (change > 0) == (METRIC[key].better == "higher")
    verdict = (
        "same" if change == 0
        else "other" if not same
        else "within" if abs(change) <= noise[key]
        else "better" if better else "worse"
    )  # fmt: skip
    return {"change": change, "interval": [change - noise[key], change + noise[key]], "verdict": verdict}


def table_of(found: dict[str, Any]) -> list[str]:
    """Lines of at most 80 columns: a row a score, then what else differs, latency apart."""
    rows = [["on test", found["rev"][:12], "now, [95 %] over people", "change, [95 %] over seeds", ""]]
    for one in found["scores"]:
        then, now = one["then"]["value"], one["now"]
        change = "" if one["change"] is None else f"{one['change']:+z.4f} {_interval(one['interval'], '+z.3f')}"
        value = "-" if now["value"] is None else f"{now['value']:.4f} {_interval(now['interval'])}"
        rows.append(
            [one["title"], "-" if then is None else f"{then:.4f}", value, change, VERDICTS.get(one["verdict"], "")]
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines += ["", f"noise: what another seed may do, {found['noise']['source']}"]
    if not found["same_index"]:
        lines.append("other images: the index differs, so that no change says anything of the recipe")
    latency = found["latency"]
    if None not in (latency["p95_ms"]["then"], latency["p95_ms"]["now"]):
        elsewhere = latency["machine"]["then"] != latency["machine"]["now"]
        lines.append(
            f"latency, apart: {latency['p95_ms']['then']:.2f} -> {latency['p95_ms']['now']:.2f} ms (p95 of one "
            f"image){', on another machine' if elsewhere else ''}; "
            f"{latency['bytes']['then'] / 1e6:.2f} -> {latency['bytes']['now'] / 1e6:.2f} MB"
        )
    return [*lines, *_differing(found)]


def summary() -> list[str]:
    """What a run of the pipeline ends with: the score, the ceiling, what changed since HEAD, and the next command."""
    now = here()
    score = now["scores"]["macro_f1"]
    if score["value"] is None:
        return ["there is no score yet"]
    people, images = now["people"], now["images"]
    of = f"{people} people in {images} images" if people != images else f"{images} images, each of another person"
    lines = [f"macro F1 on test: {score['value']:.4f} {_interval(score['interval'])}, 95 % over {of}"]
    if now["ceiling"] is not None:
        lines.append(f"the ceiling:      {now['ceiling']:.4f}, for one who knows the annotators' distribution")
    try:
        return [*lines, *_since(beside("HEAD"))]
    except FerdistillError as error:  # the pipeline has run all the same
        return [*lines, f"since HEAD:       not compared: {error.what}"]


def _since(found: dict[str, Any]) -> list[str]:
    one = found["scores"][0]
    words = {
        "same": "the same score",
        "other": "not compared, since the images are others",
        "within": f"within the noise of seeds ({found['noise']['source']})",
    }
    if one["then"]["value"] is None:
        lines = ["since HEAD:       HEAD has no score"]
    else:
        said = words.get(one["verdict"], f"{one['verdict']} by more than another seed would do")
        counts = one["verdict"] not in ("same", "other")
        change = f"{one['change']:+z.4f} {_interval(one['interval'], '+z.3f')}, " if counts else ""
        lines = [f"since HEAD:       {change}{said}"]
    lines += [f"                  {line}" for line in _differing(found)]
    corpus = Path(f"{workspace.corpus(found['corpus'])}.dvc")
    kept = [PARAMS, "dvc.lock", "metrics", "plots", *([corpus.as_posix()] if corpus.is_file() else [])]
    if experiments.git("status", "--porcelain", "--", *kept):
        return [*lines, f"next:             git add {' '.join(kept)} && git commit"]
    return [*lines, "next:             ferdistill study run --grid conf/tutorial.yaml --dry-run   # several seeds"]


def _differing(found: dict[str, Any]) -> list[str]:
    changed = found["params"]
    lines = [
        f"{one['name']}: {clipped(str(one['then']), 30)} -> {clipped(str(one['now']), 30)}" for one in changed[:NAMED]
    ]
    lines += [f"and {len(changed) - NAMED} more params"] if len(changed) > NAMED else []
    count = len(found["code"])
    return [*lines, *([f"code: {count} file{'s' if count > 1 else ''}, first {found['code'][0]}"] if count else [])]


def _interval(ends: list[float] | None, form: str = ".3f") -> str:
    return "" if ends is None else f"[{ends[0]:{form}}, {ends[1]:{form}}]"
