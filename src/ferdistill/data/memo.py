"""What was computed before and need not be again: a table of answers, each under the digest of all that it depends on.

It lies in `.dvc/tmp`, is shared by all runs of a repository, and may be deleted at any time: then everything is
computed anew, and comes out the same.
"""

import hashlib
import importlib.util
import sqlite3
import sys
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path

from ..files import sha256_file

CHECK = 8  # bytes of a digest before each answer, by which one that was damaged is known
WAIT = 60.0  # seconds for another process that writes
AT_A_TIME = 500  # keys in a query


def code_key(modules: Iterable[str], *facts: object) -> bytes:
    """A digest of the source of modules of this package and of facts, whose texts tell them apart: part of a key."""
    digest = hashlib.sha256()
    for module in sorted(modules):
        spec = importlib.util.find_spec(f"ferdistill.{module}")
        assert spec is not None and spec.origin is not None, module
        digest.update(sha256_file(spec.origin).encode())
    digest.update(repr(facts).encode())
    return digest.digest()


def key_of(code: bytes, *facts: object) -> bytes:
    """The key of an answer that follows from `code`, of `code_key`, and from facts, whose texts tell them apart."""
    return hashlib.sha256(code + repr(facts).encode()).digest()


class Memo:
    """Answers by key, both bytes. What cannot be read or written is said once and done without."""

    def __init__(self, connection: sqlite3.Connection | None = None, path: Path = Path()) -> None:
        """Of an open table at `path`; without one nothing is known, and nothing kept."""
        self._connection, self._path = connection, path

    def get(self, keys: list[bytes]) -> dict[bytes, bytes]:
        """The answers that are there, of these keys."""
        found: dict[bytes, bytes] = {}
        for start in range(0, len(keys), AT_A_TIME):
            some = keys[start : start + AT_A_TIME]
            query = f"SELECT key, answer FROM answers WHERE key IN ({','.join('?' * len(some))})"
            for key, answer in self._execute(query, some):
                if isinstance(answer, bytes) and answer[:CHECK] == _check(key, answer[CHECK:]):
                    found[key] = answer[CHECK:]
        return found

    def put(self, answers: dict[bytes, bytes]) -> None:
        """Keep answers: all of them or, if the process is killed or the disk is full, none."""
        rows = [(key, _check(key, answer) + answer) for key, answer in answers.items()]
        if self._connection is not None and rows:
            try:
                with self._connection:
                    self._connection.executemany("INSERT OR REPLACE INTO answers VALUES (?, ?)", rows)
            except sqlite3.Error as error:
                self._give_up(error)

    def _execute(self, query: str, values: list[bytes]) -> Iterable[tuple[bytes, bytes]]:
        try:
            return [] if self._connection is None else self._connection.execute(query, values).fetchall()
        except sqlite3.Error as error:
            self._give_up(error)
            return []

    def _give_up(self, error: sqlite3.Error) -> None:
        print(f"{self._path} cannot be used ({error}): the rest is computed anew", file=sys.stderr)
        assert self._connection is not None
        self._connection.close()
        self._connection = None
        if not isinstance(error, sqlite3.OperationalError):  # damaged, and neither locked nor on a full disk
            _remove(self._path)


NOTHING_KNOWN = Memo()


@contextmanager
def memo(path: Path) -> Iterator[Memo]:
    """Open the answers at `path`; nothing is there yet if it is not. A file that is no such table is replaced.

    Where there is no folder for it, as outside of a DVC repository, nothing is kept.
    """
    if not path.parent.is_dir():
        yield NOTHING_KNOWN
        return
    connection = None
    try:
        try:
            connection = _connect(path)
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise
            print(f"{path} is damaged ({error}): it is begun anew", file=sys.stderr)
            _remove(path)
            connection = _connect(path)
    except (sqlite3.Error, OSError) as error:
        print(f"{path} cannot be used ({error}): everything is computed anew", file=sys.stderr)
    with closing(connection) if connection else nullcontext():
        yield Memo(connection, path)


def _remove(path: Path) -> None:
    for name in (path, Path(f"{path}-wal"), Path(f"{path}-shm")):
        name.unlink(missing_ok=True)


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=WAIT)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("CREATE TABLE IF NOT EXISTS answers (key BLOB PRIMARY KEY, answer BLOB) WITHOUT ROWID")
    return connection


def _check(key: bytes, answer: bytes) -> bytes:
    return hashlib.sha256(key + answer).digest()[:CHECK]
