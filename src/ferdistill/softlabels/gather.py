"""Gather the soft labels of the chosen family's teachers into the targets of a student."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from .. import tensor_files, workspace
from ..data.index import Index, digests
from ..errors import CheckError
from ..files import atomic, sha256_file, write_json
from ..params import Params
from . import families, store, top_k, views
from .parts import SoftLabels, covered
from .targets import PLAN, TENSORS, shapes_of_logits

Put = Callable[[str, int, np.ndarray], None]


def write_targets(directory: Path, index: Index, params: Params) -> None:
    """Write the targets of the chosen family, its soft labels having passed `alignment.check`.

    Where its stores keep the likeliest classes alone, so do the targets.
    """
    rows = index.trained()
    parts: list[dict[str, Any]] = [
        {"teacher": teacher, "source": number, "weight": families.resolved_weight(source, params.lambda_) * weight}
        for number, source in enumerate(params.family_.sources if families.distils(params) else [])
        for teacher, weight in source.teachers.items()
    ]
    parts = [part for part in parts if part["weight"] > 0]  # lambda may be 0 or 1
    numbers = {number: place for place, number in enumerate(dict.fromkeys(part["source"] for part in parts))}
    soft = [store.describe(workspace.softlabels(part["teacher"], params.index_tag)) for part in parts]
    for part, of in zip(parts, soft, strict=True):
        part["source"] = numbers[part["source"]]
        part["checkpoint_sha256"] = (of.manifest or {})["checkpoint_sha256"]
    kept = _kept_by_all(soft)
    has = np.ones((len(parts), len(rows)), bool)
    for place, of in enumerate(soft):
        if of.partial:
            has[place] = _covered(of, rows)
    untold = np.flatnonzero((index.codes(params.classes)[rows] < 0) & ~has.any(axis=0))
    for row in untold[:1] if parts else []:
        raise CheckError(
            f"images without a label that no teacher of the family covers: {len(untold)}",
            where=f"family {families.run_family(params)}; {index.rows['path'].iloc[rows[row]]}",
            expected="soft labels of one teacher at least, since nothing else is known of such an image",
            hint="add a teacher that covers them, or take them out of the corpus",
        )
    small: dict[str, np.ndarray] = {
        "weights": np.array([part["weight"] for part in parts], np.float32),
        "sources": np.array([part["source"] for part in parts], np.int64),
    }
    coverage: dict[str, Any] = {}
    if not has.all():
        small["covered"] = has
        by_teacher = dict(zip((part["teacher"] for part in parts), has.sum(axis=1).tolist(), strict=True))
        coverage = {"covered": by_teacher, "uncovered": int((~has.any(axis=0)).sum())}
    shapes: dict[str, tuple[type, tuple[int, ...]]] = {
        name: (tensor.dtype.type, tensor.shape) for name, tensor in small.items()
    }
    shapes |= shapes_of_logits((len(parts), params.views, len(rows), len(params.classes)), kept)
    with (
        atomic(directory / TENSORS) as temporary,
        tensor_files.written_in_parts(temporary, shapes) as put,
    ):
        for name, tensor in small.items():
            put(name, 0, tensor)
        for place, (part, of) in enumerate(zip(parts, soft, strict=True)):
            temperature = params.family_.temperatures.get(part["teacher"], 1.0)
            if kept is not None:
                _put_kept(put, place, of, params.classes, rows, temperature)
            else:
                _put_logits(put, place, of, params, index, rows, temperature)
    write_json(
        directory / PLAN,
        {
            "run_family": families.run_family(params),
            "fusion": params.family_.fusion if families.distils(params) else None,
            "views": params.views,
            "classes": params.classes,
            "teachers": parts,
            "index_digest": index.digest,
            "train": digests(index.rows.iloc[rows]),
            "sha256": sha256_file(directory / TENSORS),
            **({} if kept is None else {"top_k": kept}),
            **coverage,
        },
    )


def _kept_by_all(soft: list[SoftLabels]) -> int | None:
    """How many classes these stores keep of each image; None if all. A CheckError where they differ."""
    counts = {of.directory.as_posix(): of.top_k for of in soft}
    if len(set(counts.values())) > 1:
        raise CheckError(
            "soft labels that keep unlike numbers of classes: "
            + ", ".join(f"{where} {k or 'all'}" for where, k in counts.items()),
            where="the family's teachers",
            expected="the same number, `top_k` in params.yaml",
            hint="run `dvc repro`",
        )
    return next(iter(counts.values()), None)


def _covered(of: SoftLabels, rows: np.ndarray) -> np.ndarray:
    return np.concatenate([covered(values) for _, values in store.read_batches(of, [])])[rows]


def _runs(rows: np.ndarray, start: int, stop: int) -> list[tuple[int, np.ndarray]]:
    """Of the rows trained on those from `start` to before `stop` of the index, in runs.

    Of each run the place of its first among `rows`, and which rows after `start` they are.
    """
    places = np.flatnonzero((rows >= start) & (rows < stop))
    runs = np.split(places, np.flatnonzero(np.diff(places) != 1) + 1)
    return [(int(run[0]), rows[run] - start) for run in runs if len(run)]


def _put_logits(
    put: Put, place: int, of: SoftLabels, params: Params, index: Index, rows: np.ndarray, temperature: float
) -> None:
    classes, length = len(params.classes), len(rows)
    first = place * params.views * length * classes
    if params.views > 1:
        digest = (of.manifest or {})["table_sha256"]
        put("logits", first, views.read(of.directory, index, params.views, digest) / np.float32(temperature))
        return
    named, start = of.classes or [], 0
    columns = [named.index(name) for name in params.classes]
    for _, values in store.read_batches(of, []):
        for at, chosen in _runs(rows, start, start + len(values)):
            put("logits", first + at * classes, values[chosen][:, columns] / np.float32(temperature))
        start += len(values)


def _put_kept(put: Put, place: int, of: SoftLabels, classes: list[str], rows: np.ndarray, temperature: float) -> None:
    k, start, length = of.top_k or 0, 0, len(rows)
    numbers = np.array([classes.index(name) for name in of.classes or []], np.uint16)
    for _, kept in store.read_kept(of, []):
        other = top_k.log_other(kept, len(classes))
        for at, chosen in _runs(rows, start, start + len(other)):
            put("top", (place * length + at) * k, numbers[kept.top[chosen]])
            put("log_p", (place * length + at) * k, kept.log_p[chosen] / np.float32(temperature))
            put("log_other", place * length + at, other[chosen] / np.float32(temperature))
        start += len(other)
