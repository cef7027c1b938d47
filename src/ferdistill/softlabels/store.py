"""Soft labels on disk: one directory a teacher, bound to the index by digest.

`softlabels.parquet` has one row for each row of the index, in its order: path, split, label, and a float32
`logit_<class>` for each class. `manifest.json` says what they belong to. Logits are stored, not probabilities: they
are softened and fused when they are read, at the temperature of the training run, so no file can hold them fused
the wrong way.
"""

import importlib.metadata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ..corpus.index import SPLITS, Index, digests
from ..errors import CheckError, UsageError
from ..files import atomic, read_json, sha256_file, write_json

SCHEMA_VERSION = 1
TABLE = "softlabels.parquet"
MANIFEST = "manifest.json"


def write(
    directory: Path,
    index: Index,
    logits: np.ndarray,
    classes: list[str],
    *,
    teacher: str,
    checkpoint_sha256: str,
) -> dict[str, Any]:
    """Write one teacher's logits (N, K), row i being row i of the index; return the manifest."""
    table = index.rows[["path", "split", "label"]].reset_index(drop=True)
    columns = [f"logit_{name}" for name in classes]
    table = pd.concat([table, pd.DataFrame(logits.astype(np.float32), columns=columns)], axis=1)
    with atomic(directory / TABLE) as temporary:
        pq.write_table(pa.Table.from_pandas(table, preserve_index=False), temporary, compression="zstd")
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "teacher": teacher,
        "classes": classes,
        "kind": "logits",
        "temperature": 1.0,
        "index_digest": index.digest,
        "checkpoint_sha256": checkpoint_sha256,
        "table_sha256": sha256_file(directory / TABLE),
        "splits": {split: digests(table[table["split"] == split]) for split in SPLITS},
        "versions": {name: importlib.metadata.version(name) for name in ("numpy", "pyarrow", "timm", "torch")},
    }
    write_json(directory / MANIFEST, manifest)
    return manifest


def read(directory: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The table and the manifest of one store, as they lie there: `alignment.check` says whether they are right.

    Raises
    ------
    UsageError
        If the directory or one of its files is missing.
    CheckError
        If a file cannot be read or lacks a column.
    """
    if not directory.is_dir():
        raise UsageError(
            "no soft labels here",
            where=str(directory),
            expected="a directory written by the stage softlabels",
            hint="run `dvc repro`, or `dvc pull`",
        )
    manifest = read_json(directory / MANIFEST)
    try:
        table = pq.read_table(directory / TABLE).to_pandas()
    except FileNotFoundError:
        raise UsageError("soft labels without their table", where=str(directory / TABLE)) from None
    except (pa.ArrowException, OSError) as error:
        raise CheckError(
            f"not a whole Parquet file: {error}",
            where=str(directory / TABLE),
            hint="restore it with `dvc checkout --force`",
        ) from None
    wanted = ["path", "split", "label", *(f"logit_{name}" for name in manifest.get("classes", []))]
    missing = [name for name in wanted if name not in table.columns]
    if missing or not manifest.get("classes"):
        raise CheckError(
            f"columns are missing: {', '.join(missing) or 'every class'}",
            where=str(directory / TABLE),
            expected=", ".join(wanted),
            hint="export the soft labels anew",
        )
    return table, manifest


def logits_of(table: pd.DataFrame, classes: list[str]) -> np.ndarray:
    """Logits (N, K), float32, of a table that `read` gave."""
    return table[[f"logit_{name}" for name in classes]].to_numpy(dtype=np.float32)
