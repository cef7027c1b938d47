"""Soft labels whoever wrote them: our own stores, and the files that other scripts leave behind.

Nothing is guessed. A directory must hold soft labels in one form alone:

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

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ..errors import CheckError, UsageError
from . import probability_files, store
from .probability_files import KINDS
from .store import Part, SoftLabels

ARCHIVE = "softlabels.npz"
ARRAY = re.compile(r"(?:(?P<split>.+)_)?(?P<what>probs|logits|softlabels)\.(?:npy|pt)")
PATHS = re.compile(r"(?:(?P<split>.+)_)?paths\.txt")
ARRAYS = {"probs": "probabilities", "logits": "logits"}
TEXTS = {"path": "paths", "label": "labels", "split": "split"}  # as a table and as arrays name them


def read_any(directory: Path) -> SoftLabels:
    """Read one directory of soft labels, in whichever of the forms above.

    The kind is what the manifest, the file's name or its columns say. Where they say nothing, the values are
    probabilities if most rows are distributions, and logits otherwise; `kind_from` then gives the count. Values
    in another floating type are rounded to float32. Raises a UsageError if there is no such directory, or our own store
    lacks a file, and a CheckError if it holds no soft labels, more than one form of them, or a file that cannot be read
    for what it claims to be.
    """
    soft = describe(directory)
    return soft if soft.manifest is None else store.read_parts(directory)


def describe(directory: Path) -> SoftLabels:
    """As `read_any`, but of one of our own stores only what `store.describe` gives, without `parts`."""
    names = find(directory)
    if store.MANIFEST in names or store.TABLE in names:
        return store.describe(directory)
    if ARRAY.fullmatch(names[0]):
        return _read_arrays(directory, names)
    found = probability_files.read(directory / names[0])
    if isinstance(found, dict):
        return _read_columns(directory, directory / ARCHIVE, found)
    return _read_table(directory, directory / names[0], found)


def read_file(file: Path) -> SoftLabels:
    """One file, whatever it is called, as `read_any` reads a directory; an array's kind is said by its name, if at all.

    Raises as `read_any` does, and a UsageError if its suffix is none of soft labels.
    """
    if file.suffix.lower() not in probability_files.READERS:
        raise UsageError(
            "no soft labels by its name",
            where=str(file),
            expected=", ".join(probability_files.READERS),
            hint="rename it",
        )
    found = probability_files.read(file)
    if isinstance(found, dict):
        return _read_columns(file, file, found)
    if isinstance(found, pa.Table):
        return _read_table(file, file, found)
    match = ARRAY.fullmatch(file.name)
    return _soft_labels(
        file, _parts(file, _values(found, file), {}), match and ARRAYS.get(match["what"]), "named by the file"
    )


def find(directory: Path) -> list[str]:
    """The names of the files that hold a directory's soft labels, sorted; raises as `read_any` does."""
    if not directory.is_dir():
        raise UsageError(
            "no soft labels here",
            where=str(directory),
            expected="a directory that holds soft labels",
            hint=f"name the directory that holds it: {directory.parent}"
            if directory.is_file()
            else "name another; run `dvc repro`, or `dvc pull`, if they are this pipeline's",
        )
    names = sorted(path.name for path in directory.iterdir() if path.is_file() and not path.name.startswith("."))
    own = [name for name in names if name in (store.TABLE, store.MANIFEST)]
    archive = [name for name in names if name == ARCHIVE]
    arrays = [name for name in names if ARRAY.fullmatch(name)]
    tables = [name for name in names if name.endswith((".csv", ".parquet")) and name not in own]
    forms = [form for form in (own, archive, arrays, tables) if form]
    if not forms:
        hint = "name the directory that holds the files themselves"
        for name in [name for name in names if name.endswith((".npz", ".npy", ".pt"))][:1]:
            form = Path(name).suffix
            read_as = ARCHIVE if form == ".npz" else f"probs{form}, logits{form} or <split>_probs{form}"
            hint = f"other names are not read: rename {name} {read_as}"
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


def _read_arrays(directory: Path, names: list[str]) -> SoftLabels:
    """`<split>_probs.npy` and its like, a part a file."""
    matches = [match for name in names if (match := ARRAY.fullmatch(name))]
    whats = {match["what"] for match in matches}
    splits = [match["split"] or "" for match in matches]
    if len(whats) > 1 or len(set(splits)) < len(splits) or ("" in splits and len(splits) > 1):
        raise _ambiguous(directory, names)
    present = sorted(path.name for path in directory.iterdir())
    lists = {match["split"] or "": name for name in present if (match := PATHS.fullmatch(name))}
    orphans = [name for split, name in lists.items() if split not in splits]
    if orphans:
        raise CheckError(
            f"a list of paths without its soft labels: {', '.join(orphans)}",
            where=str(directory),
            expected=", ".join(f"{split}_paths.txt" if split else "paths.txt" for split in splits),
            hint="name each list after the array it belongs to",
        )
    kind = ARRAYS.get(whats.pop())
    parts: dict[str, Part] = {}
    for name, split in zip(names, splits, strict=True):
        file = directory / name
        array = probability_files.read(file)
        if isinstance(array, dict):
            if len(names) > 1:
                raise CheckError("a dict among files of one split each", where=str(file), expected="a tensor (N, K)")
            return _read_columns(directory, file, array, kind)
        paths = _read_lines(directory / lists[split]) if split in lists else None
        parts |= _parts(file, _values(array, file), {"paths": paths}, split)
    return _soft_labels(directory, parts, kind, "named by the file")


def _read_columns(directory: Path, file: Path, columns: dict[str, Any], named: str | None = None) -> SoftLabels:
    """An npz, or a dict of tensors and lists; `named` is the kind that the file's name claims."""
    whats = [what for what in ARRAYS if what in columns]
    others = [*TEXTS.values(), "classes", "temperature"]
    if not set(columns) <= {*ARRAYS, *others} or len(whats) != 1 or named not in (None, ARRAYS[whats[0]]):
        raise CheckError(
            f"entries that do not say what they hold: {', '.join(sorted(map(str, columns))[:10]) or 'none'}",
            where=str(file),
            expected=f"{'probs or logits' if named is None else named}, and no others than {', '.join(others)}",
        )
    texts = {name: _texts(columns[name], file, name) for name in [*TEXTS.values(), "classes"] if name in columns}
    classes = texts["classes"].to_pylist() if "classes" in texts else None
    temperature = _temperature(columns["temperature"], file) if "temperature" in columns else None
    parts = _parts(file, _values(columns[whats[0]], file), texts)
    return _soft_labels(directory, parts, ARRAYS[whats[0]], "named in the file", classes, temperature)


def _read_table(directory: Path, file: Path, table: pa.Table) -> SoftLabels:
    """One CSV or Parquet file."""
    prefix, classes = probability_files.kind_and_classes(table.column_names, file)
    classes = classes or [name for name in table.column_names if name not in TEXTS]
    if "path" not in table.column_names or not classes:
        raise CheckError(
            f"columns that do not say what they hold: {', '.join(table.column_names)}",
            where=str(file),
            expected="path, if you like label and split, and for each class prob_<class> or logit_<class> or <class>",
        )
    columns = [table[f"{prefix}{name}"] for name in classes]
    # CSV has no types: a column of whole numbers is still one of decimals if its neighbours are.
    decimals = file.suffix == ".csv" and any(pa.types.is_floating(column.type) for column in columns)
    values = np.empty((len(table), len(classes)), np.float32)
    for place, (name, column) in enumerate(zip(classes, columns, strict=True)):
        whole = decimals and pa.types.is_integer(column.type)
        values[:, place] = store.numbers(column.cast(pa.float64()) if whole else column, file, f"{prefix}{name}")
    texts = {TEXTS[name]: store.text(table[name], file, name) for name in TEXTS if name in table.column_names}
    kind = KINDS.get(prefix)
    return _soft_labels(directory, _parts(file, values, texts), kind, "named by its columns", classes)


def _soft_labels(
    directory: Path,
    parts: dict[str, Part],
    kind: str | None,
    kind_from: str,
    classes: list[str] | None = None,
    temperature: float | None = None,
) -> SoftLabels:
    """Infer the kind where nothing names it."""
    if kind is None:
        finite = [part.values[np.isfinite(part.values).all(axis=1)] for part in parts.values()]
        rows = sum(map(len, finite))
        if not rows:
            raise CheckError(
                "neither the name nor the values say whether these are logits or probabilities",
                where=f"{directory}: no row of finite numbers",
                hint="export the soft labels anew",
            )
        right = sum(int(store.distributions(values).sum()) for values in finite)
        kind = "probabilities" if 2 * right > rows else "logits"
        share = "every row lies" if right == rows else f"{right} of {rows} rows lie" if right else "no row lies"
        kind_from = f"inferred: {share} in [0, 1] with the sum 1 within {store.TOLERANCE:g}"
    return SoftLabels(directory, classes, kind, kind_from, temperature, None, parts)


def _parts(
    file: Path, values: np.ndarray, texts: Mapping[str, pa.LargeStringArray | None], split: str = ""
) -> dict[str, Part]:
    """The parts of one file, once its columns have a length in common."""
    columns = {name: texts.get(name) for name in ("paths", "labels", "split")}
    for name, column in columns.items():
        if column is not None and len(column) != len(values):
            raise CheckError(
                f"{len(column)} {name} for {len(values)} rows of soft labels",
                where=str(file),
                expected="one for each row",
                hint="nothing tells which row is whose: export the soft labels anew",
            )
    parts = store.split_parts(file, values, columns["paths"], columns["labels"], columns["split"])
    return {split: parts[""]} if split else parts


def _read_lines(file: Path) -> pa.LargeStringArray:
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except (OSError, ValueError) as error:
        raise CheckError(
            f"cannot be read: {error}", where=str(file), expected="a text file in UTF-8, a path a line"
        ) from None
    return pa.array(lines[:-1] if lines[-1] == "" else lines, pa.large_string())


def _values(array: Any, file: Path) -> np.ndarray:
    """float32 (N, K); a memory map stays one."""
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
    with np.errstate(over="ignore"):  # becomes an infinity, which the gate refuses
        return array.astype(np.float32, copy=False)


def _texts(values: Any, file: Path, name: str) -> pa.LargeStringArray:
    try:
        texts = values.tolist() if isinstance(values, np.ndarray) else values
        if not isinstance(texts, (list, tuple)) or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"{getattr(values, 'dtype', type(values).__name__)}")
        return pa.array(texts, pa.large_string())
    except (ValueError, SystemError) as error:  # numbers that are no code points, half a surrogate
        expected = "one text (not bytes) for each row"
        raise CheckError(f"not a list of text: {error}", where=f"{file}, {name}", expected=expected) from None


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
