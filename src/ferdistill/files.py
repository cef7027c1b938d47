"""Files written whole or not at all, and digests of what they hold."""

import errno
import hashlib
import json
import math
import os
import re
import tempfile
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .errors import CheckError, FerdistillError, UsageError

# Control characters, ends of lines, and what Python makes of bytes that are not UTF-8.
UNWRITABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
MAX_COLUMNS = 4_096  # of any table or array that somebody else may have written
RESTORE = "restore it, with `dvc checkout --force` where DVC keeps it"


@contextmanager
def atomic(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` if the block succeeds, else remove it.

    The temporary file keeps the suffix of `path`, since some writers choose a format by it. A process killed outright
    leaves it behind, under a name that git and DVC are told to ignore: `.STEM-XXXXXXXX.partial.SUFFIX`.

    Raises CheckError if the disk is full, or the file would be larger than the system allows. What was at `path` is
    still there, and no folder that was made for it.
    """
    path = Path(path)
    made = [folder for folder in path.parents if not folder.exists()]  # the innermost first
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=f".partial{path.suffix}")
    os.close(handle)
    temporary = Path(name)
    done = False
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp makes files that only their owner may read
        temporary.replace(path)
        done = True
    except Exception as error:
        if not is_full(error):
            raise
        raise CheckError(
            "there is no room to write a file",
            where=str(path),
            expected="free space, and a file size that the system allows",
            hint="make room and run again; what was there before is unchanged",
        ) from None
    finally:
        temporary.unlink(missing_ok=True)
        if not done:
            with suppress(OSError):  # others may have put something there meanwhile
                for folder in made:
                    folder.rmdir()


def walk(folder: Path) -> Iterator[os.DirEntry[str]]:
    """What lies below a folder, each folder before what it holds, in no order of its own; links are not followed.

    One folder is open at a time and none waits for another, so that any depth can be read. Raises OSError where a
    folder cannot be listed.
    """
    waiting = [os.fspath(folder)]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            found = list(entries)
        yield from found
        waiting += [entry.path for entry in found if entry.is_dir(follow_symlinks=False)]


def is_full(error: Exception) -> bool:
    """Whether a writer failed for want of room; safetensors tells only in words."""
    codes = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    told = isinstance(error, OSError) and error.errno in codes
    return told or any(f"os error {code}" in str(error) for code in codes)


def write_text(path: Path | str, text: str) -> None:
    """Write `text` as UTF-8 with line feeds alone, on every system."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path | str, value: Any) -> None:
    """Write `value` as indented JSON. NaN and infinity are refused: JSON has neither."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path | str, *keys: str, hint: str = RESTORE) -> dict[str, Any]:
    """Read a JSON file that an earlier stage wrote: an object, with these `keys` at least.

    `hint` says what to do if it is damaged.

    Raises UsageError if the file is not there; CheckError if it cannot be read, is not JSON, or is not such an object.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
        value = json.loads(text, parse_float=_finite, parse_constant=_finite)
        if re.search(r"\\u[dD][89a-fA-F]", text):
            json.dumps(value, ensure_ascii=False).encode()  # raises where half a surrogate pair stands alone
    except FileNotFoundError:
        raise UsageError("a file is missing", where=str(path), hint="run `dvc repro`, or `dvc pull`") from None
    except OSError as error:
        raise CheckError(f"cannot be read: {error.strerror}", where=str(path), expected="a JSON file") from None
    except (ValueError, RecursionError) as error:
        raise CheckError(f"not valid JSON: {error}", where=str(path), hint=hint) from None
    lacking = [key for key in keys if not isinstance(value, dict) or key not in value]
    if lacking or not isinstance(value, dict):
        raise CheckError(
            f"it lacks {', '.join(lacking)}" if isinstance(value, dict) else "not a JSON object",
            where=str(path),
            expected="an object" + (f" with {', '.join(keys)}" if keys else ""),
            hint=hint,
        )
    return value


def require_few_columns(count: int, file: Path | str, error: type[FerdistillError] = CheckError) -> None:
    """Stop with `error` at more than `MAX_COLUMNS` columns: no table here needs them, and some checks pair them all."""
    if count > MAX_COLUMNS:
        raise error(f"{count:,} columns", where=str(file), expected=f"at most {MAX_COLUMNS:,}")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is no number of JSON, or overflows")
    return value


def sha256(data: bytes | str) -> str:
    """SHA-256 of bytes, or of a text's UTF-8 bytes, in hex."""
    return hashlib.sha256(data.encode("utf-8") if isinstance(data, str) else data).hexdigest()


def sha256_file(path: Path | str) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folded(name: str) -> str:
    """The form in which a file system that ignores case, and how accents are encoded, holds a name."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
