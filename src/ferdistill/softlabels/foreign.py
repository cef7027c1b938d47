"""Soft labels whoever wrote them: our own stores, and the files that other scripts leave behind.

Nothing is guessed. A file is read by its suffix, whatever its name; beside `NAME.npy` may lie `NAME_paths.txt`, a
path a line. A directory must hold soft labels in one form alone:

- `softlabels.parquet` with `manifest.json`: a store of `store.write`;
- `softlabels.npz`: `probs` or `logits` (N, K), and if you like `paths`, `labels`, `split` (N,), `classes` (K,) and
  `temperature`;
- `<split>_probs.npy` or `<split>_logits.npy` (N, K), and if you like `<split>_paths.txt`, a path a line. Without
  `<split>_` they are the whole index in its order. `softlabels.npy` does not say what it holds: see `read_any`;
- one CSV or Parquet file with a column `path`, if you like `label` and `split`, and a column a class: `prob_<class>`,
  `logit_<class>` (further columns are then left alone), or its name alone;
- `.pt`, named as the `.npy` are: a tensor, or a dict like the npz.

Files of other names are left alone.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CheckError, UsageError
from . import probability_files
from .parts import MANIFEST, TABLE, TOLERANCE, Part, SoftLabels, Values, not_floating, see, split_parts
from .probability_files import KINDS

ARCHIVE = "softlabels.npz"
ARRAY = re.compile(r"(?:(?P<split>.+)_)?(?P<what>probs|logits|softlabels)\.(?:npy|pt)")
PATHS = re.compile(r"(?:(?P<split>.+)_)?paths\.txt")
ARRAYS = {"probs": "probabilities", "logits": "logits"}
TEXTS = {"path": "paths", "label": "labels", "split": "split"}  # as a table and as arrays name them


def read_any(path: Path) -> SoftLabels:
    """Read one directory of soft labels, in whichever of the forms above, or one file of these forms.

    The kind is what the manifest, the file's name or its columns say. Where they say nothing, the values are
    probabilities if most rows are distributions, and logits otherwise; `kind_from` then gives the count. Raises a
    UsageError if there is no such path, or our own store lacks a file, and a CheckError if it holds no soft labels,
    more than one form of them, or a file that cannot be read for what it claims to be.
    """
    soft = describe(path)
    if soft.manifest is None:
        return soft
    from . import store

    return store.read_parts(path)


def describe(path: Path) -> SoftLabels:
    """As `read_any`, but of one of our own stores only what `store.describe` gives, without `parts`."""
    if path.is_file():
        return _read_file(path)
    names = find(path)
    if MANIFEST in names or TABLE in names:
        from . import store

        return store.describe(path)
    if ARRAY.fullmatch(names[0]):
        return _read_arrays(path, names)
    return _read_file(path / names[0], path)


def _read_file(file: Path, named: Path | None = None) -> SoftLabels:
    """One file; `named` is its directory if that was named."""
    suffix = file.suffix.lower()
    if suffix not in probability_files.READERS:
        raise CheckError(
            "not a file of soft labels, by its name",
            where=str(file),
            expected=", ".join(probability_files.READERS),
            hint="name the soft labels here, and the table of labels with --labels",
        )
    if suffix in (".npy", ".pt"):
        return _read_arrays(file.parent, [file.name], file)
    found = probability_files.read(file)
    read = _read_columns if suffix == ".npz" else _read_table
    return read(named or file, file, found)


def find(directory: Path) -> list[str]:
    """The names of the files that hold a directory's soft labels, sorted; raises as `read_any` does."""
    if not directory.is_dir():
        raise UsageError(
            "no soft labels here",
            where=str(directory),
            expected="a file of soft labels, or a directory that holds them",
            hint="name another; run `dvc repro`, or `dvc pull`, if they are this pipeline's",
        )
    names = sorted(path.name for path in directory.iterdir() if path.is_file() and not path.name.startswith("."))
    own = [name for name in names if name in (TABLE, MANIFEST)]
    archive = [name for name in names if name == ARCHIVE]
    arrays = [name for name in names if ARRAY.fullmatch(name)]
    tables = [name for name in names if name.endswith((".csv", ".parquet")) and name not in own]
    forms = [form for form in (own, archive, arrays, tables) if form]
    if not forms:
        hint = "name the directory that holds the files themselves"
        for name in [name for name in names if name.endswith((".npz", ".npy", ".pt"))][:1]:
            hint = f"of a directory other names are not read: name the file itself, {directory / name}"
        raise CheckError(
            "no soft labels in this directory",
            where=f"{directory}: {', '.join(names[:10]) or 'empty'}",
            expected="softlabels.parquet, softlabels.npz, <split>_probs.npy, <split>_logits.npy (or .pt), a CSV or "
            "another Parquet file",
            hint=hint,
        )
    if len(forms) > 1 or len(tables) > 1:
        raise _ambiguous(directory, [name for form in forms for name in form])
    return forms[0]


def _read_arrays(directory: Path, names: list[str], named: Path | None = None) -> SoftLabels:
    """`<split>_probs.npy` and its like, a part a file; or the one file `named`, of any name."""
    matches = [ARRAY.fullmatch(name) for name in names]
    whats = {match["what"] if match else "softlabels" for match in matches}
    splits = [(match["split"] or "") if match else "" for match in matches]
    if len(whats) > 1 or len(set(splits)) < len(splits) or ("" in splits and len(splits) > 1):
        raise _ambiguous(directory, names)
    present = {path.name for path in directory.iterdir()}
    lists = {match["split"] or "": name for name in sorted(present) if (match := PATHS.fullmatch(name))}
    if named:
        beside = f"{named.stem}_paths.txt"
        lists = {splits[0]: beside} if beside in present else lists if matches[0] else {}
    orphans = [name for split, name in lists.items() if split not in splits and not named]
    if orphans:
        raise CheckError(
            f"a list of paths without its soft labels: {', '.join(orphans)}",
            where=str(directory),
            expected=", ".join(f"{split}_paths.txt" if split else "paths.txt" for split in splits),
            hint="name each list after the array it belongs to",
        )
    kind = ARRAYS.get(whats.pop())
    parts: dict[str, Part] = {}
    digest = hashlib.sha256()
    for name, split in zip(names, splits, strict=True):
        file = directory / name
        array = probability_files.read(file)
        if isinstance(array, dict):
            if len(names) > 1:
                raise CheckError("a dict among files of one split each", where=str(file), expected="a tensor (N, K)")
            return _read_columns(named or directory, file, array, kind)
        paths = _read_lines(directory / lists[split]) if split in lists else None
        found = _parts(file, see(_values(array, file), digest), {"paths": paths}, split)
        if paths is not None:
            found = {of: replace(part, keys=f"paths of {lists[split]}, line by line") for of, part in found.items()}
        parts |= found
    soft = _soft_labels(named or directory, parts, kind, "named by the file")
    return replace(soft, values_sha256=digest.hexdigest())


def _read_columns(path: Path, file: Path, columns: dict[str, Any], named: str | None = None) -> SoftLabels:
    """An npz, or a dict of tensors and lists; `named` is the kind that the file's name claims."""
    whats = [what for what in ARRAYS if what in columns]
    others, digest = [*TEXTS.values(), "classes", "temperature"], hashlib.sha256()
    if len(columns) == 1 and not {*columns} & {*ARRAYS, *others}:
        ((name, values),) = columns.items()
        if isinstance(values, np.ndarray) and values.ndim == 2 and values.dtype.kind == "f":
            parts = _parts(file, see(values, digest), {})
            told = f"in the one entry, {name}, which does not say what it holds"
            soft = _soft_labels(path, parts, named, "named by the file")
            return replace(soft, kind_from=f"{soft.kind_from}; {told}", values_sha256=digest.hexdigest())
    if not set(columns) <= {*ARRAYS, *others} or len(whats) != 1 or named not in (None, ARRAYS[whats[0]]):
        raise CheckError(
            f"entries that do not say what they hold: {', '.join(sorted(map(str, columns))[:10]) or 'none'}",
            where=str(file),
            expected=f"{'probs or logits' if named is None else named}, and no others than {', '.join(others)}",
            hint="name the arrays: np.savez(FILE, probs=P, paths=PATHS), with logits= for logits",
        )
    texts = {name: _texts(columns[name], file, name) for name in [*TEXTS.values(), "classes"] if name in columns}
    classes = texts["classes"].tolist() if "classes" in texts else None
    temperature = _temperature(columns["temperature"], file) if "temperature" in columns else None
    parts = _parts(file, see(_values(columns[whats[0]], file), digest), texts)
    soft = _soft_labels(path, parts, ARRAYS[whats[0]], "named in the file", classes, temperature)
    return replace(soft, values_sha256=digest.hexdigest())


def _read_table(path: Path, file: Path, table: dict[str, np.ndarray]) -> SoftLabels:
    """One CSV or Parquet file."""
    prefix, classes = probability_files.kind_and_classes(list(table), file)
    classes = classes or [name for name in table if name not in TEXTS]
    if "path" not in table or not classes:
        raise CheckError(
            f"columns that do not say what they hold: {', '.join(table)}",
            where=str(file),
            expected="path, if you like label and split, and for each class prob_<class> or logit_<class> or <class>",
        )
    columns = [table[f"{prefix}{name}"] for name in classes]
    # CSV has no types: a column of whole numbers is still one of decimals if its neighbours are.
    decimals = file.suffix.lower() == ".csv" and any(column.dtype.kind == "f" for column in columns)
    array = np.empty((len(table["path"]), len(classes)), np.float32)
    for place, (name, column) in enumerate(zip(classes, columns, strict=True)):
        if column.dtype.kind != "f" and not (decimals and column.dtype.kind == "i"):
            kind = "text" if column.dtype.kind == "O" else f"type {column.dtype}"
            raise not_floating(kind, f"{file}, column {prefix}{name}")
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes an infinity, which the gate refuses
            array[:, place] = column
    texts = {TEXTS[name]: _column(table[name], file, name) for name in TEXTS if name in table}
    digest = hashlib.sha256()
    parts = _parts(file, see(array, digest), texts)
    soft = _soft_labels(path, parts, KINDS.get(prefix), "named by its columns", classes)
    return replace(soft, values_sha256=digest.hexdigest())


def _column(column: np.ndarray, file: Path, name: str) -> np.ndarray:
    """A column of paths, labels or splits as text."""
    if column.dtype.kind in "iu":
        column = column.astype(str).astype(object)
    empty = [row for row, cell in enumerate(column.tolist()) if cell is None or cell != cell]
    if empty:
        where = f"{file}, column {name}, row {empty[0]}"
        raise CheckError("a cell is empty", where=where, expected="text in each row")
    if column.dtype.kind != "O" or not all(isinstance(cell, str) for cell in column):
        raise CheckError(f"not a column of text: {column.dtype}", where=f"{file}, column {name}")
    return column


def _soft_labels(
    path: Path,
    parts: dict[str, Part],
    kind: str | None,
    kind_from: str,
    classes: list[str] | None = None,
    temperature: float | None = None,
) -> SoftLabels:
    """Infer the kind where nothing names it."""
    if kind is None:
        rows = sum(int(part.finite.sum()) for part in parts.values())
        if not rows:
            raise CheckError(
                "neither the name nor the values say whether these are logits or probabilities",
                where=f"{path}: no row of finite numbers",
                hint="export the soft labels anew",
            )
        right = sum(int((part.distribution & part.finite).sum()) for part in parts.values())
        kind = "probabilities" if 2 * right > rows else "logits"
        share = "every row lies" if right == rows else f"{right} of {rows} rows lie" if right else "no row lies"
        kind_from = f"inferred: {share} in [0, 1] with the sum 1 within {TOLERANCE:g}"
    return SoftLabels(path, classes, kind, kind_from, temperature, None, parts)


def _parts(file: Path, values: Values, texts: Mapping[str, np.ndarray | None], split: str = "") -> dict[str, Part]:
    """The parts of one file, once its columns have a length in common."""
    columns = {name: texts.get(name) for name in ("paths", "labels", "split")}
    for name, column in columns.items():
        if column is not None and len(column) != len(values.array):
            raise CheckError(
                f"{len(column)} {name} for {len(values.array)} rows of soft labels",
                where=str(file),
                expected="one for each row",
                hint="nothing tells which row is whose: export the soft labels anew",
            )
    parts = split_parts(file, values, columns["paths"], columns["labels"], columns["split"])
    return {split: parts[""]} if split else parts


def _read_lines(file: Path) -> np.ndarray:
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except (OSError, ValueError) as error:
        raise CheckError(
            f"cannot be read: {error}", where=str(file), expected="a text file in UTF-8, a path a line"
        ) from None
    return np.array(lines[:-1] if lines[-1] == "" else lines, object)


def _values(array: Any, file: Path) -> np.ndarray:
    """(N, K) floating; a memory map stays one."""
    if not isinstance(array, np.ndarray) or array.ndim != 2:
        raise CheckError(
            f"not a table of soft labels: {getattr(array, 'shape', type(array).__name__)}",
            where=str(file),
            expected="an array (N, K), a column a class",
        )
    if not np.issubdtype(array.dtype, np.floating):
        raise CheckError(
            f"{array.dtype} where soft labels belong",
            where=str(file),
            expected="floating-point logits or probabilities",
            hint="export them anew, neither rounded nor as class numbers",
        )
    return array


def _texts(values: Any, file: Path, name: str) -> np.ndarray:
    try:
        texts = values.tolist() if isinstance(values, np.ndarray) else values
        if not isinstance(texts, (list, tuple)) or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"{getattr(values, 'dtype', type(values).__name__)}")
        "".join(texts).encode()  # raises at half a surrogate
    except ValueError as error:
        expected = "one text (not bytes) for each row"
        raise CheckError(f"not a list of text: {error}", where=f"{file}, {name}", expected=expected) from None
    found = np.empty(len(texts), object)
    found[:] = texts
    return found


def _temperature(value: Any, file: Path) -> float:
    try:
        array = np.asarray(value)
        number = float(array.item()) if array.dtype.kind in "iuf" else np.nan
    except (TypeError, ValueError, OverflowError):
        number = np.nan
    if not 0 < number < np.inf:
        raise CheckError("not a number", where=f"{file}, temperature", expected="one positive number")
    return number


def _ambiguous(directory: Path, names: list[str]) -> CheckError:
    return CheckError(
        f"more than one set of soft labels: {', '.join(names)}",
        where=str(directory),
        expected="one form alone: which is meant is not guessed",
        hint="move the others to directories of their own",
    )
