"""Faces drawn from FACS action units, and the distribution of what annotators see in them.

An expression is a vector of action-unit intensities in [0, 1], in the order of `ACTION_UNITS`. `render` turns
it into a grey picture of one person under one view; `perceived` turns it into the probability with which an
annotator names each class. Both are pure, so a corpus built on them has a known right answer.

The units and what they do to a face follow the Facial Action Coding System (Ekman, Friesen & Hager, 2002,
"Facial Action Coding System: The Manual"), the emotions EMFACS (Friesen & Ekman, 1983, "EMFACS-7: Emotional
Facial Action Coding System", unpublished manuscript, University of California at San Francisco).
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageFilter

Floats = NDArray[np.float64]

CLASSES = ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")

ACTION_UNITS = (1, 2, 4, 5, 6, 7, 9, 10, 12, 15, 16, 17, 20, 23, 25, 26)

# EMFACS names the units of each emotion. The intensities are this corpus's own: 1 for a unit that makes the
# emotion, less for one that only often comes with it.
PROTOTYPES: dict[str, dict[int, float]] = {
    "angry": {4: 1.0, 5: 0.5, 7: 0.8, 23: 1.0, 10: 0.2, 17: 0.4},
    "disgust": {9: 1.0, 10: 1.0, 15: 0.5, 16: 0.6, 17: 0.3},
    "fear": {1: 1.0, 2: 0.7, 4: 0.6, 5: 0.9, 7: 0.3, 20: 1.0, 25: 0.7},
    "happy": {6: 1.0, 12: 1.0, 25: 0.7},
    "neutral": {},
    "sad": {1: 1.0, 4: 0.6, 15: 1.0, 17: 0.5},
    "surprise": {1: 1.0, 2: 1.0, 5: 0.8, 25: 0.8, 26: 1.0},
}

WEAKEST = 0.7  # least intensity at which a prototype is still the full expression to an annotator
SUPERSAMPLING = 4
OCCLUDERS = ("hand", "scarf", "sunglasses")


def prototype(emotion: str) -> Floats:
    """Action units of a class at full intensity, shape (A,), each in [0, 1].

    Raises
    ------
    KeyError
        If `emotion` is not one of `CLASSES`.
    """
    units = PROTOTYPES[emotion]
    return np.array([units.get(unit, 0.0) for unit in ACTION_UNITS])


def perceived(aus: ArrayLike, sharpness: float) -> Floats:
    """Probability with which an annotator names each class on seeing these action units.

    Each class is the segment from `WEAKEST` to 1 of the ray through its prototype; neutral is the origin. The
    probability is the softmax of `-sharpness` times the squared Euclidean distance to the segment. So a weak
    expression looks neutral, and classes that share units are confused.

    Parameters
    ----------
    aus : array of float, shape (N, A)
        Intensities in [0, 1], in the order of `ACTION_UNITS`.
    sharpness : float
        Inverse temperature, above 0; the larger, the more annotators agree.

    Returns
    -------
    array of float64, shape (N, 7)
        Rows sum to 1, in the order of `CLASSES`.
    """
    expressions = np.asarray(aus, dtype=np.float64)
    logits = np.empty((len(expressions), len(CLASSES)))
    for column, emotion in enumerate(CLASSES):
        direction = prototype(emotion)
        norm = direction @ direction
        along = expressions @ direction / norm if norm else np.zeros(len(expressions))
        nearest = np.clip(along, WEAKEST, 1.0)[:, None] * direction
        logits[:, column] = -sharpness * ((expressions - nearest) ** 2).sum(axis=1)
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return odds / odds.sum(axis=1, keepdims=True)


@dataclass(frozen=True)
class Identity:
    """What stays the same about a person.

    Lengths are in half image widths (at view scale 1), tones in grey levels 0 to 255. x points right and y
    down from the middle of the face.
    """

    width: float
    height: float
    jaw: float  # width of the jaw over that of the cheekbones
    eye_gap: float  # from the middle of the face to the middle of an eye
    eye_width: float
    eye_height: float
    eye_slant: float
    brow_height: float  # above the eye
    brow_thickness: float
    brow_slope: float  # above 0: the inner end lower
    nose_length: float
    nose_width: float
    mouth_width: float
    mouth_height: float  # y of the closed lips
    mouth_corner: float  # how far the corners hang at rest
    lip_thickness: float
    skin: float
    hair: float
    iris: float
    fringe: float  # how far the hair comes down the forehead, 0 to 1; below 0: bald
    parting: float  # where it parts, -1 to 1
    hair_length: float  # of the hair at the sides, 0 to 1
    glasses: bool
    moustache: bool
    beard: float  # 0 to 1
    brow_asymmetry: float
    mouth_asymmetry: float
    age: float  # 0 to 1, how deep the lines of the face are at rest
    mobility: float  # how far a unit moves this face, about 1


@dataclass(frozen=True)
class View:
    """What changes from one picture of a person to the next. Angles are in radians, tones in grey levels."""

    yaw: float
    pitch: float
    roll: float
    scale: float
    shift: tuple[float, float]  # of the face, in half image widths
    light_angle: float
    light: float  # relative brightness gained on the lit side and lost on the other
    contrast: float
    brightness: float  # added
    background: float
    noise: float  # standard deviation
    blur: float  # standard deviation, in pixels of a 48-pixel image
    occluder: str  # "" or one of OCCLUDERS
    occluder_shift: float  # -1 to 1, where on the face it lies
    seed: int  # of the noise and of the background


def draw_identity(rng: np.random.Generator) -> Identity:
    """Draw a person."""
    skin = rng.uniform(105, 210)
    long_hair = rng.random() < 0.4
    man = not long_hair and rng.random() < 0.7
    return Identity(
        width=rng.uniform(0.68, 0.80),
        height=rng.uniform(0.90, 1.0),
        jaw=rng.uniform(0.55, 0.8),
        eye_gap=rng.uniform(0.30, 0.36),
        eye_width=rng.uniform(0.30, 0.37),
        eye_height=rng.uniform(0.07, 0.105),
        eye_slant=rng.normal(0, 0.015),
        brow_height=rng.uniform(0.18, 0.27),
        brow_thickness=rng.uniform(0.045, 0.085) + 0.015 * man,
        brow_slope=rng.normal(0, 0.03),
        nose_length=rng.uniform(0.34, 0.44),
        nose_width=rng.uniform(0.12, 0.18),
        mouth_width=rng.uniform(0.46, 0.62),
        mouth_height=rng.uniform(0.47, 0.53),
        mouth_corner=rng.normal(0, 0.022),
        lip_thickness=rng.uniform(0.04, 0.09),
        skin=skin,
        hair=min(rng.choice([25.0, 45.0, 70.0, 110.0, 170.0]) * rng.uniform(0.8, 1.2), 0.9 * skin),
        iris=rng.uniform(25, 75),
        fringe=-1.0 if man and rng.random() < 0.15 else rng.uniform(0, 1),
        parting=rng.uniform(-1, 1),
        hair_length=rng.uniform(0.6, 1.0) if long_hair else rng.uniform(0, 0.3),
        glasses=bool(rng.random() < 0.12),
        moustache=bool(man and rng.random() < 0.15),
        beard=rng.uniform(0.3, 0.9) if man and rng.random() < 0.25 else 0.0,
        brow_asymmetry=rng.normal(0, 0.10),
        mouth_asymmetry=rng.normal(0, 0.10),
        age=rng.beta(1.0, 2.0),
        mobility=rng.uniform(0.75, 1.1),
    )


def draw_view(rng: np.random.Generator) -> View:
    """Draw the circumstances of a picture; about 8 % have part of the face covered."""
    return View(
        yaw=rng.normal(0, 0.24),
        pitch=rng.normal(0, 0.16),
        roll=rng.normal(0, 0.11),
        scale=rng.uniform(0.85, 1.08),
        shift=(rng.normal(0, 0.05), rng.normal(0, 0.05)),
        light_angle=rng.uniform(-np.pi, np.pi),
        light=rng.uniform(0.0, 0.5),
        contrast=rng.uniform(0.45, 1.1),
        brightness=rng.uniform(-20, 20),
        background=rng.uniform(20, 230),
        noise=rng.uniform(2, 12),
        blur=rng.uniform(0.0, 0.9),
        occluder=str(rng.choice(OCCLUDERS)) if rng.random() < 0.08 else "",
        occluder_shift=rng.uniform(-1, 1),
        seed=int(rng.integers(2**63)),
    )


@dataclass(frozen=True)
class Shape:
    """A polygon, or a line where `width` is above 0, in the frame of the face."""

    points: Floats  # (n, 2)
    tone: float
    width: float = 0.0
    flat: bool = False  # lies at the rim of the head, so turning the head hardly moves it


def render(identity: Identity, aus: ArrayLike, view: View, size: int) -> NDArray[np.uint8]:
    """Draw one face.

    Parameters
    ----------
    identity : Identity
        Whose.
    aus : array of float, shape (A,)
        Action-unit intensities in [0, 1], in the order of `ACTION_UNITS`.
    view : View
        Seen how. Its seed fixes the noise, so the same arguments give the same pixels.
    size : int
        Side of the image in pixels.

    Returns
    -------
    array of uint8, shape (size, size)
        Grey levels.
    """
    movement = identity.mobility * np.asarray(aus, dtype=np.float64)
    au = dict(zip(ACTION_UNITS, movement.tolist(), strict=True))
    rng = np.random.Generator(np.random.PCG64(view.seed))
    soft = [*_background(view, rng), *_head(identity, au), *_relief(identity, au)]
    sharp = [*_nose(identity, au), *_mouth(identity, au)]
    for side in (-1, 1):
        sharp += [*_eye(identity, au, side), *_brow(identity, au, side), *_cheek(identity, au, side)]
    sharp += [*_forehead(identity, au), *_hair(identity), *_occluder(identity, view)]

    # The rounded parts are drawn at half the resolution and blurred: skin has no edges, lids and lips do.
    canvas = Image.new("L", (size * 2, size * 2))
    _draw(canvas, soft, view)
    canvas = canvas.filter(ImageFilter.BoxBlur(size / 48))
    canvas = canvas.resize((size * SUPERSAMPLING, size * SUPERSAMPLING), Image.Resampling.BILINEAR)
    _draw(canvas, sharp, view)
    image = canvas.reduce(SUPERSAMPLING)
    if view.blur > 0.1:
        image = image.filter(ImageFilter.GaussianBlur(view.blur * size / 48))

    across, down, dome = _fields(size)
    slope = across * np.float32(np.cos(view.light_angle)) + down * np.float32(np.sin(view.light_angle))
    pixels = np.asarray(image, dtype=np.float32) * dome * (1 + np.float32(view.light) * slope)
    pixels = 128 + view.contrast * (pixels - 128) + view.brightness
    pixels += view.noise * rng.standard_normal((size, size), dtype=np.float32)
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


@cache
def _fields(size: int) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Offsets across and down in [-1, 1], and the light that a round head returns; each (size, size)."""
    axis = ((np.arange(size) + 0.5) / size * 2 - 1).astype(np.float32)
    across, down = np.meshgrid(axis, axis)
    dome = 1.06 - 0.28 * np.clip(across**2 + 0.6 * down**2, 0, 1.5) ** 1.5
    return across, down, dome.astype(np.float32)


def _draw(canvas: Image.Image, shapes: list[Shape], view: View) -> None:
    """Turn the head, place it in the picture and draw it."""
    points = np.concatenate([shape.points for shape in shapes])
    flat = np.repeat([shape.flat for shape in shapes], [len(shape.points) for shape in shapes])
    across, down = points[:, 0], points[:, 1]
    # The head bulges towards the camera, so turning it moves the nose more than the cheeks.
    depth = np.where(flat, 0.0, np.sqrt(np.clip(1 - across**2 - 0.6 * down**2, 0, 1)))
    across = across * np.cos(view.yaw) + 0.45 * depth * np.sin(view.yaw)
    down = down * np.cos(view.pitch) + 0.45 * depth * np.sin(view.pitch)
    zoom = canvas.width / 2 * view.scale
    turn = zoom * np.array([[np.cos(view.roll), np.sin(view.roll)], [-np.sin(view.roll), np.cos(view.roll)]])
    origin = canvas.width / 2 * (1 + np.array(view.shift))
    placed = np.stack([across, down], axis=1) @ turn + origin

    pen = ImageDraw.Draw(canvas)
    start = 0
    for shape in shapes:
        outline = placed[start : start + len(shape.points)].ravel().tolist()
        start += len(shape.points)
        tone = int(min(max(shape.tone, 0), 255))
        if shape.width:
            pen.line(outline, fill=tone, width=max(1, round(shape.width * zoom)))
        else:
            pen.polygon(outline, fill=tone)


_STEPS = np.linspace(0, 1, 9)[:, None]
_BEZIER = np.hstack([(1 - _STEPS) ** 3, 3 * _STEPS * (1 - _STEPS) ** 2, 3 * _STEPS**2 * (1 - _STEPS), _STEPS**3])
_ANGLES = np.linspace(0, 2 * np.pi, 32, endpoint=False)
_CIRCLE = np.stack([np.sin(_ANGLES), -np.cos(_ANGLES)], axis=1)


def _curve(*control: tuple[float, float], side: int = 1) -> Floats:
    """Cubic Bezier curve through the first and last of four control points, shape (9, 2); mirrored where side is -1."""
    return _BEZIER @ (np.array(control) * (side, 1))


def _arch(end: tuple[float, float], inner: tuple[float, float]) -> Floats:
    """Curve that is its own mirror image, by its right end and the control point beside it."""
    return _curve((-end[0], end[1]), (-inner[0], inner[1]), inner, end)


def _ellipse(across: float, down: float, width: float, height: float) -> Floats:
    """Ellipse by its middle and half axes, shape (32, 2)."""
    return _CIRCLE * (width, height) + (across, down)


def _background(view: View, rng: np.random.Generator) -> list[Shape]:
    far = 3.0
    edge = rng.uniform(-1.0, 1.0, size=2)
    other = view.background + rng.uniform(-60, 60)
    wall = np.array([(-far, -far), (far, -far), (far, far), (-far, far)])
    return [
        Shape(wall, view.background, flat=True),
        Shape(np.array([(edge[0], -far), (far, -far), (far, far), (edge[1], far)]), other, flat=True),
    ]


def _head(identity: Identity, au: dict[int, float]) -> list[Shape]:
    """Hair behind the head, neck, ears, and the outline of the face, whose chin drops with the jaw (26)."""
    width, height, skin = identity.width, identity.height, identity.skin
    drop = 0.16 * au[26] - 0.02 * au[17]
    outline = _CIRCLE * (width, height)
    below = np.clip(outline[:, 1] / height, 0, 1)
    # Below the cheekbones a superellipse: an ellipse would end in a point once the jaw narrows it.
    fuller = width * np.sign(outline[:, 0]) * (1 - below**2.8) ** (1 / 2.2)
    outline[:, 0] = np.where(below > 0, fuller, outline[:, 0]) * (1 - (1 - identity.jaw) * below**1.5)
    outline[:, 1] += drop * below
    shapes = [
        Shape(np.array([(-0.42, 0.5), (0.42, 0.5), (0.5, 1.6), (-0.5, 1.6)]), 0.62 * skin, flat=True),
        Shape(_ellipse(-width, 0.05, 0.09, 0.18), 0.8 * skin, flat=True),
        Shape(_ellipse(width, 0.05, 0.09, 0.18), 0.8 * skin, flat=True),
        Shape(outline, skin, flat=True),
    ]
    if identity.fringe < 0:
        return shapes
    sides = identity.hair_length
    behind = [Shape(_ellipse(0, -0.2, width + 0.1 + 0.06 * sides, height + 0.02), identity.hair, flat=True)]
    if sides > 0.5:
        edge = width + 0.14
        curtain = np.array([(-edge, -0.3), (edge, -0.3), (edge + 0.05, sides * 1.5), (-edge - 0.05, sides * 1.5)])
        behind.append(Shape(curtain, identity.hair, flat=True))
    return behind + shapes


def _relief(identity: Identity, au: dict[int, float]) -> list[Shape]:
    """Soft light and shade: eye sockets, cheeks raised by 6 and 12, nose, beard, and the chin boss of 17."""
    skin = identity.skin
    lower_face = identity.mouth_height
    smile = 0.6 * au[6] + 0.4 * au[12]
    shapes = []
    if identity.beard:
        tone = skin + identity.beard * 0.8 * (identity.hair - skin)
        jaw = _CIRCLE * (identity.width * (0.55 + 0.4 * identity.jaw), 0.55) + (0, 0.5)
        jaw[:, 1] = np.clip(jaw[:, 1] + 0.16 * au[26], lower_face - 0.16, None)
        shapes.append(Shape(jaw, tone))
        shapes.append(Shape(_ellipse(0, lower_face - 0.12, 0.5, 0.14), skin))
    for side in (-1, 1):
        gap = side * identity.eye_gap
        shapes.append(Shape(_ellipse(gap, -0.19, 0.22, 0.13), 0.88 * skin))
        cheek = _ellipse(side * 0.42, 0.2 - 0.05 * smile, 0.17 + 0.03 * smile, 0.12)
        shapes.append(Shape(cheek, skin * (1.02 + 0.1 * smile)))
    nose = [(-0.05, -0.15), (0.05, -0.15), (identity.nose_width, 0.16), (-identity.nose_width, 0.16)]
    shapes.append(Shape(np.array(nose), 1.06 * skin))
    shapes.append(Shape(_ellipse(0.6 * identity.nose_width, 0.05, 0.03, 0.16), 0.9 * skin))
    chin = 0.83 + 0.14 * au[26] - 0.05 * au[17]
    shapes.append(Shape(_ellipse(0, chin, 0.17, 0.08), skin * (1.04 + 0.08 * au[17])))
    return shapes


def _eye(identity: Identity, au: dict[int, float], side: int) -> list[Shape]:
    """Lids, iris and crow's feet: 5 lifts the upper lid, 7 tightens both, 6 and 9 push the lower one up."""
    middle, half = side * identity.eye_gap, identity.eye_width / 2
    skin, line = identity.skin, 0.3 * identity.skin
    up = identity.eye_height * max(0.3, 1 + 0.8 * au[5] - 0.35 * au[7] - 0.25 * au[6] - 0.35 * au[9])
    down = identity.eye_height * (0.85 + 0.25 * au[5] - 0.6 * au[7] - 1.15 * au[6] - 0.6 * au[9])
    down = max(down, 0.035 - up)  # the lids may close, not cross
    slant = side * identity.eye_slant
    inner, outer = middle - side * half, middle + side * half
    ends = (-0.15 + slant * side * 0.5, -0.15 - slant * side - 0.03 * au[6])
    first, second = middle - side * half / 2, middle + side * half / 2
    above_first = -0.15 - 1.33 * up * (1 + 0.2 * au[1])
    above_second = -0.15 - 1.33 * up * (1 - 0.25 * au[1] * (1 - au[2]))
    below = -0.15 + 1.33 * down
    upper = _curve((inner, ends[0]), (first, above_first), (second, above_second), (outer, ends[1]))
    lower = _curve((inner, ends[0]), (first, below), (second, below), (outer, ends[1]))
    iris = _ellipse(middle, -0.155, 0.088, 0.088)
    lids = [np.interp(iris[:, 0], *lid[::side].T) for lid in (upper, lower)]
    iris[:, 1] = np.clip(iris[:, 1], *lids)
    shapes = [
        Shape(np.concatenate([upper, lower[::-1]]), min(250, 130 + 0.55 * skin)),
        Shape(iris, identity.iris),
        Shape(lower, skin * (0.62 - 0.2 * au[7]), 0.02 + 0.02 * au[7]),
        Shape(upper, line, 0.045),
        Shape(upper - (0, 0.06), 0.72 * skin, 0.02),
    ]
    # Cheeks that rise fold the skin below the eye and beside it.
    if au[6] > 0.05:
        end = (outer + side * 0.06, -0.06)
        fold = _curve((inner, 0.0), (middle, 0.06 - 0.03 * au[6]), (outer, 0.03 - 0.03 * au[6]), end)
        shapes.append(Shape(fold, skin * (1 - 0.35 * au[6]), 0.025))
        for rise in (-0.07, 0.0):
            foot = [(outer + side * 0.05, -0.14), (outer + side * 0.14, -0.14 + rise)]
            shapes.append(Shape(np.array(foot), skin * (1 - 0.4 * au[6]), 0.02))
    if identity.glasses:
        shapes.append(Shape(_ellipse(middle, -0.13, 0.25, 0.19), 35, 0.03))
        shapes.append(Shape(np.array([(side * 0.09, -0.16), (0.0, -0.18)]), 35, 0.03))
    return shapes


def _brow(identity: Identity, au: dict[int, float], side: int) -> list[Shape]:
    """Brow: 1 lifts the inner end, 2 the outer; 4 lowers it and draws it in; 9 pulls the inner end down."""
    gain = 1 + side * identity.brow_asymmetry
    base = -0.15 - identity.brow_height
    inner = base + identity.brow_slope + gain * (-0.17 * au[1] + 0.14 * au[4] + 0.06 * au[9])
    middle = base - 0.05 + gain * (-0.08 * au[1] - 0.13 * au[2] + 0.09 * au[4] + 0.02 * au[9])
    outer = base + 0.02 - identity.brow_slope + gain * (0.01 * au[1] - 0.15 * au[2] + 0.02 * au[4])
    pinch = 0.07 * au[4]
    start, end = identity.eye_gap - 0.19 - pinch, identity.eye_gap + 0.21
    third = (end - start) / 3
    upper = _curve((start, inner), (start + third, middle), (end - third, middle), (end, outer), side=side)
    thickness = identity.brow_thickness * np.linspace(1.2, 0.35, len(upper))
    lower = upper + np.stack([np.zeros_like(thickness), thickness], axis=1)
    tone = min(0.8 * identity.hair, 0.5 * identity.skin)
    return [Shape(np.concatenate([upper, lower[::-1]]), tone)]


def _forehead(identity: Identity, au: dict[int, float]) -> list[Shape]:
    """Furrows: across the forehead for 1 and 2, upright between the brows for 4, across the bridge for 9."""
    skin = identity.skin
    shapes = []
    lined = max(au[1], 0.6 * identity.age)
    for row in range(2):
        height = -0.60 - 0.09 * row - 0.03 * au[1]
        if lined > 0.05:
            line = _arch((0.2, height + 0.02), (0.08, height))
            shapes.append(Shape(line, skin * (1 - 0.35 * lined), 0.025))
        if au[2] > 0.05:
            for side in (-1, 1):
                ends = (0.22, height + 0.02), (0.46, height + 0.05)
                line = _curve(ends[0], (0.3, height - 0.01), (0.38, height), ends[1], side=side)
                shapes.append(Shape(line, skin * (1 - 0.35 * au[2]), 0.025))
    if au[4] > 0.05:
        for side in (-1, 1):
            line = np.array([(side * 0.045, -0.42), (side * 0.035, -0.27)])
            shapes.append(Shape(line, skin * (1 - 0.5 * au[4]), 0.03))
    if au[9] > 0.05:
        for height in (-0.14, -0.07, 0.0):
            line = _arch((0.1, height + 0.03), (0.04, height - 0.02))
            shapes.append(Shape(line, skin * (1 - 0.55 * au[9]), 0.03))
    return shapes


def _nose(identity: Identity, au: dict[int, float]) -> list[Shape]:
    """Nostrils and the wings above them, lifted by 9 and 10."""
    skin, width = identity.skin, identity.nose_width + 0.03 * au[9]
    base = -0.15 + identity.nose_length - 0.06 * au[9] - 0.02 * au[10]
    shapes = []
    for side in (-1, 1):
        top, bottom = (width * 0.8, base - 0.11), (width * 0.5, base + 0.01)
        wing = _curve(top, (width + 0.03, base - 0.08), (width + 0.02, base), bottom, side=side)
        shapes.append(Shape(wing, skin * (0.7 - 0.2 * au[9]), 0.03))
        shapes.append(Shape(_ellipse(side * width * 0.5, base, 0.04, 0.022), 0.32 * skin))
    return shapes


def _cheek(identity: Identity, au: dict[int, float], side: int) -> list[Shape]:
    """Folds from the nose to the mouth (6, 9, 10, 12), and beside its corners (15, 20)."""
    skin = identity.skin
    moved = 0.75 * au[12] + 0.3 * au[6] + 0.8 * au[10] + 0.5 * au[9]
    depth = min(1.0, max(moved, 0.5 * identity.age))
    width, corner = _mouth_corner(identity, au, side)
    shapes = []
    wing = identity.nose_width + 0.05
    top = 0.14 - 0.05 * au[9]
    bulge = 0.12 * au[12] + 0.05 * au[10]
    beside_wing, beside_corner = (wing + 0.08 + bulge, top + 0.08), (width + 0.08 + 0.5 * bulge, corner - 0.14)
    end = (width + 0.06, corner + 0.02 - 0.08 * au[10])
    fold = _curve((wing, top), beside_wing, beside_corner, end, side=side)
    shapes.append(Shape(fold, skin * (0.92 - 0.4 * depth), 0.022 + 0.02 * depth))
    if au[15] > 0.05:
        line = np.array([(side * (width + 0.01), corner + 0.02), (side * (width + 0.06), corner + 0.13)])
        shapes.append(Shape(line, skin * (1 - 0.45 * au[15]), 0.035))
    if au[20] > 0.05:
        for out in (0.05, 0.10):
            line = np.array([(side * (width + out), corner - 0.07), (side * (width + out), corner + 0.07)])
            shapes.append(Shape(line, skin * (1 - 0.35 * au[20]), 0.025))
    return shapes


def _mouth_corner(identity: Identity, au: dict[int, float], side: int) -> tuple[float, float]:
    """Half the mouth's width, and the height of the corner at this side."""
    stretch = 1 + 0.3 * au[12] + 0.34 * au[20] - 0.25 * au[23] - 0.3 * au[26] * (1 - 0.7 * au[12]) - 0.05 * au[17]
    gain = 1 + side * identity.mouth_asymmetry
    lift = -0.15 * au[12] + 0.14 * au[15] + 0.03 * au[20] + 0.03 * au[16] + 0.06 * au[26]
    return identity.mouth_width / 2 * stretch, identity.mouth_height + identity.mouth_corner + gain * lift


def _mouth(identity: Identity, au: dict[int, float]) -> list[Shape]:
    """Lips, teeth, the dark of the mouth, chin and moustache."""
    skin = identity.skin
    width, left = _mouth_corner(identity, au, -1)
    _, right = _mouth_corner(identity, au, 1)
    rest = identity.mouth_height + 0.03 * au[12] - 0.04 * au[17] - 0.04 * au[15]
    # 25 parts the lips, 26 drops the jaw, 10 lifts the upper lip, 16 pulls the lower one down.
    top = rest - 0.035 * au[25] - 0.07 * au[10] - 0.03 * au[26] - 0.02 * au[12] * au[25]
    bottom = rest + 0.055 * au[25] + 0.06 * au[16] + 0.24 * au[26] + 0.06 * au[12] * au[25] + 0.02 * au[20] * au[25]
    thin = (1 - 0.6 * au[23]) * (1 - 0.3 * au[12]) * (1 - 0.3 * au[20])
    upper_lip = identity.lip_thickness * thin
    lower_lip = 1.25 * identity.lip_thickness * thin * (1 + 0.25 * au[17])

    def between_corners(height: float) -> Floats:
        """Curve from corner to corner whose middle lies at `height`."""
        control = (height - (left + right) / 8) / 0.75
        return _curve((-width, left), (-0.55 * width, control), (0.55 * width, control), (width, right))

    lip_edges = [between_corners(height) for height in (top - upper_lip, top, bottom, bottom + lower_lip)]
    upper, inner_upper, inner_lower, lower = lip_edges
    lips = skin * 0.62
    # Smiling, stretched or raised lips bare the teeth; a slack jaw hides most of them.
    bared = min(1.0, 0.35 + 0.65 * au[12] + 0.5 * au[20] + 0.5 * au[10])
    teeth = np.minimum(inner_upper + np.array([0, 0.09 * bared]), inner_lower)
    lower_teeth = np.maximum(inner_lower - (0, 0.05 * min(1.0, au[16] + 0.6 * au[20])), teeth)
    white = min(245, 150 + 0.4 * skin)
    shapes = []
    if identity.moustache:
        above = between_corners(top - upper_lip - 0.13)
        shapes.append(Shape(np.concatenate([upper, above[::-1]]), min(identity.hair, 0.6 * skin)))
    shapes += [
        Shape(np.concatenate([upper, lower[::-1]]), lips),
        Shape(np.concatenate([inner_upper, inner_lower[::-1]]), 0.12 * skin),
        Shape(np.concatenate([inner_upper, teeth[::-1]]), white),
        Shape(np.concatenate([lower_teeth, inner_lower[::-1]]), 0.9 * white),
        Shape(inner_upper, 0.25 * skin, 0.025),
        Shape(lower[2:-2] + np.array([0, 0.035]), 0.8 * skin, 0.03),
    ]
    # Tightened lips (23) fold upright above and below.
    if au[23] > 0.05:
        for across in (-0.12, 0.0, 0.12):
            line = np.array([(across, rest - 0.13), (across, rest - 0.06)])
            shapes.append(Shape(line, skin * (1 - 0.3 * au[23]), 0.02))
    # The mentalis (17) bunches the chin into an arch with dimples below it.
    if au[17] > 0.05:
        height = bottom + lower_lip + 0.09
        arch = _arch((0.17, height + 0.09), (0.12, height - 0.04))
        shapes.append(Shape(arch, skin * (1 - 0.5 * au[17]), 0.03))
        for across in (-0.07, 0.0, 0.07):
            shapes.append(Shape(_ellipse(across, height + 0.1, 0.02, 0.02), skin * (1 - 0.4 * au[17])))
    return shapes


def _hair(identity: Identity) -> list[Shape]:
    if identity.fringe < 0:
        return []
    edge = identity.width + 0.02
    line = -0.72 + 0.10 * identity.fringe
    part = identity.parting * 0.4
    left = _curve((-edge, -0.2), (-edge + 0.02, line), (part - 0.25, line + 0.02), (part, line - 0.12))
    right = _curve((part, line - 0.12), (part + 0.25, line + 0.02), (edge - 0.02, line), (edge, -0.2))
    top = -identity.height - 0.3
    crown = _curve((edge, -0.2), (edge + 0.1, top), (-edge - 0.1, top), (-edge, -0.2))
    return [Shape(np.concatenate([left, right, crown]), identity.hair, flat=True)]


def _occluder(identity: Identity, view: View) -> list[Shape]:
    shift = view.occluder_shift
    if view.occluder == "hand":
        across = 0.45 * shift
        skin = identity.skin
        fingers = [
            Shape(_ellipse(across + 0.13 * finger, 0.55, 0.075, 0.42), skin * (0.78 + 0.06 * (finger % 2)))
            for finger in range(-2, 2)
        ]
        return [*fingers, Shape(_ellipse(across, 1.0, 0.34, 0.3), 0.8 * skin)]
    if view.occluder == "scarf":
        top = 0.42 + 0.12 * shift
        cloth = np.array([(-1.0, top), (0.0, top - 0.1), (1.0, top), (1.1, 1.8), (-1.1, 1.8)])
        fold = _curve((-0.8, top + 0.15), (-0.3, top + 0.3), (0.3, top + 0.05), (0.8, top + 0.25))
        return [Shape(cloth, view.background, flat=True), Shape(fold, 0.7 * view.background, 0.04)]
    if view.occluder == "sunglasses":
        lenses = [Shape(_ellipse(side * identity.eye_gap, -0.12 + 0.02 * shift, 0.27, 0.19), 22.0) for side in (-1, 1)]
        return [*lenses, Shape(np.array([(-0.6, -0.2), (0.6, -0.2)]), 22.0, 0.05)]
    return []
