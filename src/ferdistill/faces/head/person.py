"""People: what stays the same about somebody from one picture to the next."""

from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import mesh

Floats = NDArray[np.floating]

# Ellis Monk's ten tones (Monk Skin Tone Scale, skintone.google), sRGB.
MONK = np.array(
    [[246, 237, 228], [243, 231, 219], [247, 234, 208], [234, 218, 186], [215, 189, 150],
     [160, 126, 86], [130, 92, 67], [96, 65, 52], [58, 49, 42], [41, 36, 32]]
)  # fmt: skip
ANCESTRIES = ("african", "asian", "caucasian")  # as the mesh names them
HAIR_STYLES = ("bald", "buzz", "short", "swept", "fringe", "curly", "afro", "bob", "long", "tied")
HEADWEAR = ("", "beanie", "cap", "scarf", "hood", "band")
BEARDS = ("", "stubble", "moustache", "goatee", "short", "full")
GLASSES = ("", "round", "square", "rimless", "sunglasses")

# Ends of a shape's name that stand for the two ways that it can go.
_OPPOSITE = {
    "decr": "incr", "down": "up", "in": "out", "concave": "convex", "compress": "uncompress", "backward": "forward",
}  # fmt: skip


@dataclass(frozen=True)
class Identity:
    """A person. Colours are linear RGB, 0 to 1."""

    ancestry: tuple[float, float, float]  # share of each of ANCESTRIES
    sex: float  # of the mesh: 0 female, 1 male
    age: float  # years
    weight: float  # -1 thin, 0, 1 heavy
    shapes: tuple[float, ...]  # along each of `axes()`
    lean: tuple[float, ...]  # how much more of it the left side has
    tone: float  # on Monk's scale, 1 to 10
    warmth: float  # -1 to 1, of the skin
    redness: float  # 0 to 1
    freckles: float  # 0 to 1
    shine: float  # 0 to 1
    lines: float  # 0 to 1, at rest
    hair: tuple[float, float, float]
    style: str  # of HAIR_STYLES
    volume: float  # 0 to 1, of the hair
    parting: float  # -1 to 1
    hairline: float  # -1 low to 1 receded
    brow_height: float
    brow_arch: float
    brow_thickness: float  # about 1
    brow_slope: float
    brow_density: float  # 0 to 1
    iris: tuple[float, float, float]
    beard: str  # of BEARDS
    glasses: str  # of GLASSES
    lipstick: tuple[float, float, float] | None
    eye_shadow: float  # 0 to 1
    lids: float  # how far they hang at rest, 0 to 1
    mobility: float  # how far a unit moves this face, about 1
    seed: int  # of freckles, moles, strands of hair


@cache
def axes() -> tuple[tuple[str, tuple[tuple[int, int, float], ...]], ...]:
    """Ways in which heads differ: a name, and rows of the mesh's shapes as (row, sign, side).

    A positive amount goes along the rows of sign 1, a negative one along those of sign -1; side is 1 for a shape of the
    left half alone, -1 for one of the right, 0 else.
    """
    found: dict[str, list[tuple[int, int, float]]] = {}
    for name, row in mesh.head().local.items():
        side = {"l": 1, "r": -1}.get(name.split("-")[0], 0)
        stem, _, end = (name[2:] if side else name).rpartition("-")
        if end in ("l", "r"):  # what is not alike on both sides
            found.setdefault(stem, []).append((row, 1 if end == "l" else -1, 0))
        elif end in _OPPOSITE:
            found.setdefault(f"{stem}-{_OPPOSITE[end]}", []).append((row, -1, side))
        elif end in _OPPOSITE.values():
            found.setdefault(f"{stem}-{end}", []).append((row, 1, side))
        else:
            found.setdefault(name, []).append((row, 1, side))
    return tuple((name, tuple(rows)) for name, rows in sorted(found.items()))


@lru_cache(maxsize=64)
def neutral(identity: Identity) -> Floats:
    """The head of a person at rest, (n, 3), between whose eyes is the origin and the distance 1."""
    head = mesh.head()
    amounts = np.zeros(head.shapes.shape[0], np.float32)
    for race, share in zip(ANCESTRIES, identity.ancestry, strict=True):
        for sex, part in (("female", 1 - identity.sex), ("male", identity.sex)):
            for age, much in _ages(identity.age).items():
                amounts[head.macro[f"{race}-{sex}-{age}"]] += share * part * much
    heavy, thin = max(identity.weight, 0.0), max(-identity.weight, 0.0)
    for sex, part in (("female", 1 - identity.sex), ("male", identity.sex)):
        for age, much in _ages(identity.age).items():
            for weight, share in (("min", thin), ("average", 1 - heavy - thin), ("max", heavy)):
                amounts[head.macro[f"universal-{sex}-{age}-averagemuscle-{weight}weight"]] += part * much * share
    for (_, rows), amount, lean in zip(axes(), identity.shapes, identity.lean, strict=True):
        for row, sign, side in rows:
            amounts[row] = max(0.0, sign * (amount + side * lean))
    points = head.rest + (head.shapes.T @ amounts).reshape(-1, 3)
    middle, scale = mesh.frame(points, head.material)
    return ((points - middle) / scale).astype(np.float32)


def _ages(years: float) -> dict[str, float]:
    """Shares of the mesh's child of 12, adult of 25 and elder of 90."""
    old = float(np.clip((years - 25) / 65, 0, 1))
    child = float(np.clip((25 - years) / 13, 0, 1))
    return {"child": child, "young": 1 - child - old, "old": old}


def linear(srgb: ArrayLike) -> NDArray[np.float64]:
    """Linear light of sRGB values, 0 to 255 to 0 to 1."""
    value = np.asarray(srgb, dtype=np.float64) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


# Hair as it grows, sRGB: black to blond, red; grey comes with age.
_HAIR = linear([[18, 15, 14], [38, 27, 21], [66, 45, 32], [98, 68, 44], [150, 112, 70], [205, 172, 120], [128, 62, 34]])
_HAIR_ODDS = {
    "african": [0.75, 0.22, 0.03, 0, 0, 0, 0],
    "asian": [0.65, 0.27, 0.06, 0.02, 0, 0, 0],
    "caucasian": [0.10, 0.22, 0.24, 0.18, 0.12, 0.09, 0.05],
}
_IRIS = linear([[48, 30, 20], [78, 50, 30], [104, 82, 48], [96, 112, 84], [96, 130, 160], [128, 140, 148]])
_IRIS_ODDS = {
    "african": [0.85, 0.15, 0, 0, 0, 0],
    "asian": [0.75, 0.23, 0.02, 0, 0, 0],
    "caucasian": [0.18, 0.26, 0.16, 0.11, 0.2, 0.09],
}
_TONE = {"african": (7.4, 1.2), "asian": (4.0, 1.1), "caucasian": (2.8, 1.3)}  # mean and deviation, Monk's scale

# Deviations of the amounts along `axes`; those that would look like an expression stay small.
_SPREAD = {
    "mouth-angles": 0.08, "mouth-laugh": 0.15, "mouth-lowerlip-middle": 0.1, "mouth-upperlip-middle": 0.1,
    "mouth-lowerlip-ext": 0.1, "mouth-upperlip-ext": 0.1, "mouth-scale": 0.17, "mouth-trans": 0.15, "mouth": 0.16,
    "eyebrows": 0.12, "eye-height": 0.14, "eye-corner": 0.17, "eye-push": 0.1, "eye-trans": 0.17, "eye-scale": 0.2,
    "eye-bag": 0.25, "eye-": 0.18, "nose": 0.19, "head-fat": 0.22, "head-scale": 0.22, "head-age": 0.12,
    "head-back": 0.2, "head": 0.0, "chin-triangle": 0.0, "chin": 0.2, "cheek": 0.22, "ear": 0.3, "forehead": 0.2,
    "asym": 0.1,
}  # fmt: skip


def draw_identity(rng: np.random.Generator) -> Identity:
    """Draw a person."""
    ancestry = rng.dirichlet([0.35] * 3)
    sex = float(np.clip(rng.choice([0.12, 0.88]) + rng.normal(0, 0.1), 0, 1))
    man = sex > 0.5
    age = float(rng.choice([rng.uniform(12, 18), rng.uniform(18, 45), rng.uniform(45, 85)], p=[0.1, 0.62, 0.28]))
    spread = _spreads()
    shapes = np.clip(rng.normal(0, spread), -0.9, 0.9)
    outline = rng.choice([at for at, (name, rows) in enumerate(axes()) if len(rows) == 1])
    shapes[outline] = rng.uniform(0, 0.5)
    lean = np.clip(rng.normal(0, 0.25 * spread), -0.2, 0.2)
    mean, deviation = np.array([_TONE[race] for race in ANCESTRIES]).T
    tone = float(np.clip(ancestry @ mean + rng.normal(0, 1) * (ancestry @ deviation), 1, 10))
    kind = str(rng.choice(ANCESTRIES, p=ancestry))
    hair = _HAIR[rng.choice(len(_HAIR), p=_HAIR_ODDS[kind])] * np.exp(rng.normal(0, 0.2))
    grey = np.clip((age - rng.uniform(35, 75)) / 20, 0, 1)
    hair = hair + (linear([175, 172, 168]) * rng.uniform(0.6, 1.1) - hair) * grey
    if rng.random() < 0.02:
        hair = linear(rng.integers(40, 150, 3).tolist())  # dyed
    style = _draw_style(rng, man, age, kind)
    beard = str(rng.choice(BEARDS, p=[0.5, 0.22, 0.06, 0.06, 0.11, 0.05])) if man and age > 18 else ""
    lipstick = None
    if not man and age > 15 and rng.random() < 0.35:
        lipstick = tuple(linear([rng.integers(110, 205), rng.integers(20, 80), rng.integers(35, 95)]).tolist())
    return Identity(
        ancestry=tuple(ancestry.tolist()),
        sex=sex,
        age=age,
        weight=float(np.clip(rng.normal(0.05, 0.4), -0.9, 0.9)),
        shapes=tuple(shapes.tolist()),
        lean=tuple(lean.tolist()),
        tone=tone,
        warmth=rng.uniform(-1, 1),
        redness=rng.uniform(0, 1),
        freckles=rng.uniform(0.2, 1) if kind == "caucasian" and rng.random() < 0.15 else 0.0,
        shine=rng.uniform(0, 1),
        lines=float(np.clip((age - 30) / 50 + rng.normal(0, 0.12), 0, 1)),
        hair=tuple(np.clip(hair, 0.004, 0.8).tolist()),
        style=style,
        volume=rng.uniform(0, 1),
        parting=rng.uniform(-1, 1),
        hairline=float(np.clip(rng.normal(0, 0.35) + man * np.clip((age - 30) / 60, 0, 0.7), -1, 1)),
        brow_height=rng.normal(0, 0.04),
        brow_arch=rng.normal(0, 0.03),
        brow_thickness=float(np.clip(rng.normal(1.2 if man else 0.95, 0.2), 0.5, 1.7)),
        brow_slope=rng.normal(0, 0.03),
        brow_density=rng.uniform(0.7, 1.0),
        iris=tuple(_IRIS[rng.choice(len(_IRIS), p=_IRIS_ODDS[kind])].tolist()),
        beard=beard,
        glasses=str(rng.choice(GLASSES, p=[0.83, 0.06, 0.07, 0.03, 0.01])),
        lipstick=lipstick,
        eye_shadow=rng.uniform(0.3, 1) if not man and age > 15 and rng.random() < 0.25 else 0.0,
        lids=float(np.clip(rng.normal(0.14, 0.06), 0.0, 0.3)),
        mobility=rng.uniform(0.85, 1.15),
        seed=int(rng.integers(2**62)),
    )


@cache
def _spreads() -> Floats:
    """The deviation along each of `axes()`."""
    return np.array([next(wide for name, wide in _SPREAD.items() if axis.startswith(name)) for axis, _ in axes()])


def _draw_style(rng: np.random.Generator, man: bool, age: float, kind: str) -> str:
    if man:
        odds = [0.04 + 0.16 * (age > 40), 0.2, 0.3, 0.2, 0.08, 0.07, 0.02, 0.0, 0.03, 0.02]
    else:
        odds = [0.005, 0.01, 0.06, 0.05, 0.1, 0.12, 0.02, 0.16, 0.33, 0.18]
    weights = np.array(odds)
    if kind == "african":
        weights[[5, 6]] *= 4
    return str(rng.choice(HAIR_STYLES, p=weights / weights.sum()))
