"""Annotators' votes: in the index, as a teacher, and as what calibration is fitted to and scored by."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from conftest import CLASSES, THREE, describe_corpus, face, make_index
from ferdistill import params, workspace
from ferdistill.data import index as index_module
from ferdistill.data.build import write_index
from ferdistill.distill import weights
from ferdistill.errors import CheckError, UsageError
from ferdistill.evaluation import scaling, summary
from ferdistill.evaluation.metrics import Predictions, read_predictions
from ferdistill.faces import rendered
from ferdistill.files import write_json
from ferdistill.params import VotesTeacher
from ferdistill.softlabels import brought
from support.corpora import make, text, votes, write_ferplus

ROOT = Path(__file__).parents[1]
SETTINGS = params.load(ROOT / "params.yaml").calibrate
LENGTHS = {"train": 210, "val": 70, "calib": 70, "test": 70}


def with_votes(path, shares, voters):
    """The index of `make_index` with votes; NaN where there are none."""
    rows = make_index(path, LENGTHS, CLASSES).rows
    for k, name in enumerate(CLASSES):
        rows[f"vote_{name}"] = shares[:, k]
    rows["votes"] = ["" if np.isnan(n) else str(int(n)) for n in voters]
    write_index(path, rows, CLASSES, "invented")
    return index_module.read(path)


@pytest.fixture
def voted(tmp_path):
    """Five votes an image, three of them for its label."""
    labels = make_index(tmp_path / "i.csv", LENGTHS, CLASSES).codes(CLASSES)
    rng = np.random.default_rng(0)
    counts = (
        3 * np.eye(7)[labels] + np.eye(7)[rng.integers(0, 7, len(labels))] + np.eye(7)[rng.integers(0, 7, len(labels))]
    )
    return with_votes(tmp_path / "i.csv", counts / 5, np.full(len(labels), 5.0)), counts


def test_the_index_has_shares_and_the_number_of_votes(corpus):
    listed = list((corpus / "folders").rglob("*.png"))
    rows = [f"{path.relative_to(corpus).as_posix()},{i + 1},2,0,7" for i, path in enumerate(sorted(listed))]
    text(corpus / "votes.csv", "path,anger,happiness,neutral,unknown", *rows)
    plain, _ = make(corpus)
    description = (corpus / "corpus.yaml").read_text()
    (corpus / "corpus.yaml").write_text(description + "votes: votes.csv\n")
    found, _ = make(corpus)
    assert found[plain.columns].equals(plain)
    first = found[found["path"] == rows[0].partition(",")[0]].iloc[0]
    assert first["votes"] == "3" and first["vote_angry"] == pytest.approx(1 / 3) and first["vote_neutral"] == 0
    assert found["votes"].notna().sum() == len(listed) == found["vote_angry"].notna().sum()

    def refused(message, *lines):
        text(corpus / "votes.csv", *lines)
        with pytest.raises((CheckError, UsageError), match=message):
            make(corpus)

    header, good = "path,anger,happiness,neutral", rows[0].rpartition(",")[0]
    refused("a table of votes without neutral", "path,anger,happiness", "a,1,2")
    refused(r"(?s)no votes: 1, -2, 0.*data row 0", header, f"{rows[0].partition(',')[0]},1,-2,0")
    refused("a path has two rows", header, good, good)
    refused("paths in the table of votes that are not in the corpus: 1, first elsewhere", header, "elsewhere,1,2,0")
    text(corpus / "votes.csv", header, f"{rows[0].partition(',')[0]},0,0,0")
    none, _ = make(corpus)  # votes that are all zero are none
    assert "votes" not in none
    (corpus / "votes.csv").unlink()
    with pytest.raises(UsageError, match="the table of votes is missing"):
        make(corpus)


def test_votes_of_a_source_are_counted_too_and_not_given_twice(tmp_path):
    root = tmp_path / "mine"
    usage = ["Training"] * 30 + ["PublicTest"] * 6 + ["PrivateTest"] * 6
    codes, names = [0, 3, 6], ["anger", "happiness", "neutral"]
    write_ferplus(root, [(codes[i % 3], votes(**{names[i % 3]: 7, "fear": 2, "NF": 1})) for i in range(42)], usage)
    source = "{name: s, adapter: ferplus, path: fer2013new.csv, options: {fer2013: fer2013.csv}}"
    (root / "corpus.yaml").write_text(f"sources: [{source}]\n")
    rows, _ = make(root, classes=THREE, val=0.1, calib=0.2)
    assert set(rows["votes"]) == {"7"}  # fear is no class here
    (root / "corpus.yaml").write_text(f"sources: [{source}]\nvotes: votes.csv\n")
    text(root / "votes.csv", "path,angry,happy,neutral", "fer2013new.csv#3,1,0,0")
    with pytest.raises(CheckError, match=r"votes twice: fer2013new\.csv#3"):
        make(root, classes=THREE)


@pytest.mark.parametrize("smoothing", [0.0, 1.0, 3.5])
def test_votes_are_smoothed_as_stated(voted, smoothing):
    index, counts = voted
    table = brought.of_votes(index, CLASSES, smoothing=smoothing, partial=False)
    expected = (counts + smoothing / 7) / (5 + smoothing)
    np.testing.assert_allclose(softmax(table.logits, axis=1), expected, atol=1e-6)
    assert table.provenance["zeros"] == (0 if smoothing else (counts == 0).sum())
    assert table.provenance["canary"]["verdict"] != "misaligned"


def test_shares_of_an_unknown_number_of_votes_are_taken_as_they_are(voted, tmp_path):
    _, counts = voted
    unknown = with_votes(tmp_path / "i.csv", counts / 5, np.full(len(counts), np.nan))
    table = brought.of_votes(unknown, CLASSES, smoothing=2.0, partial=False)
    np.testing.assert_allclose(softmax(table.logits, axis=1), counts / 5, atol=1e-6)


def test_an_image_without_votes_is_refused_or_not_covered(voted, tmp_path):
    _, counts = voted
    shares, voters = counts / 5, np.full(len(counts), 5.0)
    shares[::3], voters[::3] = np.nan, np.nan
    some = with_votes(tmp_path / "i.csv", shares, voters)
    with pytest.raises(CheckError, match=r"(?s)soft labels for 280 of 420 images.*covers: partial"):
        brought.of_votes(some, CLASSES, smoothing=1.0, partial=False)
    table = brought.of_votes(some, CLASSES, smoothing=1.0, partial=True)
    assert np.isnan(table.logits).all(axis=1).sum() == 140
    shares[np.flatnonzero((some.rows["label"] == "fear") & (some.rows["split"] == "train"))] = np.nan
    with pytest.raises(CheckError, match="covers no training image of fear"):
        brought.of_votes(with_votes(tmp_path / "i.csv", shares, voters), CLASSES, smoothing=1.0, partial=True)
    with pytest.raises(CheckError, match="the index has no votes"):
        brought.of_votes(make_index(tmp_path / "j.csv", LENGTHS, CLASSES), CLASSES, smoothing=1.0, partial=True)


def test_votes_out_of_step_with_the_labels_are_refused(voted, tmp_path):
    _, counts = voted
    shifted = with_votes(tmp_path / "i.csv", np.roll(counts / 5, 1, axis=0), np.full(len(counts), 5.0))
    with pytest.raises(CheckError, match="out of step with the labels"):
        brought.of_votes(shifted, CLASSES, smoothing=1.0, partial=False)


def predicted(seed=0, n=600, sharpness=2.0):
    """Votes of five annotators from a known law, and logits that are its logarithm, too sharp."""
    rng = np.random.default_rng(seed)
    law = softmax(rng.normal(0, 1.5, (n, 7)), axis=1)
    counts = np.array([rng.multinomial(5, q) for q in law])
    clusters = np.array([f"p{i // 4}" for i in range(n)])
    labels = counts.argmax(axis=1)
    return Predictions(sharpness * np.log(law), labels, clusters, clusters, counts / 5), law


def test_t_star_is_fitted_to_votes_and_undoes_the_sharpness():
    calib, _ = predicted()
    against_votes, _ = scaling.calibrate(calib, CLASSES, SETTINGS.model_copy(update={"against": "votes"}))
    found = minimize_scalar(
        lambda t: -(calib.votes * log_softmax(calib.logits / t, axis=1)).sum(axis=1).mean(),
        bounds=(0.2, 10), method="bounded", options={"xatol": 1e-9},
    )  # fmt: skip
    assert against_votes["t_star"] == pytest.approx(found.x, rel=1e-4) == pytest.approx(2.0, abs=0.15)
    assert against_votes["t_star_low"] < 2.0 < against_votes["t_star_high"]
    assert against_votes["against"] == "votes" and against_votes["calib"]["after"]["nll"] == pytest.approx(found.fun)
    against_labels, _ = scaling.calibrate(calib, CLASSES, SETTINGS)
    # A plurality is surer than an annotator.
    assert against_labels["t_star"] < against_votes["t_star"] and "against" not in against_labels


def test_votes_that_are_the_labels_change_no_digit():
    calib, _ = predicted(1)
    as_labels, _ = scaling.calibrate(calib, CLASSES, SETTINGS)
    certain = calib._replace(votes=np.eye(7)[calib.labels])
    as_votes, _ = scaling.calibrate(certain, CLASSES, SETTINGS.model_copy(update={"against": "votes"}))
    for key in ("t_star", "t_star_low", "t_star_high", "t_star_grid", "cross_validation", "vector"):
        assert as_votes[key] == as_labels[key], key
    assert as_votes["calib"]["before"] == pytest.approx(as_labels["calib"]["before"])


def test_only_images_with_votes_are_fitted_to_and_none_is_refused():
    calib, _ = predicted()
    some = calib.votes.copy()
    some[::2] = np.nan
    settings = SETTINGS.model_copy(update={"against": "votes"})
    logits, truth, clusters = scaling.fitted_to(calib._replace(votes=some), settings)
    assert len(logits) == len(truth) == len(clusters) == 300 and np.isfinite(truth).all()
    for none in (None, np.full_like(some, np.nan)):
        with pytest.raises(CheckError, match="no image of calib has votes"):
            scaling.fitted_to(calib._replace(votes=none), settings)


def test_the_student_is_scored_against_votes_where_there_are_some(tmp_path):
    parts = {name: predicted(seed)[0] for seed, name in enumerate(("calib", "val", "test"))}
    some = parts["test"].votes.copy()
    some[:100] = np.nan
    parts["test"] = parts["test"]._replace(votes=some)
    found = summary.scores(parts, {}, CLASSES, 2.0, SETTINGS)["test"]["truth"]
    assert set(found) == {"votes"} and found["votes"]["n"] == 500
    assert found["votes"]["scaled"]["expected_nll"] < found["votes"]["raw"]["expected_nll"]
    without = {name: part._replace(votes=None) for name, part in parts.items()}
    assert summary.scores(without, {}, CLASSES, 2.0, SETTINGS)["test"]["truth"] == {}

    frame = pd.DataFrame(parts["test"].logits, columns=[f"logit_{name}" for name in CLASSES])
    frame = frame.assign(path=parts["test"].paths, split="test", label=np.array(CLASSES)[parts["test"].labels])
    frame.to_parquet(tmp_path / "without.parquet")
    assert read_predictions(tmp_path / "without.parquet", "test", CLASSES).votes is None
    pd.concat([frame, pd.DataFrame(some, columns=[f"vote_{name}" for name in CLASSES])], axis=1).to_parquet(
        tmp_path / "with.parquet"
    )
    read = read_predictions(tmp_path / "with.parquet", "test", CLASSES)
    np.testing.assert_array_equal(read.votes, some)
    assert read.has_votes.sum() == 500


def test_the_votes_of_the_embedded_corpus_come_only_if_asked_for(tmp_path):
    settings = {"seed": 3, "subjects": 20, "images": 120, "annotators": 5, "sharpness": 1.7}
    rendered.write_corpus(tmp_path / "plain", **settings)
    rendered.write_corpus(tmp_path / "voted", **settings, votes=True)
    files = [{p.relative_to(root): p.read_bytes() for p in root.rglob("*") if p.is_file()}
             for root in (tmp_path / "plain", tmp_path / "voted")]  # fmt: skip
    changed = {str(name) for name in files[1] if files[0].get(name) != files[1][name]}
    assert changed == {"corpus.yaml", "votes.csv"} and set(files[0]) <= set(files[1])
    table = pd.read_csv(tmp_path / "voted/votes.csv").set_index("path")
    truth = pd.read_csv(tmp_path / "voted/truth/samples.csv").set_index("path")
    assert (table.sum(axis=1) == 5).all() and (table == truth[[f"votes_{c}" for c in CLASSES]].to_numpy()).all(
        axis=None
    )


def test_annotators_are_a_teacher_of_params(voted, tmp_path, monkeypatch):
    """Through the stages, with the student's predictions bringing the votes on."""
    from ferdistill.distill import models, student
    from ferdistill.params import ImageParams
    from ferdistill.stages import softlabels as softlabels_stage
    from ferdistill.stages import teacher as teacher_stage

    monkeypatch.chdir(tmp_path)
    describe_corpus()
    _, counts = voted
    settings = params.load(ROOT / "params.yaml")
    scale = settings.scale_.model_copy(
        update={"teachers": {"votes": VotesTeacher.model_validate({"votes": {"smoothing": 1.0}, "covers": "all"})}}
    )
    settings = settings.model_copy(update={"scales": {"embedded": scale}, "teachers": ["votes"]})
    index = with_votes(workspace.index_csv(settings.index_tag), counts / 5, np.full(len(counts), 5.0))
    write_json(workspace.checked_weights("votes"), weights.facts(scale.teachers["votes"], "votes"))
    teacher_stage.run(settings, "votes")
    softlabels_stage.run(settings, "votes")
    assert json.loads(Path("metrics/softlabels/votes.json").read_text())["agreement"]["train"] > 0.9
    assert json.loads(workspace.checked_weights("votes").read_text()) == {"from": "votes", "sha256": None}

    network = models.build("test_resnet", {}, "stock", 7, ImageParams(size=32, channels=1), False)
    packed = np.stack([face(seed, 32)[..., None] for seed in range(len(index.rows))])
    frame = student.predictions(network, index, packed, CLASSES)
    rows = index.rows[index.rows["split"] != "train"].index
    np.testing.assert_array_equal(frame[[f"vote_{name}" for name in CLASSES]].to_numpy(), counts[rows] / 5)
