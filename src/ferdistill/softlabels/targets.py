"""What a student distils from: the logits of one family's teachers on what it trains on, and how to weigh them."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .. import tensor_files
from ..data.index import Index, digests
from ..errors import CheckError, require_same
from ..files import read_json, sha256_file
from ..params import Params
from . import families

TENSORS = "targets.safetensors"
PLAN = "plan.json"
IN_MEMORY = 2 * 2**30  # bytes of logits; more stay in their file
BLOCK = 2**21  # numbers looked at at a time


class Kept(NamedTuple):
    """The logits of M teachers who keep the likeliest k classes of each of N images: see `top_k`."""

    top: np.ndarray  # uint16, (M, N, k)
    log_p: np.ndarray  # float32, (M, N, k): the logits of those classes
    log_other: np.ndarray  # float32, (M, N): the logit of each other class
    classes: int

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return self.top.shape[0], 1, self.top.shape[1], self.classes

    def at(self, rows: np.ndarray) -> np.ndarray:
        """Logits (M, B, K) of rows, int (B,)."""
        found = np.repeat(self.log_other[:, rows, None], self.classes, axis=2)
        np.put_along_axis(found, self.top[:, rows].astype(np.int64), self.log_p[:, rows], 2)
        return found


class InFile(NamedTuple):
    """The logits of M teachers for V views of N images, in a file that is larger than memory should be."""

    tensor: tensor_files.OnDisk

    @property
    def shape(self) -> tuple[int, ...]:
        return self.tensor.shape

    def at(self, rows: np.ndarray) -> np.ndarray:
        """As `Kept.at`; row v N + i is view v of image i."""
        teachers, views, length, classes = self.shape
        found = np.empty((teachers, len(rows), classes), np.float32)
        starts = np.flatnonzero(np.diff(rows, prepend=-2) != 1)
        for teacher in range(teachers):
            for first, last in zip(starts, [*starts[1:], len(rows)], strict=True):
                place = (teacher * views * length + int(rows[first])) * classes
                numbers = self.tensor.read(place, (last - first) * classes)
                found[teacher, first:last] = numbers.reshape(-1, classes)
        return found


Logits = np.ndarray | Kept | InFile


def blocks(logits: Logits) -> Iterator[np.ndarray]:
    """Logits (M, V, N, K) in blocks (M, n, K) of the V N rows."""
    teachers, views, length, classes = logits.shape
    height = max(1, BLOCK // max(1, teachers * classes))
    flat = logits.reshape(teachers, views * length, classes) if isinstance(logits, np.ndarray) else None
    for start in range(0, views * length, height):
        rows = np.arange(start, min(start + height, views * length))
        yield flat[:, rows[0] : rows[-1] + 1] if flat is not None else logits.at(rows)  # type: ignore[union-attr]


@dataclass(frozen=True)
class Targets:
    """M teachers, V views, the N rows of `Index.trained`, K classes; M is 0 for the cross-entropy baseline."""

    # (M, V, N, K) float32: with one view, of the images as they are; else of `softlabels.views`; NaN where a partial
    # teacher has no row. Not such an array where that is large, or where teachers keep the likeliest classes alone.
    logits: Logits
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
    places = tensor_files.places(file, expected="targets", hint="run `dvc checkout --force`, or `dvc repro targets`")
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
    k = plan.get("top_k")
    shapes: dict[str, tuple[type, tuple[int, ...]]] = {
        "weights": (np.float32, (teachers,)), "sources": (np.int64, (teachers,))
    }  # fmt: skip
    if "covered" in plan:
        shapes["covered"] = np.bool_, (teachers, rows)
    shapes |= shapes_of_logits((teachers, views, rows, classes), k)
    found = {name: (place.dtype.type, place.shape) for name, place in places.items()}
    tensors = _read(places, classes) if found == shapes else None
    if tensors is None or not _are_targets(*tensors):
        told = [{name: f"{kind.__name__} {shape}" for name, (kind, shape) in each.items()} for each in (found, shapes)]
        raise CheckError(
            f"tensors that are no targets: {told[0]}",
            where=str(file),
            expected=f"finite numbers, {told[1]}",
            hint="run `dvc repro targets`",
        )
    logits, others = tensors
    return Targets(logits, others["weights"], others["sources"], plan, others.get("covered"))


def shapes_of_logits(shape: tuple[int, int, int, int], k: int | None) -> dict[str, tuple[type, tuple[int, ...]]]:
    """The tensors that hold logits (M, V, N, K), all of them or of the likeliest k classes, with type and shape."""
    if k is None:
        return {"logits": (np.float32, shape)}
    each = shape[0], shape[2]
    return {"top": (np.uint16, (*each, k)), "log_p": (np.float32, (*each, k)), "log_other": (np.float32, each)}


def _read(places: dict[str, tensor_files.OnDisk], classes: int) -> tuple[Logits, dict[str, np.ndarray]]:
    """The logits, and the other tensors."""
    large = {name for name, of in places.items() if name == "logits" and np.prod(of.shape) * 4 > IN_MEMORY}
    tensors = {name: of.whole() for name, of in places.items() if name not in large}
    if large:
        return InFile(places["logits"]), tensors
    if "top" in tensors:
        return Kept(tensors.pop("top"), tensors.pop("log_p"), tensors.pop("log_other"), classes), tensors
    return tensors.pop("logits"), tensors


def _are_targets(logits: Logits, tensors: dict[str, np.ndarray]) -> bool:
    """Whether the numbers are finite, but for logits of rows that a teacher does not cover."""
    if isinstance(logits, Kept) and (logits.top >= logits.classes).any():
        return False
    covered, start = tensors.get("covered"), 0
    length = logits.shape[2]
    for block in blocks(logits):
        finite = np.isfinite(block).all(axis=2)
        if covered is not None:
            finite |= ~covered[:, np.arange(start, start + block.shape[1]) % length]
        if not finite.all():
            return False
        start += block.shape[1]
    return bool(np.isfinite(tensors["weights"]).all())
