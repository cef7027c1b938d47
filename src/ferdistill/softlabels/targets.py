"""What a student distils from: the logits of one family's teachers on the train split, and how to weigh them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .. import tensor_files
from ..data.index import Index, digests
from ..errors import CheckError, require_same
from ..files import read_json, sha256_file
from ..params import Params
from . import families

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
