"""The gate: do these soft labels belong to these images, row by row?"""

import hashlib
import shlex
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache, partial
from itertools import combinations
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import CheckError, UsageError
from ..files import read_json, sha256_file
from . import foreign, holding, labelled, orders
from .holding import Held
from .labelled import Labelled
from .parts import TABLE, TOLERANCE, Part, SoftLabels, Values, see

if TYPE_CHECKING:
    from ..data.index import Index

WORKERS = 2  # directories read at once: one reads while another is compared; more would only hold more memory
ANEW = "export the soft labels anew under this index (`dvc repro`, if they are this pipeline's)"
Checked = tuple[dict[str, Any], list[dict[str, Any]], SoftLabels, list[Held]]  # summary, problems, as read, as held
IN_ORDER = "export with the classes in that order: those of params.yaml, or --classes"


def check(
    paths: Sequence[Path], against: "Index | Labelled", classes: list[str], checkpoints: dict[str, str] | None = None
) -> dict[str, Any]:
    """The report of `gate`."""
    return gate(paths, against, classes, checkpoints)[0]


def gate(
    paths: Sequence[Path],
    against: "Index | Labelled",
    classes: list[str],
    checkpoints: dict[str, str] | None = None,
    keyless: bool = False,
    refuse: Callable[[Path, Exception], None] | None = None,
) -> tuple[dict[str, Any], list[tuple[SoftLabels, list[Held]]]]:
    """Hold soft labels, directories or files, against an index or a table of labels and so against one another.

    Nothing is truncated, reordered or repaired: any difference is a problem. Of a store only a batch is held at a
    time unless something is wrong. A store must have every row of the index; anybody's soft labels those of the
    splits that they are of.

    Parameters
    ----------
    classes
        In the order in which the columns must come.
    checkpoints
        The SHA-256 of each teacher's weights as they are now; see `read_checkpoints`.
    keyless
        Whether rows without paths are no problem, since the canary will look at them.
    refuse
        Is called with a path that cannot be judged and its error, which else ends the check. The path is left out.

    Returns
    -------
    report : dict
        As in the report's §4.2: `dirs`, `train_len_equal`, `hash_paths_train` (of the index), `labels_equal` (no label
        contradicts the index), `ok`; the same for each split under `splits`; what each path holds under `soft_labels`
        (of anybody's also `held`: the splits, how they are known, and the rule by which paths match); and `problems`,
        a list of {dir, split, kind, row, expected, found, hint}. `row` counts within the split, from 0; in the whole
        file where `split` is "".
    sets : list
        For `canary.compare`: what was read of each path, and what its parts were held against.

    Raises a UsageError if a path is given twice or does not exist, a CheckError if a file cannot be read at all.
    """
    resolved = [path.resolve() for path in paths]
    for number, path in enumerate(resolved):
        if path in resolved[:number]:
            raise UsageError("a path given twice", where=str(paths[number]), hint="name each once")

    @cache
    def images() -> Labelled:
        return against if isinstance(against, Labelled) else labelled.of_index(against)

    described, one_at_a_time = _described(against), Lock()

    def check_one(path: Path) -> Checked:
        soft = foreign.describe(path)
        problems = _check_claims(soft, against, classes, checkpoints or {})
        swept = None if isinstance(against, Labelled) or not soft.manifest else _sweep(soft, against, described)
        if swept:
            soft = swept
            held = [Held(part, split, (split,), part.rows, part.rows) for split, part in soft.parts.items()]
        else:
            with one_at_a_time:
                soft = foreign.read_any(path) if soft.manifest else soft
                held = holding.hold(soft, images())
                problems += _check_parts(soft, images(), described, classes, held, keyless)
        summary: dict[str, Any] = {"dir": soft.directory.as_posix()}
        summary |= {name: getattr(soft, name) for name in ("teacher", "kind", "kind_from", "temperature")}
        checkpoint = soft.manifest.get("checkpoint_sha256") if soft.manifest else None
        summary |= {"checkpoint_sha256": checkpoint, "values_sha256": soft.values_sha256}
        return summary | ({} if soft.manifest else {"held": list(map(_told, held))}), problems, soft, held

    with ThreadPoolExecutor(WORKERS) as pool:
        checked = [one for one in pool.map(partial(_unless_refused, check_one, refuse), paths) if one is not None]
    soft_labels = [summary for summary, *_ in checked]
    problems = [problem for _, found, *_ in checked for problem in found] + list(_check_copies(soft_labels))
    kinds = {split: {p["kind"] for p in problems if concerns(p, split)} for split in described}
    by_split = {
        split: {
            "len_equal": "length" not in kinds[split],
            "hash_paths": facts["paths_sha256"],
            "labels_equal": "label" not in kinds[split],
            "ok": not kinds[split],
        }
        for split, facts in described.items()
    }
    train = by_split.get("train", {})
    report = {
        "dirs": [path.as_posix() for path in paths],
        "index_digest": against.digest,
        "train_len_equal": train.get("len_equal"),
        "hash_paths_train": train.get("hash_paths"),
        "labels_equal": all(part["labels_equal"] for part in by_split.values()),
        "ok": not problems,
        "splits": by_split,
        "soft_labels": soft_labels,
        "problems": problems,
    }
    return report, [(soft, held) for *_, soft, held in checked]


def _unless_refused(
    check_one: Callable[[Path], Checked], refuse: Callable[[Path, Exception], None] | None, path: Path
) -> Checked | None:
    try:
        return check_one(path)
    except Exception as error:
        if refuse is None:
            raise
        refuse(path, error)
        return None


def _described(against: "Index | Labelled") -> dict[str, dict[str, Any]]:
    """Length and digests of each split that has a row, and of each that an index may have."""
    if isinstance(against, Labelled):
        return {split: against.described(split) for split in against.names}
    from ..data.index import digests

    # A mask, since pandas is five times slower by positions.
    rows = against.rows
    return {split: digests(rows.loc[rows["split"] == split, ["path", "label"]]) for split in against.splits}


def _told(held: Held) -> dict[str, Any]:
    paths = None if held.at is None else held.part.keys
    facts = {"split": held.split, "splits": list(held.splits), "rows": len(held.part.rows), "paths": paths}
    return facts | {"rule": held.rule, "guessed": held.guessed}


def concerns(problem: dict[str, Any], split: str) -> bool:
    """Whether a problem is of a split, among others."""
    return problem["split"] == "" or split in problem["split"].split("+") or problem["split"] == split


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
    """Where a problem of `check` is, in words; rows are counted from 0."""
    split = f", split {problem['split']}" if problem["split"] else ""
    row = f", row {problem['row']}" if problem["row"] is not None else ""
    return problem["dir"] + split + row


def read_checkpoints(directory: Path) -> dict[str, str]:
    """The digest of each teacher's weights, from DIRECTORY/TEACHER/config.json where that file exists."""
    configs = {file.parent.name: read_json(file) for file in sorted(directory.glob("*/config.json"))}
    return {teacher: config["sha256"] for teacher, config in configs.items() if "sha256" in config}


def _sweep(soft: SoftLabels, index: "Index", described: dict[str, dict[str, Any]]) -> SoftLabels | None:
    """A store with its parts if it holds the index's rows in their order and nothing is wrong, else None.

    Only a batch is held at a time, so the parts have neither keys nor values. The first difference ends it unnamed:
    `_check_parts` names it.
    """
    import pyarrow as pa

    from ..data.index import text_column
    from . import store

    assert soft.manifest is not None and soft.classes is not None
    wanted = {name: text_column(index.rows, name) for name in store.KEYS}
    digest, start = hashlib.sha256(), 0
    arg_max = np.zeros(len(index.rows), np.int16)
    finite, empty, right = (np.zeros(len(index.rows), bool) for _ in range(3))
    for texts, values in store.read_batches(soft):
        stop = start + len(values)
        same = all(wanted[name].slice(start, len(values)).equals(pa.chunked_array([texts[name]])) for name in texts)
        if not same:
            return None
        seen = see(values, digest)
        if not (seen.finite | (seen.empty & soft.partial)).all():
            return None
        finite[start:stop], empty[start:stop] = seen.finite, seen.empty
        right[start:stop], arg_max[start:stop] = seen.distribution, seen.arg_max
        start = stop
    if start < len(right) or soft.manifest.get("splits") != described:
        return None
    rows = {split: index.positions(split) for split in index.splits}
    whole = Values(np.empty((0, len(soft.classes)), np.float32), arg_max, finite, empty, right)
    parts = {split: Part(whole, None, None, at, soft.directory / TABLE) for split, at in rows.items() if len(at)}
    if any(map(_all_distributions, parts.values())):
        return None
    return replace(soft, parts=parts, values_sha256=digest.hexdigest())


def _check_claims(
    soft: SoftLabels, against: "Index | Labelled", classes: list[str], checkpoints: dict[str, str]
) -> list[dict[str, Any]]:
    """What soft labels say of themselves, in a manifest or in the names of their columns."""
    facts: list[tuple[str, object, object, str]] = []
    if soft.classes is not None:
        renamed = sorted(soft.classes) == sorted(classes)
        repair = against.repair_command(soft.directory) if isinstance(against, Labelled) else _repair(soft)
        repairable = f"{repair} puts the columns in order; or {IN_ORDER}" if renamed and soft.keyed else IN_ORDER
        facts.append(("classes", classes, soft.classes, repairable))
    if soft.temperature is not None or soft.manifest:
        hint = "softened once, they cannot be softened as others are: export them at temperature 1"
        facts.append(("temperature", 1.0, soft.temperature, hint))
    if soft.manifest:
        checkpoint = soft.manifest.get("checkpoint_sha256")
        facts += [
            ("index digest", against.digest, soft.manifest.get("index_digest"), ANEW),
            ("table digest", soft.manifest.get("table_sha256"), sha256_file(soft.directory / TABLE), ANEW),
            ("checkpoint", checkpoints.get(soft.teacher, checkpoint), checkpoint, f"other weights by now: {ANEW}"),
        ]
        damaged = (soft.manifest.get("provenance") or {}).get("damaged")
        facts.append(("damaged", None, damaged, "put out of step for a study of misalignment: never train on them"))
        if soft.classes == classes:
            facts.append(("classes", classes, soft.manifest["classes"], IN_ORDER))
    return [
        problem(soft.directory, "", kind, None, expected, found, hint)
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
            yield problem(Path(later["dir"]), "", "checkpoint", None, expected, found, hint)


def _check_parts(
    soft: SoftLabels,
    images: Labelled,
    described: dict[str, dict[str, Any]],
    classes: list[str],
    held: Sequence[Held],
    keyless: bool,
) -> list[dict[str, Any]]:
    remedy = _remedy(soft, images, held)
    problems = []
    for one in held:
        if one.unknown or (soft.manifest and one.split == ""):
            expected, found = "one of " + ", ".join(images.names), one.split or "no split"
            problems.append(problem(soft.directory, one.split, "split", int(one.part.rows[0]), expected, found, remedy))
    for split in described if soft.manifest else []:
        if split not in soft.parts and described[split]["length"]:
            expected = f"{described[split]['length']} rows"
            problems.append(problem(soft.directory, split, "length", 0, expected, "none of this split", remedy))
    for one in held:
        if not one.unknown:
            problems += _check_keys(soft.directory, one, images, remedy, keyless)
    if soft.manifest and not problems:
        problems += _check_places(soft, images, described, held)
    for one in held:
        problems += _check_values(soft, one, classes, images.name_classes(one.part.columns) or IN_ORDER)
    return problems


def _remedy(soft: SoftLabels, images: Labelled, held: Sequence[Held]) -> str:
    """What to do about paths that differ: `repair` needs one for each row."""
    wrong = [one for one in held if one.unknown or one.at is None or not _in_order(one)]
    if not soft.keyed or not wrong:
        return ANEW
    found, _ = holding.found(soft, images)
    if hopeless := holding.least_kept(held, [found[name] for name in soft.parts]):
        one, kept = hopeless
        return f"only {kept} of {len(one.part.rows)} rows are of images that the labels have: compare the paths; {ANEW}"
    have, of = coverage(soft, images, held)
    if have < of:
        command = _repair(soft, images, "--drop-unmatched")
        without = f"{of - have} image{'s' * (of - have > 1)}"
        return f"{ANEW}; or {command} writes the others in order, and lists the {without} without a soft label"
    return f"{_repair(soft, images)} puts them in order; or {ANEW}"


def coverage(soft: SoftLabels, images: Labelled, held: Sequence[Held]) -> tuple[int, int]:
    """Of how many images soft labels with paths have a row, and of how many they must have one."""
    found, _ = holding.found(soft, images)
    have = np.zeros(len(images.paths), bool)
    for at in found.values():
        have[at[at >= 0]] = True
    wanted = [one.positions for one in held] if not soft.manifest else [np.arange(len(have))]
    positions = np.concatenate([np.arange(0), *wanted])
    return int(have[positions].sum()), len(positions)


def lacking(held: Held) -> int | None:
    """How many images of a part have no row, if that is all that its paths show."""
    if held.unknown or held.at is None or (np.diff(held.at, prepend=-1) <= 0).any():
        return None
    return len(held.positions) - len(held.at)


def _in_order(one: Held) -> bool:
    return one.at is not None and len(one.at) == len(one.positions) and bool((one.at == np.arange(len(one.at))).all())


def _repair(soft: SoftLabels, images: Labelled | None = None, *options: str) -> str:
    if images is not None:
        return images.repair_command(soft.directory, *options)
    return f"`ferdistill align repair {shlex.quote(str(soft.directory))} --out NEW`"


def _check_keys(path: Path, held: Held, images: Labelled, remedy: str, keyless: bool) -> Iterator[dict[str, Any]]:
    """Length, paths and labels, row by row."""
    note, part, wanted = partial(problem, path, held.split), held.part, held.positions
    at = np.arange(len(part.rows)) if held.at is None else held.at
    if held.at is None:
        if len(at) != len(wanted):
            # Rows of images without a label show no length that the canary could find.
            if not keyless or (images.codes[wanted] < 0).any():
                yield note("length", None, f"{len(wanted)} rows", f"{len(at)} rows, without paths", ANEW)
            at = np.full(len(at), -1)
        if not keyless:
            hint = "leave --no-canary out, which compares them with the labels; or " + ANEW
            yield note("keys", None, "a path for each row", "nothing to check order by", hint)
    elif not _in_order(held):
        yield from _compare_paths(note, held, images, remedy)
    if part.labels is not None and (at >= 0).any():
        right = images.labels[wanted[at]]
        for row in np.flatnonzero((at >= 0) & (part.labels != right))[:1].tolist():
            found = part.labels[row] if part.paths is None else f"{part.labels[row]} for {part.paths[row]}"
            yield note("label", row, right[row], found, ANEW)


def _compare_paths(
    note: Callable[..., dict[str, Any]], held: Held, images: Labelled, remedy: str
) -> Iterator[dict[str, Any]]:
    """The problems of paths that differ; each tells the path, and its row counted from 0."""
    at, paths, expected = held.at, held.part.paths, images.paths[held.positions]
    assert at is not None and paths is not None
    first = np.unique(at, return_index=True)[1]
    repeated = np.ones(len(at), bool)
    repeated[first] = False
    repeated &= at >= 0
    unknown, firsts = np.flatnonzero(at < 0), dict[str, int]()
    for row in unknown.tolist():  # copies of a path that is not known are copies too
        repeated[row] = firsts.setdefault(paths[row], row) != row
    missing = np.setdiff1d(np.arange(len(expected)), at)
    extra, doubled = unknown, np.flatnonzero(repeated)
    known = np.flatnonzero((at >= 0) & ~repeated)
    moved = known[at[known] != np.sort(at[known])]
    if len(missing) or len(extra):
        hint = f"another set of paths ({len(missing)} of the index absent, {len(extra)} not of this split); {remedy}"
    else:
        hint = f"the set of paths is the same: {'rows are doubled' if len(doubled) else 'a permutation'}; {remedy}"
    if len(paths) != len(expected):
        shared = min(len(paths), len(expected))
        start = int(np.append(np.flatnonzero(at[:shared] != np.arange(shared)), shared)[0])
        text = f"{len(paths)} rows; first difference at row {start}"
        yield note("length", start, f"{len(expected)} rows", text, hint)
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
        ranks = np.argsort(np.argsort(at[known]))
        if len(known) == len(expected):
            hint = f"{orders.described(ranks, images.sort_orders(held.positions))}; {hint}"
        yield note("order", row, belongs, paths[row], hint)


def _check_places(
    soft: SoftLabels, images: Labelled, described: dict[str, dict[str, Any]], held: Sequence[Held]
) -> Iterator[dict[str, Any]]:
    """Of a store whose every split agrees with the index: do their places in the table, and the manifest's digests?"""
    for one in held:
        note, right = partial(problem, soft.directory, one.split), one.positions
        for row in np.flatnonzero(one.part.rows != right)[:1].tolist():
            expected = f"{images.paths[right[row]]} in row {right[row]} of the table"
            hint = f"{_repair(soft, images)} puts them in order; or {ANEW}"
            yield note("order", row, expected, f"row {one.part.rows[row]} of it", hint)
        claimed = ((soft.manifest or {}).get("splits") or {}).get(one.split)
        if claimed != described[one.split]:
            hint = "the manifest was edited by hand: " + ANEW
            yield note("table digest", None, described[one.split], claimed, hint)


def _check_values(soft: SoftLabels, held: Held, classes: list[str], remedy: str) -> Iterator[dict[str, Any]]:
    """Finite, a column a class, and of the kind that they are said to be."""
    note, part = partial(problem, soft.directory, held.split), held.part
    if part.columns != len(classes):
        expected, found = f"{len(classes)} columns: {', '.join(classes)}", f"{part.columns} columns"
        yield note("classes", None, expected, found, remedy)
        return
    finite, right = part.finite, part.distribution
    for row in np.flatnonzero(~finite & ~(part.empty & soft.partial))[:1].tolist():
        yield note("non-finite", row, f"finite {soft.kind}", part.shown(row), ANEW)
    if soft.kind == "probabilities":
        for row in np.flatnonzero(finite & ~right)[:1].tolist():
            expected = f"none negative, and the sum 1 within {TOLERANCE:g} (probabilities, {soft.kind_from})"
            total = part.whole.array[part.rows[row]].sum()
            yield note("not a distribution", row, expected, f"the sum {total:.4g} of {part.shown(row)}", ANEW)
    elif _all_distributions(part):
        text = "probabilities: every row lies in [0, 1] with the sum 1"
        yield note("not a distribution", 0, f"logits, {soft.kind_from}", text, "export raw logits")


def _all_distributions(part: Part) -> bool:
    """Whether every row that is not empty is one, so that logits look like probabilities."""
    right = part.distribution[~part.empty]
    return len(right) > 0 and bool(right.all())


def problem(
    directory: Path, split: str, kind: str, row: int | None, expected: object, found: object, hint: str
) -> dict[str, Any]:
    """One entry of a report's `problems`."""
    facts = {"split": split, "kind": kind, "row": row, "expected": expected, "found": found, "hint": hint}
    return {"dir": directory.as_posix(), **facts}
