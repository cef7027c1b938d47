"""Every image of the index in one memory-mapped array, row i of the array being row i of the index."""

from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import CheckError, UsageError
from ..files import atomic, reserve
from ..params import ImageParams
from .index import Index, sample_id
from .reader import map_faces, records_by_path
from .sources import Record


def pack(index: Index, corpus_dir: Path, path: Path, classes: list[str], image: ImageParams) -> None:
    """Decode, resize and write all images as uint8 (N, H, W, C).

    Raises
    ------
    CheckError
        If a file of the index is gone, or decodes to other pixels than when the index was made.
    """
    with atomic(path) as temporary:
        shape = (len(index.rows), image.size, image.size, image.channels)
        packed = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape)
        reserve(temporary)
        look = partial(_digest_and_resize, image=image)
        faces = map_faces(look, corpus_dir, records_of(index, corpus_dir, classes), "packing images")
        for row, (face, expected) in enumerate(zip(faces, index.rows["sample_id"], strict=True)):
            if isinstance(face, CheckError):
                raise face
            digest, packed[row] = face
            if digest != expected:
                raise CheckError(
                    "an image is not the one that was indexed",
                    where=f"{corpus_dir / index.rows['path'][row]}, index row {row}",
                    expected=f"pixels of digest {expected[:12]}",
                    hint="run `dvc repro index`",
                )
        packed.flush()


def records_of(index: Index, corpus_dir: Path, classes: list[str]) -> list[Record]:
    """What the corpus lists for each row of the index, in the order of the index.

    Raises
    ------
    CheckError
        If the corpus no longer lists a row.
    """
    listed = records_by_path(corpus_dir, classes)
    lost = [path for path in index.rows["path"] if path not in listed]
    if lost:
        raise CheckError(
            f"{len(lost)} images of the index are not in the corpus", where=lost[0], hint="run `dvc repro index`"
        )
    return [listed[path] for path in index.rows["path"]]


def _digest_and_resize(pixels: np.ndarray, image: ImageParams) -> tuple[str, np.ndarray]:
    return sample_id(pixels), resize(pixels, image)


def resize(pixels: np.ndarray, image: ImageParams) -> np.ndarray:
    """RGB uint8 (H, W, 3) to (size, size, channels): antialiased bilinear, grey by ITU-R 601."""
    picture = Image.fromarray(pixels).convert("L" if image.channels == 1 else "RGB")
    if picture.size != (image.size, image.size):
        picture = picture.resize((image.size, image.size), Image.Resampling.BILINEAR)
    return np.asarray(picture).reshape(image.size, image.size, image.channels)


def load(path: Path, index: Index) -> np.ndarray:
    """The packed images as a read-only memory map, (N, H, W, C).

    Raises
    ------
    UsageError, CheckError
        If the file is missing, or has not one row for each row of the index.
    """
    try:
        packed: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise UsageError("the packed images are missing", where=str(path), hint="run `dvc repro images`") from None
    except Exception as error:  # the header of a hostile file may raise anything
        raise CheckError(
            f"not a whole array file: {error}", where=str(path), hint="run `dvc checkout --force`"
        ) from None
    if not isinstance(packed, np.ndarray):
        raise CheckError("an archive where one array belongs", where=str(path), hint="run `dvc repro images`")
    if packed.dtype != np.uint8 or packed.ndim != 4 or len(packed) != len(index.rows):
        raise CheckError(
            f"images of shape {packed.shape}, {packed.dtype}",
            where=str(path),
            expected=f"uint8 ({len(index.rows)}, H, W, C), one row for each of the index",
            hint="run `dvc repro images`",
        )
    return packed
