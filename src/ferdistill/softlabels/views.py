"""Multi-view soft labels: each teacher's logits for recorded augmentations of the training images.

`views.safetensors` in a store's directory holds `logits`, float32 (V, N, K), row i being row i of the train split, and
the seed that draws the views again (`distill.augment.recorded`). It carries the digests of the rows it belongs to.
"""

from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from ..data.index import Index, digests
from ..errors import CheckError
from ..files import atomic, read_json, sha256_file, write_json

TENSORS = "views.safetensors"
MANIFEST = "views.json"
SEED = 1


def write(directory: Path, index: Index, logits: np.ndarray, augment: str, table_sha256: str) -> dict[str, Any]:
    """Write logits (V, N, K) beside the store whose table has the digest given; return the manifest."""
    with atomic(directory / TENSORS) as temporary:
        save_file({"logits": np.ascontiguousarray(logits, dtype=np.float32)}, temporary)
    manifest = {
        "seed": SEED,
        "views": len(logits),
        "augment": augment,
        "index_digest": index.digest,
        "train": digests(index.rows.iloc[index.positions("train")]),
        "table_sha256": table_sha256,
        "sha256": sha256_file(directory / TENSORS),
    }
    write_json(directory / MANIFEST, manifest)
    return manifest


def read(directory: Path, index: Index, views: int, table_sha256: str) -> np.ndarray:
    """Logits (V, N, K) of the train split, held against the index.

    Raises
    ------
    UsageError, CheckError
        If a file is missing or damaged, or the views are of other rows, another store or another number.
    """
    manifest = read_json(directory / MANIFEST, "sha256", "views", "index_digest", "train", "table_sha256")
    file = directory / TENSORS
    try:
        logits: np.ndarray = load_file(file)["logits"]
    except (OSError, SafetensorError, KeyError) as error:
        raise CheckError(
            f"no whole file of views: {error}", where=str(file), hint="run `dvc checkout --force`"
        ) from None
    facts = [
        ("digest", manifest["sha256"], sha256_file(file)),
        ("number of views", views, manifest["views"]),
        ("index digest", index.digest, manifest["index_digest"]),
        ("rows", digests(index.rows.iloc[index.positions("train")]), manifest["train"]),
        ("soft labels", table_sha256, manifest["table_sha256"]),
        ("shape", (3, (views, len(index.positions("train")))), (logits.ndim, logits.shape[:2])),
    ]
    for name, expected, found in facts:
        if expected != found:
            raise CheckError(
                f"views of another {name}: {found}",
                where=str(directory),
                expected=str(expected),
                hint="export the soft labels anew: `dvc repro`",
            )
    broken = np.argwhere(~np.isfinite(logits).all(axis=2))
    if len(broken):
        view, row = broken[0].tolist()
        raise CheckError("logits that are not finite", where=f"{file}, view {view}, row {row} of train")
    return logits
