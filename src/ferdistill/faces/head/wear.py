"""What lies on a head: hair, beards, hats, scarves, masks, glasses, a hand."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from . import mesh, noise, skin
from .person import Identity

Floats = NDArray[np.floating]
Paint = Callable[[Floats], tuple[Floats, Floats]]
Keep = Callable[[Floats], NDArray[np.bool_]]

_AZIMUTH = np.where(mesh.AZIMUTHS > 180, mesh.AZIMUTHS - 360, mesh.AZIMUTHS)[:, None].astype(np.float32)
_ELEVATION = mesh.ELEVATIONS[None].astype(np.float32)
_AWAY = np.abs(_AZIMUTH)  # from the front, degrees


@dataclass(frozen=True)
class Layer:
    """A surface with colours of its own."""

    points: Floats  # (n, 3)
    triangles: NDArray[np.int64]  # (t, 3)
    attributes: Floats  # (n, k), interpolated to each pixel
    paint: Paint  # of attributes (p, k): colour, linear RGB (3, p), and gloss (p,)
    keep: Keep | None = None  # of attributes: where the surface is not a hole
    one_sided: bool = False
    sharpness: float = 12.0  # of the highlight
    solid: bool = True  # whether it keeps light from what is behind


@cache
def _grid(columns: int, rows: int, closed: bool) -> NDArray[np.int64]:
    """Triangles of a grid of points, column by column; `closed` joins the last column to the first."""
    column, row = np.meshgrid(np.arange(columns - (not closed)), np.arange(rows - 1), indexing="ij")
    here, there = column * rows + row, (column + 1) % columns * rows + row
    quads = np.stack([here, here + 1, there + 1, there], axis=-1).reshape(-1, 4)
    return np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])


def _shell(
    base: Floats, thickness: Floats, present: Floats, paint: Paint, keep: Keep, sharpness: float = 12.0
) -> Layer:
    """A layer over the skull: `base` (60, 24, 3) moved out by `thickness`; `present` is at least 0 where it shows.

    Its attributes are azimuth and elevation in degrees, presence, and thickness. Azimuth is that of the mean head.
    """
    out = base - mesh.CENTRE
    out = out / np.linalg.norm(out, axis=-1, keepdims=True)
    points = base + out * thickness[..., None]
    shape = points.shape[:2]
    attributes = np.stack(
        [np.broadcast_to(part, shape) for part in (_AZIMUTH, _ELEVATION, present, thickness)], axis=-1
    ).reshape(-1, 4)
    triangles = _grid(*shape, True)
    drawn = (attributes[triangles, 2] > -1.5).any(axis=1)
    # Where azimuth jumps from 180 to -180 the texture would run backwards over one column.
    attributes = attributes.astype(np.float32)
    return Layer(points.reshape(-1, 3).astype(np.float32), triangles[drawn], attributes, paint, keep, True, sharpness)


def _strands(colour: Floats, curl: float, seed: int) -> Paint:
    """Paint of hair: strands along the elevation, or curls."""

    def paint(place: Floats) -> tuple[Floats, Floats]:
        across = place[:, 0] * np.cos(np.radians(place[:, 1] * 0.8)) + seed % 97
        if curl > 0.5:
            pattern = noise.at(noise.tile(2.0), 5 * across, 5 * place[:, 1])
            pattern = pattern + 0.6 * noise.at(noise.tile(1.0), 6 * across, 6 * place[:, 1])
        else:
            bend = across + 2 * curl * np.sin(place[:, 1] / 7)
            pattern = noise.at(noise.tile(0.8), 4.5 * bend, 0.35 * place[:, 1])
            pattern = pattern + noise.at(noise.tile(2.0), 3 * bend, 0.25 * place[:, 1])
        shade = np.clip(0.8 + 0.24 * pattern, 0.25, 1.6)
        return (colour[:, None] * shade).astype(np.float32), (0.10 * shade).astype(np.float32)

    return paint


def _hairline(identity: Identity) -> Floats:
    """Elevation down to which hair grows, (60, 1), degrees."""
    line = np.interp(
        _AWAY, [0, 25, 42, 58, 70, 78, 86, 100, 118, 140, 180], [32, 31, 29, 19, 8, -8, 2, 6, -14, -28, -34]
    )
    recede = max(identity.hairline, 0.0)
    low = min(identity.hairline, 0.0)
    temples = np.exp(-(((_AWAY - 38) / 18) ** 2)) * 18 * recede
    crown = np.exp(-((_AWAY / 40) ** 2)) * 14 * recede**1.5
    line = line + temples + crown + 5 * low * (_AWAY < 50)
    if identity.style == "bald":
        line = np.where(_AWAY < 75, 200, line)
    return line


def hair(identity: Identity, points: Floats, base: Floats, headwear: str) -> list[Layer]:
    """Hair of the head: a shell over the skull, and what hangs beside it."""
    style, volume = identity.style, identity.volume
    if headwear in ("scarf", "hood") or (style == "bald" and identity.hairline < 0.3):
        return []
    top = np.clip((_ELEVATION - 20) / 50, 0, 1)
    front = np.exp(-((_AWAY / 55) ** 2))
    wave = noise.tile(6.0)[np.ix_(np.arange(60) * 4 % 256, np.arange(24) * 6)] if style in ("curly", "afro") else 0.0
    wave = wave + noise.tile(10.0)[np.ix_((identity.seed + np.arange(60) * 3) % 256, np.arange(24) * 5)]
    thick = {
        "bald": 0.015 + 0 * top,
        "buzz": 0.025 + 0.03 * volume * (1 + top),
        "short": 0.08 + (0.10 + 0.16 * volume) * (0.4 + top) + 0.025 * wave,
        "swept": 0.07 + (0.18 + 0.26 * volume) * top * (0.5 + 0.9 * front) + 0.025 * wave,
        "fringe": 0.12 + (0.1 + 0.14 * volume) * (0.5 + top) + 0.025 * wave,
        "curly": 0.2 + 0.3 * volume * (0.6 + 0.6 * top) + 0.05 * wave,
        "afro": 0.4 + 0.5 * volume + 0.04 * wave + 0 * top,
        "bob": 0.2 + 0.14 * volume * (0.6 + top) + 0.02 * wave,
        "long": 0.18 + 0.14 * volume * (0.6 + top) + 0.02 * wave,
        "tied": 0.06 + 0.09 * volume * (0.5 + top) + 0.015 * wave,
    }[style] + 0 * _AWAY
    if headwear:
        thick = np.minimum(thick, 0.09)
    line = _hairline(identity)
    side = _AZIMUTH / 60 * (1 if identity.parting > 0 else -1)
    fringes: dict[str, float | Floats] = {
        "fringe": 16 + 6 * volume,
        "bob": 9 * np.clip(1.2 - np.abs(side - identity.parting), 0, 1) * (volume > 0.4),
        "long": 6 * np.clip(np.abs(side + 0.6), 0, 1) * (identity.parting > 0.3),
        "short": 5 * max(identity.parting, 0) * np.clip(0.4 + side, 0, 1),
        "curly": 8 * volume,
    }
    fringed = np.asarray(fringes.get(style, 0.0))
    line = line - fringed * (_AWAY < 62) * np.cos(np.radians(_AWAY * 0.9))
    if style in ("bob", "long", "afro"):
        line = np.where((_AWAY > 66) & (_AWAY < 125), np.minimum(line, -20 if style != "afro" else -2), line)
    present = ((_ELEVATION - line) / 6).astype(np.float32)
    edge = 0.012 + 0.06 * fringed.any()
    thick = edge + (thick - edge) * noise.step(present, -0.5, 2.2 if style != "fringe" else 0.6)
    colour = np.array(identity.hair, np.float32)
    curl = {"curly": 0.8, "afro": 1.0}.get(style, identity.volume * 0.45)
    strands = noise.tile(0.8)

    def keep(place: Floats) -> NDArray[np.bool_]:
        ragged = noise.at(strands, 4.5 * place[:, 0] + identity.seed % 97, 0.15 * place[:, 1])
        return place[:, 2] > 0.3 * ragged

    layers = [_shell(base, thick, present, _strands(colour, curl, identity.seed), keep)]
    if style in ("bob", "long"):
        layers.append(_curtain(identity, base, colour))
    return layers


def _curtain(identity: Identity, base: Floats, colour: Floats) -> Layer:
    """Hair that hangs from the sides and the back of the head."""
    first = 52 + 6 * round(2 * abs(identity.parting))
    turned = np.arange(first, 361 - first, 6)
    columns = np.round(turned / 6).astype(int) % 60
    end = -1.1 - 0.7 * identity.volume if identity.style == "bob" else -2.2 - 1.3 * identity.volume
    share = np.linspace(0, 1, 12)
    root = base[columns, 12]  # 18 degrees up
    out = (root - mesh.CENTRE) * (1, 0, 1)
    radius = np.linalg.norm(out, axis=1, keepdims=True)
    out = out / radius
    wave = noise.tile(8.0)[np.ix_((identity.seed + columns * 5) % 256, (np.arange(12) * 9) % 256)]
    far = radius + 0.1 + 0.1 * identity.volume + (0.25 - 0.2 * (identity.style == "bob")) * share**0.7 + 0.04 * wave
    points = mesh.CENTRE * (1, 0, 1) + out[:, None] * far[..., None]
    points[..., 1] = root[:, 1:2] + (end - root[:, 1:2]) * share
    away = np.minimum(turned, 360 - turned)[:, None]
    free = np.broadcast_to((away - first) / 6, wave.shape)
    attributes = np.stack(
        [
            np.broadcast_to(turned[:, None], wave.shape),
            np.broadcast_to(18 - 90 * share, wave.shape),
            free,
            1 - share + 0 * free,
        ],
        axis=-1,
    ).reshape(-1, 4)

    def keep(place: Floats) -> NDArray[np.bool_]:
        ragged = noise.at(noise.tile(0.8), 4.5 * place[:, 0] + identity.seed % 97, 0.12 * place[:, 1])
        return (place[:, 2] > 0.25 + 0.3 * ragged) & (place[:, 3] > 0.06 + 0.05 * ragged)

    triangles = _grid(len(columns), 12, False)
    paint = _strands(0.85 * colour, 0.45 * identity.volume, identity.seed)
    return Layer(points.reshape(-1, 3).astype(np.float32), triangles, attributes.astype(np.float32), paint, keep)


def beard(identity: Identity, points: Floats, outward: Floats) -> list[Layer]:
    """A beard that stands off the face; stubble and short ones are painted on the skin."""
    length = {"full": 0.16, "goatee": 0.09, "moustache": 0.06, "short": 0.04}.get(identity.beard, 0.0)
    if not length:
        return []
    head = mesh.head()
    chosen, triangles = mesh.part(mesh.SKIN)
    rest = head.rest[chosen]
    grown = skin.attributes(identity.beard)[:, -1]
    grown = grown * (1 - head.masks["lips"][chosen]) * (1 - head.masks["mouth"][chosen])
    below = noise.step(rest[:, 1], -1.2, -1.8)[:, None] * np.array([0, -0.6, 0.2], np.float32)
    moved = points + length * (0.5 + identity.volume) * grown[:, None] * (outward + below)
    attributes = np.concatenate([rest, grown[:, None]], axis=1).astype(np.float32)
    colour = 0.8 * np.array(identity.hair, np.float32)

    def paint(place: Floats) -> tuple[Floats, Floats]:
        pattern = noise.at(noise.tile(0.8), 70 * place[:, 0], 25 * place[:, 1])
        pattern = pattern + noise.at(noise.tile(2.0), 50 * place[:, 0], 30 * place[:, 1])
        shade = np.clip(0.8 + 0.25 * pattern, 0.3, 1.5)
        return (colour[:, None] * shade).astype(np.float32), (0.05 * shade).astype(np.float32)

    def keep(place: Floats) -> NDArray[np.bool_]:
        return place[:, 3] > 0.5 + 0.16 * noise.at(noise.tile(0.8), 80 * place[:, 0], 40 * place[:, 1])

    drawn = (grown[triangles] > 0.1).any(axis=1)
    return [Layer(moved.astype(np.float32), triangles[drawn], attributes, paint, keep, True)]


def cloth(kind: str, base: Floats, colour: Floats, seed: int) -> list[Layer]:
    """Headwear, or what covers the lower face: one of beanie, cap, scarf, hood, band, mask, wrap."""
    ups = _ELEVATION + 0 * _AWAY
    fold = noise.tile(9.0)[np.ix_((seed + np.arange(60) * 4) % 256, np.arange(24) * 8)]
    rim = np.interp(_AWAY, [0, 60, 90, 180], [33, 28, 10, -6])
    cover = np.maximum(ndimage.maximum_filter(_radius(base), (3, 3), mode=("wrap", "nearest")), 0)
    tight = ndimage.gaussian_filter(cover, (1.2, 1.0), mode=("wrap", "nearest"))
    oval = np.hypot(_AZIMUTH / 62, (ups + 6) / 44)
    thickness, present = {
        "beanie": (0.1 + 0.09 * (ups < rim + 14) + 0.015 * fold, ups - rim + 6),
        "cap": (0.1 + 0.06 * (ups > 60) + 0 * fold, ups - rim),
        "band": (0.06 + 0 * fold, 9 - np.abs(ups - rim - 8)),
        "scarf": (0.07 + 0.05 * oval + 0.03 * fold, (oval - 1) * 40),
        "hood": (0.25 + 0.08 * oval + 0.05 * fold, (oval - 1.18) * 40),
        "mask": (0.05 + 0.008 * fold, np.minimum(np.interp(_AWAY, [0, 25, 80], [-9, -15, -13]) - ups, 78 - _AWAY)),
        "wrap": (0.08 + 0.05 * fold, -14 - ups + 3 * fold),
    }[kind]
    if kind in ("mask", "wrap", "scarf", "hood"):
        out = base - mesh.CENTRE
        base = mesh.CENTRE + out / np.linalg.norm(out, axis=-1, keepdims=True) * tight[..., None]
    pleats = {"mask": 12.0, "beanie": 0.0}.get(kind, 0.0)

    def paint(place: Floats) -> tuple[Floats, Floats]:
        weave = 1 + 0.05 * noise.at(noise.tile(1.0), 3 * place[:, 0], 3 * place[:, 1])
        if pleats:
            weave = weave * (1 - 0.12 * (np.sin(place[:, 1] * 0.9) > 0.75))
        if kind == "beanie":
            weave = weave * (1 + 0.12 * np.sin(place[:, 0] * 1.3))
        if kind in ("scarf", "wrap", "hood"):
            weave = weave * (1 + 0.1 * noise.at(noise.tile(6.0), 2 * place[:, 0] + seed % 89, 1.2 * place[:, 1]))
        return (colour[:, None] * weave).astype(np.float32), np.full(len(place), 0.02, np.float32)

    def keep(place: Floats) -> NDArray[np.bool_]:
        return place[:, 2] > 0

    layers = [_shell(base, thickness.astype(np.float32), (present / 6).astype(np.float32), paint, keep)]
    if kind in ("scarf", "hood"):  # whose inside shows beside the face
        layers = [replace(layers[0], one_sided=False), _drape(layers[0], kind)]
    if kind == "cap":
        layers.append(_brim(base, paint))
    return layers


def _drape(above: Layer, kind: str) -> Layer:
    """What hangs from a scarf or a hood onto the shoulders."""
    columns = np.arange(8, 53) if kind == "hood" else np.arange(61)  # a hood is open in front
    root = above.points.reshape(60, -1, 3)[columns % 60, -1]
    share = np.linspace(0, 1, 4)[None, :, None]
    fall = np.array([0, -2.0, 0]) + (root - mesh.CENTRE)[:, None] * (0.5, 0, 0.3)
    points = root[:, None] + share * fall
    shown = np.stack(np.broadcast_arrays(columns[:, None] * 6.0, -48 - 60 * share[..., 0], 1.0, 0.1), axis=-1)
    return replace(
        above,
        points=points.reshape(-1, 3).astype(np.float32),
        triangles=_grid(len(columns), 4, False),
        attributes=shown.reshape(-1, 4).astype(np.float32),
        one_sided=False,
    )


def _radius(base: Floats) -> Floats:
    return np.linalg.norm(base - mesh.CENTRE, axis=-1)


def _brim(base: Floats, paint: Paint) -> Layer:
    """The brim of a cap, over the forehead."""
    columns = np.arange(-9, 10)
    root = base[columns % 60, 9] + np.array([0, 0.0, 0.08], np.float32)
    share = np.linspace(0, 1, 5)[None, :, None]
    reach = 0.95 * np.cos(np.radians(columns * 6 * 1.45)).clip(0.12)[:, None, None]
    away = share * reach * np.array([0, -0.16, 1.0])
    points = root[:, None] + away
    attributes = np.stack(np.broadcast_arrays(columns[:, None] * 6.0, 40 + 20 * share[..., 0], 1.0, 0.1), axis=-1)
    return Layer(
        points.reshape(-1, 3).astype(np.float32),
        _grid(len(columns), 5, False),
        attributes.reshape(-1, 4).astype(np.float32),
        paint,
    )


def glasses(kind: str, points: Floats, rest: Floats) -> list[Layer]:
    """Frames before the eyes, and dark lenses in sunglasses."""
    bridge = points[np.argmin(np.abs(rest - (0.0, 0.02, 0.33)).sum(axis=1))]
    cheek = points[np.argmin(np.abs(rest - (0.55, -0.35, 0.25)).sum(axis=1)), 2]
    turn = np.linspace(0, 2 * np.pi, 32, endpoint=False)
    square = 3.6 if kind == "square" else 2.2
    wide, high = (0.43, 0.34) if kind != "sunglasses" else (0.46, 0.38)
    ring = np.stack(
        [wide * np.sign(np.cos(turn)) * np.abs(np.cos(turn)) ** (2 / square),
         high * np.sign(np.sin(turn)) * np.abs(np.sin(turn)) ** (2 / square)], axis=1
    )  # fmt: skip
    thin = {"rimless": 0.985, "round": 0.90, "square": 0.86, "sunglasses": 0.88}[kind]
    depth = max(float(bridge[2]) + 0.08, float(cheek) + 0.06)
    sheets: list[tuple[Floats, NDArray[np.int64]]] = []
    for side in (-1, 1):
        middle = np.array([side * 0.53, -0.06])
        for inner in (thin, 0.0) if kind == "sunglasses" else (thin,):
            edges = np.stack([middle + ring * (1.0 if inner else thin), middle + ring * inner], axis=1)
            sheet = np.concatenate([edges, np.zeros((32, 2, 1))], axis=-1).reshape(-1, 3)
            sheet[:, 2] = depth - 0.12 * sheet[:, 0] ** 2 - (0.0 if inner else 0.005)
            sheets.append((sheet, _grid(32, 2, True)))
        arm = np.array([[0.96, 0.1, depth - 0.12], [0.96, 0.04, depth - 0.12], [1.2, 0.1, -0.9], [1.2, 0.05, -0.9]])
        sheets.append((arm * (side, 1, 1), _grid(2, 2, False)))
    bar = np.array([[-0.12, 0.05, depth], [-0.12, 0.0, depth], [0.12, 0.05, depth], [0.12, 0.0, depth]])
    sheets.append((bar, _grid(2, 2, False)))
    starts = np.cumsum([0] + [len(sheet) for sheet, _ in sheets[:-1]])
    triangles = np.concatenate([grid + start for (_, grid), start in zip(sheets, starts, strict=True)])
    frame = np.concatenate([sheet for sheet, _ in sheets]).astype(np.float32)
    dark = np.array({"rimless": (0.25, 0.24, 0.22)}.get(kind, (0.015, 0.013, 0.012)), np.float32)

    def paint(place: Floats) -> tuple[Floats, Floats]:
        return np.broadcast_to(dark[:, None], (3, len(place))), np.full(len(place), 0.35, np.float32)

    return [Layer(frame, triangles, frame, paint, sharpness=40.0, solid=kind == "sunglasses")]


def hand(identity: Identity, place: Floats, turn: float, tilt: float) -> list[Layer]:
    """A flat hand, palm to the face, its middle at `place`; `turn` from upright, in the picture, in radians."""
    chosen, triangles = mesh.part(mesh.HAND)
    points = mesh.head().rest[chosen]
    points = points - points.mean(axis=0)
    _, _, axes = np.linalg.svd(points - points.mean(axis=0), full_matrices=False)
    axes = axes * np.where(axes[:, np.abs(axes).argmax(axis=1)].diagonal() < 0, -1, 1)[:, None]
    length, wide = axes[0], axes[1]
    if length[1] > 0:  # fingers hang in the mesh, and point up here
        length = -length
    thick = np.cross(wide, length)
    upright = points @ np.stack([wide, length, thick], axis=1)
    c, s, t, u = np.cos(turn), np.sin(turn), np.cos(tilt), np.sin(tilt)
    upright = upright @ np.array([[1, 0, 0], [0, t, u], [0, -u, t]]) @ np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]])
    placed = (0.92 * upright + place).astype(np.float32)
    tone = skin.tone(identity)

    def paint(where: Floats) -> tuple[Floats, Floats]:
        rough = noise.at(noise.tile(4.0), 60 * where[:, 0], 60 * where[:, 1])
        return (tone[:, None] * (0.95 + 0.05 * rough)).astype(np.float32), np.full(len(where), 0.05, np.float32)

    return [Layer(placed, triangles, upright.astype(np.float32), paint, None, True)]
