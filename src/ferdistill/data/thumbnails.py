"""Thumbnails in a file, so that memory does not grow with their number."""

import errno
import tempfile

import numpy as np

from ..errors import CheckError
from ..files import is_full

SIDE = 32


class Thumbnails:
    """uint8 (N, SIDE, SIDE) in a temporary file that goes with it: `thumbnails[rows]` reads some of them.

    The file has no name, so nothing is left of it where the process is killed.
    """

    def __init__(self, count: int) -> None:
        """So many, each undefined until it is set."""
        self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
        self._file.truncate(count * SIDE**2)
        self._places = np.arange(count)

    def __len__(self) -> int:
        return len(self._places)

    def take(self, rows: np.ndarray) -> "Thumbnails":
        """These rows, in this order, of the same file."""
        found = object.__new__(Thumbnails)
        found._file, found._places = self._file, self._places[rows]
        return found

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        """The thumbnails of these rows, in memory of their own."""
        places = self._places[rows]
        found = np.empty((len(places), SIDE, SIDE), dtype=np.uint8)
        starts = np.flatnonzero(np.diff(places, prepend=-2) != 1)  # of runs that lie one after another
        for start, end in zip(starts.tolist(), [*starts[1:].tolist(), len(places)], strict=True):
            self._file.seek(int(places[start]) * SIDE**2)
            self._file.readinto(found[start:end].data)
        return found

    def __setitem__(self, row: int, picture: np.ndarray | bytes) -> None:
        """Raises CheckError if there is no room on the disk."""
        try:
            self._file.seek(int(self._places[row]) * SIDE**2)
            if self._file.write(bytes(picture)) != SIDE**2:
                raise OSError(errno.ENOSPC, "a part was written")
        except OSError as error:
            if not is_full(error):
                raise
            raise CheckError(
                "there is no room for thumbnails",
                where=tempfile.gettempdir(),
                expected=f"{SIDE**2} bytes an image",
                hint="make room, or name another folder in the environment's TMPDIR",
            ) from None
