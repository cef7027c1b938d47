"""Images that are one picture: re-encoded, resized or mirrored copies, found in near-linear time.

A picture is reduced to a thumbnail, the thumbnail to a perceptual hash. Hashes that nearly agree give candidates;
the thumbnails themselves decide, where a longer hash does not rule it out. Memory holds the
hashes, 100 bytes an image, and the pairs. Copies that agree in every pixel are `index.sample_id`'s matter.
"""

from collections.abc import Iterator
from itertools import combinations
from typing import TypeAlias

import numpy as np
import pandas as pd
from PIL import Image

from ..errors import CheckError, UsageError
from .thumbnails import SIDE, Thumbnails

# Two pictures are copies if their hashes differ in at most DISTANCE bits, their thumbnails correlate by CORRELATION or
# more, and the difference of the thumbnails has a standard deviation of at most RESIDUAL grey levels. Measured on
# 100 photographs at 48 px and on 4000 drawings, all of one kind: copies as JPEG of quality 75, at 48, 100 or 224 px,
# mirrored or not, have a distance <= 4 (photographs) or <= 6 (0.08 % of the drawings beyond 4), a correlation >= 0.980
# and a residual <= 2.2. Different pictures have a distance >= 10 (photographs); of 157 pairs of drawings within 4, the
# correlation is <= 0.961 and the residual >= 11.7.
DISTANCE, CORRELATION, RESIDUAL = 4, 0.95, 6.0
MAX_DISTANCE = 8
# Standard deviation in grey levels, of 255, below which a thumbnail shows nothing that could be compared.
FLAT = 2.0
# Images of one hash, beyond which each is compared with this many of them only.
CROWD = 16
# Pairs that still fit in memory: about 2 GB.
_LIMIT = 20_000_000
_MOST_LOOKED_AT = 100 * _LIMIT  # candidates: minutes
_BLOCK = 1_000_000  # candidates at once
_CHUNK = 4096
STEP = 8  # of the longer hash
Pictures: TypeAlias = np.ndarray | Thumbnails  # uint8 (N, SIDE, SIDE)


def thumbnail(pixels: np.ndarray) -> np.ndarray:
    """The picture on which everything here is decided: uint8 (SIDE, SIDE), from RGB uint8 (H, W, 3).

    Grey by ITU-R 601, then antialiased bilinear. Of Pillow's filters, bilinear keeps copies closest together.
    """
    picture = Image.fromarray(pixels).convert("L").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    return np.asarray(picture)


def _basis() -> np.ndarray:
    """The 64 lowest two-dimensional DCT-II functions, (SIDE * SIDE, 64), in whole numbers up to 2^30.

    A product with a thumbnail stays below 2^48, so float64 sums it exactly, in whatever order BLAS takes.
    """
    sample, frequency = np.arange(SIDE // 2), np.arange(8)[:, None]
    half = np.rint(2**15 * np.cos(np.pi * (2 * sample + 1) * frequency / (2 * SIDE)))
    rows = np.hstack([half, half[:, ::-1] * (-1.0) ** frequency])
    return np.kron(rows, rows).T


_BASIS = _basis()
_NORMS = np.sqrt((_BASIS**2).sum(axis=0))[1:]
# Mirroring a picture changes the sign of its odd horizontal frequencies.
_MIRROR = np.tile((-1.0) ** np.arange(8), 8)


def phash(thumbnails: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Perceptual hashes of thumbnails, and of their mirror images.

    A bit says whether one of the 8 x 8 lowest DCT-II coefficients is above the median of the 63 that are not the
    mean. They are computed in whole numbers, so a thumbnail has one hash on every machine and in every batch.
    Zauner 2010, "Implementation and benchmarking of perceptual image hash functions".

    Parameters
    ----------
    thumbnails
        uint8 (N, SIDE, SIDE); anything else is a UsageError.

    Returns
    -------
    hashes, mirrored
        uint64 (N,); `mirrored` equals the hashes of `thumbnails[:, :, ::-1]`.
    """
    if thumbnails.shape[1:] != (SIDE, SIDE) or thumbnails.dtype != np.uint8:
        raise UsageError(
            "not thumbnails",
            where=f"{thumbnails.dtype} {thumbnails.shape}",
            expected=f"uint8 (N, {SIDE}, {SIDE}), each from `thumbnail`",
        )
    hashes = np.empty((2, len(thumbnails)), dtype=np.uint64)
    for start in range(0, len(thumbnails), _CHUNK):
        chunk = thumbnails[start : start + _CHUNK]
        coefficients = chunk.reshape(len(chunk), -1).astype(np.float64) @ _BASIS
        for kind, signed in enumerate((coefficients, coefficients * _MIRROR)):
            above = signed > np.median(signed[:, 1:], axis=1, keepdims=True)
            hashes[kind, start : start + _CHUNK] = np.packbits(above, axis=1).view(">u8").ravel()
    return hashes[0], hashes[1]


def near_pairs(hashes: np.ndarray, mirrored: np.ndarray, distance: int = DISTANCE) -> pd.DataFrame:
    """All pairs of images whose hashes differ in at most `distance` bits, as they are or one of them mirrored.

    Where more than `CROWD` hashes, straight or mirrored, are equal, as those of blank images are, the pairs grow
    with the square of their number: there, each is paired with the first `CROWD` of them in the given order, and
    only these are paired with what is near. So put first what should be kept. Everywhere else no pair is missed.

    `hashes` and `mirrored` are from `phash`; `distance` is in bits, in 0..MAX_DISTANCE.

    Returns
    -------
    DataFrame
        A row a pair, sorted: `i` < `j`, int64; `mirrored`, bool; `distance`, the smaller of both ways where
        mirrored. A pair that is near both ways has two rows.

    Raises
    ------
    UsageError
        If `distance` is out of range: from 10 on, different pictures have near hashes by chance.
    CheckError
        If there are so many near hashes that the pairs would not fit in memory.
    """
    keys, size = [np.empty(0, dtype=np.int64)], 0
    for i, j, flipped in _candidates(hashes, mirrored, distance):
        keys.append((i * len(hashes) + j) * 2 + flipped)
        size += len(i)
        _check_number(size)
    return _as_frame(_distinct(np.concatenate(keys)), hashes, mirrored)


def _as_frame(keys: np.ndarray, hashes: np.ndarray, mirrored: np.ndarray) -> pd.DataFrame:
    """Pairs from keys, (i * N + j) * 2 + flipped, with the distance of each."""
    n = max(len(hashes), 1)
    i, j, flipped = keys // 2 // n, keys // 2 % n, keys % 2 == 1
    straight = np.bitwise_count(hashes[i] ^ hashes[j])
    across = np.minimum(np.bitwise_count(hashes[i] ^ mirrored[j]), np.bitwise_count(mirrored[i] ^ hashes[j]))
    bits = np.where(flipped, across, straight).astype(np.int64)
    return pd.DataFrame({"i": i, "j": j, "mirrored": flipped, "distance": bits})


def _candidates(
    hashes: np.ndarray, mirrored: np.ndarray, distance: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """The pairs of `near_pairs` in blocks of bounded size, in no order: i, j, flipped. Some come more than once."""
    if not 0 <= distance <= MAX_DISTANCE:
        raise UsageError(f"a distance of {distance} bits", where="near duplicates", expected=f"0 to {MAX_DISTANCE}")
    n = len(hashes)
    # Row r is image r or, from n on, the mirror image of r - n.
    both = np.concatenate([hashes, mirrored])
    rows = np.argsort(both, kind="stable")
    both = both[rows]
    start = np.flatnonzero(np.concatenate([np.ones(min(n, 1), dtype=bool), both[1:] != both[:-1]]))
    values, count = both[start], np.diff(start, append=len(both))
    few = np.minimum(count, CROWD)

    def products() -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
        crowds = np.flatnonzero(count > 1)
        for first in range(0, int(count.max(initial=0)), _CHUNK):  # a crowd in parts
            some = crowds[count[crowds] > first]
            yield start[some], few[some], start[some] + first, np.minimum(count[some] - first, _CHUNK)
        for a, b in _near_values(values, distance):
            yield start[a], few[a], start[b], few[b]

    for start_a, count_a, start_b, count_b in products():
        ends = np.cumsum(count_a * count_b)
        cuts = np.searchsorted(ends, np.arange(_BLOCK, ends.max(initial=0), _BLOCK))
        for part in np.split(np.arange(len(ends)), cuts):
            first, second = rows[_products(start_a[part], count_a[part], start_b[part], count_b[part])]
            # Two mirror images are as near as their originals, and an image is no copy of itself.
            wanted = (np.minimum(first, second) < n) & (first % n != second % n)
            first, second = first[wanted], second[wanted]
            yield np.minimum(first % n, second % n), np.maximum(first % n, second % n), np.maximum(first, second) >= n


def _near_values(values: np.ndarray, distance: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Positions of all pairs among distinct 64-bit values that differ in at most `distance` bits, in blocks.

    If the bits are dealt to `distance` + 2 blocks, two blocks at least are the same in both. So for every two
    blocks the values are sorted by them alone, and neighbours that agree there are compared as a whole. Manku, Jain
    and Das Sarma 2007, "Detecting near-duplicates for web crawling", §3. A pair is given where it is found first.
    """
    blocks = distance + 2
    masks = [
        np.uint64(sum(1 << bit for bit in range(64) if bit % blocks in chosen))
        for chosen in combinations(range(blocks), 2)
    ]
    for place, mask in enumerate(masks):
        order = np.argsort(values & mask)
        ordered = values[order]
        keys = ordered & mask
        step, low = 1, np.flatnonzero(keys[1:] == keys[:-1])
        while len(low):
            differ = ordered[low] ^ ordered[low + step]
            close = np.flatnonzero(np.bitwise_count(differ) <= distance)
            for earlier in masks[:place]:
                close = close[differ[close] & earlier != 0]
            yield order[low[close]], order[low[close] + step]
            step += 1
            low = low[low + step < len(keys)]
            low = low[keys[low] == keys[low + step]]


def _check_number(pairs: int, most: int | None = None) -> None:
    most = _LIMIT if most is None else most
    if pairs > most:
        raise CheckError(
            f"over {most:,} pairs of images that look alike",
            where="near duplicates",
            expected="pictures that mostly differ",
            hint="of each run of frames of a film keep one, or lower the distance",
        )


def _distinct(keys: np.ndarray) -> np.ndarray:
    """Keys >= 0, sorted, each once. `np.unique` goes by hashing, which takes eight times as long as sorting here."""
    ordered = np.sort(keys)
    return ordered[np.diff(ordered, prepend=-1) > 0]


def _products(start_a: np.ndarray, count_a: np.ndarray, start_b: np.ndarray, count_b: np.ndarray) -> np.ndarray:
    """For every k the product of the ranges of count_a[k] from start_a[k] and of count_b[k] from start_b[k], (2, P)."""
    sizes = count_a * count_b
    k = np.repeat(np.arange(len(sizes)), sizes)
    place = np.arange(len(k)) - (np.cumsum(sizes) - sizes)[k]
    return np.stack([start_a[k] + place // count_b[k], start_b[k] + place % count_b[k]])


def find(
    thumbnails: Pictures,
    distance: int = DISTANCE,
    correlation: float = CORRELATION,
    mirrored: bool = True,
) -> pd.DataFrame:
    """All pairs of images that are copies: near by hash, and alike in their pixels.

    Copies correlate by `correlation` or more and differ by little more than JPEG adds (`RESIDUAL`): brightness may
    differ, contrast may not. A thumbnail whose standard deviation is below `FLAT` shows nothing, and is no copy of
    anything. A pair says nothing of a third image: a copy's copy need not be near, so grouping is the caller's.

    Parameters
    ----------
    thumbnails
        uint8 (N, SIDE, SIDE), from `thumbnail`; first what should be kept (see `near_pairs`).
    distance
        Bits, in 0..MAX_DISTANCE.
    correlation
        Smallest correlation of copies, above 0 and up to 1.
    mirrored
        Whether a mirrored image is a copy.

    Returns
    -------
    DataFrame
        As from `near_pairs`, and `correlation`, float64. A pair that is near both ways has one row, by the way in
        which it correlates more.

    Raises
    ------
    UsageError, CheckError
        As `phash` and `near_pairs` do, and if `correlation` is out of range.
    """
    if not 0 < correlation <= 1:
        raise UsageError(f"a correlation of {correlation}", where="near duplicates", expected="above 0 and up to 1")
    hashes, of_mirrored, longer, total, spread = _measured(thumbnails)
    seen = np.flatnonzero(spread >= (FLAT * SIDE**2) ** 2)
    hashes, of_mirrored, longer, total, spread = (of[seen] for of in (hashes, of_mirrored, longer, total, spread))
    keys, correlations, looked_at = [np.empty(0, dtype=np.int64)], [np.empty(0)], 0
    for i, j, flipped in _candidates(hashes, of_mirrored, distance):
        looked_at += len(i)
        _check_number(looked_at, _MOST_LOOKED_AT)
        may_be = _may_be_copies(longer, i, j, flipped) & (mirrored | ~flipped)
        i, j, flipped = i[may_be], j[may_be], flipped[may_be]
        inner = _inner_of_pairs(thumbnails, seen[i], seen[j], flipped)
        covariance = SIDE**2 * inner - total[i] * total[j]
        correlates = covariance / np.sqrt(spread[i].astype(np.float64) * spread[j].astype(np.float64))
        # The standard deviation of their difference, in grey levels: brightness does not count. All sums are of
        # whole numbers, so here too the last digit depends on no machine.
        residual = np.sqrt(spread[i].astype(np.float64) + spread[j] - 2 * covariance) / SIDE**2
        copies = (correlates >= correlation) & (residual <= RESIDUAL)
        keys.append(((i * len(seen) + j) * 2 + flipped)[copies])
        correlations.append(correlates[copies])
        _check_number(sum(map(len, keys)))
    key, first = np.unique(np.concatenate(keys), return_index=True)
    pairs = _as_frame(key, hashes, of_mirrored)
    pairs["i"], pairs["j"] = seen[pairs["i"]], seen[pairs["j"]]
    pairs["correlation"] = np.concatenate(correlations)[first]
    pairs = pairs.sort_values(["i", "j", "correlation", "mirrored"], ascending=[True, True, False, True])
    return pairs.drop_duplicates(["i", "j"]).reset_index(drop=True)


def _measured(thumbnails: Pictures) -> tuple[np.ndarray, ...]:
    """Of each thumbnail both hashes of `phash`, the longer hash int8 (N, 63), the sum, and SIDE^4 times the variance.

    The longer hash is the coefficients that the hash is made of, of a normed basis, in steps of STEP grey levels.
    """
    n = len(thumbnails)
    hashes, longer = np.empty((2, n), dtype=np.uint64), np.empty((n, 63), dtype=np.int8)
    total, spread = np.empty((2, n), dtype=np.int64)
    for start in range(0, n, _CHUNK) or [0]:
        part = slice(start, start + _CHUNK)
        chunk = thumbnails[part]
        hashes[:, part] = phash(chunk)
        normed = (chunk.reshape(len(chunk), SIDE**2).astype(np.float64) @ _BASIS)[:, 1:] / _NORMS
        longer[part] = np.rint(normed / STEP).clip(-127, 127)
        total[part] = chunk.sum(axis=(1, 2), dtype=np.int64)
        spread[part] = SIDE**2 * _inner(chunk, chunk) - total[part] ** 2
    return *hashes, longer, total, spread


def _may_be_copies(longer: np.ndarray, i: np.ndarray, j: np.ndarray, flipped: np.ndarray) -> np.ndarray:
    """Of candidate pairs, bool (P,): False only where the thumbnails themselves differ by more than `RESIDUAL`.

    By Bessel's inequality a difference of thumbnails is at least as long as what the coefficients see of it.
    """
    most = (1.001 * SIDE * RESIDUAL / STEP + np.sqrt(longer.shape[1])) ** 2  # rounding moves each by a step at most
    found = np.empty(len(i), dtype=bool)
    for start in range(0, len(i), _CHUNK):
        part = slice(start, start + _CHUNK)
        other = np.where(flipped[part, None], longer[j[part]] * _MIRROR[1:].astype(np.int8), longer[j[part]])
        differ = longer[i[part]].astype(np.float32) - other
        found[part] = np.einsum("pk,pk->p", differ, differ) <= most
    return found


def _inner_of_pairs(thumbnails: Pictures, i: np.ndarray, j: np.ndarray, flipped: np.ndarray) -> np.ndarray:
    """Inner product of each pair's thumbnails, the second one mirrored where the pair is; int64 (P,)."""
    inner = np.empty(len(i), dtype=np.int64)
    for start in range(0, len(i), _CHUNK):
        part = slice(start, start + _CHUNK)
        a, b = thumbnails[i[part]], thumbnails[j[part]]
        inner[part] = _inner(a, np.where(flipped[part, None, None], b[:, :, ::-1], b))
    return inner


def _inner(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Inner products of P pictures with their partners, int64 (P,)."""
    return np.einsum("phw,phw->p", a, b, dtype=np.int64)
