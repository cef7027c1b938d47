"""Images that are one picture: re-encoded, resized or mirrored copies, found in near-linear time.

A picture is reduced to a thumbnail, the thumbnail to a perceptual hash. Hashes that nearly agree give candidates;
the thumbnails themselves decide. Copies that agree in every pixel are `index.sample_id`'s matter.
"""

from itertools import combinations

import numpy as np
import pandas as pd
from PIL import Image

from ..errors import CheckError, UsageError

SIDE = 32
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
# Candidate pairs that still fit in memory: about 2 GB.
_LIMIT = 20_000_000
_CHUNK = 4096


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
    if not 0 <= distance <= MAX_DISTANCE:
        raise UsageError(f"a distance of {distance} bits", where="near duplicates", expected=f"0 to {MAX_DISTANCE}")
    n = len(hashes)
    # Row r is image r or, from n on, the mirror image of r - n.
    both = np.concatenate([hashes, mirrored])
    values, value_of_row, count = np.unique(both, return_inverse=True, return_counts=True)
    rows = np.argsort(value_of_row, kind="stable")
    start = np.cumsum(count) - count
    few = np.minimum(count, CROWD)
    a, b = _near_values(values, distance)
    _check_number(int((few * count).sum() + (few[a] * few[b]).sum()))
    equal, near = _products(start, few, start, count), _products(start[a], few[a], start[b], few[b])
    first, second = rows[np.concatenate([equal, near], axis=1)]

    # Two mirror images are as near as their originals, and an image is no copy of itself.
    wanted = (np.minimum(first, second) < n) & (first % n != second % n)
    first, second = first[wanted], second[wanted]
    i, j = np.minimum(first % n, second % n), np.maximum(first % n, second % n)
    flipped = np.maximum(first, second) >= n
    key = _distinct((i * n + j) * 2 + flipped)
    i, j, flipped = key // 2 // n, key // 2 % n, key % 2 == 1
    straight = np.bitwise_count(hashes[i] ^ hashes[j])
    across = np.minimum(np.bitwise_count(hashes[i] ^ mirrored[j]), np.bitwise_count(mirrored[i] ^ hashes[j]))
    bits = np.where(flipped, across, straight).astype(np.int64)
    return pd.DataFrame({"i": i, "j": j, "mirrored": flipped, "distance": bits})


def _near_values(values: np.ndarray, distance: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions a < b of all pairs among distinct 64-bit values that differ in at most `distance` bits.

    If the bits are dealt to `distance` + 2 blocks, two blocks at least are the same in both. So for every two
    blocks the values are sorted by them alone, and neighbours that agree there are compared as a whole. Manku, Jain
    and Das Sarma 2007, "Detecting near-duplicates for web crawling", §3.
    """
    blocks = distance + 2
    found, size = [np.empty(0, dtype=np.int64)], 0
    for chosen in combinations(range(blocks), 2):
        mask = np.uint64(sum(1 << bit for bit in range(64) if bit % blocks in chosen))
        order = np.argsort(values & mask)
        ordered = values[order]
        keys = ordered & mask
        step, low = 1, np.flatnonzero(keys[1:] == keys[:-1])
        while len(low):
            close = low[np.bitwise_count(ordered[low] ^ ordered[low + step]) <= distance]
            a, b = order[close], order[close + step]
            found.append(np.minimum(a, b) * len(values) + np.maximum(a, b))
            size += len(close)
            _check_number(size)
            step += 1
            low = low[low + step < len(keys)]
            low = low[keys[low] == keys[low + step]]
    pairs = _distinct(np.concatenate(found))
    return pairs // len(values), pairs % len(values)


def _check_number(candidates: int) -> None:
    if candidates > _LIMIT:
        raise CheckError(
            f"over {_LIMIT:,} pairs of images that look alike",
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
    thumbnails: np.ndarray, distance: int = DISTANCE, correlation: float = CORRELATION, mirrored: bool = True
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
    hashes, of_mirrored = phash(thumbnails)
    seen = np.flatnonzero(_spread(thumbnails) >= (FLAT * SIDE**2) ** 2)
    pairs = near_pairs(hashes[seen], of_mirrored[seen], distance)
    pairs = pairs if mirrored else pairs[~pairs["mirrored"]].reset_index(drop=True)
    pairs["i"], pairs["j"] = seen[pairs["i"]], seen[pairs["j"]]
    pairs["correlation"], residual = _compare(thumbnails, pairs)
    pairs = pairs[(pairs["correlation"] >= correlation) & (residual <= RESIDUAL)]
    pairs = pairs.sort_values(["i", "j", "correlation", "mirrored"], ascending=[True, True, False, True])
    return pairs.drop_duplicates(["i", "j"]).reset_index(drop=True)


def _compare(thumbnails: np.ndarray, pairs: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Correlation and residual of each pair's thumbnails, one of them mirrored where the pair is; float64 (P,).

    The residual is the standard deviation of their difference, in grey levels: brightness does not count. All sums
    are of whole numbers, so here too the last digit depends on no machine.
    """
    i, j, mirrored = (pairs[name].to_numpy() for name in ("i", "j", "mirrored"))
    inner = np.empty(len(pairs), dtype=np.int64)
    for start in range(0, len(pairs), _CHUNK):
        part = slice(start, start + _CHUNK)
        a, b = thumbnails[i[part]], thumbnails[j[part]]
        inner[part] = _inner(a, np.where(mirrored[part, None, None], b[:, :, ::-1], b))
    total, spread = thumbnails.sum(axis=(1, 2), dtype=np.int64), _spread(thumbnails).astype(np.float64)
    covariance = SIDE**2 * inner - total[i] * total[j]
    correlation = covariance / np.sqrt(spread[i] * spread[j])
    return correlation, np.sqrt(spread[i] + spread[j] - 2 * covariance) / SIDE**2


def _spread(thumbnails: np.ndarray) -> np.ndarray:
    """SIDE^4 times the variance of each thumbnail, int64 (N,)."""
    return SIDE**2 * _inner(thumbnails, thumbnails) - thumbnails.sum(axis=(1, 2), dtype=np.int64) ** 2


def _inner(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Inner products of P pictures with their partners, int64 (P,)."""
    return np.einsum("phw,phw->p", a, b, dtype=np.int64)
