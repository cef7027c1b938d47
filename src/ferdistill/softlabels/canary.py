"""The canary: are soft labels without keys in step with the index?

Only the arg-max of a row is used: it is the same for logits and probabilities, at any temperature. Its confusion with
the labels gives p(a | y), and so each pairing of rows with labels its log likelihood ratio
sum_i log p(a_i | y_i) / p(a_i) over rows that belong to no label. Pairings are compared by it: in step throughout;
out of step by s rows from row r on, and back; a block that stands elsewhere; the rows in another sort order.

Were a row's arg-max drawn from p(a | y), the likelihood ratio of any wrong pairing to the right one would have
expectation 1, whatever the order of the labels, so a change of step that could have been placed in n ways is believed
if it gains log(n / ALPHA): then at most ALPHA of the intact sets raise a false alarm, over all pairings searched.
Errors that come in stretches (a hard source, a person the teacher misreads) break that assumption; hence a stretch is
called unrelated to its labels only if its own agreement with them is chance, and far below a useful teacher's. Nothing
is simulated: there is no seed.
"""

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
from scipy.fft import irfft, next_fast_len, rfft
from scipy.optimize import linear_sum_assignment
from scipy.stats import binom, norm

from ..data.index import SPLITS, Index
from ..errors import CheckError
from ..progress import track
from . import foreign
from .store import SoftLabels

ALPHA = 0.001  # false alarms, over all pairings searched
SIGNIFICANCE = 0.01  # of agreement above chance
USEFUL = 0.4  # accuracy that any teacher worth distilling from has
ADEQUATE = 0.8  # power without which an intact set is not called aligned
CREDIBILITY = 0.99  # of `slip_interval`
NEAR = (0, 1, -1, 2, -2, 3, -3)  # shifts that are always tried; others where a whole set, or a block, fits them
ROUNDS = 5

Segment = tuple[int, int, int | None]
"""From row `start` to before row `stop`, row i belongs to label i + shift; to none if shift is None."""


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
    values : (N, K) array
        Logits or probabilities, finite.
    labels : (M,) array
        The labels of the index in its order, in 0..K-1.
    orders : mapping of str to (M,) array, optional
        Other orders in which the rows may have been written, as positions in the index; see `sort_orders`.
    others : sequence of (M, K) arrays
        Soft labels of other teachers. Teachers share errors, so they see slips that the labels cannot (inside a
        long run of one label). In step with one another, they may still all be out of step with the index.

    Returns
    -------
    dict
        JSON-safe:

        - `verdict`: "misaligned" if the lengths differ, if a pairing other than the index's, or another order of the
          columns, wins, if the rows are out of step with two other teachers and with most, or if the agreement is
          chance (p >= 0.01) where a teacher of 40 % accuracy would be told from chance with power 0.99;
          "aligned" if the agreement is above chance, no slip was found, and one lost or doubled row would be
          reported at 80 % of the places or more; else "inconclusive".
        - `why`: the reason, in one sentence.
        - `rows`, `index_rows`: N and M.
        - `agreement`, `chance`, `p_value`: of the arg-max with the labels in the index's order; what a shuffle
          would give; and the chance of a shuffle that agrees as well (normal approximation with the exact mean and
          variance over shuffles, never 0).
        - `shift`: None, or `kind` ("dropped", "doubled", "swapped", "moved", "several", "unrelated", "order",
          "columns", "length", "teachers") with `rows` (how many were lost or doubled), `order` (its name),
          `columns` (column j holds class `columns[j]`) where they apply, and `segments` of {start, stop, shift}:
          there, row i belongs to index row i + shift (None: to none found).
        - `slip_row`, `slip_interval`: the first row that is out of step, and the least and greatest row where it
          may be, with 99 % credibility. Inside a run of one label no place is likelier than another. Between
          teachers the interval is too narrow: it holds the row in some 85 of 100 cases.
        - `evidence`: `log_likelihood_ratio` of what was found over being in step, and the `threshold`, in nats.
        - `power`: share of the places at which one lost or doubled row would be reported, `blind_rows`: the number
          of the others, usually the last; None unless no fault was found.
        - `unresolved_orders`: the orders that the labels cannot tell from the index's.
        - `others`: for each other teacher, `agreement`, `chance`, `p_value`, `slip_row`, `slip_interval`, `shift`.

    Raises
    ------
    CheckError
        If an array is empty, has the wrong shape, is not finite, or a label is out of range.
    """
    predictions = _arg_max(values)
    classes = values.shape[1]
    if len(labels) == 0 or labels.min() < 0 or labels.max() >= classes:
        raise CheckError(
            "labels that are not positions of the soft labels' columns",
            expected=f"at least one, in 0..{classes - 1}",
            hint="examine soft labels that have a column for each class of the index",
        )
    rows, index_rows = len(predictions), len(labels)
    shared = min(rows, index_rows)
    orders = orders or {}
    agreement, chance, p_value = _agreement(predictions[:shared], labels[:shared])
    order, unresolved = _sort_order(predictions[:shared], labels, orders)
    paired = labels if order is None else labels[orders[order]]
    segments, gain, threshold = _trace(predictions, paired, classes, classes)
    if rows != index_rows and _describe(segments) is None and p_value < SIGNIFICANCE:
        # Rows were lost or doubled: where nothing shows it, so near the end that nothing can.
        segments = [(0, rows, 0), (rows, rows, index_rows - rows)]
    slip = _first_change(predictions, paired, segments, classes, classes)
    columns = _column_order(predictions, paired, segments, classes)

    shift: dict[str, Any] | None = None
    verdict, why = "misaligned", ""
    if order is not None:
        shift, why = {"kind": "order", "order": order}, f"the rows are in another order: {order}"
    elif columns is not None:
        shift, why = {"kind": "columns", "columns": columns}, "the columns are not the classes in the index's order"
    elif (shift := _describe(segments)) is not None:
        why = _sentence(shift)
    elif _at_chance(predictions[:shared], labels[:shared]):
        shift, segments = {"kind": "unrelated"}, [(0, rows, None)]
        why = f"the agreement is chance: shuffled, of other images, or of a teacher below {USEFUL:.0%} accuracy"
    elif rows != index_rows:
        shift = {"kind": "length"}
    if shift is not None:
        shift["segments"] = [{"start": start, "stop": stop, "shift": s} for start, stop, s in segments]
    if rows != index_rows:
        why = f"{rows} rows for {index_rows} of the index" + (f"; {why}" if why else "")

    compared = [_between(predictions, labels, _arg_max(other), classes) for other in others]
    against = [other for other in compared if other["shift"] is not None]
    blind_rows = None
    if shift is None:
        blind_rows = _blind_rows(predictions, labels, classes)
        if p_value >= SIGNIFICANCE:
            verdict, why = "inconclusive", "the agreement is not above chance, and there are too few rows to say more"
        elif len(against) >= 2 and 2 * len(against) > len(compared):
            shift = {**against[0]["shift"], "kind": "teachers"}
            slip = (against[0]["slip_row"], *against[0]["slip_interval"])
            why = (
                f"in step with the labels as far as they show, but not with {len(against)} of {len(compared)} teachers"
            )
        elif against:
            verdict, why = "inconclusive", "in step with the labels as far as they show, but not with another teacher"
        elif blind_rows > (1 - ADEQUATE) * rows:
            verdict = "inconclusive"
            why = f"no slip found, but one lost row would go unseen at {blind_rows} of {rows} places"
        else:
            verdict, why = "aligned", "the agreement is above chance, and no slip was found"
    return {
        "verdict": verdict,
        "why": why,
        "rows": rows,
        "index_rows": index_rows,
        "agreement": agreement,
        "chance": chance,
        "p_value": p_value,
        "shift": shift,
        "slip_row": slip[0] if slip else None,
        "slip_interval": list(slip[1:]) if slip else None,
        "evidence": {"log_likelihood_ratio": gain, "threshold": threshold},
        "power": None if blind_rows is None else 1 - blind_rows / rows,
        "blind_rows": blind_rows,
        "unresolved_orders": unresolved,
        "others": compared,
    }


def check(
    directories: Sequence[Path], index: Index, read: Callable[[Path], SoftLabels] = foreign.read_any
) -> dict[str, Any]:
    """Examine directories of soft labels, split by split, against an index and one another.

    Rows are taken as they lie: paths and labels in the files are not consulted (`alignment.check` does that). Columns
    are taken by name where the files name them.

    Parameters
    ----------
    directories : sequence of Path
    read : callable
        What reads a directory.

    Returns
    -------
    dict
        `dirs`; `results`, a list of {dir, split, **what `examine` gives, hint}, split "" being the whole index and
        `hint` what to do about a fault, else None; and `ok`: whether every verdict is "aligned". Teachers that are
        misaligned on their own do not witness against others.

    Raises
    ------
    UsageError
        If a directory is not there.
    CheckError
        If a file cannot be read, has other classes or splits than the index, or values that are not finite.
    """
    classes = index.description["classes"]
    codes = index.codes(classes)
    sets: dict[str, dict[Path, np.ndarray]] = {}
    named, keyed = {}, {}
    for directory in directories:
        soft = read(directory)
        named[directory] = soft.classes is not None
        keyed[directory] = all(part.paths is not None for part in soft.parts.values())
        columns = class_columns(soft, classes)
        for split, part in soft.parts.items():
            if split not in ("", *SPLITS):
                raise CheckError(
                    f"a split that the index does not have: {split}",
                    where=str(part.file),
                    expected=", ".join(SPLITS),
                    hint="rename it, or take it out",
                )
            sets.setdefault(split, {})[directory] = part.values[:, columns]
    results = []
    for split in track([split for split in ("", *SPLITS) if split in sets], "canary"):
        positions = index.positions(split) if split else np.arange(len(codes))
        labels, orders = codes[positions], sort_orders(index.rows.iloc[positions])
        alone = {directory: examine(values, labels, orders=orders) for directory, values in sets[split].items()}
        witnesses = [directory for directory, result in alone.items() if result["verdict"] != "misaligned"]
        for directory, result in alone.items():
            others = [sets[split][other] for other in witnesses if other != directory]
            if others and directory in witnesses:
                result = examine(sets[split][directory], labels, orders=orders, others=others)
            hint = _remedy(result["shift"], directory, classes, named[directory], keyed[directory])
            results.append({"dir": directory.as_posix(), "split": split, **result, "hint": hint})
    return {
        "dirs": [directory.as_posix() for directory in directories],
        "results": results,
        "ok": all(result["verdict"] == "aligned" for result in results),
    }


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

    Raises
    ------
    CheckError
        If the columns are not the classes, or too few or too many.
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
        "label, then path by numbers": [
            (label, _natural(path)) for label, path in zip(rows["label"], paths, strict=True)
        ],
        "split, then path": [(SPLITS.index(split), path) for split, path in zip(rows["split"], paths, strict=True)],
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


def _agreement(predictions: np.ndarray, labels: np.ndarray) -> tuple[float, float, float]:
    """Agreement, its mean over shuffles of the rows, and p of a shuffle that agrees as well."""
    mean, deviation = _shuffled(predictions, labels)
    agreeing = int((predictions == labels).sum())
    # Half a row is the continuity correction. A normal tail may underflow; p is never 0.
    p_value = float(norm.sf((agreeing - 0.5 - mean) / deviation)) if deviation > 0 else 1.0
    return agreeing / len(labels), mean / len(labels), max(p_value, float(np.finfo(float).tiny))


def _shuffled(predictions: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation of the number of agreeing rows over all shuffles (Hoeffding 1951)."""
    n, k = len(labels), int(max(predictions.max(), labels.max())) + 1
    a, b = np.bincount(predictions, minlength=k), np.bincount(labels, minlength=k)
    centred = np.eye(k) - b[:, None] / n - a[None, :] / n + (a @ b) / n**2
    variance = a @ centred**2 @ b / max(n - 1, 1)
    return float(a @ b / n), float(np.sqrt(np.round(variance, 9)))  # rounded, so that 0 is 0


def _at_chance(predictions: np.ndarray, labels: np.ndarray, choices: int = 1) -> bool:
    """Whether the agreement is not above chance although a useful teacher's would be, with power 0.99.

    Of a stretch that is the worst of `choices`, a useful teacher must make so few agree in ALPHA / choices at most.
    """
    n, agreeing = len(labels), int((predictions == labels).sum())
    mean, deviation = _shuffled(predictions, labels)
    spread = norm.ppf(1 - SIGNIFICANCE) * (deviation + np.sqrt(n * USEFUL * (1 - USEFUL)))
    seen = deviation > 0 and USEFUL * n - mean > spread
    unlucky = choices > 1 and binom.cdf(agreeing, n, USEFUL) * choices >= ALPHA
    return bool(seen and not unlucky) and _agreement(predictions, labels)[2] >= SIGNIFICANCE


def _table(predictions: np.ndarray, labels: np.ndarray, classes: int, kinds: int) -> np.ndarray:
    """Log p(arg-max | label) / p(arg-max), (classes, kinds), shrunk towards 0 by as many rows as there are classes."""
    counts = np.bincount(predictions * kinds + labels, minlength=classes * kinds).reshape(classes, kinds).astype(float)
    marginal = (counts.sum(axis=1) + 1) / (counts.sum() + classes)
    given = (counts + classes * marginal[:, None]) / (counts.sum(axis=0) + classes)
    return np.log(given / marginal[:, None])


def _scores(table: np.ndarray, predictions: np.ndarray, labels: np.ndarray, shift: int | None) -> np.ndarray:
    """Each row's log likelihood ratio if it belongs to the label `shift` further on.

    0 if shift is None. A row that is sent beyond the labels has -1, lest a great shift pass for none.
    """
    if shift is None:
        return np.zeros(len(predictions))
    scores = np.full(len(predictions), -1.0)
    start, stop = max(0, -shift), min(len(predictions), len(labels) - shift)
    if start < stop:
        scores[start:stop] = table[predictions[start:stop], labels[start + shift : stop + shift]]
    return scores


def _matched(predictions: np.ndarray, labels: np.ndarray, segments: Sequence[Segment]) -> tuple[np.ndarray, np.ndarray]:
    """Arg-max and label of every row that a pairing gives a label."""
    place = np.full(len(predictions), -1)
    for start, stop, shift in segments:
        if shift is not None:
            place[start:stop] = np.arange(start, stop) + shift
    known = (place >= 0) & (place < len(labels))
    return predictions[known], labels[place[known]]


def _information(predictions: np.ndarray, labels: np.ndarray, classes: int, kinds: int) -> float:
    """Log likelihood ratio of paired rows under their own table, in nats."""
    return float(_table(predictions, labels, classes, kinds)[predictions, labels].sum())


def _sort_order(
    predictions: np.ndarray, labels: np.ndarray, orders: Mapping[str, np.ndarray]
) -> tuple[str | None, list[str]]:
    """The order that the rows are in, None if the index's; and the names of those that cannot be told from it."""
    n, classes = len(predictions), int(max(predictions.max(), labels.max())) + 1
    in_step = _information(predictions, labels[:n], classes, classes)
    gains = {
        name: _information(predictions, labels[order][:n], classes, classes) - in_step
        for name, order in orders.items()
        if (order != np.arange(len(order))).any()
    }
    threshold = np.log(max(len(gains), 1) / ALPHA)
    best = max(gains, key=gains.__getitem__, default="")
    if best and gains[best] > threshold:
        p_value = _agreement(predictions, labels[orders[best]][:n])[2]
        if p_value * len(gains) < ALPHA:
            return best, [name for name, gain in gains.items() if name != best and gains[best] - gain <= threshold]
    return None, [name for name, gain in gains.items() if abs(gain) <= threshold]


def _best_shift(table: np.ndarray, predictions: np.ndarray, labels: np.ndarray, start: int, stop: int) -> int:
    """The one shift of all that suits rows start..stop-1 best: a correlation, by Fourier transform."""
    block = predictions[start:stop]
    size = next_fast_len(len(block) + len(labels) - 1, real=True)
    indicator = (block == np.arange(len(table))[:, None]).astype(float)
    spectrum = (rfft(indicator, size).conj() * rfft(table[:, labels], size)).sum(axis=0)
    offsets = np.arange(1 - len(block), len(labels))
    totals = np.round(irfft(spectrum, size)[offsets], 6)  # rounded, so that a tie is one on every machine
    best = offsets[totals == totals.max()] - start
    return int(best[np.abs(best).argmin()])


def _worst_window(
    table: np.ndarray, predictions: np.ndarray, labels: np.ndarray, segments: Sequence[Segment]
) -> tuple[int, int]:
    """The rows, start and stop, whose scores under a pairing have the least sum."""
    scores = np.concatenate([_scores(table, predictions, labels, shift)[a:b] for a, b, shift in segments])
    sums = np.concatenate([[0], np.cumsum(scores)])
    stop = int((np.maximum.accumulate(sums[:-1]) - sums[1:]).argmax()) + 1
    return int(sums[:stop].argmax()), stop


def _first_guess(predictions: np.ndarray, labels: np.ndarray, classes: int) -> int:
    """The shift to learn the confusion at: 0, unless another agrees better beyond doubt."""
    rows, index_rows = len(predictions), len(labels)
    table = np.eye(classes) - np.bincount(labels, minlength=classes) / index_rows
    shift = _best_shift(table, predictions, labels, 0, rows)
    ours, theirs = _matched(predictions, labels, [(0, rows, shift)])
    ours_0, theirs_0 = _matched(predictions, labels, [(0, rows, 0)])
    better = (ours == theirs).sum() > (ours_0 == theirs_0).sum() and 2 * len(ours) >= min(rows, index_rows)
    return shift if better and _agreement(ours, theirs)[2] * (rows + index_rows) < ALPHA else 0


def _costs(shifts: Sequence[int | None], rows: int, index_rows: int) -> np.ndarray:
    """What a change to each shift must gain, in nats: half of the odds for the near ones, half for all others."""
    ways = [2 * (len(NEAR) + 1) if shift in NEAR or shift is None else 2 * (rows + index_rows) for shift in shifts]
    return np.log(rows * np.array(ways) / ALPHA)


def _segment(
    table: np.ndarray, predictions: np.ndarray, labels: np.ndarray, shifts: Sequence[int | None]
) -> list[Segment]:
    """The pairing of greatest likelihood less its costs (Viterbi); it is in step, for nothing, at row 0."""
    rows = len(predictions)
    scores = np.stack([_scores(table, predictions, labels, shift) for shift in shifts], axis=1)
    costs = _costs(shifts, rows, len(labels))
    best = -costs
    best[shifts.index(0)] = 0
    changed = np.zeros(scores.shape, bool)
    source = np.zeros(rows, int)
    for row in range(rows):
        source[row] = best.argmax()
        arriving = best[source[row]] - costs
        changed[row] = arriving > best
        best = np.maximum(arriving, best) + scores[row]
    segments: list[Segment] = []
    stop, state = rows, int(best.argmax())
    while stop > 0:
        changes = np.flatnonzero(changed[:stop, state])
        start = int(changes[-1]) if len(changes) else 0
        segments.insert(0, (start, stop, shifts[state]))
        stop, state = start, int(source[start])
    return segments


def _trace(predictions: np.ndarray, labels: np.ndarray, classes: int, kinds: int) -> tuple[list[Segment], float, float]:
    """The pairing found, its log likelihood ratio to being in step, and what that had to pass."""
    rows = len(predictions)
    in_step: list[Segment] = [(0, rows, 0)]
    guess = _first_guess(predictions, labels % classes, classes)
    shifts: list[int | None] = list(dict.fromkeys([*NEAR, None, guess]))
    # Learnt at several shifts at first: a class that lies wholly behind a slip is learnt rightly at one of them.
    segments: list[Segment] = []
    pairs = [_matched(predictions, labels, [(0, rows, shift)]) for shift in dict.fromkeys([0, 1, -1, guess])]
    for _ in range(ROUNDS):
        ours, theirs = map(np.concatenate, zip(*pairs, strict=True))
        table = _table(ours, theirs, classes, kinds)
        found = _segment(table, predictions, labels, shifts)
        # Shifts worth a try: where the rows that fit worst, and those that fit nowhere, belong; and the way back.
        windows = [_worst_window(table, predictions, labels, found)]
        windows += [(start, stop) for start, stop, shift in found if shift is None]
        elsewhere = [_best_shift(table, predictions, labels, *window) for window in windows]
        fresh = sorted({way * shift for shift in elsewhere for way in (1, -1)} - set(shifts))
        if found == segments and not fresh:
            break
        segments, shifts = found, [*shifts, *fresh]
        pairs = [_matched(predictions, labels, segments)]
    segments = _spared(predictions, labels % classes, segments)
    steps: list[int | None] = [0, *(shift for _, _, shift in segments)]
    changes = [after for before, after in pairwise(steps) if before != after]
    # Each pairing under its own table: else the one that the table was learnt from would be favoured.
    gain = _information(*_matched(predictions, labels, segments), classes, kinds) - _information(
        *_matched(predictions, labels, in_step), classes, kinds
    )
    threshold = float(_costs(changes or [1], rows, len(labels)).sum())
    return (segments, gain, threshold) if changes and gain > threshold else (in_step, 0.0, threshold)


def _spared(predictions: np.ndarray, labels: np.ndarray, segments: Sequence[Segment]) -> list[Segment]:
    """Segments without a shift given a neighbour's, or 0, unless their agreement is chance at each of them."""
    spared: list[Segment] = []
    for number, (start, stop, shift) in enumerate(segments):
        if shift is None:
            near = {0, *(s for _, _, s in segments[max(number - 1, 0) : number + 2] if s is not None)}
            trials = {s: _matched(predictions, labels, [(start, stop, s)]) for s in sorted(near, key=abs)}
            beyond = [s for s, (ours, _) in trials.items() if len(ours) == 0]
            if beyond:
                shift = beyond[0]
            elif not all(_at_chance(ours, theirs, len(labels) ** 2) for ours, theirs in trials.values()):
                shift = max(trials, key=lambda s: (trials[s][0] == trials[s][1]).mean())
        if spared and spared[-1][2] == shift:
            start = spared.pop()[0]
        spared.append((start, stop, shift))
    return spared


def _first_change(
    predictions: np.ndarray, labels: np.ndarray, segments: Sequence[Segment], classes: int, kinds: int
) -> tuple[int, int, int] | None:
    """The likeliest first row out of step, and the ends of its credible interval, every row being as likely before."""
    table = _table(*_matched(predictions, labels, segments), classes, kinds)
    steps = [(0, 0, 0), *segments] if segments[0][2] != 0 else list(segments)
    if len(steps) == 1:
        return None
    stop, before, after = steps[1][1], *(_scores(table, predictions, labels, shift) for *_, shift in steps[:2])
    gains = np.concatenate([[0], np.cumsum((before - after)[:stop])])
    odds = np.cumsum(np.exp(gains - gains.max()))
    tail = (1 - CREDIBILITY) / 2
    low, high = np.searchsorted(odds, [tail * odds[-1], (1 - tail) * odds[-1]])
    return int(gains.argmax()), int(low), int(high)


def _column_order(
    predictions: np.ndarray, labels: np.ndarray, segments: Sequence[Segment], classes: int
) -> list[int] | None:
    """Which class each column seems to hold, if that is not the index's order beyond doubt.

    A sign test of the rows that agree under the new order alone against those that agree under the old alone. The
    column that gains most does not count: a weak teacher may call most of one class another, but not several.
    """
    ours, theirs = _matched(predictions, labels, segments)
    confusion = np.bincount(ours * classes + theirs, minlength=classes**2).reshape(classes, classes)
    columns = linear_sum_assignment(-confusion)[1]
    moved = np.flatnonzero(columns != np.arange(classes))
    if len(moved) == 0:
        return None
    gained, lost = confusion[moved, columns[moved]], confusion[moved, moved].sum()
    gained = gained.sum() - gained.max()
    return columns.tolist() if binom.sf(gained - 1, gained + lost, 0.5) < ALPHA else None


def _blind_rows(predictions: np.ndarray, labels: np.ndarray, classes: int) -> int:
    """At how many rows a loss, or a doubling, of one row of a set in step would not be reported."""
    table = _table(predictions, labels, classes, classes)
    in_step = _scores(table, predictions, labels, 0)
    cost = _costs([1], len(predictions), len(labels))[0]
    # Once row r is lost, each row after it meets the label of the row before it.
    lost = np.cumsum((in_step - _scores(table, predictions, labels, -1))[::-1])[::-1]
    doubled = np.cumsum((in_step - _scores(table, predictions, labels, 1))[::-1])[::-1]
    return int(max((np.append(lost[1:], 0) <= cost).sum(), (doubled <= cost).sum()))


def _between(predictions: np.ndarray, labels: np.ndarray, other: np.ndarray, classes: int) -> dict[str, Any]:
    """Are two teachers in step? Each row is held against the other's arg-max and its label together.

    Against the arg-max alone, two teachers in step would look out of step in a run of one label, where the arg-max
    of the next row says as much as that of the same row if their errors are independent.
    """
    if not len(other) == len(predictions) == len(labels):
        raise CheckError(f"another teacher has {len(other)} rows", expected=f"{len(labels)} rows of each")
    agreement, chance, p_value = _agreement(predictions, other)
    joint = labels * classes + other
    segments, _, _ = _trace(predictions, joint, classes, classes**2)
    slip = _first_change(predictions, joint, segments, classes, classes**2)
    return {
        "agreement": agreement,
        "chance": chance,
        "p_value": p_value,
        "shift": _describe(segments),
        "slip_row": slip[0] if slip else None,
        "slip_interval": list(slip[1:]) if slip else None,
    }


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
    return fault | {"segments": [{"start": start, "stop": stop, "shift": shift} for start, stop, shift in segments]}


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
