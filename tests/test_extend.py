"""What CONTRIBUTING promises: a family and a teacher are params alone, a corpus is one file."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image

from conftest import CLASSES, describe_corpus, face, make_index
from ferdistill import params, workspace
from ferdistill.distill import losses, weights
from ferdistill.files import sha256, write_json
from ferdistill.softlabels import store, targets
from ferdistill.stages import softlabels as softlabels_stage
from ferdistill.stages import targets as targets_stage
from ferdistill.stages import teacher as teacher_stage
from support.images import pack, unpack

ROOT = Path(__file__).parents[1]
LENGTHS = {"train": 56, "val": 14, "calib": 14, "test": 14}


@pytest.fixture
def project(tmp_path, monkeypatch):
    """An index, its images, and the four teachers' soft labels; `configure` writes params.yaml with changes."""
    monkeypatch.chdir(tmp_path)
    describe_corpus()
    shutil.copy2(ROOT / "dvc.yaml", tmp_path)

    def configure(change):
        raw = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
        raw["scale"] = "smoke"
        change(raw)
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(raw, sort_keys=False), encoding="utf-8")
        return params.load()

    settings = configure(lambda raw: None)
    index = make_index(workspace.index_csv(settings.index_tag), LENGTHS, CLASSES)
    pictures = [face(seed)[..., None] for seed in range(len(index.rows))]
    pack(workspace.images(settings.index_tag), index, np.stack(pictures))
    for seed, name in enumerate(settings.teachers):
        logits = np.random.default_rng(seed).normal(0, 2, (len(index.rows), 7)) + 2 * np.eye(7)[index.codes(CLASSES)]
        store.write(
            workspace.softlabels(name, settings.index_tag),
            index,
            logits,
            CLASSES,
            teacher=name,
            checkpoint_sha256=sha256(name),
        )
    return index, configure


def test_a_family_is_params_alone(project):
    index, configure = project

    def add(raw):
        raw["family"] = "6F"
        raw["families"]["6F"] = {
            "fusion": "probability",
            "sources": [
                {"weight": 0.6, "teachers": {"resnet18": 0.5, "vit_ban": 0.5}},
                {"weight": 0.4, "teachers": {"convnext_tiny": 1.0}},
            ],
        }

    settings = configure(add)
    targets_stage.run(settings)
    found = targets.read(Path("data/targets"), index, settings)
    assert [part["teacher"] for part in found.plan["teachers"]] == ["resnet18", "vit_ban", "convnext_tiny"]
    np.testing.assert_allclose(found.weights, [0.3, 0.3, 0.4], rtol=1e-6)
    assert found.sources.tolist() == [0, 0, 1]
    # The targets that the student's loss sees: the first source's mean of probabilities at T, and the second's own.
    logits, weights, sources = (torch.from_numpy(part) for part in (found.logits[:, 0], found.weights, found.sources))
    log_targets, log_weights = losses.soft_targets(logits, weights, sources, settings.temperature, "probability")
    softened = torch.softmax(logits.double() / settings.temperature, -1)
    expected = torch.stack([softened[:2].mean(0), softened[2]])
    torch.testing.assert_close(log_targets.exp().double(), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(log_weights.exp(), torch.tensor([0.6, 0.4]))


def test_a_teacher_is_params_alone(project):
    index, configure = project

    def add(raw):
        raw["teachers"].append("fifth")
        raw["scales"]["smoke"]["teachers"]["fifth"] = {
            "model": "test_resnet", "options": {}, "stem": "stock", "init": "scratch", "seed": 105, "batch": 28,
            "phases": [{"epochs": 1, "lr": 1.0e-3, "augment": "flip"}], "born_again": None,
            "weight_decay": 0.05, "label_smoothing": 0.0,
        }  # fmt: skip
        raw["family"] = "with_fifth"
        sources = [{"weight": 1.0, "teachers": {"resnet18": 0.5, "fifth": 0.5}}]
        raw["families"]["with_fifth"] = {"fusion": "logit", "sources": sources}

    settings = configure(add)
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q", "--no-scm"], check=True)
    stages = subprocess.run(
        [sys.executable, "-m", "dvc", "stage", "list", "--name-only"], capture_output=True, text=True, check=True
    ).stdout.split()
    assert {"teacher@fifth", "softlabels@fifth"} <= set(stages)

    write_json(workspace.checked_weights("fifth"), weights.facts(settings.scale_.teachers["fifth"], "fifth"))
    teacher_stage.run(settings, "fifth")
    softlabels_stage.run(settings, "fifth")
    targets_stage.run(settings)
    assert json.loads(Path("metrics/teachers/fifth.json").read_text())["best_epoch"] == 1
    assert json.loads(Path("data/targets/alignment.json").read_text())["ok"]
    table, manifest = store.read(workspace.softlabels("fifth", settings.index_tag))
    assert manifest["teacher"] == "fifth" and len(table) == len(index.rows)
    found = targets.read(Path("data/targets"), index, settings)
    rows = index.positions("train")
    np.testing.assert_array_equal(found.logits[1, 0], store.logits_of(table, CLASSES)[rows])


ADAPTER = '''"""A lab's own faces: `p07-happy-2.png`, person, expression, take."""

from collections.abc import Iterator
from pathlib import Path

from ...data.labels import Labels
from ...data.sources import Options, Record, Row, file_names, join


def rows(root: Path, path: str, labels: Labels, options: Options) -> Iterator[Row]:
    for name in file_names(root / path):
        person, expression, _ = name.split("-")
        image = join(path, name)
        yield labels.row(Record(image, expression, None, subject=f"lab:{person}", image=image), str(root / image))
'''


def stage(project, name):
    command = [sys.executable, "src/stage.py", name]
    return subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)


def test_a_corpus_is_one_file(tmp_path):
    ignored = shutil.ignore_patterns("__pycache__", "web")
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=ignored)
    shutil.copytree(ROOT / "pretrained", tmp_path / "pretrained")
    changed = (ROOT / "params.yaml").read_text(encoding="utf-8").replace("corpus: embedded ", "corpus: lab ", 1)
    (tmp_path / "params.yaml").write_text(changed, encoding="utf-8")
    corpus = tmp_path / "data/raw/lab"
    (corpus / "faces").mkdir(parents=True)
    (corpus / "corpus.yaml").write_text("sources: [{name: lab, adapter: lab, path: faces}]\n")
    names = [f"p{person:02d}-{label}-1.png" for person in range(40) for label in [*CLASSES, "contempt"]]
    for seed, name in enumerate(names):
        Image.fromarray(face(seed)).save(corpus / "faces" / name)

    refused = stage(tmp_path, "params")
    assert refused.returncode == 2 and "unknown adapter `lab`" in refused.stderr
    (tmp_path / "src/ferdistill/faces/corpora/lab.py").write_text(ADAPTER)
    for name in ("params", "index", "images"):
        done = stage(tmp_path, name)
        assert done.returncode == 0, done.stderr

    rows = pd.read_csv(tmp_path / "data/index/ixNextAffFull.csv", dtype=str, keep_default_na=False)
    assert set(rows["path"]) == {f"faces/{name}" for name in names if "contempt" not in name}
    assert (rows["label"] == rows["path"].str.split("-").str[1]).all()
    assert len(rows[["subject", "split"]].drop_duplicates()) == rows["subject"].nunique() == 40
    packed = unpack(tmp_path / "data/images/ixNextAffFull", rows)
    number = names.index(Path(rows["path"][0]).name)
    np.testing.assert_array_equal(packed[0].squeeze(), face(number))
    left_out = pd.read_csv(tmp_path / "data/index/ixNextAffFull.left_out.csv")
    assert left_out["reason"].tolist() == ["contempt"] * 40

    # DVC runs the index and the images again when the file comes.
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    assert all("src/ferdistill/faces/corpora" in stages[name]["deps"] for name in ("index", "images"))
