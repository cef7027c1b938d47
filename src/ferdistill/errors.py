"""The two ways in which a command may stop, each with its exit code, and the check that facts agree."""

import re
from collections.abc import Iterable
from functools import partial
from typing import Any

MOST = 2_000  # characters of each part of a message, whatever was found
CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class FerdistillError(Exception):
    """A stop that the user can act on.

    `what` was wrong, in one sentence; `where`: file, row or column, parameter; what would have been right, `expected`;
    and a `hint` at what to do now. Each is cut at `MOST` characters, and says by how many; control characters, which
    could write anywhere on a terminal, are shown as escapes.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: str = "", expected: str = "", hint: str = "") -> None:
        self.what, self.where, self.expected, self.hint = map(_bounded, (what, where, expected, hint))
        told = {"where:    ": self.where, "expected: ": self.expected, "do:       ": self.hint}
        super().__init__("\n".join([self.what, *(f"  {name}{text}" for name, text in told.items() if text)]))

    def __reduce__(self) -> tuple[Any, ...]:
        """Keep the parts apart on the way back from a worker process."""
        keywords = {"where": self.where, "expected": self.expected, "hint": self.hint}
        return partial(type(self), **keywords), (self.what,)


class CheckError(FerdistillError):
    """The input was read and found wrong: damaged data, labels out of step. Exit code 1."""


class UsageError(FerdistillError):
    """The call itself was wrong: a parameter, an option, a path that is not there. Exit code 2."""

    exit_code = 2


def clipped(text: str, most: int = 200) -> str:
    """A text for a message: its beginning and its length, where it is longer than `most`."""
    return text if len(text) <= most else f"{text[:most]}… ({len(text)} characters)"


def require_same(facts: Iterable[tuple[str, Any, Any]], what: str, *, where: str = "", hint: str = "") -> None:
    """Check that things which must agree do: each of `facts` is a name, what is expected, and what was found.

    Raises CheckError at the first that differ: `what` says what is wrong then. Digests are shown by their first 12
    digits.
    """
    for name, expected, found in facts:
        if found != expected:
            expected = f"{name} {_shortened(expected)}"
            raise CheckError(f"{what}: {name} {_shortened(found)}", where=where, expected=expected, hint=hint)


def _bounded(text: str) -> str:
    shown = CONTROL.sub(lambda found: ascii(found[0])[1:-1], text[: MOST + 1])
    if len(shown) <= MOST:
        return shown
    kept = MOST - 50  # with what follows not above MOST, so that it is cut once
    return f"{shown[:kept]} … and about {max(len(text), len(shown)) - kept:,} characters more"


def _shortened(value: Any) -> str:
    return re.sub(r"\b([0-9a-f]{12})[0-9a-f]{52}\b", r"\1", str(value))
