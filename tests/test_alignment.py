"""The gate says no to every single corruption and names it; on intact stores it never does."""

import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import CLASSES, make_index
from ferdistill.data import index as index_module
from ferdistill.data.build import write_index
from ferdistill.errors import CheckError, UsageError
from ferdistill.files import sha256
from ferdistill.softlabels import alignment, store
from support.softlabels import DAMAGE, LENGTHS, make_store, rename, rewrite, swap


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    return make_index(tmp_path_factory.mktemp("i") / "i.csv", LENGTHS, CLASSES)


@pytest.fixture(scope="module")
def intact(index, tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("intact") / "t", index)


def kinds(directories, index, classes=CLASSES, **options):
    return {p["kind"] for p in alignment.check(directories, index, classes, **options)["problems"]}


@given(
    seed=st.integers(0, 2**31), teachers=st.integers(1, 3), lengths=st.lists(st.integers(7, 40), min_size=4, max_size=4)
)
@settings(max_examples=10, deadline=None)
def test_intact_stores_pass(seed, teachers, lengths):
    with tempfile.TemporaryDirectory() as root:
        index = make_index(Path(root) / "i.csv", dict(zip(LENGTHS, lengths, strict=True)), CLASSES, seed)
        stores = [make_store(Path(root) / f"t{i}", index, seed + i) for i in range(teachers)]
        report = alignment.check(stores, index, CLASSES)
    assert report["ok"] and report["train_len_equal"] and report["labels_equal"] and not report["problems"]
    assert report["hash_paths_train"] == index.description["splits"]["train"]["paths_sha256"]
    assert [soft["kind_from"] for soft in report["soft_labels"]] == ["declared by the manifest"] * teachers
    alignment.require(report)


@pytest.mark.parametrize(("damage", "kind"), DAMAGE, ids=[kind for _, kind in DAMAGE])
@given(data=st.data())
@settings(max_examples=10, deadline=None)
def test_each_corruption_is_named_with_its_row(index, intact, damage, kind, data):
    table, _ = store.read(intact)
    split = data.draw(st.sampled_from(list(LENGTHS)))
    rows = np.flatnonzero(table["split"] == split)
    first, second = sorted(data.draw(st.lists(st.sampled_from(list(rows)), min_size=2, max_size=2, unique=True)))
    with tempfile.TemporaryDirectory() as root:
        directory = Path(shutil.copytree(intact, Path(root) / "t"))
        rewrite(directory, damage(table, first, second).reset_index(drop=True))
        report = alignment.check([directory], index, CLASSES)
    assert not report["ok"] and not report["splits"][split]["ok"]
    named = {p["kind"]: p["row"] for p in report["problems"]}
    assert named[kind] == first - rows[0] + (kind == "duplicate"), report["problems"]
    assert {p["split"] for p in report["problems"]} == {split}
    with pytest.raises(CheckError, match="out of step"):
        alignment.require(report)


@given(order=st.permutations(CLASSES))
@settings(max_examples=10, deadline=None)
def test_class_columns_in_another_order_are_refused(index, intact, order):
    table, _ = store.read(intact)
    with tempfile.TemporaryDirectory() as root:
        directory = Path(shutil.copytree(intact, Path(root) / "t"))
        rewrite(directory, table[["path", "split", "label", *(f"logit_{name}" for name in order)]])
        assert kinds([directory], index) == (set() if order == CLASSES else {"classes"})


def test_a_permutation_shows_both_paths_and_says_that_the_set_is_the_same(index, tmp_path):
    directory = make_store(tmp_path / "t", index)
    table, _ = store.read(directory)
    rows = np.flatnonzero(table["split"] == "train")
    rewrite(directory, swap(table, rows[3], rows[8]))
    (problem,) = alignment.check([directory], index, CLASSES)["problems"]
    assert (problem["expected"], problem["found"], problem["row"]) == ("train/00003.png", "train/00008.png", 3)
    assert "the set of paths is the same: a permutation; `ferdistill align repair" in problem["hint"]
    rewrite(directory, rename(table, rows[3], 0))
    hints = {p["hint"] for p in alignment.check([directory], index, CLASSES)["problems"]}
    assert all("another set of paths (1 of the index absent, 1 not of this split); export" in hint for hint in hints)


def test_a_row_doubled_far_away_is_a_duplicate_and_no_permutation(index, tmp_path):
    directory = make_store(tmp_path / "t", index)
    table, _ = store.read(directory)
    rows = np.flatnonzero(table["split"] == "train")
    rewrite(directory, pd.concat([table, table.iloc[[rows[4]]]]))
    named = {p["kind"]: p["row"] for p in alignment.check([directory], index, CLASSES)["problems"]}
    assert named == {"length": 60, "duplicate": 60}


def test_labels_that_stay_while_their_rows_are_swapped_are_wrong_too(index, tmp_path):
    directory = make_store(tmp_path / "t", index)
    table, _ = store.read(directory)
    rows = np.flatnonzero(table["split"] == "test")
    other = next(row for row in rows if table["label"][row] != table["label"][rows[0]])
    swapped = swap(table, rows[0], other).reset_index(drop=True)
    rewrite(directory, swapped.assign(label=table["label"]))
    named = {p["kind"]: p["row"] for p in alignment.check([directory], index, CLASSES)["problems"]}
    assert named == {"order": 0, "label": 0}


def test_a_table_sorted_by_split_is_refused_though_each_split_is_in_order(tmp_path):
    index = make_index(tmp_path / "i.csv", LENGTHS, CLASSES)
    index.rows["split"] = np.roll(index.rows["split"], 10)  # so that the splits are not blocks of the table
    directory = make_store(tmp_path / "t", index)
    assert kinds([directory], index) == set()
    table, _ = store.read(directory)
    rewrite(directory, table.sort_values("split", kind="stable"))
    assert kinds([directory], index) == {"order"}
    hints = [problem["hint"] for problem in alignment.check([directory], index, CLASSES)["problems"]]
    assert all(hint.startswith("`ferdistill align repair") for hint in hints)


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
    other = make_index(tmp_path / "o.csv", LENGTHS, CLASSES, seed=9)
    assert {"index digest", "label"} <= kinds([directory], other)
    assert kinds([directory], index, CLASSES[::-1]) == {"classes"}
    assert kinds([directory], index, CLASSES[:-1]) == {"classes"}
    table, _ = store.read(directory)
    table.loc[3, "logit_sad"] += 1
    pq.write_table(pa.Table.from_pandas(table, preserve_index=False), directory / store.TABLE)
    assert kinds([directory], index) == {"table digest"}


def edit_manifest(directory, **changes):
    manifest = json.loads((directory / store.MANIFEST).read_text()) | changes
    (directory / store.MANIFEST).write_text(json.dumps(manifest))


def test_a_manifest_edited_by_hand_is_refused(index, tmp_path):
    directory = make_store(tmp_path / "t", index)
    splits = json.loads((directory / store.MANIFEST).read_text())["splits"]
    edit_manifest(directory, splits=splits | {"val": splits["test"]})
    (problem,) = alignment.check([directory], index, CLASSES)["problems"]
    assert (problem["kind"], problem["split"]) == ("table digest", "val")
    edit_manifest(directory, splits=splits, temperature=2.0)
    assert kinds([directory], index) == {"temperature"}
    edit_manifest(directory, temperature=1.0, classes=CLASSES[::-1])
    assert kinds([directory], index) == {"classes"}
    edit_manifest(directory, classes=CLASSES, schema_version=0)
    with pytest.raises(CheckError, match="schema_version 0"):
        alignment.check([directory], index, CLASSES)
    edit_manifest(directory, schema_version=1, kind="probabilities")
    with pytest.raises(CheckError, match="not the manifest of a store"):
        alignment.check([directory], index, CLASSES)
    (directory / store.MANIFEST).write_text("{")
    with pytest.raises(CheckError, match="not valid JSON"):
        alignment.check([directory], index, CLASSES)


def test_another_teachers_file_is_refused_in_each_guise(index, tmp_path):
    first, second = make_store(tmp_path / "a", index), make_store(tmp_path / "b", index, 1)
    assert kinds([first, second], index) == set()
    shutil.copy(first / store.TABLE, second / store.TABLE)
    assert kinds([second], index) == {"table digest"}
    assert kinds([first, second], index) == {"table digest", "checkpoint"}
    rewrite(second, store.read(first)[0])
    assert kinds([first, second], index) == {"checkpoint"}
    shutil.copytree(first, second, dirs_exist_ok=True)
    assert kinds([first, second], index) == {"checkpoint"}
    third = make_store(tmp_path / "c", index, 2)
    edit_manifest(third, checkpoint_sha256=json.loads((first / store.MANIFEST).read_text())["checkpoint_sha256"])
    assert kinds([first, third], index) == {"checkpoint"}


def test_soft_labels_of_weights_that_were_since_replaced_are_refused(index, tmp_path):
    directory = make_store(tmp_path / "softlabels" / "t", index)
    config = tmp_path / "teachers" / "t" / "config.json"
    config.parent.mkdir(parents=True)
    config.write_text(json.dumps({"sha256": sha256("t 0")}))
    assert kinds([directory], index, checkpoints=alignment.read_checkpoints(tmp_path / "teachers")) == set()
    config.write_text(json.dumps({"sha256": "f" * 64}))
    assert kinds([directory], index, checkpoints=alignment.read_checkpoints(tmp_path / "teachers")) == {"checkpoint"}


def test_stores_without_rows_a_split_or_with_a_strange_one_are_refused(index, tmp_path):
    directory = make_store(tmp_path / "t", index)
    table, _ = store.read(directory)
    rewrite(directory, table.iloc[:0])
    report = alignment.check([directory], index, CLASSES)
    assert {(p["kind"], p["split"]) for p in report["problems"]} == {("length", split) for split in LENGTHS}
    rewrite(directory, table[table["split"] != "calib"])
    problems = alignment.check([directory], index, CLASSES)["problems"]
    assert [(p["kind"], p["split"], p["found"]) for p in problems] == [("length", "calib", "none of this split")]
    rewrite(directory, table.replace({"split": {"val": "valid"}}))
    assert kinds([directory], index) == {"split", "length"}


def test_probabilities_stored_as_logits_are_refused_in_any_one_split(index, tmp_path):
    logits = np.random.default_rng(0).normal(0, 3, (len(index.rows), len(CLASSES)))
    rows = index.positions("val")
    logits[rows] = np.exp(logits[rows]) / np.exp(logits[rows]).sum(1, keepdims=True)
    store.write(tmp_path / "t", index, logits, CLASSES, teacher="t", checkpoint_sha256="0" * 64)
    (problem,) = alignment.check([tmp_path / "t"], index, CLASSES)["problems"]
    assert (problem["kind"], problem["split"]) == ("not a distribution", "val")
    assert problem["found"].startswith("probabilities")


def test_a_directory_given_twice_is_a_usage_error(index, tmp_path):
    directory = make_store(tmp_path / "t", index)
    with pytest.raises(UsageError, match="given twice"):
        alignment.check([directory, tmp_path / "x" / ".." / "t"], index, CLASSES)


def test_a_store_that_cannot_be_read_is_refused(index, tmp_path):
    with pytest.raises(UsageError, match="no soft labels here"):
        store.read(tmp_path / "nowhere")
    directory = make_store(tmp_path / "t", index)
    data = (directory / store.TABLE).read_bytes()
    for damaged in (data[: len(data) // 2], data[:4] + bytes(200) + data[204:]):
        (directory / store.TABLE).write_bytes(damaged)
        for read in (store.read, store.read_parts, lambda directory: alignment.check([directory], index, CLASSES)):
            with pytest.raises(CheckError, match="not a whole Parquet file"):
                read(directory)
    (directory / store.TABLE).write_bytes(data)
    table, _ = store.read(directory)
    rewrite(directory, table.drop(columns="logit_sad"))
    with pytest.raises(CheckError, match="columns are missing: logit_sad"):
        store.read(directory)
    rewrite(directory, table.assign(logit_sad=1))
    with pytest.raises(CheckError, match="a column of type int64"):
        alignment.check([directory], index, CLASSES)
    rewrite(directory, table.assign(path=table["path"].where(table.index != 5, None)))
    with pytest.raises(CheckError, match=r"column path, row 5"):
        alignment.check([directory], index, CLASSES)
    (directory / store.MANIFEST).unlink()
    with pytest.raises(UsageError, match=r"without their manifest\.json"):
        alignment.check([directory], index, CLASSES)


def test_a_large_store_is_swept_in_batches_to_the_same_answer(index, tmp_path, monkeypatch):
    directory = make_store(tmp_path / "t", index)
    whole = alignment.check([directory], index, CLASSES)
    monkeypatch.setattr(store, "BATCH", 7)
    assert alignment.check([directory], index, CLASSES) == whole
    table, _ = store.read(directory)
    empty = Path(shutil.copytree(directory, tmp_path / "e"))
    rewrite(empty, table.assign(label=table["label"].where(table.index != 50, None)))
    with pytest.raises(CheckError, match="column label, row 50"):
        alignment.check([empty], index, CLASSES)
    monkeypatch.setattr(alignment, "_sweep", lambda *_: "")
    assert alignment.check([directory], index, CLASSES) == whole


CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), max_size=6) | st.sampled_from(
    ["", "NA", "1.0", '"']
)


@given(st.lists(st.lists(CELLS, max_size=5), max_size=5))
@settings(max_examples=50, deadline=None)
def test_the_digest_of_lines_is_that_of_the_joined_text_however_it_is_chunked(chunks):
    joined = "\n".join(text for chunk in chunks for text in chunk)
    assert index_module.lines_sha256([pa.array(chunk, pa.large_string()) for chunk in chunks]) == sha256(joined)


@given(cells=st.lists(CELLS, min_size=130, max_size=130))
@settings(max_examples=10, deadline=None)
def test_an_index_is_read_as_the_text_that_was_written(index, cells):
    rows = index.rows.assign(source=cells)
    with tempfile.TemporaryDirectory() as root:
        write_index(Path(root) / "i.csv", rows, CLASSES, "invented")
        assert index_module.read(Path(root) / "i.csv").rows.equals(rows)
        assert index_module.read(Path(root) / "i.csv", store.KEYS).rows.equals(rows[store.KEYS])
