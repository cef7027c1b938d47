"""Soft labels without a network as a teacher: read in any form, refused with a reason, and trained on."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from scipy.special import softmax

from conftest import CLASSES, describe_corpus, face, make_index
from ferdistill import params, workspace
from ferdistill.data import images
from ferdistill.distill import losses, student, weights
from ferdistill.errors import CheckError, UsageError
from ferdistill.evaluation import diversity
from ferdistill.files import read_json, write_json
from ferdistill.softlabels import alignment, brought, canary, store, targets, verdicts
from ferdistill.stages import softlabels as softlabels_stage
from ferdistill.stages import targets as targets_stage
from ferdistill.stages import teacher as teacher_stage
from support.images import pack
from support.softlabels import FORMS

ROOT = Path(__file__).parents[1]
LENGTHS = {"train": 140, "val": 28, "calib": 28, "test": 28}
PROBS = [f"prob_{name}" for name in CLASSES]


@pytest.fixture
def index(tmp_path):
    return make_index(tmp_path / "data/index/ixNextAffFull.csv", LENGTHS, CLASSES)


def logits_for(index, seed=0):
    """Of a teacher that is right in some four of five images."""
    rng = np.random.default_rng(seed)
    return rng.normal(0, 1, (len(index.rows), 7)) + 3 * np.eye(7)[np.maximum(index.codes(CLASSES), 0)]


def colleague(index, temperature=1.0, seed=0):
    """A table of probabilities as a colleague's script would write it, rows in no order."""
    p = softmax(logits_for(index, seed) / temperature, axis=1)
    table = pd.concat([index.rows[["path", "label"]], pd.DataFrame(p, columns=PROBS)], axis=1)
    return table.sample(frac=1, random_state=1).reset_index(drop=True)


def read(place, index, temperature=1.0, partial=False):
    return brought.read(Path(place), index, CLASSES, temperature=temperature, partial=partial)


@pytest.mark.parametrize("write", FORMS, ids=lambda write: write.__name__)
def test_every_form_becomes_the_same_logits(index, tmp_path, write):
    logits = logits_for(index).astype(np.float32)
    table = pd.concat(
        [index.rows[["path", "split", "label"]], pd.DataFrame(logits, columns=[f"logit_{c}" for c in CLASSES])], axis=1
    )
    (tmp_path / "theirs").mkdir()
    write(tmp_path / "theirs", table.sample(frac=1, random_state=0).reset_index(drop=True))
    (only, *more) = sorted((tmp_path / "theirs").iterdir())
    for place in [tmp_path / "theirs"] if more else [tmp_path / "theirs", only]:
        found = read(place, index)
        np.testing.assert_allclose(softmax(found.logits, axis=1), softmax(logits, axis=1), atol=2e-6)
        assert found.provenance["covered"] == LENGTHS and found.provenance["canary"]["verdict"] != "misaligned"


@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0])
def test_probabilities_are_undone_at_the_temperature_they_were_made_at(index, tmp_path, temperature):
    colleague(index, temperature).to_csv(tmp_path / "theirs.csv", index=False)
    found = read(tmp_path / "theirs.csv", index, temperature)
    np.testing.assert_allclose(softmax(found.logits, axis=1), softmax(logits_for(index), axis=1), atol=1e-5)


def test_the_file_may_state_its_temperature_and_must_not_be_contradicted(index, tmp_path):
    table = colleague(index, 3.0)
    np.savez(tmp_path / "theirs.npz", probs=table[PROBS].to_numpy(), paths=table["path"].to_numpy(str), temperature=3.0)
    found = read(tmp_path / "theirs.npz", index, None)
    assert found.provenance["temperature"] == 3.0
    np.testing.assert_array_equal(read(tmp_path / "theirs.npz", index, 3.0).logits, found.logits)
    with pytest.raises(CheckError, match=r"made at temperature 3, which params.yaml says were made at 2"):
        read(tmp_path / "theirs.npz", index, 2.0)


def test_a_temperature_is_asked_for_where_it_matters(index, tmp_path):
    table = colleague(index)
    table.to_csv(tmp_path / "theirs.csv", index=False)
    with pytest.raises(UsageError, match="at which temperature these probabilities were made"):
        read(tmp_path / "theirs.csv", index, None)
    raw = table.rename(columns=dict(zip(PROBS, [f"logit_{name}" for name in CLASSES], strict=True)))
    raw[[f"logit_{name}" for name in CLASSES]] = np.log(table[PROBS])
    raw.to_csv(tmp_path / "raw.csv", index=False)
    assert read(tmp_path / "raw.csv", index, None).provenance["temperature"] == 1.0


def test_a_zero_stays_a_zero_at_any_temperature_and_is_counted(index, tmp_path):
    table = colleague(index)
    table.loc[:4, PROBS] = np.eye(7)[pd.Categorical(table["label"][:5], categories=CLASSES).codes]
    table.to_csv(tmp_path / "theirs.csv", index=False)
    for temperature in (1.0, 4.0):
        found = read(tmp_path / "theirs.csv", index, temperature)
        assert found.provenance["zeros"] == 30 and np.isfinite(found.logits).all()
        at = pd.Index(index.rows["path"]).get_indexer(table["path"][:5])
        softened = softmax(found.logits[at] / 4.0, axis=1)
        assert softened.max(axis=1) == pytest.approx(1.0, abs=1e-8)


def change(what):
    """A fault of the colleague's table."""

    def damaged(table, index):
        table = table.copy()
        if what == "sum":
            table.loc[3, PROBS[0]] += 0.1
        elif what == "negative":
            table.loc[3, PROBS[:2]] += [-1.0, 1.0]
        elif what == "infinite":
            table.loc[3, PROBS[0]] = np.inf
        elif what == "unknown label":
            table.loc[3, "label"] = "bored"
        elif what == "contradiction":
            table.loc[3, "label"] = CLASSES[CLASSES.index(table["label"][3]) - 1]
        elif what == "copies":
            table = pd.concat([table, table[:1].assign(**{PROBS[0]: table[PROBS[1]][0], PROBS[1]: table[PROBS[0]][0]})])
        elif what == "classes":
            table = table.rename(columns={PROBS[0]: "prob_bored"})
        elif what == "missing":
            table = table.drop(index=3)
        elif what == "elsewhere":
            table["path"] = "C:/" + table["path"]
        elif what == "no keys":
            table = table.drop(columns="path").rename(columns={"label": "name"})
        elif what == "shuffled":
            table[PROBS] = table[PROBS].sample(frac=1, random_state=2).to_numpy()
        elif what == "columns":
            table[PROBS] = table[PROBS[1:] + PROBS[:1]].to_numpy()
        return table

    return damaged


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("sum", r"do not sum to 1.*1 rows.*row 3"),
        ("negative", r"or are negative"),
        ("infinite", r"not finite.*row 3"),
        ("unknown label", r"a label that is no class: bored.*row 3"),
        ("contradiction", r"labels that contradict the index: 1.*row 3"),
        ("copies", r"a path with two rows that differ.*row 224; the other:.*row 0"),
        ("classes", r"other classes than the index's"),
        ("missing", r"soft labels for 223 of 224 images"),
        ("elsewhere", r"no path of these soft labels is in the index.*expected: paths as"),
        ("no keys", r"columns that do not say what they hold"),
        ("shuffled", r"out of step with the labels of their images"),
        ("columns", r"out of step.*columns"),
    ],
)
def test_bad_soft_labels_are_refused_with_the_row_and_what_to_do(index, tmp_path, what, message):
    change(what)(colleague(index), index).to_csv(tmp_path / "theirs.csv", index=False)
    with pytest.raises(CheckError, match=f"(?s){message}"):
        read(tmp_path / "theirs.csv", index)


def test_two_files_of_one_teacher_are_refused(index, tmp_path):
    (tmp_path / "theirs").mkdir()
    for name in ("a.csv", "b.csv"):
        colleague(index).to_csv(tmp_path / "theirs" / name, index=False)
    with pytest.raises(CheckError, match=r"more than one set of soft labels: a\.csv, b\.csv"):
        read(tmp_path / "theirs", index)


def test_rows_of_images_that_the_index_left_out_are_counted_and_passed_over(index, tmp_path):
    table = colleague(index)
    extra = table[:6].assign(path=[f"copies/{i}.png" for i in range(6)])
    pd.concat([extra, table, table[:2]]).to_csv(tmp_path / "theirs.csv", index=False)
    found = read(tmp_path / "theirs.csv", index)
    assert (found.provenance["left_out"], found.provenance["rows"]) == (6, len(index.rows) + 8)
    np.testing.assert_allclose(softmax(found.logits, axis=1), softmax(logits_for(index), axis=1), atol=1e-5)


def test_a_partial_teacher_needs_a_training_row_of_each_class(index, tmp_path):
    table = colleague(index)
    train = table[table["path"].str.startswith("train")]
    train[:100].to_csv(tmp_path / "some.csv", index=False)
    found = read(tmp_path / "some.csv", index, partial=True)
    assert found.provenance["covered"] == {"train": 100, "val": 0, "calib": 0, "test": 0}
    assert np.isnan(found.logits).all(axis=1).sum() == len(index.rows) - 100
    train[train["label"] != "fear"].to_csv(tmp_path / "none.csv", index=False)
    with pytest.raises(CheckError, match="covers no training image of fear"):
        read(tmp_path / "none.csv", index, partial=True)


@pytest.mark.parametrize("fusion", ["probability", "probability_t1", "logit"])
def test_where_a_teacher_has_no_row_the_others_weights_are_scaled_to_one(fusion):
    rng = np.random.default_rng(0)
    logits = torch.from_numpy(rng.normal(0, 3, (4, 12, 5)))
    student_logits, labels = torch.from_numpy(rng.normal(0, 2, (12, 5))), torch.from_numpy(rng.integers(0, 5, 12))
    weights, sources = torch.tensor([0.1, 0.2, 0.3, 0.4]), torch.tensor([0, 0, 1, 2])
    covered = torch.from_numpy(rng.random((4, 12)) < 0.6)
    covered[:, 0], covered[:, 1], covered[:, 2] = True, False, torch.tensor([False, False, True, True])
    known = logits.where(covered[..., None], torch.nan)
    found = losses.soft_targets(known, weights, sources, 2.0, fusion, covered)
    ce = losses.ce_loss(student_logits, labels)
    by_row = {"kd": [], "dkd": []}
    for row in range(12):
        here = covered[:, row]
        if not here.any():
            assert found.weights()[:, row].sum() == 0 and found.mixture()[row].sum() == 0
            for losses_of in by_row.values():
                losses_of.append(0.0)
            continue
        own = losses.soft_targets(logits[here, row : row + 1], weights[here] / weights[here].sum(), sources[here], 2.0,
                                  fusion)  # fmt: skip
        assert found.weights()[:, row].sum() == pytest.approx(1)
        torch.testing.assert_close(found.mixture()[row], own.mixture()[0])
        one = student_logits[row : row + 1], labels[row : row + 1]
        by_row["kd"].append(float(losses.kl_to_sources(one[0], own, 2.0)))
        options = {"alpha": 0.5, "beta": 4.0, "temperature": 2.0, "target_term": "official"}
        by_row["dkd"].append(float(losses.dkd_loss(*one, torch.zeros(()), own, **options)["loss"]))
    at = found.at(torch.arange(12))
    assert float(losses.kl_to_sources(student_logits, at, 2.0)) == pytest.approx(np.mean(by_row["kd"]))
    student_logits.requires_grad_()
    loss = losses.dkd_loss(student_logits, labels, torch.zeros(()), at, **options)["loss"]
    assert float(loss.detach()) == pytest.approx(np.mean(by_row["dkd"]))
    loss.backward()
    assert student_logits.grad.isfinite().all() and (student_logits.grad[1] == 0).all()
    assert float(losses.kd_loss(student_logits, ce, at, alpha=0.5, temperature=2.0)["loss"].detach()) > 0


@pytest.fixture
def project(index, tmp_path, monkeypatch):
    """Images of the index, and params of teachers that are the colleague's tables alone, one of them partial."""
    monkeypatch.chdir(tmp_path)
    describe_corpus()
    (tmp_path / "pretrained").mkdir()
    shutil.copy2(ROOT / "pretrained/student.safetensors", "pretrained")
    pack(workspace.images("ixNextAffFull"), index, np.stack([face(seed)[..., None] for seed in range(len(index.rows))]))
    colleague(index).to_csv("pretrained/whole.csv", index=False)
    some = colleague(index, 2.0, seed=1)
    some[some["path"].str.match("train/000[0-3]|test/0000")].to_csv("pretrained/some.csv", index=False)
    raw = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    raw |= {"scale": "smoke", "teachers": ["whole", "some"], "family": "both"}
    raw["scales"] = {"smoke": raw["scales"]["smoke"]}
    raw["scales"]["smoke"]["student"]["phases"] = [{"epochs": 1, "lr": 1.0e-3, "augment": "flip"}]
    raw["scales"]["smoke"]["teachers"] = {
        "whole": {"softlabels": "pretrained/whole.csv", "temperature": 1.0, "covers": "all"},
        "some": {"softlabels": "pretrained/some.csv", "temperature": 2.0, "covers": "partial"},
    }
    sources = [{"weight": 0.5, "teachers": {name: 1.0}} for name in ("whole", "some")]
    raw["families"] = {
        "none": {"fusion": "probability", "sources": []},
        "both": {"fusion": "probability", "sources": sources},
        "some": {"fusion": "probability", "sources": [{"weight": 1.0, "teachers": {"some": 1.0}}]},
    }
    return raw


def configured(raw):
    Path("params.yaml").write_text(yaml.safe_dump(raw, sort_keys=False), encoding="utf-8")
    return params.load()


def label(settings):
    """The stages up to the targets."""
    for name in settings.teachers:
        facts = weights.facts(settings.scale_.teachers[name], name)
        write_json(workspace.checked_weights(name), facts)
        teacher_stage.run(settings, name)
        softlabels_stage.run(settings, name)
    targets_stage.run(settings)


def test_tables_are_teachers_like_any_other(project, index):
    settings = configured(project)
    label(settings)
    assert read_json("data/targets/alignment.json")["ok"]
    whole = read_json("metrics/teachers/whole.json")
    assert whole["validation"]["accuracy"] > 0.5 and whole["covered"] == LENGTHS
    some = read_json("metrics/teachers/some.json")
    assert some["validation"] is None and some["test"]["macro_f1"] > 0 and some["covered"]["train"] == 40
    labelled = read_json("metrics/softlabels/some.json")
    assert labelled["covered"] == {"train": 40, "val": 0, "calib": 0, "test": 10}
    assert labelled["agreement"]["val"] is None and labelled["agreement"]["train"] > 0.5

    table, manifest = store.read(workspace.softlabels("some", "ixNextAffFull"))
    assert table["path"].tolist() == index.rows["path"].tolist() and manifest["covered"]["train"] == 40
    directories = [workspace.softlabels(name, "ixNextAffFull") for name in settings.teachers]
    examined = canary.check(directories, index)["results"]
    rows = {(Path(found["dir"]).name.partition("_")[0], found["split"]): found["rows"] for found in examined}
    assert rows["some", "train"] == 40 and ("some", "val") not in rows and rows["whole", "train"] == 140
    assert verdicts.check(directories, index, CLASSES)["canary"]["results"] == examined
    beside = diversity.of_split(settings, index, "test", 1.0)
    assert beside["n"] == 10 and beside["covered"] == {"whole": 28, "some": 10}
    with pytest.raises(CheckError, match="no image of val that every teacher covers"):
        diversity.of_split(settings, index, "val", 1.0)


def test_the_gate_refuses_an_empty_row_where_the_manifest_admits_none(project, index):
    settings = configured(project)
    label(settings)
    manifest = workspace.softlabels("some", "ixNextAffFull") / store.MANIFEST
    told = json.loads(manifest.read_text())
    del told["covered"]
    manifest.write_text(json.dumps(told))
    report = alignment.check([manifest.parent], index, CLASSES)
    assert {problem["kind"] for problem in report["problems"]} == {"non-finite"}


def test_the_gate_finds_probabilities_among_the_empty_rows_of_a_partial_store(index, tmp_path):
    logits = logits_for(index)
    logits[index.positions("train")[::2]] = logits[index.positions("val")] = np.nan
    for name, values in (("logits", logits), ("probs", softmax(logits, axis=1))):
        store.write(tmp_path / name, index, values, CLASSES, teacher=name, checkpoint_sha256=None, partial=True)
    assert alignment.check([tmp_path / "logits"], index, CLASSES)["ok"]
    problems = alignment.check([tmp_path / "probs"], index, CLASSES)["problems"]
    found = [(problem["split"], problem["kind"]) for problem in problems]
    assert sorted(found) == [(split, "not a distribution") for split in ("calib", "test", "train")]


@pytest.mark.parametrize(("family", "mode"), [("both", "kd"), ("some", "dkd")])
def test_a_student_learns_from_tables_and_metrics_say_for_how_many(project, index, family, mode):
    settings = configured(project | {"family": family, "mode": mode})
    label(settings)
    soft = targets.read(workspace.TARGETS, index, settings)
    covered = {"whole": 140, "some": 40} if family == "both" else {"some": 40}
    assert soft.plan["covered"] == covered
    assert soft.plan["uncovered"] == (0 if family == "both" else 100)
    packed = images.load(workspace.images("ixNextAffFull"), index)
    _, (history, _) = student.train(settings, index, packed, soft)
    assert np.isfinite([record["train_loss"] for record in history]).all()
    agreement = student.soft_label_agreement(history)
    codes = index.codes(CLASSES)[index.positions("train")]
    has = soft.covered[-1]
    expected = (soft.logits[-1, 0].argmax(1) == codes)[has].mean()
    assert agreement["some"] == pytest.approx(expected) and set(agreement) == set(covered)


def test_params_refuse_what_a_table_cannot_do(project):
    with pytest.raises(UsageError, match="views: whole, some cannot label further views"):
        configured(project | {"views": 2})
    project["scales"]["smoke"]["teachers"]["whole"]["softlabels"] = "elsewhere/whole.csv"
    with pytest.raises(UsageError, match=r"softlabels: string should match pattern"):
        configured(project)
    project["scales"]["smoke"]["teachers"]["whole"] = {"softlabels": "pretrained/whole.csv", "covers": "all"}
    with pytest.raises(UsageError, match=r"softlabels\.temperature: missing"):
        configured(project)


def test_a_file_that_is_not_there_or_changed_since_is_refused(project):
    settings = configured(project)
    Path("pretrained/whole.csv").rename("pretrained/other.csv")
    with pytest.raises(UsageError, match=r"(?s)no soft labels here.*pretrained/whole\.csv"):
        weights.facts(settings.scale_.teachers["whole"], "whole")
    Path("pretrained/whole.csv").mkdir()
    facts = []
    for text in ("a", "b"):
        Path("pretrained/whole.csv/t.csv").write_text(text)
        facts.append(weights.facts(settings.scale_.teachers["whole"], "whole"))
    assert facts[0]["sha256"] != facts[1]["sha256"]
