"""The head as vertices: of one person, wearing one expression.

Lengths are in distances between the pupils of the mean head, x to the subject's left, y up, z to the front, from the
middle between the eyes.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from ... import tensor_files

Floats = NDArray[np.floating]

FILE = Path(__file__).with_name("mesh.safetensors")
SKIN, LEFT_EYE, RIGHT_EYE, TEETH, TONGUE, LASHES, HAND = range(7)
STEP = 0.001  # of the file's displacements
CENTRE = np.array([0.0, 0.156, -1.097], np.float32)  # of the skull, from where the shell's rays start
AZIMUTHS = np.arange(0, 360, 6)  # of them, in degrees, the front being 0 and the subject's left 90
ELEVATIONS = np.arange(90, -49, -6)


@dataclass(frozen=True)
class Head:
    """The mean head, and how shapes and face units move it."""

    rest: Floats  # (n, 3)
    triangles: NDArray[np.int64]  # (t, 3)
    material: NDArray[np.uint8]  # (n,)
    masks: dict[str, Floats]  # (n,) each, 0 to 1
    macro: dict[str, int]  # row in `shapes` of each
    local: dict[str, int]
    shapes: sparse.csr_array  # (s, 3 n)
    units: dict[str, int]
    moves: sparse.csr_array  # (u, 3 n)
    shell: tuple[NDArray[np.int64], Floats]  # (60, 24, 3) corners and weights of the points that rays from CENTRE meet


@cache
def head() -> Head:
    """Read the head's file, once."""
    content = tensor_files.read(FILE)
    vertices, material = content["vertices"], content["material"]
    middle, scale = frame(vertices, material)
    names, kinds = {}, []
    for kind in ("macro", "local", "units"):
        listed = content[f"{kind}.names"].tobytes().decode().split("\n")
        starts, places = content[f"{kind}.starts"].astype(np.int64), content[f"{kind}.places"].astype(np.int64)
        columns = (places[:, None] * 3 + np.arange(3)).ravel()
        values = (content[f"{kind}.moves"].ravel() * STEP / scale).astype(np.float32)
        kinds.append(sparse.csr_array((values, columns, starts * 3), shape=(len(listed), vertices.size)))
        names[kind] = listed
    triangles = content["triangles"].astype(np.int64)
    return Head(
        rest=((vertices - middle) / scale).astype(np.float32),
        triangles=triangles,
        material=material,
        masks=dict(zip(("lips", "lids", "mouth", "face"), content["masks"].astype(np.float32) / 255, strict=True)),
        macro={name: row for row, name in enumerate(names["macro"])},
        local={name: len(names["macro"]) + row for row, name in enumerate(names["local"])},
        shapes=sparse.csr_array(sparse.vstack(kinds[:2])),
        units={name: row for row, name in enumerate(names["units"])},
        moves=kinds[2],
        shell=(content["shell.corners"].astype(np.int64), content["shell.weights"]),
    )


def frame(vertices: Floats, material: NDArray[np.uint8]) -> tuple[Floats, np.float32]:
    """The middle between the eyes, (3,), and the distance between their middles."""
    left, right = (vertices[material == eye].mean(axis=0) for eye in (LEFT_EYE, RIGHT_EYE))
    return (left + right) / 2, np.float32(np.linalg.norm(left - right))


def surface(points: Floats) -> Floats:
    """Where the shell's rays leave a head whose vertices are `points`, (60, 24, 3)."""
    corners, weights = head().shell
    return (points[corners] * weights[..., None]).sum(axis=2)


@cache
def part(*materials: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The vertices of some materials, and their triangles, counted among these."""
    mesh = head()
    chosen = np.flatnonzero(np.isin(mesh.material, materials))
    number = np.full(len(mesh.material), -1)
    number[chosen] = np.arange(len(chosen))
    triangles = number[mesh.triangles]
    return chosen, triangles[(triangles >= 0).all(axis=1)]


def normals(points: Floats, triangles: NDArray[np.int64]) -> Floats:
    """Directions out of a surface at its vertices, (n, 3), of length 1."""
    corners = np.ascontiguousarray(triangles.T)
    across, up, near = np.ascontiguousarray(points.T)
    p, q = ([axis[corners[end]] - axis[corners[0]] for axis in (across, up, near)] for end in (1, 2))
    flat = (p[1] * q[2] - p[2] * q[1], p[2] * q[0] - p[0] * q[2], p[0] * q[1] - p[1] * q[0])
    sums = [np.bincount(corners.ravel(), np.tile(axis, 3), len(points)) for axis in flat]
    found = np.stack(sums, axis=1, dtype=np.float32, casting="same_kind")
    return found / np.maximum(np.sqrt((found * found).sum(axis=1, keepdims=True)), 1e-12)
