"""Soft labels in ranges of shards: cut, joined to the bytes of one export, and refused where they do not fit."""

import hashlib
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from cluster import tiny
from conftest import CLASSES, describe_corpus, make_index
from ferdistill import params, workspace
from ferdistill.data import images
from ferdistill.data import index as index_module
from ferdistill.data.build import write_index
from ferdistill.distill import models, ranges
from ferdistill.errors import CheckError, UsageError
from ferdistill.stages import softlabels
from ferdistill.tracking import experiments
from ferdistill.tracking import ranges as runs
from support.images import pack
from support.nodes import Here, settings

LENGTHS = {"train": 60, "val": 20, "calib": 20, "test": 30}
IMAGE = 48 * 48
CONFIG = {"classes": CLASSES, "sha256": "a" * 64}


@pytest.fixture
def index(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "SHARD_BYTES", 5 * IMAGE)
    return indexed(tmp_path / "i.csv")


def indexed(file, seed=0):
    """An index whose `sample_id`s are spread as digests are."""
    index = make_index(file, LENGTHS, CLASSES, seed=seed)
    ids = [hashlib.sha256(path.encode()).hexdigest() for path in index.rows["path"]]
    return replace(index, rows=index.rows.assign(sample_id=ids))


def fill(folder, index, of, config=CONFIG):
    logits = np.random.default_rng(0).normal(0, 3, (len(index.rows), len(CLASSES))).astype(np.float32)
    for part, rows in enumerate(ranges.rows_of(index, IMAGE, of), 1):
        file = folder / f"{part}-of-{of}.safetensors"
        ranges.write(file, logits[rows], ranges.facts_of(index, rows, config, part, of))
    return logits


@pytest.mark.parametrize("of", [1, 2, 7, 200])
def test_ranges_are_whole_shards_that_hold_each_image_once(index, of):
    parts = ranges.rows_of(index, IMAGE, of)
    assert len(parts) == of
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(len(index.rows)))
    shards = images.shards_of(index.rows["sample_id"].to_numpy(object), IMAGE)
    assert len(shards) > 20
    part_of = np.empty(len(index.rows), int)
    for number, part in enumerate(parts):
        part_of[part] = number
    assert all(len(set(part_of[shard.rows])) == 1 for shard in shards)
    if of <= 7:
        assert max(map(len, parts)) - min(map(len, parts)) <= 10  # two shards at most


@pytest.mark.parametrize("of", [1, 3, 60])
def test_ranges_are_joined_in_the_order_of_the_index(index, tmp_path, of):
    logits = fill(tmp_path / "r", index, of)
    np.testing.assert_array_equal(ranges.join(tmp_path / "r", index, IMAGE, CONFIG), logits)


def lose(folder, index):
    (folder / "2-of-3.safetensors").unlink()


def two_exports(folder, index):
    shutil.copy(folder / "2-of-3.safetensors", folder / "2-of-4.safetensors")


def exchange(folder, index):
    shutil.copy(folder / "1-of-3.safetensors", folder / "2-of-3.safetensors")


def cut(folder, index):
    file = folder / "2-of-3.safetensors"
    file.write_bytes(file.read_bytes()[:-3])


def other_weights(folder, index):
    fill(folder, index, 3, CONFIG | {"sha256": "b" * 64})


def other_classes(folder, index):
    fill(folder, index, 3, CONFIG | {"classes": CLASSES[::-1]})


def fewer(folder, index):
    rows = ranges.rows_of(index, IMAGE, 3)[1]
    ranges.write(
        folder / "2-of-3.safetensors",
        np.zeros((len(rows) - 1, 7)),
        ranges.facts_of(index, rows, CONFIG, 2, 3),
    )


def no_number(folder, index):
    rows = ranges.rows_of(index, IMAGE, 3)[1]
    facts = ranges.facts_of(index, rows, CONFIG, 2, 3)
    ranges.write(folder / "2-of-3.safetensors", np.full((len(rows), 7), np.nan), facts)


def anybodys(folder, index):
    save_file({"logits": np.zeros((40, 7), np.float32)}, folder / "2-of-3.safetensors")


def empty(folder, index):
    for file in folder.iterdir():
        file.unlink()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lose, "missing: 2 of 3"),
        (two_exports, "not the ranges of one export"),
        (exchange, "images|range"),
        (cut, "not a whole safetensors file"),
        (other_weights, "weights"),
        (other_classes, "classes"),
        (fewer, "shape"),
        (no_number, "not finite"),
        (anybodys, "index_digest"),
        (empty, "none"),
    ],
)
def test_what_does_not_fit_is_refused_by_its_file(index, tmp_path, damage, words):
    fill(tmp_path / "r", index, 3)
    damage(tmp_path / "r", index)
    with pytest.raises((CheckError, UsageError), match=words):
        ranges.join(tmp_path / "r", index, IMAGE, CONFIG)


def test_ranges_of_another_index_are_refused(index, tmp_path):
    fill(tmp_path / "r", index, 3)
    other = indexed(tmp_path / "j.csv", seed=5)
    with pytest.raises(CheckError, match="index_digest"):
        ranges.join(tmp_path / "r", other, IMAGE, CONFIG)


PIPELINE = (
    tiny.TEACHERS
    + """\
  softlabels:
    foreach: [a, b]
    do:
      cmd: python labels.py
      deps: [data/raw/truth, "teacher-${item}", labels.py]
      outs: ["labels-${item}"]
      metrics: [{"${item}.json": {cache: false}}]
"""
)
# As src/stage.py does: a stage `range@a~2~3` makes a range, `softlabels@a` joins what waits for it.
LABELS = """\
import os, pathlib, sys
stage, name = os.environ["DVC_STAGE"].split("@")
name, *part = name.split("~")
if stage == "range":
    made = pathlib.Path("data/ranges") / f"{name}~{'~'.join(part)}.safetensors"
    made.parent.mkdir(parents=True, exist_ok=True)
    made.write_text(f"{'-of-'.join(part)}, ")
    sys.exit()
found = sorted(pathlib.Path(".dvc/tmp/ranges", name).glob("*"))
pathlib.Path(f"labels-{name}").write_text("".join(file.read_text() for file in found) or sys.exit("nothing to join"))
pathlib.Path(f"{name}.json").write_text("{}")
"""


@pytest.mark.slow
def test_ranges_come_from_other_machines_and_their_stage_joins_them(driver):
    Path("dvc.yaml").write_text(PIPELINE)
    Path("labels.py").write_text(LABELS)
    Path("data/raw/truth").mkdir(parents=True)
    Path("data/raw/truth/large").write_text("not on a worker")
    Path(".gitignore").write_text("/data/raw\n")
    subprocess.run([sys.executable, "-m", "dvc", "repro", "-q", "teacher"], check=True)
    for command in ("git add -A", "git commit -qm teachers"):
        subprocess.run(command.split(), check=True)
    head = subprocess.check_output(["git", "rev-parse", "HEAD"], text=True)
    commit = runs.commit_with_ranges(["a"], 3)
    assert runs.commit_with_ranges(["a"], 3) == commit != runs.commit_with_ranges(["a"], 4)

    executor = Here(lost=1)
    assert runs.send(["a"], 3, 2, executor, settings(driver), lambda tally: None) == []
    assert len(executor.submitted) == 5  # three, one of them twice, and the probe
    assert Path("labels-a").read_text() == "1-of-3, 2-of-3, 3-of-3, "
    assert not Path(".dvc/tmp/ranges/a").exists() and not Path("labels-b").exists()
    assert "softlabels@a" in Path("dvc.lock").read_text()
    assert subprocess.check_output(["git", "rev-parse", "HEAD"], text=True) == head
    assert "range" not in Path("dvc.yaml").read_text()
    assert {one.name for one in experiments.read([commit], [])} == {f"labels-a-{part}-of-3" for part in (1, 2, 3)}

    # Again nothing is sent, as what was made is there; one that is missing is said.
    subprocess.run(["git", "checkout", "-q", "--", "dvc.lock"], check=True)
    Path("labels-a").unlink()
    again = Here()
    assert runs.send(["a"], 3, 2, again, settings(driver), lambda tally: None) == []
    assert again.submitted == ["probe"] and Path("labels-a").read_text() == "1-of-3, 2-of-3, 3-of-3, "
    with pytest.raises(CheckError, match="labels-a-3-of-4"):
        runs.join("a", ["a~1~3", "a~3~4"], commit, "storage")
    subprocess.run(["git", "checkout", "-q", "--", "dvc.lock"], check=True)
    Path("teacher-a").unlink()
    with pytest.raises(UsageError, match="not up to date: teacher@a"):
        runs.send(["a"], 3, 2, Here(), settings(driver), lambda tally: None)
    assert json.loads(Path("a.json").read_text()) == {}


@pytest.fixture
def teacher(tmp_path, monkeypatch):
    """A small network as a teacher, images in many shards, and what makes its soft labels from nothing known."""
    settings = params.load("params.yaml").model_copy(update={"scale": "smoke", "index_tag": "i"})
    monkeypatch.setattr(images, "SHARD_BYTES", 5 * IMAGE)
    monkeypatch.chdir(tmp_path)
    describe_corpus()
    plain = indexed(workspace.index_csv("i"))
    write_index(workspace.index_csv("i"), plain.rows, CLASSES, "invented")
    index = index_module.read(workspace.index_csv("i"))
    pixels = np.random.default_rng(0).integers(0, 256, (len(index.rows), 48, 48, 1), np.uint8)
    pack(workspace.images("i"), index, pixels)
    recipe = settings.scale_.teachers["resnet18"].model_copy(
        update={"init": "scratch", "options": {"channels": [8] * 4}}
    )
    torch.manual_seed(0)
    network = models.build_for(recipe, CLASSES, settings.scale_.image)
    facts = {"index_digest": index.digest, "teacher": "resnet18"}
    models.save_network(network, workspace.teacher("resnet18"), recipe, CLASSES, settings.scale_.image, **facts)

    def label(*part):
        workspace.memo().unlink(missing_ok=True)
        softlabels.run(settings, "resnet18", *part)

    return label


def made_by(label):
    label()
    return {
        file.relative_to(".").as_posix(): file.read_bytes()
        for folder in ("data/softlabels", "metrics")
        for file in Path(folder).rglob("*")
        if file.is_file()
    }


def test_a_stage_makes_of_its_ranges_the_bytes_of_one_export(teacher):
    whole = made_by(teacher)
    assert len(whole) == 3
    for part in "123":
        teacher(part, "3")
    made_in_ranges = sorted(Path("data/ranges").iterdir())
    assert [file.name for file in made_in_ranges] == [f"resnet18~{part}~3.safetensors" for part in "123"]
    shutil.rmtree("data/softlabels")
    shutil.rmtree("metrics")
    waiting = workspace.ranges("resnet18")
    waiting.mkdir(parents=True)
    for part, file in enumerate(made_in_ranges[:2], 1):
        shutil.copy(file, waiting / f"{part}-of-3.safetensors")
    with pytest.raises(CheckError, match="missing: 3 of 3"):
        teacher()
    shutil.copy(made_in_ranges[2], waiting / "3-of-3.safetensors")
    assert made_by(teacher) == whole
