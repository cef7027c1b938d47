"""Soft labels of many classes: the likeliest alone, stores and targets in blocks, and batches from a file."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.numpy import save_file
from scipy.special import log_softmax

from conftest import CLASSES, make_index
from ferdistill import params, tensor_files, workspace
from ferdistill.distill import student
from ferdistill.distill.batches import Batch
from ferdistill.distill.training_canary import named_classes
from ferdistill.errors import CheckError, UsageError
from ferdistill.files import read_json, sha256_file
from ferdistill.softlabels import alignment, canary, gather, store, targets, top_k, verdicts
from support.softlabels import rewrite

LENGTHS = {"train": 600, "val": 50, "calib": 50, "test": 100}
K = 3


@pytest.fixture
def index(tmp_path):
    return make_index(tmp_path / "i.csv", LENGTHS, CLASSES)


def logits_of(index, seed, strength=3):
    logits = np.random.default_rng(seed).normal(0, 2, (len(index.rows), len(CLASSES)))
    logits[np.arange(len(logits)), index.codes(CLASSES)] += strength
    return logits.astype(np.float32)


def write(directory, index, logits, k=K, **more):
    name = directory.name
    checkpoint = hashlib.sha256(name.encode()).hexdigest()
    return store.write(directory, index, logits, CLASSES, teacher=name, checkpoint_sha256=checkpoint, top_k=k, **more)


@pytest.mark.parametrize(("classes", "k"), [(2, 1), (7, 3), (7, 6), (1000, 20)])
def test_what_is_kept_is_the_likeliest_and_an_even_share_of_the_rest(classes, k):
    logits = np.random.default_rng(0).normal(0, 4, (50, classes)).astype(np.float32)
    logits[0] = 1.5  # all equal
    logits[1, :2] = logits[1].max() + 1  # two are
    logits[2, 1] = 1e4  # the rest has no mass that a float could hold
    kept = top_k.keep(logits, k)
    full = np.exp(log_softmax(logits.astype(np.float64), axis=1))
    for row, of in enumerate(full):
        likeliest = sorted(range(classes), key=lambda name: (-logits[row, name], name))[:k]
        assert kept.top[row].tolist() == likeliest
        expected = np.full(classes, (1 - of[likeliest].sum()) / (classes - k))
        expected[likeliest] = of[likeliest]
        np.testing.assert_allclose(np.exp(top_k.expand(kept, classes)[row]), expected, rtol=2e-5, atol=1e-7)
        rest = np.delete(of, likeliest)
        rest = rest[rest > 0]
        even = rest.sum() / (classes - k)
        kl = float((rest * np.log(rest / even)).sum()) if len(rest) else 0
        found = top_k.divergence(logits[row : row + 1], top_k.TopK(*(column[row : row + 1] for column in kept)))[0]
        assert found == pytest.approx(kl, abs=2e-6) and found >= 0
        assert found <= rest.sum() * np.log(classes - k) + 2e-6
    assert np.isfinite(top_k.expand(kept, classes)).all() and not top_k.wrong(kept, classes, 1e-3).any()


def test_a_store_of_the_likeliest_is_read_as_one_of_all_by_gate_and_canary(index, tmp_path):
    whole, kept = tmp_path / "whole", tmp_path / "kept"
    logits = logits_of(index, 0)
    write(whole, index, logits, None)
    manifest = write(kept, index, logits)
    expected = top_k.expand(top_k.keep(logits, K), len(CLASSES))
    table, read = store.read(kept)
    assert read == manifest and manifest["top_k"] == K
    np.testing.assert_array_equal(store.logits_of(table, CLASSES), expected)
    assert table["path"].tolist() == index.rows["path"].tolist()
    turned = list(reversed(CLASSES))
    np.testing.assert_array_equal(store.read_rows(kept, turned, np.array([7, 3])), expected[[7, 3]][:, ::-1])
    mean = top_k.divergence(logits, top_k.keep(logits, K)).mean()
    assert manifest["top_k_divergence"] == pytest.approx(mean) and mean > 0
    alignment.require(alignment.check([kept], index, CLASSES))
    found = [canary.check([place], index)["results"] for place in (whole, kept)]
    assert [{**one, "dir": ""} for one in found[0]] == [{**one, "dir": ""} for one in found[1]]
    assert verdicts.check([whole, kept], index, CLASSES)["ok"]

    moved = tmp_path / "moved"
    write(moved, index, np.roll(logits, 5, axis=0))
    report = verdicts.check([moved], index, CLASSES)
    assert [problem["kind"] for problem in report["problems"]] == ["values"] * len(report["problems"]) != []
    other = make_index(tmp_path / "j.csv", LENGTHS, CLASSES, seed=3)
    assert not alignment.check([kept], other, CLASSES)["ok"]


def spoil(directory, column, change):
    table = pq.read_table(directory / store.TABLE)
    values = table.column(column).combine_chunks()
    flat = (values.flatten() if column != "log_rest" else values).to_numpy().copy()
    flat = change(flat)
    k = K if column != "log_rest" else 1
    made = pa.array(flat) if k == 1 else pa.FixedSizeListArray.from_arrays(pa.array(flat), len(flat) // len(table))
    table = table.set_column(table.column_names.index(column), column, made)
    pq.write_table(table, directory / store.TABLE)
    manifest = json.loads((directory / store.MANIFEST).read_text())
    manifest["table_sha256"] = sha256_file(directory / store.TABLE)
    (directory / store.MANIFEST).write_text(json.dumps(manifest))


def set_to(place, value):
    def change(flat):
        flat[place] = value
        return flat

    return change


@pytest.mark.parametrize(
    ("column", "change"),
    [
        ("top", set_to(30, 7)),  # no class
        ("top", lambda flat: set_to(31, flat[30])(flat)),  # twice
        ("log_p", set_to(30, 0.5)),  # a probability over 1
        ("log_p", set_to(30, np.nan)),
        ("log_rest", set_to(10, -np.inf)),
        ("log_rest", set_to(10, 0.0)),
        ("top", lambda flat: np.repeat(flat, 2)),  # lists of another length
        ("top", lambda flat: flat.astype(np.float32)),
        ("log_p", lambda flat: flat.astype(np.int64)),
    ],
)
def test_a_store_of_impossible_rows_is_refused_by_its_row(index, tmp_path, column, change):
    write(tmp_path / "t", index, logits_of(index, 0))
    spoil(tmp_path / "t", column, change)
    with pytest.raises(CheckError, match=r"row 10|rows 0 to"):
        alignment.require(alignment.check([tmp_path / "t"], index, CLASSES))


@pytest.mark.parametrize("k", [0, 7, True, "three"])
def test_a_manifest_that_keeps_none_or_all_is_refused(index, tmp_path, k):
    write(tmp_path / "t", index, logits_of(index, 0))
    manifest = json.loads((tmp_path / "t" / store.MANIFEST).read_text())
    (tmp_path / "t" / store.MANIFEST).write_text(json.dumps(manifest | {"top_k": k}))
    with pytest.raises(CheckError, match=r"of 7|top_k|list|log_p"):
        alignment.check([tmp_path / "t"], index, CLASSES)


def test_a_table_written_in_parts_has_the_bytes_of_one_written_at_once(index, tmp_path, monkeypatch):
    logits = logits_of(index, 0)
    write(tmp_path / "once", index, logits, None)
    monkeypatch.setattr(store, "BATCH", 50)
    write(tmp_path / "parts", index, logits, None)
    write(tmp_path / "kept", index, logits)
    table = pq.read_table(tmp_path / "once" / store.TABLE)
    pq.write_table(
        table, tmp_path / "expected.parquet", compression="zstd", use_dictionary=["split", "label"], row_group_size=100
    )
    assert (tmp_path / "parts" / store.TABLE).read_bytes() == (tmp_path / "expected.parquet").read_bytes()
    assert pq.read_metadata(tmp_path / "parts" / store.TABLE).num_row_groups == 8
    expected = top_k.expand(top_k.keep(logits, K), len(CLASSES))
    np.testing.assert_array_equal(store.logits_of(store.read(tmp_path / "kept")[0], CLASSES), expected)
    part = store.read_parts(tmp_path / "parts").parts["val"]
    np.testing.assert_array_equal(part.values, logits[index.positions("val")])


def test_tensors_written_in_parts_have_the_bytes_of_safetensors(tmp_path):
    rng = np.random.default_rng(0)
    tensors = {
        "weights": rng.random(3).astype(np.float32),
        "logits": rng.random((3, 1, 10, 4)).astype(np.float32),
        "sources": np.arange(3),
        "covered": rng.random((3, 10)) > 0.5,
        "top": rng.integers(0, 9, (3, 5), np.uint16),
        "empty": np.empty((0, 7), np.float32),
    }
    save_file(tensors, tmp_path / "once")
    shapes = {name: (tensor.dtype.type, tensor.shape) for name, tensor in tensors.items()}
    with tensor_files.written_in_parts(tmp_path / "parts", shapes) as put:
        for name, tensor in tensors.items():
            flat = tensor.reshape(-1)
            for start in [*range(0, len(flat), 7)][::-1]:
                put(name, start, flat[start : start + 7])
    assert (tmp_path / "parts").read_bytes() == (tmp_path / "once").read_bytes()
    for name, place in tensor_files.places(tmp_path / "parts").items():
        np.testing.assert_array_equal(place.whole(), tensors[name])


@pytest.fixture
def project(index, tmp_path, monkeypatch):
    """Settings of a family of four teachers, two of them fused, and a way to write their targets."""
    settings = params.load("params.yaml").model_copy(update={"index_tag": "i", "family": "6D", "lambda_": 0.6})
    monkeypatch.chdir(tmp_path)
    logits = {name: logits_of(index, seed) for seed, name in enumerate(settings.teachers)}

    def gathered(k, **more):
        for name in settings.teachers:
            write(workspace.softlabels(name, "i"), index, logits[name], k, **more)
        gather.write_targets(workspace.TARGETS, index, settings)
        return targets.read(workspace.TARGETS, index, settings)

    return settings, logits, gathered


def loss_of(settings, soft, index, rows, seed=0):
    labels = torch.from_numpy(index.codes(CLASSES)[index.trained()])
    objective = student.objective(settings, soft, labels, misaligned=False)
    generator = torch.Generator().manual_seed(seed)
    outputs = torch.randn(len(rows), len(CLASSES), generator=generator).requires_grad_()
    rows = torch.from_numpy(rows)
    terms = objective.loss(outputs, Batch(torch.zeros(len(rows), 1, 8, 8), labels[rows], rows, None, 0, len(rows)))
    terms["loss"].backward()
    return {name: term.detach() for name, term in terms.items()}, outputs.grad, objective.after_epoch()


@pytest.mark.parametrize("mode", ["kd", "dkd"])
def test_targets_of_the_likeliest_give_the_loss_of_what_they_stand_for(index, project, mode):
    settings, logits, gathered = project
    settings = settings.model_copy(update={"mode": mode})
    soft = gathered(K)
    assert isinstance(soft.logits, targets.Kept) and soft.plan["top_k"] == K
    names = [teacher["teacher"] for teacher in soft.plan["teachers"]]
    rows = index.trained()
    expected = np.stack([top_k.expand(top_k.keep(logits[name], K), len(CLASSES))[rows] for name in names])
    some = np.array([5, 599, 0, 5])
    np.testing.assert_array_equal(soft.logits.at(some), expected[:, some])
    np.testing.assert_array_equal(np.concatenate(list(targets.blocks(soft.logits)), axis=1), expected)
    dense = replace(soft, logits=expected[:, None])
    batch = np.random.default_rng(1).permutation(600)[:64]
    found, known = loss_of(settings, soft, index, batch), loss_of(settings, dense, index, batch)
    assert all(torch.equal(found[0][name], known[0][name]) for name in known[0]) and torch.equal(found[1], known[1])
    assert found[2] == known[2] and len(found[2]) == len(names)


def test_targets_too_large_for_memory_stay_in_their_file_and_train_alike(index, project, monkeypatch):
    settings, logits, gathered = project
    whole = gathered(None)
    assert isinstance(whole.logits, np.ndarray)
    for name, of in zip((t["teacher"] for t in whole.plan["teachers"]), whole.logits, strict=True):
        np.testing.assert_array_equal(of[0], logits[name][index.trained()])
    monkeypatch.setattr(targets, "IN_MEMORY", 1000)
    monkeypatch.setattr(targets, "BLOCK", 500)
    large = targets.read(workspace.TARGETS, index, settings)
    assert isinstance(large.logits, targets.InFile)
    batch = np.random.default_rng(1).permutation(600)[:64]
    found, known = loss_of(settings, large, index, batch), loss_of(settings, whole, index, batch)
    assert all(torch.equal(found[0][name], known[0][name]) for name in known[0]) and torch.equal(found[1], known[1])
    assert found[2] == known[2]
    np.testing.assert_array_equal(np.concatenate(list(targets.blocks(large.logits)), axis=1), whole.logits[:, 0])
    named = torch.cat([named_classes(torch.from_numpy(block)) for block in targets.blocks(large.logits)], 1)
    assert torch.equal(named, named_classes(torch.from_numpy(whole.logits[:, 0])))


def test_the_divergence_is_that_of_the_targets_in_float64(index, project):
    _, logits, gathered = project
    soft = gathered(K)
    name = soft.plan["teachers"][0]["teacher"]
    told = read_json(workspace.softlabels(name, "i") / store.MANIFEST)["top_k_divergence"]
    p = log_softmax(logits[name].astype(np.float64), axis=1)
    q = log_softmax(top_k.expand(top_k.keep(logits[name], K), len(CLASSES)).astype(np.float64), axis=1)
    assert told == pytest.approx((np.exp(p) * (p - q)).sum(1).mean(), rel=1e-4)


def test_a_partial_teacher_keeps_nothing_where_it_has_nothing(index, project):
    settings, logits, gathered = project
    for of in logits.values():
        of[::3] = np.nan
    soft = gathered(K, partial=True)
    has = np.ones(len(index.rows), bool)
    has[::3] = False
    assert (soft.covered == has[index.trained()]).all()
    alignment.require(alignment.check([workspace.softlabels(name, "i") for name in logits], index, CLASSES))
    found, _, agreement = loss_of(settings, soft, index, np.arange(600))
    assert torch.isfinite(found["loss"]) and all(0.4 < share < 1 for share in agreement.values())


def test_families_of_unlike_stores_and_settings_that_cannot_be_are_refused(index, project):
    settings, logits, gathered = project
    gathered(K)
    name = settings.family_.teachers[0]
    write(workspace.softlabels(name, "i"), index, logits[name], K + 1)
    with pytest.raises(CheckError, match=r"unlike numbers of classes.* 4.* 3"):
        gather.write_targets(workspace.TARGETS, index, settings)


@pytest.mark.parametrize(("changes", "named"), [({"top_k": 7}, "top_k"), ({"top_k": 3, "views": 2}, "top_k")])
def test_params_keep_fewer_than_all_classes_of_one_view(changes, named, tmp_path):
    text = Path("params.yaml").read_text()
    for name, value in changes.items():
        was = "null" if name == "top_k" else "1"
        assert f"\n{name}: {was}" in text
        text = text.replace(f"\n{name}: {was}", f"\n{name}: {value}")
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(UsageError, match=named):
        params.load(tmp_path / "params.yaml")


def test_targets_of_another_type_or_with_a_class_that_is_none_are_refused(index, project):
    settings, _, gathered = project
    gathered(K)
    file = workspace.TARGETS / targets.TENSORS

    def altered(**changes):
        tensors = {name: place.whole() for name, place in tensor_files.places(file).items()} | changes
        save_file(tensors, file)
        plan = read_json(workspace.TARGETS / targets.PLAN) | {"sha256": sha256_file(file)}
        (workspace.TARGETS / targets.PLAN).write_text(json.dumps(plan))
        with pytest.raises(CheckError, match="no targets"):
            targets.read(workspace.TARGETS, index, settings)

    top = tensor_files.places(file)["top"].whole()
    altered(top=np.where(top == 0, np.uint16(7), top))
    altered(top=top, weights=np.ones(3))


def test_a_dense_store_reordered_by_another_program_is_still_named_by_the_gate(index, tmp_path):
    write(tmp_path / "t", index, logits_of(index, 0), None)
    table, _ = store.read(tmp_path / "t")
    table.loc[40, "logit_fear"] = np.nan
    rewrite(tmp_path / "t", table)
    report = alignment.check([tmp_path / "t"], index, CLASSES)
    (problem,) = report["problems"]
    assert problem["kind"] == "non-finite" and "nan" in problem["found"]
