"""Which triangle shows in each pixel: a z-buffer over many small triangles, in NumPy."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

Floats = NDArray[np.floating]
Whole = NDArray[np.int64]


@dataclass(frozen=True)
class Fragments:
    """Where triangles cover the middles of pixels, one entry each."""

    pixel: Whole  # (f,), row by row
    triangle: Whole  # (f,)
    weights: Floats  # (f, 3), of the triangle's corners; sum to 1
    depth: Floats  # (f,), the larger the nearer

    def of(self, rows: Whole | NDArray[np.bool_]) -> "Fragments":
        """Those of some rows alone."""
        return Fragments(self.pixel[rows], self.triangle[rows], self.weights[rows], self.depth[rows])

    def interpolate(self, values: Floats, triangles: Whole) -> Floats:
        """Values at the vertices, (n, k), as they are at the fragments, (f, k)."""
        corners = triangles[self.triangle].ravel()
        starts = np.arange(0, len(corners) + 1, 3)
        return sparse.csr_array((self.weights.ravel(), corners, starts), shape=(len(starts) - 1, len(values))) @ values


def rasterise(points: Floats, triangles: Whole, width: int, height: int, one_sided: NDArray[np.bool_]) -> Fragments:
    """Every fragment of every triangle, hidden ones too.

    Parameters
    ----------
    points : array of float32, shape (n, 3)
        Across and down in pixels, and nearness: the larger, the nearer.
    triangles : array of int, shape (t, 3)
        Corners, counter-clockwise as seen from outside.
    width, height : int
        Of the picture in pixels.
    one_sided : array of bool, shape (t,)
        Triangles that only their outside shows.
    """
    across, down, near = np.ascontiguousarray(points.T)
    a, b, c = np.ascontiguousarray(triangles.T)
    area = (across[b] - across[a]) * (down[c] - down[a]) - (down[b] - down[a]) * (across[c] - across[a])
    shown = np.flatnonzero(np.where(one_sided, area < -1e-6, np.abs(area) > 1e-6))
    a, b, c = a[shown], b[shown], c[shown]

    def span(place: Floats, limit: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        p, q, r = place[a], place[b], place[c]
        first = np.ceil(np.clip(np.minimum(np.minimum(p, q), r) - np.float32(0.5), 0, limit)).astype(np.int32)
        last = np.floor(np.clip(np.maximum(np.maximum(p, q), r) - np.float32(0.5), -1, limit - 1)).astype(np.int32)
        return first, last - first + 1

    (left, wide), (top, high) = span(across, width), span(down, height)
    some = np.flatnonzero((wide > 0) & (high > 0))
    shown, a, b, c = shown[some], a[some], b[some], c[some]
    left, wide, top, high = left[some], wide[some], top[some], high[some]
    area = area[shown]

    # Each weight is linear across the picture: constant, change a pixel across, change a pixel down.
    def plane(p: Whole, q: Whole) -> list[Floats]:
        x, y = (down[p] - down[q]) / area, (across[q] - across[p]) / area
        return [x * (left + np.float32(0.5) - across[p]) + y * (top + np.float32(0.5) - down[p]), x, y]

    counts = wide * high
    owner = np.repeat(np.arange(len(shown)), counts)
    place = np.arange(len(owner), dtype=np.int32) - np.repeat((np.cumsum(counts) - counts).astype(np.int32), counts)
    y, x = np.divmod(place, wide[owner])
    planes = np.stack([*plane(b, c), *plane(c, a)], axis=1, dtype=np.float32)[owner]
    beside, below = x.astype(np.float32), y.astype(np.float32)
    u = planes[:, 0] + planes[:, 1] * beside + planes[:, 2] * below
    v = planes[:, 3] + planes[:, 4] * beside + planes[:, 5] * below
    inside = np.flatnonzero((u >= 0) & (v >= 0) & (u + v <= 1))
    owner, u, v = owner[inside], u[inside], v[inside]
    w = 1 - u - v
    depth = u * near[a][owner] + v * near[b][owner] + w * near[c][owner]
    pixel = (top[owner] + y[inside]).astype(np.int64) * width + left[owner] + x[inside]
    return Fragments(pixel, shown[owner], np.stack([u, v, w], axis=1), depth)


def nearest(fragments: Fragments, pixels: int, without: Whole | None = None) -> Fragments:
    """The nearest fragment of each pixel that has any, `without` some; of equally near ones the last."""
    # Depths above 0 are ordered as their bits are, and a sort of whole numbers has no ties.
    bits = fragments.depth.astype(np.float32).view(np.uint32).astype(np.uint64)
    order = bits << np.uint64(32) | np.arange(len(bits), dtype=np.uint64)
    if without is not None:
        order = np.delete(order, without)
    rows = (np.sort(order) & np.uint64(0xFFFFFFFF)).astype(np.int64)
    winner = np.full(pixels, -1)
    winner[fragments.pixel[rows]] = rows  # of several in one pixel the last stays
    return fragments.of(winner[winner >= 0])
