"""The canonical index: which images there are, in which order, with which label and in which split.

Everything downstream is bound to it by digest: images, soft labels, targets and predictions.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..errors import CheckError, UsageError
from ..files import atomic, read_json, sha256, sha256_file, write_json
from ..params import IndexParams
from ..progress import track
from .reader import read_corpus, read_subjects

SCHEMA_VERSION = 1
COLUMNS = ["sample_id", "path", "label", "split", "source", "subject", "group"]
SPLITS = ["train", "val", "calib", "test"]
# Where copies or a subject straddle official parts, the evaluation part keeps its image.
PRECEDENCE = {"test": 0, "val": 1, "train": 2}


@dataclass(frozen=True)
class Index:
    """The rows (a frame of `COLUMNS`, in canonical order) and the description beside them."""

    rows: pd.DataFrame
    description: dict[str, Any]

    @property
    def digest(self) -> str:
        """SHA-256 of the CSV's bytes; what every artifact of this index carries."""
        return str(self.description["digest"])

    def positions(self, split: str) -> np.ndarray:
        """Row numbers of one split, int64, ascending."""
        return np.flatnonzero(self.rows["split"].to_numpy() == split)

    def codes(self, classes: list[str]) -> np.ndarray:
        """Labels as positions in `classes`, int64, (N,)."""
        return pd.Categorical(self.rows["label"], categories=classes).codes.astype(np.int64)


def sample_id(pixels: np.ndarray) -> str:
    """Digest of decoded pixels (H, W, 3) and their shape: two files are one image if these agree."""
    return sha256(f"{pixels.shape[0]}x{pixels.shape[1]}:".encode() + np.ascontiguousarray(pixels).tobytes())


def build(corpus_dir: Path, classes: list[str], settings: IndexParams) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Read a corpus, remove exact duplicates and leaks, and give every image a split.

    An image that appears more than once is kept once: the copy of the official test part before that of val and
    train, then the copy of the source named first in corpus.yaml. Copies that disagree on the label are all dropped.
    A training image of a subject who is also in an official evaluation part is dropped. What remains of the
    official training part is shared out by subject (by image where the subject is unknown): a group's place
    follows from its name and `settings.seed` alone, so that new images move no old one.

    Returns
    -------
    rows : DataFrame
        `COLUMNS`, ordered by path.
    report : dict
        `counts` after each step, and every duplicate, conflict and leak by path.
    """
    subjects = read_subjects(corpus_dir)
    found = pd.DataFrame(
        [
            (sample_id(record.pixels), record.path, record.label, record.split or "train", source)
            for source, record in track(read_corpus(corpus_dir, classes), "reading faces")
        ],
        columns=["sample_id", "path", "label", "split", "source"],
    )
    unknown = sorted(set(subjects) - set(found["path"]))
    if unknown:
        raise CheckError(
            f"paths in the table of subjects that are not in the corpus: {len(unknown)}, first {unknown[0]}",
            where=str(corpus_dir),
            expected="paths relative to it, as in rafdb/Image/aligned/train_00001_aligned.jpg or fer2013/fer2013.csv#0",
            hint="correct the rows or take them out, or restore the images",
        )
    found["subject"] = found["path"].map(subjects).fillna("")
    found["group"] = found["subject"].where(found["subject"] != "", found["sample_id"])
    found["rank"] = found["split"].map(PRECEDENCE)

    conflicting = found.groupby("sample_id")["label"].transform("nunique") > 1
    conflicts, agreed = found[conflicting], found[~conflicting]
    # Stable sorting keeps the order in which corpus.yaml names the sources.
    kept = agreed.sort_values("rank", kind="stable").drop_duplicates("sample_id")
    duplicates = agreed.drop(kept.index)

    best = kept.groupby("group")["rank"].transform("min")
    leaks = kept[kept["rank"] > best]
    rows = kept.drop(leaks.index)

    place = rows["group"].map(lambda group: int(sha256(f"{settings.seed}:{group}")[:13], 16) / 16**13)
    trainable = rows["split"] == "train"
    split = rows["split"].mask(trainable & (place < settings.val + settings.calib), "calib")
    rows["split"] = split.mask(trainable & (place < settings.val), "val")
    rows = rows.sort_values("path", kind="stable")[COLUMNS].reset_index(drop=True)

    kept_path = dict(zip(kept["sample_id"], kept["path"], strict=True))
    report = {
        "counts": {
            "read": _counts(found),
            "without_conflicts": _counts(agreed),
            "without_duplicates": _counts(kept),
            "without_leaks": _counts(rows),
        },
        "duplicates": [
            {"dropped": row.path, "kept": kept_path[row.sample_id]}
            for row in duplicates.sort_values("path").itertuples()
        ],
        "conflicts": [
            {"sample_id": identifier, "labels": dict(sorted(zip(group["path"], group["label"], strict=True)))}
            for identifier, group in conflicts.groupby("sample_id")
        ],
        "leaks": [{"dropped": row.path, "subject": row.subject} for row in leaks.sort_values("path").itertuples()],
    }
    return rows, report


def _counts(rows: pd.DataFrame) -> dict[str, Any]:
    return {
        "images": len(rows),
        "by_source": {str(k): int(v) for k, v in rows["source"].value_counts().sort_index().items()},
        "by_split": {str(k): int(v) for k, v in rows["split"].value_counts().sort_index().items()},
        "by_class": {str(k): int(v) for k, v in rows["label"].value_counts().sort_index().items()},
    }


def write(path: Path, rows: pd.DataFrame, classes: list[str], corpus: str) -> dict[str, Any]:
    """Write the index CSV, and beside it a JSON with its digests; return the latter.

    Raises
    ------
    CheckError
        If a split is empty or lacks a class: neither training nor macro F1 means anything then.
    """
    for split in SPLITS:
        present = set(rows.loc[rows["split"] == split, "label"])
        absent = [name for name in classes if name not in present]
        if absent:
            counts = ", ".join(f"{name} {int((rows['split'] == name).sum())}" for name in SPLITS)
            raise CheckError(
                f"split `{split}` has no image of {', '.join(absent)}" if present else f"split `{split}` is empty",
                where=f"corpus `{corpus}`: {counts} images",
                expected="every class in every split",
                hint="the sources must mark some images of each class as test (test/CLASS/FILE, test_0001, PrivateTest)"
                if split == "test"
                else "add training images, or raise index.val or index.calib",
            )
    with atomic(path) as temporary:
        rows.to_csv(temporary, index=False, lineterminator="\n", encoding="utf-8")
    description = {
        "schema_version": SCHEMA_VERSION,
        "digest": sha256_file(path),
        "corpus": corpus,
        "classes": classes,
        "length": len(rows),
        "splits": {split: digests(rows[rows["split"] == split]) for split in SPLITS},
    }
    write_json(path.with_suffix(".json"), description)
    return description


def digests(rows: pd.DataFrame) -> dict[str, Any]:
    """Length, and SHA-256 over the newline-joined paths and labels, of rows in their order."""
    return {
        "length": len(rows),
        "paths_sha256": sha256("\n".join(rows["path"])),
        "labels_sha256": sha256("\n".join(rows["label"])),
    }


def read(path: Path) -> Index:
    """Read an index and check it against the digest beside it.

    Raises
    ------
    UsageError
        If it is not there.
    CheckError
        If its bytes are not those that were written, or its columns or splits are not an index's.
    """
    if not path.is_file():
        raise UsageError("no index here", where=str(path), hint="run `dvc repro index`")
    description = read_json(path.with_suffix(".json"))
    if description.get("schema_version") != SCHEMA_VERSION:
        raise CheckError(
            f"index schema version {description.get('schema_version')}",
            where=str(path.with_suffix(".json")),
            expected=str(SCHEMA_VERSION),
            hint="run `dvc repro index`",
        )
    if sha256_file(path) != description["digest"]:
        raise CheckError(
            "the index was changed after it was written",
            where=str(path),
            expected=f"digest {description['digest'][:12]}, from the JSON beside it",
            hint="restore it with `dvc checkout --force`, or run `dvc repro --force index`",
        )
    rows = pd.read_csv(path, dtype=str, keep_default_na=False)
    return Index(rows, description)
