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

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import CheckError
from ..progress import track
from . import foreign, holding, labelled, pairing
from .holding import Held
from .labelled import SORTED, Labelled
from .pairing import SIGNIFICANCE, USEFUL, Segment
from .parts import SoftLabels

if TYPE_CHECKING:
    from ..data.index import Index

ADEQUATE = 0.8  # power without which an intact set is not called aligned
WORKERS = 2  # sets looked at at once
# Faults after which it is known of every row where it belongs, and those after which a few rows remain in doubt.
EXACT, UP_TO_A_FEW = {"order", "rotated"}, {"dropped", "doubled", "swapped", "moved", "several"}
NO_TEXT = np.empty(0, object)  # of rows that had paths
LARGEST = 2**24  # entries of a table of arg-max, label and another's arg-max


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
        Other orders in which the rows may have been written, as positions in the index; see `orders.sort_orders`.
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
        - `shift`: None, or `kind` ("dropped", "doubled", "rotated", "swapped", "moved", "several", "unrelated",
          "order", "columns", "length", "teachers") with `rows` (how many were lost or doubled, or came round),
          `order` (its name), `doubtful` (how many rows an order which the labels cannot tell from it puts elsewhere),
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
    return judge(_arg_max(values), labels, values.shape[1], orders, [_arg_max(other) for other in others])


def judge(
    predictions: np.ndarray,
    labels: np.ndarray,
    classes: int,
    orders: Mapping[str, np.ndarray] | None = None,
    others: Sequence[np.ndarray] = (),
) -> dict[str, Any]:
    """As `examine`, of each row's arg-max (N,) and others' (M,), int64 in 0..`classes`-1."""
    if len(labels) == 0 or labels.min() < 0 or labels.max() >= classes:
        raise CheckError(
            "labels that are not positions of the soft labels' columns",
            expected=f"at least one, in 0..{classes - 1}",
            hint="examine soft labels that have a column for each class of the index",
        )
    rows, shared = len(predictions), min(len(predictions), len(labels))
    agreement, chance, p_value = pairing.agreement(predictions[:shared], labels[:shared])
    shift, why, slip, evidence, unresolved = _look(predictions, labels, orders or {}, classes, p_value < SIGNIFICANCE)
    verdict, blind_rows = "misaligned", None
    if shift is None:
        verdict, blind_rows = "inconclusive", pairing.blind_rows(predictions, labels, classes)
        if p_value >= SIGNIFICANCE:
            why = "the agreement is not above chance, and there are too few rows to say more"
        elif blind_rows > (1 - ADEQUATE) * rows:
            why = f"no slip found, but one lost row would go unseen at {blind_rows} of {rows} places"
        else:
            verdict, why = "aligned", "the agreement is above chance, and no slip was found"
    found = {
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
        "others": [],
    }
    return with_others(found, [_compare(predictions, labels, other, classes) for other in others])


def with_others(found: dict[str, Any], compared: list[dict[str, Any]]) -> dict[str, Any]:
    """What `judge` found of a set alone, once it was compared with other teachers."""
    found = found | {"others": compared}
    against = [other for other in compared if other["shift"] is not None]
    if found["shift"] is not None or found["p_value"] >= SIGNIFICANCE or not against:
        return found
    step = "in step with the labels as far as they show, but not with"
    if len(against) >= 2 and 2 * len(against) > len(compared):
        slip = {name: against[0][name] for name in ("slip_row", "slip_interval")}
        shift = {**against[0]["shift"], "kind": "teachers"}
        why = f"{step} {len(against)} of {len(compared)} teachers"
        return found | {"verdict": "misaligned", "why": why, "shift": shift, **slip}
    return found | {"verdict": "inconclusive", "why": f"{step} another teacher"}


def _look(
    predictions: np.ndarray, labels: np.ndarray, orders: Mapping[str, np.ndarray], classes: int, above_chance: bool
) -> tuple[dict[str, Any] | None, str, dict[str, Any], dict[str, float], list[str]]:
    """Hold one set against the labels alone: `shift` (None if nothing is wrong), `why`, slip, evidence, unresolved."""
    rows, index_rows = len(predictions), len(labels)
    shared = min(rows, index_rows)
    order, unresolved = pairing.best_order(predictions[:shared], labels, orders)
    paired = labels if order is None else labels[orders[order]]
    segments, gain, threshold = pairing.trace(predictions, paired, classes, classes)
    rotated = None if order else pairing.rotation(predictions, labels, segments, classes)
    segments = rotated or segments
    if rows != index_rows and _describe(segments) is None and above_chance:
        # Rows were lost or doubled: where nothing shows it, so near the end that nothing can.
        segments = [(0, rows, 0), (rows, rows, index_rows - rows)]
    slip = pairing.first_change(predictions, paired, segments, classes, classes)
    columns = pairing.column_order(predictions, paired, segments, classes)
    shift, why = _describe(segments), ""
    if rotated:
        shift = {"kind": "rotated", "rows": rotated[0][1], **_listed(segments)}
    if order is not None:
        differing = [orders[other] != orders[order] for other in unresolved]
        doubtful = int(np.any(differing, axis=0).sum()) if differing else 0
        shift = {"kind": "order", "order": order, "doubtful": doubtful}
        unlike: dict[bytes, str] = {}
        for name in (order, *unresolved):
            unlike.setdefault(orders[name].tobytes(), name)  # orders that come to the same rows are one
        *others, last = unlike.values()
        told = f"{', '.join(others)} or {last}, which the labels cannot distinguish" if others else last
        why = f"the rows are in another order: {told}"
    elif columns is not None:
        shift, why = {"kind": "columns", "columns": columns}, "the columns are not the classes in the index's order"
    elif shift is not None:
        why = _sentence(shift)
        at_start = shift["kind"] in ("dropped", "doubled") and slip["slip_interval"][0] <= shift["rows"]
        if rows == index_rows and at_start:
            why += f", or all are rotated by {shift['rows']}, as np.roll does"
    elif pairing.at_chance(predictions[:shared], labels[:shared]):
        shift, segments = {"kind": "unrelated"}, [(0, rows, None)]
        why = f"the agreement is chance: shuffled, of other images, or of a teacher below {USEFUL:.0%} accuracy"
    elif rows != index_rows:
        shift = {"kind": "length"}
    if shift is not None:
        shift |= _listed(segments)
    if rows != index_rows:
        why = f"{rows} rows for {index_rows} images" + (f"; {why}" if why else "")
    return shift, why, slip, {"log_likelihood_ratio": gain, "threshold": threshold}, unresolved


def check(paths: Sequence[Path], against: "Labelled | Index") -> dict[str, Any]:
    """Examine soft labels, split by split, against an index or a table of labels, and one another.

    Rows are taken as they lie: paths and labels in the files are not consulted (`alignment.check` does that). Columns
    are taken by name where the files name them. A path is anything that `foreign.read_any` reads. Only rows of images
    with a label are examined, and of a partial teacher those that it has.

    Returns
    -------
    dict
        `dirs`; `results`, as `compare` gives them; and `ok`: whether every verdict is "aligned".

    Raises a UsageError if a path is not there, a CheckError if a file cannot be read, has other classes or splits
    than the index, or values that are not finite.
    """
    images = against if isinstance(against, Labelled) else labelled.of_index(against)
    results = compare([_values_alone(path, images) for path in paths], images)
    return {
        "dirs": [path.as_posix() for path in paths],
        "results": results,
        "ok": all(result["verdict"] == "aligned" for result in results),
    }


def _values_alone(path: Path, images: Labelled) -> tuple[SoftLabels, list[Held]]:
    """Soft labels and what they are held against, for `compare`: without their texts, which take most of the memory."""
    soft = foreign.read_any(path)
    held = [
        replace(one, part=replace(one.part, paths=None if one.part.paths is None else NO_TEXT, labels=None), at=None)
        for one in holding.hold(soft, images)
    ]
    return replace(soft, parts={name: one.part for name, one in zip(soft.parts, held, strict=True)}), held


def compare(sets: Sequence[tuple[SoftLabels, list[Held]]], images: Labelled) -> list[dict[str, Any]]:
    """Examine the parts of soft labels, each as `holding.hold` held it; those of the same images against one another.

    Images without a label, and of a partial teacher rows that it does not have, are passed over.

    Returns
    -------
    list of dict, one for each part with a row to examine
        {dir, split, **what `examine` gives, slip_path, certain, hint}: split as `Held.split`, slip_path of the image
        in the row `slip_row`, certain of how many rows without paths `placed` says where they belong (of rows with
        paths None), hint what to do about a fault, else None. Teachers that are misaligned on their own are not
        held against others. Rows are counted among those examined.
    """
    # By split, and by which of its images are held against which rows.
    groups: dict[tuple[tuple[str, ...], bytes, bytes], list[tuple[SoftLabels, Held, np.ndarray]]] = {}
    for soft, parts in sets:
        holding.require_known(parts, images)
        places = np.argsort(class_columns(soft, images.classes))
        for held in parts:
            rows = _examined(soft, held, images)
            if rows.any():
                key = held.splits, b"" if rows.all() else rows.tobytes(), held.positions.tobytes()
                groups.setdefault(key, []).append((soft, held, places[held.part.arg_max[rows]]))
    results = []
    for key in track(sorted(groups, key=lambda of: [images.names.index(name) for name in of[0]]), "canary"):
        members, classes = groups[key], len(images.classes)
        rows = members[0][1].positions
        rows = rows[np.frombuffer(key[1], bool)] if key[1] else rows
        labels, known = images.codes[rows], images.sort_orders(rows)

        def alone(predictions: np.ndarray, labels: np.ndarray = labels, known: Any = known) -> dict[str, Any]:
            return judge(predictions, labels, len(images.classes), known)

        with ThreadPoolExecutor(WORKERS) as pool:
            found = list(pool.map(alone, [predictions for *_, predictions in members]))
            trusted = [place for place, result in enumerate(found) if result["verdict"] != "misaligned"]
            pairs = [(one, other) for one in trusted for other in trusted if one != other]
            compared = pool.map(
                lambda pair: _compare(members[pair[0]][2], labels, members[pair[1]][2], classes),  # noqa: B023
                pairs,
            )
            against: dict[int, list[dict[str, Any]]] = {}
            for (one, _), result in zip(pairs, compared, strict=True):
                against.setdefault(one, []).append(result)
        for place, (soft, held, _) in enumerate(members):
            result = with_others(found[place], against.get(place, []))
            slip = result["slip_row"]
            path = images.paths[rows[slip]] if slip is not None and slip < len(rows) else None
            facts: dict[str, Any] = {"slip_path": path, "certain": None}
            if not soft.keyed:
                at = placed(result, members[place][2], labels, known, classes)
                facts["certain"] = int((at >= 0).sum())
            enough = 2 * (facts["certain"] or 0) >= min(result["rows"], result["index_rows"])
            facts["hint"] = remedy(result["shift"], soft, images, enough)
            results.append({"dir": soft.directory.as_posix(), "split": held.split, **result, **facts})
    return results


def _examined(soft: SoftLabels, held: Held, images: Labelled) -> np.ndarray:
    """Which rows of a part can be examined, bool, (n,)."""
    part = held.part
    has = ~part.empty if soft.partial else np.ones(len(part.rows), bool)
    broken = np.flatnonzero(has & ~part.finite)
    if len(broken):
        where, hint = f"{part.file}, row {broken[0]}", "export the soft labels anew"
        raise CheckError("soft labels that are not finite", where=where, hint=hint)
    labelled = images.codes[held.positions] >= 0
    if not labelled.any():
        return np.zeros(len(has), bool)
    if len(has) != len(labelled) and not (labelled.all() and has.all()):
        raise CheckError(
            f"{len(has)} rows for {len(labelled)} images, not all of which have a label and a row",
            where=str(part.file),
            expected="a row for each image, or soft labels filed by split",
            hint="export each split apart",
        )
    return has & labelled if len(has) == len(labelled) else has


def placed(
    found: Mapping[str, Any],
    predictions: np.ndarray,
    labels: np.ndarray,
    orders: Mapping[str, np.ndarray],
    classes: int,
) -> np.ndarray:
    """Where each row belongs among the labels, (n,), by what `judge` found; -1 where that is not certain."""
    shift, rows = found["shift"], np.arange(len(predictions))
    nowhere = np.full(len(rows), -1)
    if shift is None:
        return rows if found["verdict"] == "aligned" else nowhere
    if shift["kind"] == "order" and len(rows) == len(labels):
        at = orders[shift["order"]].copy()
        for other in found["unresolved_orders"]:
            at[orders[shift["order"]] != orders[other]] = -1
        return at
    if shift["kind"] == "rotated":
        return (rows - shift["rows"]) % len(rows)
    if shift["kind"] not in UP_TO_A_FEW:
        return nowhere
    segments = [(one["start"], one["stop"], one["shift"]) for one in shift["segments"]]
    certain = pairing.changes(predictions, labels, segments, classes, classes, 1 - pairing.ALPHA)
    steps = [step for *_, step in segments] if segments[0][2] == 0 else [0, *(step for *_, step in segments)]
    starts, stops = [0, *(high for *_, high in certain)], [*(low for _, low, _ in certain), len(rows)]
    at = nowhere
    for start, stop, step in zip(starts, stops, steps, strict=True):
        if step is not None:
            at[start:stop] = rows[start:stop] + step
    at[(at < 0) | (at >= len(labels))] = -1
    claims = np.bincount(at[at >= 0], minlength=len(labels))
    at[(at >= 0) & (claims[at] > 1)] = -1
    return at


def remedy(shift: Mapping[str, Any] | None, soft: SoftLabels, images: Labelled, enough: bool = True) -> str | None:
    """What to do about a fault; `enough`: whether it leaves the place of half of the rows certain."""
    if shift is None:
        return None
    classes = images.classes
    if shift["kind"] == "columns":
        columns = shift["columns"]
        moved = [classes[place] for place, column in enumerate(columns) if place != column]
        look = f"columns {' and '.join(moved)} look exchanged" if len(moved) == 2 else "the columns look reordered"
        order = ", ".join(classes[column] for column in columns)
        if soft.classes is not None:
            return f"{look}: what the files name {', '.join(classes)} seems to be {order}; correct the names"
        option = ",".join(classes[column] for column in columns)
        if images.classes_from.startswith(SORTED):
            look += f", or are {order} rather than sorted: then say so with --classes {option}"
        return f"{look}; if so, {images.repair_command(soft.directory, '--columns', option)} puts them in order"
    if soft.keyed:
        return (
            "the paths beside the values seem to be those of other rows: find out where the two parted (an image "
            "skipped, a list sorted, rows shuffled), and export both anew in one pass"
        )
    doubtful = shift.get("doubtful", 0)
    if shift["kind"] in EXACT and not doubtful:
        return f"{images.repair_command(soft.directory)} puts them in order"
    if enough and (shift["kind"] in UP_TO_A_FEW or 0 < doubtful < (1 - ADEQUATE) * len(images.paths)):
        return (
            f"{bring_paths(soft)}, or find out what the exporter did there and export anew; or "
            f"{images.repair_command(soft.directory, '--drop-unmatched')} keeps the rows whose image is certain, and "
            "lists the images that then have none"
        )
    return f"{bring_paths(soft)}, or find out what the exporter did there and export anew"


def bring_paths(soft: SoftLabels) -> str:
    """How to say whose each row is, in the form that the soft labels have."""
    suffix = next(iter(soft.parts.values())).file.suffix.lower()
    if suffix != ".npy":
        return "save the path of each row with them, as the entry `paths`"
    name = f"{soft.directory.stem}_paths.txt" if soft.file else "<split>_paths.txt"
    return f"write the path of each row, in the order of the rows, a line each, to {name} beside them"


def class_columns(soft: SoftLabels, classes: list[str], remedy: str | None = None) -> np.ndarray:
    """Where each class of the index stands among the columns; in its place if the files do not name them.

    Raises a CheckError, with the `remedy`, if the columns are not the classes, or too few or too many.
    """
    named = classes if soft.classes is None else soft.classes
    widths = {part.columns for part in soft.parts.values()}
    if sorted(named) != sorted(classes) or widths - {len(classes)}:
        found = f"columns {', '.join(soft.classes)}" if soft.classes else f"{sorted(widths)} columns"
        raise CheckError(
            f"other classes than the index's: {found}",
            where=str(soft.directory),
            expected=", ".join(classes),
            hint=remedy or "export the soft labels anew with these classes, or name others: params.yaml, --classes",
        )
    place = {name: number for number, name in enumerate(named)}
    return np.array([place[name] for name in classes])


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
    return values.argmax(axis=1).astype(np.int64)


def _compare(predictions: np.ndarray, labels: np.ndarray, other: np.ndarray, classes: int) -> dict[str, Any]:
    """Are two teachers in step? Each row is held against the other's arg-max and its label together."""
    # Against the arg-max alone, two teachers in step would look out of step in a run of one label, where the arg-max
    # of the next row says as much as that of the same row if their errors are independent.
    if not len(other) == len(predictions) == len(labels):
        raise CheckError(f"another teacher has {len(other)} rows", expected=f"{len(labels)} rows of each")
    agreement, chance, p_value = pairing.agreement(predictions, other)
    # Of very many classes, only whether the other is right too: pairing takes kind % classes for what agrees.
    kinds, second = (classes**2, labels) if classes**3 <= LARGEST else (2 * classes, other == labels)
    joint = second * classes + (other if classes**3 <= LARGEST else labels)
    segments, _, _ = pairing.trace(predictions, joint, classes, kinds)
    slip = pairing.first_change(predictions, joint, segments, classes, kinds)
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
        "dropped": f"rows were lost: {fault.get('rows')}",
        "doubled": f"rows were doubled or put in: {fault.get('rows')}",
        "rotated": f"all rows are rotated by {fault.get('rows')}, as np.roll does",
        "swapped": f"two blocks of rows have changed places: {blocks}",
        "moved": f"rows stand elsewhere: {blocks}",
        "several": f"several slips, rows {blocks}",
        "unrelated": f"rows that have nothing to do with their labels: {blocks}",
    }[fault["kind"]]
