"""What `align check` says of two files and a CSV, and what `align repair` makes of them: 12 kinds of files, many seeds.

Each seed draws 2,000 images in folders with accents in their names, three splits, and two teachers of 60 to 75 %
accuracy; the one's file is damaged or written in another form, the other's is as it should be. "said" counts verdicts
that name what is there: `in step` for other forms, the fault for the others, while the other file is in step. "mended"
counts repaired files whose every row is that of its image, of those for which the verdict gave a command, which is run
as it stands; "without" is how many images then have no soft label, at most. "false" counts intact pairs called other
than in step.
"""

import contextlib
import shlex
import tempfile
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import measure
import numpy as np
from canary import draw_labels, teacher
from rich.console import Console
from rich.table import Column, Table

from ferdistill.files import write_json
from ferdistill.softlabels import labelled, verdicts
from ferdistill.softlabels.orders import sort_orders
from ferdistill.softlabels.repair import repair

EXAMPLES = """
  python benchmarks/damage.py                          20 seeds of each kind, 200 intact pairs, some minutes
  python benchmarks/damage.py --seeds 2 --intact 0     seconds
"""
CLASSES = ["angry", "disgust", "fear", "happy", "neutral", "sad", "surprise"]
FOLDERS = ["jaffé", "kdef/été", "raf"]
ROWS = 2000


class Pair(NamedTuple):
    """Images, and two teachers' soft labels of them in their order."""

    rng: np.random.Generator
    paths: np.ndarray  # (N,) str
    labels: np.ndarray  # (N,) int
    splits: np.ndarray  # (N,) str
    values: tuple[np.ndarray, np.ndarray]  # (N, 7) each


class Damage(NamedTuple):
    """One kind of file: what `P.npz` then holds, and what the verdict must show of it."""

    write: Callable[[Pair, bool], dict[str, np.ndarray]]  # with keys or without
    shows: Callable[[dict[str, Any], str], bool]  # of a report, for a file
    keyed: tuple[bool, ...] = (True, False)


def draw(seed: int, rows: int = ROWS) -> Pair:
    """A pair in step."""
    rng = np.random.default_rng([7, seed])
    labels = draw_labels(rng, rows)
    paths = np.array(sorted(f"{rng.choice(FOLDERS)}/img_{row}.png" for row in range(rows)))
    splits = rng.choice(["train", "val", "test"], rows, p=[0.7, 0.15, 0.15])
    return Pair(rng, paths, labels, splits, (teacher(rng, labels), teacher(rng, labels)))


def rows(pair: Pair, order: np.ndarray, keyed: bool, paths: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """The first teacher's rows in an order."""
    named = pair.paths if paths is None else paths
    return kind(pair.values[0][order]) | ({"paths": named[order]} if keyed else {})


def kind(values: np.ndarray) -> dict[str, np.ndarray]:
    """Named for what they are."""
    return {"probs" if (values >= 0).all() and np.allclose(values.sum(axis=1), 1, atol=1e-3) else "logits": values}


def renamed(change: Callable[[str], str]) -> Callable[[Pair, bool], dict[str, np.ndarray]]:
    """All rows, with other forms of their paths."""
    return lambda pair, keyed: rows(
        pair, np.arange(len(pair.paths)), keyed, np.array([change(path) for path in pair.paths])
    )


def ordered(order: Callable[[Pair], np.ndarray]) -> Callable[[Pair, bool], dict[str, np.ndarray]]:
    """The rows in another order."""
    return lambda pair, keyed: rows(pair, order(pair), keyed)


def exchanged(pair: Pair, keyed: bool) -> dict[str, np.ndarray]:
    """Two columns that the teacher knows, exchanged."""
    one, other = pair.rng.choice([0, 2, 3, 4, 5, 6], 2, replace=False)
    order = np.arange(7)
    order[[one, other]] = other, one
    found = rows(pair, np.arange(len(pair.paths)), keyed)
    return {name: array[:, order] if array.ndim == 2 else array for name, array in found.items()}


def in_step(report: dict[str, Any], file: str) -> bool:
    """Whether a file is called in step."""
    return verdict(report, file)["verdict"] == verdicts.IN_STEP


def by_rule(report: dict[str, Any], file: str) -> bool:
    """In step, by a rule for the paths that is told."""
    held = next(soft["held"] for soft in report["soft_labels"] if soft["dir"] == file)
    return in_step(report, file) and all(one["rule"] for one in held)


def names(*kinds: str) -> Callable[[dict[str, Any], str], bool]:
    """Out of step, with one of these faults: a problem's kind, or the canary's."""

    def shows(report: dict[str, Any], file: str) -> bool:
        found = {problem["kind"] for problem in report["problems"] if problem["dir"] == file}
        shifts = [one["shift"] for one in report["canary"]["results"] if one["dir"] == file and one["shift"]]
        return bool((found | {shift["kind"] for shift in shifts}) & set(kinds))

    return shows


def verdict(report: dict[str, Any], file: str) -> dict[str, Any]:
    """That of one file."""
    return next(one for one in report["verdicts"] if one["dir"] == file)


def sorted_by_label(pair: Pair) -> np.ndarray:
    """As a loader of class folders reads them."""
    return np.lexsort((pair.paths, np.array(CLASSES)[pair.labels]))


def by_number(pair: Pair) -> np.ndarray:
    """Numbers in names sorted as numbers, img_9 before img_10."""
    return sort_orders(pair.paths.astype(object), pair.labels)["path by numbers"]


def all_but(pair: Pair) -> np.ndarray:
    """All rows but one."""
    return np.delete(np.arange(len(pair.paths)), pair.rng.integers(len(pair.paths)))


def one_twice(pair: Pair) -> np.ndarray:
    """All rows, one of them twice."""
    return np.sort(np.append(np.arange(len(pair.paths)), pair.rng.integers(len(pair.paths))))


def rotated(pair: Pair) -> np.ndarray:
    """As np.roll leaves them, by 20 rows at least."""
    return np.roll(np.arange(len(pair.paths)), pair.rng.integers(20, len(pair.paths) - 20))


KINDS = {
    "keyed": Damage(ordered(lambda pair: np.arange(len(pair.paths))), in_step, (True,)),
    "keyless": Damage(ordered(lambda pair: np.arange(len(pair.paths))), in_step, (False,)),
    "train alone": Damage(ordered(lambda pair: np.flatnonzero(pair.splits == "train")), in_step),
    "absolute paths": Damage(renamed(lambda path: f"/data/faces/{path}"), by_rule, (True,)),
    "Windows separators": Damage(renamed(lambda path: path.replace("/", "\\")), by_rule, (True,)),
    "NFD for NFC": Damage(renamed(lambda path: unicodedata.normalize("NFD", path)), by_rule, (True,)),
    "rotated": Damage(ordered(rotated), names("order", "rotated")),
    "reversed": Damage(ordered(lambda pair: np.arange(len(pair.paths))[::-1]), names("order")),
    "sorted by numbers": Damage(ordered(by_number), names("order")),
    "sorted by label": Damage(ordered(sorted_by_label), names("order")),
    "one row lost": Damage(ordered(all_but), names("uncovered", "dropped")),
    "one row doubled": Damage(ordered(one_twice), names("duplicate", "doubled")),
    "columns exchanged": Damage(exchanged, names("columns")),
}


def trial(pair: Pair, first: dict[str, np.ndarray], folder: Path, keyed: bool) -> tuple[dict[str, Any], Path, Path]:
    """The report on two files and a CSV, and where the first file and the CSV are."""
    one, other, table = folder / "P.npz", folder / "Q.npz", folder / "labels.csv"
    np.savez(one, **first)
    np.savez(other, **kind(pair.values[1]), **({"paths": pair.paths} if keyed else {}))
    lines = zip(pair.paths, np.array(CLASSES)[pair.labels], pair.splits, strict=True)
    table.write_text("path,label,split\n" + "".join(f"{','.join(line)}\n" for line in lines), encoding="utf-8")
    images = labelled.read(table)
    return verdicts.check([one, other], images, images.classes), one, table


def mended(pair: Pair, report: dict[str, Any], file: Path, table: Path) -> int | None:
    """Run the command that a verdict gives; how many images have no soft label then, -1 if a row is not its image's."""
    command = verdict(report, file.as_posix())["mend"]
    if command is None:
        return None
    words = shlex.split(command)
    options = {word: words[place + 1] for place, word in enumerate(words) if word in ("--columns", "--out")}
    made = file.with_name(options["--out"])
    columns = options["--columns"].split(",") if "--columns" in options else None
    drop = "--drop-unmatched" in words
    repair(file, labelled.read(table), made, columns=columns, drop_unmatched=drop)
    with np.load(made) as found:
        values = found["probs"] if "probs" in found else found["logits"]
        at = np.searchsorted(pair.paths, found["paths"])
    return len(pair.paths) - len(at) if np.array_equal(values, pair.values[0][at]) else -1


def run(name: str, keyed: bool, seeds: int, size: int = ROWS) -> dict[str, Any]:
    """One row of the result: counts out of `seeds`."""
    said = offered = right = without = 0
    for seed in range(seeds):
        pair = draw(seed, size)
        with tempfile.TemporaryDirectory() as folder:
            damage = KINDS[name]
            report, file, table = trial(pair, damage.write(pair, keyed), Path(folder), keyed)
            other = file.with_name("Q.npz").as_posix()
            said += damage.shows(report, file.as_posix()) and in_step(report, other)
            left = mended(pair, report, file, table)
        if left is not None:
            offered, right, without = offered + 1, right + (left >= 0), max(without, left)
    return {
        "name": f"{name}, {'keyed' if keyed else 'keyless'}" if len(KINDS[name].keyed) > 1 else name,
        "seeds": seeds,
        "said": said,
        "offered": offered,
        "mended": right,
        "without": without,
    }


def false_alarms(pairs: int, size: int = ROWS) -> int:
    """Of intact pairs, half of them keyed, those called other than in step."""
    wrong = 0
    for seed in range(pairs):
        pair, keyed = draw(1000 + seed, size), seed % 2 == 0
        with tempfile.TemporaryDirectory() as folder:
            report, *_ = trial(pair, rows(pair, np.arange(size), keyed), Path(folder), keyed)
        wrong += not all(one["verdict"] == verdicts.IN_STEP for one in report["verdicts"])
    return wrong


def main() -> None:
    """Run all kinds, print a table."""
    parser = measure.parser(__doc__, EXAMPLES)
    parser.add_argument("--seeds", type=int, default=20, help="trials of each kind (default: 20)")
    parser.add_argument("--intact", type=int, default=200, help="intact pairs (default: 200)")
    parser.add_argument("--rows", type=int, default=ROWS, help=f"images of a pair (default: {ROWS})")
    arguments = parser.parse_args()
    results = [
        run(name, keyed, arguments.seeds, arguments.rows) for name, damage in KINDS.items() for keyed in damage.keyed
    ]
    wrong = false_alarms(arguments.intact, arguments.rows)
    found = measure.result(results, "ferdistill", "numpy", "scipy") | {"intact": arguments.intact, "false": wrong}
    if arguments.json:
        write_json(arguments.json, found)
    columns = ["seeds", "said", "offered", "mended", "without"]
    table = Table(Column("", no_wrap=True), *columns, title=measure.cpu())
    for row in results:
        table.add_row(row["name"], *(str(row[name]) for name in columns))
    Console(width=120).print(table)
    print(f"{wrong} of {arguments.intact} intact pairs called other than in step")


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
