"""Soft labels that somebody exported, as a teacher: matched to an index by their paths, held against its labels."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from safetensors.numpy import save_file

from .. import tensor_files
from ..data.index import Index
from ..errors import CheckError, UsageError, require_same
from ..files import atomic, read_json, sha256_file, write_json
from ..params import SoftLabelsTeacher, TableTeacher, VotesTeacher
from . import canary, foreign, labelled
from .parts import TOLERANCE, SoftLabels, covered, distributions
from .repair import FLOOR

TENSORS = "logits.safetensors"


class Table(NamedTuple):
    """What a teacher says of the images of an index, where that is all that is known of it."""

    logits: np.ndarray  # (N, K) float32 at temperature 1, row i being row i of the index; NaN where it says nothing
    provenance: dict[str, Any]


def table_of(teacher: TableTeacher, index: Index, classes: list[str]) -> Table:
    """What such a teacher says, whichever it is: see `read` and `of_votes`."""
    partial = teacher.covers == "partial"
    if isinstance(teacher, VotesTeacher):
        return of_votes(index, classes, smoothing=teacher.votes.smoothing, partial=partial)
    assert isinstance(teacher, SoftLabelsTeacher)
    return read(Path(teacher.softlabels), index, classes, temperature=teacher.temperature, partial=partial)


def read(place: Path, index: Index, classes: list[str], *, temperature: float | None, partial: bool) -> Table:
    """Anybody's soft labels, from a file or a directory that `foreign` reads, in the order of an index.

    Rows are matched by path alone, whatever order or split they were filed under; those of images that the index does
    not have, as copies that it left out, are counted and passed over. Probabilities p become log p, a zero being taken
    for `FLOOR`; what was made at temperature T is multiplied by T, which undoes it. `partial` allows rows of the index
    to be missing, as long as each class has one in train. At last the canary looks whether values and labels agree.

    The provenance has `from`, `kind`, `kind_from`, `temperature`, `rows`, `left_out` (rows of no image of the index),
    `zeros` (probabilities), `covered` (by split) and what the canary said.

    Raises
    ------
    UsageError
        If there is nothing at `place`, or the temperature of probabilities is not known.
    CheckError
        If it cannot be read, or holds more than one set of soft labels; if it has no paths, or other classes; a label
        is no class or contradicts the index; a path has two rows that differ; a row is not finite, or probabilities do
        not sum to 1; the file states another temperature; rows are missing; or the canary finds them out of step.
    """
    soft = foreign.read_any(place)
    if damaged := ((soft.manifest or {}).get("provenance") or {}).get("damaged"):
        raise CheckError(
            f"soft labels put out of step for a study: {damaged}", where=str(place), expected="intact ones"
        )
    made_at = _temperature(soft, temperature)
    columns = canary.class_columns(soft, classes)
    frame, values = _rows(soft, columns)
    _check_labels(frame, index, classes)
    at = pd.Index(index.rows["path"]).get_indexer(pd.Index(frame["path"]))
    if (at < 0).all():
        raise CheckError(
            "no path of these soft labels is in the index",
            where=f"{place}: {frame['path'].iloc[0]}, …" if len(frame) else str(place),
            expected=f"paths as {index.rows['path'].iloc[0]}",
            hint="write the paths as the index has them, relative to the corpus",
        )
    kept = _without_copies(frame, values, at)
    logits = np.full((len(index.rows), len(classes)), np.nan, np.float32)
    logits[at[kept]] = _logits(soft, values[kept], frame.iloc[kept], made_at)
    has = covered(logits)
    _check_coverage(str(place), index, classes, has, partial)
    provenance = {
        "from": place.name,
        "kind": soft.kind,
        "kind_from": soft.kind_from,
        "temperature": made_at,
        "rows": len(frame),
        "left_out": int((at < 0).sum()),
        "zeros": int((values[kept] < FLOOR).sum()) if soft.kind == "probabilities" else 0,
        "covered": _by_split(has, index),
        "canary": _ask_canary(str(place), logits, has, index, classes),
    }
    return Table(logits, provenance)


def of_votes(index: Index, classes: list[str], *, smoothing: float, partial: bool) -> Table:
    """The annotators as a teacher: the logarithm of each image's votes as shares, in the order of an index.

    Of n votes with the shares s the teacher says (n s + smoothing / K) / (n + smoothing): few votes count less against
    an even distribution than many. Where only shares are known, they are taken as they are. A zero is taken for
    `FLOOR`. An image whose votes are all zero, or that has none, is not covered.

    Raises a CheckError if no image has votes, rows are missing that must not be, or the canary finds the votes out of
    step with the labels.
    """
    where = f"index of corpus `{index.description['corpus']}`" if "corpus" in index.description else "index"
    shares = index.votes(classes)
    if shares is None:
        raise CheckError(
            "the index has no votes",
            where=where,
            expected="a source with annotators' votes, or a table of them that corpus.yaml names",
            hint="take this teacher out of `teachers`, or add votes: docs/corpora.md",
        )
    voters = index.voters()[:, None]
    smoothed = (voters * shares + smoothing / len(classes)) / (voters + smoothing)
    shares = np.where(np.isnan(voters), shares, smoothed)
    logits = np.log(np.maximum(shares, FLOOR)).astype(np.float32)  # NaN stays NaN
    has = covered(logits)
    _check_coverage(where, index, classes, has, partial)
    provenance = {
        "from": "votes",
        "smoothing": smoothing,
        "zeros": int((shares < FLOOR).sum()),
        "covered": _by_split(has, index),
        "canary": _ask_canary(where, logits, has, index, classes),
    }
    return Table(logits, provenance)


def save(table: Table, directory: Path, index: Index, classes: list[str], *, teacher: str, partial: bool) -> None:
    """Write a table as a teacher's directory, with a config.json."""
    with atomic(directory / TENSORS) as temporary:
        save_file({"logits": np.ascontiguousarray(table.logits)}, temporary)
    config = {
        "teacher": teacher,
        "classes": classes,
        "index_digest": index.digest,
        "partial": partial,
        "provenance": table.provenance,
        "sha256": sha256_file(directory / TENSORS),
    }
    write_json(directory / "config.json", config)


def load(directory: Path) -> tuple[np.ndarray, dict[str, Any]]:
    """The logits (N, K) that `save` wrote, and the config beside them.

    Raises UsageError if a file is missing, CheckError if it is not the one that was saved.
    """
    config = read_json(directory / "config.json", "classes", "index_digest", "partial", "provenance", "sha256")
    file, restore = directory / TENSORS, "restore it with `dvc checkout --force`"
    tensors = tensor_files.read(file, expected="a teacher's logits", hint=restore)
    facts = [("digest", config["sha256"], sha256_file(file)), ("tensors", ["logits"], list(tensors))]
    require_same(facts, "a teacher's logits are not those that were saved", where=str(file), hint=restore)
    return tensors["logits"], config


def _temperature(soft: SoftLabels, asked: float | None) -> float:
    """The temperature that undoes how the values were made."""
    said = soft.temperature
    if asked is not None and said is not None and asked != said:
        raise CheckError(
            f"soft labels made at temperature {said:g}, which params.yaml says were made at {asked:g}",
            where=str(soft.directory),
            expected="one temperature",
            hint="set `temperature` of this teacher to null, which takes the file's, or correct the file",
        )
    found = said if asked is None else asked
    if found is None and soft.kind == "probabilities":
        raise UsageError(
            "nothing says at which temperature these probabilities were made",
            where=str(soft.directory),
            expected="`temperature` of this teacher in params.yaml, or an entry `temperature` in the file",
            hint="1 is a plain softmax; at a wrong one they are softened twice, or not at all",
        )
    if found is not None and not 0 < found < np.inf:
        raise CheckError(f"temperature {found}", where=str(soft.directory), expected="a positive number")
    return 1.0 if found is None else float(found)


def _rows(soft: SoftLabels, columns: np.ndarray) -> tuple[pd.DataFrame, np.ndarray]:
    """path, label (None where unknown), file and row of every row of every part, and their values (N, K), float32."""
    frames = []
    for part in soft.parts.values():
        if part.paths is None:
            raise CheckError(
                "soft labels without keys: nothing says which image each row belongs to",
                where=str(part.file),
                expected="a path for each row",
                hint="`ferdistill align repair` writes a store with keys, where it can tell",
            )
        frames.append(
            pd.DataFrame({"path": part.paths, "label": part.labels, "file": str(part.file), "row": part.rows})
        )
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes an infinity, which is refused
        values = np.concatenate([part.values[:, columns].astype(np.float32) for part in soft.parts.values()])
    return pd.concat(frames, ignore_index=True), values


def _where(frame: pd.DataFrame, row: int) -> str:
    return f"{frame['file'].iloc[row]}, row {frame['row'].iloc[row]}"


def _check_labels(frame: pd.DataFrame, index: Index, classes: list[str]) -> None:
    """Labels, where the files have them, must be classes, and those of the index."""
    told = frame["label"].notna().to_numpy() & (frame["label"] != "").to_numpy()
    for row in np.flatnonzero(told & ~frame["label"].isin(classes).to_numpy())[:1].tolist():
        raise CheckError(
            f"a label that is no class: {frame['label'].iloc[row]}",
            where=_where(frame, row),
            expected=", ".join(classes),
            hint="these soft labels are of another task, or name the classes otherwise",
        )
    label_of = pd.Series(index.rows["label"].to_numpy(), index=index.rows["path"])
    right = label_of.reindex(frame["path"])
    known = right.notna().to_numpy() & (right != "").to_numpy()
    wrong = np.flatnonzero(told & known & (right.to_numpy() != frame["label"].to_numpy()))
    for row in wrong[:1].tolist():
        raise CheckError(
            f"labels that contradict the index: {len(wrong)}, the first {frame['label'].iloc[row]} for "
            f"{frame['path'].iloc[row]}",
            where=_where(frame, row),
            expected=str(right.iloc[row]),
            hint="these soft labels are of another version of the corpus: export them anew",
        )


def _without_copies(frame: pd.DataFrame, values: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Positions of the first row of each path that the index has; copies must be alike."""
    codes, _ = pd.factorize(frame["path"])
    first_of = np.unique(codes, return_index=True)[1][codes]
    copies = np.flatnonzero((first_of != np.arange(len(frame))) & (at >= 0))
    differing = copies[(values[copies] != values[first_of[copies]]).any(axis=1)]
    for row in differing[:1].tolist():
        raise CheckError(
            f"a path with two rows that differ: {frame['path'].iloc[row]}",
            where=f"{_where(frame, row)}; the other: {_where(frame, first_of[row])}",
            expected="each path once",
            hint="nothing says which is right: take one out, or export the soft labels anew",
        )
    return np.flatnonzero((at >= 0) & (first_of == np.arange(len(frame))))


def _logits(soft: SoftLabels, values: np.ndarray, frame: pd.DataFrame, temperature: float) -> np.ndarray:
    """Logits at temperature 1, float32."""
    finite, right = np.isfinite(values).all(axis=1), distributions(values)
    for row in np.flatnonzero(~finite)[:1].tolist():
        found = f"{soft.kind} that are not finite: {(~finite).sum()} rows, the first {values[row].tolist()}"
        raise CheckError(found, where=_where(frame, row), expected="finite numbers", hint="export them anew")
    if soft.kind == "logits":
        if right.all():
            raise CheckError(
                f"probabilities that are said to be logits ({soft.kind_from})",
                where=str(soft.directory),
                expected="rows that are not distributions",
                hint="name the entry probs, or the columns prob_<class>",
            )
        return (values * temperature).astype(np.float32)
    for row in np.flatnonzero(~right)[:1].tolist():
        raise CheckError(
            f"probabilities that do not sum to 1, or are negative: {(~right).sum()} rows, the first "
            f"{values[row].tolist()}, of sum {values[row].sum():.4g}, for {frame['path'].iloc[row]}",
            where=_where(frame, row),
            expected=f"none negative, and the sum 1 within {TOLERANCE:g}",
            hint="export them anew; logits are named so by the entry, or the columns logit_<class>",
        )
    return (np.log(np.maximum(values, FLOOR)) * temperature).astype(np.float32)


def _by_split(has: np.ndarray, index: Index) -> dict[str, int]:
    return {split: int(has[index.positions(split)].sum()) for split in index.splits}


def _check_coverage(place: str, index: Index, classes: list[str], has: np.ndarray, partial: bool) -> None:
    """Every row, or of a partial teacher a row of each class in train."""
    if not partial and not has.all():
        missing = index.rows[~has]
        splits = ", ".join(f"{count} of {split}" for split, count in missing["split"].value_counts().items())
        raise CheckError(
            f"soft labels for {has.sum()} of {len(has)} images: {splits} have none, as {missing['path'].iloc[0]}",
            where=place,
            expected="soft labels, or votes, for every image of the index",
            hint="give the others theirs, or set `covers: partial`: the teacher then has no weight where it has no row",
        )
    train = index.positions("train")
    found = np.bincount(index.codes(classes)[train[has[train]]], minlength=len(classes))
    for name, count in zip(classes, found.tolist(), strict=True):
        if count == 0:
            raise CheckError(
                f"a partial teacher that covers no training image of {name}",
                where=f"{place}: {found.sum()} of {len(train)} training images",
                expected="one of each class at least",
                hint="a student would learn of this class from the other teachers alone: export rows of it too",
            )


def _ask_canary(place: str, logits: np.ndarray, has: np.ndarray, index: Index, classes: list[str]) -> dict[str, Any]:
    """What the canary says of the labelled rows that are there, in the order of the index."""
    rows = np.flatnonzero(has & (index.rows["label"] != "").to_numpy())
    orders = labelled.of_index(index).sort_orders(rows)
    found = canary.examine(logits[rows], index.codes(classes)[rows], orders=orders)
    if found["verdict"] == "misaligned":
        raise CheckError(
            f"soft labels out of step with the labels of their images: {found['why']} ({found['agreement']:.1%} agree, "
            f"{found['chance']:.1%} by chance)",
            where=place,
            expected="values that belong to the paths beside them",
            hint="find out where paths and values parted, and export both anew; `ferdistill align check` says more",
        )
    return {name: found[name] for name in ("verdict", "why", "agreement", "chance")}
