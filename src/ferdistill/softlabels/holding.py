"""Which images soft labels are held against: those of the split that they name, or that their paths or length show."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import CheckError
from . import matching
from .labelled import Labelled
from .parts import Part, SoftLabels


@dataclass(frozen=True)
class Held:
    """One part of soft labels, n rows, beside the M images that it must be of."""

    part: Part
    split: str  # for reports: as the part names it; "" for all images, else the splits joined by +
    splits: tuple[str, ...]  # those whose images they are
    positions: np.ndarray  # (M,) rows of the table of labels, ascending
    at: np.ndarray | None  # (n,) which of the M images each row's path names, -1 for none; None without paths
    rule: str | None = None  # by which the paths match, if not as they are
    guessed: str | None = None  # how it is known which images are meant, if the soft labels do not say
    unknown: bool = False  # whether they name a split that the table does not have; then M is 0


def hold(soft: SoftLabels, images: Labelled) -> list[Held]:
    """Find for each part the images that it must be of.

    A part that names a split is of that split. One that names none is, by its paths, of each split of which it has
    half of the images or more (all, if of none); without paths of the split, or the whole, whose length is nearest to
    its own, and where several are, of the one whose labels agree best. Raises a CheckError as `matching.match` does.
    """
    places, rule = found(soft, images)
    held = []
    for name, part in soft.parts.items():
        at = places.get(name)
        # One file, such as resnet_probs.npy, need not name a split.
        one_name = len(soft.parts) == 1 and (soft.file or images.splits is None)
        silent = name == "" or (one_name and name not in images.names)
        if not silent and name not in images.names:
            held.append(
                Held(part, name, (name,), np.arange(0), None if at is None else np.full(len(at), -1), rule, None, True)
            )
            continue
        splits, guessed = ((name,), None) if not silent else _splits(soft, part, at, images)
        positions = np.sort(np.concatenate([images.positions(split) for split in splits]))
        if at is not None:
            inverse = np.full(len(images.paths) + 1, -1)
            inverse[positions] = np.arange(len(positions))
            at = inverse[at]
        whole = list(splits) == images.names
        label = "+".join(splits) if not (silent and whole) else ""
        held.append(Held(part, label, splits, positions, at, rule, guessed))
    return held


def found(soft: SoftLabels, images: Labelled) -> tuple[dict[str, np.ndarray], str | None]:
    """For each part with paths where in the whole table each row is, by one rule for all of them."""
    keyed = {name: part.paths for name, part in soft.parts.items() if part.paths is not None}
    if not keyed:
        return {}, None
    in_order = {name: images.positions(name) for name in keyed if name in ("", *images.names)}
    if in_order.keys() == keyed.keys() and all(
        len(paths) == len(in_order[name]) and np.array_equal(paths, images.paths[in_order[name]])
        for name, paths in keyed.items()
    ):
        return in_order, None
    at, rule = matching.match(np.concatenate(list(keyed.values())), images.paths, str(soft.directory))
    stops = np.cumsum([len(paths) for paths in keyed.values()])
    return dict(zip(keyed, np.split(at, stops[:-1]), strict=True)), rule


def _splits(
    soft: SoftLabels, part: Part, at: np.ndarray | None, images: Labelled
) -> tuple[tuple[str, ...], str | None]:
    """The splits of a part that names none, and how they are known where it is not of all."""
    names = images.names
    if len(names) == 1:
        return tuple(names), None
    if at is not None:
        covered = np.bincount(at[at >= 0], minlength=len(images.paths)) > 0
        shares = {name: covered[images.positions(name)].mean() for name in names}
        half = tuple(name for name in names if shares[name] >= 0.5) or tuple(names)
        return half, None if list(half) == names else "by its paths"
    rows = len(part.rows)
    lengths = {tuple(names): len(images.paths)} | {(name,): len(images.positions(name)) for name in names}
    least = min(abs(length - rows) for length in lengths.values())
    near = [splits for splits, length in lengths.items() if abs(length - rows) == least]
    told = f"by its length, {rows} rows" + (f", the nearest to {lengths[near[0]]}" if least else "")
    if len(near) > 1:
        told += f", and of the {len(near)} of that length by its agreement"
        near.sort(key=lambda splits: -_agreement(soft, part, splits, images))
    return near[0], told if near[0] != tuple(names) or least else None


def _agreement(soft: SoftLabels, part: Part, splits: tuple[str, ...], images: Labelled) -> float:
    named = soft.classes or images.classes
    columns = {name: number for number, name in enumerate(named)}
    labels = images.labels[np.sort(np.concatenate([images.positions(split) for split in splits]))]
    wanted = np.fromiter((columns.get(label, -1) for label in labels), np.int64, len(labels))
    shared = min(len(wanted), len(part.rows))
    return float((part.arg_max[:shared] == wanted[:shared]).mean())


def least_kept(held: Sequence[Held], places: Sequence[np.ndarray]) -> tuple[Held, int] | None:
    """The first part of which a repair would keep less than half, and how many rows; None if there is none.

    `places` holds for each part where its rows belong, (n,), -1 where that is nowhere or not certain. Of a part with
    more rows than images it is half of the images.
    """
    for one, at in zip(held, places, strict=True):
        kept = int((at >= 0).sum())
        if not one.unknown and 2 * kept < min(len(at), len(one.positions)):
            return one, kept
    return None


def require_known(held: list[Held], images: Labelled) -> None:
    """Stop with a CheckError at a part that names a split that the table does not have."""
    for one in held:
        if one.unknown:
            raise CheckError(
                f"a split that the labels do not have: {one.split}",
                where=str(one.part.file),
                expected=", ".join(images.names),
                hint="rename it, or take it out",
            )
