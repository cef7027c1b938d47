"""The gate: do these soft labels belong to the images of this index, row by row?"""

import hashlib
import shlex
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from ..data.index import Index, digests, text_column
from ..errors import CheckError, UsageError
from ..files import read_json, sha256_file
from . import store
from .store import Part, SoftLabels

WORKERS = 2  # directories read at once: one reads while another is compared; more would only hold more memory
ANEW = "export the soft labels anew under this index (`dvc repro`, if they are this pipeline's)"
IN_ORDER = "export with the classes of params.yaml, in that order"


class Rows(NamedTuple):
    """What the index says of one split: paths and labels, and the rows' positions in the index."""

    paths: pa.LargeStringArray
    labels: pa.LargeStringArray
    positions: np.ndarray


def check(
    directories: Sequence[Path],
    index: Index,
    classes: list[str],
    checkpoints: dict[str, str] | None = None,
    read: Callable[[Path], SoftLabels] = store.describe,
) -> dict[str, Any]:
    """Hold soft-label directories against an index and so against one another.

    Nothing is truncated, reordered or repaired: any difference is a problem. Of a store only a batch is held at a
    time unless something is wrong.

    Parameters
    ----------
    classes
        In the order in which the columns must come.
    checkpoints
        The SHA-256 of each teacher's weights as they are now; see `read_checkpoints`.
    read
        What reads a directory: `foreign.describe` if it may be anybody's.

    Returns
    -------
    dict
        As in the report's §4.2: `dirs`, `train_len_equal`, `hash_paths_train` (of the index), `labels_equal` (no label
        contradicts the index), `ok`; the same for each split under `splits`; what each directory holds under
        `soft_labels`; and `problems`, a list of {dir, split, kind, row, expected, found, hint}. `row` counts within
        the split, from 0; in the whole file where `split` is "".

    Raises a UsageError if a directory is given twice or does not exist, a CheckError if a file cannot be read at all.
    """
    resolved = [directory.resolve() for directory in directories]
    for place, directory in enumerate(resolved):
        if directory in resolved[:place]:
            raise UsageError("a directory given twice", where=str(directories[place]), hint="name each once")
    # A mask, since pandas is five times slower by positions.
    described = {
        split: digests(index.rows.loc[index.rows["split"] == split, ["path", "label"]]) for split in index.splits
    }

    def check_one(directory: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        soft = read(directory)
        problems = _check_claims(soft, index, classes, checkpoints or {})
        values_sha256 = _sweep(soft, index, described) if soft.manifest else ""
        if not values_sha256:
            soft = store.read_parts(directory) if soft.manifest else soft
            problems += _check_parts(soft, index, described, classes)
            values_sha256 = _values_sha256(soft)
        summary = {"dir": soft.directory.as_posix()}
        summary |= {name: getattr(soft, name) for name in ("teacher", "kind", "kind_from", "temperature")}
        checkpoint = soft.manifest.get("checkpoint_sha256") if soft.manifest else None
        return summary | {"checkpoint_sha256": checkpoint, "values_sha256": values_sha256}, problems

    with ThreadPoolExecutor(WORKERS) as pool:
        checked = list(pool.map(check_one, directories))
    soft_labels = [summary for summary, _ in checked]
    problems = [problem for _, found in checked for problem in found] + list(_check_copies(soft_labels))
    kinds = {split: {p["kind"] for p in problems if p["split"] in (split, "")} for split in index.splits}
    by_split = {
        split: {
            "len_equal": "length" not in kinds[split],
            "hash_paths": described[split]["paths_sha256"],
            "labels_equal": "label" not in kinds[split],
            "ok": not kinds[split],
        }
        for split in index.splits
    }
    return {
        "dirs": [directory.as_posix() for directory in directories],
        "index_digest": index.digest,
        "train_len_equal": by_split["train"]["len_equal"],
        "hash_paths_train": by_split["train"]["hash_paths"],
        "labels_equal": all(part["labels_equal"] for part in by_split.values()),
        "ok": not problems,
        "splits": by_split,
        "soft_labels": soft_labels,
        "problems": problems,
    }


def add_canary(report: dict[str, Any], examined: dict[str, Any]) -> dict[str, Any]:
    """A report of `check` with what `canary.check` says of values, which keys in order cannot vouch for.

    The report gets `canary` (`examined` as it is) and a problem of kind `values` for each verdict "misaligned";
    `row` is the likeliest first row out of step. "inconclusive" is no problem.
    """
    expected = "soft labels whose arg-max agrees with the labels of their images"
    problems = []
    for found in examined["results"]:
        if found["verdict"] == "misaligned":
            text = f"{found['why']} ({found['agreement']:.1%} agree, {found['chance']:.1%} by chance)"
            place_ = Path(found["dir"]), found["split"]
            problems.append(_problem(*place_, "values", found["slip_row"], expected, text, found["hint"]))
    wrong = {problem["split"] for problem in problems}
    splits = {
        split: facts | {"ok": facts["ok"] and not wrong & {split, ""}} for split, facts in report["splits"].items()
    }
    return report | {
        "ok": report["ok"] and not problems,
        "splits": splits,
        "problems": report["problems"] + problems,
        "canary": examined,
    }


def require(report: dict[str, Any]) -> None:
    """Stop with a CheckError unless a report of `check` is clean, naming the first problem."""
    if report["ok"]:
        return
    first = report["problems"][0]
    raise CheckError(
        f"soft labels are out of step with the index ({first['kind']}; {len(report['problems'])} problems in all): "
        f"found {first['found']}",
        where=place(first),
        expected=str(first["expected"]),
        hint=first["hint"],
    )


def place(problem: dict[str, Any]) -> str:
    """Where a problem of `check` is, in words."""
    split = f", split {problem['split']}" if problem["split"] else ""
    row = f", row {problem['row']}" if problem["row"] is not None else ""
    return problem["dir"] + split + row


def read_checkpoints(directory: Path) -> dict[str, str]:
    """The digest of each teacher's weights, from DIRECTORY/TEACHER/config.json where that file exists."""
    configs = {file.parent.name: read_json(file) for file in sorted(directory.glob("*/config.json"))}
    return {teacher: config["sha256"] for teacher, config in configs.items() if "sha256" in config}


def _sweep(soft: SoftLabels, index: Index, described: dict[str, dict[str, Any]]) -> str:
    """The digest of a store's values if it holds the index's rows in their order and nothing is wrong, else "".

    Only a batch is held at a time. The first difference ends it unnamed: `_check_parts` names it.
    """
    assert soft.manifest is not None
    wanted = {name: text_column(index.rows, name) for name in store.KEYS}
    digest, start = hashlib.sha256(), 0
    right = np.zeros(len(index.rows), bool)
    for texts, values in store.read_batches(soft):
        stop = start + len(values)
        same = all(wanted[name].slice(start, len(values)).equals(pa.chunked_array([texts[name]])) for name in texts)
        if not same or not (np.isfinite(values).all() or store.sound(values, soft.manifest).all()):
            return ""
        right[start:stop] = store.distributions(values)
        digest.update(values.data)
        start = stop
    if start < len(right) or soft.manifest.get("splits") != described:
        return ""
    return "" if any(right[index.positions(split)].all() for split in index.splits) else digest.hexdigest()


def _values_sha256(soft: SoftLabels) -> str:
    """The digest of the values in the order of the files' rows, whatever their splits."""
    digest = hashlib.sha256()
    for file in sorted({part.file for part in soft.parts.values()}):
        parts = [part for part in soft.parts.values() if part.file == file]
        order = np.argsort(np.concatenate([part.rows for part in parts]))
        digest.update(np.concatenate([part.values for part in parts])[order].data)
    return digest.hexdigest()


def _check_claims(
    soft: SoftLabels, index: Index, classes: list[str], checkpoints: dict[str, str]
) -> list[dict[str, Any]]:
    """What a directory says of itself, in its manifest or in the names of its columns."""
    facts: list[tuple[str, object, object, str]] = []
    if soft.classes is not None:
        renamed = sorted(soft.classes) == sorted(classes)
        keyed = all(part.paths is not None for part in soft.parts.values())
        repairable = f"{_repair(soft)} puts the columns in order; or {IN_ORDER}" if renamed and keyed else IN_ORDER
        facts.append(("classes", classes, soft.classes, repairable))
    if soft.temperature is not None or soft.manifest:
        hint = "softened once, they cannot be softened as others are: export them at temperature 1"
        facts.append(("temperature", 1.0, soft.temperature, hint))
    if soft.manifest:
        checkpoint = soft.manifest.get("checkpoint_sha256")
        facts += [
            ("index digest", index.digest, soft.manifest.get("index_digest"), ANEW),
            ("table digest", soft.manifest.get("table_sha256"), sha256_file(soft.directory / store.TABLE), ANEW),
            ("checkpoint", checkpoints.get(soft.teacher, checkpoint), checkpoint, f"other weights by now: {ANEW}"),
        ]
        damaged = (soft.manifest.get("provenance") or {}).get("damaged")
        facts.append(("damaged", None, damaged, "put out of step for a study of misalignment: never train on them"))
        if soft.classes == classes:
            facts.append(("classes", classes, soft.manifest["classes"], IN_ORDER))
    return [
        _problem(soft.directory, "", kind, None, expected, found, hint)
        for kind, expected, found, hint in facts
        if expected != found
    ]


def _check_copies(soft_labels: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Directories of different name or teacher must hold different values, from different checkpoints."""
    for earlier, later in combinations(soft_labels, 2):
        claims = [(Path(one["dir"]).name, one["teacher"]) for one in (earlier, later)]
        same = [
            what
            for what in ("values", "checkpoint")
            if earlier[f"{what}_sha256"] == later[f"{what}_sha256"] is not None
        ]
        if same and claims[0] != claims[1]:
            expected = f"a {same[0]} digest of its own, for {later['teacher']}"
            found = f"that of {earlier['dir']}, for {earlier['teacher']}"
            hint = "one is a copy of the other: " + ANEW
            yield _problem(Path(later["dir"]), "", "checkpoint", None, expected, found, hint)


def _check_parts(
    soft: SoftLabels, index: Index, described: dict[str, dict[str, Any]], classes: list[str]
) -> list[dict[str, Any]]:
    paths, labels = (text_column(index.rows, name).combine_chunks() for name in ("path", "label"))
    wanted = {"": Rows(paths, labels, np.arange(len(paths)))}
    for split in index.splits:
        positions = index.positions(split)
        wanted[split] = Rows(paths.take(pa.array(positions)), labels.take(pa.array(positions)), positions)
    whole = list(soft.parts) == [""] and not soft.manifest
    in_order = all(
        split in wanted and part.paths is not None and part.paths.equals(wanted[split].paths)
        for split, part in soft.parts.items()
    )
    remedy = ANEW if in_order else _remedy(soft, paths)  # which takes a second for a million rows
    problems = []
    for split, part in soft.parts.items():
        if split not in index.splits and not whole:
            expected, found = "one of " + ", ".join(index.splits), split or "no split"
            problems.append(_problem(soft.directory, split, "split", int(part.rows[0]), expected, found, remedy))
    for split in [""] if whole else index.splits:
        if split in soft.parts:
            problems += _check_keys(soft.directory, split, soft.parts[split], wanted[split], remedy)
        else:
            expected = f"{len(wanted[split].paths)} rows"
            problems.append(_problem(soft.directory, split, "length", 0, expected, "none of this split", remedy))
    if soft.manifest and not problems:
        problems += _check_places(soft, wanted, described)
    for split, part in soft.parts.items():
        problems += _check_values(soft, split, part, classes)
    return problems


def _remedy(soft: SoftLabels, wanted: pa.LargeStringArray) -> str:
    """What to do about paths that differ: `repair` needs one for each row, and a row for every path of the index."""
    paths = [part.paths for part in soft.parts.values() if part.paths is not None]
    if len(paths) == len(soft.parts) and pc.all(pc.is_in(wanted, pa.concat_arrays(paths))).as_py():
        return f"{_repair(soft)} puts them in order; or {ANEW}"
    return ANEW


def _repair(soft: SoftLabels) -> str:
    return f"`ferdistill align repair {shlex.quote(str(soft.directory))} --out NEW`"


def _check_keys(directory: Path, split: str, part: Part, wanted: Rows, remedy: str) -> Iterator[dict[str, Any]]:
    """Length, paths and labels, row by row."""
    note = partial(_problem, directory, split)
    at = np.arange(len(part.values))  # where in the index's rows each belongs; -1 where nowhere
    in_step = part.paths is None or part.paths.equals(wanted.paths)
    if part.paths is None:
        if len(at) != len(wanted.paths):
            yield note("length", None, f"{len(wanted.paths)} rows", f"{len(at)} rows, without paths", ANEW)
            at[:] = -1
        hint = "run `ferdistill align canary`, which compares them with the labels; or " + ANEW
        yield note("keys", None, "a path for each row", "nothing to check order by", hint)
    elif not in_step:
        paths, expected = (texts.to_numpy(zero_copy_only=False) for texts in (part.paths, wanted.paths))
        at = pd.Index(expected).get_indexer(paths)
        yield from _compare_paths(note, paths, expected, at, remedy)
    if part.labels is not None and not (in_step and part.labels.equals(wanted.labels)):
        labels = part.labels.to_numpy(zero_copy_only=False)
        right = wanted.labels.take(pa.array(at, mask=at < 0)).to_numpy(zero_copy_only=False)
        for row in np.flatnonzero((at >= 0) & (labels != right))[:1].tolist():
            found = labels[row] if part.paths is None else f"{labels[row]} for {part.paths[row]}"
            yield note("label", row, right[row], found, ANEW)


def _compare_paths(
    note: Callable[..., dict[str, Any]], paths: np.ndarray, expected: np.ndarray, at: np.ndarray, remedy: str
) -> Iterator[dict[str, Any]]:
    """The problems of paths that differ."""
    repeated = pd.Index(paths).duplicated()
    missing = np.setdiff1d(np.arange(len(expected)), at)
    extra, doubled = np.flatnonzero(at < 0), np.flatnonzero(repeated)
    known = np.flatnonzero((at >= 0) & ~repeated)
    moved = known[at[known] != np.sort(at[known])]
    if len(missing) or len(extra):
        hint = f"another set of paths ({len(missing)} of the index absent, {len(extra)} not of this split); {remedy}"
    else:
        hint = f"the set of paths is the same: {'rows are doubled' if len(doubled) else 'a permutation'}; {remedy}"
    if len(paths) != len(expected):
        shared = min(len(paths), len(expected))
        first = int(np.append(np.flatnonzero(paths[:shared] != expected[:shared]), shared)[0])
        text = f"{len(paths)} rows; first difference at row {first}"
        yield note("length", first, f"{len(expected)} rows", text, hint)
    for row in doubled[:1].tolist():
        yield note("duplicate", row, "each path once", paths[row], hint)
    for row in missing[:1].tolist():
        text = f"{paths[row]} in its row" if row < len(paths) else "no such row"
        yield note("missing", row, expected[row], text, hint)
    for row in extra[:1].tolist():
        text = f"a path of this split, as {expected[row]}" if row < len(expected) else "no such row"
        yield note("extra", row, text, paths[row], hint)
    for row in moved[:1].tolist():
        # Without missing or extra rows, this is the path that belongs here.
        belongs = expected[np.sort(at[known])[np.searchsorted(known, row)]]
        yield note("order", row, belongs, paths[row], hint)


def _check_places(
    soft: SoftLabels, wanted: dict[str, Rows], described: dict[str, dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Of a store whose every split agrees with the index: do their places in the table, and the manifest's digests?"""
    for split, part in soft.parts.items():
        note, right = partial(_problem, soft.directory, split), wanted[split]
        for row in np.flatnonzero(part.rows != right.positions)[:1].tolist():
            expected = f"{right.paths[row]} in row {right.positions[row]} of the table"
            yield note("order", row, expected, f"row {part.rows[row]} of it", _remedy(soft, wanted[""].paths))
        claimed = ((soft.manifest or {}).get("splits") or {}).get(split)
        if claimed != described[split]:
            yield note("table digest", None, described[split], claimed, "the manifest was edited by hand: " + ANEW)


def _check_values(soft: SoftLabels, split: str, part: Part, classes: list[str]) -> Iterator[dict[str, Any]]:
    """Finite, a column a class, and of the kind that they are said to be."""
    note = partial(_problem, soft.directory, split)
    if part.values.shape[1] != len(classes):
        expected, found = f"{len(classes)} columns: {', '.join(classes)}", f"{part.values.shape[1]} columns"
        yield note("classes", None, expected, found, IN_ORDER)
        return

    def shown(row: int) -> str:
        return f"{part.values[row].tolist()}" + ("" if part.paths is None else f" for {part.paths[row]}")

    finite = store.sound(part.values, soft.manifest)
    right = store.distributions(part.values)
    for row in np.flatnonzero(~finite)[:1].tolist():
        yield note("non-finite", row, f"finite {soft.kind}", shown(row), ANEW)
    if soft.kind == "probabilities":
        for row in np.flatnonzero(finite & ~right)[:1].tolist():
            expected = f"none negative, and the sum 1 within {store.TOLERANCE:g} (probabilities, {soft.kind_from})"
            text = f"the sum {part.values[row].sum():.4g} of {shown(row)}"
            yield note("not a distribution", row, expected, text, ANEW)
    elif len(right) and right.all():
        text = "probabilities: every row lies in [0, 1] with the sum 1"
        yield note("not a distribution", 0, f"logits, {soft.kind_from}", text, "export raw logits")


def _problem(
    directory: Path, split: str, kind: str, row: int | None, expected: object, found: object, hint: str
) -> dict[str, Any]:
    facts = {"split": split, "kind": kind, "row": row, "expected": expected, "found": found, "hint": hint}
    return {"dir": directory.as_posix(), **facts}
