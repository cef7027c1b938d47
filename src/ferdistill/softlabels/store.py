"""Soft labels on disk: one directory a teacher, bound to the index by digest.

`softlabels.parquet` has one row for each row of the index, in its order: path, split, label, and a float32
`logit_<class>` for each class; or, of many classes, the likeliest alone and what the others have together (`top_k`),
in the columns `top`, `log_p` and `log_rest`. `manifest.json` says what they belong to. Logits are stored, not
probabilities: they are softened and fused when they are read, at the temperature of the training run, so no file can
hold them fused the wrong way.
"""

import hashlib
import importlib.metadata
from collections.abc import Iterator, Sequence
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
from . import top_k as top
from .parts import MANIFEST, TABLE, TOLERANCE, SoftLabels, Streamed, Values, covered, not_floating, see, split_parts

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
    "top_k": (int, type(None)),
}
BATCH = 65_536  # rows read at a time, and
NUMBERS = 2**24  # how many numbers at most
TOP = ["top", "log_p", "log_rest"]  # columns of a store that keeps the likeliest classes alone: see `top_k.TopK`


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
    top_k: int | None = None,
) -> dict[str, Any]:
    """Write one teacher's logits (N, K), row i being row i of the index; return the manifest.

    `provenance` goes into the manifest as it is; see `repair` and `brought`. A `partial` teacher has NaN, for which the
    table has empty cells, in the rows that it does not cover; the manifest then counts the others under `covered`. With
    `top_k`, at least 1 and less than K, so many of the likeliest classes are kept of each image; the manifest then says
    under `top_k_divergence` the mean KL to that, in nats.
    """
    has = np.zeros(len(index.rows), bool)
    divergence = 0.0
    with atomic(directory / TABLE) as temporary:
        writer, size = None, 2 * _height(len(classes))
        for start in range(0, max(len(has), 1), size):
            rows = slice(start, start + size)
            values = logits[rows].astype(np.float32, copy=False)
            has[rows] = covered(values)
            texts = index.rows[["path", "split", "label"]].iloc[rows].reset_index(drop=True)
            if top_k is None:
                chunk = pd.concat([texts, pd.DataFrame(values, columns=[f"logit_{name}" for name in classes])], axis=1)
                table = pa.Table.from_pandas(chunk, preserve_index=False)
            else:
                kept = top.keep(values, top_k)
                divergence += float(np.nansum(top.divergence(values, kept)))
                table = _kept_table(pa.Table.from_pandas(texts, preserve_index=False), kept)
            # Columns but these hardly repeat: a dictionary of them only takes space.
            writer = writer or pq.ParquetWriter(
                temporary, table.schema, compression="zstd", use_dictionary=["split", "label"]
            )
            writer.write_table(table, row_group_size=size)
        assert writer is not None
        writer.close()
    table = index.rows[["path", "split", "label"]]
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
        manifest["covered"] = {split: int(has[index.positions(split)].sum()) for split in index.splits}
    if top_k is not None:
        manifest |= {"top_k": top_k, "top_k_divergence": divergence / max(int(has.sum()), 1)}
    write_json(directory / MANIFEST, manifest)
    return manifest


def _height(classes: int) -> int:
    """Rows read at a time."""
    return max(1, min(BATCH, NUMBERS // max(classes, 1)))


def _kept_table(texts: pa.Table, kept: top.TopK) -> pa.Table:
    k = kept.top.shape[1]
    lists = (pa.FixedSizeListArray.from_arrays(pa.array(column.ravel()), k) for column in (kept.top, kept.log_p))
    for name, column in zip(TOP, (*lists, pa.array(kept.log_rest)), strict=True):
        texts = texts.append_column(name, column)
    return texts


def read(directory: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The table and the manifest of one store, as they lie there: `alignment.check` says whether they are right.

    Of a store that keeps the likeliest classes alone the table has log-probabilities of all, as `top_k.expand` gives.

    Raises a UsageError if the directory or one of its files is missing, a CheckError if a file cannot be read or lacks
    a column.
    """
    soft, file = _open(directory)
    if soft.top_k is not None:
        file.close()
        frames = [
            pd.DataFrame({name: objects(column) for name, column in texts.items()}).join(
                pd.DataFrame(values, columns=[f"logit_{name}" for name in soft.classes or []])
            )
            for texts, values in read_batches(soft)
        ]
        return pd.concat(frames, ignore_index=True), soft.manifest or {}
    try:
        with file:
            # What pandas wrote about the columns is not needed, and anything may stand there.
            return file.read().to_pandas(ignore_metadata=True), soft.manifest or {}
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        raise _damaged(directory, error) from None


def read_parts(directory: Path) -> SoftLabels:
    """One store, split by split, its values streamed; raises as `read` does."""
    soft = describe(directory)
    digest, none = hashlib.sha256(), np.array([], object)
    texts: dict[str, list[np.ndarray]] = {name: [none] for name in KEYS}
    seen = [see(np.empty((0, len(soft.classes or [])), np.float32), digest)]
    for columns, values in read_batches(soft):
        for name, column in columns.items():
            texts[name].append(objects(column))
        seen.append(see(values, digest))
    facts = {
        name: np.concatenate([getattr(one, name) for one in seen])
        for name in ("arg_max", "finite", "empty", "distribution")
    }
    shape = len(facts["finite"]), len(soft.classes or [])
    whole = Values(Streamed(shape, lambda: (values for _, values in read_batches(soft, []))), **facts)
    parts = split_parts(directory / TABLE, whole, *(np.concatenate(texts[name]) for name in KEYS))
    return replace(soft, parts=parts, values_sha256=digest.hexdigest())


def read_rows(directory: Path, classes: list[str], rows: np.ndarray) -> np.ndarray:
    """Logits (n, K), float32, of some rows of a store; raises as `read` does."""
    soft = describe(directory)
    named = soft.classes or []
    shape = pq.read_metadata(directory / TABLE).num_rows, len(named)
    values = Streamed(shape, lambda: (values for _, values in read_batches(soft, [])))[rows]
    return values[:, [named.index(name) for name in classes]]


def describe(directory: Path) -> SoftLabels:
    """What the manifest of a store and the names of its columns say, `parts` left empty; raises as `read` does.

    `classes` are the table's, in the order of its columns.
    """
    soft, file = _open(directory)
    file.close()
    return soft


def read_batches(
    soft: SoftLabels, keys: Sequence[str] = KEYS
) -> Iterator[tuple[dict[str, pa.LargeStringArray], np.ndarray]]:
    """The table of a store that `describe` gave, in its order: path, label and split, and logits (n, K), float32."""
    classes = soft.classes or []
    if soft.top_k is not None:
        for texts, kept in read_kept(soft, keys):
            yield texts, top.expand(kept, len(classes))
        return
    path = soft.directory / TABLE
    for texts, batch in _read(soft, [f"logit_{name}" for name in classes], keys):
        values = np.empty((len(batch), len(classes)), np.float32)
        for place, name in enumerate(classes):
            values[:, place] = numbers(batch.column(f"logit_{name}"), path, f"logit_{name}")
        yield texts, values


def read_kept(
    soft: SoftLabels, keys: Sequence[str] = KEYS
) -> Iterator[tuple[dict[str, pa.LargeStringArray], top.TopK]]:
    """As `read_batches`, of a store that keeps the likeliest classes alone, what it keeps.

    Raises a CheckError too where a row is not what `top_k.keep` gives.
    """
    k, path, start = soft.top_k or 0, soft.directory / TABLE, 0
    for texts, batch in _read(soft, TOP, keys):
        try:
            kept = top.TopK(
                _lists(batch.column(TOP[0]), pa.uint16(), k),
                _lists(batch.column(TOP[1]), pa.float32(), k),
                numbers(batch.column(TOP[2]), path, TOP[2]),
            )
        except ValueError as error:
            raise CheckError(
                f"not the likeliest classes of each image: {error}",
                where=f"{path}, rows {start} to {start + len(batch) - 1}",
                expected=f"in `top` {k} numbers of classes, in `log_p` their log-probabilities",
                hint=RESTORE,
            ) from None
        for row in np.flatnonzero(top.wrong(kept, len(soft.classes or []), TOLERANCE))[:1].tolist():
            raise CheckError(
                f"classes and probabilities that cannot be: {kept.top[row].tolist()}, {kept.log_p[row].tolist()}, rest "
                f"{kept.log_rest[row]}",
                where=f"{path}, row {start + row}",
                expected="each class once, and probabilities that sum to 1 with the rest",
                hint=RESTORE,
            )
        yield texts, kept
        start += len(batch)


def _lists(column: pa.Array, kind: pa.DataType, k: int) -> np.ndarray:
    """A column of lists of k numbers each, (n, k). A ValueError where it is another."""
    of = column.type
    if not pa.types.is_fixed_size_list(of) or of.list_size != k or of.value_type != kind:
        raise ValueError(f"a column of {of}")
    values = column.values[column.offset * k :][: len(column) * k]
    if column.null_count or values.null_count:
        raise ValueError("an empty cell")
    found: np.ndarray = values.to_numpy().reshape(-1, k)
    return found


def _read(
    soft: SoftLabels, names: list[str], keys: Sequence[str]
) -> Iterator[tuple[dict[str, pa.LargeStringArray], pa.RecordBatch]]:
    path, start = soft.directory / TABLE, 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(_height(len(soft.classes or [])), columns=[*keys, *names]):
                yield {name: text(batch.column(name), path, name, start) for name in keys}, batch
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
    k = manifest.get("top_k")
    if k is not None and not 0 < k < len(classes):
        file.close()
        raise CheckError(
            f"{k} classes kept of {len(classes)}",
            where=str(directory / MANIFEST),
            expected="at least 1, and not all",
            hint=anew,
        )
    wanted = [*KEYS, *(TOP if k is not None else (f"logit_{name}" for name in classes))]
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
        classes=classes
        if k is not None
        else [name.removeprefix("logit_") for name in names if name.startswith("logit_")],
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
