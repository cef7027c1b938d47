"""Ten digits in class folders, and seven in a table: from files to packed images without a word of faces."""

import json
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image
from sklearn.datasets import load_digits
from typer.testing import CliRunner

from conftest import write_fer2013
from ferdistill.cli import cli
from ferdistill.data import description, index
from ferdistill.faces import server
from support.images import unpack
from support.repository import commit, copy_of_repository, run
from support.serving import ask

ROOT = Path(__file__).parents[1]
FACES = re.compile(r"(?i)\bfac(e|es|ial)\b|expression|emotion|angry|disgust|happy|neutral|surprise")
COUNT = 700
TEN = list("0123456789")
SEVEN = ["zéro", "un", "deux", 'trois, "3"', "四", "5", "Six"]


def digits(side):
    """Images, grey (N, side, side), and labels."""
    found = load_digits()
    small = (found.images[:COUNT] * 15).astype(np.uint8)
    return np.kron(small, np.ones((side // 8, side // 8), np.uint8)), found.target[:COUNT]


def class_folders(root):
    for number, (pixels, label) in enumerate(zip(*digits(24), strict=True)):
        file = root / str(label) / f"{number:04d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(file)


def table_of_pixels(root):
    usages = ["Training"] * 3 + ["PublicTest", "PrivateTest"]
    images = enumerate(zip(*digits(48), strict=True))
    rows = [(label, pixels, usages[number % 5]) for number, (pixels, label) in images if label < 7]
    write_fer2013(root / "digits.csv", rows)


def settings_for(root, classes):
    raw = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    task = {"thing": "digit", "things": "digits", "label": "number", "labels": "numbers", "detector": None}
    changes = {"scale": "smoke", "corpus": "digits", "index_tag": "digits", "task": task, "classes": classes}
    raw |= changes
    raw["index"]["mirrored"] = False
    text = yaml.safe_dump(raw, sort_keys=False, allow_unicode=True)
    (root / "params.yaml").write_text(text, encoding="utf-8")


def stage(root, name):
    command = [sys.executable, str(ROOT / "src/stage.py"), name]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize(("write", "classes", "count"), [(class_folders, TEN, COUNT), (table_of_pixels, SEVEN, 490)])
def test_any_classes_go_from_files_to_packed_images_without_a_word_of_faces(
    write, classes, count, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    corpus = tmp_path / "data/raw/digits"
    write(corpus)
    settings_for(tmp_path, classes)
    shutil.copytree(ROOT / "pretrained", tmp_path / "pretrained")
    described = CliRunner().invoke(cli, ["corpus", "describe", "data/raw/digits", "--write"])
    assert described.exit_code == 0, described.output
    printed = described.output + "".join(stage(tmp_path, name) for name in ("params", "index", "images"))
    printed += CliRunner().invoke(cli, ["index", "show"]).output
    assert f"{count} rows listed" in printed and "images indexed" in printed
    assert "no image says whose it is" in printed

    read = index.read(tmp_path / "data/index/digits.csv")
    assert set(read.rows["label"]) == set(classes) and read.description["classes"] == classes
    packed = unpack(tmp_path / "data/images/digits", read.rows)
    assert len(packed) == len(read.rows) > 0.95 * count
    truth = load_digits().target
    if write is class_folders:
        numbers = read.rows["path"].str.extract(r"(\d{4})\.png")[0].astype(int)
    else:
        rows = [number for number, label in enumerate(truth[:COUNT]) if label < 7]
        numbers = [rows[int(path.partition("#")[2])] for path in read.rows["path"]]
    assert (read.rows["label"] == [classes[truth[number]] for number in numbers]).all()
    assert set(json.loads((tmp_path / "metrics/index.json").read_text("utf-8"))["images_of"]) == set(classes)
    counts = pd.read_csv(tmp_path / "plots/class_counts.csv", dtype=str)
    assert set(counts["class"]) == set(classes)

    folders = ("data/index", "metrics", "plots")
    files = [file for folder in folders for file in tmp_path.glob(f"{folder}/**/*")] + [corpus / "corpus.yaml"]
    texts = [file.read_text("utf-8") for file in files if file.suffix in (".yaml", ".json", ".csv") and file.is_file()]
    found = {match[0] for text in [printed, *texts] for match in FACES.finditer(text)}
    assert not found


def test_the_map_of_labels_that_was_written_is_the_one_that_is_read(tmp_path):
    table_of_pixels(tmp_path)
    done = CliRunner().invoke(
        cli, ["corpus", "describe", str(tmp_path), "--write", *[part for name in SEVEN for part in ("--classes", name)]]
    )
    assert done.exit_code == 0, done.output
    (source,) = description.read_description(tmp_path, SEVEN).sources
    assert source.classes == {str(code): name for code, name in enumerate(SEVEN)}
    assert "positions in `classes` of params.yaml: check it" in (tmp_path / "corpus.yaml").read_text("utf-8")


def one_teacher_of_three_epochs(project):
    """Enough for digits; the rest of the pipeline as it is."""
    raw = yaml.safe_load((project / "params.yaml").read_text(encoding="utf-8"))
    raw |= {"teachers": ["resnet18"], "family": "resnet18", "view_augment": "shift"}
    raw["families"] = {name: raw["families"][name] for name in ("none", "resnet18")}
    raw["export"]["int8"] = None
    scale = raw["scales"]["smoke"]
    scale["teachers"] = {"resnet18": scale["teachers"]["resnet18"]}
    for network in (scale["teachers"]["resnet18"], scale["student"]):
        network["phases"] = [{"epochs": 3, "lr": 2.0e-3, "augment": "shift"}]
    raw["scales"] = {"smoke": scale}
    (project / "params.yaml").write_text(yaml.safe_dump(raw, sort_keys=False, allow_unicode=True), encoding="utf-8")


@pytest.mark.parametrize(
    ("write", "classes"),
    [(class_folders, TEN), pytest.param(table_of_pixels, SEVEN, marks=pytest.mark.slow)],
    ids=["folders", "FER2013's layout"],
)
def test_a_task_of_ones_own_goes_to_a_page_that_answers_without_a_word_of_faces(write, classes, tmp_path, web):
    project = copy_of_repository(tmp_path / "project")
    write(project / "data/raw/digits")
    settings_for(project, classes)
    one_teacher_of_three_epochs(project)
    said = [run(project, "ferdistill", "corpus", "describe", "data/raw/digits", "--write").stdout]
    commit(project)  # the last stage tells what HEAD had
    done = run(project, "dvc", "repro")
    said += [done.stdout, done.stderr]
    scores = json.loads((project / "metrics/evaluation.json").read_text(encoding="utf-8"))["test"]
    assert list(scores["f1"]) == classes and scores["macro_f1"] > 0.7

    Image.fromarray(digits(48)[0][0]).save(project / "one.png")  # a zero
    said += [run(project, "ferdistill", "predict", "one.png").stdout]
    answer = json.loads(said[-1])
    assert list(answer["probabilities"]) == classes and answer["label"] == classes[0]
    with server.listen(project / "models/bundle", 0) as listening:
        threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        said += [ask(listening, "/bundle/bundle.json")[1].decode()]
        listening.shutdown()
    said += [(project / "models/bundle/README.md").read_text(encoding="utf-8")]
    assert [text for text in said if FACES.search(text)] == []
