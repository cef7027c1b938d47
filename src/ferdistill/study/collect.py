"""Experiments -> one table, a row a run."""

import json
from datetime import timedelta, timezone
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from pydantic import ValidationError

from .. import workspace
from ..errors import CheckError
from ..files import atomic, read_json, sha256
from ..params import Params, explain
from ..softlabels import families
from ..tracking import experiments
from ..tracking.experiments import OWN, Experiment, lookup
from . import comparison as compare
from . import results

METRICS = ["metrics/student.json", "metrics/calibration.json", "metrics/evaluation.json"]
# Params that rows of one table may differ in, and those that no result depends on.
VARIED = {
    "family", "mode", "seed", "lambda", "alpha", "beta", "temperature", "dkd_target_term", "views", "families",
}  # fmt: skip
IRRELEVANT = {"launch", "export", "benchmark", "scales"}
RECIPE = ["family", "mode", *results.RECIPE, "seed"]


class Collected(NamedTuple):
    """The rows, in order, and each experiment that is not among them with the reason."""

    rows: list[dict[str, Any]]
    left_out: list[tuple[str, str]]


def collect(settings: Params, revs: list[str], tz_offset: float) -> Collected:
    """Read every experiment that started from some commits, and keep those that belong in one table.

    Left out is what is not a run of this workspace's index, scale and settings, what is marked misaligned, and all
    but the newest of those that repeat a recipe and seed. The workspace itself is not a run.

    Parameters
    ----------
    settings : Params
        The workspace's.
    revs : list of str
        Commits that experiments started from; HEAD and its ancestors if empty.
    tz_offset : float
        Hours from UTC in which times are given, -14 to 14.

    Returns
    -------
    Collected
        Rows in order of family, mode, the recipe's numbers and seed.

    Raises
    ------
    UsageError
        If a commit is not there, or the workspace has no index.
    """
    here = _Here(settings)
    zone = timezone(timedelta(hours=tz_offset))
    kept: dict[tuple[Any, ...], tuple[Experiment, dict[str, Any]]] = {}
    left_out: list[tuple[str, str]] = []
    for experiment in experiments.read(experiments.baselines(revs), METRICS):
        try:
            row = _row(experiment, here, zone)
        except CheckError as error:
            left_out.append((experiment.name, error.what))
            continue
        key = tuple(row[name] for name in RECIPE)
        older = kept.get(key)
        if older is None or experiment.time > older[0].time:
            kept[key] = experiment, row
        if older is not None:
            old, new = sorted((older[0], experiment), key=lambda one: one is kept[key][0])
            left_out.append((old.name, f"`{new.name}` of {new.commit[:7]} is newer, of the same recipe and seed"))
    rows = [row for _, row in kept.values()]
    rows.sort(key=lambda row: tuple((row[name] is not None, row[name]) for name in RECIPE))
    return Collected(rows, left_out)


class _Here:
    """What a run must have in common with the workspace, and the indexes that were looked up."""

    def __init__(self, settings: Params) -> None:
        self.settings = settings
        self.params = settings.model_dump(mode="json", by_alias=True)
        self.cache = compare.local_cache()
        self.digests: dict[str, str] = {}
        described = workspace.index_csv(settings.index_tag).with_suffix(".json")
        self.digest: str = read_json(described)["digest"]

    def digest_of(self, md5: str) -> str:
        """The digest of an index, from its description in DVC's cache."""
        if md5 not in self.digests:
            file = compare.stored(self.cache, md5) if self.cache else None
            if file is None or not file.is_file():
                raise CheckError("its index is not in DVC's cache; dvc fetch brings it")
            self.digests[md5] = read_json(file)["digest"]
        return self.digests[md5]


def _row(experiment: Experiment, here: _Here, zone: timezone) -> dict[str, Any]:
    """One row, or CheckError with the reason why the experiment does not belong in the table."""
    raw, lock = experiment.params(), experiment.lock()
    try:
        params = Params.model_validate(raw)
    except ValidationError as error:
        raise CheckError(f"its params do not fit: {explain(error, Params).splitlines()[0].strip()}") from None
    files = {path: json.loads(text) for path in METRICS if (text := experiment.files[path])}
    absent = [path for path in METRICS if path not in files] + [stage for stage in OWN if stage not in lock]
    if absent:
        raise CheckError(f"it has no {', '.join(absent)}")
    for stage in OWN:
        tracked = lock[stage].get("params", {}).get("params.yaml", {})
        # An experiment that ran other stages alone carries the student of the commit it started from.
        different = [key for key, value in tracked.items() if lookup(raw, key) != value]
        if different:
            raise CheckError(f"its {stage} was not run with its own params: {', '.join(different)} differ")
    student, calibration, evaluation = files.values()
    outs = {out["path"]: out["md5"] for stage in lock.values() for out in stage.get("outs", [])}
    described = workspace.index_csv(params.index_tag).with_suffix(".json").as_posix()
    digest = student.get("index_digest") or here.digest_of(outs[described])
    misaligned = bool(student.get("misaligned", False))
    _require_comparable(params, digest, misaligned, here)
    dkd, distils = families.run_mode(params) == "dkd", families.distils(params)
    weighted = distils and families.has_lambda(params.family_)
    validation, test, report = student["validation"], evaluation["test"], student["report_protocol"]
    classes = params.classes
    return {
        "experiment": experiment.name,
        "family": student["run_family"],
        "mode": student["run_mode"],
        "lambda": params.lambda_ if weighted else None,
        "beta": params.beta if dkd else None,
        "dkd_target_term": params.dkd_target_term if dkd else None,
        "fusion": params.family_.fusion if distils else None,
        "alpha": params.alpha if distils else None,
        "temperature": params.temperature if distils else None,
        "views": params.views,
        "seed": params.seed,
        "best_epoch": student["best_epoch"],
        "val_macro_f1": validation["macro_f1"],
        "val_accuracy": validation["accuracy"],
        "macro_f1": test["macro_f1"],
        "accuracy": test["accuracy"],
        **{f"f1_{name}": test["f1"][name] for name in classes},
        **{name: test["raw"][name] for name in ("nll", "brier", "ece", "mce")},
        **{f"{name}_scaled": test["scaled"][name] for name in ("nll", "brier", "ece", "mce")},
        "ece_null": test["ece_null"],
        **{name: calibration[name] for name in ("t_star", "t_star_grid", "grid_at_edge")},
        **{name: report[name] for name in ("best_test_epoch", "best_test_macro_f1", "best_test_acc")},
        **{f"best_test_f1_{name}": report["best_test_f1"][name] for name in classes},
        "optimism_macro_f1": report["optimism_macro_f1"],
        "scale": params.scale,
        "corpus": params.corpus,
        "index_tag": params.index_tag,
        "index_digest": digest,
        "misaligned": misaligned,
        "commit": experiment.commit,
        "code": _code(lock),
        "time": experiment.time.astimezone(zone).isoformat(),
        "model": outs["models/student/model.safetensors"],
        "predictions": outs["models/student/predictions.parquet"],
    }


def _require_comparable(params: Params, digest: str, misaligned: bool, here: _Here) -> None:
    mine = here.settings
    if misaligned:
        raise CheckError("it is marked misaligned")
    for name, its, ours in (
        ("scale", params.scale, mine.scale),
        ("index tag", params.index_tag, mine.index_tag),
        ("index digest", digest[:12], here.digest[:12]),
    ):
        if its != ours:
            raise CheckError(f"its {name} is {its}, the workspace's is {ours}")
    theirs = params.model_dump(mode="json", by_alias=True)
    different = sorted(k for k in theirs.keys() - VARIED - IRRELEVANT if theirs[k] != here.params[k])
    if theirs["scales"][mine.scale] != here.params["scales"][mine.scale]:
        different.append(f"scales.{mine.scale}")
    if families.run_family(params) != "none" and theirs["families"][params.family] != here.params["families"].get(
        params.family
    ):
        different.append(f"families.{params.family}")
    if different:
        raise CheckError(f"it differs from the workspace in {', '.join(different)}")


def _code(lock: dict[str, Any]) -> str:
    """Digest of the code and starting weights that student, calibration and evaluation were run with."""
    deps = {
        dep["path"]: dep["md5"]
        for stage in ("student", "calibrate", "evaluate")
        for dep in lock[stage]["deps"]
        if dep["path"].startswith(("src/", workspace.CHECKED.as_posix()))
    }
    return sha256(json.dumps(deps, sort_keys=True))


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows as CSV: floats in full, true and false in small letters, empty where a recipe has no such value."""
    frame = pd.DataFrame(rows, dtype=object)
    for column in frame.columns[frame.map(lambda value: isinstance(value, bool)).any()]:
        frame[column] = frame[column].map({True: "true", False: "false"})
    with atomic(path) as temporary:
        frame.to_csv(temporary, index=False, lineterminator="\n")
