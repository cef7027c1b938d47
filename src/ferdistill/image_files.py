"""Image files, which come from other people: decoded whole and upright, or refused with a reason."""

import io
import mmap
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from .errors import CheckError
from .files import UNWRITABLE

MAX_PIXELS = 50_000_000  # a larger picture is a mistake or a decompression bomb
MAX_METADATA = 16 << 20  # bytes of EXIF, profiles and the like: Pillow takes time by their square in a JPEG
MAX_SCANS = 50  # of a JPEG, each decoded over the whole picture; encoders write 14 at most
FORMATS = ("BMP", "JPEG", "PNG", "TIFF", "WEBP")
# All but those without a length. Within a scan's data no such pair of bytes stands.
JPEG_MARKER = re.compile(rb"\xff[\x02-\xcf\xd9-\xfe]")
SEQUENTIAL, END_OF_IMAGE, START_OF_SCAN = (0xC0, 0xC1, 0xC9), 0xD9, 0xDA

# Of tags that a hostile file has by the ten thousand; what matters of a file is decoded, or is an error.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


def is_below(file: Path, root: Path) -> bool:
    """Whether a file is below a folder once links are followed; not if they lead in a circle."""
    try:
        return file.resolve().is_relative_to(root.resolve())
    except RuntimeError:
        return False


def resize(pixels: np.ndarray, size: int, channels: int) -> np.ndarray:
    """RGB uint8 (H, W, 3) to uint8 (size, size, channels), for training and for whoever uses the student alike.

    Antialiased bilinear after the conversion to grey (ITU-R 601), if `channels` is 1.
    """
    picture = Image.fromarray(pixels).convert("L" if channels == 1 else "RGB")
    if picture.size != (size, size):
        picture = picture.resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(picture).reshape(size, size, channels)


def read_image(
    root: Path, path: str, belongs: Callable[[Path, Path], bool] = is_below, content: bytes | None = None
) -> np.ndarray:
    """Decode one image file under `root` to upright RGB, uint8, (H, W, 3); or its `content`, read from that file.

    Sixteen-bit grey is scaled to eight; palettes are resolved; an alpha channel is dropped.

    Raises CheckError if the file does not belong to `root`, is missing, not a whole image, or larger than `MAX_PIXELS`.
    """
    with _open_image(root, path, belongs, content) as image:
        upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith("I;16"):
            grey = np.rint(np.asarray(upright, dtype=np.uint16) / 257).astype(np.uint8)
            return np.repeat(grey[..., None], 3, axis=2)
        if upright.mode in ("I", "F"):
            raise CheckError(
                f"an image of 32-bit numbers (mode {upright.mode})",
                where=str(root / path),
                expected="8 or 16 bits a channel",
                hint="save it as PNG, or take it out of the corpus",
            )
        return np.asarray(upright.convert("RGB"))


def image_size(root: Path, path: str, belongs: Callable[[Path, Path], bool] = is_below) -> tuple[int, int]:
    """Width and height of an image once it is upright, from its header alone; raises as `read_image` does."""
    with _open_image(root, path, belongs) as image:
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
        return (image.height, image.width) if turned else (image.width, image.height)


@contextmanager
def _open_image(
    root: Path, path: str, belongs: Callable[[Path, Path], bool], content: bytes | None = None
) -> Iterator[Image.Image]:
    file = root / path
    if UNWRITABLE.search(path) or not belongs(file, root):
        raise CheckError(
            "a path or link leaves the corpus directory",
            where=ascii(str(file)),
            expected=f"a file under {root}",
            hint="copy the file into the corpus, or take its row out",
        )
    try:
        if file.exists() and not file.is_file():
            raise OSError("neither a file nor a link to one")  # a pipe is never read to its end
        _require_modest_jpeg(file, content)
        # No other kind: Pillow has Ghostscript run what is PostScript by its first bytes, whatever its name.
        with Image.open(file if content is None else io.BytesIO(content), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise CheckError(
                    f"an image of {image.width} x {image.height} pixels",
                    where=str(file),
                    expected=f"at most {MAX_PIXELS:,} pixels",
                    hint="crop the image, or take the file out of the corpus",
                )
            _require_at_most(MAX_METADATA, len(image.info.get("exif", b"")), "bytes of metadata", file)
            yield image
    except FileNotFoundError:
        raise CheckError(
            "a listed image is missing", where=str(file), hint="restore the file, or take its row out"
        ) from None
    except CheckError:
        raise
    except Exception as error:  # a hostile file may raise anything
        reason = "not an image" if isinstance(error, UnidentifiedImageError) else str(error)
        raise CheckError(
            f"an image cannot be decoded: {reason}",
            where=str(file),
            expected="a whole JPEG, PNG, BMP, TIFF or WebP file",
            hint="replace the file, or take it out of the corpus",
        ) from None


def _require_modest_jpeg(file: Path, content: bytes | None) -> None:
    """Raise a CheckError at a JPEG of more metadata or scans than an honest one has; other files pass."""
    data: bytes | mmap.mmap = content or b""
    if content is None:
        with file.open("rb") as opened:
            if opened.read(3) != b"\xff\xd8\xff":
                return
            data = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
    if data[:3] != b"\xff\xd8\xff":
        return
    at, metadata, scans, whole = 2, 0, 0, b""
    while found := JPEG_MARKER.search(data, at):
        marker, start = found[0][1], found.end()
        at = start + int.from_bytes(data[start : start + 2])
        if marker == END_OF_IMAGE:
            return
        if marker in SEQUENTIAL:
            whole = data[start + 7 : start + 8]  # how many components there are
        elif marker == START_OF_SCAN:
            scans += 1
            _require_at_most(MAX_SCANS, scans, "scans", file)
            if data[start + 2 : start + 3] == whole:
                return  # this scan, of all components, is the only one
        elif not scans:
            metadata += at - start
            _require_at_most(MAX_METADATA, metadata, "bytes of metadata", file)


def _require_at_most(limit: int, count: int, what: str, file: Path) -> None:
    if count > limit:
        raise CheckError(
            f"an image with more than {limit:,} {what}",
            where=str(file),
            expected="no more: encoders write far fewer",
            hint="save it anew, or take it out of the corpus",
        )
