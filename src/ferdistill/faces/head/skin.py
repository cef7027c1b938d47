"""Skin: its colour at every point of the face, brows and lines included, and how lines bend its surface.

Places on the face are those of the mean head, from between the eyes in distances between the pupils, so they move with
whatever moves the mesh.
"""

from functools import cache, lru_cache

import numpy as np
from numpy.typing import NDArray

from . import mesh, noise
from .person import MONK, Identity, linear

Floats = NDArray[np.floating]

# Lines of the skin on the subject's left half (across, down), which action units deepen them, and their width and depth
# when a young face wears the unit in full. Age deepens them at rest.
_LINES: list[tuple[list[list[tuple[float, float]]], dict[int, float], float, float, float]] = [
    # curves, action units, share of age, width, depth
    ([[(0, 0.62), (0.2, 0.64), (0.38, 0.60)], [(0, 0.77), (0.2, 0.79), (0.42, 0.74)], [(0, 0.91), (0.25, 0.93)]],
     {1: 1.0, 2: 0.3}, 0.6, 0.035, 0.8),
    ([[(0.32, 0.58), (0.55, 0.64), (0.82, 0.52)], [(0.36, 0.73), (0.6, 0.78), (0.85, 0.66)]],
     {2: 1.0}, 0.5, 0.035, 0.8),
    ([[(0.10, 0.10), (0.085, 0.28), (0.11, 0.44)]], {4: 1.0, 9: 0.4}, 0.4, 0.035, 1.1),
    ([[(0, 0.06), (0.13, 0.03)], [(0, -0.03), (0.14, -0.06)]], {9: 1.0, 4: 0.3}, 0.2, 0.03, 0.9),
    ([[(0.10, -0.12), (0.2, -0.02)], [(0.12, -0.22), (0.23, -0.12)]], {9: 1.0}, 0.0, 0.03, 0.8),
    ([[(0.28, -0.52), (0.40, -0.68), (0.50, -0.90), (0.53, -1.12)]],
     {12: 0.9, 10: 0.9, 9: 0.7, 6: 0.3, 15: 0.2, 20: 0.3}, 0.7, 0.05, 1.3),
    ([[(0.80, 0.02), (0.98, 0.10)], [(0.81, -0.04), (1.0, -0.05)], [(0.79, -0.10), (0.96, -0.19)]],
     {6: 1.0, 7: 0.2}, 0.6, 0.03, 0.9),
    ([[(0.30, -0.17), (0.48, -0.26), (0.70, -0.19)]], {6: 0.9, 7: 0.7, 9: 0.4}, 0.7, 0.04, 0.8),
    ([[(0.46, -1.12), (0.50, -1.22), (0.53, -1.42)]], {15: 1.0, 17: 0.4}, 0.6, 0.04, 1.0),
    ([[(0.60, -0.92), (0.69, -1.1), (0.64, -1.3)]], {12: 0.6, 20: 0.7}, 0.2, 0.05, 0.7),
    ([[(0.0, -1.40), (0.14, -1.42), (0.27, -1.50)]], {17: 1.0, 15: 0.3}, 0.2, 0.05, 1.0),
    ([[(0.05, -1.58), (0.06, -1.60)], [(0.16, -1.55), (0.17, -1.57)], [(0.1, -1.66), (0.11, -1.68)]],
     {17: 1.0}, 0.0, 0.035, 1.0),
    ([[(0.08, -0.84), (0.08, -0.93)], [(0.22, -0.86), (0.24, -0.94)]], {23: 0.8}, 0.5, 0.025, 0.6),
]  # fmt: skip

_FINE = 64  # grid points of the map of lines, a distance between the pupils
_WIDE, _TOP, _BOTTOM = 1.3, 1.1, -1.9


@cache
def _line_maps() -> Floats:
    """How deep each line is at each point of the left half of the face, (lines, rows, columns), 0 to 1."""
    across = np.arange(0, _WIDE, 1 / _FINE)
    down = np.arange(_TOP, _BOTTOM, -1 / _FINE)
    points = np.stack(np.meshgrid(across, down), axis=-1)
    maps = []
    for curves, _, _, width, depth in _LINES:
        deepest = np.zeros(points.shape[:2])
        for curve in curves:
            nodes = np.array(curve)
            ends = np.linspace(0, len(nodes) - 1, 24)
            path = np.stack([np.interp(ends, np.arange(len(nodes)), nodes[:, axis]) for axis in (0, 1)], axis=1)
            taper = np.sin(np.linspace(0.35, np.pi - 0.35, len(path)))
            close = [
                np.abs(points[..., axis] - (path[:, axis].min() + path[:, axis].max()) / 2)
                < np.ptp(path[:, axis]) / 2 + 3 * width
                for axis in (0, 1)
            ]
            near = close[0] & close[1]
            distance = np.linalg.norm(points[near][:, None] - path, axis=-1)
            deepest[near] = np.maximum(deepest[near], (np.exp(-((distance / width) ** 2)) * taper).max(axis=-1))
        maps.append(depth * deepest)
    return np.array(maps, np.float32)


def lines(identity: Identity, left: dict[int, float], right: dict[int, float]) -> Floats:
    """Depth of the face's lines and its slopes across and down, (3, rows, columns) over both halves."""
    maps = _line_maps()
    sides = []
    for units in (right, left):
        weights = [
            max(sum(share * units.get(unit, 0.0) for unit, share in moved.items()) ** 1.3, 0.7 * age * identity.lines)
            for _, moved, age, _, _ in _LINES
        ]
        sides.append(np.einsum("l,lrc->rc", np.array(weights, np.float32).clip(0, 1.2), maps))
    depth = np.concatenate([sides[0][:, ::-1], sides[1]], axis=1) * np.float32(0.75 + 0.5 * identity.lines)
    down, across = np.gradient(depth, 1 / _FINE)
    return np.stack([depth, across, -down])


def look_up(field: Floats, place: Floats) -> Floats:
    """Values (k, p) of a field like `lines` gives where places (p, >= 2) lie, 0 off the face."""
    column = ((place[:, 0] + _WIDE) * _FINE).astype(np.int64)
    row = ((_TOP - place[:, 1]) * _FINE).astype(np.int64)
    rows, columns = field.shape[1:]
    on = (column >= 0) & (column < columns) & (row >= 0) & (row < rows) & (place[:, 2] > -0.8)
    return field.reshape(len(field), -1)[:, np.where(on, row * columns + column, 0)] * on


@lru_cache(maxsize=64)
def _tone(identity: Identity) -> Floats:
    tones = linear(MONK)
    base = np.array([np.interp(identity.tone, np.arange(1, 11), tones[:, channel]) for channel in range(3)])
    # The swatches are paint: skin scatters red, and returns less light than the palest of them.
    base = base * np.array([0.84, 0.67, 0.585]) * (1 + identity.warmth * np.array([0.02, 0.0, -0.08]))
    return base.astype(np.float32)


def tone(identity: Identity) -> Floats:
    """Colour of the bare skin, linear RGB."""
    return _tone(identity)


def _spot(place: Floats, across: float, down: float, wide: float, high: float) -> Floats:
    """A soft spot on both halves of the face."""
    return np.exp(-(((np.abs(place[:, 0]) - across) / wide) ** 2) - ((place[:, 1] - down) / high) ** 2)


def beard_growth(place: Floats, kind: str) -> Floats:
    """Where a beard of a kind grows, (p,), 0 to 1."""
    across, down = np.abs(place[:, 0]), place[:, 1]
    front = noise.step(place[:, 2], -1.25, -0.95) * noise.step(across, 1.26, 1.18)
    cheek = -1.02 + np.maximum(across - 0.45, 0) * 0.95
    jaw = noise.step(down, cheek + 0.06, cheek - 0.1) * noise.step(down, -2.0, -1.85)
    upper = noise.step(np.abs(down + 0.84 + 0.25 * across**2), 0.1, 0.05) * noise.step(across, 0.56, 0.46)
    chin = noise.step(across, 0.5, 0.36) * jaw
    grown = {"moustache": upper, "goatee": np.maximum(upper, chin)}.get(kind, np.maximum(upper, jaw))
    mouth = noise.step(np.hypot(across / 0.42, (down + 1.1) / 0.2), 0.8, 1.0)
    return (grown * front * mouth).astype(np.float32)


@cache
def attributes(beard: str) -> Floats:
    """What the skin is at each of its vertices, (n, 13), the same for all people; the order is that of `paint`'s names.

    The seventh is left for the depth of lines, which moves with the face.
    """
    head = mesh.head()
    bare, _ = mesh.part(mesh.SKIN)
    place = head.rest[bare]
    beside = np.abs(place[:, 0])
    red = np.maximum(_spot(place, 0.66, -0.5, 0.34, 0.28), 0.9 * _spot(place, 0, -0.6, 0.22, 0.16))
    below = noise.step(place[:, 1], -1.74, -2.05) * noise.step(place[:, 2], 0.35, -0.2)
    grown = beard_growth(place, "full" if beard in ("stubble", "short") else beard) if beard else np.zeros(len(place))
    columns = [
        *place.T,
        *(head.masks[name][bare] for name in ("lips", "lids", "mouth")),
        np.zeros(len(place)),
        np.maximum(red, noise.step(beside, 1.2, 1.3)),
        _spot(place, 0.48, -0.22, 0.22, 0.09),
        _spot(place, 0.5, 0.12, 0.32, 0.12),
        np.maximum(_spot(place, 0, 0.1, 0.5, 0.9), 0.5),
        1 - 0.5 * below - 0.25 * noise.step(beside, 1.22, 1.3),
        grown,
    ]
    return np.stack(columns, axis=1, dtype=np.float32, casting="same_kind")


def brow(identity: Identity, place: Floats, lifts: Floats) -> Floats:
    """How far the hair of the brows hides the skin, (p,), 0 to 1.

    `lifts` (2, 2) says how far the inner and the outer ends slide over the skull beyond what the mesh moves, right side
    and left: its face units move the ridge as a whole, and less than muscles do.
    """
    hidden = np.zeros(len(place), np.float32)
    near = np.flatnonzero((place[:, 1] > 0.05) & (place[:, 1] < 0.75) & (place[:, 2] > -0.6))
    place = place[near]
    across, down = np.abs(place[:, 0]), place[:, 1]
    left = (place[:, 0] > 0).astype(np.int64)
    inner, outer = lifts[left].T
    share = np.clip((across - 0.2) / 0.68, 0, 1)
    # The brow of the mean head lies on the ridge above the eye.
    middle = 0.31 + identity.brow_height + (0.07 + identity.brow_arch) * np.sin(np.pi * share**1.25) - 0.05 * share**2
    middle = middle + identity.brow_slope * (share - 0.5) + inner * (1 - share) ** 1.5 + outer * share
    half = 0.064 * identity.brow_thickness * (1 - 0.62 * share**1.5)
    start = 0.22 + 0.4 * np.minimum(inner, 0)  # brows that are drawn down are drawn together
    ends = noise.step(across - start, -0.05, 0.05) * noise.step(across, 0.93, 0.82)
    grain = noise.at(noise.tile(0.7), 110 * across - 60 * down + identity.seed % 97, 40 * down + 20 * across)
    body = noise.step(np.abs(down - middle), half * 1.15, half * 0.45)
    strands = np.clip(0.85 + 0.2 * grain, 0.3, 1)
    hidden[near] = body * ends * strands * identity.brow_density
    return hidden


def brow_lifts(units: dict[int, float]) -> list[float]:
    """How far action units slide the inner and the outer end of a brow over the skull."""
    inner = 0.07 * units.get(1, 0) - 0.08 * units.get(4, 0) - 0.03 * units.get(9, 0)
    return [inner, 0.06 * units.get(2, 0) - 0.01 * units.get(4, 0)]


def paint(identity: Identity, seen: Floats, lifts: Floats, cloth: Floats) -> tuple[Floats, Floats]:
    """Colour of the skin, linear RGB (3, p), and how much it shines, (p,).

    Parameters
    ----------
    seen : array, shape (p, 13)
        `attributes` of this person's kind of beard, as they are at the points, with the depth of lines among them.
    lifts : array, shape (2, 2)
        Of the brows; see `brow`.
    cloth : array, shape (3,)
        Colour of what is worn below the neck.
    """
    across, down, ahead, lips, lids, inside, depth, red, tired, above, oily, open_, grown = seen.T
    place = seen[:, :3]
    base = tone(identity)
    darkness = (identity.tone - 1) / 9
    rough = noise.at(noise.tile(1.0), 60 * across + identity.seed % 251, 60 * down)
    cloudy = noise.at(noise.tile(12.0), 60 * across + identity.seed % 211, 60 * down + identity.seed % 127)
    colour = base[:, None] * (1 + (0.015 + 0.025 * identity.lines) * rough + 0.05 * cloudy)

    def blend(share: Floats, towards: Floats) -> None:
        nonlocal colour
        aim = np.asarray(towards, np.float32)
        colour += share * ((aim if aim.ndim > 1 else aim[:, None]) - colour)

    blend(red * ((0.15 + 0.45 * identity.redness) * (1 - 0.5 * darkness)), base * np.array([1.05, 0.74, 0.72]))
    blend(tired * (0.2 + 0.4 * identity.lines), base * np.array([0.72, 0.64, 0.66]))
    if identity.freckles:
        dots = noise.at(noise.tile(0.8), 110 * across + identity.seed % 199, 110 * down)
        where = np.maximum(_spot(place, 0.5, -0.4, 0.5, 0.35), 0.4 * _spot(place, 0, 0.6, 0.7, 0.4))
        blend(identity.freckles * 0.7 * where * noise.step(dots, 0.9, 1.5), base * np.array([0.62, 0.48, 0.4]))
    rng = np.random.Generator(np.random.PCG64(identity.seed))
    for _ in range(rng.poisson(2.5)):
        x, y, size = rng.uniform(-0.95, 0.95), rng.uniform(-1.6, 0.9), rng.uniform(0.012, 0.035)
        mole = np.exp(((across - x) ** 2 + (down - y) ** 2) * (-1 / size**2)) * (ahead > -0.4)
        blend(0.75 * mole, base * np.array([0.3, 0.22, 0.18]))
    blend(np.clip(0.38 * depth, 0, 0.6), base * np.array([0.42, 0.3, 0.26]))

    lip = base * np.array([0.86, 0.56, 0.56]) if identity.lipstick is None else np.array(identity.lipstick)
    blend(lips * (0.75 if identity.lipstick is None else 0.92), lip)
    blend(0.25 * lids, base * np.array([0.8, 0.62, 0.6]))
    if identity.eye_shadow:
        blend(identity.eye_shadow * 0.7 * above, base * np.array([0.35, 0.25, 0.32]))
        blend(identity.eye_shadow * np.clip(lids * 1.2, 0, 1), np.array([0.01, 0.01, 0.012]))
    hair = np.array(identity.hair)
    blend(0.95 * brow(identity, place, lifts), np.minimum(hair * 0.5, base * 0.32))
    if identity.beard:
        grain = np.clip(0.75 + 0.3 * noise.at(noise.tile(0.6), 120 * across, 120 * down), 0.3, 1.1)
        blend(grown * grain * (0.45 if identity.beard == "stubble" else 0.75), np.minimum(hair * 0.7, base * 0.75))
    colour *= open_  # ambient light does not reach below the chin and behind the ears
    blend(inside, np.array([0.16, 0.035, 0.03]))
    gloss = 0.025 + 0.07 * identity.shine * oily + 0.12 * lips + 0.1 * inside
    neckline = down if identity.seed % 3 else down + 0.35 * np.abs(across) + 0.2
    if (low := np.flatnonzero(neckline < -2.5)).size:
        worn = noise.step(neckline[low], -2.55, -2.65)
        weave = 1 + 0.12 * noise.at(noise.tile(1.5), 40 * across[low], 40 * down[low])
        colour[:, low] += worn * (cloth[:, None] * weave - colour[:, low])
        gloss[low] *= 1 - worn
    return colour, gloss
