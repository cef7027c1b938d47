"""Whose row is whose: the paths of soft labels beside those of a table of labels, and the rule by which they match.

The rules are tried from the strictest on: the paths as they are; in Unicode's form NFC, with / between folders and
without ./ in front; the same without the folders that stand before what both sides have in common; each of these
without the extension. The first is taken that matches every row, else the one that matches most, the stricter at a
tie. Under none of them may two images of the table be one: where they would be, the rule is refused. So is a choice
between two ways to cut folders off that match equally many.
"""

import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import PurePosixPath
from typing import NamedTuple

import numpy as np

from ..errors import CheckError

SAME = 1000  # images of one name that a probe is held against
PROBES = 32  # paths from which what stands before the common part is learnt


Cut = Callable[[str], str | None]
Rule = tuple[str, Cut, Cut]
"""In words; and what it makes of the soft labels' paths, and of the table's."""


class Match(NamedTuple):
    """Where each of n paths stands in the table, and how it was found."""

    at: np.ndarray  # (n,) int64; -1 where nowhere
    rule: str | None  # in words; None where the paths are equal as they are


def match(paths: np.ndarray, wanted: np.ndarray, where: str) -> Match:
    """Match `paths` (n,) with those of a table, `wanted` (N,), which are all unlike; `where` is for the error.

    Raises a CheckError where the only rule that matches rows leaves open which image is meant.
    """
    if len(paths) == len(wanted) and np.array_equal(paths, wanted):
        return Match(np.arange(len(paths)), None)
    plain = _places(paths, wanted)
    if (plain >= 0).all():
        return Match(plain, None)
    best, count = Match(plain, None), int((plain >= 0).sum())
    ours, theirs = list(map(_tidy, paths)), list(map(_tidy, wanted))
    alike: list[Rule] = [("written alike (Unicode NFC, / between folders, no ./)", str, str)]
    cuts: list[Rule] = [(_said(*cut), _cutter(cut[0]), _cutter(cut[1])) for cut in _cuts(ours, theirs)]
    bare = [[(f"{said}, and without their extension", _bare(one), _bare(two)) for said, one, two in rules]
            for rules in (alike, cuts)]  # fmt: skip
    refused, doubtful = "", False
    for rules in (alike, cuts, *bare):
        found: list[Match] = []
        for said, one, two in rules:
            keys = [two(path) for path in theirs]
            at = _places([one(path) for path in ours], keys)
            if (at >= 0).sum() <= count:
                continue
            twice = [key for key, times in Counter(key for key in keys if key is not None).items() if times > 1]
            if twice:
                both = [str(path) for path, key in zip(wanted, keys, strict=True) if key == twice[0]]
                refused = refused or f"{said}, {twice[0]} stands for {' and '.join(both[:3])}"
            else:
                found.append(Match(at, said))
        if found:
            count = max(int((one.at >= 0).sum()) for one in found)
            best, *others = [one for one in found if (one.at >= 0).sum() == count]
            differing = [one for one in others if not np.array_equal(one.at, best.at)]
            refused, doubtful = (f"{best.rule}; or {differing[0].rule}", True) if differing else ("", False)
            if differing or count == len(paths):
                break
    if doubtful or (refused and 2 * count < len(paths)):
        raise CheckError(
            f"paths that match only ambiguously: {refused}",
            where=where,
            expected=f"paths as in the table of labels, such as {wanted[0]}; found such as {paths[0]}",
            hint="write the paths of both alike",
        )
    return best


def _places(paths: Iterable[str | None], wanted: Iterable[str | None]) -> np.ndarray:
    """Where each path first stands among those wanted, -1 where nowhere."""
    place: dict[str | None, int] = {}
    for number, path in enumerate(wanted):
        place.setdefault(path, number)
    place.pop(None, None)
    return np.fromiter((place.get(path, -1) for path in paths), np.int64)


def _tidy(path: str) -> str:
    path = path if path.isascii() else unicodedata.normalize("NFC", path)
    path = path.replace("\\", "/")
    while path.startswith("./"):
        path = path[2:]
    return path


def _cuts(ours: list[str], theirs: list[str]) -> list[tuple[str, str]]:
    """What stands before the common part, in the soft labels' paths and in the table's: at most 4 pairs."""
    by_name: dict[str, list[str]] = {}
    for path in theirs:
        by_name.setdefault(_stem(path), []).append(path)
    votes: Counter[tuple[str, str]] = Counter()
    for number in np.unique(np.linspace(0, len(ours) - 1, PROBES).astype(int)).tolist():
        path = ours[number]
        for other in by_name.get(_stem(path), [])[:SAME]:
            one, two = path.split("/"), other.split("/")
            common = 1  # the names agree but for the extension
            while common < min(len(one), len(two)) and one[-1 - common] == two[-1 - common]:
                common += 1
            # A lesser common part may be the one that the other paths have too.
            for length in range(common, 0, -1):
                votes["/".join([*one[:-length], ""]), "/".join([*two[:-length], ""])] += 1
    best = [cut for cut, _ in votes.most_common() if cut != ("", "")]
    return sorted(best[:4], key=lambda cut: -votes[cut])


def _stem(path: str) -> str:
    return PurePosixPath(path.rpartition("/")[2]).stem


def _cutter(cut: str) -> Cut:
    return lambda path: path[len(cut) :] if path.startswith(cut) else None


def _bare(rule: Cut) -> Cut:
    def bare(path: str) -> str | None:
        found = rule(path)
        return None if found is None else str(PurePosixPath(found).with_suffix("")) if _stem(found) else found

    return bare


def _said(ours: str, theirs: str) -> str:
    cut = [f"{cut} of {whose}" for cut, whose in ((ours, "the soft labels' paths"), (theirs, "the table's")) if cut]
    return f"written alike, and without {' and '.join(cut)}"
