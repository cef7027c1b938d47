"""Decode every image of the index into one array, row i of the array being row i of the index."""

from functools import partial
from pathlib import Path

import numpy as np

from ..errors import CheckError
from ..files import atomic, reserve
from ..image_files import resize
from ..params import ImageParams
from .index import Index, sample_id
from .reader import map_images, records_by_path


def pack(index: Index, corpus_dir: Path, path: Path, classes: list[str], image: ImageParams) -> None:
    """Decode, resize and write all images as uint8 (N, H, W, C).

    Raises
    ------
    CheckError
        If a file of the index is gone, or decodes to other pixels than when the index was made.
    """
    listed = records_by_path(corpus_dir, classes)
    lost = [name for name in index.rows["path"] if name not in listed]
    if lost:
        raise CheckError(
            f"{len(lost)} images of the index are not in the corpus", where=lost[0], hint="run `dvc repro index`"
        )
    records = [listed[name] for name in index.rows["path"]]
    look = partial(_digest_and_resize, image=image)
    with atomic(path) as temporary:
        shape = (len(index.rows), image.size, image.size, image.channels)
        packed = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape)
        reserve(temporary)
        looks = map_images(look, corpus_dir, records, "packing images")
        for row, (seen, expected) in enumerate(zip(looks, index.rows["sample_id"], strict=True)):
            if isinstance(seen, CheckError):
                raise seen
            digest, packed[row] = seen
            if digest != expected:
                raise CheckError(
                    "an image is not the one that was indexed",
                    where=f"{corpus_dir / index.rows['path'][row]}, index row {row}",
                    expected=f"pixels of digest {expected[:12]}",
                    hint="run `dvc repro index`",
                )
        packed.flush()


def _digest_and_resize(pixels: np.ndarray, image: ImageParams) -> tuple[str, np.ndarray]:
    return sample_id(pixels), resize(pixels, image.size, image.channels)
