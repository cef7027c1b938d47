"""The canary: are soft labels without keys in step with the index?

Only the arg-max of a row is used: it is the same for logits and probabilities, at any temperature. Its confusion with
the labels gives p(a | y), and so each pairing of rows with labels its log likelihood ratio
sum_i log p(a_i | y_i) / p(a_i) over rows that belong to no label. Pairings are compared by it: in step throughout;
out of step by s rows from row r on, and back; a block that stands elsewhere; the rows in another sort order.

Were a row's arg-max drawn from p(a | y), the likelihood ratio of any wrong pairing to the right one would have
expectation 1, whatever the order of the labels, so a change of step that could have been placed in n ways is believed
if it gains log(n / ALPHA): then at most ALPHA of the intact sets raise a false alarm, over all pairings searched.
Errors that come in stretches (a hard source, a subject the teacher misreads) break that assumption; hence a stretch is
called unrelated to its labels only if its own agreement with them is chance, and far below a useful teacher's.
"""

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd

from ..data.index import SPLITS, TRANSFER, Index
from ..errors import CheckError
from ..progress import track
from . import foreign, pairing, store
from .pairing import SIGNIFICANCE, USEFUL, Segment
from .store import SoftLabels

ADEQUATE = 0.8  # power without which an intact set is not called aligned


def examine(
    values: np.ndarray,
    labels: np.ndarray,
    *,
    orders: Mapping[str, np.ndarray] | None = None,
    others: Sequence[np.ndarray] = (),
) -> dict[str, Any]:
    """Examine one set of soft labels against the labels of the index.

    Parameters
    ----------
    values : (N, K)
        Logits or probabilities, finite.
    labels : (M,)
        Those of the index in its order, in 0..K-1.
    orders : {name: (M,)}
        Other orders in which the rows may have been written, as positions in the index; see `sort_orders`.
    others : (M, K) each
        Soft labels of other teachers. Teachers share errors, so they see slips that the labels cannot (inside a
        long run of one label). In step with one another, they may still all be out of step with the index.

    Returns
    -------
    dict, JSON-safe
        - `verdict`: "misaligned" if the lengths differ, if a pairing other than the index's, or another order of the
          columns, wins, if the rows are out of step with two other teachers and with most, or if the agreement is
          chance (p >= 0.01) where a teacher of 40 % accuracy would be told from chance with power 0.99;
          "aligned" if the agreement is above chance, no slip was found, and one lost or doubled row would be
          reported at 80 % of the places or more; else "inconclusive".
        - `why`: the reason, in one sentence.
        - `rows`, `index_rows`: N and M.
        - `agreement`, `chance`, `p_value`: of the arg-max with the labels in the index's order; what a shuffle
          would give; and the chance of a shuffle that agrees as well (normal approximation, never 0).
        - `shift`: None, or `kind` ("dropped", "doubled", "swapped", "moved", "several", "unrelated", "order",
          "columns", "length", "teachers") with `rows` (how many were lost or doubled), `order` (its name),
          `columns` (column j holds class `columns[j]`) where they apply, and `segments` of {start, stop, shift}:
          there, row i belongs to index row i + shift (None: to none found).
        - `slip_row`, `slip_interval`: the first row that is out of step, and the least and greatest row where it
          may be, with 99 % credibility; between teachers it holds the row in some 85 of 100 cases.
        - `evidence`: `log_likelihood_ratio` of what was found over being in step, and the `threshold`, in nats.
        - `power`: share of the places at which one lost or doubled row would be reported, `blind_rows`: the number
          of the others, usually the last; None unless no fault was found.
        - `unresolved_orders`: the orders that the labels cannot tell from the index's.
        - `others`: for each other teacher, `agreement`, `chance`, `p_value`, `slip_row`, `slip_interval`, `shift`.

    Raises a CheckError if an array is empty, has the wrong shape, is not finite, or a label is out of range.
    """
    predictions = _arg_max(values)
    classes = values.shape[1]
    if len(labels) == 0 or labels.min() < 0 or labels.max() >= classes:
        raise CheckError(
            "labels that are not positions of the soft labels' columns",
            expected=f"at least one, in 0..{classes - 1}",
            hint="examine soft labels that have a column for each class of the index",
        )
    rows, shared = len(predictions), min(len(predictions), len(labels))
    agreement, chance, p_value = pairing.agreement(predictions[:shared], labels[:shared])
    shift, why, slip, evidence, unresolved = _look(predictions, labels, orders or {}, classes, p_value < SIGNIFICANCE)
    verdict = "misaligned"
    compared = [_compare(predictions, labels, _arg_max(other), classes) for other in others]
    against = [other for other in compared if other["shift"] is not None]
    blind_rows = None
    if shift is None:
        verdict, blind_rows = "inconclusive", pairing.blind_rows(predictions, labels, classes)
        if p_value >= SIGNIFICANCE:
            why = "the agreement is not above chance, and there are too few rows to say more"
        elif len(against) >= 2 and 2 * len(against) > len(compared):
            verdict, shift = "misaligned", {**against[0]["shift"], "kind": "teachers"}
            slip = {name: against[0][name] for name in ("slip_row", "slip_interval")}
            why = (
                f"in step with the labels as far as they show, but not with {len(against)} of {len(compared)} teachers"
            )
        elif against:
            why = "in step with the labels as far as they show, but not with another teacher"
        elif blind_rows > (1 - ADEQUATE) * rows:
            why = f"no slip found, but one lost row would go unseen at {blind_rows} of {rows} places"
        else:
            verdict, why = "aligned", "the agreement is above chance, and no slip was found"
    return {
        "verdict": verdict,
        "why": why,
        "rows": rows,
        "index_rows": len(labels),
        "agreement": agreement,
        "chance": chance,
        "p_value": p_value,
        "shift": shift,
        **slip,
        "evidence": evidence,
        "power": None if blind_rows is None else 1 - blind_rows / rows,
        "blind_rows": blind_rows,
        "unresolved_orders": unresolved,
        "others": compared,
    }


def _look(
    predictions: np.ndarray, labels: np.ndarray, orders: Mapping[str, np.ndarray], classes: int, above_chance: bool
) -> tuple[dict[str, Any] | None, str, dict[str, Any], dict[str, float], list[str]]:
    """Hold one set against the labels alone: `shift` (None if nothing is wrong), `why`, slip, evidence, unresolved."""
    rows, index_rows = len(predictions), len(labels)
    shared = min(rows, index_rows)
    order, unresolved = pairing.best_order(predictions[:shared], labels, orders)
    paired = labels if order is None else labels[orders[order]]
    segments, gain, threshold = pairing.trace(predictions, paired, classes, classes)
    if rows != index_rows and _describe(segments) is None and above_chance:
        # Rows were lost or doubled: where nothing shows it, so near the end that nothing can.
        segments = [(0, rows, 0), (rows, rows, index_rows - rows)]
    slip = pairing.first_change(predictions, paired, segments, classes, classes)
    columns = pairing.column_order(predictions, paired, segments, classes)
    shift, why = _describe(segments), ""
    if order is not None:
        shift, why = {"kind": "order", "order": order}, f"the rows are in another order: {order}"
    elif columns is not None:
        shift, why = {"kind": "columns", "columns": columns}, "the columns are not the classes in the index's order"
    elif shift is not None:
        why = _sentence(shift)
    elif pairing.at_chance(predictions[:shared], labels[:shared]):
        shift, segments = {"kind": "unrelated"}, [(0, rows, None)]
        why = f"the agreement is chance: shuffled, of other images, or of a teacher below {USEFUL:.0%} accuracy"
    elif rows != index_rows:
        shift = {"kind": "length"}
    if shift is not None:
        shift |= _listed(segments)
    if rows != index_rows:
        why = f"{rows} rows for {index_rows} of the index" + (f"; {why}" if why else "")
    return shift, why, slip, {"log_likelihood_ratio": gain, "threshold": threshold}, unresolved


def check(directories: Sequence[Path], index: Index) -> dict[str, Any]:
    """Examine directories of soft labels, split by split, against an index and one another.

    Rows are taken as they lie: paths and labels in the files are not consulted (`alignment.check` does that). Columns
    are taken by name where the files name them. A directory is anything that `foreign.read_any` reads. Of a partial
    teacher the rows that it has are examined, and held against teachers that have the same.

    Returns
    -------
    dict
        `dirs`; `results`, a list of {dir, split, **what `examine` gives, hint}, split "" being the whole index and
        `hint` what to do about a fault, else None; and `ok`: whether every verdict is "aligned". Teachers that are
        misaligned on their own are not held against others.

    Raises a UsageError if a directory is not there, a CheckError if a file cannot be read, has other classes or splits
    than the index, or values that are not finite.
    """
    classes = index.description["classes"]
    codes = index.codes(classes)
    unlabelled = bool((codes < 0).any())
    sets: dict[tuple[str, bytes], dict[Path, np.ndarray]] = {}  # by split, and by which of its rows are there
    facts: dict[Path, tuple[bool, bool]] = {}
    for directory in directories:
        soft = foreign.read_any(directory)
        facts[directory] = soft.classes is not None, all(part.paths is not None for part in soft.parts.values())
        columns = class_columns(soft, classes)
        for split, part in soft.parts.items():
            if split == TRANSFER and unlabelled:
                continue  # there is nothing to hold it against
            if split not in ("", *SPLITS):
                raise CheckError(
                    f"a split that the index does not have: {split}",
                    where=str(part.file),
                    expected=", ".join(SPLITS),
                    hint="rename it, or take it out",
                )
            values, has = part.values[:, columns], b""
            if "covered" in (soft.manifest or {}) or (split == "" and unlabelled):
                there = store.covered(values)
                if split == "":
                    there &= _labelled(codes, len(values), part.file)
                values, has = values[there], there.tobytes()
            if len(values):
                sets.setdefault((split, has), {})[directory] = values
    results = []
    order_of = ("", *SPLITS)
    for split, has in track(sorted(sets, key=lambda key: order_of.index(key[0])), "canary", len(sets)):
        positions = index.positions(split) if split else np.arange(len(codes))
        positions = positions[np.frombuffer(has, bool)] if has else positions
        labels, orders = codes[positions], sort_orders(index.rows.iloc[positions])
        alone = {directory: examine(values, labels, orders=orders) for directory, values in sets[split, has].items()}
        trusted = [directory for directory, result in alone.items() if result["verdict"] != "misaligned"]
        for directory, result in alone.items():
            others = [sets[split, has][other] for other in trusted if other != directory]
            if others and directory in trusted:
                result = examine(sets[split, has][directory], labels, orders=orders, others=others)
            hint = _remedy(result["shift"], directory, classes, *facts[directory])
            results.append({"dir": directory.as_posix(), "split": split, **result, "hint": hint})
    return {
        "dirs": [directory.as_posix() for directory in directories],
        "results": results,
        "ok": all(result["verdict"] == "aligned" for result in results),
    }


def _labelled(codes: np.ndarray, rows: int, file: Path) -> np.ndarray:
    """Which rows of a whole index have a label, if there are as many."""
    if rows != len(codes):
        raise CheckError(
            f"{rows} rows for {len(codes)} of an index with images without a label",
            where=str(file),
            expected="one for each image, or soft labels filed by split",
            hint="export each split apart",
        )
    return codes >= 0


def _remedy(
    shift: Mapping[str, Any] | None, directory: Path, classes: list[str], named: bool, keyed: bool
) -> str | None:
    """What to do about a fault of a directory whose files name their columns (`named`), or a path a row (`keyed`)."""
    if shift is None:
        return None
    repair = f"`ferdistill align repair {shlex.quote(str(directory))} --out NEW`"
    if shift["kind"] == "columns":
        columns = shift["columns"]
        moved = [classes[place] for place, column in enumerate(columns) if place != column]
        look = f"columns {' and '.join(moved)} look exchanged" if len(moved) == 2 else "the columns look reordered"
        order = ", ".join(classes[column] for column in columns)
        if named:
            return f"{look}: what the files name {', '.join(classes)} seems to be {order}; correct the names"
        entries = "`classes`" if keyed else "`paths` and `classes`"
        return f"{look}; if so, declare {entries} in softlabels.npz, the classes as {order}, then {repair}"
    if keyed:
        return (
            "the paths beside the values seem to be those of other rows: find out where the two parted (an image "
            "skipped, a list sorted, rows shuffled), and export both anew in one pass"
        )
    if shift["kind"] == "order":
        return f"export them with a path for each row, then {repair}"
    return (
        "find out what the exporter did there (an image skipped or written twice, rows shuffled), and export them "
        "anew with a path for each row: a lost row cannot be repaired"
    )


def class_columns(soft: SoftLabels, classes: list[str]) -> np.ndarray:
    """Where each class of the index stands among the columns; in its place if the files do not name them.

    Raises a CheckError if the columns are not the classes, or too few or too many.
    """
    named = classes if soft.classes is None else soft.classes
    widths = {part.values.shape[1] for part in soft.parts.values()}
    if sorted(named) != sorted(classes) or widths != {len(classes)}:
        found = f"columns {', '.join(soft.classes)}" if soft.classes else f"{sorted(widths)} columns"
        raise CheckError(
            f"other classes than the index's: {found}",
            where=str(soft.directory),
            expected=", ".join(classes),
            hint="export the soft labels anew with the classes of params.yaml",
        )
    return np.array([named.index(name) for name in classes])


def sort_orders(rows: pd.DataFrame) -> dict[str, np.ndarray]:
    """Orders in which exporters write: for each, the positions in `rows` (columns path, split, label) of its rows."""
    paths = rows["path"].tolist()
    keys: dict[str, list[Any]] = {
        "path as bytes": [path.encode() for path in paths],
        "path, folder by folder": [PurePosixPath(path).parts for path in paths],
        "path regardless of case": [path.lower() for path in paths],
        "path by numbers": [_natural(path) for path in paths],
        "file name": [PurePosixPath(path).name for path in paths],
        "file name by numbers": [_natural(PurePosixPath(path).name) for path in paths],
        "label, then path": list(zip(rows["label"], paths, strict=True)),
        "label, then path by numbers": list(zip(rows["label"], map(_natural, paths), strict=True)),
        "split, then path": list(zip(map(SPLITS.index, rows["split"]), paths, strict=True)),
        "split by name, then path": list(zip(rows["split"], paths, strict=True)),
    }
    orders = {name: np.array(sorted(range(len(paths)), key=key.__getitem__)) for name, key in keys.items()}
    return orders | {"reversed": np.arange(len(paths))[::-1]}


def _natural(path: str) -> list[Any]:
    # Text and numbers alternate, so like is compared with like.
    return [int(part) if odd % 2 else part for odd, part in enumerate(re.split(r"([0-9]+)", path))]


def _arg_max(values: np.ndarray) -> np.ndarray:
    if values.ndim != 2 or values.shape[0] == 0 or values.shape[1] < 2:
        raise CheckError(f"soft labels of shape {values.shape}", expected="(N, K) with N >= 1 and K >= 2")
    broken = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if len(broken):
        raise CheckError(
            "soft labels that are not finite",
            where=f"row {broken[0]}, {len(broken)} rows in all",
            hint="export the soft labels anew",
        )
    return values.argmax(axis=1)


def _compare(predictions: np.ndarray, labels: np.ndarray, other: np.ndarray, classes: int) -> dict[str, Any]:
    """Are two teachers in step? Each row is held against the other's arg-max and its label together."""
    # Against the arg-max alone, two teachers in step would look out of step in a run of one label, where the arg-max
    # of the next row says as much as that of the same row if their errors are independent.
    if not len(other) == len(predictions) == len(labels):
        raise CheckError(f"another teacher has {len(other)} rows", expected=f"{len(labels)} rows of each")
    agreement, chance, p_value = pairing.agreement(predictions, other)
    joint = labels * classes + other
    segments, _, _ = pairing.trace(predictions, joint, classes, classes**2)
    slip = pairing.first_change(predictions, joint, segments, classes, classes**2)
    return {"agreement": agreement, "chance": chance, "p_value": p_value, "shift": _describe(segments), **slip}


def _describe(segments: Sequence[Segment]) -> dict[str, Any] | None:
    """Name the fault that a pairing shows; None if it is in step throughout."""
    shifts = [shift for _, _, shift in segments]
    displaced = [shift for shift in shifts if shift]
    fault: dict[str, Any]
    if shifts == [0]:
        return None
    if None in shifts:
        fault = {"kind": "unrelated"}
    elif len(displaced) == 1 and shifts[-1] != 0:
        fault = {"kind": "dropped" if displaced[0] > 0 else "doubled", "rows": abs(displaced[0])}
    elif len(displaced) == 2 and sum(displaced) == 0:
        fault = {"kind": "swapped"}
    else:
        fault = {"kind": "several" if shifts[-1] else "moved"}
    return fault | _listed(segments)


def _listed(segments: Sequence[Segment]) -> dict[str, Any]:
    return {"segments": [{"start": start, "stop": stop, "shift": shift} for start, stop, shift in segments]}


def _sentence(fault: Mapping[str, Any]) -> str:
    blocks = ", ".join(f"{s['start']} to {s['stop'] - 1}" for s in fault["segments"] if s["shift"] != 0)
    return {
        "dropped": f"rows of the index are missing: {fault.get('rows')}",
        "doubled": f"rows too many: {fault.get('rows')}",
        "swapped": f"two blocks of rows have changed places: {blocks}",
        "moved": f"rows stand elsewhere: {blocks}",
        "several": f"several slips, rows {blocks}",
        "unrelated": f"rows that have nothing to do with their labels: {blocks}",
    }[fault["kind"]]
