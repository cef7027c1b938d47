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


def _size(node: yaml.Node, known: dict[int, float]) -> float:
    """Values and characters that a node stands for; infinitely many if it contains itself."""
    if isinstance(node, yaml.ScalarNode):
        return 1 + len(node.value)
    if id(node) not in known:
        known[id(node)] = math.inf  # until it is known, only what is inside it asks
        inner = chain.from_iterable(node.value) if isinstance(node, yaml.MappingNode) else node.value
        known[id(node)] = 1 + sum(_size(part, known) for part in inner)
    return known[id(node)]
