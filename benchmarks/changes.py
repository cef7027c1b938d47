"""What a change of the data costs: index and images of a corpus of JPEGs, built at first and after each change.

Beside ours stands the same without what is remembered, into one array: every image is decoded for the index and once
more for the array. Both have the same number of processes. That is what it costs anew after each change too, so it is
measured once. DVC then takes the shards and pushes them to a remote: its own time, and what its cache and the remote
grow by. Then the images of random batches, and training on them, from shards and from that array. Times are seconds of
all processes' CPU time.
"""

import resource
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from time import process_time
from typing import Any

import measure
import numpy as np

EXAMPLES = """
  python benchmarks/changes.py                            20,000 JPEGs of 224 px: half an hour, 15 GB of disk
  python benchmarks/changes.py --rows 300000 --side 64    the other way to be large: an hour, 20 GB
  python benchmarks/changes.py --rows 2000 --side 64      scaled down
"""
CLASSES = ["a", "b", "c"]
PEER = "anew, one array"
FEW = 10  # images that a change adds, removes or relabels
BATCH, BATCHES = 128, 60
TRAINED, STEPS = 32, 12  # images of a step of training, and steps of a round


def draw(folder: Path, side: int, number: int) -> None:
    """A JPEG of smooth colours and noise, of which no two are copies."""
    from PIL import Image

    rng = np.random.default_rng(number)
    smooth = Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8)).resize((side, side), Image.Resampling.BICUBIC)
    noisy = np.asarray(smooth) // 2 + rng.integers(0, 32, (side, side, 3), np.uint8)
    Image.fromarray(noisy).save(folder / CLASSES[number % 3] / f"{number}.jpg", quality=90)


def describe(corpus: Path, source: str) -> None:
    """Write corpus.yaml."""
    (corpus / "corpus.yaml").write_text(f"sources: [{{name: {source}, adapter: folders, path: images}}]\n")


def settings() -> Any:
    """How the index is made."""
    from ferdistill.params import IndexParams

    near = {"distance": 4, "correlation": 0.95}
    shares = {"seed": 1, "val": 0.1, "calib": 0.1, "test": 0.2}
    return IndexParams(near=near, mirrored=True, conflicts="drop", unreadable="strict", **shares)  # type: ignore[arg-type]


def cpu_seconds(function: Callable[[], Any]) -> tuple[Any, float]:
    """What a function returns, and the CPU time of this process and of those that it started."""

    def used() -> float:
        of = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(usage.ru_utime + usage.ru_stime for usage in of)

    start = used()
    return function(), used() - start


def ours(corpus: Path, folder: Path, side: int) -> tuple[int, float]:
    """Index and shards, with what is remembered below `folder`: number of shards written, and CPU seconds."""
    from ferdistill.data import index, packing
    from ferdistill.data.build import build, write_index
    from ferdistill.data.memo import memo
    from ferdistill.params import ImageParams

    def work() -> int:
        with memo(folder / "memo.sqlite") as answers:
            built = build(corpus, CLASSES, settings(), memo=answers)
            write_index(folder / "i.csv", built.rows, CLASSES, "x")
            read, image = index.read(folder / "i.csv"), ImageParams(size=side, channels=3)
            return packing.pack(read, corpus, folder / "images", CLASSES, image, answers)

    return cpu_seconds(work)


def theirs(corpus: Path, folder: Path, side: int) -> tuple[None, float]:
    """Index and one array, from the files alone."""
    from ferdistill.data import index
    from ferdistill.data.build import build, write_index
    from ferdistill.data.reader import map_images, records_by_path

    def work() -> None:
        built = build(corpus, CLASSES, settings())
        write_index(folder / "i.csv", built.rows, CLASSES, "x")
        read, listed = index.read(folder / "i.csv"), records_by_path(corpus, CLASSES)
        records = [listed[path] for path in read.rows["path"]]
        shape = (len(records), side, side, 3)
        array = np.lib.format.open_memmap(folder / "images.npy", mode="w+", dtype=np.uint8, shape=shape)
        for row, pixels in enumerate(map_images(partial(small, side), corpus, records, "packing images")):
            array[row] = pixels
        array.flush()

    return cpu_seconds(work)


def small(side: int, pixels: np.ndarray) -> np.ndarray:
    """As packed."""
    from ferdistill.image_files import resize

    return resize(pixels, side, 3)


def read_batches(folder: Path, one_array: bool) -> float:
    """Images a second of CPU time, of random batches, each copied into memory."""
    from ferdistill.data import images, index

    read = index.read(folder / "i.csv")
    packed = np.load(folder / "images.npy", mmap_mode="r") if one_array else images.load(folder / "images", read)
    rng = np.random.default_rng(0)
    batches = [rng.permutation(len(read.rows))[:BATCH] for _ in range(BATCHES)]
    start, seen = process_time(), 0
    for rows in batches:
        seen += len(packed[rows])
    return seen / (process_time() - start)


def train(folder: Path, one_array: bool) -> float:
    """Images a second of CPU time, of training a small network on random batches."""
    import timm
    import torch
    import torch.nn.functional as F

    from ferdistill.data import images, index
    from ferdistill.distill.data import Split
    from ferdistill.distill.inference import as_input

    torch.set_num_threads(1)
    read = index.read(folder / "i.csv")
    packed = np.load(folder / "images.npy", mmap_mode="r") if one_array else images.load(folder / "images", read)
    split = Split(packed, np.arange(len(packed)), read.codes(CLASSES))
    network = timm.create_model("mobilenetv3_small_050", num_classes=len(CLASSES)).train()
    optimiser = torch.optim.AdamW(network.parameters())
    rng = np.random.default_rng(0)
    seen, start = 0, 0.0
    for step in range(STEPS + 2):
        if step == 2:
            seen, start = 0, process_time()
        rows = rng.integers(0, len(packed), TRAINED)
        logits = network(as_input(split.pixels(rows), torch.device("cpu")))
        F.cross_entropy(logits, torch.from_numpy(split.labels[rows])).backward()
        optimiser.step()
        optimiser.zero_grad()
        seen += len(rows)
    return seen / (process_time() - start)


def kept(folder: Path) -> tuple[int, int]:
    """Bytes in DVC's cache and in its remote."""
    return tuple(  # type: ignore[return-value]
        sum(file.stat().st_size for file in place.rglob("*") if file.is_file())
        for place in (folder / ".dvc/cache", folder.parent / "remote")
    )


def with_dvc(folder: Path) -> None:
    """The shards into DVC's cache, and to its remote."""
    if not (folder / ".dvc").exists():
        for command in (["init", "-q", "--no-scm"], ["remote", "add", "-q", "-d", "r", str(folder.parent / "remote")]):
            subprocess.run(["dvc", *command], cwd=folder, check=True)
    for command in (["add", "-q", "images"], ["push", "-q"]):
        subprocess.run(["dvc", *command], cwd=folder, check=True)


def size(folder: Path) -> dict[str, tuple[int, int]]:
    """Of each shard its size and the time it was written."""
    found = {file.name: file.stat() for file in (folder / "images").glob("*.npy")}
    return {name: (stat.st_size, stat.st_mtime_ns) for name, stat in found.items()}


def changed(name: str, corpus: Path, folder: Path, side: int, anew: tuple[float, float]) -> list[dict[str, Any]]:
    """The rows of one change that was made; `anew` has the seconds and the MiB of the other way."""
    before, kept_before = size(folder), kept(folder)
    (shards, seconds), memory = measure.alone(ours, corpus, folder, side)
    _, dvc_seconds = cpu_seconds(partial(with_dvc, folder))
    cache, remote = (now - then for now, then in zip(kept(folder), kept_before, strict=True))
    their_seconds, their_memory = anew
    after = size(folder)
    written = sum(bytes_ for file, (bytes_, time) in after.items() if before.get(file) != (bytes_, time))
    whole = sum(bytes_ for bytes_, _ in after.values())
    return [
        measure.row(f"{name}: CPU time", seconds, their_seconds, "s", PEER),
        measure.row(f"{name}: largest process", round(memory), round(their_memory), "MiB", PEER),
        measure.row(f"{name}: shards written, of {len(after)}", shards, None, "shards", ""),
        measure.row(f"{name}: bytes written", written / 2**20, whole / 2**20, "MiB", PEER),
        measure.row(f"{name}: DVC's own CPU time", dvc_seconds, None, "s", ""),
        measure.row(f"{name}: added to DVC's cache", cache / 2**20, whole / 2**20, "MiB", PEER),
        measure.row(f"{name}: sent to the remote", remote / 2**20, whole / 2**20, "MiB", PEER),
    ]


def relabel(folder: Path, number: int) -> None:
    """Move an image to the folder of another class."""
    (file,) = folder.glob(f"*/{number}.jpg")
    other = CLASSES[(CLASSES.index(file.parent.name) + 1) % 3]
    file.rename(folder / other / file.name)


def all_rows(rows: int, side: int, root: Path) -> list[dict[str, Any]]:
    """The first build, four changes, random reading, and a build at once beside what the changes left."""
    corpus, folder, anew = root / "corpus", root / "ours", root / "theirs"
    pictures = corpus / "images"
    for made in (folder, anew, *(pictures / name for name in CLASSES)):
        made.mkdir(parents=True)
    with ProcessPoolExecutor() as pool:
        list(pool.map(partial(draw, pictures, side), range(rows), chunksize=100))
    describe(corpus, "first")
    (_, seconds), memory = measure.alone(theirs, corpus, anew, side)
    other = (seconds, memory)
    table = changed("first build", corpus, folder, side, other)

    for number in range(rows, rows + FEW):
        draw(pictures, side, number)
    table += changed(f"{FEW} images added", corpus, folder, side, other)
    for number in range(FEW):
        (pictures / CLASSES[number % 3] / f"{number}.jpg").unlink()
    table += changed(f"{FEW} images removed", corpus, folder, side, other)
    for number in range(FEW, 2 * FEW):
        relabel(pictures, number)
    table += changed(f"{FEW} images relabelled", corpus, folder, side, other)
    describe(corpus, "second")
    table += changed("a source renamed", corpus, folder, side, other)

    work: dict[str, Callable[[Path, bool], float]] = {f"random batches of {BATCH}": read_batches, "training": train}
    for name, function in work.items():
        speeds = [(measure.alone(function, folder, False)[0], measure.alone(function, anew, True)[0]) for _ in range(5)]
        ratios = [shards / array for shards, array in speeds]
        shards, array = (float(np.median(side)) for side in zip(*speeds, strict=True))
        table.append(measure.row(name, shards, array, "images/s", "one array", ratios))

    shutil.copytree(folder / "images", root / "grown")
    shutil.rmtree(folder)
    folder.mkdir()
    measure.alone(ours, corpus, folder, side)
    same = all(
        (folder / "images" / file.name).read_bytes() == file.read_bytes() for file in (root / "grown").iterdir()
    ) and len(list((root / "grown").iterdir())) == len(list((folder / "images").iterdir()))
    table.append(measure.row("shards equal to those of a build at once", float(same), None, "share", ""))
    return table


def main() -> None:
    """Measure in a folder that is removed afterwards."""
    parser = measure.parser(__doc__, EXAMPLES)
    parser.add_argument("--rows", type=int, default=20_000, help="images (default: 20000)")
    parser.add_argument("--side", type=int, default=224, help="pixels (default: 224)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        rows = all_rows(arguments.rows, arguments.side, Path(root))
    packages = ("ferdistill", "numpy", "pillow", "pandas")
    measure.finish(measure.result(rows, *packages), arguments.json)


if __name__ == "__main__":
    main()
