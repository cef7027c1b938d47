"""What the tests of hostile input share: files spoilt at random, and what no reader may do with them.

`attack` writes a valid file that the project's own writer made, spoilt, and has it read. The reader must give what it
gave before, or other values that `Case.well_formed` accepts, or stop with a FerdistillError. It may not raise anything
else, open a file outside its root, start a process, unpickle, leave or change a file, or take more than `SECONDS`.
"""

import contextlib
import io
import os
import pickle
import re
import signal
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ferdistill.errors import FerdistillError

# Of each reader. `FERDISTILL_FUZZ_EXAMPLES=20000 pytest -m slow tests/test_hostile*.py` tries as many.
FEW = 25
MANY = int(os.environ.get("FERDISTILL_FUZZ_EXAMPLES", "1000"))
SECONDS = 20  # of processor time for one file
EXAMPLES = [pytest.param(FEW, id="few"), pytest.param(MANY, id="many", marks=pytest.mark.slow)]

OUTSIDE = "secret-outside-the-root.txt"
CANARY = "code-has-run"


class Payload:
    """Its pickle, if it is ever loaded, makes the file `CANARY` in the working directory."""

    def __reduce__(self):
        return open, (CANARY, "w")


def _zip(name, content):
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return held.getvalue()


def _npy(value):
    held = io.BytesIO()
    np.save(held, value, allow_pickle=True)
    return held.getvalue()


PICKLE = pickle.dumps(Payload())
PICKLED_ARRAY = _npy(np.array([Payload()], dtype=object))
YAML_CODE = f"!!python/object/apply:builtins.open ['{CANARY}', 'w']"
# Alone, in place of a field, or put in anywhere.
TOKENS = [
    *("", " ", ",", ";", "\t", '"', "'", "\n", "\r", "\r\n", "\0", "#", ":", "-", "|", "{", "}", "[", "]", "*a", "&a "),
    *(
        "NaN",
        "nan",
        "inf",
        "-inf",
        "Infinity",
        "1e400",
        "-1e400",
        "1e-400",
        "1e99999",
        "-1",
        "-0.0",
        "0",
        "1.5",
        "true",
    ),
    *("9" * 25, "9" * 400, "9" * 5000, str(2**63), str(2**64), "0x10", "1_000", "null", "~", "None", "２", "½"),
    *("é", "\ufeff", "\u2028", "\u202e", "𝔽", "\x1b[31m", "\x7f", "a" * 70_000, "," * 3000, "../" * 5 + "etc/passwd"),
    *(
        "/etc/passwd",
        f"../{OUTSIDE}",
        "..",
        ".",
        "C:\\x",
        "//x",
        "file:///etc/passwd",
        "CON",
        "link.png",
        f"../../{OUTSIDE}",
    ),
    *("=cmd|' /C calc'!A0", "%s%n", "${jndi:x}", "{0.__class__}", "<script>", "'; DROP TABLE x; --", "`id`", "$(id)"),
    *(YAML_CODE, "!!bool x", "!!int x", "!!timestamp x", "2001-99-99", "<<: 3", '"\\U00110000"', "? [a]\n: b\n"),
    *('{"a": ' * 3000, "[" * 50_000, "- " * 3000, "(" * 500, '{"__proto__": 1}', '"\\ud800"', "\\N{BULLET}"),
]
WHOLE = [
    *(b"", b"\0", b"\n", b"\xff\xfe", b"\xef\xbb\xbf", b"{}", b"[]", b"null", b"3", b'"text"', b"\0" * 4096),
    *(PICKLE, PICKLED_ARRAY, _zip("a.npy", PICKLED_ARRAY), _zip("a/data.pkl", PICKLE), _zip("../../a", b"x")),
    *(_npy(np.zeros(3)), b"PK\x03\x04garbage", b"PAR1PAR1", b"\x93NUMPY\x01\x00\x10\x00{'descr': '<f4' "),
    *(b"GIF89a\xff\xff\xff\xff", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"a: &a [*a]\n"),
    # Each alias ten of the one before: a few lines that stand for a hundred million values and more.
    "\n".join(["a0: &a0 x", *(f"a{n}: &a{n} [{f'*a{n - 1}, ' * 10}]" for n in range(1, 10))]).encode(),
    "\n".join(["a0: &a0 {}", *(f"a{n}: &a{n} {{<<: [{f'*a{n - 1}, ' * 10}]}}" for n in range(1, 9))]).encode(),
]  # fmt: skip


@dataclass
class Case:
    """A reader and what it reads.

    Attributes
    ----------
    root : Path
        All that the reader may open lies below it.
    read : callable
        Reads the files; gives what they say, of a kind that `==` compares.
    files : list of str
        Those to spoil, relative to `root`.
    well_formed : callable, optional
        Asserts that what was read of a file that nothing guards by digest can be used. Without it, it must be what it
        was before.
    agree : callable, optional
        Called after a file was spoilt, to make the digests that guard it agree with it again.
    """

    root: Path
    read: Callable[[], Any]
    files: list[str]
    well_formed: Callable[[Any], None] | None = None
    agree: Callable[[], None] | None = None
    valid: dict[str, bytes] = field(default_factory=dict)


class _Watch:
    """An audit hook, which cannot be taken away, so there is one; it is on only while a reader runs."""

    def __init__(self):
        self.on = False
        self.forbidden: set[str] = set()
        self.seen: list[str] = []
        sys.addaudithook(self)

    def __call__(self, event, arguments):
        if not self.on:
            return
        if event == "open" and isinstance(arguments[0], (str, bytes)):
            name = os.path.realpath(os.fsdecode(arguments[0]))
            if name in self.forbidden or Path(name).name == CANARY:
                self.seen.append(f"opened {name}")
        elif event in (
            "pickle.find_class",
            "os.system",
            "os.exec",
            "os.posix_spawn",
            "subprocess.Popen",
            "socket.connect",
        ):
            self.seen.append(f"{event} {arguments!r:.200}")


_WATCH = _Watch()


@contextlib.contextmanager
def watched(root):
    """Fail if what runs inside does any of what this module's docstring forbids."""

    def stop(*_):
        raise AssertionError(f"still reading after {SECONDS} seconds of processor time")

    before = _listing(root.parent)
    signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
    _WATCH.forbidden = {os.path.realpath(root.parent / OUTSIDE), os.path.realpath("/etc/passwd")}
    _WATCH.seen, _WATCH.on = [], True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        _WATCH.on = False
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    assert not _WATCH.seen
    assert not Path(CANARY).exists()
    assert _listing(root.parent) == before


def _listing(folder):
    return sorted(
        (str(path), path.lstat().st_size, path.lstat().st_mtime_ns) for path in folder.rglob("*") if not path.is_dir()
    )


def read(case):
    """What the reader gives, or the error that it stops with; anything else fails the test."""
    with watched(case.root):
        try:
            return case.read()
        except FerdistillError as error:
            assert error.what.strip(), "an error without a message"
            return error


@st.composite
def spoilt(draw, valid):
    """The bytes of a valid file after one to three changes."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.sampled_from(WHOLE))
    data = valid
    for _ in range(draw(st.integers(1, 3))):
        data = draw(st.sampled_from(CHANGES))(draw, data)
    return data


def _at(draw, data):
    return draw(st.integers(0, len(data)))


def _flip(draw, data):
    if not data:
        return data
    at = draw(st.integers(0, len(data) - 1))
    return data[:at] + bytes([draw(st.integers(0, 255))]) + data[at + 1 :]


def _cut(draw, data):
    return data[: _at(draw, data)]


def _drop(draw, data):
    start = _at(draw, data)
    return data[:start] + data[start + draw(st.sampled_from([1, 2, 4, 8, 100])) :]


def _put_in(draw, data):
    at = _at(draw, data)
    token = draw(st.one_of(st.sampled_from(TOKENS).map(str.encode), st.binary(max_size=8), st.sampled_from(WHOLE)))
    return data[:at] + token + data[at:]


def _swap_field(draw, data):
    """A hostile value in place of one field."""
    fields = [match.span() for match in re.finditer(rb"[^\s,:|{}\[\]\"]+", data[:200_000])]
    if not fields:
        return data
    start, stop = draw(st.sampled_from(fields))
    return data[:start] + draw(st.sampled_from(TOKENS)).encode() + data[stop:]


def _lines(draw, data):
    """A line twice, left out, or in another's place."""
    lines = data.split(b"\n")
    one, other = (draw(st.integers(0, len(lines) - 1)) for _ in range(2))
    match draw(st.sampled_from(["twice", "out", "swapped"])):
        case "twice":
            lines.insert(other, lines[one])
        case "out":
            del lines[one]
        case _:
            lines[one], lines[other] = lines[other], lines[one]
    return b"\n".join(lines)


def _number(draw, data):
    """Four bytes that may be a length or an offset, by a huge one."""
    if len(data) < 8:
        return data
    at = draw(st.integers(0, len(data) - 4))
    return data[:at] + draw(st.sampled_from([b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\0"])) + data[at + 4 :]


CHANGES = [_flip, _cut, _drop, _put_in, _swap_field, _swap_field, _lines, _number]


def attack(case, examples):
    """Spoil each file of a case many times; the examples are shared out among the files."""
    (case.root.parent / OUTSIDE).write_text("no reader opens this")
    (case.root / "link.png").symlink_to(case.root.parent / OUTSIDE)
    before = Path.cwd()
    os.chdir(case.root.parent)
    try:
        expected = read(case)
        assert not isinstance(expected, FerdistillError), expected
        valid = {name: (case.root / name).read_bytes() for name in case.files}
        everything = {
            path: path.read_bytes() for path in case.root.rglob("*") if path.is_file() and not path.is_symlink()
        }

        def one(name, data):
            (case.root / name).write_bytes(data)
            try:
                if case.agree:
                    case.agree()
                found = read(case)
            finally:
                for path, content in everything.items():
                    if path.read_bytes() != content:
                        path.write_bytes(content)
            if isinstance(found, FerdistillError) or found == expected:
                return
            assert case.well_formed, f"read {name} as {found}"
            case.well_formed(found)

        for name in case.files:

            @settings(
                max_examples=max(5, examples // len(case.files)),
                deadline=None,
                derandomize=examples == FEW,
                database=None,
                suppress_health_check=list(HealthCheck),
            )
            @given(data=spoilt(valid[name]))
            def run(data):
                one(name, data)  # noqa: B023 - it runs at once

            run()
    finally:
        os.chdir(before)


def _of_bytes(kind, content, count):
    """An Arrow array of `count` texts of one byte, whatever the bytes."""
    offsets = np.arange(count + 1, dtype=np.int32)
    return pa.Array.from_buffers(kind, count, [None, pa.py_buffer(offsets.tobytes()), pa.py_buffer(content * count)])


def odd_columns(count):
    """Columns of `count` rows that hold neither numbers nor text, or no whole ones."""
    return {
        "list": pa.array([[1.0]] * count),
        "struct": pa.array([{"x": 1}] * count),
        "map": pa.array([[("a", 1)]] * count, pa.map_(pa.string(), pa.int64())),
        "bytes": pa.array([b"\xff"] * count),
        "null": pa.nulls(count),
        "text that is not UTF-8": _of_bytes(pa.string(), b"\xff", count),
        "bytes for a dictionary": pa.array([b"\xff"] * count).dictionary_encode(),
    }


def odd_arrays(count):
    """NumPy arrays of `count` rows that are neither numbers nor text."""
    return {
        "no code points": np.frombuffer(b"\xff\xff\xff\xff" * count, dtype="<U1"),
        "half a surrogate": np.array(["\ud800"] * count),
        "complex": np.ones(count, complex),
        "times": np.zeros(count, "M8[s]"),
        "flags": np.ones(count, bool),
        "records": np.zeros(count, dtype=[("a", "f4")]),
        "raw": np.zeros(count, "V4"),
    }


def npy_of_shape(shape):
    """The bytes of an npy file that claims a shape and holds eight numbers."""
    held = io.BytesIO()
    np.lib.format.write_array_header_1_0(held, {"descr": "<f8", "fortran_order": False, "shape": shape})
    return held.getvalue() + b"\0" * 64


SHAPES = [(10**12, 2), (2**62, 2), (2**63, 2), (-1, 2), (10**30, 2), (2**33, 2**33)]
HEADERS = [
    b"{'descr': '<f4', 'fortran_order': False, 'shape': " + b"(" * 500,
    b"{'descr': ('<f4',), 'fortran_order': False, 'shape': (1, 1)}",
    b"{'descr': '<f4', 'fortran_order': False, 'shape': (True, 1)}",
    b"{'descr': '|V0', 'fortran_order': False, 'shape': (1, 1)}",
    b"{'descr': '|O', 'fortran_order': False, 'shape': (1, 1)}",
    b"{1: 2, 'a': 3}",
    b"{[]: 2}",
    b"\xff\xfe{",
    b"-" * 3000,
    b"__import__('os').system('touch " + CANARY.encode() + b"')",
]
NPYS = [
    *(npy_of_shape(shape) for shape in SHAPES),
    *(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + b"\0" * 16 for header in HEADERS),
    *(PICKLED_ARRAY, PICKLE, b"", b"PK\x03\x04garbage", _zip("a.npy", _npy(np.zeros((2, 2), np.int64)))),
]


def limited(code, folder, gigabytes=3):
    """Run Python code that may have so much memory; its standard output."""
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_AS, ({gigabytes} << 30, {gigabytes} << 30))\n"
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(sys.path),
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-W", "ignore", "-c", limit + code]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
