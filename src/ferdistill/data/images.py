"""The packed images of an index: one memory-mapped array, row i of the array being row i of the index."""

from pathlib import Path

import numpy as np

from ..errors import CheckError, UsageError
from .index import Index


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
