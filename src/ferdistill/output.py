"""Standard output, and how a program ends: in one message, whatever the system refused."""

import codecs
import contextlib
import errno
import os
import re
import sys
from collections.abc import Iterator

from .errors import CheckError, FerdistillError, UsageError, clipped
from .files import is_full

NO_SUCH_PATH = (errno.ENAMETOOLONG, errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
# What torch, NumPy, the C++ library, Python's threads and the loader of libraries say.
NO_MEMORY = re.compile(
    r"(not enough|n't allocate|out of|cannot allocate) memory|bad_?alloc|can't start new thread|failed to map segment",
    re.IGNORECASE,
)


def escape(error: UnicodeError) -> tuple[str, int]:
    r"""Write as JSON's `\uXXXX` what an encoding lacks: still JSON where it stood in JSON, and readable elsewhere."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2)), error.end


@contextlib.contextmanager
def one_message() -> Iterator[None]:
    """End the program with a message and an exit code where the block stops with an error that the user can act on.

    Such are ours, and what the system refuses: a path too long, a full disk, a missing right. Output has been written
    out when the block ends, so that a full disk behind standard output is an error too; what a terminal, a pipe or a
    file cannot encode is written as `escape` does.
    """
    codecs.register_error("escape", escape)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="escape")  # type: ignore[union-attr]
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except FerdistillError as error:
        _end(error)
    except BrokenPipeError:
        _let_go()  # whoever reads has read enough
        sys.exit(1)
    except Exception as error:
        if (known := refused(error)) is None:
            raise
        _end(known)


def refused(error: Exception) -> FerdistillError | None:
    """What the system did not do, and with which file; None if it is not the system that raised an error."""
    told = isinstance(error, RuntimeError | ImportError | OSError) and NO_MEMORY.search(str(error))
    if told or isinstance(error, MemoryError):
        hint = "end other programs, or take smaller batches or fewer workers; what was written before is whole"
        return CheckError("there is no memory left", expected="as much as the system can give", hint=hint)
    if is_full(error):
        return CheckError(f"there is no room to write a file: {error}", hint="make room and run again")
    if not isinstance(error, OSError):
        return None
    named = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
    where = ", ".join(map(clipped, named))
    what = f"the system refuses a file or folder: {error.strerror or type(error).__name__}"
    kind = UsageError if error.errno in NO_SUCH_PATH else CheckError
    return kind(what, where=where, hint="correct the path, or see permissions, free space and `ulimit -a`")


def _end(error: FerdistillError) -> None:
    with contextlib.suppress(OSError):  # there may be nowhere left to say it
        sys.stderr.write(f"error: {error}\n")
        sys.stderr.flush()
    _let_go()
    sys.exit(error.exit_code)


def _let_go() -> None:
    """Drop what standard output still holds if it cannot be written, or Python would try once more as it ends."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
