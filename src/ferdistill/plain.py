r"""Text that others chose (names of files, classes, columns), made harmless for a terminal, JSON and a spreadsheet.

A terminal obeys control characters, and a spreadsheet a cell that begins as a formula does. What is printed has such
characters as escapes: `\x1b`, in JSON `\u001b`.
"""

import json
import re
import sys
from typing import Any

# Control characters, ends of lines, what turns the direction of writing round, and bytes that are not UTF-8.
INSIDE = r"\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
CONTROL, CONTROL_OR_LINE_FEED = re.compile(f"[{INSIDE}]"), re.compile(f"[{INSIDE}\n]")
FORMULA = ("=", "+", "-", "@", "＝", "＋", "－", "＠", "'")


def shown(text: str, lines: bool = False) -> str:
    """A text of one line for a terminal; if `lines`, it may have line feeds of its own."""
    return (CONTROL if lines else CONTROL_OR_LINE_FEED).sub(lambda found: ascii(found[0])[1:-1], text)


def say(line: str, err: bool = False) -> None:
    """Print one line, on standard error if `err`."""
    print(shown(line), file=sys.stderr if err else sys.stdout, flush=True)


def json_text(value: Any, indent: int | None = 2) -> str:
    """JSON to print, with letters of all languages as they are; NaN and infinity are refused."""
    text = json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False)
    return CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def cell(value: Any) -> Any:
    """A value of a CSV for people: text that a spreadsheet would take for a formula begins with an apostrophe.

    So does text that begins with one, so that taking the first away gives back what was there.
    """
    if not isinstance(value, str):
        return value
    text = shown(value)
    return f"'{text}" if text.startswith(FORMULA) else text
