"""Picture files, and pictures as the classifier takes them: resized as the training images were. Needs Pillow."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..errors import CheckError, UsageError, clipped
from ..files import walk
from ..image_files import read_image, resize
from .classifier import Classifier

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
SMALLEST = 8  # side in pixels; no class can be told from less


def find(sources: list[str]) -> list[Path]:
    """The picture files that files, directories (searched through) and glob patterns name, each in order.

    Raises UsageError if one of them names nothing, or a pattern would search the whole file system.
    """
    found: list[Path] = []
    for source in sources:
        path = Path(source)
        if not source:
            raise _no_picture(source)
        if path.is_file():
            files = [path]
        elif path.is_dir():
            names = (entry.path for entry in walk(path) if entry.name.lower().endswith(SUFFIXES) and entry.is_file())
            files = sorted(map(Path, names))
        else:
            anchor = Path(path.anchor)
            if path.anchor and path.parts[1:2] == ("**",):
                raise _no_picture(source)
            files = sorted(file for file in anchor.glob(str(path.relative_to(anchor))) if file.is_file())
        if not files:
            raise _no_picture(source)
        found += files
    return found


def _no_picture(source: str) -> UsageError:
    return UsageError(
        "no picture there",
        where=clipped(source) or "an empty name",
        expected=f"a file, a directory that holds {', '.join(SUFFIXES)}, or a glob pattern below a folder",
        hint="correct the path; quote a pattern, so that the shell leaves it alone",
    )


def read(path: Path) -> np.ndarray:
    """Decode a picture to upright RGB, uint8, (H, W, 3), by the code that decodes the training images.

    Sixteen-bit grey is scaled to eight; palettes are resolved; an alpha channel is dropped.

    Raises CheckError if it is not a whole picture, has more than 50 million pixels, or fewer than 8 a side.
    """
    file = path.resolve()
    try:
        pixels = read_image(file.parent, file.name)
    except CheckError as error:
        hint = "replace the file, or leave it out"
        raise CheckError(error.what, where=str(path), expected=error.expected, hint=hint) from None
    height, width = pixels.shape[:2]
    if min(height, width) < SMALLEST:
        raise CheckError(
            f"a picture of {width} x {height} pixels",
            where=str(path),
            expected=f"at least {SMALLEST} pixels a side",
            hint="give a larger picture",
        )
    return pixels


def classify(classifier: Classifier, pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Calibrated probabilities (N, K) of N pictures, RGB uint8 (H, W, 3), each resized as the training images were."""
    if not pictures:
        return np.zeros((0, len(classifier.classes)), np.float32)
    image = classifier.info["image"]
    return classifier.predict(np.stack([resize(pixels, image["size"], image["channels"]) for pixels in pictures]))
