"""Gather the soft labels of the chosen family's teachers into the targets of a student."""

from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from .. import workspace
from ..data.index import Index, digests
from ..errors import CheckError
from ..files import atomic, sha256_file, write_json
from ..params import Params
from . import families, store, views
from .parts import covered
from .targets import PLAN, TENSORS


def write_targets(directory: Path, index: Index, params: Params) -> None:
    """Write the targets of the chosen family, its soft labels having passed `alignment.check`."""
    rows = index.trained()
    parts: list[dict[str, Any]] = [
        {"teacher": teacher, "source": number, "weight": families.resolved_weight(source, params.lambda_) * weight}
        for number, source in enumerate(params.family_.sources if families.distils(params) else [])
        for teacher, weight in source.teachers.items()
    ]
    parts = [part for part in parts if part["weight"] > 0]  # lambda may be 0 or 1
    numbers = {number: place for place, number in enumerate(dict.fromkeys(part["source"] for part in parts))}
    logits = np.zeros((len(parts), params.views, len(rows), len(params.classes)), np.float32)
    has = np.ones((len(parts), len(rows)), bool)
    for place, part in enumerate(parts):
        part["source"] = numbers[part["source"]]
        directory_of = workspace.softlabels(part["teacher"], params.index_tag)
        table, manifest = store.read(directory_of)
        part["checkpoint_sha256"] = manifest["checkpoint_sha256"]
        logits[place, 0] = store.logits_of(table, params.classes)[rows]
        if params.views > 1:
            logits[place] = views.read(directory_of, index, params.views, manifest["table_sha256"])
        logits[place] /= params.family_.temperatures.get(part["teacher"], 1.0)
        if "covered" in manifest:
            has[place] = covered(logits[place, 0])
    untold = np.flatnonzero((index.codes(params.classes)[rows] < 0) & ~has.any(axis=0))
    for row in untold[:1] if parts else []:
        raise CheckError(
            f"images without a label that no teacher of the family covers: {len(untold)}",
            where=f"family {families.run_family(params)}; {index.rows['path'].iloc[rows[row]]}",
            expected="soft labels of one teacher at least, since nothing else is known of such an image",
            hint="add a teacher that covers them, or take them out of the corpus",
        )
    tensors: dict[str, np.ndarray] = {
        "logits": logits,
        "weights": np.array([part["weight"] for part in parts], np.float32),
        "sources": np.array([part["source"] for part in parts], np.int64),
    }
    coverage: dict[str, Any] = {}
    if not has.all():
        tensors["covered"] = has
        by_teacher = dict(zip((part["teacher"] for part in parts), has.sum(axis=1).tolist(), strict=True))
        coverage = {"covered": by_teacher, "uncovered": int((~has.any(axis=0)).sum())}
    with atomic(directory / TENSORS) as temporary:
        save_file(tensors, temporary)
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
            **coverage,
        },
    )
