"""Orders in which rows come: those that exporters write in, and what an order is, in words."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

NUMBER = re.compile("[0-9]+")
FEW = 8  # runs that are listed


def sort_orders(paths: np.ndarray, labels: np.ndarray, splits: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Orders in which exporters write: for each, the positions of its rows among `paths` (N,); int64, (N,).

    `labels` and `splits` (N,) are those of the rows.
    """
    texts = paths.tolist()
    names = [path.rpartition("/")[2] for path in texts]
    folders = {path.rpartition("/")[0] for path in texts}
    by_path, by_number = _sorted(texts), _sorted([_natural(path) for path in texts])
    orders = {
        "path as bytes": by_path,
        "path folder by folder": _sorted([path.replace("/", "\0") for path in texts]),
        "path regardless of case": _sorted([path.lower() for path in texts]),
        "path by numbers": by_number,
    }
    if len(folders) > 1:
        orders["file name"], orders["file name by numbers"] = (
            _sorted(names),
            _sorted([_natural(name) for name in names]),
        )
    orders["label then path"], orders["label then path by numbers"] = _by(labels, by_path), _by(labels, by_number)
    if splits is not None:
        usual = {"train": 0, "val": 1, "calib": 2, "test": 3}
        ranks = np.array([usual.get(split, 4) for split in splits.tolist()])
        orders |= {"split then path": _by(ranks, by_path), "split by name then path": _by(splits, by_path)}
    return orders | {"reversed": np.arange(len(texts))[::-1]}


def _sorted(keys: Sequence[Any]) -> np.ndarray:
    return np.array(sorted(range(len(keys)), key=keys.__getitem__))


def _by(keys: np.ndarray, order: np.ndarray) -> np.ndarray:
    """By `keys` first, and as in `order` where they are equal."""
    place = {key: rank for rank, key in enumerate(sorted(set(keys.tolist())))}
    ranks = np.fromiter(map(place.__getitem__, keys.tolist()), np.int64, len(keys))
    return order[np.argsort(ranks[order], kind="stable")]


def _natural(path: str) -> str:
    """A key that sorts numbers as numbers: text before a number before longer text, as lists of both would sort."""
    return NUMBER.sub(lambda found: f"\0{found[0].lstrip('0'):0>40}", path)


def described(at: np.ndarray, orders: Mapping[str, np.ndarray]) -> str:
    """An order in words: `at` (N,) is where each row belongs, a permutation of 0..N-1; `orders` are known ones."""
    if np.array_equal(at, np.arange(len(at))[::-1]):
        return "reversed"
    runs = segments_of(at)
    if len(runs) == 2:
        return f"rotated by {runs[1][0]} rows, as np.roll does"
    for name, order in orders.items():
        if np.array_equal(at, order):
            return f"sorted by {name}"
    displaced = [f"{start} to {stop - 1}" for start, stop, shift in runs if shift]
    if len(runs) <= FEW:
        return f"blocks of rows have moved: {', '.join(displaced)}"
    return f"{int((at != np.arange(len(at))).sum())} of {len(at)} rows stand elsewhere, in no order that is known"


def segments_of(at: np.ndarray) -> list[tuple[int, int, int]]:
    """Runs of rows that belong together: from row `start` to before row `stop`, row i belongs to i + shift."""
    shifts = at - np.arange(len(at))
    starts = np.flatnonzero(np.diff(shifts, prepend=shifts[0] - 1 if len(shifts) else 0))
    stops = np.append(starts[1:], len(shifts))
    return [(int(a), int(b), int(shifts[a])) for a, b in zip(starts, stops, strict=True)]
