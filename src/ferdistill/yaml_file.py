"""YAML files, which come from other people too: plain values alone, and no more of them than memory holds."""

import math
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import yaml

from .errors import UsageError

MAX_SIZE = 10_000_000  # values, and characters of these, in a file whose aliases are written out


def read(path: Path | str) -> Any:
    """Read a YAML file of plain values: no tag makes an object of Python's.

    Aliases count for all that they stand for, `MAX_SIZE` at most: a few lines could otherwise stand for more than
    memory holds.

    Raises FileNotFoundError if the file is not there: the caller knows what it should be; UsageError if it cannot be
    read, is not YAML, or stands for too much.
    """
    try:
        node = yaml.compose(Path(path).read_text(encoding="utf-8"), yaml.SafeLoader)
        if node is None:
            return None
        if _size(node, {}) > MAX_SIZE:
            raise ValueError("its aliases stand for too much")
        return yaml.SafeLoader("").construct_document(node)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UsageError(f"cannot be read: {error.strerror}", where=str(path), expected="a YAML file") from None
    # A value that is not of its tag's type, as in `!!bool x`, may raise anything.
    except Exception as error:
        raise UsageError(f"not valid YAML: {error}", where=str(path)) from None


def with_entry(text: str, section: str, entry: str) -> str:
    """The text of a YAML file with `entry` as the last of a section's entries; every other line as it was.

    `entry` is a mapping in lines of its own, not indented; the section is a mapping of the file, in lines as well.

    Raises UsageError if there is no such section, or the text would hold anything else than before and the entry.
    """
    root = yaml.compose(text, yaml.SafeLoader)
    pairs = root.value if isinstance(root, yaml.MappingNode) else []
    block = next((value for key, value in pairs if key.value == section), None)
    if not isinstance(block, yaml.MappingNode) or not block.value or block.flow_style:
        raise UsageError(f"no section `{section}` in lines of its own", expected=f"`{section}:` and entries below it")
    after_it = _last_line(block) + 1
    changed = _with_lines(text, after_it, after_it, block.value[0][0].start_mark.column, entry)
    before, after, new = (yaml.safe_load(part) for part in (text, changed, entry))
    if after != before | {section: before[section] | new} or set(new) & set(before[section]):
        raise UsageError(f"`{section}` cannot be added to", where=", ".join(new), hint="write the entry by hand")
    return changed


def with_value(text: str, keys: Sequence[str], entry: str) -> str:
    """The text of a YAML file with `entry` in place of the one that `keys` lead to; every other line as it was.

    `entry` is a mapping of the last key alone, in lines of its own, not indented, as what it replaces is.

    Raises UsageError if there is no such entry, or the text would hold anything else than before but for it.
    """
    node: yaml.Node | None = yaml.compose(text, yaml.SafeLoader)
    key: yaml.Node | None = None
    for name in keys:
        pairs = node.value if isinstance(node, yaml.MappingNode) and not node.flow_style else []
        key, node = next((pair for pair in pairs if pair[0].value == name), (None, None))
    path = ".".join(keys)
    if key is None or node is None:
        raise UsageError(
            f"no `{path}` in lines of its own", expected="each of these keys in a line, and its value below"
        )
    start = key.start_mark
    changed = _with_lines(text, start.line, _last_line(node) + 1, start.column, entry)
    before, after, new = (yaml.safe_load(part) for part in (text, changed, entry))
    inner = before
    for name in keys[:-1]:
        inner = inner[name]
    inner |= new
    if after != before or list(new) != [keys[-1]]:
        raise UsageError(f"`{path}` cannot be replaced", hint="write the entry by hand")
    return changed


def in_one_line(value: Any) -> str:
    """A plain value as YAML in one line."""
    return (
        yaml.safe_dump(value, default_flow_style=True, width=math.inf, allow_unicode=True).removesuffix("...\n").strip()
    )


def _last_line(node: yaml.Node) -> int:
    """The number of the last line that a value stands in, comments below it left out."""
    while isinstance(node, yaml.CollectionNode) and node.value and not node.flow_style:
        node = node.value[-1][1] if isinstance(node, yaml.MappingNode) else node.value[-1]
    return int(node.end_mark.line)


def _with_lines(text: str, start: int, end: int, indent: int, entry: str) -> str:
    """The text with an entry, indented, in place of the lines from `start` to before `end`."""
    lines = [f"{line}\n" for line in text.split("\n")] if not text.endswith("\n") else text.splitlines(keepends=True)
    return "".join([*lines[:start], *(f"{' ' * indent}{line}\n" for line in entry.splitlines()), *lines[end:]])


def _size(node: yaml.Node, known: dict[int, float]) -> float:
    """Values and characters that a node stands for; infinitely many if it contains itself."""
    if isinstance(node, yaml.ScalarNode):
        return 1 + len(node.value)
    if id(node) not in known:
        known[id(node)] = math.inf  # until it is known, only what is inside it asks
        inner = chain.from_iterable(node.value) if isinstance(node, yaml.MappingNode) else node.value
        known[id(node)] = 1 + sum(_size(part, known) for part in inner)
    return known[id(node)]
