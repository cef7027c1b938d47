"""Images without a label: the split `transfer`, which no evaluation knows and the teachers alone label."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image
from torch.nn import functional as F

from conftest import CLASSES, THREE, face, make_index
from ferdistill import params, workspace
from ferdistill.data import images, verify
from ferdistill.data import index as index_module
from ferdistill.data.build import choose_seed, write_index
from ferdistill.data.diff import diff, sentence
from ferdistill.distill import losses, student
from ferdistill.distill.mixing import Mixed
from ferdistill.errors import CheckError, UsageError
from ferdistill.faces import rendered
from ferdistill.files import sha256, write_json
from ferdistill.softlabels import alignment, brought, canary, repair, store, targets, verdicts
from ferdistill.stages import index as index_stage
from ferdistill.stages import targets as targets_stage
from support.corpora import SETTINGS, make, read, text
from support.images import pack

ROOT = Path(__file__).parents[1]


def add_unlabelled(corpus, pictures):
    """A fourth source of pictures by their names."""
    for name, pixels in pictures.items():
        (corpus / "web" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(corpus / "web" / name)
    description = (corpus / "corpus.yaml").read_text()
    (corpus / "corpus.yaml").write_text(description + "  - {name: web, adapter: unlabelled, path: web}\n")


def pixels_of(corpus, rows, split):
    """A picture of a split, as its file or its row of numbers has it."""
    path = rows.loc[(rows["split"] == split) & rows["path"].str.contains("fer2013"), "path"].iloc[0]
    listed = pd.read_csv(corpus / "fer2013/fer2013.csv")["pixels"][int(path.rpartition("#")[2])]
    return path, np.array(listed.split(), np.uint8).reshape(48, 48)


def test_unlabelled_images_are_a_split_of_their_own_and_move_no_other(corpus):
    before, _ = make(corpus)
    add_unlabelled(corpus, {f"a/{i}.png": face(70_000 + i) for i in range(12)} | {"README.txt.png": face(1234)})
    rows, report = make(corpus)
    transfer = rows[rows["split"] == "transfer"]
    assert len(transfer) == 13 and (transfer["label"] == "").all() and (transfer["official_split"] == "").all()
    pd.testing.assert_frame_equal(rows[rows["split"] != "transfer"].reset_index(drop=True), before)
    assert report["steps"][-1]["by_class"]["none"] == 13 and report["stratification"]["expected"].keys() == {
        *THREE,
        "all",
    }
    assert choose_seed(rows, SETTINGS, 20) == choose_seed(before, SETTINGS, 20)


@pytest.mark.parametrize("split", ["train", "val", "calib", "test"])
def test_a_copy_of_a_labelled_image_never_stays(corpus, split):
    before, _ = make(corpus)
    path, pixels = pixels_of(corpus, before, split)
    near = np.asarray(Image.fromarray(pixels).resize((96, 96), Image.Resampling.BICUBIC))
    add_unlabelled(corpus, {"exact.png": pixels, "mirrored.png": pixels[:, ::-1].copy(), "near.png": near})
    rows, report = make(corpus)
    pd.testing.assert_frame_equal(rows, before)  # not the copy, and no conflict either
    out = report["left_out_rows"].set_index("path")
    assert out.loc[["web/exact.png", "web/mirrored.png", "web/near.png"], "kept"].tolist() == [path] * 3
    assert report["conflicts"] == []


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_people_of_an_evaluation_are_left_out_and_those_of_train_stay(corpus, split):
    before, _ = make(corpus)
    path, _ = pixels_of(corpus, before, split)
    add_unlabelled(corpus, {f"{i}.png": face(80_000 + i) for i in range(3)})
    (corpus / "corpus.yaml").write_text((corpus / "corpus.yaml").read_text() + "subjects: subjects.csv\n")
    text(corpus / "subjects.csv", "path,subject", f"{path},ann", "web/0.png,ann", "web/1.png,ben")
    rows, report = make(corpus)
    now = rows.set_index("path")["split"]
    if now[path] == "train":
        assert now["web/0.png"] == "transfer"
    else:
        assert "web/0.png" not in now
        out = report["left_out_rows"].set_index("path").loc["web/0.png"]
        assert out["step"] == "leak" and "ann is also in val, calib or test" in out["reason"]
    assert now["web/1.png"] == now["web/2.png"] == "transfer"


def test_copies_that_disagree_take_their_unlabelled_copy_with_them(corpus):
    pixels = face(90_000)
    for folder in ("train/angry", "train/happiness"):
        Image.fromarray(pixels).save(corpus / "folders" / folder / "same.png")
    add_unlabelled(corpus, {"same.png": pixels})
    rows, report = make(corpus)
    (conflict,) = report["conflicts"]
    assert conflict["counts"] == {"angry": 1, "happy": 1} and "web/same.png" not in conflict["labels"]
    reason = report["left_out_rows"].set_index("path").loc["web/same.png", "reason"]
    assert reason.startswith("unlabelled, copies angry") and not rows["path"].str.endswith("same.png").any()


@pytest.mark.parametrize("part", ["test", "val"])
def test_unlabelled_rows_in_an_official_evaluation_part_are_refused(corpus, part):
    add_unlabelled(corpus, {f"{part}/0.png": face(70_000), "train/1.png": face(70_001)})
    with pytest.raises(CheckError, match=rf"(?s)without a label in the official {part} part.*web/{part}/0\.png"):
        make(corpus)
    rows, report = make(corpus, unreadable="quarantine")
    assert report["left_out"]["quarantined"] == 1
    assert rows.loc[rows["path"] == "web/train/1.png", "split"].tolist() == ["transfer"]


def test_a_table_may_have_rows_without_a_label(tmp_path):
    text(tmp_path / "t/labels.csv", "path,label,part", "a.png,angry,train", "b.png,,", "c.png,,test")
    records, dropped, _ = read("table", tmp_path, "t/labels.csv", split="part")
    assert [row.path for row in records] == ["t/a.png"] and {row.reason for row in dropped} == {"unlabelled"}
    records, dropped, _ = read("table", tmp_path, "t/labels.csv", split="part", unlabelled="transfer")
    assert [(row.path, row.label, row.split) for row in records] == [
        ("t/a.png", "angry", "train"), ("t/b.png", "", None), ("t/c.png", "", "test")
    ]  # fmt: skip
    records, _, _ = read("table", tmp_path, "t/labels.csv", label="")
    assert [row.label for row in records] == ["", "", ""]


def test_the_embedded_corpus_renders_as_many_as_asked_of_other_people(tmp_path):
    settings = {"seed": 3, "subjects": 20, "images": 120, "annotators": 5, "sharpness": 1.7}
    rendered.write_corpus(tmp_path / "plain", **settings)
    counts = rendered.write_corpus(tmp_path / "more", **settings, transfer=15)
    assert counts["unlabelled"] == 15 and counts["images"] == 135 and counts["subjects"] == 23
    changed = []
    for file in sorted((tmp_path / "plain").rglob("*")):
        name = file.relative_to(tmp_path / "plain")
        if file.is_file() and (tmp_path / "more" / name).read_bytes() != file.read_bytes():
            changed.append(name.as_posix())
    assert changed == ["corpus.yaml", "subjects.csv", "truth/samples.csv"]
    truth = pd.read_csv(tmp_path / "more/truth/samples.csv", keep_default_na=False)
    unlabelled = truth["source"] == "unlabelled"
    assert (truth.loc[unlabelled, "label"] == "").all()
    assert set(truth.loc[unlabelled, "subject"]).isdisjoint(truth.loc[~unlabelled, "subject"])
    before, _ = make(tmp_path / "plain", classes=CLASSES, val=0.15, calib=0.2)
    rows, _ = make(tmp_path / "more", classes=CLASSES, val=0.15, calib=0.2)
    assert (rows["split"] == "transfer").sum() == 15 and rows[rows["label"] != ""].reset_index(drop=True).equals(before)
    with pytest.raises(UsageError, match="transfer = -1"):
        rendered.write_corpus(tmp_path / "none", **settings, transfer=-1)


LENGTHS = {"train": 140, "val": 28, "calib": 28, "test": 28}


def with_transfer(path, count=60):
    """The index of `make_index`, and so many images without a label."""
    rows = make_index(path, LENGTHS, CLASSES).rows
    more = rows.iloc[:count].assign(
        path=[f"transfer/{i:05d}.png" for i in range(count)], label="", split="transfer",
        sample_id=[f"{10**6 + i:064x}" for i in range(count)], source="web",
    )  # fmt: skip
    more["group"] = more["sample_id"]
    rows = pd.concat([rows, more]).sort_values("path").reset_index(drop=True)
    write_index(path, rows, CLASSES, "invented")
    return index_module.read(path)


def test_an_index_holds_them_beside_the_four_splits(tmp_path):
    plain = make_index(tmp_path / "plain.csv", LENGTHS, CLASSES)
    index = with_transfer(tmp_path / "i.csv")
    assert plain.splits == index_module.SPLITS and index.splits == [*index_module.SPLITS, "transfer"]
    assert list(plain.description["splits"]) == plain.splits and index.description["splits"]["transfer"]["length"] == 60
    for split in index_module.SPLITS:
        assert index.description["splits"][split] == plain.description["splits"][split]
    assert len(index.trained()) == 200 and index.codes(CLASSES)[index.trained()[140:]].tolist() == [-1] * 60
    assert "transfer 0 → 60" in sentence(diff(plain.rows, index.rows))
    for column, value, at in (("label", "fear", "transfer"), ("label", "", "val")):
        rows = index.rows.copy()
        rows.loc[np.flatnonzero(rows["split"] == at)[0], column] = value
        if at == "val":
            rows.to_csv(tmp_path / "i.csv", index=False)
            write_json(tmp_path / "i.json", index.description | {"digest": sha256((tmp_path / "i.csv").read_bytes())})
        else:
            write_index(tmp_path / "i.csv", rows, CLASSES, "invented")
        with pytest.raises(CheckError, match="no label in `transfer`, and one in each other split"):
            index_module.read(tmp_path / "i.csv")


def logits_for(index, seed=0):
    rng = np.random.default_rng(seed)
    codes = index.codes(CLASSES)
    return rng.normal(0, 1, (len(codes), 7)) + 3 * np.eye(7)[np.where(codes < 0, rng.integers(0, 7, len(codes)), codes)]


def test_stores_gate_canary_and_repair_take_them_along(tmp_path):
    index = with_transfer(tmp_path / "i.csv")
    logits = logits_for(index)
    for name in ("a", "b"):
        own = logits + (name == "b") * 0.1
        manifest = store.write(tmp_path / name, index, own, CLASSES, teacher=name, checkpoint_sha256=sha256(name))
        assert manifest["splits"] == index.description["splits"]
    report = alignment.check([tmp_path / "a", tmp_path / "b"], index, CLASSES)
    assert report["ok"] and report["splits"]["transfer"]["ok"]
    table, _ = store.read(tmp_path / "a")
    at = np.flatnonzero(table["split"] == "transfer")[:2]
    swapped = table.copy()
    swapped.iloc[at] = table.iloc[at[::-1]].to_numpy()
    (tmp_path / "c").mkdir()
    swapped.to_parquet(tmp_path / "c/t.parquet", index=False)
    found = alignment.check([tmp_path / "c"], index, CLASSES)
    assert {(problem["split"], problem["kind"]) for problem in found["problems"]} == {("transfer", "order")}
    judged = {
        found["split"]: found["verdict"] for found in canary.check([tmp_path / "a", tmp_path / "b"], index)["results"]
    }
    assert set(judged) == set(index_module.SPLITS) and "misaligned" not in judged.values()
    (tmp_path / "d").mkdir()
    np.save(tmp_path / "d/logits.npy", logits.astype(np.float32))
    (whole,) = canary.check([tmp_path / "d"], index)["results"]
    assert whole["rows"] == 224 and whole["verdict"] != "misaligned"
    np.save(tmp_path / "transfer_logits.npy", logits[index.positions("transfer")].astype(np.float32))
    np.save(tmp_path / "short_logits.npy", logits[1:].astype(np.float32))
    found = verdicts.check([tmp_path / "transfer_logits.npy", tmp_path / "short_logits.npy"], index, CLASSES)
    assert [problem["kind"] for problem in found["problems"]] == ["length", "keys"]
    assert [verdict["verdict"] for verdict in found["verdicts"]] == ["cannot tell", "out of step"]
    with pytest.raises(CheckError, match="rows without keys, some of images without a label"):
        repair.repair(tmp_path / "d", index, tmp_path / "never")
    repair.repair(tmp_path / "c", index, tmp_path / "fixed")
    assert alignment.check([tmp_path / "fixed"], index, CLASSES)["ok"]
    table[["path", "label", *[f"logit_{c}" for c in CLASSES]]].to_csv(tmp_path / "mine.csv", index=False)
    read_back = brought.read(tmp_path / "mine.csv", index, CLASSES, temperature=None, partial=False)
    assert read_back.provenance["covered"]["transfer"] == 60


@pytest.mark.parametrize("weights", [None, [1.0, 2.0, 0.5]])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_hard_loss_of_an_image_does_not_depend_on_unlabelled_ones(weights, smoothing):
    rng = np.random.default_rng(0)
    logits = torch.from_numpy(rng.normal(0, 2, (9, 3))).requires_grad_()
    labels = torch.tensor([0, -1, 2, 1, -1, -1, 2, 0, 1])
    options = {"class_weights": None if weights is None else torch.tensor(weights), "label_smoothing": smoothing}
    found = losses.ce_loss(logits, labels, **options, some_unlabelled=True)
    known = labels >= 0
    alone = losses.ce_loss(logits[known], labels[known], **options)
    assert float(found.detach()) == pytest.approx(float(alone.detach()) * 6 / 9)
    (gradient,) = torch.autograd.grad(found, logits)
    assert (gradient[~known] == 0).all() and gradient[known].abs().sum() > 0
    none = losses.ce_loss(logits, torch.full((9,), -1), **options, some_unlabelled=True)
    (gradient,) = torch.autograd.grad(none, logits)
    assert float(none.detach()) == 0 and (gradient == 0).all()
    if weights is None and not smoothing:
        assert float(alone.detach()) == pytest.approx(float(F.cross_entropy(logits[known], labels[known]).detach()))


@pytest.fixture
def project(tmp_path, monkeypatch):
    """An index with unlabelled images, their pixels, two stores, and params of one epoch."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pretrained").mkdir()
    shutil.copy2(ROOT / "pretrained/student.safetensors", "pretrained")
    raw = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    raw |= {"scale": "smoke", "teachers": ["resnet18", "vit_ban"]}
    raw["families"] = {
        "none": {"fusion": "probability", "sources": []},
        "6E": {"fusion": "probability", "sources": [{"weight": 0.5, "teachers": {t: 1.0}} for t in raw["teachers"]]},
    }
    raw["scales"]["smoke"]["student"]["phases"] = [{"epochs": 1, "lr": 1.0e-3, "augment": "flip"}]
    index = with_transfer(workspace.index_csv(raw["index_tag"]))
    pack(workspace.images(raw["index_tag"]), index, np.stack([face(i)[..., None] for i in range(len(index.rows))]))
    for seed, name in enumerate(raw["teachers"]):
        directory = workspace.softlabels(name, raw["index_tag"])
        store.write(directory, index, logits_for(index, seed), CLASSES, teacher=name, checkpoint_sha256=sha256(name))

    def configured(**changes):
        Path("params.yaml").write_text(yaml.safe_dump(raw | changes, sort_keys=False), encoding="utf-8")
        return params.load()

    return index, configured


@pytest.mark.parametrize("mode", ["kd", "dkd"])
def test_a_student_trains_on_them_by_the_soft_term_alone(project, mode):
    index, configured = project
    settings = configured(mode=mode)
    targets_stage.run(settings)
    soft = targets.read(workspace.TARGETS, index, settings)
    assert soft.logits.shape == (2, 1, 200, 7)
    packed = images.load(workspace.images(settings.index_tag), index)
    labels = torch.from_numpy(index.codes(CLASSES)[index.trained()])
    objective = student.objective(settings, soft, labels, misaligned=False)
    seen = []
    network, (history, _) = student.train(settings, index, packed, soft, log=seen.append)
    assert np.isfinite(history[0]["train_loss"]) and history[0]["train_ce"] > 0
    right = soft.logits[0, 0, :140].argmax(1) == labels[:140].numpy()
    assert student.soft_label_agreement(history)["resnet18"] == pytest.approx(right.mean())
    frame = student.predictions(network, index, packed, CLASSES)
    assert set(frame["split"]) == {"val", "calib", "test"} and (frame["label"] != "").all()

    # One batch: what the labels of the unlabelled would be changes nothing, what the teachers say does.
    from ferdistill.distill.batches import Batch

    rows = torch.tensor([0, 1, 150, 160])
    logits = torch.from_numpy(np.random.default_rng(0).normal(0, 1, (4, 7))).float().requires_grad_()
    batch = Batch(torch.zeros(4, 1, 8, 8), labels[rows], rows, None, 5, 4)
    terms = objective.loss(logits, batch)
    assert float(terms["ce"].detach()) == pytest.approx(float(F.cross_entropy(logits[:2], labels[:2]).detach()) / 2)
    (gradient,) = torch.autograd.grad(terms["loss"], logits)
    assert (gradient[2:].abs().sum(1) > 0).all()

    # The same batch with mixed images behind it: they are the hard term's, and the soft terms are what they were.
    mixed = Mixed(labels[rows[[1, 0, 2, 3]]], torch.tensor([0.3, 0.6, 1.0, 1.0]))
    behind = torch.from_numpy(np.random.default_rng(1).normal(0, 1, (4, 7))).float()
    both = objective.loss(torch.cat([logits, behind]), replace(batch, mixed=mixed))
    assert objective.soft and both["ce"] == losses.ce_loss(behind, labels[rows], some_unlabelled=True, mixed=mixed)
    assert all(torch.equal(both[name], terms[name]) for name in terms.keys() - {"loss", "ce"})


def test_the_baseline_trains_on_labelled_images_alone(project):
    index, configured = project
    settings = configured(family="none")
    targets_stage.run(settings)
    soft = targets.read(workspace.TARGETS, index, settings)
    packed = images.load(workspace.images(settings.index_tag), index)
    network, (history, _) = student.train(settings, index, packed, soft)
    kept = index.rows["split"] != "transfer"
    write_index(workspace.index_csv("plain"), index.rows[kept].reset_index(drop=True), CLASSES, "invented")
    plain = index_module.read(workspace.index_csv("plain"))
    again, (without, _) = student.train(settings, plain, packed[kept.to_numpy()], soft)
    assert history == without
    for one, other in zip(network.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_an_image_that_nothing_is_known_of_is_refused(project):
    index, configured = project
    settings = configured()
    for seed, name in enumerate(settings.teachers):
        logits = logits_for(index, seed)
        logits[index.positions("transfer")[7]] = np.nan
        directory = workspace.softlabels(name, settings.index_tag)
        store.write(directory, index, logits, CLASSES, teacher=name, checkpoint_sha256=sha256(name), partial=True)
    with pytest.raises(CheckError, match=r"(?s)no teacher of the family covers: 1.*transfer/00007\.png"):
        targets_stage.run(settings)


def test_the_stage_counts_them_and_the_index_is_verified(corpus, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    add_unlabelled(corpus, {f"{i}.png": face(70_000 + i) for i in range(12)})
    settings = params.load(ROOT / "params.yaml")
    chosen = settings.index.model_copy(update={"val": 0.2, "calib": 0.2, "seed": 1})
    settings = settings.model_copy(update={"corpus": "mine", "classes": THREE, "index": chosen})
    index_stage.run(settings)
    assert "few images" not in capsys.readouterr().out
    fewer = chosen.model_copy(update={"val": 0.04})
    index_stage.run(settings.model_copy(update={"index": fewer, "index_tag": "fewer"}))
    told, counts = capsys.readouterr().out, pd.read_csv("plots/class_counts.csv")
    thin = counts[(counts["images"] < 5) & (counts["split"] != "train") & (counts["split"] != "transfer")]
    listed = zip(thin["images"], thin["class"], thin["split"], strict=True)
    assert len(thin) and all(f"{images} of {name} in {split}" in told for images, name, split in listed)
    index_stage.run(settings)
    metrics = json.loads(Path("metrics/index.json").read_text())
    assert metrics["images_in"]["transfer"] == 12 and set(metrics["images_of"]) == set(THREE)
    assert metrics["imbalance"] < 2
    csv = workspace.index_csv(settings.index_tag)
    assert verify.verify(index_module.read(csv), csv, corpus, THREE)["ok"]
    counts = pd.read_csv("plots/class_counts.csv")
    assert set(counts["split"]) == set(index_module.SPLITS)
