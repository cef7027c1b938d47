"""Label errors: planted ones are ranked first, and what a person confirms is what the index does."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy.special import softmax
from typer.testing import CliRunner

from conftest import CLASSES, make_index
from ferdistill import params
from ferdistill.cli import cli
from ferdistill.data.build import build
from ferdistill.distill import cross_fit
from ferdistill.errors import CheckError, UsageError
from ferdistill.evaluation.label_errors import confident, margins, ranked
from ferdistill.softlabels import out_of_fold
from support.learning import bars

ROOT = Path(__file__).parents[1]
PARAMS = params.load(ROOT / "params.yaml")


def planted(n: int = 2000, share: float = 0.05, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probabilities of a decent network, labels of which a share is wrong, and which these are."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 5, n)
    p = softmax(rng.normal(0, 1, (n, 5)) + 3 * np.eye(5)[truth], axis=1)
    wrong = rng.random(n) < share
    return p, np.where(wrong, (truth + rng.integers(1, 5, n)) % 5, truth), wrong


def test_margins_by_hand() -> None:
    p = np.array([[0.7, 0.2, 0.1], [0.3, 0.4, 0.3]])
    assert margins(p, np.array([0, 2])) == pytest.approx(np.log([0.7 / 0.2, 0.3 / 0.4]))
    assert np.isfinite(margins(np.eye(3), np.array([0, 1, 0]))).all()


def test_the_confident_joint_by_hand() -> None:
    p = np.array([[0.9, 0.1], [0.7, 0.3], [0.2, 0.8], [0.45, 0.55], [0.8, 0.2]])
    labels = np.array([0, 0, 1, 1, 1])
    # The classes count from 0.8 and from 0.517 on: only the last image counts as the other class alone.
    assert confident(p, labels).tolist() == [False, False, False, False, True]


def test_planted_errors_are_ranked_first() -> None:
    p, labels, wrong = planted()
    rows = pd.DataFrame({"path": np.arange(len(labels)).astype(str)})
    table = ranked(rows, p, labels, [f"c{k}" for k in range(5)])
    first = table["path"].astype(int).to_numpy()[: wrong.sum()]
    assert wrong[first].mean() > 0.85
    assert table["margin"].is_monotonic_increasing and table["confident"].mean() == confident(p, labels).mean()
    with pytest.raises(CheckError, match="not finite"):
        ranked(rows, np.full_like(p, np.nan), labels, CLASSES[:5])


def test_no_network_answers_for_a_group_that_it_was_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = make_index(tmp_path / "index.csv", {"train": 60, "val": 14, "calib": 14, "test": 14}, CLASSES)
    rows.rows["group"] = [f"person {i % 9}" for i in range(len(rows.rows))]
    seen: list[set[str]] = []

    def train(settings: Any, name: str, recipe: Any, splits: Any, facts: Any, plots: Any) -> Any:
        seen.append(set(rows.rows["group"].to_numpy()[splits[0].rows]))
        return len(seen) - 1, 1

    def predict(network: int, split: Any) -> np.ndarray:
        assert not seen[network] & set(rows.rows["group"].to_numpy()[split.rows])
        return np.full((len(split.rows), len(CLASSES)), network)

    monkeypatch.setattr(cross_fit, "train", train)
    monkeypatch.setattr(cross_fit, "predict", predict)
    recipe = PARAMS.scales["smoke"].teachers["resnet18"]
    assert isinstance(recipe, params.TeacherParams)
    ask = {"start": {}, "plots": tmp_path}
    logits = cross_fit.cross_fit(PARAMS, "t", recipe, rows, bars(102).images, folds=3, **ask)
    assert logits.shape == (60, 7) and set(logits[:, 0]) == {0, 1, 2}
    with pytest.raises(UsageError, match="9 people in train, and 10 folds"):
        cross_fit.cross_fit(PARAMS, "t", recipe, rows, bars(102).images, folds=10, **ask)


@pytest.mark.slow
def test_folds_are_trained_by_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = PARAMS.model_copy(deep=True)
    settings.scales[settings.scale].image.size = 32
    recipe = PARAMS.scales["smoke"].teachers["efficientnet_b3"]
    assert isinstance(recipe, params.TeacherParams)
    recipe = recipe.model_copy(update={"init": "scratch", "model": "test_efficientnet", "options": {}, "batch": 16})
    rows = make_index(tmp_path / "index.csv", {"train": 70, "val": 14, "calib": 14, "test": 14}, CLASSES)
    logits = cross_fit.cross_fit(
        settings, "t", recipe, rows, bars(112).images, folds=2, start={}, plots=tmp_path / "plots"
    )
    assert np.isfinite(logits).all() and {path.name for path in (tmp_path / "plots").iterdir()} == {"0", "1"}


def corrected(corpus: Path, *lines: str) -> None:
    file = corpus / "corpus.yaml"
    file.write_text(file.read_text() + "corrections: corrections.csv\n")
    (corpus / "corrections.csv").write_text("\n".join(["path,was,label,by", *lines]) + "\n")


def test_the_index_reads_and_lists_what_was_confirmed(corpus: Path) -> None:
    before = build(corpus, CLASSES, PARAMS.index)
    corrected(corpus, "fer2013/fer2013.csv#0,angry,sad,M.K.", "fer2013/fer2013.csv#1,angry,,M.K.")
    after = build(corpus, CLASSES, PARAMS.index)
    label = after.rows.set_index("path")["label"]
    assert label["fer2013/fer2013.csv#0"] == "sad" and "fer2013/fer2013.csv#1" not in label
    assert after.report["relabelled"] == [
        {"path": "fer2013/fer2013.csv#0", "was": "angry", "label": "sad", "by": "M.K."}
    ]
    (left,) = after.left_out[after.left_out["path"] == "fer2013/fer2013.csv#1"].to_dict("records")
    assert (left["step"], left["reason"]) == ("dropped", "label error, by M.K.")
    assert "relabelled" not in before.report and len(after.rows) == len(before.rows) - 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("fer2013/fer2013.csv#0,happy,sad,M.K.", "is angry, and was happy for M.K."),
        ("fer2013/fer2013.csv#0,angry,angry,M.K.", "no correction"),
        ("fer2013/fer2013.csv#0,angry,cross,M.K.", "no correction"),
        ("fer2013/fer2013.csv#0,angry,sad,", "no correction"),
        ("nowhere.png,angry,sad,M.K.", "not in the corpus"),
    ],
)
def test_a_correction_that_cannot_be_is_refused(corpus: Path, line: str, message: str) -> None:
    corrected(corpus, line)
    with pytest.raises(CheckError, match=message):
        build(corpus, CLASSES, PARAMS.index)


def test_out_of_fold_answers_are_those_of_these_labels(tmp_path: Path) -> None:
    told = pd.DataFrame({"path": ["a", "b"], "split": "train", "label": ["x", "y"]})
    logits = np.array([[1, 2], [3, 4.5]], np.float32)
    out_of_fold.write(tmp_path / "t.parquet", told, logits, ["x", "y"])
    assert out_of_fold.read(tmp_path / "t.parquet", told, ["x", "y"]).tolist() == logits.tolist()
    for other, classes in ((told.assign(label=["y", "y"]), ["x", "y"]), (told[::-1], ["x", "y"]), (told, ["x", "z"])):
        with pytest.raises(CheckError, match=r"it is for other|it lacks"):
            out_of_fold.read(tmp_path / "t.parquet", other, classes)


@pytest.fixture
def project(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose index is of that corpus, with a teacher's answers, which contradict one label."""
    root = corpus.parents[2]
    monkeypatch.chdir(root)
    raw = yaml.safe_load((ROOT / "params.yaml").read_text())
    raw |= {"corpus": "mine", "classes": ["angry", "happy", "neutral"], "index_tag": "t"}
    (root / "params.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))
    settings = params.load()
    from ferdistill.data.build import write_index

    rows = build(corpus, settings.classes, settings.index).rows
    write_index(Path("data/index/t.csv"), rows, settings.classes, "mine")
    train = rows[rows["split"] == "train"].reset_index(drop=True)
    logits = 4.0 * np.eye(3)[pd.Index(settings.classes).get_indexer(train["label"])]
    logits[0] = 4.0 * np.eye(3)[(logits[0].argmax() + 1) % 3]
    out_of_fold.write(Path("data/cross_fit/one.parquet"), train[["path", "split", "label"]], logits, settings.classes)
    return root


def run(*arguments: str) -> Any:
    return CliRunner().invoke(cli, ["labels", "suspect", *arguments])


def test_suspects_are_listed_drawn_and_written_to_be_confirmed(project: Path) -> None:
    table = "data/raw/mine/corrections.csv"
    result = run("--json", "--out", "s.csv", "--first", "3", "--corrections", table, "--by", "M.K.")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout[result.stdout.index("{") :])
    assert (report["teachers"], report["errors"]) == (["one"], 1)
    first = report["first"][0]
    assert first["confident"] and first["margin"] < 0
    ranking = pd.read_csv("s.csv")
    assert len(ranking) == report["images"] and ranking["path"][0] == first["path"]
    assert Path("s.png").read_bytes().startswith(b"\x89PNG")
    assert pd.read_csv(table).to_dict("records") == [
        {"path": first["path"], "was": first["label"], "label": first["suggested"], "by": "M.K."}
    ]
    assert "1 of" in run().stdout


def test_suspects_ask_for_what_they_need(project: Path) -> None:
    assert "who confirms" in str(run("--corrections", "c.csv").exception)
    assert "cross-fit" in str(run("--from", "nowhere").exception)
    assert "ends in .csv" in str(run("--out", "a.png").exception)
