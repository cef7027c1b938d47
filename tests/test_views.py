"""Multi-view soft labels: bound to their rows, to the store beside them and to the seed that draws them again."""

import numpy as np
import pytest
import torch

from conftest import CLASSES, make_index
from ferdistill import workspace
from ferdistill.distill.augment import VIEW_SEED, apply, recorded
from ferdistill.distill.data import Split
from ferdistill.distill.inference import as_input, predict
from ferdistill.errors import CheckError, UsageError
from ferdistill.files import read_json
from ferdistill.params import load
from ferdistill.softlabels import foreign, gather, store, targets, views

LENGTHS = {"train": 60, "val": 20, "calib": 20, "test": 30}


@pytest.fixture
def index(tmp_path):
    return make_index(tmp_path / "i.csv", LENGTHS, CLASSES)


def make(directory, index, seed=0, count=3):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 3, (len(index.rows), len(CLASSES))).astype(np.float32)
    manifest = store.write(directory, index, logits, CLASSES, teacher=directory.name, checkpoint_sha256="0" * 64)
    seen = rng.normal(0, 3, (count, LENGTHS["train"], len(CLASSES))).astype(np.float32)
    views.write(directory, index, seen, VIEW_SEED, "flip_shift", manifest["table_sha256"])
    return seen, manifest["table_sha256"]


def test_views_come_back_and_lie_beside_a_store_that_is_still_read(index, tmp_path):
    seen, digest = make(tmp_path / "t", index)
    np.testing.assert_array_equal(views.read(tmp_path / "t", index, 3, digest), seen)
    assert foreign.read_any(tmp_path / "t").kind == "logits"
    told = read_json(tmp_path / "t" / views.MANIFEST)
    assert (told["seed"], told["augment"], told["views"]) == (VIEW_SEED, "flip_shift", 3)


def test_views_of_another_number_store_index_or_content_are_refused(index, tmp_path):
    seen, digest = make(tmp_path / "t", index)
    with pytest.raises(CheckError, match="number of views 3"):
        views.read(tmp_path / "t", index, 4, digest)
    with pytest.raises(CheckError, match=": soft labels"):
        views.read(tmp_path / "t", index, 3, "f" * 64)
    other = make_index(tmp_path / "j.csv", LENGTHS, CLASSES, seed=5)
    with pytest.raises(CheckError, match="index digest"):
        views.read(tmp_path / "t", other, 3, digest)
    seen[1, 7, 2] = np.nan
    views.write(tmp_path / "t", index, seen, VIEW_SEED, "flip_shift", digest)
    with pytest.raises(CheckError, match=r"(?s)not finite.*view 1, row 7"):
        views.read(tmp_path / "t", index, 3, digest)
    file = tmp_path / "t" / views.TENSORS
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(CheckError, match="not a whole safetensors file"):
        views.read(tmp_path / "t", index, 3, digest)
    (tmp_path / "t" / views.MANIFEST).unlink()
    with pytest.raises(UsageError, match=r"views\.json"):
        views.read(tmp_path / "t", index, 3, digest)


def test_targets_hold_every_teachers_views_in_the_order_of_the_train_split(index, tmp_path, monkeypatch):
    settings = load("params.yaml").model_copy(update={"views": 3, "index_tag": "i", "family": "6A"})
    monkeypatch.chdir(tmp_path)
    seen = {
        name: make(workspace.softlabels(name, settings.index_tag), index, seed)[0]
        for seed, name in enumerate(settings.teachers)
    }
    gather.write_targets(tmp_path / "targets", index, settings)
    found = targets.read(tmp_path / "targets", index, settings)
    assert found.logits.shape == (2, 3, 60, 7) and found.plan["views"] == 3
    for part, logits in zip(found.plan["teachers"], found.logits, strict=True):
        np.testing.assert_array_equal(logits, seen[part["teacher"]])
    with pytest.raises(CheckError, match="number of views"):
        targets.read(tmp_path / "targets", index, settings.model_copy(update={"views": 1}))


def test_a_teacher_is_asked_about_the_very_pixels_that_the_student_sees():
    """The network gives back what it is shown, so that pixels can be compared."""
    images = np.random.default_rng(0).integers(0, 256, (20, 24, 24, 1), dtype=np.uint8)
    rows = np.array([3, 5, 6, 11, 12, 17])
    views_ = recorded(2, len(rows), 24)
    split = Split(images, rows, np.zeros(6, np.int64))
    answers = predict(torch.nn.Flatten(), split, ("flip_shift", views_[1]), batch=4)
    pixels = torch.from_numpy(images[rows]).permute(0, 3, 1, 2)
    shown = as_input(apply(pixels, "flip_shift", views_[1]), torch.device("cpu")).flatten(1).numpy()
    np.testing.assert_array_equal(answers, shown)
