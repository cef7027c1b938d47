"""Put keyed soft labels into the index's order, as a new store; nothing is ever repaired in place."""

import importlib.metadata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..data.index import Index
from ..errors import CheckError, UsageError
from ..files import sha256_file
from . import canary, foreign, store
from .store import SoftLabels

# What log p is taken of where p = 0. At any temperature such a class stays at 0 next to the others.
FLOOR = np.finfo(np.float32).tiny


class MissingRowsError(CheckError):
    """The soft labels do not cover the index; `missing` holds every path that they lack, in the index's order."""

    missing: list[str]


def repair(directory: Path, index: Index, out: Path) -> dict[str, Any]:
    """Write soft labels that have a path for each row as a store in the index's order.

    The rows are matched by path alone, whatever split they were filed under. What the index does not have is left
    out, and copies of a row are dropped; both are named in the manifest. The store holds logits at temperature 1: of
    probabilities p it holds log p, whose softmax is p but for rounding and the sum (a zero becomes the smallest
    float32 above it, which is counted); what was made at a declared temperature T is multiplied by T, which undoes it.

    `directory` is anything that `foreign.read_any` reads, and is left as it is. `out` must not exist, nor lie in it.

    Returns
    -------
    dict
        The new manifest. Its `provenance` holds the source's name, `files` (their digests), `kind` and `kind_from`,
        `temperature`, `classes` (the columns' order there; None if not named, so taken as the index's), `rows`,
        `moved` (rows that stood in another order within their file or split), `refiled` (rows filed under another
        split), `doubled` and `left_out` (paths), `zeros` (probabilities that were 0), `canary` (the verdict on the
        reordered rows, and why) and `versions`.

    Raises
    ------
    UsageError
        If `out` exists or lies in `directory`, or `directory` is not there.
    MissingRowsError
        If rows of the index are missing.
    CheckError
        If there are no paths, copies of a row differ, labels contradict the index, the columns are not the index's
        classes, a row is not finite or not a distribution, or the canary finds the rows out of step with the index
        although their keys say otherwise.
    """
    if out.resolve().is_relative_to(directory.resolve()):
        raise UsageError("a store is never repaired in place", where=str(out), hint="name a new directory elsewhere")
    if out.exists() or out.is_symlink():
        raise UsageError("there is something here already", where=str(out), hint="name a directory that does not exist")
    soft = foreign.read_any(directory)
    classes: list[str] = index.description["classes"]
    columns = canary.class_columns(soft, classes)
    frame = _keyed(soft)
    values = np.concatenate([part.values for part in soft.parts.values()])[:, columns]
    at = pd.Index(index.rows["path"]).get_indexer(frame["path"])
    _check_labels(frame, at, index)
    copies = _copies(frame, values)
    missing = index.rows["path"][np.setdiff1d(np.arange(len(index.rows)), at)].tolist()
    if missing:
        error = MissingRowsError(
            f"rows of the index are missing: {len(missing)} of {len(index.rows)}, the first {', '.join(missing[:10])}",
            where=str(directory),
            expected="a row for every image of the index",
            hint="export the soft labels anew under this index: a lost row cannot be repaired",
        )
        error.missing = missing
        raise error
    kept = np.flatnonzero((at >= 0) & ~copies)
    order = kept[np.argsort(at[kept])]
    logits, zeros = _logits(soft, values[order], frame.iloc[order])
    labelled = np.flatnonzero(index.rows["label"] != "")
    orders = canary.sort_orders(index.rows.iloc[labelled])
    examined = canary.examine(logits[labelled], index.codes(classes)[labelled], orders=orders)
    if examined["shift"] is not None and examined["shift"]["kind"] != "unrelated":
        raise CheckError(
            f"the keys are wrong: put in order by them, the rows are out of step with the labels: {examined['why']}",
            where=str(directory),
            expected="soft labels whose arg-max agrees with the labels of their images",
            hint="find out where paths and soft labels parted, and export the soft labels anew",
        )
    filed = frame["split"].to_numpy()
    places = pd.Series(at[kept]).groupby(filed[kept])
    provenance = {
        "directory": directory.resolve().name,
        "files": {
            file.name: sha256_file(file)
            for file in sorted(directory.iterdir())
            if file.is_file() and not file.name.startswith(".")
        },
        "kind": soft.kind,
        "kind_from": soft.kind_from,
        "temperature": soft.temperature,
        "classes": soft.classes,
        "rows": len(frame),
        "moved": sum(int((place != np.sort(place)).sum()) for _, place in places),
        "refiled": int(((filed[order] != "") & (filed[order] != index.rows["split"].to_numpy())).sum()),
        "doubled": frame["path"][copies & (at >= 0)].tolist(),
        "left_out": frame["path"][at < 0].tolist(),
        "zeros": zeros,
        "canary": {name: examined[name] for name in ("verdict", "why", "agreement", "chance")},
        "versions": {name: importlib.metadata.version(name) for name in ("ferdistill", "numpy", "pandas", "pyarrow")},
    }
    return store.write(
        out,
        index,
        logits,
        classes,
        teacher=soft.teacher,
        checkpoint_sha256=(soft.manifest or {}).get("checkpoint_sha256"),
        provenance=provenance,
    )


def _keyed(soft: SoftLabels) -> pd.DataFrame:
    """path, label (None where unknown), split ("" where unknown), file and row of every row of every part."""
    frames = []
    for split, part in soft.parts.items():
        if part.paths is None:
            raise CheckError(
                "rows without keys: nothing says which image each belongs to",
                where=str(part.file),
                expected="a path for each row",
                hint="run `ferdistill align canary`, which compares them with the labels; or export them anew",
            )
        columns = {"path": part.paths.to_pylist(), "split": split, "file": part.file, "row": part.rows}
        columns["label"] = None if part.labels is None else part.labels.to_pylist()
        frames.append(pd.DataFrame(columns, dtype=object))
    return pd.concat(frames, ignore_index=True)


def _check_labels(frame: pd.DataFrame, at: np.ndarray, index: Index) -> None:
    right = index.rows["label"].to_numpy()[at]
    wrong = np.flatnonzero((at >= 0) & frame["label"].notna() & (frame["label"] != right))
    if len(wrong):
        row = int(wrong[0])
        raise CheckError(
            f"labels that contradict the index: {len(wrong)}, the first {frame['label'][row]} for {frame['path'][row]}",
            where=_where(frame, row),
            expected=str(right[row]),
            hint="these soft labels are of another version of the corpus: export them anew",
        )


def _copies(frame: pd.DataFrame, values: np.ndarray) -> np.ndarray:
    """Which rows repeat an earlier one, path and values, bool, (N,)."""
    codes, _ = pd.factorize(frame["path"])
    first = np.unique(codes, return_index=True)[1][codes]
    differing = np.flatnonzero((values != values[first]).any(axis=1) & (first != np.arange(len(first))))
    if len(differing):
        row = int(differing[0])
        raise CheckError(
            f"copies of a row that differ: {frame['path'][row]} has other values in row {frame['row'][first[row]]}",
            where=_where(frame, row),
            expected="each path once, or with the same values",
            hint="nothing says which is right: export the soft labels anew",
        )
    return first != np.arange(len(first))


def _logits(soft: SoftLabels, values: np.ndarray, frame: pd.DataFrame) -> tuple[np.ndarray, int]:
    """Logits at temperature 1, float32, and how many probabilities were too near 0 to have a logarithm."""
    finite, right = np.isfinite(values).all(axis=1), store.distributions(values)
    broken = np.flatnonzero(~right if soft.kind == "probabilities" and finite.all() else ~finite)
    if len(broken):
        row = int(broken[0])
        raise CheckError(
            f"rows that are no {soft.kind}: {len(broken)}, the first {values[row].tolist()} for "
            f"{frame['path'].iloc[row]}",
            where=_where(frame, row),
            expected="finite numbers" + (", the sum 1" if soft.kind == "probabilities" else ""),
            hint="export the soft labels anew",
        )
    if soft.kind == "logits" and right.all():
        raise CheckError(
            f"probabilities that are said to be logits ({soft.kind_from})",
            where=str(soft.directory),
            expected="rows that are not distributions",
            hint="rename the file, its entry or its columns: probs, or prob_<class>",
        )
    temperature = 1.0 if soft.temperature is None else soft.temperature
    if not 0 < temperature < np.inf:
        raise CheckError(f"temperature {temperature}", where=str(soft.directory), expected="a positive number")
    if soft.kind == "logits":
        return (values * temperature).astype(np.float32), 0
    return (np.log(np.maximum(values, FLOOR)) * temperature).astype(np.float32), int((values < FLOOR).sum())


def _where(frame: pd.DataFrame, row: int) -> str:
    return f"{frame['file'].iloc[row]}, row {frame['row'].iloc[row]}"
