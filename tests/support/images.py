"""Packed images of an index, without a corpus that they come from."""

import numpy as np

from ferdistill.data import packing


def pack(directory, index, pixels):
    """Write `pixels`, uint8 (N, H, W, C), as the packed images of an index."""
    packing.write(directory, index.rows["sample_id"].to_numpy(), pixels.shape[1:], lambda rows: iter(pixels[rows]))


def unpack(directory, rows):
    """All packed images, read without the code under test: of `rows`, a table with the index's `sample_id`."""
    found = {}
    for file in sorted(directory.glob("*.npy")):
        bits = file.stem.partition("-")[2]
        inside = sorted(name for name in rows["sample_id"] if f"{int(name, 16):0256b}".startswith(bits))
        found |= dict(zip(inside, np.load(file), strict=True))
    return np.stack([found[name] for name in rows["sample_id"]])
