"""YAML files, which come from other people too: plain values alone, and no more of them than memory holds."""

import math
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
    last: yaml.Node = block
    while isinstance(last, yaml.CollectionNode) and last.value and not last.flow_style:
        last = last.value[-1][1] if isinstance(last, yaml.MappingNode) else last.value[-1]
    indent = " " * block.value[0][0].start_mark.column
    lines = [f"{line}\n" for line in text.split("\n")] if not text.endswith("\n") else text.splitlines(keepends=True)
    added = [f"{indent}{line}\n" for line in entry.splitlines()]
    changed = "".join([*lines[: last.end_mark.line + 1], *added, *lines[last.end_mark.line + 1 :]])
    before, after, new = (yaml.safe_load(part) for part in (text, changed, entry))
    if after != before | {section: before[section] | new} or set(new) & set(before[section]):
        raise UsageError(f"`{section}` cannot be added to", where=", ".join(new), hint="write the entry by hand")
    return changed


def _size(node: yaml.Node, known: dict[int, float]) -> float:
    """Values and characters that a node stands for; infinitely many if it contains itself."""
    if isinstance(node, yaml.ScalarNode):
        return 1 + len(node.value)
    if id(node) not in known:
        known[id(node)] = math.inf  # until it is known, only what is inside it asks
        inner = chain.from_iterable(node.value) if isinstance(node, yaml.MappingNode) else node.value
        known[id(node)] = 1 + sum(_size(part, known) for part in inner)
    return known[id(node)]
