"""Decode the images of an index into the shards of `data.images`: of these, the ones that are not there yet."""

import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import PIL

from ..errors import CheckError
from ..files import atomic, sha256, sha256_file, write_json
from ..image_files import resize
from ..params import ImageParams
from .images import MANIFEST, SCHEMA_VERSION, ids_sha256, shards_of
from .index import Index, sample_id
from .memo import NOTHING_KNOWN, Memo, code_key, key_of
from .reader import map_images, records_by_path

GROUP = 64  # shards that are filled at once, 256 MiB
# What the pixels of a shard follow from, beside the files of the corpus.
MODULES = ("data.packing", "data.images", "data.index", "data.sources", "image_files")


def pack(
    index: Index, corpus_dir: Path, directory: Path, classes: list[str], image: ImageParams, memo: Memo = NOTHING_KNOWN
) -> int:
    """Decode and resize images, write the shards that are new, and take away those that are no more.

    Returns the number of shards written.

    Raises
    ------
    CheckError
        If a file of the index is gone, or decodes to other pixels than when the index was made.
    """
    listed = records_by_path(corpus_dir, classes)
    paths, sample_ids = index.rows["path"].to_numpy(), index.rows["sample_id"].to_numpy()
    lost = [name for name in paths if name not in listed]
    if lost:
        raise CheckError(
            f"{len(lost)} images of the index are not in the corpus", where=lost[0], hint="run `dvc repro index`"
        )

    def decoded(rows: np.ndarray) -> Iterator[np.ndarray]:
        look = partial(_digest_and_resize, image=image)
        records = [listed[path] for path in paths[rows]]
        for row, seen in zip(rows, map_images(look, corpus_dir, records, "packing images"), strict=True):
            if isinstance(seen, CheckError):
                raise seen
            digest, pixels = seen
            if digest != sample_ids[row]:
                raise CheckError(
                    "an image is not the one that was indexed",
                    where=f"{corpus_dir / paths[row]}, index row {row}",
                    expected=f"pixels of digest {sample_ids[row][:12]}",
                    hint="run `dvc repro index`",
                )
            yield pixels

    return write(directory, sample_ids, (image.size, image.size, image.channels), decoded, memo)


def write(
    directory: Path,
    sample_ids: np.ndarray,
    shape: tuple[int, int, int],
    pixels_of: Callable[[np.ndarray], Iterator[np.ndarray]],
    memo: Memo = NOTHING_KNOWN,
) -> int:
    """Write the shards of images of `shape` (H, W, C), each row's from `pixels_of(rows)`, in the order of these `rows`.

    A shard stays if it is, to the byte, what this code once made of the same images; `memo` knows. The manifest goes
    first and comes last, so that a folder that was left half changed is not taken for whole.
    """
    directory.mkdir(parents=True, exist_ok=True)
    (directory / MANIFEST).unlink(missing_ok=True)
    shards = shards_of(sample_ids, int(np.prod(shape)))
    for path in directory.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name not in {shard.name for shard in shards}:
            path.unlink()
    code = code_key(MODULES, np.__version__, PIL.__version__, shape)
    keys = [key_of(code, *sample_ids[shard.rows]) for shard in shards]
    known = memo.get(keys)
    digests, new = {}, []
    for shard, key in zip(shards, keys, strict=True):
        path = directory / shard.name
        if key in known and path.is_file() and (digest := sha256_file(path)) == known[key].decode():
            digests[shard.name] = digest
        else:
            new.append((shard, key))

    groups = [new[start : start + GROUP] for start in range(0, len(new), GROUP)]
    # Within a group in the order of the index, which is the order in which sources hold their images.
    orders = [np.sort(np.concatenate([shard.rows for shard, _ in group])) for group in groups]
    pixels = pixels_of(np.concatenate(orders)) if new else iter(())
    for group, order in zip(groups, orders, strict=True):
        packed = np.empty((len(order), *shape), dtype=np.uint8)
        for place in range(len(order)):
            packed[place] = next(pixels)
        for shard, key in group:
            content = shard.header(shape) + packed[np.searchsorted(order, shard.rows)].tobytes()
            with atomic(directory / shard.name) as temporary:
                temporary.write_bytes(content)
            digests[shard.name] = sha256(content)
            memo.put({key: digests[shard.name].encode()})
    manifest = {"schema_version": SCHEMA_VERSION, "shape": shape, "sample_ids_sha256": ids_sha256(sample_ids)}
    write_json(directory / MANIFEST, manifest | {"shards": dict(sorted(digests.items()))})
    return len(new)


def _digest_and_resize(pixels: np.ndarray, image: ImageParams) -> tuple[str, np.ndarray]:
    return sample_id(pixels), resize(pixels, image.size, image.channels)
