"""The canonical index: which images there are, in which order, with which label and in which split.

Everything downstream is bound to it by digest: images, soft labels, targets and predictions.
"""

import csv
import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as arrow_csv

from ..errors import CheckError, UsageError, require_same
from ..files import read_json, require_few_columns, sha256, sha256_file

SCHEMA_VERSION = 2
COLUMNS = ["sample_id", "path", "label", "split", "official_split", "source", "subject", "group"]
ATTRIBUTE = "attribute_"  # how a column of what is known of who is shown begins
SPLITS = ["train", "val", "calib", "test"]
TRANSFER = "transfer"  # the split of images without a label, which the teachers alone label
ANEW = "run `dvc repro index`; an index of your own: docs/alignment.md"


@dataclass(frozen=True)
class Index:
    """The rows (a frame of `COLUMNS`, in canonical order) and the description beside them.

    After `COLUMNS` may come `box` (left top right bottom), `vote_<class>`, `votes` and `attribute_<name>`, where a
    source has them.
    """

    rows: pd.DataFrame
    description: dict[str, Any]

    @property
    def digest(self) -> str:
        """SHA-256 of the CSV's bytes; what every artifact of this index carries."""
        return str(self.description["digest"])

    @property
    def splits(self) -> list[str]:
        """`SPLITS`, and `TRANSFER` if there are images without a label."""
        return splits_of(self.rows)

    def trained(self) -> np.ndarray:
        """Row numbers that a student trains on, int64: those of train, then those without a label."""
        return np.concatenate([self.positions("train"), self.positions(TRANSFER)])

    def positions(self, split: str) -> np.ndarray:
        """Row numbers of one split, int64, ascending."""
        return np.flatnonzero(self.rows["split"] == split)

    def codes(self, classes: list[str]) -> np.ndarray:
        """Labels as positions in `classes`, int64, (N,); -1 where there is none."""
        return pd.Index(classes).get_indexer(pd.Index(self.rows["label"])).astype(np.int64)

    def votes(self, classes: list[str]) -> np.ndarray | None:
        """Shares of the annotators' votes (N, K), float64, NaN in a row without any; None if no source has votes."""
        columns = [f"vote_{name}" for name in classes]
        return self._numbers(columns) if set(columns) <= set(self.rows) else None

    def attributes(self) -> pd.DataFrame:
        """What sources and tables say of who is shown: a column an attribute, by its name; "" where nothing is said."""
        columns = [name for name in map(str, self.rows) if name.startswith(ATTRIBUTE)]
        return self.rows[columns].rename(columns=lambda name: name.removeprefix(ATTRIBUTE))

    def voters(self) -> np.ndarray:
        """How many votes each row has (N,); NaN where it has none, or where only their shares are known."""
        return self._numbers(["votes"])[:, 0] if "votes" in self.rows else np.full(len(self.rows), np.nan)

    def _numbers(self, columns: list[str]) -> np.ndarray:
        return self.rows[columns].apply(pd.to_numeric).to_numpy(np.float64)


def splits_of(rows: pd.DataFrame) -> list[str]:
    """The splits that rows of an index may have."""
    return [*SPLITS, TRANSFER] if (rows["split"] == TRANSFER).any() else SPLITS


def sample_id(pixels: np.ndarray) -> str:
    """Digest of decoded pixels (H, W, 3) and their shape: two files are one image if these agree."""
    return sha256(f"{pixels.shape[0]}x{pixels.shape[1]}:".encode() + np.ascontiguousarray(pixels).tobytes())


def digests(rows: pd.DataFrame) -> dict[str, Any]:
    """Length, and SHA-256 over the newline-joined paths and labels, of rows in their order."""
    return {
        "length": len(rows),
        "paths_sha256": lines_sha256(text_column(rows, "path").chunks),
        "labels_sha256": lines_sha256(text_column(rows, "label").chunks),
    }


def text_column(rows: pd.DataFrame, name: str) -> pa.ChunkedArray:
    """A column of text in Arrow's memory, as large_string: not copied where pandas holds it so already."""
    column = pa.array(rows[name], pa.large_string())
    return column if isinstance(column, pa.ChunkedArray) else pa.chunked_array([column])


def lines_sha256(chunks: Iterable[pa.LargeStringArray]) -> str:
    """SHA-256, in hex, of the texts of all chunks joined by newlines, in UTF-8; no Python string is made of them."""
    empty, newline = pa.scalar("", pa.large_string()), pa.scalar("\n", pa.large_string())
    digest = hashlib.sha256()
    first = 1
    for chunk in chunks:
        if len(chunk):
            lines = pc.binary_join_element_wise(empty, chunk, newline)  # a newline before each text
            _, offsets, data = lines.buffers()
            end = np.frombuffer(offsets, np.int64)[len(lines)]
            digest.update(memoryview(data)[first:end])  # but none before the first of all
            first = 0
    return digest.hexdigest()


def read(path: Path, columns: list[str] | None = None) -> Index:
    """Read an index and check it against the digest beside it.

    Parameters
    ----------
    columns : list of str, optional
        The only columns that `rows` shall have; all if not given.

    Raises
    ------
    UsageError
        If it is not there.
    CheckError
        If its bytes are not those that were written, or its columns or splits are not an index's.
    """
    if not path.is_file():
        raise UsageError("no index here", where=str(path), hint=ANEW)
    if not path.with_suffix(".json").is_file():
        raise UsageError(
            "an index without the JSON that belongs to it",
            where=str(path.with_suffix(".json")),
            expected=f"an object with schema_version {SCHEMA_VERSION}, digest (SHA-256 of the CSV) and classes",
            hint=ANEW,
        )
    description = read_json(path.with_suffix(".json"), "digest", "classes")
    version = [("schema version", SCHEMA_VERSION, description.get("schema_version"))]
    require_same(version, "an index of another release", where=str(path.with_suffix(".json")), hint=ANEW)
    with ThreadPoolExecutor(1) as pool:  # parsing and digesting take equally long
        table = pool.submit(_read_csv, path, columns)
        digest = sha256_file(path)
    require_same(
        [("digest", description["digest"], digest)],
        "the index was changed after it was written",
        where=f"{path}, against the JSON beside it",
        hint="restore both, with `dvc checkout --force` where DVC keeps them, or run `dvc repro --force index`",
    )
    try:
        rows = table.result().to_pandas()
    except (pa.ArrowException, ValueError) as error:
        raise CheckError(
            f"not an index: {error}",
            where=str(path),
            expected="a CSV in UTF-8 with columns " + ", ".join(columns or COLUMNS),
            hint=ANEW,
        ) from None
    _check_rows(rows, description, path, columns or COLUMNS)
    return Index(rows, description)


def _check_rows(rows: pd.DataFrame, description: dict[str, Any], path: Path, columns: list[str]) -> None:
    """Refuse what only a hand could have written, its digest included."""
    missing = [name for name in columns if name not in rows]
    if missing:
        absent = f"columns are missing: {', '.join(missing)}"
        raise CheckError(absent, where=str(path), expected=", ".join(columns), hint=ANEW)
    for name, known in (("split", [*SPLITS, TRANSFER]), ("label", [*description["classes"], ""])):
        odd = sorted(set(rows[name].unique()) - set(map(str, known))) if name in rows else []
        if odd:
            row = int((rows[name] == odd[0]).to_numpy().argmax())
            raise CheckError(
                f"a {name} that is none: {odd[0]!r}",
                where=f"{path}, data row {row}, column {name}",
                expected=", ".join(filter(None, map(str, known))),
                hint=ANEW,
            )
    if {"label", "split"} <= set(rows):
        for row in np.flatnonzero((rows["label"] == "") != (rows["split"] == TRANSFER))[:1].tolist():
            raise CheckError(
                f"an image labelled {rows['label'][row] or 'as nothing'} in the split `{rows['split'][row]}`",
                where=f"{path}, data row {row}",
                expected=f"no label in `{TRANSFER}`, and one in each other split",
                hint=ANEW,
            )


def _read_csv(path: Path, columns: list[str] | None) -> pa.Table:
    """Every cell as text: neither numbers nor missing values are made of any."""
    with path.open(encoding="utf-8", newline="") as file:
        names = next(csv.reader(file), [])
    require_few_columns(len(names), path)
    return arrow_csv.read_csv(
        path,
        read_options=arrow_csv.ReadOptions(use_threads=False),
        parse_options=arrow_csv.ParseOptions(newlines_in_values=True),
        convert_options=arrow_csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.large_string()), include_columns=columns or names
        ),
    )
