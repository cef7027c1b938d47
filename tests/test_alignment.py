"""The gate says no to every single corruption and names it; on intact stores it never does."""

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conftest import CLASSES, make_index
from ferdistill.errors import CheckError, UsageError
from ferdistill.files import sha256_file
from ferdistill.softlabels import alignment, store


def make_store(directory, index, seed=0):
    logits = np.random.default_rng(seed).normal(0, 3, (len(index.rows), len(CLASSES)))
    store.write(directory, index, logits, CLASSES, teacher="t", checkpoint_sha256="0" * 64)
    return directory


def rewrite(directory, table):
    """As a careless script would: the table replaced, and its digest in the manifest made to agree."""
    pq.write_table(pa.Table.from_pandas(table, preserve_index=False), directory / store.TABLE)
    manifest = json.loads((directory / store.MANIFEST).read_text())
    manifest["table_sha256"] = sha256_file(directory / store.TABLE)
    (directory / store.MANIFEST).write_text(json.dumps(manifest))


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    lengths = {"train": 60, "val": 20, "calib": 20, "test": 30}
    return make_index(tmp_path_factory.mktemp("i") / "i.csv", lengths, CLASSES)


@given(seed=st.integers(0, 2**31), teachers=st.integers(1, 3))
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_intact_stores_pass(index, tmp_path_factory, seed, teachers):
    root = tmp_path_factory.mktemp("s")
    report = alignment.check([make_store(root / f"t{i}", index, seed + i) for i in range(teachers)], index, CLASSES)
    assert report["ok"] and report["train_len_equal"] and report["labels_equal"] and not report["problems"]
    assert report["hash_paths_train"] == index.description["splits"]["train"]["paths_sha256"]
    alignment.require(report)


def drop(table, row, other):
    return table.drop(index=row)


def double(table, row, other):
    return pd.concat([table.iloc[: row + 1], table.iloc[row:]])


def swap(table, row, other):
    order = np.arange(len(table))
    order[[row, other]] = order[[other, row]]
    return table.iloc[order]


def relabel(table, row, other):
    table.loc[row, "label"] = CLASSES[(CLASSES.index(table["label"][row]) + 1) % len(CLASSES)]
    return table


def not_a_number(table, row, other):
    table.loc[row, "logit_fear"] = np.nan
    return table


def rename(table, row, other):
    table.loc[row, "path"] = "elsewhere.png"
    return table


DAMAGE = [
    (drop, "missing"), (double, "duplicate"), (swap, "order"), (relabel, "label"), (not_a_number, "non-finite"),
    (rename, "extra"),
]  # fmt: skip


@pytest.mark.parametrize(("damage", "kind"), DAMAGE, ids=[kind for _, kind in DAMAGE])
@given(data=st.data())
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_each_corruption_is_named_with_its_row(index, tmp_path_factory, damage, kind, data):
    directory = make_store(tmp_path_factory.mktemp("s") / "t", index)
    table, _ = store.read(directory)
    split = data.draw(st.sampled_from(["train", "val", "calib", "test"]))
    rows = np.flatnonzero(table["split"] == split)
    first, second = sorted(data.draw(st.lists(st.sampled_from(list(rows)), min_size=2, max_size=2, unique=True)))
    rewrite(directory, damage(table.copy(), first, second).reset_index(drop=True))
    report = alignment.check([directory], index, CLASSES)
    assert not report["ok"] and not report["splits"][split]["ok"]
    named = {p["kind"]: p["row"] for p in report["problems"]}
    expected = first - rows[0] + (kind == "duplicate")
    assert named[kind] == expected, report["problems"]
    assert {p["split"] for p in report["problems"]} == {split}
    with pytest.raises(CheckError, match="out of step"):
        alignment.require(report)


def test_two_teachers_that_differ_only_by_one_lost_row_are_told_apart(index, tmp_path):
    whole, short = make_store(tmp_path / "a", index), make_store(tmp_path / "b", index, 1)
    table, _ = store.read(short)
    rewrite(short, table.iloc[:-1])
    report = alignment.check([whole, short], index, CLASSES)
    assert {p["dir"] for p in report["problems"]} == {short.as_posix()}
    length = next(p for p in report["problems"] if p["kind"] == "length")
    assert length["expected"] == "20 rows" and length["found"].startswith("19 rows")


def test_another_index_other_classes_and_an_edited_table_are_refused(index, tmp_path):
    directory = make_store(tmp_path / "t", index)
    other = make_index(tmp_path / "o.csv", {"train": 60, "val": 20, "calib": 20, "test": 30}, CLASSES, seed=9)
    kinds = {p["kind"] for p in alignment.check([directory], other, CLASSES)["problems"]}
    assert {"index digest", "label"} <= kinds
    kinds = {p["kind"] for p in alignment.check([directory], index, CLASSES[::-1])["problems"]}
    assert kinds == {"classes"}
    table, _ = store.read(directory)
    table.loc[3, "logit_sad"] += 1
    pq.write_table(pa.Table.from_pandas(table, preserve_index=False), directory / store.TABLE)
    assert [p["kind"] for p in alignment.check([directory], index, CLASSES)["problems"]] == ["table digest"]


def test_a_store_that_cannot_be_read_is_refused(index, tmp_path):
    with pytest.raises(UsageError, match="no soft labels here"):
        store.read(tmp_path / "nowhere")
    directory = make_store(tmp_path / "t", index)
    data = (directory / store.TABLE).read_bytes()
    (directory / store.TABLE).write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckError, match="not a whole Parquet file"):
        store.read(directory)
    (directory / store.TABLE).write_bytes(data)
    table, _ = store.read(directory)
    rewrite(directory, table.drop(columns="logit_sad"))
    with pytest.raises(CheckError, match="columns are missing: logit_sad"):
        store.read(directory)
    (directory / store.MANIFEST).unlink()
    with pytest.raises(UsageError, match=r"manifest\.json"):
        store.read(directory)
