"""The gate: do these soft labels belong to the images of this index, row by row?"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..corpus.index import SPLITS, Index, digests
from ..errors import CheckError
from ..files import sha256_file
from . import store


def check(directories: Sequence[Path], index: Index, classes: list[str]) -> dict[str, Any]:
    """Hold soft-label directories against an index and so against one another.

    Nothing is truncated, reordered or repaired: any difference is a problem.

    Parameters
    ----------
    directories : sequence of Path
        Stores as `store.write` makes them.
    classes : list of str
        The classes, in the order in which the columns must come.

    Returns
    -------
    dict
        As in the report's §4.2: `dirs`, `train_len_equal`, `hash_paths_train`, `labels_equal`, `ok`; the same for
        each split under `splits`; and `problems`, a list of {dir, split, kind, row, expected, found, hint}. `row`
        counts within the split, from 0.
    """
    problems: list[dict[str, Any]] = []
    wanted = {split: index.rows.iloc[index.positions(split)].reset_index(drop=True) for split in SPLITS}
    for directory in directories:
        table, manifest = store.read(directory)
        problems += _check_manifest(directory, manifest, index, classes)
        stray = ~table["split"].isin(SPLITS).to_numpy()
        if stray.any():
            row = int(np.flatnonzero(stray)[0])
            problems.append(
                _problem(
                    directory,
                    "",
                    "split",
                    row,
                    "one of " + ", ".join(SPLITS),
                    table["split"][row],
                    "export anew",
                )
            )
        for split in SPLITS:
            found = table[table["split"] == split].reset_index(drop=True)
            problems += _check_split(directory, split, found, wanted[split], manifest)
    kinds = {split: {p["kind"] for p in problems if p["split"] == split} for split in SPLITS}
    by_split = {
        split: {
            "len_equal": "length" not in kinds[split],
            "hash_paths": digests(wanted[split])["paths_sha256"],
            "labels_equal": "label" not in kinds[split],
            "ok": not kinds[split],
        }
        for split in SPLITS
    }
    return {
        "dirs": [directory.as_posix() for directory in directories],
        "index_digest": index.digest,
        "train_len_equal": by_split["train"]["len_equal"],
        "hash_paths_train": by_split["train"]["hash_paths"],
        "labels_equal": all(part["labels_equal"] for part in by_split.values()),
        "ok": not problems,
        "splits": by_split,
        "problems": problems,
    }


def require(report: dict[str, Any]) -> None:
    """Stop unless a report of `check` is clean, naming the first problem.

    Raises
    ------
    CheckError
    """
    if report["ok"]:
        return
    first = report["problems"][0]
    place = first["dir"] + (f", split {first['split']}" if first["split"] else "")
    place += f", row {first['row']}" if first["row"] is not None else ""
    raise CheckError(
        f"soft labels are out of step with the index ({first['kind']}; {len(report['problems'])} problems in all): "
        f"found {first['found']}",
        where=place,
        expected=str(first["expected"]),
        hint=first["hint"],
    )


def _check_manifest(
    directory: Path, manifest: dict[str, Any], index: Index, classes: list[str]
) -> list[dict[str, Any]]:
    anew = "export the soft labels anew: `dvc repro`"
    facts = [
        ("index digest", index.digest, manifest.get("index_digest"), anew),
        (
            "classes",
            classes,
            manifest.get("classes"),
            "export with the classes of params.yaml, in that order",
        ),
        (
            "temperature",
            1.0,
            manifest.get("temperature"),
            "store raw logits; they are softened when they are read",
        ),
        ("table digest", manifest.get("table_sha256"), sha256_file(directory / store.TABLE), anew),
    ]
    return [
        _problem(directory, "", kind, None, expected, found, hint)
        for kind, expected, found, hint in facts
        if expected != found
    ]


def _check_split(
    directory: Path, split: str, found: pd.DataFrame, wanted: pd.DataFrame, manifest: dict[str, Any]
) -> list[dict[str, Any]]:
    problems = []
    paths, expected = found["path"].to_numpy(), wanted["path"].to_numpy()
    shared = min(len(paths), len(expected))
    differing = np.flatnonzero(paths[:shared] != expected[:shared])
    first = int(differing[0]) if len(differing) else shared
    missing, extra = set(expected) - set(paths), set(paths) - set(expected)
    anew = "export the soft labels anew under this index: `dvc repro`"
    if len(paths) != len(expected):
        text = f"{len(paths)} rows; first difference at row {first}"
        problems.append(_problem(directory, split, "length", first, f"{len(expected)} rows", text, anew))
    doubled = np.flatnonzero(pd.Series(paths).duplicated().to_numpy())
    if len(doubled):
        row = int(doubled[0])
        problems.append(_problem(directory, split, "duplicate", row, "each path once", paths[row], anew))
    if missing:
        row = int(np.flatnonzero(wanted["path"].isin(missing).to_numpy())[0])
        text = f"{len(missing)} paths of the index are absent"
        problems.append(_problem(directory, split, "missing", row, expected[row], text, anew))
    if extra:
        row = int(np.flatnonzero(found["path"].isin(extra).to_numpy())[0])
        problems.append(_problem(directory, split, "extra", row, "a path of this split of the index", paths[row], anew))
    if len(differing) and not missing and not extra and not len(doubled):
        hint = "the set of paths is the same: a permutation; " + anew
        problems.append(_problem(directory, split, "order", first, expected[first], paths[first], hint))

    by_path = wanted.set_index("path")["label"]
    known = found["path"].isin(by_path.index).to_numpy()
    right = by_path.reindex(found["path"]).to_numpy()
    wrong = np.flatnonzero(known & (found["label"].to_numpy() != right))
    if len(wrong):
        row = int(wrong[0])
        text = f"{found['label'][row]} for {paths[row]}"
        problems.append(_problem(directory, split, "label", row, right[row], text, anew))
    logits = store.logits_of(found, manifest["classes"])
    broken = np.flatnonzero(~np.isfinite(logits).all(axis=1))
    if len(broken):
        row = int(broken[0])
        text = f"{logits[row].tolist()} for {paths[row]}"
        problems.append(_problem(directory, split, "non-finite", row, "finite logits", text, anew))
    return problems


def _problem(
    directory: Path, split: str, kind: str, row: int | None, expected: object, found: object, hint: str
) -> dict[str, Any]:
    return {
        "dir": directory.as_posix(), "split": split, "kind": kind, "row": row, "expected": expected, "found": found,
        "hint": hint,
    }  # fmt: skip
