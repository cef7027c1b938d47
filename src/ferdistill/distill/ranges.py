"""A teacher's logits made in ranges of shards, each on a machine of its own, and joined.

A range is some shards of the packed images in a row. Its file is a safetensors one: `logits`, float32 (n, K), of the
images of these shards in the order of the index, and in its header what they are of. Joined they are what one machine
of the same kind gives, to the bit, since an answer does not depend on what else is in its batch (`answers`).
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from .. import tensor_files
from ..data.images import ids_sha256, shards_of
from ..data.index import Index
from ..errors import CheckError, UsageError, require_same
from ..files import atomic

HINT = "delete {} to have it all labelled here, or run `ferdistill teachers run --ranges` again"


def rows_of(index: Index, image_bytes: int, of: int) -> list[np.ndarray]:
    """The images of each of `of` ranges: rows of the index, ascending; of some ranges perhaps none.

    `image_bytes` is H * W * C, by which shards are cut. Ranges are as equal as whole shards allow.
    """
    shards = shards_of(index.rows["sample_id"].to_numpy(dtype=object), image_bytes)
    shards.sort(key=lambda shard: shard.name)
    lengths = np.array([len(shard.rows) for shard in shards])
    middles = lengths.cumsum() - lengths / 2
    belongs = (middles * of / lengths.sum()).astype(int)
    found: list[list[np.ndarray]] = [[np.arange(0)] for _ in range(of)]
    for shard, place in zip(shards, belongs.tolist(), strict=True):
        found[place].append(shard.rows)
    return [np.sort(np.concatenate(its)) for its in found]


def facts_of(index: Index, rows: np.ndarray, config: dict[str, Any], part: int, of: int) -> dict[str, str]:
    """What the logits of some rows are of, for the header of their file; `config` is the teacher's."""
    return {
        "index_digest": index.digest,
        "weights": config["sha256"],
        "classes": "\n".join(config["classes"]),
        "images": ids_sha256(index.rows["sample_id"].to_numpy(dtype=object)[rows]),
        "range": f"{part} of {of}",
    }


def write(file: Path, logits: np.ndarray, facts: dict[str, str]) -> None:
    """Write the logits (n, K) of a range."""
    with atomic(file) as temporary:
        # One entry, since the order of several varies.
        save_file({"logits": np.ascontiguousarray(logits, np.float32)}, temporary, {"of": json.dumps(facts)})


def join(folder: Path, index: Index, image_bytes: int, config: dict[str, Any]) -> np.ndarray:
    """The logits of all images, float32 (N, K), from the files of a folder, which are named `PART-of-OF.safetensors`.

    Raises a CheckError if a range is missing, or a file is damaged, or is of another range, index or teacher, or holds
    what no range has; a UsageError if there is none.
    """
    names = sorted(file.name for file in folder.iterdir())
    counts = {name.removesuffix(".safetensors").rpartition("-of-")[2] for name in names}
    if len(counts) != 1 or not (count := counts.pop()).isdecimal() or int(count) < 1:
        raise UsageError(
            f"files that are not the ranges of one export: {', '.join(names[:10]) or 'none'}",
            where=str(folder),
            expected="1-of-N.safetensors to N-of-N.safetensors",
            hint=HINT.format(folder),
        )
    of = int(count)
    missing = [part for part in range(1, of + 1) if f"{part}-of-{of}.safetensors" not in names]
    if missing or len(names) != of:
        raise CheckError(
            f"ranges are missing: {', '.join(map(str, missing[:20]))} of {of}",
            where=str(folder),
            expected=f"all {of}, each of some shards",
            hint=HINT.format(folder),
        )
    joined = np.full((len(index.rows), len(config["classes"])), np.nan, np.float32)
    for part, rows in enumerate(rows_of(index, image_bytes, of), 1):
        file = folder / f"{part}-of-{of}.safetensors"
        logits = tensor_files.read(file, expected="a range of soft labels", hint=HINT.format(folder)).get("logits")
        with safe_open(file, framework="np") as header:
            said = json.loads((header.metadata() or {}).get("of", "{}"))
        expected = facts_of(index, rows, config, part, of)
        shape = (len(rows), joined.shape[1])
        facts: list[tuple[str, Any, Any]] = [(name, value, said.get(name)) for name, value in expected.items()]
        facts.append(("shape", shape, None if logits is None else logits.shape))
        require_same(facts, "a range of other soft labels", where=str(file), hint=HINT.format(folder))
        assert logits is not None
        broken = np.flatnonzero(~np.isfinite(logits).all(axis=1))
        if len(broken):
            raise CheckError("logits that are not finite", where=f"{file}, row {broken[0]}", hint=HINT.format(folder))
        joined[rows] = logits
    return joined
