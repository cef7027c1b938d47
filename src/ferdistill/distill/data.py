"""The images and labels of a split, as training and inference take them."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..data.images import Pixels
from ..data.index import Index


@dataclass(frozen=True)
class Split:
    """Images (N, H, W, C) uint8 of the whole index, the rows of one split, and its labels, int64 (n,)."""

    images: Pixels
    rows: np.ndarray
    labels: np.ndarray

    def pixels(self, positions: np.ndarray) -> Tensor:
        """The images at these places of the split, uint8 (B, C, H, W)."""
        return torch.from_numpy(self.images[self.rows[positions]]).permute(0, 3, 1, 2)


def trained_by(index: Index, images: Pixels, classes: list[str]) -> Split:
    """What a student that distils trains on: the train split, then images without a label, whose label is -1."""
    rows = index.trained()
    return Split(images, rows, index.codes(classes)[rows])


def splits_of(index: Index, images: Pixels, classes: list[str]) -> tuple[Split, Split, Split]:
    """The train, val and test splits of an index."""
    codes = index.codes(classes)
    train, val, test = (
        Split(images, index.positions(split), codes[index.positions(split)]) for split in ("train", "val", "test")
    )
    return train, val, test
