"""The pipeline as its users run it: real `dvc repro` and experiments, at the smoke scale; `test_runs.py` has more."""

import json
import sys
import time

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file

from support.images import unpack
from support.repository import ONWARD, TEACHERS, metrics, ran, run, set_param

pytestmark = pytest.mark.usefixtures("restored")


def test_a_second_repro_runs_nothing(project):
    started = time.monotonic()
    assert ran(run(project, "dvc", "repro")) == []
    assert time.monotonic() - started < 30  # a hang, not a benchmark
    assert "up to date" in run(project, "dvc", "status").stdout


def test_every_artifact_is_there_and_bound_to_the_index(project):
    digest = json.loads((project / "data/index/ixNextAffFull.json").read_text())["digest"]
    licences = json.loads((project / "data/index/ixNextAffFull.report.json").read_text())["licences"]
    assert json.loads((project / "models/bundle/bundle.json").read_text())["licences"] == licences
    for teacher in TEACHERS:
        manifest = json.loads((project / f"data/softlabels/{teacher}_ixNextAffFull/manifest.json").read_text())
        assert manifest["index_digest"] == digest
        assert manifest["provenance"]["licences"]["strictest"] == licences["strictest"]
    assert json.loads((project / "data/targets/alignment.json").read_text())["ok"] is True
    assert json.loads((project / "data/targets/plan.json").read_text())["index_digest"] == digest
    tensors = load_file(project / "data/targets/targets.safetensors")
    rows = pd.read_csv(project / "data/index/ixNextAffFull.csv")
    assert tensors["logits"].shape == (4, 1, (rows["split"] == "train").sum(), 7)
    np.testing.assert_allclose(tensors["weights"], 0.25)
    predictions = pd.read_parquet(project / "models/student/predictions.parquet")
    assert set(predictions["split"]) == {"val", "calib", "test"}
    assert list(predictions["path"]) == list(rows.loc[rows["split"] != "train", "path"])
    assert metrics(project, "student")["run_family"] == "6E"
    assert (project / "models/bundle/model.onnx").stat().st_size == metrics(project, "export")["size_bytes"]


def test_the_exported_bundle_predicts_what_was_evaluated(project):
    from ferdistill.runtime.classifier import Classifier

    rows = pd.read_csv(project / "data/index/ixNextAffFull.csv")
    predictions = pd.read_parquet(project / "models/student/predictions.parquet").set_index("path")
    images = unpack(project / "data/images/ixNextAffFull", rows)
    test = np.flatnonzero(rows["split"] == "test")
    found = Classifier(project / "models/bundle").predict(images[test])
    logits = predictions.loc[rows["path"][test]].filter(like="logit_").to_numpy(np.float64)
    scaled = np.exp(logits / metrics(project, "calibration")["t_star"])
    np.testing.assert_allclose(found, scaled / scaled.sum(1, keepdims=True), atol=1e-4)


def test_robustness_starts_from_what_was_evaluated_and_is_measured_alike_for_teachers(project):
    on_test, found = metrics(project, "evaluation")["test"], metrics(project, "robustness")
    for name, value in found["clean"].items():
        if name in ("nll", "ece"):
            assert value == pytest.approx(on_test["scaled"][name], abs=1e-5)
    assert found["clean"]["macro_f1"] == pytest.approx(on_test["macro_f1"])
    steps = pd.read_csv(project / "plots/robustness.csv")
    assert len(steps) == 6 * 6 and set(steps["corruption"]) == set(found["corruptions"])
    told = json.loads((project / "models/bundle/bundle.json").read_text())
    assert told["test"]["robustness"] == found
    both = json.loads(run(project, "ferdistill", "robustness", "student", "vit_ban", "--json").stdout)
    for name, value in found["mean"].items():
        assert both["student"]["mean"][name] == pytest.approx(value, abs=1e-4), name
    assert both["vit_ban"]["mean"] != both["student"]["mean"] and len(both["vit_ban"]["steps"]) == 36


def test_fused_and_split_families_are_one_student(project):
    split = (project / "models/student/model.safetensors").read_bytes()
    done = run(project, "dvc", "exp", "run", "-S", "family=6C", "student")
    assert sorted(ran(done)) == ["params", "student", "targets"]
    assert metrics(project, "student")["run_family"] == "6C"
    assert (project / "models/student/model.safetensors").read_bytes() == split


def test_another_mode_retrains_the_student_onward_and_labels_alone_have_one_name(project):
    done = run(project, "dvc", "exp", "run", "-S", "mode=none", "-S", "seed=2025")
    assert sorted(ran(done)) == sorted(["params", "targets", *ONWARD])
    plain = metrics(project, "student")
    assert (plain["run_family"], plain["run_mode"]) == ("none", "none")
    difference = run(project, "dvc", "metrics", "diff", "--md", "--no-path", "HEAD").stdout
    assert "test.macro_f1" in difference
    page = run(project, "dvc", "plots", "diff", "HEAD", "-o", "page").stdout.strip()
    assert page.endswith("index.html") and "reliability" in (project / "page" / "index.html").read_text()
    set_param(project, "family: 6E", "family: none")
    assert "student" not in ran(run(project, "dvc", "repro", "student"))


def test_a_teachers_recipe_retrains_that_teacher_and_the_students_of_its_families(project):
    retrained = ["params", "teacher@convnext_tiny", "softlabels@convnext_tiny", "targets"]
    of_convnext = "phases: [{{epochs: 2, lr: 2.0e-3, augment: flip_shift}}]\n{0}born_again: null\n{0}weight_decay: {1}"
    set_param(project, of_convnext.format(8 * " ", 0.05), of_convnext.format(8 * " ", 0.04))
    assert sorted(ran(run(project, "dvc", "repro", "params", "student"))) == sorted([*retrained, "student"])
    set_param(project, "family: 6E", "family: 6A")
    assert sorted(ran(run(project, "dvc", "repro", "params", "student"))) == ["params", "student", "targets"]
    set_param(project, of_convnext.format(8 * " ", 0.04), of_convnext.format(8 * " ", 0.03))
    assert sorted(ran(run(project, "dvc", "repro", "params", "student"))) == sorted(retrained)


def test_an_edit_of_another_family_retrains_no_student(project):
    set_param(project, "{resnet18: 0.7, efficientnet_b3: 0.3}", "{resnet18: 0.6, efficientnet_b3: 0.4}")
    assert ran(run(project, "dvc", "repro")) == ["params"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("family: 6E", "family: 6Z", "family: unknown `6Z`; known here: none, 6A"),
        ("alpha: 0.5", "alpah: 0.5", "alpah: unknown parameter; did you mean `alpha`?"),
        ("temperature: 2.0", "temperature: -2.0", "temperature: input should be greater than 0; found -2.0"),
        ("corpus: embedded", "corpus: absent", "no corpus `absent`"),
    ],
)
def test_wrong_params_stop_the_first_stage_with_one_message(project, old, new, message):
    set_param(project, old, new)
    stage = run(project, sys.executable, "src/stage.py", "params", check=False)
    assert stage.returncode == 2 and message in stage.stderr and "Traceback" not in stage.stderr


def test_wrong_params_lose_nothing(project):
    before = (project / "models/student/model.safetensors").read_bytes()
    set_param(project, "family: 6E", "family: 6Z")
    done = run(project, "dvc", "repro", check=False)
    assert done.returncode
    assert "family: unknown `6Z`" in done.stderr and "Traceback" not in done.stderr
    assert (project / "models/student/model.safetensors").read_bytes() == before


def test_soft_labels_one_row_short_stop_before_any_student(project):
    directory = project / "data/softlabels/convnext_tiny_ixNextAffFull"
    table = pd.read_parquet(directory / "softlabels.parquet")
    whole = (project / "data/targets/targets.safetensors").read_bytes()
    (directory / "softlabels.parquet").chmod(0o644)
    table.drop(index=5).to_parquet(directory / "softlabels.parquet", index=False)
    done = run(project, sys.executable, "src/stage.py", "targets", check=False)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "convnext_tiny" in done.stderr and "out of step" in done.stderr
    assert (project / "data/targets/targets.safetensors").read_bytes() == whole
    cli = run(project, "ferdistill", "align", "check", "--json", check=False)
    assert cli.returncode == 1
    kinds = {problem["kind"]: problem["row"] for problem in json.loads(cli.stdout)["problems"]}
    assert {"length", "missing"} <= set(kinds)
    (directory / "softlabels.parquet").unlink()


def test_an_undecodable_image_stops_the_index_and_is_named(project):
    picture = next((project / "data/raw/embedded/folders/train/happy").iterdir())
    picture.unlink()  # a link into DVC's cache on some systems: never write through it
    picture.write_bytes(b"\x89PNG\r\n\x1a\n and nothing more")
    done = run(project, sys.executable, "src/stage.py", "index", check=False)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert picture.name in done.stderr


def test_the_index_explains_itself_and_notices_an_edit_of_the_corpus(project):
    shown = json.loads(run(project, "ferdistill", "index", "show", "--json").stdout)
    assert shown["rows_listed"] == 600 == shown["length"] + sum(shown["left_out"].values())
    assert "No image changed" in run(project, "ferdistill", "index", "diff", "HEAD").stdout
    assert "as indexed" in run(project, "ferdistill", "index", "verify").stdout
    paths = pd.read_csv(project / "data/index/ixNextAffFull.csv")["path"]
    picture = project / "data/raw/embedded" / paths[paths.str.startswith("folders/train/happy/")].iloc[0]
    picture.unlink()
    done = run(project, "ferdistill", "index", "verify", "--json", check=False)
    assert done.returncode == 1 and picture.name in done.stdout
    table = project / "data/raw/embedded/subjects.csv"
    lines = [line for line in table.read_text().splitlines() if picture.name not in line]
    table.unlink()
    table.write_text("\n".join(lines) + "\n")
    run(project, sys.executable, "src/stage.py", "index")
    changed = run(project, "ferdistill", "index", "diff", "HEAD").stdout
    assert "1 went" in changed and picture.name in changed
