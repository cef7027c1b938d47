"""What test modules share stands in conftest.py and in support/; none of them imports another."""

import re
from pathlib import Path

from conftest import FIRST

IMPORT = re.compile(r"^\s*(?:from|import) +(test_\w+)", re.M)


def test_no_test_module_imports_another():
    """Within a function or a script in a string neither."""
    files = sorted(Path(__file__).parent.rglob("*.py"))
    assert len(files) > 50
    assert {file.name: found for file in files if (found := IMPORT.findall(file.read_text(encoding="utf-8")))} == {}


def test_an_import_of_a_test_module_would_be_seen():
    assert IMPORT.findall("import os\n    from test_runtime import bundle\nimport test_serve\n") == [
        "test_runtime",
        "test_serve",
    ]


def test_what_is_to_begin_is_there():
    assert [name for name in FIRST if not (Path(__file__).parent / name).is_file()] == []
