"""Soft labels whoever wrote them: our own stores, and the files that other scripts leave behind.

Nothing is guessed and nothing is unpickled. A directory must hold soft labels in one form alone:

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
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from ..errors import CheckError, UsageError
from . import store
from .store import Part, SoftLabels

ARCHIVE = "softlabels.npz"
ARRAY = re.compile(r"(?:(?P<split>.+)_)?(?P<what>probs|logits|softlabels)\.(?:npy|pt)")
PATHS = re.compile(r"(?:(?P<split>.+)_)?paths\.txt")
KINDS = {"probs": "probabilities", "logits": "logits", "prob_": "probabilities", "logit_": "logits"}
TEXTS = ["paths", "labels", "split", "classes"]
KEYS = ["probs", "logits", *TEXTS, "temperature"]
# How far from 1 a row of probabilities may sum: float16 and a few printed digits stay within it.
TOLERANCE = 1e-3
MAX_BYTES = 2**32  # of an npz unpacked: more is a mistake or a bomb


def read_any(directory: Path) -> SoftLabels:
    """Read one directory of soft labels, in whichever of the forms above.

    The kind is what the manifest, the file's name or its columns say. Where they say nothing, the values are
    probabilities if most rows are distributions, and logits otherwise; `kind_from` then gives the count. Values
    in another floating type are rounded to float32.

    Raises
    ------
    UsageError
        If there is no such directory, or our own store lacks a file.
    CheckError
        If it holds no soft labels, more than one form of them, or a file that cannot be read for what it claims to
        be.
    """
    names = find(directory)
    if store.MANIFEST in names or store.TABLE in names:
        return store.read_parts(directory)
    if names == [ARCHIVE]:
        return _read_columns(directory, directory / ARCHIVE, _load_npz(directory / ARCHIVE))
    if ARRAY.fullmatch(names[0]):
        return _read_arrays(directory, names)
    return _read_table(directory, directory / names[0])


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
        others = [name for name in names if name.endswith((".npz", ".npy", ".pt"))]
        raise CheckError(
            "no soft labels in this directory",
            where=f"{directory}: {', '.join(names[:10]) or 'empty'}",
            expected="softlabels.parquet, softlabels.npz, <split>_probs.npy, <split>_logits.npy (or .pt), a CSV or "
            "another Parquet file",
            hint="other names are not read: rename " + _as_read(others[0])
            if others
            else "name the directory that holds the files themselves",
        )
    if len(forms) > 1 or len(tables) > 1:
        raise _ambiguous(directory, [name for form in forms for name in form])
    return forms[0]


def _as_read(name: str) -> str:
    """A file and the name under which it would be read."""
    form = Path(name).suffix
    return f"{name} {ARCHIVE if form == '.npz' else f'probs{form}, logits{form} or <split>_probs{form}'}"


def distributions(values: np.ndarray) -> np.ndarray:
    """Which rows of (N, K) are probability distributions: none negative, their sum within `TOLERANCE` of 1; bool, (N,).

    Hence none is over 1, but for the same tolerance.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # of rows that are not finite
        sums = values @ np.ones(values.shape[1], values.dtype)  # far faster than a sum along so short an axis
        right = np.abs(sums - 1) <= TOLERANCE
    if (values < 0).any():
        right &= (values >= 0).all(axis=1)
    return right


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
    kind = KINDS.get(whats.pop())
    parts: dict[str, Part] = {}
    for name, split in zip(names, splits, strict=True):
        file = directory / name
        array = _load_torch(file) if file.suffix == ".pt" else _load_npy(file)
        if isinstance(array, dict):
            if len(names) > 1:
                raise CheckError("a dict among files of one split each", where=str(file), expected="a tensor (N, K)")
            return _read_columns(directory, file, array, kind)
        paths = _read_lines(directory / lists[split]) if split in lists else None
        parts |= _parts(file, _values(array, file), {"paths": paths}, split)
    return _soft_labels(directory, parts, kind, "named by the file")


def _read_columns(directory: Path, file: Path, columns: dict[str, Any], named: str | None = None) -> SoftLabels:
    """An npz, or a dict of tensors and lists; `named` is the kind that the file's name claims."""
    whats = [what for what in ("probs", "logits") if what in columns]
    if not set(columns) <= set(KEYS) or len(whats) != 1 or named not in (None, KINDS[whats[0]]):
        raise CheckError(
            f"entries that do not say what they hold: {', '.join(sorted(map(str, columns))[:10]) or 'none'}",
            where=str(file),
            expected=f"{'probs or logits' if named is None else named}, and no others than {', '.join(KEYS[2:])}",
        )
    texts = {name: _texts(columns[name], file, name) for name in TEXTS if name in columns}
    classes = texts["classes"].to_pylist() if "classes" in texts else None
    temperature = _number(columns["temperature"], file) if "temperature" in columns else None
    parts = _parts(file, _values(columns[whats[0]], file), texts)
    return _soft_labels(directory, parts, KINDS[whats[0]], "named in the file", classes, temperature)


def _read_table(directory: Path, file: Path) -> SoftLabels:
    """One CSV or Parquet file."""
    table = _load_csv(file) if file.suffix == ".csv" else _load_parquet(file)
    others = [name for name in table.column_names if name not in ("path", "label", "split")]
    prefixes = [prefix for prefix in ("prob_", "logit_") if any(name.startswith(prefix) for name in others)]
    doubled = len(set(table.column_names)) < len(table.column_names)
    if "path" not in table.column_names or not others or len(prefixes) > 1 or doubled:
        raise CheckError(
            f"columns that do not say what they hold: {', '.join(table.column_names)}",
            where=str(file),
            expected="path, if you like label and split, and for each class prob_<class> or logit_<class> or <class>",
        )
    prefix = prefixes[0] if prefixes else ""
    names = [name for name in others if name.startswith(prefix)]
    if all(pa.types.is_integer(table[name].type) for name in names):
        raise _not_floats("integers", file)
    values = np.empty((len(table), len(names)), np.float32)
    for place, name in enumerate(names):
        column = table[name]
        # CSV has no types: a column of whole numbers, or of none, is still one of decimals if its neighbours are.
        if file.suffix == ".csv" and (pa.types.is_integer(column.type) or pa.types.is_null(column.type)):
            column = column.cast(pa.float64())
        values[:, place] = store.numbers(column, file, name)
    keys = {"path": "paths", "label": "labels", "split": "split"}
    texts = {keys[name]: store.text(table[name], file, name) for name in keys if name in table.column_names}
    classes = [name.removeprefix(prefix) for name in names]
    kind = KINDS[prefix] if prefix else None
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
        right = sum(int(distributions(values).sum()) for values in finite)
        kind = "probabilities" if 2 * right > rows else "logits"
        share = "every row lies" if right == rows else f"{right} of {rows} rows lie" if right else "no row lies"
        kind_from = f"inferred: {share} in [0, 1] with the sum 1 within {TOLERANCE:g}"
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


def _load_npy(file: Path) -> np.ndarray:
    try:
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # the header of a hostile file may raise anything
        raise _unreadable(file, error) from None
    if not isinstance(array, np.ndarray):
        raise CheckError("an archive where one array belongs", where=str(file), expected="one array (N, K)")
    return array


def _load_npz(file: Path) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(file) as entries:
            size = sum(entry.file_size for entry in entries.infolist())
        if size > MAX_BYTES:
            raise ValueError(f"it unpacks to {size:,} bytes, more than {MAX_BYTES:,}")
        with np.load(file, allow_pickle=False) as archive:
            return dict(archive)
    except Exception as error:  # a hostile file may raise anything
        raise _unreadable(file, error) from None


def _load_torch(file: Path) -> Any:
    """An array, or a dict of arrays and of lists of text."""
    import torch

    def array(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        if value.layout == torch.strided and value.nbytes > value.untyped_storage().nbytes():
            raise ValueError("a tensor that repeats its numbers: it may unfold to more than memory holds")
        return (value.float() if value.is_floating_point() else value).numpy(force=True)

    try:
        loaded = torch.load(file, map_location="cpu", weights_only=True)
        return {key: array(value) for key, value in loaded.items()} if isinstance(loaded, dict) else array(loaded)
    except Exception as error:  # a hostile file may raise anything
        raise _unreadable(file, error) from None


def _load_csv(file: Path) -> pa.Table:
    options = pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(("path", "label", "split"), pa.large_string()))
    try:
        table = pyarrow.csv.read_csv(
            file, parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True), convert_options=options
        )
        _ = table.column_names  # raises where a name is not UTF-8
        return table
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        raise _unreadable(file, error) from None


def _load_parquet(file: Path) -> pa.Table:
    try:
        table = pq.read_table(file, partitioning=None)
        _ = table.column_names  # raises where a name is not UTF-8
        return table
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        raise _unreadable(file, error) from None


def _read_lines(file: Path) -> pa.LargeStringArray:
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except (OSError, ValueError) as error:
        raise _unreadable(file, error) from None
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
        raise _not_floats(str(array.dtype), file)
    with np.errstate(over="ignore"):  # becomes an infinity, which the gate refuses
        return array.astype(np.float32, copy=False)


def _texts(values: Any, file: Path, name: str) -> pa.LargeStringArray:
    expected = "one text (not bytes) for each row"
    try:
        texts = values.tolist() if isinstance(values, np.ndarray) else values
        if not isinstance(texts, (list, tuple)) or not all(isinstance(text, str) for text in texts):
            raise CheckError("not a list of text", where=f"{file}, {name}", expected=expected)
        return pa.array(texts, pa.large_string())
    except (ValueError, SystemError) as error:  # numbers that are no code points, half a surrogate
        raise CheckError(f"not a list of text: {error}", where=f"{file}, {name}", expected=expected) from None


def _number(value: Any, file: Path) -> float:
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


def _not_floats(what: str, file: Path) -> CheckError:
    return CheckError(
        f"{what} where soft labels belong",
        where=str(file),
        expected="floating-point logits or probabilities",
        hint="export them anew, neither rounded nor as class numbers",
    )


def _unreadable(file: Path, error: Exception) -> CheckError:
    reason = str(error).strip().split("\n")[0] or type(error).__name__
    return CheckError(
        f"cannot be read safely: {reason}",
        where=str(file),
        expected=f"a whole {file.suffix[1:]} file of numbers and text, without pickled objects",
        hint="export the soft labels anew",
    )
