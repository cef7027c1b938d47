"""What deduplication knows of each image: the digest of its pixels and a thumbnail. No file is decoded twice."""

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import PIL

from ..errors import CheckError
from ..progress import track
from . import duplicates
from .containers import CsvCell, read_inside
from .index import sample_id
from .memo import Memo, code_key, key_of
from .reader import map_images
from .sources import Record, belongs
from .thumbnails import Thumbnails

# What an answer follows from, beside the file and the box.
MODULES = ("data.looks", "data.index", "data.sources", "data.containers", "data.duplicates", "image_files")
AT_A_TIME = 4096  # answers read, or kept, at once


def look_at(
    corpus_dir: Path, records: Sequence[Record], memo: Memo, workers: int | None = None
) -> tuple[list[str | CheckError], Thumbnails]:
    """Digest and thumbnail of each image; `workers` as in `map_images`.

    Returns
    -------
    sample_ids
        Of each record, or the error of one that cannot be decoded.
    thumbnails
        See `duplicates.thumbnail`; undefined where there is an error.
    """
    sample_ids: list[str | CheckError] = [""] * len(records)
    thumbnails = Thumbnails(len(records))
    keys = list(track(_keys(corpus_dir, records), "looking for images seen before", total=len(records)))
    for start in range(0, len(records), AT_A_TIME):
        some = keys[start : start + AT_A_TIME]
        answers = memo.get([key for key in some if key])
        for row, key in enumerate(some, start):
            if key in answers:
                sample_ids[row] = answers[key][:32].hex()
                thumbnails[row] = answers[key][32:]

    new = [row for row, found in enumerate(sample_ids) if not found]
    looks = map_images(_look, corpus_dir, [records[row] for row in new], "reading images", workers)
    answers = {}
    for row, look in zip(new, looks, strict=True):
        if isinstance(look, CheckError):
            sample_ids[row] = look
            continue
        sample_ids[row], picture = look
        thumbnails[row] = picture
        if key := keys[row]:
            answers[key] = bytes.fromhex(look[0]) + picture.tobytes()
        if len(answers) == AT_A_TIME:
            memo.put(answers)
            answers = {}
    memo.put(answers)
    return sample_ids, thumbnails


def _look(pixels: np.ndarray) -> tuple[str, np.ndarray]:
    return sample_id(pixels), duplicates.thumbnail(pixels)


def _keys(corpus_dir: Path, records: Sequence[Record]) -> Iterator[bytes | None]:
    """The key of each record, by its file's bytes; None for one that cannot be read, of which `decode` says why."""
    code = code_key(MODULES, np.__version__, PIL.__version__)

    def key(record: Record) -> bytes | None:
        path = corpus_dir / record.image
        try:
            if record.inside is not None:
                content = read_inside(corpus_dir, record.image, record.inside, belongs)
            elif belongs(path, corpus_dir) and path.is_file():
                content = path.read_bytes()
            else:
                return None
        except (CheckError, OSError, ValueError):
            return None
        return key_of(code, hashlib.sha256(content).digest(), record.box, isinstance(record.inside, CsvCell))

    with ThreadPoolExecutor() as pool:  # of files and digests, which do without the interpreter
        yield from pool.map(key, records)
