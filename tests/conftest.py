"""Fixtures of several test modules, and small corpora and stores; `support` holds what fewer modules share."""

import csv
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import onnx
import pandas as pd
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from ferdistill import workspace
from ferdistill.data import index as index_module
from ferdistill.data.build import write_index
from ferdistill.faces import server
from ferdistill.files import sha256_file, write_json
from ferdistill.runtime.classifier import SCHEMA_VERSION
from support.bundles import write_bundle
from support.repository import built, restore, run

# Threads that wait by spinning starve the other tests and stages of `pytest -n 2`.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# Modules to begin with, the longest first, so that the processes of `pytest -n 2` end together; one waits for what
# `built` makes while the other runs the second.
FIRST = ["test_pipeline.py", "test_training.py", "test_runs.py", "test_any_task.py", "test_dependencies.py"]

CLASSES = ["angry", "disgust", "fear", "happy", "neutral", "sad", "surprise"]


def face(seed, side=48):
    """Distinct smooth pictures, so that JPEG keeps them apart."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC))


def write_fer2013(path, rows):
    """Rows of (code, grey 48 x 48, usage)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["emotion", "pixels", "Usage"])
        for code, pixels, usage in rows:
            table.writerow([code, " ".join(map(str, pixels.ravel())), usage])


@pytest.fixture
def corpus(tmp_path):
    """Three classes' worth of faces in three layouts, 30 a class and part, without planted trouble."""
    root = tmp_path / "data" / "raw" / "mine"
    usage = ["Training"] * 30 + ["PublicTest"] * 5 + ["PrivateTest"] * 10
    codes = {"angry": 0, "happy": 3, "neutral": 6}
    rows = [(code, face(100 * code + i), use) for code in codes.values() for i, use in enumerate(usage)]
    write_fer2013(root / "fer2013" / "fer2013.csv", rows)

    listed = []
    (root / "rafdb" / "Image" / "aligned").mkdir(parents=True)
    (root / "rafdb" / "EmoLabel").mkdir()
    for number, (part, code) in enumerate((part, code) for part in ("train", "test") for code in (6, 4, 7)):
        name = f"{part}_{number:05d}"
        picture = Image.fromarray(face(5000 + number, 100)).convert("RGB")
        picture.save(root / "rafdb" / "Image" / "aligned" / f"{name}_aligned.jpg", quality=95)
        listed.append(f"{name}.jpg {code}")
    (root / "rafdb" / "EmoLabel" / "list_patition_label.txt").write_text("\n".join(listed) + "\n")

    for number, folder in enumerate(["train/angry", "train/happiness", "test/neutral"]):
        (root / "folders" / folder).mkdir(parents=True)
        Image.fromarray(face(9000 + number)).save(root / "folders" / folder / "a b é.png")

    (root / "corpus.yaml").write_text(
        "sources:\n"
        "  - {name: fer2013, adapter: fer2013, path: fer2013/fer2013.csv}\n"
        "  - {name: rafdb, adapter: rafdb, path: rafdb}\n"
        "  - {name: folders, adapter: folders, path: folders}\n"
    )
    return root


THREE = ["angry", "happy", "neutral"]


def describe_corpus() -> None:
    """Write the corpus.yaml of params.yaml's corpus, whose images a test invents."""
    (workspace.EMBEDDED / "s").mkdir(parents=True)
    text = "sources:\n  - {name: s, adapter: folders, path: s}\n"
    (workspace.EMBEDDED / "corpus.yaml").write_text(text, encoding="utf-8")


def make_index(path: Path, lengths: dict[str, int], classes: list[str], seed: int = 0) -> index_module.Index:
    """Write and read an index of invented paths, every class in every split."""
    rng = np.random.default_rng(seed)
    rows = []
    for split, length in lengths.items():
        labels = [classes[i % len(classes)] for i in range(length)]
        rng.shuffle(labels)
        rows += [(f"{split}/{i:05d}.png", label, split) for i, label in enumerate(labels)]
    frame = pd.DataFrame(rows, columns=["path", "label", "split"])
    frame["sample_id"] = [f"{i:064x}" for i in range(len(frame))]
    frame["source"], frame["subject"], frame["group"] = "s", "", frame["sample_id"]
    frame["official_split"] = ""
    frame = frame.sort_values("path").reset_index(drop=True)[index_module.COLUMNS]
    write_index(path, frame, classes, "invented")
    return index_module.read(path)


TONES = ["dark", "middle", "light"]


def tone_probabilities(means):
    """What the model of `tone_bundle` gives: a softmax over the mean pixel. Shape (N,) to (N, 3)."""
    off = np.asarray(means, np.float64)[:, None] - 128
    odds = np.exp(off * np.array([-0.05, 0.0, 0.05]))
    return odds / odds.sum(axis=1, keepdims=True)


@pytest.fixture(scope="session")
def tone_bundle(tmp_path_factory):
    """A bundle that tells dark faces from light ones, written without ferdistill's exporter; grey, 8 x 8 pixels."""
    directory = tmp_path_factory.mktemp("bundle")
    nodes = [
        helper.make_node("Cast", ["images"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float"], ["mean"], axes=[1, 2], keepdims=0),
        helper.make_node("Sub", ["mean", "half"], ["off"]),
        helper.make_node("MatMul", ["off", "weights"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    constants = [
        numpy_helper.from_array(np.array(128, np.float32), "half"),
        numpy_helper.from_array(np.array([[-0.05, 0.0, 0.05]], np.float32), "weights"),
    ]
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", "height", "width", 1])
    probabilities = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", 3])
    graph = helper.make_graph(nodes, "tone", [images], [probabilities], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, directory / "model.onnx")
    info = {
        "schema_version": SCHEMA_VERSION,
        "task": {"thing": "face", "things": "faces", "label": "tone", "labels": "tones", "detector": "faces"},
        "classes": TONES,
        "image": {"size": 8, "channels": 1},
        "t_star": 1.0,
        "thresholds": {"confidence": 0.6},
        "variants": {"fp32": "model.onnx"},
        "files": {"model.onnx": sha256_file(directory / "model.onnx")},
    }
    write_json(directory / "bundle.json", info)
    return directory


@pytest.fixture
def bundle(tmp_path):
    """The bundle of `support.bundles`, in a folder that the test has for itself."""
    return write_bundle(tmp_path)


@pytest.fixture
def web(tmp_path_factory, monkeypatch):
    """The page, with stand-ins for what `make web` brings."""
    page = tmp_path_factory.mktemp("page")
    shutil.copytree(server.WEB, page, ignore=shutil.ignore_patterns("vendor"), dirs_exist_ok=True)
    (page / "vendor").mkdir()
    for name in server.VENDOR:
        (page / "vendor" / name).write_bytes(b"\0asm\1\0\0\0")
    monkeypatch.setattr(server, "WEB", page)
    return page


@pytest.fixture(scope="session")
def playwright():
    """The driver that `make test-web` installs."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as running:
        yield running


@pytest.fixture
def running(web, bundle):
    """A server on a free port."""
    with server.listen(bundle, 0) as listening:
        threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield listening
        listening.shutdown()


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: FIRST.index(item.path.name) if item.path.name in FIRST else len(FIRST))


@pytest.fixture(scope="session")
def pipeline(tmp_path_factory):
    """What `support.repository.built` makes, once for all processes of `pytest -n`."""
    base = tmp_path_factory.getbasetemp()
    return built((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "built")


@pytest.fixture(scope="module")
def records(pipeline, tmp_path_factory):
    """A file for each stage of that run, of what it loaded and read; a test may add to the folder."""
    return Path(shutil.copytree(pipeline / "records", tmp_path_factory.mktemp("records") / "of_stages"))


@pytest.fixture(scope="module")
def project(pipeline, tmp_path_factory):
    """The repository of that run, for one module, which may change it."""
    root = tmp_path_factory.mktemp("project") / "ferdistill"
    return Path(shutil.copytree(pipeline / "ferdistill", root, symlinks=True))


@pytest.fixture
def restored(project):
    """Leave the project as it was found: code, params, results and data."""
    head = run(project, "git", "rev-parse", "HEAD").stdout.strip()
    yield
    restore(project, head)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The pipeline of `cluster.tiny`, run once."""
    from cluster import tiny  # here, since every run of pytest loads this module, and this takes a second

    folder = tmp_path_factory.mktemp("remote")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", path)
        tiny.write(folder / "driver")
    return folder / "driver"


@pytest.fixture
def driver(made, tmp_path, monkeypatch):
    """That project with remotes in folders beside it; gives the folder of all."""
    shutil.copytree(made, tmp_path / "driver", symlinks=True)
    monkeypatch.chdir(tmp_path / "driver")
    subprocess.run(["git", "init", "-q", "--bare", "../git"], check=True)
    subprocess.run(["git", "remote", "add", "origin", str(tmp_path / "git")], check=True)
    config = f"['remote \"storage\"']\n    url = {tmp_path / 'dvc'}\n[core]\n    remote = storage\n"
    (tmp_path / "driver/.dvc/config").write_text(config)
    subprocess.run(["git", "commit", "-qam", "remotes"], check=True)
    return tmp_path
