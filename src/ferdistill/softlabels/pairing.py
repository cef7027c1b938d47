"""Which rows belong to which labels, by the arg-max of the rows alone: the likelihoods behind `canary`.

Throughout, `predictions` (N,) are the rows' arg-max in 0..classes-1, `labels` (M,) what they are held against, in
0..kinds-1. Nothing is simulated: there is no seed.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from scipy.fft import irfft, next_fast_len, rfft
from scipy.optimize import linear_sum_assignment
from scipy.special import bdtr, bdtrc, gammaln, ndtr, ndtri

ALPHA = 0.001  # false alarms, over all pairings searched
SIGNIFICANCE = 0.01  # of agreement above chance
USEFUL = 0.4  # accuracy that any teacher worth distilling from has
DISTINCT = 2 / 3  # of the rows that two orders of the columns dispute, what goes to the true one
CREDIBILITY = 0.99  # of `canary.examine`'s `slip_interval`
NEAR = (0, 1, -1, 2, -2, 3, -3)  # shifts that are always tried; others where a whole set, or a block, fits them
ROUNDS = 5
GROUPS = 16  # classes beyond which shifts are searched by groups of neighbouring classes, not class by class
GUESS = 2**16  # rows from the middle of a set, by which its shift is first guessed
FRAME = 2**15  # labels that a short block is held against at a time

Segment = tuple[int, int, int | None]
"""From row `start` to before row `stop`, row i belongs to label i + shift; to none if shift is None."""


def agreement(predictions: np.ndarray, labels: np.ndarray) -> tuple[float, float, float]:
    """Agreement, its mean over shuffles of the rows, and p of a shuffle that agrees as well."""
    mean, deviation = _shuffled(predictions, labels)
    agreeing = int((predictions == labels).sum())
    # Half a row is the continuity correction. A normal tail may underflow; p is never 0.
    p_value = float(ndtr((mean + 0.5 - agreeing) / deviation)) if deviation > 0 else 1.0
    return agreeing / len(labels), mean / len(labels), max(p_value, float(np.finfo(float).tiny))


def _shuffled(predictions: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation of the number of agreeing rows over all shuffles (Hoeffding 1951)."""
    n, k = len(labels), int(max(predictions.max(), labels.max())) + 1
    a, b = np.bincount(predictions, minlength=k), np.bincount(labels, minlength=k)
    centred = np.eye(k) - b[:, None] / n - a[None, :] / n + (a @ b) / n**2
    variance = a @ centred**2 @ b / max(n - 1, 1)
    return float(a @ b / n), float(np.sqrt(np.round(variance, 9)))  # rounded, so that 0 is 0


def at_chance(predictions: np.ndarray, labels: np.ndarray, choices: int = 1) -> bool:
    """Whether the agreement is not above chance although a useful teacher's would be, with power 0.99.

    Of a stretch that is the worst of `choices`, a useful teacher must make so few agree in ALPHA / choices at most.
    """
    n, agreeing = len(labels), int((predictions == labels).sum())
    mean, deviation = _shuffled(predictions, labels)
    spread = ndtri(1 - SIGNIFICANCE) * (deviation + np.sqrt(n * USEFUL * (1 - USEFUL)))
    seen = deviation > 0 and USEFUL * n - mean > spread
    unlucky = choices > 1 and bdtr(agreeing, n, USEFUL) * choices >= ALPHA
    return bool(seen and not unlucky) and agreement(predictions, labels)[2] >= SIGNIFICANCE


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


def best_order(
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
        p_value = agreement(predictions, labels[orders[best]][:n])[2]
        if p_value * len(gains) < ALPHA:
            return best, [name for name, gain in gains.items() if name != best and gains[best] - gain <= threshold]
    return None, [name for name, gain in gains.items() if abs(gain) <= threshold]


def _best_shift(table: np.ndarray, predictions: np.ndarray, labels: np.ndarray, start: int, stop: int) -> int:
    """The one shift of all that suits rows start..stop-1 best: a correlation, by Fourier transform."""
    block, classes = predictions[start:stop], len(table)
    if classes > GROUPS:
        block, labels = block * GROUPS // classes, labels % classes * GROUPS // classes
        table = np.eye(GROUPS) - np.bincount(labels, minlength=GROUPS) / len(labels)
    offsets = np.arange(1 - len(block), len(labels))
    if 4 * max(len(block), FRAME) < len(labels):
        totals = _totals_by_frame(table, block, labels)
    else:
        size = next_fast_len(len(block) + len(labels) - 1, real=True)
        totals = _totals(table, _spectra(block, len(table), size), labels, size)[offsets]
    totals = np.round(totals, 6)  # so that a tie is one on every machine
    best = offsets[totals == totals.max()] - start
    return int(best[np.abs(best).argmin()])


def _spectra(block: np.ndarray, classes: int, size: int) -> list[np.ndarray]:
    """Of the rows of each class in a block."""
    return [rfft((block == number).astype(float), size).conj() for number in range(classes)]


def _totals(table: np.ndarray, spectra: Sequence[np.ndarray], labels: np.ndarray, size: int) -> np.ndarray:
    """The sums of a block's scores at each shift, cyclic, (size,)."""
    spectrum = np.zeros(size // 2 + 1, complex)
    for of_class, row in zip(spectra, table, strict=True):
        spectrum += of_class * rfft(row[labels], size)
    return irfft(spectrum, size)


def _totals_by_frame(table: np.ndarray, block: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The sums of a short block's scores at each shift, some thousand labels at a time."""
    beyond = len(block) - 1
    size = next_fast_len(max(FRAME, 8 * len(block)), real=True)
    step, number = size - beyond, len(labels) + beyond
    spectra = _spectra(block, len(table), size)
    padded = np.pad(labels, (beyond, beyond + size), constant_values=table.shape[1])
    table = np.column_stack([table, np.zeros(len(table))])  # no score beyond the labels
    frames = (padded[start : start + size] for start in range(0, number, step))
    return np.concatenate([_totals(table, spectra, frame, size)[:step] for frame in frames])[:number]


def _worst_window(scores: Mapping[int | None, np.ndarray], segments: Sequence[Segment]) -> tuple[int, int]:
    """The rows, start and stop, whose scores under a pairing have the least sum."""
    chosen = np.concatenate([scores[shift][start:stop] for start, stop, shift in segments])
    sums = np.concatenate([[0], np.cumsum(chosen)])
    stop = int((np.maximum.accumulate(sums[:-1]) - sums[1:]).argmax()) + 1
    return int(sums[:stop].argmax()), stop


def _first_guess(predictions: np.ndarray, labels: np.ndarray, classes: int) -> int:
    """The shift to learn the confusion at: 0, unless another agrees better beyond doubt."""
    rows, index_rows = len(predictions), len(labels)
    table = np.eye(classes) - np.bincount(labels, minlength=classes) / index_rows
    middle = max(0, rows - GUESS) // 2
    shift = _best_shift(table, predictions, labels, middle, min(middle + GUESS, rows))
    ours, theirs = _matched(predictions, labels, [(0, rows, shift)])
    ours_0, theirs_0 = _matched(predictions, labels, [(0, rows, 0)])
    better = (ours == theirs).sum() > (ours_0 == theirs_0).sum() and 2 * len(ours) >= min(rows, index_rows)
    return shift if better and agreement(ours, theirs)[2] * (rows + index_rows) < ALPHA else 0


def _costs(shifts: Sequence[int | None], rows: int, index_rows: int) -> np.ndarray:
    """What a change to each shift must gain, in nats: half of the odds for the near ones, half for all others."""
    ways = [2 * (len(NEAR) + 1) if shift in NEAR or shift is None else 2 * (rows + index_rows) for shift in shifts]
    return np.log(rows * np.array(ways) / ALPHA)


def _segment(
    scores: Mapping[int | None, np.ndarray], shifts: Sequence[int | None], rows: int, index_rows: int
) -> list[Segment]:
    """The pairing of greatest likelihood less its costs; it is in step, for nothing, at row 0.

    `scores` gives each row's log likelihood ratio at a shift.
    """
    costs = _costs(shifts, rows, index_rows)
    # Where no stretch gains at any shift what the change to it costs, nor do several.
    if all(_greatest_gain(scores[shift], scores[0]) <= cost for shift, cost in zip(shifts, costs, strict=True)):
        return [(0, rows, 0)]
    return _viterbi(np.stack([scores[shift] for shift in shifts], axis=1), costs, shifts)


def _greatest_gain(scores: np.ndarray, in_step: np.ndarray) -> float:
    """The most that any stretch of rows gains over being in step."""
    sums = np.cumsum(scores - in_step)
    least = np.minimum(np.minimum.accumulate(sums), 0)
    return float(max(sums[0], (sums[1:] - least[:-1]).max(initial=0)))


def _viterbi(scores: np.ndarray, costs: np.ndarray, shifts: Sequence[int | None]) -> list[Segment]:
    """The best path through scores (rows, shifts), by blocks of rows side by side: first from each state to each."""
    rows, states = scores.shape
    length = max(1, int(rows**0.5))
    blocks = -(-rows // length)
    padded = np.zeros((blocks * length, states))
    padded[:rows] = scores
    padded = padded.reshape(blocks, length, states).swapaxes(0, 1)
    through = np.full((blocks, states, states), -np.inf)
    through[:, range(states), range(states)] = 0
    for row in padded:
        arriving = through.max(axis=2, keepdims=True) - costs
        through = np.maximum(arriving, through) + row[:, None, :]
    best = -costs
    best[shifts.index(0)] = 0
    entry = np.zeros((blocks, states), int)
    for block in range(blocks):
        paths = best[:, None] + through[block]
        entry[block] = paths.argmax(axis=0)
        best = paths.max(axis=0)
    ends = np.zeros(blocks, int)
    ends[-1] = best.argmax()
    for block in range(blocks - 1, 0, -1):
        ends[block - 1] = entry[block, ends[block]]
    starts = entry[np.arange(blocks), ends]
    # Then again, from the states that the best path has at the start of each block.
    inside = np.full((blocks, states), -np.inf)
    inside[np.arange(blocks), starts] = 0
    changed, source = np.zeros((length, blocks, states), bool), np.zeros((length, blocks), np.int16)
    for place, row in enumerate(padded):
        source[place] = inside.argmax(axis=1)
        arriving = inside.max(axis=1, keepdims=True) - costs
        changed[place] = arriving > inside
        inside = np.maximum(arriving, inside) + row
    segments: list[Segment] = []
    for block in range(blocks - 1, -1, -1):
        stop, state = length, int(ends[block])
        while stop > 0:
            changes = np.flatnonzero(changed[:stop, block, state])
            start = int(changes[-1]) if len(changes) else 0
            a, b = block * length + start, min(block * length + stop, rows)
            if segments and segments[0][2] == shifts[state]:
                b = segments.pop(0)[1]
            if a < b:
                segments.insert(0, (a, b, shifts[state]))
            stop, state = start, int(source[start, block]) if len(changes) else state
    return segments


def trace(predictions: np.ndarray, labels: np.ndarray, classes: int, kinds: int) -> tuple[list[Segment], float, float]:
    """The pairing found, its log likelihood ratio to being in step, and what that had to pass."""
    rows = len(predictions)
    in_step: list[Segment] = [(0, rows, 0)]
    guess = _first_guess(predictions, labels % classes, classes)
    shifts: list[int | None] = list(dict.fromkeys([*NEAR, None, guess]))
    # Learnt at several shifts at first: a class that lies wholly behind a slip is learnt rightly at one of them.
    segments: list[Segment] = []
    pairs = [_matched(predictions, labels, [(0, rows, shift)]) for shift in dict.fromkeys([0, 1, -1, guess])]
    table, scores = np.empty(0), dict[int | None, np.ndarray]()
    for _ in range(ROUNDS):
        ours, theirs = map(np.concatenate, zip(*pairs, strict=True))
        learnt = _table(ours, theirs, classes, kinds)
        if not np.array_equal(learnt, table):
            table, scores = learnt, {}
        scores |= {shift: _scores(table, predictions, labels, shift) for shift in shifts if shift not in scores}
        found = _segment(scores, shifts, rows, len(labels))
        # Shifts worth a try: where the rows that fit worst, and those that fit nowhere, belong; and the way back.
        windows = [_worst_window(scores, found)]
        windows += [(start, stop) for start, stop, shift in found if shift is None]
        elsewhere = [_best_shift(table, predictions, labels, *window) for window in windows]
        fresh = sorted({way * shift for shift in elsewhere for way in (1, -1)} - set(shifts))
        if found == segments and not fresh:
            break
        segments, shifts = found, [*shifts, *fresh]
        pairs = [_matched(predictions, labels, segments)]
    segments = _spared(predictions, labels % classes, segments)
    steps: list[int | None] = [0, *(shift for _, _, shift in segments)]
    changed = [after for before, after in pairwise(steps) if before != after]
    # Each pairing under its own table: else the one that the table was learnt from would be favoured.
    gain = _information(*_matched(predictions, labels, segments), classes, kinds) - _information(
        *_matched(predictions, labels, in_step), classes, kinds
    )
    threshold = float(_costs(changed or [1], rows, len(labels)).sum())
    return (segments, gain, threshold) if changed and gain > threshold else (in_step, 0.0, threshold)


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
            elif not all(at_chance(ours, theirs, len(labels) ** 2) for ours, theirs in trials.values()):
                shift = max(trials, key=lambda s: (trials[s][0] == trials[s][1]).mean())
        if spared and spared[-1][2] == shift:
            start = spared.pop()[0]
        spared.append((start, stop, shift))
    return spared


def changes(
    predictions: np.ndarray,
    labels: np.ndarray,
    segments: Sequence[Segment],
    classes: int,
    kinds: int,
    credibility: float = CREDIBILITY,
) -> list[tuple[int, int, int]]:
    """Each change of step: the likeliest first row after it, and the least and greatest, every row being as likely."""
    table = _table(*_matched(predictions, labels, segments), classes, kinds)
    steps = [(0, 0, 0), *segments] if segments[0][2] != 0 else list(segments)
    found = []
    for (start, _, before), (_, stop, after) in pairwise(steps):
        ours, theirs = (_scores(table, predictions, labels, shift)[start:stop] for shift in (before, after))
        gains = np.concatenate([[0], np.cumsum(ours - theirs)])
        odds = np.cumsum(np.exp(gains - gains.max()))
        tail = (1 - credibility) / 2
        low, high = np.searchsorted(odds, [tail * odds[-1], (1 - tail) * odds[-1]])
        found.append((start + int(gains.argmax()), start + int(low), start + int(high)))
    return found


def first_change(
    predictions: np.ndarray, labels: np.ndarray, segments: Sequence[Segment], classes: int, kinds: int
) -> dict[str, Any]:
    """`slip_row`, the likeliest first row out of step, and `slip_interval`; both are None if none is."""
    found = changes(predictions, labels, segments, classes, kinds)
    if not found:
        return {"slip_row": None, "slip_interval": None}
    row, low, high = found[0]
    return {"slip_row": row, "slip_interval": [low, high]}


def rotation(
    predictions: np.ndarray, labels: np.ndarray, segments: Sequence[Segment], classes: int
) -> list[Segment] | None:
    """The rotation of all rows that explains a pairing, if the rows that it brings round show that beyond doubt.

    It needs as many rows as labels. Which row is the first is then known to the row, for the shift says it.
    """
    rows = len(predictions)
    shifts = {shift: stop - start for start, stop, shift in segments if shift}
    if rows != len(labels) or not shifts:
        return None
    first = -max(shifts, key=shifts.__getitem__) % rows  # where the row that belongs to label 0 stands
    rotated: list[Segment] = [(0, first, rows - first), (first, rows, -first)]
    table = _table(*_matched(predictions, labels, rotated), classes, classes)

    def likelihood(pairing: Sequence[Segment]) -> float:
        return sum(float(_scores(table, predictions, labels, shift)[a:b].sum()) for a, b, shift in pairing)

    doubt = -np.log(ALPHA)
    certain = min(likelihood(rotated[:1]), likelihood(rotated[1:])) > doubt
    return rotated if certain and likelihood(segments) - likelihood(rotated) < doubt else None


def column_order(
    predictions: np.ndarray, labels: np.ndarray, segments: Sequence[Segment], classes: int
) -> list[int] | None:
    """Which class each column seems to hold, if that is not the index's order beyond doubt.

    The order under which most rows agree is taken as a whole if it is believed, else each of its cycles that is: see
    `_exchanged`.
    """
    ours, theirs = _matched(predictions, labels, segments)
    confusion = np.bincount(ours * classes + theirs, minlength=classes**2).reshape(classes, classes)
    columns = linear_sum_assignment(-confusion)[1]
    cycles = _cycles(columns)
    if not cycles or not _exchanged(confusion, cycles):
        cycles = [cycle for cycle in cycles if _exchanged(confusion, [cycle])]
    order = np.arange(classes)
    for cycle in cycles:
        order[cycle] = columns[cycle]
    return order.tolist() if cycles else None


def _cycles(columns: np.ndarray) -> list[list[int]]:
    """The cycles of a permutation that are longer than one, each in its order."""
    cycles, left = [], set(np.flatnonzero(columns != np.arange(len(columns))).tolist())
    while left:
        cycle = [min(left)]
        while (following := int(columns[cycle[-1]])) != cycle[0]:
            cycle.append(following)
        cycles.append(cycle)
        left -= set(cycle)
    return cycles


def _exchanged(confusion: np.ndarray, cycles: Sequence[Sequence[int]]) -> bool:
    """Whether the columns of these cycles hold one another's classes, beyond doubt.

    Two sign tests of the rows that agree under the new order alone against those that agree under the old alone:

    - that more than `DISTINCT` of them agree under the new, at ALPHA over all ways in which so many columns can be
      exchanged, since these are the best of them. Between classes that are nearly one, a teacher's choice is
      a coin, and its rows are not independent (one person, one near copy in another split), so that it may lean against
      the labels of these rows; where the classes can be told apart, an exchange leaves few rows to the old order.
    - that more do than not, at ALPHA, without the column of each cycle that gains most: a weak teacher may call most of
      one class another, but not both.
    """
    classes = len(confusion)
    sizes = Counter(map(len, cycles))
    moved = sum(map(len, cycles))
    ways = gammaln(classes + 1) - gammaln(classes - moved + 1)
    ways -= sum(count * np.log(size) + gammaln(count + 1) for size, count in sizes.items())
    gains = [confusion[cycle, np.roll(cycle, -1)] for cycle in cycles]
    gained, most = sum(int(gain.sum()) for gain in gains), sum(int(gain.max()) for gain in gains)
    lost = sum(int(confusion[cycle, cycle].sum()) for cycle in cycles)
    with np.errstate(divide="ignore"):  # a tail below the smallest float is 0
        distinct = np.log(bdtrc(gained - 1, gained + lost, DISTINCT)) < np.log(ALPHA) - ways
    return bool(distinct and bdtrc(gained - most - 1, gained - most + lost, 0.5) < ALPHA)


def blind_rows(predictions: np.ndarray, labels: np.ndarray, classes: int) -> int:
    """At how many rows a loss, or a doubling, of one row of a set in step would not be reported."""
    table = _table(predictions, labels, classes, classes)
    in_step = _scores(table, predictions, labels, 0)
    cost = _costs([1], len(predictions), len(labels))[0]
    # Once row r is lost, each row after it meets the label of the row before it.
    lost = np.cumsum((in_step - _scores(table, predictions, labels, -1))[::-1])[::-1]
    doubled = np.cumsum((in_step - _scores(table, predictions, labels, 1))[::-1])[::-1]
    return int(max((np.append(lost[1:], 0) <= cost).sum(), (doubled <= cost).sum()))
