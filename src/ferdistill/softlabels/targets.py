"""What a student distils from: the logits of one family's teachers on what it trains on, and how to weigh them."""

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
    """M teachers, V views, the N rows of `Index.trained`, K classes; M is 0 for the cross-entropy baseline."""

    # (M, V, N, K) float32: with one view, of the images as they are; else of `softlabels.views`; NaN where a partial
    # teacher has no row.
    logits: np.ndarray
    weights: np.ndarray  # (M,) float32: each teacher's weight in the whole family; they sum to 1
    sources: np.ndarray  # (M,) int64: the source of each; teachers of one source are fused, sources are kept split
    plan: dict[str, Any]  # the family, its fusion, its teachers with weights, and the digests of the rows
    covered: np.ndarray | None = None  # (M, N) bool: which rows each teacher has; None where all have all


def read(directory: Path, index: Index, params: Params) -> Targets:
    """Read targets and check that they belong to this index, these classes and this family.

    Raises a UsageError if a file is missing, a CheckError if it is damaged or of another index or another family.
    """
    plan = read_json(directory / PLAN, "sha256", "index_digest", "train", "classes", "run_family", "views", "teachers")
    file = directory / TENSORS
    tensors = tensor_files.read(file, expected="targets", hint="run `dvc checkout --force`, or `dvc repro targets`")
    facts = [
        ("tensors", plan["sha256"], sha256_file(file)),
        ("index digest", index.digest, plan["index_digest"]),
        ("train rows", digests(index.rows.iloc[index.trained()]), plan["train"]),
        ("classes", params.classes, plan["classes"]),
        ("family", families.run_family(params), plan["run_family"]),
        ("number of views", params.views, plan["views"]),
    ]
    require_same(facts, "the targets are not this run's", where=str(directory), hint="run `dvc repro targets`")
    views, rows, classes = params.views, len(index.trained()), len(params.classes)
    teachers = len(plan["teachers"])
    shapes: dict[str, tuple[int, ...]] = {
        "logits": (teachers, views, rows, classes), "weights": (teachers,), "sources": (teachers,)
    }  # fmt: skip
    if "covered" in plan:
        shapes["covered"] = (teachers, rows)
    found_shapes = {name: tensor.shape for name, tensor in tensors.items()}
    if found_shapes != shapes or not _are_targets(tensors):
        raise CheckError(
            f"tensors that are no targets: {found_shapes}",
            where=str(file),
            expected=f"finite numbers, {shapes}",
            hint="run `dvc repro targets`",
        )
    return Targets(tensors["logits"], tensors["weights"], tensors["sources"], plan, tensors.get("covered"))


def _are_targets(tensors: dict[str, np.ndarray]) -> bool:
    """Whether the numbers are finite, but for logits of rows that a teacher does not cover."""
    finite = np.isfinite(tensors["logits"]).all(axis=(1, 3))
    if "covered" in tensors:
        finite |= ~tensors["covered"]
    return bool(finite.all() and np.isfinite(tensors["weights"]).all())
