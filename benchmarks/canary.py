"""What the canary sees: simulated teachers, intact and with planted faults; and how long a look takes.

A teacher is 60 to 75 % accurate on seven classes with FER2013's frequencies. Each fault is planted at a random place,
the ends included. "misaligned" counts verdicts: on intact rows they are false alarms. "named" counts faults that were
named for what they are, "near" slips found within 50 rows of the truth, "held" intervals that hold the truth. "power"
is the power that the canary states beforehand, from the intact rows, for one lost or doubled row.
"""

from collections.abc import Callable
from statistics import mean, median
from time import perf_counter
from typing import Any, NamedTuple

import measure
import numpy as np
from rich.console import Console
from rich.table import Column, Table
from scipy.special import softmax

from ferdistill.data.index import SPLITS
from ferdistill.files import write_json
from ferdistill.softlabels import canary
from ferdistill.softlabels.orders import sort_orders

EXAMPLES = """
  python benchmarks/canary.py                                 100 trials of each fault at 5,000 and 500 rows, minutes
  python benchmarks/canary.py --trials 20 --rows 500          some seconds
  python benchmarks/canary.py --trials 1000 --json out.json
"""
PRIORS = np.array([0.14, 0.015, 0.14, 0.25, 0.17, 0.17, 0.115])  # FER2013's, in the order of the classes
NEAR = 50
SPEED_ROWS = 36_000


class Case(NamedTuple):
    """One trial: what the canary is given, and the truth (None where there is none)."""

    values: np.ndarray
    labels: np.ndarray
    kind: str | None = None
    slip_row: int | None = None
    orders: dict[str, np.ndarray] | None = None
    others: tuple[np.ndarray, ...] = ()


def draw_labels(rng: np.random.Generator, rows: int, run: int = 1) -> np.ndarray:
    """Labels by FER2013's frequencies, in runs of mean length `run` (1: independent)."""
    drawn = rng.choice(len(PRIORS), rows, p=PRIORS / PRIORS.sum())
    return drawn[np.maximum.accumulate(np.where(rng.random(rows) < 1 / run, np.arange(rows), 0))]


def teacher(
    rng: np.random.Generator, labels: np.ndarray, shared: np.ndarray | None = None, accuracy: float | None = None
) -> np.ndarray:
    """Soft labels (N, 7) of one teacher, of 60 to 75 % accuracy unless given.

    Gaussian logits with its own confusions between classes, up to two weak classes, images of unlike difficulty, and
    a temperature that makes it anything from over- to under-confident; half the teachers give probabilities. `shared`
    (N, 7) is noise that it has in common with others.
    """
    k = len(PRIORS)
    accuracy = rng.uniform(0.6, 0.75) if accuracy is None else accuracy
    strength = np.ones(k)
    strength[rng.choice(k, rng.integers(0, 3), replace=False)] = 0.5
    confusion = rng.gumbel(0, 0.4, (k, k)) + np.log(PRIORS) * 0.3
    noise = rng.normal(0, 1, (len(labels), k)) + (0 if shared is None else shared)
    noise *= rng.lognormal(0, 0.4, (len(labels), 1))
    low, high = 0.0, 30.0
    for _ in range(30):
        scale = (low + high) / 2
        logits = confusion[labels] + noise + scale * (strength * np.eye(k))[labels]
        low, high = (scale, high) if (logits.argmax(1) == labels).mean() < accuracy else (low, scale)
    logits /= np.exp(rng.uniform(np.log(0.2), np.log(4)))
    return (logits if rng.random() < 0.5 else softmax(logits, axis=1)).astype(np.float32)


def intact(rng: np.random.Generator, rows: int, run: int = 1) -> Case:
    """Rows in step."""
    labels = draw_labels(rng, rows, run)
    return Case(teacher(rng, labels), labels)


def dropped(rng: np.random.Generator, rows: int, first: int = 0, last: int | None = None, run: int = 1) -> Case:
    """A row lost, and another's appended, so that the length tells nothing."""
    case = intact(rng, rows, run)
    row = int(rng.integers(first, rows if last is None else last))
    values = np.concatenate([np.delete(case.values, row, axis=0), case.values[rng.integers(rows, size=1)]])
    return Case(values, case.labels, "dropped", row)


def shorter(rng: np.random.Generator, rows: int) -> Case:
    """A row lost."""
    case, row = intact(rng, rows), int(rng.integers(rows))
    return Case(np.delete(case.values, row, axis=0), case.labels, "dropped", row)


def doubled(rng: np.random.Generator, rows: int) -> Case:
    """A row doubled, and the last one lost."""
    case, row = intact(rng, rows), int(rng.integers(rows - 1))
    return Case(np.insert(case.values, row, case.values[row], axis=0)[:-1], case.labels, "doubled", row + 1)


def swapped(rng: np.random.Generator, rows: int) -> Case:
    """Two blocks of 200 rows (an eighth of the rows if that is fewer) have changed places."""
    case, block = intact(rng, rows), min(200, rows // 8)
    first, second = sorted(rng.choice(rows // block, 2, replace=False) * block)
    order = np.arange(rows)
    order[first : first + block], order[second : second + block] = (
        np.arange(second, second + block),
        np.arange(first, first + block),
    )
    return Case(case.values[order], case.labels, "swapped", int(first))


def resorted(rng: np.random.Generator, rows: int) -> Case:
    """The rows in one of the sort orders that differ from the index's."""
    case = intact(rng, rows)
    folders, joints, stems = ["fer", "Fer b", "raf"], ["/", "-", "."], ["Img", "img"]
    names = [(rng.choice(folders), rng.choice(joints), rng.choice(stems), row) for row in range(rows)]
    paths = np.array(sorted("".join(map(str, name)) + ".png" for name in names), object)
    orders = sort_orders(paths, case.labels.astype(str).astype(object), rng.choice(SPLITS, rows).astype(object))
    others = [name for name, order in orders.items() if (order != np.arange(rows)).any()]
    return Case(case.values[orders[str(rng.choice(others))]], case.labels, "order", None, orders)


def reordered_columns(rng: np.random.Generator, rows: int) -> Case:
    """The columns in the order of FER2013's own codes."""
    case = intact(rng, rows)
    return Case(case.values[:, [0, 1, 2, 3, 5, 6, 4]], case.labels, "columns")


def shuffled(rng: np.random.Generator, rows: int) -> Case:
    """No row where it belongs."""
    case = intact(rng, rows)
    return Case(rng.permutation(case.values), case.labels, "unrelated")


def stretches(rng: np.random.Generator, rows: int) -> Case:
    """In step, but errors come in stretches of 30 rows, and the last third is from a source read half as well."""
    labels, easy = draw_labels(rng, rows), rows * 2 // 3
    shared = np.repeat(rng.normal(0, 1.5, (rows // 30 + 1, len(PRIORS))), 30, axis=0)[:rows]
    parts = [
        teacher(rng, labels[:easy], shared[:easy], accuracy=0.75),
        teacher(rng, labels[easy:], shared[easy:], accuracy=0.38),
    ]
    return Case(np.concatenate(parts), labels)


def of_teachers(rng: np.random.Generator, rows: int, lost: bool) -> Case:
    """Rows sorted by class, where labels show no slip: three teachers with errors in common, one perhaps slipped."""
    labels = np.sort(draw_labels(rng, rows))
    shared = rng.normal(0, 1, (rows, len(PRIORS)))
    values, *others = (teacher(rng, labels, shared) for _ in range(3))
    if not lost:
        return Case(values, labels, others=tuple(others))
    row = int(rng.integers(rows))
    values = np.concatenate([np.delete(values, row, axis=0), values[-1:]])
    return Case(values, labels, "teachers", row, others=tuple(others))


CASES: dict[str, Callable[[np.random.Generator, int], Case]] = {
    "intact": intact,
    "intact, runs of 50 labels": lambda rng, rows: intact(rng, rows, run=50),
    "intact, errors in stretches": stretches,
    "intact, sorted by class, 3 teachers": lambda rng, rows: of_teachers(rng, rows, lost=False),
    "row dropped": dropped,
    "row dropped, one row fewer": shorter,
    "row dropped, first 50": lambda rng, rows: dropped(rng, rows, last=50),
    "row dropped, last 50": lambda rng, rows: dropped(rng, rows, first=rows - 50),
    "row dropped, runs of 50 labels": lambda rng, rows: dropped(rng, rows, run=50),
    "row dropped, sorted by class, 3 teachers": lambda rng, rows: of_teachers(rng, rows, lost=True),
    "row doubled": doubled,
    "blocks swapped": swapped,
    "another sort order": resorted,
    "FER2013's order of columns": reordered_columns,
    "shuffled": shuffled,
}


def run(name: str, rows: int, trials: int) -> dict[str, Any]:
    """One row of the result: counts out of `trials`, None where a count makes no sense."""
    place = list(CASES).index(name)
    cases, results, seconds = [], [], []
    for trial in range(trials):
        case = CASES[name](np.random.default_rng([place, rows, trial]), rows)
        start = perf_counter()
        results.append(canary.examine(case.values, case.labels, orders=case.orders, others=case.others))
        seconds.append(perf_counter() - start)
        cases.append(case)
    pairs = list(zip(cases, results, strict=True))
    located = [(case.slip_row, result) for case, result in pairs if case.slip_row is not None]
    powers = [result["power"] for result in results if result["power"] is not None]
    return {
        "name": name,
        "rows": rows,
        "trials": trials,
        "misaligned": sum(result["verdict"] == "misaligned" for result in results),
        "aligned": sum(result["verdict"] == "aligned" for result in results),
        "named": sum(bool(result["shift"]) and result["shift"]["kind"] == case.kind for case, result in pairs)
        if cases[0].kind
        else None,
        "near": sum(r["slip_row"] is not None and abs(r["slip_row"] - truth) <= NEAR for truth, r in located)
        if located
        else None,
        "held": sum(
            r["slip_interval"] is not None and r["slip_interval"][0] <= truth <= r["slip_interval"][1]
            for truth, r in located
        )
        if located
        else None,
        "power": mean(powers) if name.startswith("intact") and powers else None,
        "seconds": median(seconds),
    }


def main() -> None:
    """Run all cases, print a table."""
    parser = measure.parser(__doc__, EXAMPLES)
    parser.add_argument("--trials", type=int, default=100, help="trials of each case (default: 100)")
    parser.add_argument("--rows", type=int, nargs="+", default=[5000, 500], help="how many rows (default: 5000 500)")
    arguments = parser.parse_args()
    if arguments.trials < 1 or min(arguments.rows) < 100:
        parser.error("at least 1 trial and 100 rows")

    rows = [run(name, number, arguments.trials) for number in arguments.rows for name in CASES]
    rows += [run(name, SPEED_ROWS, 3) for name in ("intact", "row dropped", "blocks swapped")]
    if arguments.json:
        write_json(arguments.json, measure.result(rows, "ferdistill", "numpy", "scipy"))
    columns = ["rows", "trials", "misaligned", "aligned", "named", "near", "held", "power", "seconds"]
    table = Table(Column("", no_wrap=True), *columns, title=measure.cpu())
    for row in rows:
        cells = ["" if row[name] is None else row[name] for name in columns]
        table.add_row(row["name"], *(f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in cells))
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
