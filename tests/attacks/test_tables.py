"""Tables that somebody else wrote: bounded in columns, in cells, in letters, and in what is said of them.

Findings of an attack, a test each; docs/robustness.md has the table.
"""

import csv
import json
import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from conftest import CLASSES, make_index
from ferdistill.cli import cli
from ferdistill.data import index, sources
from ferdistill.errors import MOST, CheckError, UsageError
from ferdistill.evaluation import predictions
from ferdistill.files import MAX_COLUMNS, sha256_file
from ferdistill.softlabels import pairing, probability_files
from ferdistill.study import audit, results

SECONDS = 15  # of processor time; each of these once took minutes, or did not end
WIDE = 60_000


@pytest.fixture
def in_time():
    start = time.process_time()
    yield
    assert time.process_time() - start < SECONDS


def write(path, header, *rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def wide(path, columns, *first):
    names = [*first, *(f"logit_{k}" for k in range(columns - len(first)))]
    return write(path, names, *[["0.5"] * columns] * 2)


READERS = {
    "score": predictions.read,
    "soft labels": probability_files.read,
    "audit": lambda path: audit.audit([path]),
    "study": results.read,
    "corpus or subjects": lambda path: list(sources.table_rows(path, ("path", "label"))),
}


@pytest.mark.parametrize("columns", [WIDE, pytest.param(1_000_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("reader", READERS)
def test_a_table_of_too_many_columns_is_refused_at_once(tmp_path, in_time, reader, columns):
    path = wide(tmp_path / "wide.csv", columns, "path", "label", "split", *results.REQUIRED)
    with pytest.raises((CheckError, UsageError), match=f"^{columns:,} columns|^[0-9,]+ bytes") as error:
        READERS[reader](path)
    assert str(path) in error.value.where and error.value.expected.startswith(("at most", "tables of at most"))


def test_an_index_of_too_many_columns_is_refused(tmp_path):
    made = make_index(tmp_path / "i.csv", dict.fromkeys(index.SPLITS, 14), CLASSES)
    write(tmp_path / "i.csv", [*made.rows.columns, *range(MAX_COLUMNS)])
    description = made.description | {"digest": sha256_file(tmp_path / "i.csv")}
    (tmp_path / "i.json").write_text(json.dumps(description))
    with pytest.raises(CheckError, match="columns") as error:
        index.read(tmp_path / "i.csv")
    assert str(tmp_path / "i.csv") in error.value.where


def test_a_corpus_with_such_a_table_is_still_described(corpus):
    wide(corpus / "strange.csv", WIDE, "path", "label")
    done = CliRunner().invoke(cli, ["corpus", "describe", str(corpus), "--json"])
    assert done.exit_code == 0 and "strange.csv" in json.loads(done.stdout)["unrecognised"]


def test_json_and_markdown_of_too_many_columns_are_refused(tmp_path, in_time):
    (tmp_path / "wide.json").write_text(json.dumps({f"accuracy{k}": 0.5 for k in range(WIDE)}))
    row = "|" + "0.5|" * WIDE
    (tmp_path / "wide.md").write_text(f"{row}\n{row.replace('0.5', '-')}\n{row}\n")
    for name in ("wide.json", "wide.md"):
        with pytest.raises(UsageError, match="columns"):
            audit.audit([tmp_path / name])


def scores(count, seed=0):
    return [f"{value:.4f}" for value in np.random.default_rng(seed).uniform(0.5, 0.9, count)]


LABOURS = {
    "a difference of any two of 4,000 columns": lambda: [
        ["seed", *(f"accuracy {k}" for k in range(4000)), "difference"],
        *([str(seed), *scores(4000), "0.1"] for seed in range(3)),
    ],
    "a difference down 3,000 rows": lambda: [
        ["seed", "accuracy a", "accuracy b", "accuracy c", "difference"],
        *([str(seed), *scores(3), "0.1"] for seed in range(3000)),
    ],
    "2,000 means and 2,000 ranges": lambda: [
        ["seed 1", *(f"mean acc{k}" for k in range(2000)), *(f"range acc{k}" for k in range(2000))],
        *[["0.5"] * 2001 + ["0.4-0.6"] * 2000] * 20,
    ],
    "10,000 means of the rows above": lambda: [
        ["name", "macro_f1"],
        *(row for k in range(10_000) for row in ([f"run {k}", "0.5"], ["mean", "0.5"])),
    ],
    "10,000 differences of the rows above": lambda: [
        ["name", "macro_f1"],
        *(row for k in range(10_000) for row in ([f"run {k}", "0.5"], ["difference", "0.5"])),
    ],
}


@pytest.mark.parametrize("labour", LABOURS)
def test_what_would_take_hours_to_audit_is_refused(tmp_path, in_time, labour):
    with pytest.raises(UsageError, match="too large to audit") as error:
        audit.audit([write(tmp_path / "large.csv", *LABOURS[labour]())])
    assert error.value.hint


def test_an_audit_of_many_objects_or_bytes_is_refused(tmp_path, in_time):
    (tmp_path / "many.json").write_text(json.dumps([{"accuracy": 0.5}] * 46_000))
    with pytest.raises(UsageError, match="too large to audit"):
        audit.audit([tmp_path / "many.json"])
    (tmp_path / "heavy.md").write_text("x" * 2**22)
    with pytest.raises(UsageError, match="bytes"):
        audit.audit([tmp_path / "heavy.md"])


@pytest.mark.parametrize("cell", ["-" * 90_000, "(-" * 45_000, " /" * 45_000, "0.7" + " " * 90_000 + "x", "1" * 90_000])
def test_a_long_cell_is_text_and_read_at_once(tmp_path, in_time, cell):
    (tmp_path / "long.json").write_text(json.dumps([{"note": cell, "macro_f1": 0.5}, {"note": "b", "macro_f1": 101}]))
    found = audit.audit([tmp_path / "long.json"]).findings
    assert [finding.kind for finding in found] == ["out_of_range"]


def test_a_table_within_the_bounds_is_audited_as_before(tmp_path):
    rows = [scores(1000, seed) for seed in range(3)]
    means = [f"{np.mean([float(cell) for cell in row]):.4f}" for row in rows]
    path = tmp_path / "k.csv"
    write(path, ["seed", "macro_f1", *(f"f1_c{k}" for k in range(1000))],
          *([str(k), mean, *row] for k, (mean, row) in enumerate(zip(means, rows, strict=True))))  # fmt: skip
    found = audit.audit([path])
    assert found.findings == [] and found.checked[str(path)]["macro_f1"] == 3


def test_no_message_is_long_and_none_writes_elsewhere_on_a_terminal(tmp_path):
    error = CheckError("w" * 10**7, where="a\x1b[2Jb", expected="\ud800", hint="x\ny")
    assert len(str(error)) < 4 * MOST + 100 and "9,998," in error.what
    assert error.where == "a\\x1b[2Jb" and error.expected == "\\ud800" and error.hint == "x\ny"
    rebuild, arguments = error.__reduce__()
    assert str(rebuild(*arguments)) == str(error)  # cut once, on the way back from a worker too
    table = pd.DataFrame({"family": ["x" * 10_000 + str(k) for k in range(500)], "mode": "kd", "seed": 1})
    table.assign(macro_f1=0.5).to_csv(tmp_path / "t.csv", index=False)
    arguments = ["study", "compare", "--baseline", "none", "--candidate", "6E:kd", "--results", str(tmp_path / "t.csv")]
    done = CliRunner().invoke(cli, arguments)
    assert isinstance(done.exception, UsageError | CheckError) and len(str(done.exception)) < 4 * MOST + 100


# ---- columns of soft labels ----------------------------------------------------------------------------------


def teacher(seed, classes, each, accuracy, twins, right):
    """Arg-max and labels of a teacher; of each of `twins` pairs of classes it takes the right one at this rate."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(classes), each))
    found = np.where(rng.random(len(labels)) < accuracy, labels, rng.integers(0, classes, len(labels)))
    within = (labels < 2 * twins) & (found // 2 == labels // 2)
    return np.where(within, np.where(rng.random(len(labels)) < right, labels, labels ^ 1), found), labels


def order_of(found, labels, classes):
    return pairing.column_order(found, labels, [(0, len(labels), 0)], classes)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    classes=st.sampled_from([7, 30]),
    each=st.integers(5, 80),
    accuracy=st.floats(0.3, 1),
    twins=st.integers(1, 15),
    right=st.floats(0.4, 0.6),
)
def test_classes_that_are_nearly_one_are_no_exchanged_columns(seed, classes, each, accuracy, twins, right):
    found, labels = teacher(seed, classes, each, accuracy, min(twins, classes // 2), right)
    assert order_of(found, labels, classes) is None


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    classes=st.sampled_from([7, 30]),
    each=st.integers(100, 200),
    accuracy=st.floats(0.6, 1),
    data=st.data(),
)
def test_columns_that_were_exchanged_are_found_beside_classes_that_are_nearly_one(seed, classes, each, accuracy, data):
    found, labels = teacher(seed, classes, each, accuracy, 1, 0.5)  # classes 0 and 1
    moved = data.draw(st.lists(st.integers(2, classes - 1), min_size=2, unique=True))
    column_of = np.arange(classes)
    column_of[moved] = np.roll(moved, 1)
    order = order_of(column_of[found], labels, classes)
    assert order is not None and order[2:] == np.argsort(column_of).tolist()[2:]
