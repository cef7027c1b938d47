"""Soft labels of other programs: read without guessing or unpickling, and held against the index as our own are."""

import pickle
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import CLASSES, make_index
from ferdistill.errors import CheckError, UsageError
from ferdistill.softlabels import alignment, foreign, parts, store
from support.softlabels import (
    DAMAGE,
    FORMS,
    LENGTHS,
    LOGITS,
    make_store,
    softmax,
    texts,
    write_csv,
    write_npy,
    write_npz_logits,
    write_npz_probs,
    write_parquet,
    write_pt,
)


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    return make_index(tmp_path_factory.mktemp("i") / "i.csv", LENGTHS, CLASSES)


@pytest.fixture(scope="module")
def table(index, tmp_path_factory):
    return store.read(make_store(tmp_path_factory.mktemp("intact") / "t", index))[0]


def check(write, table, index):
    with tempfile.TemporaryDirectory() as root:
        write(Path(root), table)
        return alignment.check([Path(root)], index, CLASSES)


@pytest.mark.parametrize("write", FORMS)
def test_each_form_passes_intact_and_says_what_it_holds_and_how_that_is_known(index, table, write):
    report = check(write, table, index)
    assert report["ok"], report["problems"]
    (soft,) = report["soft_labels"]
    assert (soft["kind"], soft["kind_from"]) == FORMS[write]
    assert soft["checkpoint_sha256"] is None


@pytest.mark.parametrize("write", FORMS)
@given(data=st.data())
@settings(max_examples=12, deadline=None)
def test_each_corruption_of_each_form_is_named_with_its_row(index, table, write, data):
    damage, kind = data.draw(st.sampled_from([d for d in DAMAGE if write is not write_npy or d[1] != "label"]))
    split = data.draw(st.sampled_from(list(LENGTHS)))
    rows = np.flatnonzero(table["split"] == split)
    first, second = sorted(data.draw(st.lists(st.sampled_from(list(rows)), min_size=2, max_size=2, unique=True)))
    report = check(write, damage(table.copy(), first, second).reset_index(drop=True), index)
    named = {p["kind"]: p["row"] for p in report["problems"]}
    assert named[kind] == first - rows[0] + (kind == "duplicate"), report["problems"]
    assert {p["split"] for p in report["problems"]} == {split} and not report["ok"]


@given(row=st.integers(0, 129), column=st.integers(0, 6), change=st.sampled_from([0.1, -1.5, 2.0]))
@settings(max_examples=12, deadline=None)
@pytest.mark.parametrize("write", [write_npz_probs, write_csv])
def test_a_row_that_is_no_distribution_is_named(index, table, write, row, column, change):
    def spoilt(directory, table):
        write(directory, table)
        soft = foreign.read_any(directory)
        values = np.concatenate([part.values for part in soft.parts.values()])
        order = np.argsort(np.concatenate([part.rows for part in soft.parts.values()]))
        probs = values[order].astype(np.float64)
        probs[row, column] += change
        if write is write_csv:
            probs = dict(zip(CLASSES, probs.T, strict=True))
            table.drop(columns=LOGITS).assign(**probs).to_csv(directory / "t.csv", index=False)
        else:
            np.savez(directory / "softlabels.npz", probs=probs, **texts(table))

    (problem,) = check(spoilt, table, index)["problems"]
    split = table["split"][row]
    assert (problem["kind"], problem["split"]) == ("not a distribution", split)
    assert problem["row"] == row - np.flatnonzero(table["split"] == split)[0]


def test_what_is_named_probs_but_is_not_and_what_is_named_logits_but_is_probabilities(index, table):
    logits = table[LOGITS].to_numpy()
    for values in ({"probs": logits}, {"logits": softmax(logits)}):

        def write(directory, table, values=values):
            np.savez(directory / "softlabels.npz", **values, **texts(table))

        assert {p["kind"] for p in check(write, table, index)["problems"]} == {"not a distribution"}


def test_a_row_that_is_not_finite_is_called_so_and_not_a_bad_distribution(index, table):
    broken = table.copy()
    broken.loc[5, "logit_sad"] = np.nan
    for write in (write_npz_probs, write_csv):
        assert {p["kind"] for p in check(write, broken, index)["problems"]} == {"non-finite"}


def test_without_paths_there_is_nothing_to_check_order_by(index, table):
    def write(directory, table):
        np.save(directory / "logits.npy", table[LOGITS].to_numpy())

    (problem,) = check(write, table, index)["problems"]
    assert (problem["kind"], problem["split"]) == ("keys", "")
    assert "--no-canary" in problem["hint"]
    report = check(write, table.iloc[1:], index)
    assert {p["kind"] for p in report["problems"]} == {"length", "keys"} and not report["train_len_equal"]


def test_labels_without_paths_are_compared_in_the_order_of_the_index(index, table):
    def write(directory, table):
        np.savez(directory / "softlabels.npz", logits=table[LOGITS].to_numpy(), labels=texts(table)["labels"])

    assert {p["kind"] for p in check(write, table, index)["problems"]} == {"keys"}
    relabelled = table.copy()
    relabelled.loc[77, "label"] = CLASSES[(CLASSES.index(table["label"][77]) + 1) % 7]
    assert {p["kind"]: p["row"] for p in check(write, relabelled, index)["problems"]} == {"keys": None, "label": 77}


def test_rows_of_a_file_without_splits_are_those_of_the_whole_index(index, table):
    def write(directory, table):
        table.drop(columns=["split", "label"]).to_csv(directory / "t.csv", index=False)

    assert check(write, table, index)["ok"]
    report = check(write, table.drop(index=100), index)
    assert {p["kind"]: p["row"] for p in report["problems"]} == {"length": 100, "missing": 100}
    assert not report["splits"]["train"]["ok"]


@pytest.mark.parametrize(
    ("stated", "kinds"),
    [
        ({"classes": np.array(CLASSES), "temperature": 1.0}, set()),
        ({"classes": np.array(CLASSES[::-1])}, {"classes"}),
        ({"temperature": np.array([2.0])}, {"temperature"}),
    ],
    ids=["as wanted", "other order", "softened"],
)
def test_classes_and_a_temperature_that_the_file_states_are_held_to(index, table, stated, kinds):
    def write(directory, table):
        np.savez(directory / "softlabels.npz", logits=table[LOGITS].to_numpy(), **stated, **texts(table))

    assert {p["kind"] for p in check(write, table, index)["problems"]} == kinds


def test_a_missing_class_and_columns_in_another_order_are_refused(index, table):
    assert {p["kind"] for p in check(write_parquet, table.drop(columns="logit_sad"), index)["problems"]} == {"classes"}
    turned = table[["path", "split", "label", *LOGITS[::-1]]]
    assert {p["kind"] for p in check(write_parquet, turned, index)["problems"]} == {"classes"}

    def narrow(directory, table):
        np.savez(directory / "softlabels.npz", logits=table[LOGITS[1:]].to_numpy(), **texts(table))

    assert {p["kind"] for p in check(narrow, table, index)["problems"]} == {"classes"}


def test_splits_of_other_names_are_refused_and_those_that_are_absent_are_told(index, table):
    found = {
        (p["kind"], p["found"]) for p in check(write_npy, table.replace({"split": {"val": "dev"}}), index)["problems"]
    }
    assert found == {("split", "dev")}
    alone = check(write_npy, table[table["split"] == "train"], index)
    assert alone["ok"] and [held["splits"] for held in alone["soft_labels"][0]["held"]] == [["train"]]


def test_copies_of_one_teacher_under_two_names_are_refused(index, table, tmp_path):
    for name in ("resnet18", "vit"):
        (tmp_path / name).mkdir()
        write_npy(tmp_path / name, table)
    report = alignment.check([tmp_path / "resnet18", tmp_path / "vit"], index, CLASSES)
    assert [(p["kind"], Path(p["dir"]).name) for p in report["problems"]] == [("checkpoint", "vit")]


@given(st.lists(st.lists(st.floats(0, 1, width=32), min_size=3, max_size=3), min_size=1, max_size=20))
@settings(max_examples=50, deadline=None)
def test_distributions_are_told_as_a_slow_sum_in_double_tells_them(rows):
    values = np.array(rows, np.float32)
    sums = values.astype(np.float64).sum(axis=1)
    sure = np.abs(np.abs(sums - 1) - parts.TOLERANCE) > 1e-6  # rounding decides nearer to the tolerance
    assert (parts.distributions(values) == (np.abs(sums - 1) <= parts.TOLERANCE))[sure].all()
    assert not parts.distributions(values - 2).any()


class Malicious:
    """Unpickled, this makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(tmp_path):
    proof = tmp_path / "ran"
    pickle.loads(pickle.dumps(Malicious(proof)))
    assert proof.exists(), "the payload itself must work, or this test proves nothing"
    proof.unlink()
    payload = np.array([Malicious(proof)], dtype=object)
    for name in ("train_probs.npy", "softlabels.npz", "softlabels.pt", "train_logits.pt"):
        directory = tmp_path / name.replace(".", "_")
        directory.mkdir()
        if name.endswith("npy"):
            np.save(directory / name, payload, allow_pickle=True)
        elif name.endswith("npz"):
            np.savez(directory / name, logits=payload)
        elif name == "softlabels.pt":
            torch.save({"logits": Malicious(proof)}, directory / name)
        else:
            (directory / name).write_bytes(pickle.dumps(Malicious(proof)))
        with pytest.raises(CheckError, match="cannot be read safely"):
            foreign.read_any(directory)
        assert not proof.exists()


def test_memory_maps_stay_memory_maps(tmp_path, table):
    write_npy(tmp_path, table)
    np.save(tmp_path / "train_probs.npy", np.load(tmp_path / "train_probs.npy").astype(np.float32))
    assert isinstance(foreign.read_any(tmp_path).parts["train"].values, np.memmap)


def test_tensors_of_half_precision_are_read(tmp_path):
    torch.save(torch.eye(3, dtype=torch.bfloat16), tmp_path / "train_probs.pt")
    soft = foreign.read_any(tmp_path)
    assert soft.kind == "probabilities" and (soft.parts["train"].values == np.eye(3)).all()


def test_two_sets_in_one_directory_are_not_chosen_between(index, table, tmp_path):
    def place(name, *writers):
        directory = tmp_path / name
        directory.mkdir()
        for write in writers:
            write(directory, table)
        return directory

    mixed = [
        (place("a", write_npy, write_csv), "t.csv"),
        (place("b", write_csv, write_parquet), "t.parquet"),
        (place("c", write_npz_logits, write_pt), "softlabels.pt"),
    ]
    both = place("d", write_npy)
    shutil.copy(both / "val_probs.npy", both / "val_logits.npy")
    whole = place("e", write_npy)
    shutil.copy(whole / "val_probs.npy", whole / "probs.npy")
    own = make_store(tmp_path / "f", index)
    write_csv(own, table)
    for directory, name in [*mixed, (both, "val_logits.npy"), (whole, "probs.npy"), (own, "t.csv")]:
        with pytest.raises(CheckError, match="more than one set") as caught:
            alignment.check([directory], index, CLASSES)
        assert name in str(caught.value)


def test_what_cannot_be_told_or_read_is_one_clear_message(index, table, tmp_path):
    def refused(match):
        with pytest.raises(CheckError, match=match) as caught:
            alignment.check([tmp_path / "t"], index, CLASSES)
        shutil.rmtree(tmp_path / "t")
        (tmp_path / "t").mkdir()
        return str(caught.value)

    with pytest.raises(UsageError, match="no soft labels here"):
        alignment.check([tmp_path / "t"], index, CLASSES)
    (tmp_path / "t").mkdir()
    assert "empty" in refused("no soft labels in this directory")
    (tmp_path / "t" / "model.pt").write_bytes(b"")
    assert f"name the file itself, {tmp_path / 't' / 'model.pt'}" in refused("no soft labels in this directory")
    (tmp_path / "t" / "mine.npz").write_bytes(b"")
    with pytest.raises(CheckError, match=r"cannot be read safely(.|\n)*mine\.npz"):
        alignment.check([tmp_path / "t" / "mine.npz"], index, CLASSES)
    assert f"name the file itself, {tmp_path / 't' / 'mine.npz'}" in refused("no soft labels in this directory")
    np.save(tmp_path / "t" / "train_logits.npy", np.ones((3, 7), np.int64))
    refused("int64 where soft labels belong")
    np.save(tmp_path / "t" / "train_logits.npy", np.ones(3))
    refused(r"not a table of soft labels: \(3,\)")
    np.save(tmp_path / "t" / "softlabels.npy", np.full((3, 7), np.nan))
    refused("neither the name nor the values say")
    np.save(tmp_path / "t" / "train_logits.npy", np.ones((3, 7)))
    (tmp_path / "t" / "train_paths.txt").write_text("a\nb\n")
    refused("2 paths for 3 rows")
    np.save(tmp_path / "t" / "train_logits.npy", np.ones((3, 7)))
    (tmp_path / "t" / "test_paths.txt").write_text("a\nb\nc\n")
    refused("a list of paths without its soft labels: test_paths.txt")
    np.savez(tmp_path / "t" / "softlabels.npz", logits=np.ones((3, 7)), path=np.array(["a", "b", "c"]))
    refused("entries that do not say what they hold: logits, path")
    np.savez(tmp_path / "t" / "softlabels.npz", logits=np.ones((3, 7)), labels=np.array([0, 1, 2]))
    refused("not a list of text")
    np.savez(tmp_path / "t" / "softlabels.npz", logits=np.ones((3, 7)), temperature="two")
    refused("not a number")
    torch.save({"probs": torch.ones(3, 7)}, tmp_path / "t" / "train_logits.pt")
    refused("entries that do not say what they hold: probs")
    for name in ("softlabels.npz", "train_probs.npy", "softlabels.pt", "t.csv", "t.parquet"):
        (tmp_path / "t" / name).write_bytes(b"nothing of the kind\n1,2\n")
        refused("cannot be read safely")
    table[["path", *LOGITS]].round().astype(dict.fromkeys(LOGITS, int)).to_csv(tmp_path / "t" / "t.csv", index=False)
    refused("a column of type int64")
    table.rename(columns={"logit_sad": "prob_sad"}).to_csv(tmp_path / "t" / "t.csv", index=False)
    refused("both logits and probabilities")
    table[LOGITS].to_csv(tmp_path / "t" / "t.csv", index=False)
    refused("columns that do not say what they hold")
    table.assign(logit_sad="much").to_csv(tmp_path / "t" / "t.csv", index=False)
    refused("a column of text")
