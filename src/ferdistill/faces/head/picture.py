"""One picture of one person: the mesh moved, clothed, lit and photographed."""

from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from scipy import ndimage

from . import mesh, noise, photo, skin, wear
from .expression import ACTION_UNITS, face_units
from .person import Identity, neutral
from .raster import Fragments, nearest, rasterise
from .view import View
from .wear import Layer

Floats = NDArray[np.floating]

PIVOT = np.array([0.0, -0.5, -0.6], np.float32)  # about what the head turns
RELIEF = np.float32(0.02)  # height of the lines of the skin, in distances between the pupils
VERGENCE = 0.1  # how far in eyes turn that look at a camera
METERED = 0.34  # mean linear light of a face as cameras like it
BROWS, EYES = (1, 2, 4), (5, 6, 7, 43)  # action units whose sides differ together


def render(identity: Identity, aus: ArrayLike, view: View, size: int) -> NDArray[np.uint8]:
    """Photograph one face.

    Parameters
    ----------
    identity : Identity
        Whose.
    aus : array of float, shape (A,)
        Action-unit intensities in [0, 1], in the order of `ACTION_UNITS`.
    view : View
        Seen how. Its seeds fix the noise, so the same arguments give the same pixels.
    size : int
        Side of the picture in pixels.

    Returns
    -------
    array of uint8, shape (size, size, 3)
        sRGB.
    """
    side = 2 * size if size <= 64 else round(1.5 * size)  # of what is drawn: edges need samples within a pixel
    mobile = np.where(np.array(ACTION_UNITS) == 43, 1.0, identity.mobility)  # everybody's eyes close
    units = dict(zip(ACTION_UNITS, (mobile * np.asarray(aus, dtype=np.float64)).tolist(), strict=True))
    lean = _lean(view)
    points = move(identity, face_units(list(units.values()), lean), view.gaze)
    right, left_side = ({unit: much * (1 + side * lean[unit]) for unit, much in units.items()} for side in (-1, 1))
    folds = skin.lines(identity, left_side, right)
    lifts = np.array([skin.brow_lifts(right), skin.brow_lifts(left_side)], np.float32)
    layers = _layers(identity, view, points, units, lifts)

    starts = np.cumsum([0] + [len(layer.points) for layer in layers])
    triangles = np.concatenate([layer.triangles + start for layer, start in zip(layers, starts, strict=False)])
    owner = np.repeat(np.arange(len(layers)), [len(layer.triangles) for layer in layers])
    attributes = np.zeros((starts[-1], 13), np.float32)
    for layer, start in zip(layers, starts, strict=False):
        attributes[start : start + len(layer.points), : layer.attributes.shape[1]] = layer.attributes
    turn = _rotation(view)
    seen = (np.concatenate([layer.points for layer in layers]) - PIVOT) @ turn.T
    screen = project(seen, view)
    left, top, box = crop(screen[: starts[1]], view)
    screen[:, :2] = (screen[:, :2] - np.array((left, top), np.float32)) * np.float32(side / box)
    one_sided = np.array([layer.one_sided for layer in layers])[owner]
    fragments = rasterise(screen, triangles, side, side, one_sided)
    shown = nearest(fragments, side * side, _holes(fragments, layers, attributes[:, :4], triangles, owner))
    shown = shown.of(np.argsort(owner[shown.triangle], kind="stable"))
    ends = np.searchsorted(owner[shown.triangle], np.arange(len(layers) + 1)).tolist()

    solid = np.repeat([layer.solid for layer in layers], np.diff(starts))
    lit = _shadowed(seen, solid, view)
    at_vertices = np.concatenate([mesh.normals(seen, triangles), seen, lit[:, None], attributes], axis=1)
    values = np.ascontiguousarray(shown.interpolate(at_vertices, triangles).T)
    on_skin = slice(0, ends[1])
    depth, *slopes = skin.look_up(folds, values[7:10, on_skin].T)
    values[:3, on_skin] += RELIEF * turn[:, :2] @ np.array(slopes)
    values[13, on_skin] = depth
    light = photo.background(view, side).reshape(3, -1)
    shaded = _shade(shown, layers, ends, values, view, side)
    if ends[1]:
        # Cameras expose for the face, though not all the way: the dark stays darker than the pale.
        light *= METERED / 0.2
        shaded *= (METERED / max(float(shaded[:, on_skin].mean()), 1e-3)) ** 0.7
    light[:, shown.pixel] = shaded
    return photo.develop(photo.resized(light.reshape(3, side, side), size, Image.Resampling.BOX), view)


def grey(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A colour picture (H, W, 3) in grey, (H, W), as Pillow weighs it (BT.601)."""
    return np.asarray(Image.fromarray(picture).convert("L"))


def _lean(view: View) -> dict[int, float]:
    """How much stronger the left side of each action unit is, as a fraction."""
    brows, eyes, mouth = view.asymmetry
    return {unit: brows if unit in BROWS else eyes if unit in EYES else mouth for unit in ACTION_UNITS}


def move(identity: Identity, amounts: dict[str, float], gaze: tuple[float, float]) -> Floats:
    """The vertices of a person's head with its face units moved and its eyes turned, (n, 3)."""
    head = mesh.head()
    rest = neutral(identity)
    amounts = dict(amounts)
    for side, closes in zip(("Left", "Right"), _closing(identity), strict=True):
        blink = f"eyeBlink{side}"
        # Looking down lowers the lid, and lids that are pressed together go no further.
        hang = identity.lids + 0.25 * max(-gaze[1], 0.0)
        amounts[blink] = closes * min(amounts.get(blink, 0.0) + hang, 1.0)
        out = (gaze[0] if side == "Left" else -gaze[0]) - VERGENCE
        amounts[f"eyeLook{'Out' if out > 0 else 'In'}{side}"] = abs(out)
        amounts[f"eyeLook{'Up' if gaze[1] > 0 else 'Down'}{side}"] = abs(gaze[1])
    row = np.zeros(len(head.units), np.float32)
    for name, amount in amounts.items():
        row[head.units[name]] = amount
    moved = rest + (head.moves.T @ row).reshape(-1, 3)
    return _outside_the_eyes(moved, rest)


@lru_cache(maxsize=64)
def _closing(identity: Identity) -> tuple[float, float]:
    """How far each blink has to go to close this person's eyes just so."""
    head = mesh.head()
    rest = neutral(identity)
    gains = []
    for side, name in ((1, "eyeBlinkLeft"), (-1, "eyeBlinkRight")):
        upper, lower = _lid_edge(side)
        closed = head.moves[[head.units[name]]].toarray().reshape(-1, 3)
        gap = (rest[upper] - rest[lower])[:, 1].mean()
        change = (closed[lower] - closed[upper])[:, 1].mean()
        gains.append(float(np.clip(1.06 * gap / change, 0.6, 1.7)))
    return gains[0], gains[1]


@lru_cache(maxsize=2)
def _lid_edge(side: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Vertices of the upper and of the lower lid's edge at the middle of an eye."""
    head = mesh.head()
    lashes = np.flatnonzero((head.material == mesh.LASHES) & (np.abs(head.rest[:, 0] - side * 0.5) < 0.1))
    up = head.rest[lashes, 1] > 0
    front = [rows[np.argsort(head.rest[rows, 2])[:4]] for rows in (lashes[up], lashes[~up])]
    return front[0], front[1]


def _outside_the_eyes(points: Floats, rest: Floats) -> Floats:
    """Push the skin about the eyes out of the eyeballs."""
    for eye in (mesh.LEFT_EYE, mesh.RIGHT_EYE):
        ball, near = _socket(eye)
        middle = rest[ball].mean(axis=0)
        radius = np.sqrt(((rest[ball] - middle) ** 2).sum(axis=1).max()) * np.float32(1.015)
        away = points[near] - middle
        distance = np.sqrt((away * away).sum(axis=1))
        inside = (distance < radius) & (away[:, 2] > 0)
        points[near[inside]] = middle + away[inside] / distance[inside, None] * radius
    return points


@lru_cache(maxsize=2)
def _socket(eye: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Vertices of an eyeball, and of the skin about it."""
    head = mesh.head()
    chosen, _ = mesh.part(mesh.SKIN, mesh.LASHES)
    side = 1 if eye == mesh.LEFT_EYE else -1
    near = (np.abs(head.rest[chosen] - (side * 0.5, 0, 0.15)) < (0.36, 0.3, 0.3)).all(axis=1)
    return np.flatnonzero(head.material == eye), chosen[near]


def _rotation(view: View) -> Floats:
    cy, sy, cp, sp, cr, sr = (f(a) for a in (view.yaw, view.pitch, view.roll) for f in (np.cos, np.sin))
    roll = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    pitch = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    yaw = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    return (roll @ pitch @ yaw).astype(np.float32)


def project(seen: Floats, view: View) -> Floats:
    """Across and down in distances between the pupils, and nearness, (n, 3)."""
    nearness = np.float32(view.distance) / (view.distance - seen[:, 2])
    return np.stack([seen[:, 0] * nearness, -seen[:, 1] * nearness, nearness], axis=1).astype(np.float32)


def crop(flat: Floats, view: View) -> tuple[float, float, float]:
    """Left, top and side of the square that a detector, a little off, puts around the face.

    It reaches from the middle of the forehead to the chin, and stands between the features and the middle of the head.

    Parameters
    ----------
    flat : array, shape (n, 3)
        The projected vertices of the skin.
    """
    left, right, lip = flat[list(_landmarks()), :2]
    eyes = (left + right) / 2
    box = max(2.9 * float(np.hypot(*(lip - eyes))), 2.6 * float(np.hypot(*(right - left))))
    middle = (eyes + 0.45 * (lip - eyes)) * (0.65, 1) + np.array(view.shift) * box
    box *= view.scale
    return float(middle[0] - box / 2), float(middle[1] - box / 2), box


@lru_cache(maxsize=1)
def _landmarks() -> tuple[int, int, int]:
    """Vertices of the skin below the middle of each eye, and on the upper lip."""
    rest = mesh.head().rest[mesh.part(mesh.SKIN)[0]]
    places = ((0.5, -0.12, 0.33), (-0.5, -0.12, 0.33), (0.0, -0.93, 0.58))
    left, right, lip = (int(np.abs(rest - np.array(place)).sum(axis=1).argmin()) for place in places)
    return left, right, lip


def _layers(identity: Identity, view: View, points: Floats, units: dict[int, float], lifts: Floats) -> list[Layer]:
    """All surfaces of the picture; the skin is the first."""
    head = mesh.head()
    bare, triangles = mesh.part(mesh.SKIN)
    cloth = np.array(view.cloth, np.float32)

    def paint_skin(place: Floats) -> tuple[Floats, Floats]:
        return skin.paint(identity, place, lifts, cloth)

    layers = [Layer(points[bare], triangles, skin.attributes(identity.beard), paint_skin, None, True)]
    layers += _eyes(identity, points)
    if max(units[unit] for unit in (10, 12, 16, 20, 22, 25, 26)) > 0.05:
        layers += _mouth(points, units)
    base = mesh.surface(points)
    layers += wear.hair(identity, points, base, view.headwear)
    if identity.beard in ("short", "full", "goatee", "moustache"):
        layers += wear.beard(identity, points[bare], mesh.normals(points[bare], triangles))
    if view.headwear:
        layers += wear.cloth(view.headwear, base, cloth, view.cloth_seed)
    if view.occluder in ("mask", "wrap"):
        colour = cloth if view.cloth_seed % 3 else np.array([0.35, 0.55, 0.7], np.float32)
        layers += wear.cloth(view.occluder, base, colour, view.cloth_seed)
    kind = "sunglasses" if view.occluder == "sunglasses" else identity.glasses
    if kind:
        layers += wear.glasses(kind, points[bare], head.rest[bare])
    if view.occluder == "hand":
        side, up = view.occluder_place
        at = np.array([0.85 * side, -1.25 + 0.5 * up, 0.75 - 0.35 * abs(side)], np.float32)
        layers += wear.hand(identity, at, 0.9 * side, 0.25)
    return layers


def _eyes(identity: Identity, points: Floats) -> list[Layer]:
    """Eyeballs and lashes."""
    head = mesh.head()
    layers = []
    iris = np.array(identity.iris, np.float32)
    for eye in (mesh.LEFT_EYE, mesh.RIGHT_EYE):
        chosen, triangles = mesh.part(eye)
        rest = head.rest[chosen] - head.rest[chosen].mean(axis=0)
        attributes = rest / np.abs(rest[:, 1]).max()

        def paint(place: Floats) -> tuple[Floats, Floats]:
            from_pupil = np.where(place[:, 2] > 0, np.hypot(place[:, 0], place[:, 1]), 9.0)
            veins = noise.at(noise.tile(2.0), 60 * place[:, 0], 60 * place[:, 1])
            white = np.array([[0.74], [0.70], [0.67]], np.float32) * (1 + 0.04 * veins)
            rays = 1 + 0.25 * noise.at(noise.tile(1.0), 20 * np.arctan2(place[:, 1], place[:, 0]), 8 * from_pupil)
            ring = (0.55 + 1.1 * np.clip(from_pupil / 0.46, 0, 1)) * noise.step(from_pupil, 0.5, 0.4)
            disc = noise.step(from_pupil, 0.50, 0.45)
            colour = white + disc * (iris[:, None] * (rays * (0.35 + ring)) - white)
            colour = colour * (1 - 0.95 * noise.step(from_pupil, 0.22, 0.18))
            return colour.astype(np.float32), np.full(len(place), 0.8, np.float32)

        layers.append(Layer(points[chosen], triangles, attributes.astype(np.float32), paint, None, True, 220.0))
    chosen, triangles = mesh.part(mesh.LASHES)
    dark = np.minimum(0.25 * np.array(identity.hair, np.float32), 0.02)
    reach = 0.29 + 0.06 * identity.eye_shadow

    def paint_lashes(place: Floats) -> tuple[Floats, Floats]:
        return np.broadcast_to(dark[:, None], (3, len(place))), np.zeros(len(place), np.float32)

    def keep(place: Floats) -> NDArray[np.bool_]:
        # Short of their length: at a face's size in pictures lashes are a dark rim of the lid.
        from_ball = np.sqrt((np.abs(place[:, 0]) - 0.5) ** 2 + place[:, 1] ** 2 + place[:, 2] ** 2)
        return (place[:, 1] > 0) & (from_ball < reach)

    layers.append(Layer(points[chosen], triangles, head.rest[chosen], paint_lashes, keep))
    return layers


def _mouth(points: Floats, units: dict[int, float]) -> list[Layer]:
    """Teeth and tongue."""
    head = mesh.head()
    chosen, triangles = mesh.part(mesh.TEETH)

    def paint_teeth(place: Floats) -> tuple[Floats, Floats]:
        gaps = np.abs(np.mod(place[:, 0] / 0.13 + 0.5, 1) - 0.5)
        shade = 1 - 0.22 * noise.step(gaps, 0.1, 0.0)
        shade = shade * noise.step(place[:, 2], -0.1, 0.35)
        return (np.array([[0.95], [0.90], [0.80]]) * shade).astype(np.float32), np.full(len(place), 0.15, np.float32)

    teeth = Layer(points[chosen], triangles, head.rest[chosen], paint_teeth, None, False, 30.0)
    chosen, triangles = mesh.part(mesh.TONGUE)
    low = points[chosen] - np.array([0, 0.16, 0.12], np.float32) * min(1.0, 1.4 * units[26])

    def paint_tongue(place: Floats) -> tuple[Floats, Floats]:
        shade = 0.25 + 0.75 * noise.step(place[:, 2], -0.4, 0.2)
        return (np.array([[0.34], [0.11], [0.11]]) * shade).astype(np.float32), np.full(len(place), 0.1, np.float32)

    return [teeth, Layer(low.astype(np.float32), triangles, head.rest[chosen], paint_tongue, None, True, 20.0)]


def _holes(
    fragments: Fragments,
    layers: list[Layer],
    attributes: Floats,
    triangles: NDArray[np.int64],
    owner: NDArray[np.int64],
) -> NDArray[np.int64]:
    """The fragments at which their layer is not there."""
    found = [np.empty(0, np.int64)]
    whose = owner[fragments.triangle]
    attributes = np.ascontiguousarray(attributes)
    for number, layer in enumerate(layers):
        if layer.keep:
            rows = np.flatnonzero(whose == number)
            found.append(rows[~layer.keep(fragments.of(rows).interpolate(attributes, triangles))])
    return np.concatenate(found)


def _shadowed(seen: Floats, solid: NDArray[np.bool_], view: View) -> Floats:
    """How far each vertex sees the key light, (n,), 0 to 1.

    The light sees vertices alone, each as large as a cell of a coarse grid: enough for the shade of a nose or of hair.
    """
    forward = np.array(view.key, np.float32)
    right = np.cross(np.array([0, 1, 0], np.float32), forward)
    right /= np.linalg.norm(right)
    basis = np.stack([right, np.cross(forward, right), forward])
    turned = seen @ basis.T
    cells = 40
    flat = (turned[:, :2] + np.float32(2.6)) * np.float32(cells / 5.2)
    depth = np.full(cells * cells, -9, np.float32)
    column, row = np.clip(flat, 0, cells - 1).astype(np.int64).T
    np.maximum.at(depth, (row * cells + column)[solid], turned[solid, 2])
    depth = ndimage.grey_closing(depth.reshape(cells, cells), (3, 3)).ravel()
    column, row = (np.clip(axis, 1, cells - 2) for axis in (column, row))
    found = np.zeros(len(seen), np.float32)
    for beside in (-cells - 1, 1 - cells, cells - 1, cells + 1):
        found += np.clip((turned[:, 2] - depth[row * cells + column + beside] + np.float32(0.34)) * np.float32(6), 0, 1)
    return found / 4


def _shade(shown: Fragments, layers: list[Layer], ends: list[int], values: Floats, view: View, side: int) -> Floats:
    """Light that each shown fragment sends to the camera, linear RGB (3, f).

    `values` are those of the fragments, (7 + k, f): normal, place, whether the key light reaches it, attributes. They
    stand layer by layer; `ends` says where each begins, and where the last ends.
    """
    normal, place, open_to_key = values[:3], values[3:6], values[6]
    normal = normal * (np.where(normal[2] < 0, np.float32(-1), np.float32(1)) / np.maximum(_length(normal), 1e-6))
    colour = np.empty_like(normal)
    gloss, sharp = np.empty(values.shape[1], np.float32), np.empty(values.shape[1], np.float32)
    for layer, start, end in zip(layers, ends, ends[1:], strict=False):
        if end > start:
            colour[:, start:end], gloss[start:end] = layer.paint(values[7:, start:end].T)
            sharp[start:end] = layer.sharpness
    hidden = _cavities(place[2], shown.pixel, side)

    key, fill, sky, ground, key_light, fill_light = (
        np.array(one, np.float32)[:, None]
        for one in (view.key, view.fill, view.sky, view.ground, view.key_light, view.fill_light)
    )
    # Light that enters the skin leaves it beyond the terminator, red most.
    wrap = np.array([[0.32], [0.2], [0.14]], np.float32)
    towards = _dot(normal, key)
    light = np.clip((towards + wrap) / (1 + wrap), 0, 1) * (key_light * (open_to_key * (0.4 + 0.6 * hidden)))
    light += np.clip(_dot(normal, fill), 0, 1) * fill_light
    light += (ground + (0.5 + 0.5 * normal[1]) * (sky - ground)) * hidden
    eye = np.array([[0], [0], [view.distance]], np.float32) - place
    half = eye / _length(eye) + key
    cosine = np.clip(_dot(normal, half) / _length(half), 0, 1)
    glint = gloss * np.exp(sharp * (cosine - 1)) * (towards > 0) * open_to_key
    return colour * light + glint * key_light


def _dot(a: Floats, b: Floats) -> Floats:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _length(a: Floats) -> Floats:
    return np.sqrt(_dot(a, a))


def _cavities(depth: Floats, pixel: NDArray[np.int64], side: int) -> Floats:
    """How open each fragment is to its surroundings, (f,), 0 to 1: less where what is beside it stands out."""
    field = np.full(side * side, np.nan, np.float32)
    field[pixel] = depth
    filled = np.where(np.isnan(field), depth.min(), field).reshape(side, side)
    open_ = np.ones(len(depth), np.float32)
    for width, strength in ((side // 24, 3.0), (side // 9, 1.1)):
        around = ndimage.uniform_filter(filled, 2 * (width // 2) + 1, mode="nearest").ravel()[pixel]
        open_ *= 1 / (1 + strength * np.clip(around - depth - 0.01, 0, 0.6))
    return open_
