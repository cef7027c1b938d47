"""Experiments -> one table, a row a run."""

import json
from datetime import timedelta, timezone
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
from pydantic import ValidationError

from .. import workspace
from ..data.index import TRANSFER
from ..errors import CheckError
from ..files import atomic, read_json, sha256
from ..params import Params, explain
from ..softlabels import families
from ..tracking import experiments
from ..tracking.experiments import AFTER, IN_PATHS, OWN, Experiment, lookup
from . import results
from .results import RECIPE
from .schema import EVALUATION, FILES, GROUPS, METRICS, SETTINGS, STUDENT

# Params that rows of one table may differ in, beside the families; and what only says how a stage is launched.
VARIED = {"family", "mode", "seed", *(setting.key for setting in SETTINGS)}
INDEX = (workspace.METRICS / "index.json").as_posix()
LAUNCH = "launch"
MODEL, PREDICTIONS = ((workspace.STUDENT / name).as_posix() for name in ("model.safetensors", "predictions.parquet"))


def collect(
    settings: Params, revs: list[str], tz_offset: float | None
) -> tuple[list[dict[str, Any]], list[tuple[str, str]]]:
    """Read every experiment that started from some commits, and keep those that belong in one table.

    Left out is what is not a run of this workspace's index, scale and settings, what is marked misaligned, and all
    but the newest of those that repeat a recipe and seed. The workspace itself is not a run. Returns the rows, in order
    of family, mode, the recipe's numbers and seed, and each experiment that is not among them with the reason.

    Parameters
    ----------
    settings : Params
        The workspace's.
    revs : list of str
        Commits that experiments started from; HEAD and its ancestors if empty.
    tz_offset : float or None
        Hours from UTC in which times are given, -14 to 14; the machine's own zone if None.

    Raises
    ------
    UsageError
        If a commit is not there, or the workspace has no index.
    """
    digest = read_json(_described(settings))["digest"]
    zone = None if tz_offset is None else timezone(timedelta(hours=tz_offset))
    kept: dict[tuple[Any, ...], tuple[Experiment, dict[str, Any]]] = {}
    left_out: list[tuple[str, str]] = []
    for experiment in experiments.read(experiments.baselines(revs), [*FILES, GROUPS, INDEX]):
        try:
            row = row_of(experiment, settings, digest)
        except CheckError as error:
            left_out.append((experiment.name, error.what))
            continue
        row["time"] = experiment.time.astimezone(zone).isoformat()
        key = tuple(row[name] for name in (*RECIPE, "seed"))
        older = kept.get(key)
        if older is None or experiment.time > older[0].time:
            kept[key] = experiment, row
        if older is not None:
            old, new = sorted((older[0], experiment), key=lambda one: one is kept[key][0])
            left_out.append((old.name, f"`{new.name}` of {new.commit[:7]} is newer, of the same recipe and seed"))
    in_order = sorted(kept, key=lambda key: [(value is not None, value) for value in key])
    return [kept[key][1] for key in in_order], left_out


def row_of(experiment: Experiment, ours: Params, digest: str) -> dict[str, Any]:
    """One row of the table, of a workspace with these params and this digest of its index; `time` is left empty.

    A CheckError with the reason if the experiment does not belong in the table.
    """
    raw, lock = experiment.params(), experiment.lock()
    try:
        params = Params.model_validate(raw)
    except ValidationError as error:
        raise CheckError(f"its params do not fit: {explain(error, Params).splitlines()[0].strip()}") from None
    files = {path: json.loads(text) for path in FILES if (text := experiment.files[path])}
    files[GROUPS] = json.loads(experiment.files.get(GROUPS) or "{}")
    absent = [path for path in FILES if path not in files] + [stage for stage in OWN if stage not in lock]
    if absent:
        raise CheckError(f"it has no {', '.join(absent)}")
    for stage in OWN:
        # An experiment that ran other stages alone carries the student of the commit it started from.
        if different := [key for key, value in _tracked(lock[stage]).items() if lookup(raw, key) != value]:
            raise CheckError(f"its {stage} was not run with its own params: {', '.join(different)} differ")
    student = files[STUDENT]
    outs = {out["path"]: out["md5"] for stage in lock.values() for out in stage.get("outs", [])}
    its_digest = student.get("index_digest") or _digest_in_cache(outs[_described(params).as_posix()])
    if student.get("misaligned"):
        raise CheckError("it is marked misaligned")
    alike = [(name.replace("_", " "), getattr(params, name), getattr(ours, name)) for name in IN_PATHS]
    for name, its, here in (*alike, ("index digest", its_digest[:12], digest[:12])):
        if its != here:
            raise CheckError(f"its {name} is {its}, the workspace's is {here}")
    if different := _differing(params, lock, ours):
        raise CheckError(f"it differs from the workspace in {', '.join(different)}")
    measured = {k: v for m in METRICS for k, v in m.of(files, params.classes, params.teachers).items()}
    if measured["macro_f1"] is None:
        raise CheckError(f"its {EVALUATION} has no macro_f1")
    return {
        "experiment": experiment.name,
        "family": student["run_family"],
        "mode": student["run_mode"],
        **{setting.key: setting.of(params) for setting in SETTINGS},
        "seed": params.seed,
        **measured,
        "images_seen": _images_seen(params, experiment.files.get(INDEX)),
        "scale": params.scale,
        "corpus": params.corpus,
        "index_tag": params.index_tag,
        "index_digest": its_digest,
        "misaligned": False,
        "commit": experiment.commit,
        "code": _code(lock),
        "time": None,
        "model": outs[MODEL],
        "predictions": outs[PREDICTIONS],
    }


def _images_seen(params: Params, index: str | None) -> int | None:
    """Images that the student saw in all its epochs, each time counted; None without the metrics of the index."""
    if index is None or "images_in" not in (held := json.loads(index)):
        return None
    images = held["images_in"]["train"] + (held["images_in"].get(TRANSFER, 0) if families.distils(params) else 0)
    return int(images * sum(phase.epochs for phase in params.scale_.student.phases))


def _described(params: Params) -> Path:
    return workspace.index_csv(params.index_tag).with_suffix(".json")


def _tracked(entry: dict[str, Any]) -> dict[str, Any]:
    """The params that a stage was run with."""
    return entry.get("params", {}).get("params.yaml", {})


def _digest_in_cache(md5: str) -> str:
    """The digest of an index, from its description in DVC's cache."""
    from ..tracking import dvc_private  # which takes a second

    cache = dvc_private.local_cache()
    file = dvc_private.stored(cache, md5) if cache else None
    if file is None or not file.is_file():
        raise CheckError("its index is not in DVC's cache; dvc fetch brings it")
    return str(read_json(file)["digest"])


def _differing(params: Params, lock: dict[str, Any], ours: Params) -> list[str]:
    """What the stages up to `evaluate` were run with otherwise than the workspace would, but for what may vary."""
    here = ours.model_dump(mode="json", by_alias=True, exclude_unset=True)  # as in a lock, which has no defaults
    tracked = {key: v for name, entry in lock.items() if name not in AFTER for key, v in _tracked(entry).items()}
    # The baseline has no use for a family.
    may = VARIED | {LAUNCH} | (set() if families.distils(params) else {f"families.{params.family}"})

    def fixed(key: str, value: Any) -> Any:
        """What may not vary of a param."""
        places = [setting.place(params.scale) for setting in SETTINGS if setting.within in ("student", "phase")]
        inner = {place.removeprefix(f"{key}."): None for place in places if place.startswith(f"{key}.")}
        return experiments.laid_over(value, inner) if inner and isinstance(value, dict) else value

    return sorted(
        key for key, value in tracked.items() if key not in may and fixed(key, lookup(here, key)) != fixed(key, value)
    )


def _code(lock: dict[str, Any]) -> str:
    """Digest of the code and starting weights that student, calibration and evaluation were run with."""
    deps = {
        dep["path"]: dep["md5"]
        for stage in OWN
        for dep in lock[stage]["deps"]
        if stage != "targets" and dep["path"].startswith(("src/", workspace.CHECKED.as_posix()))
    }
    return sha256(json.dumps(deps, sort_keys=True))


def require_kept(path: Path, rows: list[dict[str, Any]]) -> None:
    """Check that no run of the table at a path, if there is one, would be lost if these rows were written there.

    A run stays if these have its recipe and seed on its index and scale. A CheckError says how many would not.
    """
    if not path.is_file():
        return
    with TemporaryDirectory() as directory:
        write(Path(directory) / path.name, rows)
        new = results.read(Path(directory) / path.name)
    old = results.read(path)
    names = [name for name in (*RECIPE, "seed", *results.SAME) if name in old and name in new]
    kept = set(new[names].astype(str).itertuples(index=False, name=None))
    lost = [row for row in old[names].astype(str).itertuples(index=False, name=None) if row not in kept]
    if lost:
        raise CheckError(
            f"{len(lost)} of the {len(old)} runs there are not among the {len(new)} collected, and would be lost",
            where=str(path),
            expected="the same runs, newer ones, or more",
            hint="write another table by `--out mine.csv`, read by `--results mine.csv`; or this one by `--replace`",
        )


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows as CSV: floats in full, true and false in small letters, empty where a recipe has no such value."""
    frame = pd.DataFrame(rows, dtype=object).map(lambda value: str(value).lower() if isinstance(value, bool) else value)
    with atomic(path) as temporary:
        frame.to_csv(temporary, index=False, lineterminator="\n")
