"""Put soft labels into the order of the labels, as a new store or npz; nothing is ever repaired in place.

Rows with a path go where it says. Rows without one go where the canary is certain that they belong: it then knows the
order, or how far all rows are rotated. Where rows were lost, doubled or moved, it knows all but a few near each change
of step; these are dropped, if that is asked for.
"""

import importlib.metadata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import CheckError, UsageError
from ..files import atomic, sha256_file, write_json
from . import canary, foreign, holding, parts, probability_files
from .labelled import Labelled, of_index
from .parts import SoftLabels

if TYPE_CHECKING:
    from ..data.index import Index

# What log p is taken of where p = 0. At any temperature such a class stays at 0 next to the others.
FLOOR = np.finfo(np.float32).tiny
FORM = ".npz"
DROP = "--drop-unmatched"


class MissingRowsError(CheckError):
    """The soft labels do not cover the images; `missing` holds every path that they lack, in the labels' order."""

    missing: list[str]


@dataclass(frozen=True)
class Rows:
    """All n rows of some soft labels, and where each belongs."""

    names: list[str]  # the path of each, or the file and row
    where: list[str]  # file and row
    filed: np.ndarray  # (n,) the split that each was filed under, "" where none
    labels: np.ndarray  # (n,) objects; None where there is none
    array: np.ndarray  # (n, K), columns as in the files
    arg_max: np.ndarray  # (n,) places of columns
    at: np.ndarray  # (n,) rows of the table of labels; -1 where none, or not certain
    keyed: bool
    facts: dict[str, Any]  # how that is known


def repair(
    path: Path,
    against: "Index | Labelled",
    out: Path,
    *,
    columns: Sequence[str] | None = None,
    drop_unmatched: bool = False,
) -> dict[str, Any]:
    """Write soft labels in the order of an index or a table of labels.

    The rows are matched by path alone, whatever split they were filed under, or by the canary where there are no
    paths. What the labels do not have is left out, and copies of a row are dropped; both are named in the manifest.

    A store (`out` a directory, for an index) holds logits at temperature 1: of probabilities p it holds log p, whose
    softmax is p but for rounding and the sum (a zero becomes the smallest float32 above it, which is counted); what was
    made at a declared temperature T is multiplied by T, which undoes it. An npz (`out` ending in .npz) holds the values
    as they are, with `paths`, `labels`, `split` and `classes`; its manifest is the .json of the same name.

    Parameters
    ----------
    path
        Anything that `foreign.read_any` reads; it is left as it is.
    out
        Must not exist, nor lie in `path`.
    columns
        The classes that the columns hold, whatever the files name them.
    drop_unmatched
        Leave out rows of which it is not certain where they belong, and allow images without a row: npz only.

    Returns
    -------
    dict
        The new manifest. Its `provenance` holds the source's name, `files` (their digests), `kind` and `kind_from`,
        `temperature`, `classes` (the columns' order there; None if not named, so taken as the index's), `rows`,
        `moved` (rows that stood in another order within their file or split), `refiled` (rows filed under another
        split), `doubled` and `left_out` (paths, or rows), `unlabelled` (paths without a soft label), `zeros`
        (probabilities that were 0), `placed` (by which rule paths matched, or of each part without paths what
        `canary.judge` found: kind of fault, row, interval, evidence), `canary` (the verdict on the reordered rows, and
        why) and `versions`.

    Raises
    ------
    UsageError
        If `out` exists, lies in `path` or is of another form, or `path` is not there, or a store cannot be made.
    MissingRowsError
        If images are missing.
    CheckError
        If it is not certain where rows belong, less than half of a part would be left, copies of a row differ, labels
        contradict the index, the columns are not the classes, a row is not finite or not a distribution, or the canary
        finds the rows out of step with the labels although their keys say otherwise.
    """
    _require_new(path, out, table=isinstance(against, Labelled))
    images = against if isinstance(against, Labelled) else of_index(against)
    soft = foreign.read_any(path)
    if columns is not None:
        soft = replace(soft, classes=list(columns))
    widths = [part.columns for part in soft.parts.values()]
    order_of_classes = canary.class_columns(soft, images.classes, images.name_classes(max(widths, default=0)))
    rows = _keyed(soft, images) if soft.keyed else _keyless(soft, images, drop_unmatched)
    _require_most(soft, images, rows)
    _check_labels(rows, images)
    copies = _copies(rows)
    wanted = _wanted(soft, images, rows, out)
    missing = images.paths[np.setdiff1d(wanted, rows.at)].tolist()
    if missing and not drop_unmatched:
        raise _missing(soft, images, missing, len(wanted))
    if missing and out.suffix != FORM:
        hint = "name an .npz with --out"
        raise UsageError("a store needs a row for every image of its index", where=f"--out {out}", hint=hint)
    kept = np.flatnonzero((rows.at >= 0) & ~copies)
    order = kept[np.argsort(rows.at[kept])]
    at = rows.at[order]
    values = rows.array[order][:, order_of_classes]
    _check_values(soft, values, rows, order)
    examined = _examine(path, np.argsort(order_of_classes)[rows.arg_max[order]], at, images)
    provenance = {
        "directory": path.resolve().name,
        "files": {file.name: sha256_file(file) for file in _files(path)},
        "kind": soft.kind,
        "kind_from": soft.kind_from,
        "temperature": soft.temperature,
        "classes": soft.classes,
        **_moves(rows, kept, order, copies, images),
        "unlabelled": missing,
        "placed": rows.facts,
        "canary": {name: examined[name] for name in ("verdict", "why", "agreement", "chance")},
    }
    if out.suffix == FORM:
        return _write_npz(out, soft, images, at, values, provenance)
    return _write_store(out, soft, against, values, provenance)


def _moves(rows: Rows, kept: np.ndarray, order: np.ndarray, copies: np.ndarray, images: Labelled) -> dict[str, Any]:
    """What became of the rows: `kept` in the files' order, `order` in that of the labels."""
    filed, splits = rows.filed, images.splits
    groups = [rows.at[kept[filed[kept] == name]] for name in dict.fromkeys(filed[kept].tolist())]
    elsewhere = splits is not None and (filed[order] != "") & (filed[order] != splits[rows.at[order]])
    return {
        "rows": len(rows.at),
        "moved": sum(int((places != np.sort(places)).sum()) for places in groups),
        "refiled": int(np.sum(elsewhere)),
        "doubled": [rows.names[row] for row in np.flatnonzero(copies & (rows.at >= 0)).tolist()],
        "left_out": [rows.names[row] for row in np.flatnonzero(rows.at < 0).tolist()],
    }


def _require_new(path: Path, out: Path, table: bool) -> None:
    """`table`: whether the labels are a table, so that no store can be made."""
    hint = f"--out {path.stem}.repaired.npz" if table or path.is_file() else "--out NEW, a directory elsewhere"
    if out.resolve().is_relative_to(path.resolve()):
        raise UsageError("soft labels are never repaired in place", where=f"--out {out}", hint=hint)
    if out.suffix != FORM and (table or out.suffix.lower() in probability_files.READERS):
        raise UsageError(
            "a repair cannot be written in this form",
            where=f"--out {out}",
            expected="a file to make that ends in .npz" + ("" if table else "; or a directory, for a store"),
            hint=hint,
        )
    for made in (out, out.with_suffix(".json")) if out.suffix == FORM else (out,):
        if made.exists() or made.is_symlink():
            hint = "name one that does not exist"
            raise UsageError("there is something here already", where=str(made), hint=hint)


def _require_most(soft: SoftLabels, images: Labelled, rows: Rows) -> None:
    """Stop with a CheckError where less than half of a part would be left: that mends nothing."""
    places = np.split(rows.at, np.cumsum([len(part.rows) for part in soft.parts.values()])[:-1])
    if hopeless := holding.least_kept(holding.hold(soft, images), places):
        one, kept = hopeless
        split = f", split {one.split}" if one.split else ""
        paths = f"compare the paths with those of the labels, such as {images.paths[0]}"
        raise CheckError(
            f"a repair would keep {kept:,} of {len(one.part.rows):,} rows: of the others the image is not known",
            where=f"{one.part.file}{split}",
            expected="at least half of the rows of each split",
            hint=paths if rows.keyed else canary.bring_paths(soft),
        )


def _keyed(soft: SoftLabels, images: Labelled) -> Rows:
    found, rule = holding.found(soft, images)
    every = list(soft.parts.items())
    facts = {"by": "paths", "rule": rule or "equal as they are"}
    names = [path for _, part in every if part.paths is not None for path in part.paths.tolist()]
    return _rows(soft, names, np.concatenate([found[name] for name, _ in every]), facts)


def _keyless(soft: SoftLabels, images: Labelled, drop: bool) -> Rows:
    """Rows without a path, each part by the canary's finding."""
    held = holding.hold(soft, images)
    holding.require_known(held, images)
    places = np.argsort(canary.class_columns(soft, images.classes))
    at, facts = [], []
    for one in held:
        if not one.part.finite.all():
            row = int(one.part.finite.argmin())
            where, hint = f"{one.part.file}, row {row}", "export the soft labels anew"
            raise CheckError("soft labels that are not finite", where=where, hint=hint)
        predictions, labels, where = places[one.part.arg_max], images.codes[one.positions], str(one.part.file)
        if (labels < 0).any():
            raise CheckError(
                "rows without keys, some of images without a label: nothing shows where they belong",
                where=where,
                expected="a path for each row",
                hint="export them anew with a path for each row",
            )
        orders = images.sort_orders(one.positions)
        found = canary.judge(predictions, labels, len(images.classes), orders)
        place = canary.placed(found, predictions, labels, orders, len(images.classes))
        doubtful = int((place < 0).sum())
        if doubtful == len(place) or (doubtful and not drop):
            enough = holding.least_kept([one], [place]) is None
            raise CheckError(
                f"rows without keys, of which the canary is not certain where they belong: {found['why']}",
                where=f"{where}, {doubtful} of {len(place)} rows",
                expected="a path for each row, or a fault that shows where each belongs",
                hint=f"{DROP} keeps the other rows, and lists the images that then have no soft label"
                if enough
                else canary.remedy(found["shift"], soft, images, enough) or canary.bring_paths(soft),
            )
        at.append(np.where(place < 0, -1, one.positions[place]))
        told = ("shift", "slip_row", "slip_interval", "evidence", "agreement", "chance", "why")
        facts.append({"split": one.split, "guessed": one.guessed} | {name: found[name] for name in told})
    names = [f"{part.file.name}, row {row}" for part in soft.parts.values() for row in part.rows.tolist()]
    return _rows(soft, names, np.concatenate(at), {"by": "canary", "parts": facts})


def _rows(soft: SoftLabels, names: list[str], at: np.ndarray, facts: dict[str, Any]) -> Rows:
    every = list(soft.parts.items())
    labels = [np.full(len(part.rows), None) if part.labels is None else part.labels for _, part in every]
    return Rows(
        names=names,
        where=[f"{part.file}, row {row}" for _, part in every for row in part.rows.tolist()],
        filed=np.concatenate([np.full(len(part.rows), split, object) for split, part in every]),
        labels=np.concatenate(labels),
        array=every[0][1].values if len(every) == 1 else np.concatenate([part.values for _, part in every]),
        arg_max=np.concatenate([part.arg_max for _, part in every]),
        at=at,
        keyed=soft.keyed,
        facts=facts,
    )


def _wanted(soft: SoftLabels, images: Labelled, rows: Rows, out: Path) -> np.ndarray:
    """The images that must have a row: all for a store, else those of the splits that the soft labels are of."""
    if out.suffix != FORM:
        return np.arange(len(images.paths))
    if not rows.keyed:
        return np.concatenate([one.positions for one in holding.hold(soft, images)])
    names = [name for name in images.names if np.isin(images.positions(name), rows.at).mean() >= 0.5]
    return np.concatenate([images.positions(name) for name in names or images.names])


def _missing(soft: SoftLabels, images: Labelled, missing: list[str], of: int) -> MissingRowsError:
    command = images.repair_command(soft.directory, DROP)
    error = MissingRowsError(
        f"rows of the index are missing: {len(missing)} of {of}, the first {', '.join(missing[:10])}",
        where=str(soft.directory),
        expected="a row for every image",
        hint=f"export the soft labels anew: a lost row cannot be repaired; or {command} writes the others to an .npz",
    )
    error.missing = missing
    return error


def _check_labels(rows: Rows, images: Labelled) -> None:
    known = np.array([label is not None for label in rows.labels], bool)
    wrong = np.flatnonzero((rows.at >= 0) & known & (rows.labels != images.labels[rows.at]))
    if len(wrong):
        row = int(wrong[0])
        raise CheckError(
            f"labels that contradict the index: {len(wrong)}, the first {rows.labels[row]} for {rows.names[row]}",
            where=rows.where[row],
            expected=str(images.labels[rows.at[row]]),
            hint="these soft labels are of another version of the corpus: export them anew",
        )


def _copies(rows: Rows) -> np.ndarray:
    """Which rows repeat an earlier one, image and values, bool, (n,)."""
    known = np.flatnonzero(rows.at >= 0)
    images, first, which = np.unique(rows.at[known], return_index=True, return_inverse=True)
    earlier = np.arange(len(rows.at))
    earlier[known] = known[first][which] if len(images) else known
    copies = earlier != np.arange(len(earlier))
    for row in np.flatnonzero(copies).tolist():
        if (rows.array[row] != rows.array[earlier[row]]).any():
            raise CheckError(
                f"copies of a row that differ: {rows.names[row]} has other values in "
                f"{rows.where[earlier[row]].rpartition(', ')[2]}",
                where=rows.where[row],
                expected="each path once, or with the same values",
                hint="nothing says which is right: export the soft labels anew",
            )
    return copies


def _check_values(soft: SoftLabels, values: np.ndarray, rows: Rows, order: np.ndarray) -> None:
    finite, right = np.isfinite(values).all(axis=1), parts.distributions(values.astype(np.float32, copy=False))
    broken = np.flatnonzero(~right if soft.kind == "probabilities" and finite.all() else ~finite)
    if len(broken):
        row = int(broken[0])
        raise CheckError(
            f"rows that are no {soft.kind}: {len(broken)}, the first {values[row].tolist()} for "
            f"{rows.names[order[row]]}",
            where=rows.where[order[row]],
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


def _examine(path: Path, predictions: np.ndarray, at: np.ndarray, images: Labelled) -> dict[str, Any]:
    """What the canary says of rows put in order; it must not find them out of step."""
    labelled = images.codes[at] >= 0
    if not labelled.any():
        return {"verdict": "inconclusive", "why": "no image has a label", "agreement": None, "chance": None}
    at = at[labelled]
    examined = canary.judge(predictions[labelled], images.codes[at], len(images.classes), images.sort_orders(at))
    if examined["shift"] is not None and examined["shift"]["kind"] != "unrelated":
        raise CheckError(
            f"the keys are wrong: put in order by them, the rows are out of step with the labels: {examined['why']}",
            where=str(path),
            expected="soft labels whose arg-max agrees with the labels of their images",
            hint="find out where paths and soft labels parted, and export the soft labels anew",
        )
    return examined


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [file for file in (path, path.with_name(f"{path.stem}_paths.txt")) if file.is_file()]
    return [file for file in sorted(path.iterdir()) if file.is_file() and not file.name.startswith(".")]


def _write_npz(
    out: Path, soft: SoftLabels, images: Labelled, at: np.ndarray, values: np.ndarray, provenance: dict[str, Any]
) -> dict[str, Any]:
    columns: dict[str, Any] = {
        "probs" if soft.kind == "probabilities" else "logits": values,
        "paths": images.paths[at].astype(str),
        "labels": images.labels[at].astype(str),
        "classes": np.array(images.classes),
    }
    if images.splits is not None:
        columns["split"] = images.splits[at].astype(str)
    if soft.temperature is not None:
        columns["temperature"] = soft.temperature
    with atomic(out) as temporary:
        np.savez(temporary, **columns)
    versions = {name: importlib.metadata.version(name) for name in ("ferdistill", "numpy", "scipy")}
    manifest = {
        "teacher": soft.teacher,
        "classes": images.classes,
        "kind": soft.kind,
        "temperature": soft.temperature,
        "index_digest": images.digest,
        "sha256": sha256_file(out),
        "provenance": provenance | {"versions": versions},
    }
    write_json(out.with_suffix(".json"), manifest)
    return manifest


def _write_store(
    out: Path, soft: SoftLabels, index: Any, values: np.ndarray, provenance: dict[str, Any]
) -> dict[str, Any]:
    from . import store

    temperature, zeros = 1.0 if soft.temperature is None else soft.temperature, 0
    values = values.astype(np.float32, copy=False)
    if soft.kind == "probabilities":
        zeros = int((values < FLOOR).sum())
        values = np.log(np.maximum(values, FLOOR))
    versions = {name: importlib.metadata.version(name) for name in ("ferdistill", "numpy", "pandas", "pyarrow")}
    return store.write(
        out,
        index,
        (values * temperature).astype(np.float32),
        index.description["classes"],
        teacher=soft.teacher,
        checkpoint_sha256=(soft.manifest or {}).get("checkpoint_sha256"),
        provenance=provenance | {"zeros": zeros, "versions": versions},
    )
