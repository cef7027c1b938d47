"""Every image of the index in one memory-mapped array, row i of the array being row i of the index."""

from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import CheckError, UsageError
from ..files import atomic
from ..params import ImageParams
from ..progress import track
from .index import Index, sample_id
from .reader import read_corpus


def pack(index: Index, corpus_dir: Path, path: Path, classes: list[str], image: ImageParams) -> None:
    """Decode, resize and write all images as uint8 (N, H, W, C).

    Raises
    ------
    CheckError
        If a file of the index is gone, or decodes to other pixels than when the index was made.
    """
    row_of = {name: row for row, name in enumerate(index.rows["path"])}
    identifiers = index.rows["sample_id"].to_numpy()
    filled = np.zeros(len(row_of), dtype=bool)
    with atomic(path) as temporary:
        shape = (len(row_of), image.size, image.size, image.channels)
        packed = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape)
        for _, record in track(read_corpus(corpus_dir, classes), "packing images"):
            row = row_of.get(record.path)
            if row is None:
                continue
            if sample_id(record.pixels) != identifiers[row]:
                raise CheckError(
                    "an image is not the one that was indexed",
                    where=f"{corpus_dir / record.path}, index row {row}",
                    expected=f"pixels of digest {identifiers[row][:12]}",
                    hint="run `dvc repro index`",
                )
            packed[row] = resize(record.pixels, image)
            filled[row] = True
        packed.flush()
        if not filled.all():
            row = int(np.flatnonzero(~filled)[0])
            raise CheckError(
                f"{int((~filled).sum())} images of the index are not in the corpus",
                where=f"{index.rows['path'][row]}, index row {row}",
                hint="run `dvc repro index`",
            )


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
    except ValueError as error:
        raise CheckError(
            f"not a whole array file: {error}", where=str(path), hint="run `dvc checkout --force`"
        ) from None
    if packed.dtype != np.uint8 or packed.ndim != 4 or len(packed) != len(index.rows):
        raise CheckError(
            f"images of shape {packed.shape}, {packed.dtype}",
            where=str(path),
            expected=f"uint8 ({len(index.rows)}, H, W, C), one row for each of the index",
            hint="run `dvc repro images`",
        )
    return packed
