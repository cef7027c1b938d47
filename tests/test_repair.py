"""Keyed soft labels come out in the index's order as a store that the gate passes, or are refused with the reason."""

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.special import softmax

from conftest import CLASSES, make_index
from ferdistill.errors import CheckError, UsageError
from ferdistill.files import sha256_file
from ferdistill.softlabels import alignment, store
from ferdistill.softlabels.repair import MissingRowsError, repair


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    lengths = {"train": 120, "val": 40, "calib": 40, "test": 60}
    return make_index(tmp_path_factory.mktemp("i") / "i.csv", lengths, CLASSES)


@pytest.fixture(scope="module")
def logits(index):
    """Of a teacher that is right most of the time, (N, 7), in the index's order."""
    noise = np.random.default_rng(0).normal(0, 1, (len(index.rows), len(CLASSES)))
    return (noise + 2 * np.eye(len(CLASSES))[index.codes(CLASSES)]).astype(np.float32)


def frame_of(index, values, prefix="logit_"):
    frame = index.rows[["path", "label", "split"]].reset_index(drop=True)
    return pd.concat([frame, pd.DataFrame(values, columns=[prefix + name for name in CLASSES])], axis=1)


def write_parquet(directory, frame):
    directory.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), directory / "resnet.parquet")
    return directory


@given(seed=st.integers(0, 2**31))
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_permutation_is_undone_to_the_byte(index, logits, tmp_path_factory, seed):
    root = tmp_path_factory.mktemp("r")
    order = np.random.default_rng(seed).permutation(len(logits))
    source = write_parquet(root / "legacy", frame_of(index, logits).iloc[order])
    before = sha256_file(source / "resnet.parquet")
    manifest = repair(source, index, root / "out")
    table, read = store.read(root / "out")
    assert np.array_equal(store.logits_of(table, CLASSES), logits) and read == manifest
    assert alignment.check([root / "out"], index, CLASSES)["ok"]
    assert sha256_file(source / "resnet.parquet") == before and [p.name for p in source.iterdir()] == ["resnet.parquet"]
    provenance = manifest["provenance"]
    assert provenance["directory"] == "legacy" and provenance["files"] == {"resnet.parquet": before}
    splits = index.rows["split"].to_numpy()[order]
    within = [order[splits == split] for split in set(splits)]
    assert provenance["moved"] == sum(int((rows != np.sort(rows)).sum()) for rows in within)
    assert provenance["left_out"] == provenance["doubled"] == [] and provenance["refiled"] == 0
    repair(source, index, root / "again")
    for name in (store.TABLE, store.MANIFEST):
        assert sha256_file(root / "out" / name) == sha256_file(root / "again" / name)


def test_our_own_store_in_another_order_is_repaired(index, logits, tmp_path):
    store.write(tmp_path / "a", index, logits, CLASSES, teacher="resnet", checkpoint_sha256="c" * 64)
    table, _ = store.read(tmp_path / "a")
    pq.write_table(pa.Table.from_pandas(table[::-1], preserve_index=False), tmp_path / "a" / store.TABLE)
    assert not alignment.check([tmp_path / "a"], index, CLASSES)["ok"]
    manifest = repair(tmp_path / "a", index, tmp_path / "b")
    assert manifest["teacher"] == "resnet" and manifest["checkpoint_sha256"] == "c" * 64
    assert set(manifest["provenance"]["files"]) == {store.TABLE, store.MANIFEST}
    assert alignment.check([tmp_path / "b"], index, CLASSES)["ok"]


def test_rows_the_index_lacks_are_left_out_and_copies_dropped_but_both_are_named(index, logits, tmp_path):
    frame = frame_of(index, logits)
    extra = frame.iloc[[3, 5]].assign(path=["gone/1.png", "gone/2.png"])
    source = write_parquet(tmp_path / "a", pd.concat([extra, frame, frame.iloc[[7]]]))
    manifest = repair(source, index, tmp_path / "b")
    assert manifest["provenance"]["left_out"] == ["gone/1.png", "gone/2.png"]
    assert manifest["provenance"]["doubled"] == [frame["path"][7]]
    assert manifest["provenance"]["rows"] == len(frame) + 3
    assert np.array_equal(store.logits_of(store.read(tmp_path / "b")[0], CLASSES), logits)
    assert alignment.check([tmp_path / "b"], index, CLASSES)["ok"]


def test_rows_filed_under_another_split_are_counted(index, logits, tmp_path):
    frame = frame_of(index, logits)
    was_train = np.flatnonzero(frame["split"] == "train")[:4]
    frame.loc[was_train, "split"] = "test"
    manifest = repair(write_parquet(tmp_path / "a", frame), index, tmp_path / "b")
    assert manifest["provenance"]["refiled"] == 4 and alignment.check([tmp_path / "b"], index, CLASSES)["ok"]


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_probabilities_become_logits_whose_softmax_they_are(index, logits, tmp_path, temperature):
    values = softmax(logits.astype(float) / temperature, axis=1).astype(np.float32)
    hard = np.flatnonzero(values[:, 0] < 0.2)[:2]
    values[hard, 0] = 0
    values[hard] /= values[hard].sum(axis=1, keepdims=True)
    (tmp_path / "a").mkdir()
    paths = index.rows["path"].to_numpy(dtype=str)[::-1]
    np.savez(tmp_path / "a" / "softlabels.npz", probs=values[::-1], paths=paths, temperature=temperature)
    manifest = repair(tmp_path / "a", index, tmp_path / "b")
    provenance = manifest["provenance"]
    assert provenance["kind"] == "probabilities" and provenance["temperature"] == temperature
    assert provenance["zeros"] == 2 and provenance["classes"] is None and provenance["moved"] == len(values)
    stored = store.logits_of(store.read(tmp_path / "b")[0], CLASSES)
    assert softmax(stored.astype(float) / temperature, axis=1) == pytest.approx(values, abs=1e-6)
    assert alignment.check([tmp_path / "b"], index, CLASSES)["ok"]


def test_columns_are_put_in_order_by_their_names(index, logits, tmp_path):
    frame = frame_of(index, logits)
    source = write_parquet(tmp_path / "a", frame[[*frame.columns[:3], *frame.columns[:2:-1]]])
    assert repair(source, index, tmp_path / "b")["provenance"]["classes"] == CLASSES[::-1]
    assert np.array_equal(store.logits_of(store.read(tmp_path / "b")[0], CLASSES), logits)


def test_missing_rows_are_all_listed(index, logits, tmp_path):
    lost = [5, 17, *range(30, 50)]
    source = write_parquet(tmp_path / "a", frame_of(index, logits).drop(index=lost))
    with pytest.raises(MissingRowsError, match="22 of 260") as error:
        repair(source, index, tmp_path / "b")
    assert error.value.missing == index.rows["path"].iloc[lost].tolist()
    assert all((path in str(error.value)) == (i < 10) for i, path in enumerate(error.value.missing))
    assert not (tmp_path / "b").exists()


def relabel(frame):
    frame.loc[4, "label"] = CLASSES[(CLASSES.index(frame["label"][4]) + 1) % 7]
    return frame


def differing_copy(frame):
    copy = frame.iloc[[9]].copy()
    copy["logit_sad"] += 1
    return pd.concat([frame, copy])


def not_a_number(frame):
    frame.loc[11, "logit_fear"] = np.nan
    return frame


def keys_slipped(frame):
    frame["path"] = np.roll(frame["path"], 1)
    return frame.drop(columns="label")


def other_classes(frame):
    return frame.rename(columns={"logit_fear": "logit_contempt"})


REFUSED = [
    (relabel, r"labels that contradict the index: 1(.|\n)*row 4\b"),
    (differing_copy, r"copies of a row that differ(.|\n)*row 9\b"),
    (not_a_number, r"rows that are no logits: 1(.|\n)*row 11\b"),
    (keys_slipped, "the keys are wrong"),
    (other_classes, "other classes than the index's: columns .*contempt"),
]


@pytest.mark.parametrize(("damage", "message"), REFUSED, ids=[damage.__name__ for damage, _ in REFUSED])
def test_what_cannot_be_repaired_is_refused_with_its_row(index, logits, tmp_path, damage, message):
    source = write_parquet(tmp_path / "a", damage(frame_of(index, logits).drop(columns="split")))
    with pytest.raises(CheckError, match=message):
        repair(source, index, tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_rows_without_keys_go_where_the_canary_is_certain_and_nowhere_else(index, logits, tmp_path):
    np.save(tmp_path / "logits.npy", logits[::-1])
    manifest = repair(tmp_path, index, tmp_path.parent / "of-keyless")
    assert np.array_equal(store.logits_of(store.read(tmp_path.parent / "of-keyless")[0], CLASSES), logits)
    (part,) = manifest["provenance"]["placed"]["parts"]
    assert (
        part["shift"]["order"] == "reversed" and alignment.check([tmp_path.parent / "of-keyless"], index, CLASSES)["ok"]
    )
    np.save(tmp_path / "logits.npy", np.random.default_rng(0).permutation(logits))
    with pytest.raises(CheckError, match="the canary is not certain"):
        repair(tmp_path, index, tmp_path.parent / "of-shuffled")


def test_values_that_are_not_what_they_are_called_are_refused(index, logits, tmp_path):
    probabilities = softmax(logits, axis=1)
    source = write_parquet(tmp_path / "a", frame_of(index, probabilities))
    with pytest.raises(CheckError, match="said to be logits"):
        repair(source, index, tmp_path / "b")
    probabilities[6] *= 1.1
    source = write_parquet(tmp_path / "c", frame_of(index, probabilities, "prob_"))
    with pytest.raises(CheckError, match=f"no probabilities: 1(.|\n)*{index.rows['path'][6]}"):
        repair(source, index, tmp_path / "b")


def test_nothing_is_overwritten_and_nothing_repaired_in_place(index, logits, tmp_path):
    source = write_parquet(tmp_path / "a", frame_of(index, logits))
    for out in (source, source / "inside"):
        with pytest.raises(UsageError, match="in place"):
            repair(source, index, out)
    (tmp_path / "b").mkdir()
    with pytest.raises(UsageError, match="something here already"):
        repair(source, index, tmp_path / "b")
    with pytest.raises(UsageError, match="no soft labels here"):
        repair(tmp_path / "nowhere", index, tmp_path / "c")


def test_the_manifest_is_json_and_names_no_absolute_path(index, logits, tmp_path):
    repair(write_parquet(tmp_path / "a", frame_of(index, logits)), index, tmp_path / "b")
    text = (tmp_path / "b" / store.MANIFEST).read_text()
    assert str(tmp_path) not in text and json.loads(text)["provenance"]["canary"]["verdict"] == "aligned"
