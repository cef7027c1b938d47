"""Students of a table, scored on another corpus."""

import csv
import json
import shutil

import pandas as pd
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from ferdistill import params
from ferdistill.cli import cli
from ferdistill.errors import CheckError, UsageError
from support.images import unpack
from support.repository import metrics, run

TABLE = "metrics/study/results_summary.csv"


def row_of(project):
    """The workspace's own student as a row of a table, with scores that are not its own."""
    lock = yaml.safe_load((project / "dvc.lock").read_text())["stages"]
    model = next(out for out in lock["student"]["outs"] if out["path"].endswith("model.safetensors"))
    t_star = metrics(project, "calibration")["t_star"]
    row = {"family": "6E", "mode": "kd", "seed": 1337, "macro_f1": 0.5, "t_star": t_star, "corpus": "embedded"}
    of_its_test_split = {"best_test_epoch": 3, "optimism_macro_f1": 0.01, "group_gap": 0.2}
    return row | of_its_test_split | {"val_macro_f1": 0.25, "model": model["md5"], "predictions": "0" * 32}


def write_table(path, row):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(row))
        writer.writeheader()
        writer.writerow(row)


@pytest.fixture
def test_images(project):
    """The test split's images as the index packed them, as a corpus of folders with the same annotators known."""
    rows = pd.read_csv(project / "data/index/ixNextAffFull.csv", dtype=str, keep_default_na=False)
    known = pd.read_csv(project / "data/raw/embedded/truth/samples.csv", index_col="path")
    root = project / "data/raw/other"
    truth = []
    pictures = unpack(project / "data/images/ixNextAffFull", rows)
    for number, row in rows[rows["split"] == "test"].iterrows():
        path = f"all/{row['label']}/{number:04d}.png"
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pictures[number].squeeze(-1)).save(root / path)
        truth.append(known.loc[row["path"]].to_dict() | {"path": path})
    (root / "truth").mkdir()
    pd.DataFrame(truth).to_csv(root / "truth/samples.csv", index=False)
    (root / "corpus.yaml").write_text("sources:\n  - {name: all, adapter: folders, path: all}\n")
    yield root
    shutil.rmtree(root)


def test_on_the_images_of_the_test_split_the_scores_are_those_of_evaluate(project, test_images):
    write_table(project / TABLE, row_of(project))
    said = json.loads(
        run(project, "ferdistill", "study", "rescore", "data/raw/other", "--results", TABLE, "--json").stdout
    )
    assert said["rows"] == 1
    table = pd.read_csv(project / "metrics/study/rescored.csv").iloc[0]
    expected = metrics(project, "evaluation")["test"]
    assert table["macro_f1"] == pytest.approx(expected["macro_f1"], abs=1e-9)
    for name in params.load(project / "params.yaml").classes:
        assert table[f"f1_{name}"] == pytest.approx(expected["f1"][name], abs=1e-9)
    for scaling, suffix in (("raw", ""), ("scaled", "_scaled")):
        for score in ("nll", "brier", "ece"):
            assert table[f"{score}{suffix}"] == pytest.approx(expected[scaling][score], abs=1e-5)
        kl = expected["truth"]["annotator"][scaling]["kl"]
        assert table[f"annotator_kl{suffix}"] == pytest.approx(kl, abs=1e-5)
    assert (table["val_macro_f1"], table["corpus"], table["t_star"]) == (0.25, "other", row_of(project)["t_star"])
    assert table[["predictions", "optimism_macro_f1", "best_test_epoch", "group_gap", "aurc"]].isna().all()


def test_what_a_student_costs_is_measured_of_its_weights_and_a_decision_goes_by_it(project):
    own = params.load(project / "params.yaml").scale_.student.model
    write_table(project / TABLE, row_of(project) | {"student": own})
    found = json.loads(run(project, "ferdistill", "study", "cost", "--results", TABLE, "--json").stdout)
    assert found == json.loads((project / "metrics/study/costs.json").read_text())
    (student,) = found["students"].values()
    assert list(found["students"]) == [own] and student["parameters"] == metrics(project, "student")["parameters"]
    assert student["size_bytes"] == (project / "models/bundle/model.onnx").stat().st_size
    assert 0 < student["p50_ms"] <= student["p95_ms"]
    (project / "metrics/study/costs.json").unlink()


def test_what_cannot_be_rescored_or_costed_is_said(project, test_images, monkeypatch):
    monkeypatch.chdir(project)

    def refused(why, *words):
        done = CliRunner().invoke(cli, ["study", *words, "--results", TABLE])
        assert isinstance(done.exception, why) and not (project / "metrics/study/rescored.csv").exists()
        return str(done.exception)

    (project / "metrics/study/rescored.csv").unlink(missing_ok=True)
    write_table(project / TABLE, row_of(project) | {"model": "f" * 32})
    assert "1 of 1 students are not in DVC's cache" in refused(CheckError, "rescore", "data/raw/other")
    write_table(project / TABLE, {name: value for name, value in row_of(project).items() if name != "model"})
    assert "does not say where its students are" in refused(CheckError, "rescore", "data/raw/other")
    write_table(project / TABLE, row_of(project) | {"student": "mobilenetv3_large_100"})
    assert "another architecture" in refused(CheckError, "cost")
    write_table(project / TABLE, row_of(project))
    assert "corpus.yaml" in refused(UsageError, "rescore", "data/raw/nowhere")
