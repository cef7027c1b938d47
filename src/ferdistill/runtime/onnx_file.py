"""What an ONNX file would have ONNX Runtime do, read from its protobuf fields before it is loaded."""

import math
import mmap
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path

from ..errors import CheckError

# A network of a thousand layers in int8 has about 5,000 nodes. ONNX Runtime's time to load grows faster than they do.
MAX_NODES = 20_000
MAX_FIELDS = 1_500_000  # of all messages; a file of 20,000 nodes has about 250,000
# The fields of onnx.proto that lead to a node or a tensor, by number, and the message that each holds.
FIELDS = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}
FUNCTION_NAME, OPERATOR = 1, 4  # fields of a function and of a node
KEY, VALUE = 1, 2  # fields of an entry of external_data
EXPECTED = "an ONNX file that the stage `export` wrote, or that holds a whole image classifier"


def require_modest(model: Path, beside: Collection[str] | None) -> None:
    """Check a file before ONNX Runtime loads it: how many nodes it has, and which other files it names.

    It may name those `beside` it alone, by their names; any if None. A node that calls a function of the file counts
    for all that the function holds.

    Raises CheckError if it names another, has more than `MAX_NODES` nodes, or is no whole ONNX file.
    """
    try:
        with model.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            nodes, named = _survey(data)
    except (OSError, ValueError, RecursionError) as error:  # recursion: functions that call one another in a long row
        raise CheckError(
            f"cannot load the model: {error}", where=str(model), expected=EXPECTED, hint="export it again"
        ) from None
    if nodes > MAX_NODES:
        raise CheckError(
            "cannot load the model in reasonable time: it has too many nodes",
            where=str(model),
            expected=f"at most {MAX_NODES:,}, those inside loops, branches and functions with them",
            hint="export it again, of a smaller network",
        )
    if beside is not None and (others := sorted(named - set(beside))):
        raise CheckError(
            f"cannot load the model alone: it keeps weights in {', '.join(others)}",
            where=str(model),
            expected="a model in one file" + ", or files that bundle.json lists with their digests" * bool(beside),
            hint="export it again, into one file",
        )


def _survey(data: mmap.mmap | bytes) -> tuple[float, set[str]]:
    """Nodes of a model with its functions written out, infinitely many if these call themselves; files it names."""
    calls: list[Counter[bytes]] = [Counter()]  # operators, of the graph and of each function
    functions: dict[bytes, int] = {}
    named: set[str] = set()
    fields = nodes = 0
    waiting = [("model", 0, len(data), 0)]
    while waiting:
        message, start, end, owner = waiting.pop()
        if message == "entry":
            entry = {number: data[at:stop] for number, at, stop in _fields(data, start, end)}
            if entry.get(KEY) == b"location":
                named.add(entry.get(VALUE, b"").decode())
            continue
        if message == "function":
            owner = len(calls)
            calls.append(Counter())
        operator = b""
        for number, at, stop in _fields(data, start, end):
            fields += 1
            nodes += FIELDS[message].get(number) == "node"
            if fields > MAX_FIELDS or nodes > MAX_NODES:
                return math.inf, named
            if number in FIELDS[message]:
                waiting.append((FIELDS[message][number], at, stop, owner))
            elif message == "function" and number == FUNCTION_NAME:
                functions[data[at:stop]] = owner
            elif message == "node" and number == OPERATOR:
                operator = data[at:stop]
        if message == "node":
            calls[owner][operator] += 1

    known: dict[int, float] = {}

    def size(owner: int) -> float:
        if owner not in known:
            known[owner] = math.inf  # until it is known, only what is inside it asks
            known[owner] = sum(
                count * (size(functions[operator]) if operator in functions else 1)
                for operator, count in calls[owner].items()
            )
        return known[owner]

    return size(0), named


def _fields(data: mmap.mmap | bytes, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Of a message's fields that have a length: the number, and where the content begins and ends."""
    while at < end:
        key, at = _varint(data, at, end)
        kind = key & 7
        if kind == 2:
            length, at = _varint(data, at, end)
            if at + length > end:
                raise ValueError("it is cut off, or no ONNX file")
            yield key >> 3, at, at + length
            at += length
        elif kind == 0:
            at = _varint(data, at, end)[1]
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
        else:
            raise ValueError("it is no ONNX file")


def _varint(data: mmap.mmap | bytes, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end and shift < 70:
        byte = data[at]
        at += 1
        if byte < 128:
            return value | byte << shift, at
        value |= (byte & 127) << shift
        shift += 7
    raise ValueError("it is cut off, or no ONNX file")
