"""The input of training alone: images a second that one core makes ready for the step, beside torch's DataLoader.

All read the same packed shards, in a new order each epoch, and give normalised float32 batches, channels last:

- ours: `distill.batches.batches` and `as_input`, as the loop calls them: a batch is read, then augmented whole;
- DataLoader, tensors: a Dataset that reads an image from the same shards and augments it with torchvision's v2 on uint8
  tensors, collated;
- DataLoader, PIL: the same through Pillow, as most training scripts have it.

`flip_shift` mirrors, moves by up to a twelfth with edges repeated, and scales the brightness; `strong` has no like in
torchvision, and stands alone. Seconds are those of this process on the CPU, not the clock's: torch has one thread, and
there are no worker processes, so that others on the machine cost little. Images are random, and their shards in the
cache of the file system. They run in turn, an epoch each, and the first round does not count.

A GPU that trains MobileNetV3-Large in bfloat16 at 5,000 images a second needs 5,000 over the figure, in cores. On a
GPU ours augments there, and a core only reads: the row `read alone`.
"""

import tempfile
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from statistics import median
from time import process_time
from typing import Any

import measure
import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.transforms import v2

from ferdistill.data import images as packed_images
from ferdistill.data import packing
from ferdistill.data.images import Images
from ferdistill.data.index import Index
from ferdistill.distill.augment import reach
from ferdistill.distill.batches import batches
from ferdistill.distill.data import Split
from ferdistill.distill.imagenet import NORMALISATION
from ferdistill.distill.inference import as_input
from ferdistill.files import sha256
from ferdistill.params import Phase

EXAMPLES = """
  python benchmarks/input.py                                  224 pixels, 512 images, 7 rounds: two minutes
  python benchmarks/input.py --images 64 --side 48 --rounds 1    a second
  python benchmarks/input.py --side 112 --json out.json
"""
CPU = torch.device("cpu")


def make_shards(directory: Path, count: int, side: int) -> Images:
    """Random pictures in shards."""
    pictures = np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    ids = np.array([sha256(picture.tobytes()) for picture in pictures])
    packing.write(directory, ids, pictures.shape[1:], lambda rows: iter(pictures[rows]))
    return packed_images.load(directory, Index(pd.DataFrame({"sample_id": ids}), {}))


def ours(images: Images, batch: int, augment: str) -> Iterable[Tensor]:
    """An epoch of our batches."""
    split = Split(images, np.arange(len(images)), np.zeros(len(images), dtype=np.int64))
    phase = Phase.model_validate({"epochs": 1, "lr": 1, "augment": augment})
    generator, accelerator = torch.Generator().manual_seed(0), Accelerator(cpu=True)
    drawn = batches(split, batch, phase, 0, views=None, soft=False, generator=generator, accelerator=accelerator)
    return (as_input(one.pixels, CPU) for one in drawn)


def read_alone(images: Images, batch: int) -> Iterable[Tensor]:
    """The same images, as they are."""
    order = np.random.default_rng(0).permutation(len(images))
    return (torch.from_numpy(images[rows]) for rows in np.array_split(order, -(-len(images) // batch)))


class OneByOne(Dataset[Tensor]):
    """Images of the shards, one by one, each through a transform of its array (H, W, C)."""

    def __init__(self, images: Images, transform: Callable[[np.ndarray], Tensor]) -> None:
        self.images, self.transform = images, transform

    def __getitem__(self, row: int) -> Tensor:
        return self.transform(self.images[row])

    def __len__(self) -> int:
        return len(self.images)


def loaded(make: Callable[[int, str], Callable[[np.ndarray], Tensor]], images: Images, batch: int, augment: str) -> Any:
    """An epoch of torch's DataLoader, without workers."""
    dataset = OneByOne(images, make(images.shape[1], augment))
    found = DataLoader(dataset, batch, shuffle=True, generator=torch.Generator().manual_seed(0))
    return (one.contiguous(memory_format=torch.channels_last) for one in found)


def on_tensors(side: int, augment: str) -> Callable[[np.ndarray], Tensor]:
    """Torchvision's v2 on uint8 tensors."""
    moved = [
        v2.RandomHorizontalFlip(),
        v2.RandomCrop(side, padding=reach(side), padding_mode="edge"),
        v2.ColorJitter(brightness=0.2),
    ]
    last = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(*NORMALISATION[3])]
    steps = v2.Compose([*(moved if augment == "flip_shift" else []), *last])
    return lambda pixels: steps(torch.from_numpy(pixels).permute(2, 0, 1))


def on_pillow(side: int, augment: str) -> Callable[[np.ndarray], Tensor]:
    """Torchvision on Pillow's images."""
    moved = [
        transforms.RandomHorizontalFlip(),
        transforms.RandomCrop(side, padding=reach(side), padding_mode="edge"),
        transforms.ColorJitter(brightness=0.2),
    ]
    last = [transforms.ToTensor(), transforms.Normalize(*NORMALISATION[3])]
    steps = transforms.Compose([*(moved if augment == "flip_shift" else []), *last])
    return lambda pixels: steps(Image.fromarray(pixels))


def seconds(epoch: Iterable[Tensor]) -> float:
    """Of this process on the CPU, until the epoch has passed."""
    start = process_time()
    for _ in epoch:
        pass
    return process_time() - start


def rows(images: Images, batch: int, rounds: int) -> list[dict[str, Any]]:
    """Ours beside each way of the DataLoader, for each augmentation; then what stands alone."""
    found = []
    peer = f"torch {measure.installed('torch')}, DataLoader, "
    for augment in ("none", "flip_shift"):
        ways: dict[str, Callable[[], Iterable[Tensor]]] = {
            "ours": partial(ours, images, batch, augment),
            "tensors": partial(loaded, on_tensors, images, batch, augment),
            "PIL": partial(loaded, on_pillow, images, batch, augment),
        }
        speeds = in_turn(ways, len(images), rounds)
        for way in ("tensors", "PIL"):
            ratios = [own / other for own, other in zip(speeds["ours"], speeds[way], strict=True)]
            figures = (median(speeds[one]) for one in ("ours", way))
            found.append(measure.row(f"{augment}, a core", *figures, "images/s", peer + way, ratios))
    alone = {"strong": partial(ours, images, batch, "strong"), "read alone": partial(read_alone, images, batch)}
    for name, speed in in_turn(alone, len(images), rounds).items():
        found.append(measure.row(f"{name}, a core", median(speed), None, "images/s", ""))
    return found


def in_turn(ways: Mapping[str, Callable[[], Iterable[Tensor]]], count: int, rounds: int) -> dict[str, list[float]]:
    """Images a second of each way in each round, after one that does not count."""
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(1 + rounds):
        for name, epoch in ways.items():
            speed = count / seconds(epoch())
            if number > 0:
                speeds[name].append(speed)
    return speeds


def main() -> None:
    """Run the ways in turn."""
    parser = measure.parser(__doc__, EXAMPLES)
    parser.add_argument("--images", type=int, default=512, help="images of an epoch (default 512)")
    parser.add_argument("--side", type=int, default=224, help="pixels of a side (default 224)")
    parser.add_argument("--batch", type=int, default=64, help="images of a batch (default 64)")
    parser.add_argument("--rounds", type=int, default=7, help="rounds that count, after one that does not (default 7)")
    arguments = parser.parse_args()
    if min(arguments.images, arguments.batch, arguments.rounds) < 1 or arguments.side < 16:
        parser.error("--images, --batch and --rounds: at least 1; --side: at least 16")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as directory:
        images = make_shards(Path(directory), arguments.images, arguments.side)
        found = rows(images, arguments.batch, arguments.rounds)
    device = f"{measure.cpu()}, one used, {arguments.side} pixels, RGB"
    packages = ("ferdistill", "torch", "torchvision", "pillow", "numpy")
    measure.finish(measure.result(found, *packages, device=device), arguments.json)


if __name__ == "__main__":
    main()
