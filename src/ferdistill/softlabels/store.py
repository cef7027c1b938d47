"""Soft labels on disk: one directory a teacher, bound to the index by digest.

`softlabels.parquet` has one row for each row of the index, in its order: path, split, label, and a float32
`logit_<class>` for each class. `manifest.json` says what they belong to. Logits are stored, not probabilities: they
are softened and fused when they are read, at the temperature of the training run, so no file can hold them fused
the wrong way.
"""

import hashlib
import importlib.metadata
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..data.index import Index, digests
from ..errors import CheckError, UsageError, require_same
from ..files import MAX_COLUMNS, RESTORE, atomic, read_json, sha256_file, write_json
from .parts import MANIFEST, TABLE, SoftLabels, covered, not_floating, see, split_parts

SCHEMA_VERSION = 1
KEYS = ["path", "label", "split"]
# Of the manifest's entries: what each may be.
KINDS: dict[str, type | tuple[type, ...]] = {
    "classes": list,
    "teacher": str,
    "temperature": (int, float, type(None)),
    "index_digest": str,
    "checkpoint_sha256": (str, type(None)),
    "table_sha256": str,
    "splits": dict,
    "provenance": (dict, type(None)),
    "covered": (dict, type(None)),
}
BATCH = 65_536  # rows read at a time


def write(
    directory: Path,
    index: Index,
    logits: np.ndarray,
    classes: list[str],
    *,
    teacher: str,
    checkpoint_sha256: str | None,
    provenance: dict[str, Any] | None = None,
    partial: bool = False,
) -> dict[str, Any]:
    """Write one teacher's logits (N, K), row i being row i of the index; return the manifest.

    `provenance` goes into the manifest as it is; see `repair` and `brought`. A `partial` teacher has NaN, for which the
    table has empty cells, in the rows that it does not cover; the manifest then counts the others under `covered`.
    """
    table = index.rows[["path", "split", "label"]].reset_index(drop=True)
    columns = [f"logit_{name}" for name in classes]
    table = pd.concat([table, pd.DataFrame(logits.astype(np.float32), columns=columns)], axis=1)
    with atomic(directory / TABLE) as temporary:
        pq.write_table(
            pa.Table.from_pandas(table, preserve_index=False),
            temporary,
            compression="zstd",
            use_dictionary=["split", "label"],  # the others hardly repeat: a dictionary of them only takes space
            row_group_size=2 * BATCH,
        )
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "teacher": teacher,
        "classes": classes,
        "kind": "logits",
        "temperature": 1.0,
        "index_digest": index.digest,
        "checkpoint_sha256": checkpoint_sha256,
        "table_sha256": sha256_file(directory / TABLE),
        "splits": {split: digests(table[table["split"] == split]) for split in index.splits},
        "versions": {name: importlib.metadata.version(name) for name in ("numpy", "pyarrow", "timm", "torch")},
    }
    if provenance is not None:
        manifest["provenance"] = provenance
    if partial:
        has = covered(logits)
        manifest["covered"] = {split: int(has[index.positions(split)].sum()) for split in index.splits}
    write_json(directory / MANIFEST, manifest)
    return manifest


def read(directory: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The table and the manifest of one store, as they lie there: `alignment.check` says whether they are right.

    Raises a UsageError if the directory or one of its files is missing, a CheckError if a file cannot be read or lacks
    a column.
    """
    soft, file = _open(directory)
    try:
        with file:
            # What pandas wrote about the columns is not needed, and anything may stand there.
            return file.read().to_pandas(ignore_metadata=True), soft.manifest or {}
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        raise _damaged(directory, error) from None


def read_parts(directory: Path) -> SoftLabels:
    """One store, split by split; raises as `read` does."""
    soft = describe(directory)
    batches = list(read_batches(soft))
    values = np.concatenate([np.empty((0, len(soft.classes or [])), np.float32), *(values for _, values in batches)])
    none = np.array([], object)
    texts = [np.concatenate([none, *(objects(texts[name]) for texts, _ in batches)]) for name in KEYS]
    del batches
    digest = hashlib.sha256()
    parts = split_parts(directory / TABLE, see(values, digest), *texts)
    return replace(soft, parts=parts, values_sha256=digest.hexdigest())


def describe(directory: Path) -> SoftLabels:
    """What the manifest of a store and the names of its columns say, `parts` left empty; raises as `read` does.

    `classes` are the table's, in the order of its columns.
    """
    soft, file = _open(directory)
    file.close()
    return soft


def read_batches(soft: SoftLabels) -> Iterator[tuple[dict[str, pa.LargeStringArray], np.ndarray]]:
    """The table of a store that `describe` gave, in its order: path, label and split, and logits (n, K), float32."""
    names = [f"logit_{name}" for name in soft.classes or []]
    path = soft.directory / TABLE
    start = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(BATCH, columns=[*KEYS, *names]):
                texts = {name: text(batch.column(name), path, name, start) for name in KEYS}
                values = np.empty((len(batch), len(names)), np.float32)
                for place, name in enumerate(names):
                    values[:, place] = numbers(batch.column(name), path, name)
                yield texts, values
                start += len(batch)
    except (pa.ArrowException, OSError, MemoryError) as error:
        raise _damaged(soft.directory, error) from None


def text(column: pa.Array | pa.ChunkedArray, file: Path, name: str, start: int = 0) -> pa.LargeStringArray:
    """A column of paths, labels or splits, from row `start` on, as one array; a CheckError where it is not all text."""
    try:
        column = column.cast(pa.large_string())
        column.validate(full=True)  # Parquet files may hold text that is not UTF-8
    except pa.ArrowException as error:
        raise CheckError(f"not a column of text: {error}", where=f"{file}, column {name}") from None
    if column.null_count:
        row = start + pc.index(pc.is_null(column), True).as_py()
        raise CheckError("a cell is empty", where=f"{file}, column {name}, row {row}", expected="text in each row")
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def objects(column: pa.LargeStringArray) -> np.ndarray:
    """A column of text as str objects, (N,), one for all rows that are equal."""
    coded = column.dictionary_encode()
    return coded.dictionary.to_numpy(zero_copy_only=False)[coded.indices.to_numpy()]


def numbers(column: pa.Array | pa.ChunkedArray, file: Path, name: str) -> np.ndarray:
    """One class's column as float32; empty cells are NaN. A CheckError where it does not hold floats."""
    if not pa.types.is_floating(column.type):
        raise not_floating(f"type {column.type}", f"{file}, column {name}")
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes an infinity, which the gate refuses
        return column.to_numpy(zero_copy_only=False).astype(np.float32, copy=False)


def _open(directory: Path) -> tuple[SoftLabels, pq.ParquetFile]:
    """A store as `describe` gives it, and its table."""
    if not directory.is_dir():
        raise UsageError(
            "no soft labels here",
            where=str(directory),
            expected="a directory written by the stage softlabels",
            hint="run `dvc repro`, or `dvc pull`, if they are this pipeline's",
        )
    if not (directory / MANIFEST).is_file():
        raise UsageError(
            f"soft labels without their {MANIFEST}",
            where=str(directory),
            expected=f"{TABLE} and {MANIFEST}: one says what the other belongs to",
            hint=f"{RESTORE}; rename the table if another program wrote it",
        )
    manifest = read_json(directory / MANIFEST)
    anew = f"{RESTORE}, or export the soft labels anew"
    needed = {"kind": "logits", "schema_version": SCHEMA_VERSION}
    facts = [(name, right, manifest.get(name)) for name, right in needed.items()]
    require_same(facts, "not the manifest of a store of soft labels", where=str(directory / MANIFEST), hint=anew)
    classes: Any = manifest.get("classes")
    odd = [name for name, kinds in KINDS.items() if not isinstance(manifest.get(name), kinds)]
    if odd or not classes or not all(isinstance(name, str) for name in classes):
        raise CheckError(
            f"a manifest whose {odd[0] if odd else 'classes'} cannot be one",
            where=str(directory / MANIFEST),
            expected="what `store.write` writes there",
            hint=anew,
        )
    try:
        file = pq.ParquetFile(directory / TABLE)
        names = file.schema_arrow.names
    except FileNotFoundError:
        raise UsageError(f"soft labels without their {TABLE}", where=str(directory), hint=RESTORE) from None
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        raise _damaged(directory, error) from None
    wanted = [*KEYS, *(f"logit_{name}" for name in classes)]
    named = set(names)
    missing = [name for name in wanted if name not in named]
    wrong = {
        f"columns are missing: {', '.join(missing[:20])}": missing,
        f"columns of one name: {', '.join(names[:20])}": len(named) < len(names),
        f"{len(names):,} columns": len(names) > MAX_COLUMNS,
    }
    if any(wrong.values()):
        file.close()
        raise CheckError(
            next(what for what, found in wrong.items() if found),
            where=str(directory / TABLE),
            expected=f"{', '.join(wanted[:20])}; at most {MAX_COLUMNS:,}",
            hint="export the soft labels anew",
        )
    soft = SoftLabels(
        directory=directory,
        classes=[name.removeprefix("logit_") for name in names if name.startswith("logit_")],
        kind="logits",
        kind_from="declared by the manifest",
        temperature=manifest.get("temperature"),
        manifest=manifest,
        parts={},
    )
    return soft, file


def _damaged(directory: Path, error: Exception) -> CheckError:
    return CheckError(f"not a whole Parquet file: {error}", where=str(directory / TABLE), hint=RESTORE)


def logits_of(table: pd.DataFrame, classes: list[str]) -> np.ndarray:
    """Logits (N, K), float32, of a table that `read` gave."""
    return table[[f"logit_{name}" for name in classes]].to_numpy(dtype=np.float32)
