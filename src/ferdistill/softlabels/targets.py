"""What a student distils from: the logits of one family's teachers on the train split, and how to weigh them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from .. import tensor_files, workspace
from ..data.index import Index, digests
from ..errors import CheckError, require_same
from ..files import atomic, read_json, sha256_file, write_json
from ..params import Params
from ..softlabels import families
from . import store, views

TENSORS = "targets.safetensors"
PLAN = "plan.json"


@dataclass(frozen=True)
class Targets:
    """M teachers, V views, N train rows, K classes; M is 0 for the cross-entropy baseline.

    Attributes
    ----------
    logits : ndarray, float32, (M, V, N, K)
        With one view, of the images as they are; with more, of the recorded views of `softlabels.views`.
    weights : ndarray, float32, (M,)
        Each teacher's weight in the whole family; they sum to 1.
    sources : ndarray, int64, (M,)
        Which source each teacher belongs to: teachers of one source are fused, sources are kept split.
    plan : dict
        The family, its fusion, its teachers with weights, and the digests of the rows.
    """

    logits: np.ndarray
    weights: np.ndarray
    sources: np.ndarray
    plan: dict[str, Any]


def write(directory: Path, index: Index, params: Params) -> None:
    """Write the targets of the chosen family, its soft labels having passed `alignment.check`."""
    rows = index.positions("train")
    parts: list[dict[str, Any]] = [
        {"teacher": teacher, "source": number, "weight": families.resolved_weight(source, params.lambda_) * weight}
        for number, source in enumerate(params.family_.sources if families.distils(params) else [])
        for teacher, weight in source.teachers.items()
    ]
    parts = [part for part in parts if part["weight"] > 0]  # lambda may be 0 or 1
    numbers = {number: place for place, number in enumerate(dict.fromkeys(part["source"] for part in parts))}
    logits = np.zeros((len(parts), params.views, len(rows), len(params.classes)), np.float32)
    for place, part in enumerate(parts):
        part["source"] = numbers[part["source"]]
        table, manifest = store.read(workspace.softlabels(part["teacher"], params.index_tag))
        part["checkpoint_sha256"] = manifest["checkpoint_sha256"]
        logits[place, 0] = store.logits_of(table, params.classes)[rows]
        if params.views > 1:
            directory_of = workspace.softlabels(part["teacher"], params.index_tag)
            logits[place] = views.read(directory_of, index, params.views, manifest["table_sha256"])
    tensors: dict[str, np.ndarray] = {
        "logits": logits,
        "weights": np.array([part["weight"] for part in parts], np.float32),
        "sources": np.array([part["source"] for part in parts], np.int64),
    }
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
        },
    )


def read(directory: Path, index: Index, params: Params) -> Targets:
    """Read targets and check that they belong to this index, these classes and this family.

    Raises
    ------
    UsageError, CheckError
        If a file is missing or damaged, or they are another index's or another family's.
    """
    plan = read_json(directory / PLAN, "sha256", "index_digest", "train", "classes", "run_family", "views", "teachers")
    file = directory / TENSORS
    tensors = tensor_files.read(file, expected="targets", hint="run `dvc checkout --force`, or `dvc repro targets`")
    facts = [
        ("tensors", plan["sha256"], sha256_file(file)),
        ("index digest", index.digest, plan["index_digest"]),
        ("train rows", digests(index.rows.iloc[index.positions("train")]), plan["train"]),
        ("classes", params.classes, plan["classes"]),
        ("family", families.run_family(params), plan["run_family"]),
        ("number of views", params.views, plan["views"]),
    ]
    require_same(facts, "the targets are not this run's", where=str(directory), hint="run `dvc repro targets`")
    views, rows, classes = params.views, len(index.positions("train")), len(params.classes)
    teachers = len(plan["teachers"])
    shapes = {"logits": (teachers, views, rows, classes), "weights": (teachers,), "sources": (teachers,)}
    found_shapes = {name: tensor.shape for name, tensor in tensors.items()}
    if found_shapes != shapes or not all(np.isfinite(tensor).all() for tensor in tensors.values()):
        raise CheckError(
            f"tensors that are no targets: {found_shapes}",
            where=str(file),
            expected=f"finite numbers, {shapes}",
            hint="run `dvc repro targets`",
        )
    return Targets(tensors["logits"], tensors["weights"], tensors["sources"], plan)
