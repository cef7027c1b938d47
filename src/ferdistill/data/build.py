"""From the rows of every source to the canonical index: no duplicate, no leak, and a reason for every row left out."""

from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ..errors import CheckError
from ..files import atomic, sha256, sha256_file, write_json
from ..params import IndexParams
from ..progress import track
from . import duplicates
from .description import read_description
from .index import ATTRIBUTE, COLUMNS, SCHEMA_VERSION, SPLITS, TRANSFER, digests, splits_of
from .looks import look_at
from .memo import NOTHING_KNOWN, Memo
from .reader import Votes, read_attributes, read_corrections, read_rows, read_subjects, read_votes
from .sources import Dropped, Record, wrong
from .thumbnails import Thumbnails
from .told import agreed, corrected

# Where copies or a subject straddle official parts, the evaluation part keeps its image.
RANK = {"test": 0, "val": 1, "train": 2, "": 2}
UNLABELLED = 3  # the rank of an image without a label: any copy that has one stays
NAMED = 10  # unreadable rows that an error names, and copies that a conflict does


@dataclass(frozen=True)
class Built:
    """What `build` made of a corpus.

    `rows` is the index: `index.COLUMNS` and, where a source has them, `box`, `vote_<class>`, `votes` and
    `attribute_<name>`; by path.
    `left_out` has every other row of every source: path, source, step, reason, kept (the path of the copy that stays).
    """

    rows: pd.DataFrame
    left_out: pd.DataFrame
    report: dict[str, Any]  # counts after each step, and every duplicate, conflict and leak


def build(
    corpus_dir: Path, classes: list[str], settings: IndexParams, workers: int | None = None, memo: Memo = NOTHING_KNOWN
) -> Built:
    """Read a corpus and remove what would make its splits dishonest.

    1. Rows that a source's rules leave out (a label that is no class, …) are dropped; rows that cannot be read stop the
       build, or are set aside, as `settings.unreadable` says.
    2. Copies: exact (equal decoded pixels), near and, if `settings.mirrored`, mirrored (see `duplicates`). Of a group
       the copy of the official test part stays, before val and train, before the source named first in corpus.yaml,
       before the first path.
       A labelled copy stays before one without a label. Every copy that goes is directly a copy of the one that stays:
       copies of copies are not chained.
    3. Where copies disagree on the label, `settings.conflicts` decides: all go (`drop`), the label of most stays, and
       none at a tie (`majority`), or the label of the copy that stays (`precedence`).
    4. A training image of a subject who is also in an official evaluation part is a leak and goes.
    5. What remains of the training parts is shared out by `assign_splits`.
    6. Images without a label are the split `transfer`, but for those of a subject who is in val, calib or test: leaks.

    Raises
    ------
    UsageError, CheckError
        If the corpus or its description is wrong, or, where `settings.unreadable` is `strict`, a row is.
    """
    left_out: list[dict[str, str]] = []
    found, thumbnails, listed = _read(corpus_dir, classes, settings, workers, memo, left_out)
    steps = [_count("read", found)]

    found = _mark_copies(found, thumbnails, settings)
    kept, conflicts = _resolve_conflicts(found, settings.conflicts)
    lost = found["copy_of"].isin({conflict["kept"] for conflict in conflicts if conflict["label"] is None})
    copies_of = {conflict["kept"]: conflict["labels"] for conflict in conflicts}
    for row in found[lost].itertuples():
        others = [f"{label} {path}" for path, label in copies_of[str(row.copy_of)].items() if path != row.path]
        known = f"labelled {row.label!s}" if row.label else "unlabelled"
        reason = f"{known}, copies {', '.join(_first(others))}"
        left_out.append(_excluded(row.path, row.source, "conflict", reason))
    steps.append(_count("without_conflicts", found[~lost]))

    copies = found[~lost & (found["path"] != found["copy_of"])]
    for row in copies.itertuples():
        left_out.append(_excluded(row.path, row.source, "duplicate", row.kind, row.copy_of))
    steps.append(_count("without_duplicates", kept))

    leaks, rows = _share_out(kept, settings)
    for row in leaks.itertuples():
        part = "an official evaluation part" if row.label else "val, calib or test"
        left_out.append(_excluded(row.path, row.source, "leak", f"{row.group} is also in {part}"))
    rows = rows.sort_values("path").reset_index(drop=True)
    steps.append(_count("indexed", rows))

    optional = [name for name in ("box", *(f"vote_{name}" for name in classes), "votes") if name in rows]
    optional += [name for name in map(str, rows) if name.startswith(ATTRIBUTE) and rows[name].ne("").any()]
    excluded = pd.DataFrame(left_out, columns=["path", "source", "step", "reason", "kept"])
    excluded = excluded.sort_values(["path", "source", "reason"]).reset_index(drop=True)
    assert len(excluded) + len(rows) == listed, "a row is neither in the index nor listed as left out"
    report = {
        "rows_listed": listed,
        "left_out": {step: int(count) for step, count in excluded["step"].value_counts().sort_index().items()},
        "dropped": _reasons(excluded[excluded["step"] == "dropped"]),
        "quarantined": _reasons(excluded[excluded["step"] == "quarantined"]),
        "steps": steps,
        "stratification": stratification(rows, settings),
        "duplicates": _dropped(copies, {"copy_of": "kept", "kind": "kind"}),
        "conflicts": conflicts,
        "leaks": _dropped(leaks, {"group": "group"}),
    }
    if corrections := read_corrections(corpus_dir, classes):
        report["relabelled"] = [
            {"path": path} | one._asdict() for path, one in sorted(corrections.items()) if one.label != ""
        ]
    return Built(rows[[*COLUMNS, *optional]], excluded, report)


def _share_out(kept: pd.DataFrame, settings: IndexParams) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows that would leak a subject into an evaluation, and the others with their `split`."""
    unlabelled = kept["label"] == ""
    transfer, known = kept[unlabelled].assign(split=TRANSFER), kept[~unlabelled]
    best = known.groupby("group")["rank"].transform("min")
    leaks, rows = known[known["rank"] > best], known[known["rank"] == best].copy()
    rows["split"] = assign_splits(rows, settings)
    if len(transfer):
        judged = transfer["group"].isin(rows.loc[rows["split"] != "train", "group"])
        leaks, rows = pd.concat([leaks, transfer[judged]]), pd.concat([rows, transfer[~judged]])
    return leaks, rows


def _read(
    corpus_dir: Path,
    classes: list[str],
    settings: IndexParams,
    workers: int | None,
    memo: Memo,
    left_out: list[dict[str, str]],
) -> tuple[pd.DataFrame, Thumbnails, int]:
    """All images in order of precedence; their thumbnails, in that order; and how many rows are listed."""
    unreadable: list[CheckError] = []

    def set_aside(source: str, path: str, error: CheckError) -> None:
        unreadable.append(error)
        left_out.append(_excluded(path, source, "quarantined", _one_line(error)))

    records: list[Record] = []
    sources: list[str] = []  # of each record
    source_of: dict[str, str] = {}
    listed, all_known = 0, True
    for source, row in read_rows(corpus_dir, classes):
        listed += 1
        if isinstance(row, CheckError):
            all_known = False  # it may be in the tables below
            set_aside(source, row.where, row)
        elif isinstance(row, Dropped):
            left_out.append(_excluded(row.path, source, "dropped", row.reason))
        elif not row.label and row.split in ("val", "test"):
            expected = "labels in an official part that scores are computed on"
            what = f"an image without a label in the official {row.split} part"
            set_aside(source, row.path, wrong(what, str(corpus_dir / row.path), expected))
        elif row.path in source_of:
            raise CheckError(
                f"an image is listed twice: {row.path}",
                where=f"sources `{source_of[row.path]}` and `{source}`",
                expected="each image once",
                hint="take one of the sources, or the repeated row, out",
            )
        else:
            source_of[row.path] = source
            records.append(row)
            sources.append(source)
    subjects, votes = read_subjects(corpus_dir), read_votes(corpus_dir, classes)
    attributes, corrections = read_attributes(corpus_dir), read_corrections(corpus_dir, classes)
    if all_known:
        paths = source_of.keys() | {out["path"] for out in left_out}
        _require_known(subjects, "subjects", corpus_dir, paths)
        _require_known(votes, "votes", corpus_dir, paths)
        _require_known(attributes, "attributes", corpus_dir, paths)
        _require_known(corrections, "corrections", corpus_dir, paths)
    del source_of
    for number in reversed(range(len(records) if corrections else 0)):
        correction = corrections.get(records[number].path)
        if correction:
            records[number] = corrected(records[number], correction, corpus_dir)
            if not correction.label:
                reason = f"label error, by {correction.by}"
                left_out.append(_excluded(records.pop(number).path, sources.pop(number), "dropped", reason))

    sample_ids, thumbnails = look_at(corpus_dir, records, memo, workers)
    readable = []
    for number, found_id in enumerate(sample_ids):
        if isinstance(found_id, CheckError):
            set_aside(sources[number], records[number].path, found_id)
        else:
            readable.append(number)
    if unreadable and settings.unreadable == "strict":
        raise _strict(unreadable, corpus_dir)
    if not readable:
        raise _none_left(listed, left_out, corpus_dir)
    found = _table([_with_votes(records[number], votes, corpus_dir) for number in readable], subjects)
    told = [agreed(records[number], attributes.get(records[number].path, {}), corpus_dir) for number in readable]
    for name in sorted({name for one in told for name in one}):
        found[f"{ATTRIBUTE}{name}"] = [one.get(name, "") for one in told]
    found["sample_id"] = [str(sample_ids[number]) for number in readable]
    found["source"] = [sources[number] for number in readable]
    order = {source.name: place for place, source in enumerate(read_description(corpus_dir).sources)}
    found["order"] = found["source"].map(order)
    found["rank"] = found["official_split"].map(RANK).where(found["label"] != "", UNLABELLED)
    found = found.sort_values(["rank", "order", "path"])
    places = np.array(readable)[found.index]
    return found.reset_index(drop=True), thumbnails.take(places), listed


def _table(records: list[Record], subjects: dict[str, str]) -> pd.DataFrame:
    """Path, label, official_split and subject of each record and, where any has them, box, votes and their number."""
    found = pd.DataFrame(
        {
            "path": [record.path for record in records],
            "label": [record.label for record in records],
            "official_split": [record.split or "" for record in records],
            "subject": [subjects.get(record.path, record.subject) for record in records],
        }
    )
    boxes = {row: " ".join(map(str, record.box)) for row, record in enumerate(records) if record.box}
    if boxes:
        found["box"] = pd.Series(boxes)
    voted = {row: record for row, record in enumerate(records) if record.votes}
    for name in dict.fromkeys(name for record in voted.values() for name in record.votes or ()):
        found[f"vote_{name}"] = pd.Series({row: (record.votes or {}).get(name) for row, record in voted.items()})
    if voted:
        voters = {row: "" if record.voters is None else str(record.voters) for row, record in voted.items()}
        found["votes"] = pd.Series(voters)
    return found


def _none_left(listed: int, left_out: list[dict[str, str]], corpus_dir: Path) -> CheckError:
    """Why nothing is left to index: the steps at which rows went, and the reasons of the first of each."""
    steps: dict[str, list[str]] = defaultdict(list)
    for out in left_out:
        steps[out["step"]].append(out["reason"])
    told = [
        f"{len(reasons)} {step}: {'; '.join(_first(list(dict.fromkeys(reasons))))}" for step, reasons in steps.items()
    ]
    return CheckError(
        "\n    ".join([f"of {listed} rows none is left to index:", *told]),
        where=str(corpus_dir),
        expected="images that can be read, with labels that corpus.yaml or params.yaml knows",
        hint="correct the rows; of labels, say under `classes` of the source in corpus.yaml which class each is",
    )


def _strict(errors: list[CheckError], corpus_dir: Path) -> CheckError:
    """One error that names all rows that cannot be read, or the first of them."""
    quarantine = "or set index.unreadable: quarantine in params.yaml, which sets such rows aside and lists them"
    if len(errors) == 1:
        (only,) = errors
        hint = f"{only.hint or 'correct the row, or take it out'}; {quarantine}"
        return CheckError(only.what, where=only.where, expected=only.expected, hint=hint)
    lines = _first([_one_line(error) for error in errors])
    return CheckError(
        "\n    ".join([f"{len(errors)} rows cannot be read:", *lines]),
        where=str(corpus_dir),
        expected="every row readable, since index.unreadable is strict",
        hint=f"correct them, or take them out; {quarantine}",
    )


def _first(items: list[str]) -> list[str]:
    return [*items[:NAMED], f"and {len(items) - NAMED} more"] if len(items) > NAMED else items


def _one_line(error: CheckError) -> str:
    return "; ".join(part for part in (error.what, error.where, error.expected) if part)


def _require_known(table: dict[str, Any], what: str, corpus_dir: Path, paths: set[str]) -> None:
    """Refuse a table by path with paths that the sources do not list."""
    unknown = sorted(table.keys() - paths)
    if unknown:
        raise CheckError(
            f"paths in the table of {what} that are not in the corpus: {len(unknown)}, first {unknown[0]}",
            where=str(corpus_dir),
            expected="paths relative to it, as folder/image.jpg, or table.csv#0 for a row",
            hint="correct the rows or take them out, or restore the images",
        )


def _with_votes(record: Record, votes: dict[str, Votes], corpus_dir: Path) -> Record:
    """A record with the votes that the corpus's own table has for it."""
    if record.path not in votes:
        return record
    if record.votes is not None:
        raise CheckError(
            f"votes twice: {record.path} has some of its source, and some in the table of votes",
            where=str(corpus_dir),
            expected="one of them",
            hint="take `votes` out of corpus.yaml, or these rows out of the table",
        )
    shares, voters = votes[record.path]
    return replace(record, votes=shares, voters=voters)


def _mark_copies(found: pd.DataFrame, thumbnails: Thumbnails, settings: IndexParams) -> pd.DataFrame:
    """Add `copy_of`, the path of the copy that stays; `kind` (exact, near, mirrored); and `group`.

    A group is all that hangs together by subject or by copies: a subject whose picture is a copy of another's is
    taken for the same one, and an image without a subject for that of its copy.
    """
    items = found[["sample_id", "path"]].drop_duplicates("sample_id")  # in order of precedence
    thumbnails, items = thumbnails.take(items.index.to_numpy()), items.reset_index(drop=True)
    pairs = duplicates.find(thumbnails, settings.near.distance, settings.near.correlation, settings.mirrored)
    neighbours: dict[int, list[tuple[int, str]]] = defaultdict(list)
    for i, j, mirrored in pairs[["i", "j", "mirrored"]].itertuples(index=False):
        neighbours[int(i)].append((int(j), "mirrored" if mirrored else "near"))
    owner, kind = np.arange(len(items)), np.full(len(items), "", dtype=object)
    for item in sorted(neighbours):
        if owner[item] == item:
            for other, how in neighbours[item]:
                if owner[other] == other:
                    owner[other], kind[other] = item, how

    place = pd.factorize(found["sample_id"])[0]
    found["copy_of"] = items["path"].array.take(owner[place])
    found["kind"] = np.where(found["path"] == found["copy_of"], "", np.where(kind[place] == "", "exact", kind[place]))

    named = found[found["subject"] != ""]
    subject, names = pd.factorize(named["subject"], sort=True)
    nodes = len(items) + len(names)
    links = coo_array((np.ones(len(named)), (owner[place][named.index], len(items) + subject)), shape=(nodes, nodes))
    component = connected_components(links, directed=False)[1]
    # The first name in the alphabet names the group; where there is none, the image itself does.
    name_of = np.full(nodes, len(names))
    np.minimum.at(name_of, component[len(items) :], np.arange(len(names)))
    of_row = name_of[component[owner[place]]]
    found["group"] = items["sample_id"].array.take(owner[place])
    found.loc[of_row < len(names), "group"] = np.asarray(names, dtype=object)[of_row[of_row < len(names)]]
    return found


def _resolve_conflicts(found: pd.DataFrame, policy: str) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    """The rows that stay, relabelled where the policy says so, and every group whose copies disagree."""
    labels = found["label"].where(found["label"] != "")  # of which what is missing contradicts nothing
    disagree = (labels.groupby(found["copy_of"]).transform("nunique") > 1) & labels.notna()
    kept = found[found["path"] == found["copy_of"]].copy()
    conflicts = []
    for path, group in found[disagree].groupby("copy_of"):
        counts = Counter(group["label"].sort_values())
        label = None
        if policy == "precedence":
            label = str(group.loc[group["path"] == path, "label"].item())
        elif policy == "majority":
            (first, most), (_, next_most) = counts.most_common(2)
            label = first if most > next_most else None
        conflicts.append(
            {
                "kept": path,
                "label": label,
                "counts": dict(counts),
                "labels": dict(sorted(zip(group["path"], group["label"], strict=True))),
            }
        )
    label_of = {conflict["kept"]: conflict["label"] for conflict in conflicts}
    kept["label"] = [
        label_of.get(path, label)
        for path, label in zip(kept["path"].to_numpy(object), kept["label"].to_numpy(object), strict=True)
    ]
    return kept[kept["label"].notna()].copy(), conflicts


def assign_splits(rows: pd.DataFrame, settings: IndexParams) -> np.ndarray:
    """Share the training images out to train, val and calib, and those without an official split to test too.

    A group goes as a whole, and its place follows from its name and `settings.seed` alone, by a digest: images that
    come later move no old one. So classes are stratified in expectation; `choose_seed` finds a seed under which they
    are in fact, and `stratification` says how far they are from it.

    Parameters
    ----------
    rows : DataFrame
        With `group` and `official_split`: test, val, train or empty.

    Returns
    -------
    array of str, (N,)
        Out of `SPLITS`.
    """
    groups, of_row = np.unique(rows["group"].to_numpy(dtype=str), return_inverse=True)
    shared_out = np.array(SPLITS)[_shared_out(_places(groups, settings.seed)[of_row], _is_free(rows), settings)]
    official = rows["official_split"].to_numpy(dtype=str)
    return np.where(_is_trainable(rows), shared_out, official)


def choose_seed(rows: pd.DataFrame, settings: IndexParams, tries: int) -> tuple[int, float, int]:
    """Of the seeds from 0 to `tries` - 1, the one that stratifies the classes best.

    A class absent from a split, without which there is no index, weighs more than any deviation. The choice looks at
    labels and groups alone, never at a result, and is made once: from then on the seed stands in params.yaml and old
    images keep their split.

    Returns
    -------
    seed : int
    deviation : float
        The largest, as in `stratification`.
    absent : int
        How often a class is absent from a split that shall have some of its images; 0 if any seed brings that about.
    """
    rows = rows[_is_trainable(rows)]
    groups, of_row = np.unique(rows["group"].to_numpy(dtype=str), return_inverse=True)
    free, labels = _is_free(rows), pd.factorize(rows["label"], sort=True)[0]
    expected = _expected(labels, free, settings)
    best = (len(expected) * len(SPLITS), np.inf, 0)
    for seed in track(range(tries), "trying seeds", total=tries):
        found = _shares(labels, _shared_out(_places(groups, seed)[of_row], free, settings))
        absent = int(((found == 0) & (expected > 0)).sum())
        best = min(best, (absent, float(np.abs(found - expected).max()), seed))
    absent, deviation, seed = best
    return seed, deviation, absent


def stratification(rows: pd.DataFrame, settings: IndexParams) -> dict[str, Any]:
    """Which share of each class's images that were shared out went to which split, beside what was asked for.

    Returns
    -------
    dict
        `expected` and `found`, by class (and `all`) and split; `largest_deviation` between them.
    """
    rows = rows[_is_trainable(rows)]
    labels, names = pd.factorize(rows["label"], sort=True)
    expected = _expected(labels, _is_free(rows), settings)
    found = _shares(labels, pd.Categorical(rows["split"], categories=SPLITS).codes)

    def table(shares: np.ndarray) -> dict[str, dict[str, float]]:
        rows = [dict(zip(SPLITS, row, strict=True)) for row in shares.tolist()]
        return dict(zip([*names, "all"], rows, strict=True))

    return {
        "seed": settings.seed,
        "expected": table(expected),
        "found": table(found),
        "largest_deviation": float(np.abs(found - expected).max(initial=0)),
    }


def _places(groups: np.ndarray, seed: int) -> np.ndarray:
    """A number in [0, 1) for each group."""
    return np.array([int(sha256(f"{seed}:{group}")[:13], 16) / 16**13 for group in groups])


def _is_trainable(rows: pd.DataFrame) -> np.ndarray:
    labelled = rows["split"] != TRANSFER if "split" in rows else True
    return (rows["official_split"].isin(["train", ""]) & labelled).to_numpy()


def _is_free(rows: pd.DataFrame) -> np.ndarray:
    """Rows of groups that no official split binds, and that may go to test therefore."""
    return (rows["official_split"] == "").groupby(rows["group"]).transform("all").to_numpy()


def _shared_out(place: np.ndarray, free: np.ndarray, settings: IndexParams) -> np.ndarray:
    """Positions in `SPLITS`, (N,)."""
    conditions = [place < settings.val, place < settings.val + settings.calib, free & (place >= 1 - settings.test)]
    return np.select(conditions, [SPLITS.index(split) for split in ("val", "calib", "test")], SPLITS.index("train"))


def _shares(labels: np.ndarray, split: np.ndarray) -> np.ndarray:
    """Share of each class in each split, and of all classes together in the last row: (K + 1, 4)."""
    counts = np.bincount(labels * len(SPLITS) + split, minlength=(labels.max(initial=-1) + 1) * len(SPLITS))
    counts = counts.reshape(-1, len(SPLITS))
    counts = np.vstack([counts, counts.sum(axis=0)])
    return counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)


def _expected(labels: np.ndarray, free: np.ndarray, settings: IndexParams) -> np.ndarray:
    """The shares that params ask for, (K + 1, 4)."""
    may_test = _shares(labels, np.where(free, SPLITS.index("test"), SPLITS.index("train")))[:, SPLITS.index("test")]
    test = settings.test * may_test
    val, calib = np.full_like(test, settings.val), np.full_like(test, settings.calib)
    return np.stack([1 - val - calib - test, val, calib, test], axis=1)


def _excluded(path: Any, source: Any, step: str, reason: Any, kept: Any = "") -> dict[str, str]:
    return {"path": path, "source": source, "step": step, "reason": reason, "kept": kept}


def _dropped(rows: pd.DataFrame, columns: dict[str, str]) -> list[dict[Any, Any]]:
    named = {"path": "dropped", **columns}
    return rows.sort_values("path")[[*named]].rename(columns=named).to_dict("records")


def _reasons(excluded: pd.DataFrame) -> dict[str, dict[str, int]]:
    return {
        str(source): {str(k): int(v) for k, v in part["reason"].value_counts().sort_index().items()}
        for source, part in excluded.groupby("source")
    }


def _count(step: str, rows: pd.DataFrame) -> dict[str, Any]:
    split = "split" if "split" in rows else "official_split"

    def by(*names: str) -> dict[str, int]:
        counts = rows[[*names]].replace("", "none").groupby([*names]).size()  # no official split: none
        keys = ((key,) if isinstance(key, str) else key for key in counts.index)
        return dict(sorted(zip(map("/".join, keys), map(int, counts), strict=True)))

    return {
        "step": step,
        "images": len(rows),
        "by_source": by("source"),
        "by_split": by(split),
        "by_class": by("label"),
        "by_source_class_split": by("source", "label", split),
    }


def write_index(path: Path, rows: pd.DataFrame, classes: list[str], corpus: str) -> dict[str, Any]:
    """Write the index CSV, and beside it a JSON with its digests; return the latter.

    Raises
    ------
    CheckError
        If a split is empty or lacks a class: neither training nor macro F1 means anything then.
    """
    nowhere = [name for name in classes if name not in set(rows["label"])]
    if nowhere and len(rows):
        raise CheckError(
            f"the corpus has no image of {', '.join(nowhere)}",
            where=f"corpus `{corpus}`: {len(rows)} images in the index",
            expected=f"images of each of {', '.join(classes)}",
            hint="add a source that has them, or take these out of `classes` in params.yaml",
        )
    for split in SPLITS:
        present = set(rows.loc[rows["split"] == split, "label"])
        absent = [name for name in classes if name not in present]
        if absent:
            counts = ", ".join(f"{name} {int((rows['split'] == name).sum())}" for name in SPLITS)
            if split == "test" and (rows["official_split"] != "").all():
                hint = "the sources must mark images of each class as test (test/CLASS/FILE, test_0001, PrivateTest)"
            else:
                shares = "lower index.val and index.calib" if split == "train" else f"raise index.{split}"
                hint = f"set the index.seed that `ferdistill index seed` finds, or {shares}"
            raise CheckError(
                f"split `{split}` has no image of {', '.join(absent)}" if present else f"split `{split}` is empty",
                where=f"corpus `{corpus}`: {counts} images",
                expected="every class in every split",
                hint=hint,
            )
    with atomic(path) as temporary:
        rows.to_csv(temporary, index=False, lineterminator="\n", encoding="utf-8")
    description = {
        "schema_version": SCHEMA_VERSION,
        "digest": sha256_file(path),
        "corpus": corpus,
        "classes": classes,
        "length": len(rows),
        "splits": {split: digests(rows[rows["split"] == split]) for split in splits_of(rows)},
    }
    write_json(path.with_suffix(".json"), description)
    return description
