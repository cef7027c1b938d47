"""Multi-view soft labels: each teacher's logits for recorded augmentations of the training images.

`views.safetensors` in a store's directory holds `logits`, float32 (V, N, K), row i being row i of those trained on
(`Index.trained`), and the seed that draws the views again (`distill.augment.recorded`). It carries the digests of the
rows it belongs to.
"""

from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from .. import tensor_files
from ..data.index import Index, digests
from ..errors import CheckError, require_same
from ..files import atomic, read_json, sha256_file, write_json

TENSORS = "views.safetensors"
MANIFEST = "views.json"


def write(
    directory: Path, index: Index, logits: np.ndarray, seed: int, augment: str, table_sha256: str
) -> dict[str, Any]:
    """Write logits (V, N, K) beside the store whose table has the digest given; return the manifest.

    `seed` and `augment` draw the views again.
    """
    with atomic(directory / TENSORS) as temporary:
        save_file({"logits": np.ascontiguousarray(logits, dtype=np.float32)}, temporary)
    manifest = {
        "seed": seed,
        "views": len(logits),
        "augment": augment,
        "index_digest": index.digest,
        "train": digests(index.rows.iloc[index.trained()]),
        "table_sha256": table_sha256,
        "sha256": sha256_file(directory / TENSORS),
    }
    write_json(directory / MANIFEST, manifest)
    return manifest


def read(directory: Path, index: Index, views: int, table_sha256: str) -> np.ndarray:
    """Logits (V, N, K) of the rows trained on, held against the index.

    Raises a UsageError if a file is missing, a CheckError if it is damaged or of other rows, another store or another
    number of views.
    """
    manifest = read_json(directory / MANIFEST, "sha256", "views", "index_digest", "train", "table_sha256")
    file = directory / TENSORS
    tensors = tensor_files.read(file, expected="views", hint="run `dvc checkout --force`")
    logits = tensors.get("logits", np.empty(0))
    facts = [
        ("digest", manifest["sha256"], sha256_file(file)),
        ("number of views", views, manifest["views"]),
        ("index digest", index.digest, manifest["index_digest"]),
        ("rows", digests(index.rows.iloc[index.trained()]), manifest["train"]),
        ("soft labels", table_sha256, manifest["table_sha256"]),
        ("shape", (3, (views, len(index.trained()))), (logits.ndim, logits.shape[:2])),
    ]
    require_same(facts, "the views are not this store's", where=str(directory), hint="export them anew: `dvc repro`")
    broken = np.argwhere(~np.isfinite(logits).all(axis=2))
    if len(broken):
        view, row = broken[0].tolist()
        raise CheckError("logits that are not finite", where=f"{file}, view {view}, row {row} of train")
    return logits
