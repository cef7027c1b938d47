"""Time and memory of finding duplicate images, beside imagededup's perceptual hash.

Two measurements: a directory of drawn faces with planted copies, from files to pairs; and the search alone, on made-up
hashes of growing number. Every figure is taken in a process of its own; the time without imports, the memory with.
"""

import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import measure
import numpy as np

EXAMPLES = """
  python benchmarks/index.py                              all of it, half an hour
  python benchmarks/index.py --rows 2000 --most 20000     scaled down
  python benchmarks/index.py --rows 20000 --json out.json
Without imagededup its column stays empty; `make bench` brings it.
"""
DISTANCE = 4
WORKERS = 2
CHUNK = 500
GROWTH = [5_000, 20_000, 50_000, 100_000, 200_000, 1_000_000, 5_000_000, 20_000_000]
PEER_VERSION = measure.installed("imagededup")
PEER = f"imagededup {PEER_VERSION or '(not installed)'}, PHash"
PEER_LIMIT = 20_000  # imagededup compares all pairs: 200,000 rows would take hours
COPIES = ["exact", "JPEG", "mirrored"]


def taken(function: Callable[..., tuple[Any, float]], *arguments: Any) -> tuple[Any, float, int]:
    """Result and seconds of a function that times itself, after its imports; peak MiB of its largest process."""
    # Not spawned: a spawned process would spawn its workers too, and imagededup's would each import torch again.
    (found, seconds), memory = measure.alone(function, *arguments, start="fork")
    return found, seconds, round(memory)


def draw(folder: Path, number: int) -> None:
    """Write face `number` as PNG; of each hundred the last three are copies of the first three, one of each kind."""
    from PIL import Image

    from ferdistill.faces.head import draw_expression, draw_identity, draw_view, grey, render

    kind = number % 100 - 97
    rng = np.random.default_rng((2013, number - 97 if kind >= 0 else number))
    identity, (_, units), view = draw_identity(rng), draw_expression(rng), draw_view(rng)
    picture = Image.fromarray(grey(render(identity, units, view, 48)))
    if kind == 2:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if kind == 1:
        picture.save(folder / f"{number:06d}.jpg", quality=75)
    else:
        picture.save(folder / f"{number:06d}.png")


def draw_all(folder: Path, rows: int) -> tuple[None, float]:
    """Write faces 0 to `rows` - 1."""
    start = perf_counter()
    with ProcessPoolExecutor(WORKERS) as pool:
        list(pool.map(partial(draw, folder), range(rows), chunksize=CHUNK))
    return None, perf_counter() - start


def decode(files: list[Path]) -> list[tuple[str, np.ndarray]]:
    """Digest and thumbnail of each image."""
    from PIL import Image

    from ferdistill.data.duplicates import thumbnail
    from ferdistill.data.index import sample_id

    pictures = (np.asarray(Image.open(file).convert("RGB")) for file in files)
    return [(sample_id(pixels), thumbnail(pixels)) for pixels in pictures]


def ours(folder: Path) -> tuple[set[tuple[str, str]], float]:
    """Pairs of file names: exact copies by digest, and of what is left the near and the mirrored ones."""
    import pandas as pd

    from ferdistill.data.duplicates import find
    from ferdistill.data.index import sample_id  # noqa: F401

    start = perf_counter()
    files = sorted(folder.iterdir())
    with ProcessPoolExecutor(WORKERS) as pool:
        parts = pool.map(decode, [files[first : first + CHUNK] for first in range(0, len(files), CHUNK)])
        digests, thumbnails = zip(*(face for part in parts for face in part), strict=True)
    first_of = pd.Series(range(len(files))).groupby(list(digests)).transform("first").to_numpy()
    pairs = [(int(first), copy) for copy, first in enumerate(first_of) if first != copy]
    distinct = np.unique(first_of)
    found = find(np.stack(thumbnails)[distinct], DISTANCE)
    pairs += zip(distinct[found["i"]], distinct[found["j"]], strict=True)
    return {(files[i].stem, files[j].stem) for i, j in pairs}, perf_counter() - start


def theirs(folder: Path) -> tuple[set[tuple[str, str]], float]:
    """Pairs of file names by imagededup, with its own defaults but for the distance and the progress bar."""
    from imagededup.methods import PHash

    start = perf_counter()
    method = PHash(verbose=False)
    found = method.find_duplicates(encoding_map=method.encode_images(folder), max_distance_threshold=DISTANCE)
    seconds = perf_counter() - start
    pairs = {(Path(a).stem, Path(b).stem) for a, others in found.items() for b in others}
    return {(a, b) for a, b in pairs if a < b}, seconds


def made_up_hashes(rows: int, clustered: bool) -> tuple[np.ndarray, np.ndarray]:
    """Hashes, and those of the mirror images: all bits even, or a hundred to a centre with an eighth of them turned."""
    rng = np.random.default_rng(rows)
    hashes = rng.integers(0, 2**64, rows, dtype=np.uint64)
    if clustered:
        turned = np.bitwise_and.reduce(rng.integers(0, 2**64, (3, rows), dtype=np.uint64))
        hashes = hashes[rng.integers(0, rows // 100, rows)] ^ turned
    return hashes, hashes ^ np.uint64(0x5555555555555555)


def our_search(rows: int, clustered: bool) -> tuple[int, float]:
    """Number of pairs within `DISTANCE`, not counting mirrored ones, which are searched for too."""
    from ferdistill.data.duplicates import near_pairs

    hashes, mirrored = made_up_hashes(rows, clustered)
    start = perf_counter()
    pairs = near_pairs(hashes, mirrored, DISTANCE)
    return int((~pairs["mirrored"]).sum()), perf_counter() - start


def their_search(rows: int, clustered: bool) -> tuple[int, float]:
    """Number of pairs within `DISTANCE`."""
    from imagededup.methods import PHash

    hashes, _ = made_up_hashes(rows, clustered)
    encodings = {f"{row}": f"{value:016x}" for row, value in enumerate(hashes)}
    start = perf_counter()
    found = PHash(verbose=False).find_duplicates(encoding_map=encodings, max_distance_threshold=DISTANCE)
    return sum(map(len, found.values())) // 2, perf_counter() - start


def whole(rows: int) -> list[dict[str, Any]]:
    """From a directory of `rows` images to pairs."""
    with tempfile.TemporaryDirectory() as name:
        taken(draw_all, Path(name), rows)
        found, seconds, memory = taken(ours, Path(name))
        their_found, their_seconds, their_memory = taken(theirs, Path(name)) if PEER_VERSION else (None, None, None)
    table = [
        measure.row(f"{rows:,} files to pairs: time", seconds, their_seconds, "s", PEER),
        measure.row(f"{rows:,} files to pairs: largest process", memory, their_memory, "MiB", PEER),
    ]
    planted = {
        kind: {(f"{number - 97:06d}", f"{number:06d}") for number in range(97 + offset, rows, 100)}
        for offset, kind in enumerate(COPIES)
    }
    for kind, pairs in planted.items():
        share = round(len(found & pairs) / len(pairs), 4)
        their_share = round(len(their_found & pairs) / len(pairs), 4) if PEER_VERSION else None
        table.append(measure.row(f"{kind} copies found", share, their_share, "share", PEER))
    every = set.union(*planted.values())
    theirs_more = len(their_found - every) if PEER_VERSION else None
    table.append(measure.row("pairs not planted", len(found - every), theirs_more, "pairs", PEER))
    return table


def growth(most: int) -> list[dict[str, Any]]:
    """The search alone, on up to `most` hashes; imagededup does not look for mirrored copies, ours does."""
    table = []
    for kind, clustered in (("uniform", False), ("clustered", True)):
        for rows in [rows for rows in GROWTH if rows <= most]:
            pairs, seconds, memory = taken(our_search, rows, clustered)
            their_pairs = their_seconds = their_memory = None
            if PEER_VERSION and clustered and rows <= PEER_LIMIT:
                their_pairs, their_seconds, their_memory = taken(their_search, rows, clustered)
            name, size = f"search, {kind} hashes", {"hashes": rows}
            table.append(measure.row(f"{name}: time", seconds, their_seconds, "s", PEER, size=size))
            table.append(measure.row(f"{name}: largest process", memory, their_memory, "MiB", PEER, size=size))
            table.append(measure.row(f"{name}: straight pairs", pairs, their_pairs, "pairs", PEER, size=size))
    return table


def main() -> None:
    """Measure both parts."""
    parser = measure.parser(__doc__, EXAMPLES)
    parser.add_argument("--rows", type=int, default=20_000, help="images to draw, at least 100 (default: 20000)")
    parser.add_argument("--most", type=int, default=GROWTH[-1], help="most hashes to search (default: 20000000)")
    arguments = parser.parse_args()
    if arguments.rows < 100:
        parser.error("--rows: at least 100, so that there is a copy of each kind")
    rows = whole(arguments.rows) + growth(arguments.most)
    measure.finish(measure.result(rows, "ferdistill", "numpy", "pillow", "pandas", "imagededup"), arguments.json)


if __name__ == "__main__":
    main()
