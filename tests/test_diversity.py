"""Measures of how teachers differ, against scipy and closed forms; the command that shows them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.spatial.distance import jensenshannon
from scipy.special import softmax
from scipy.stats import entropy
from sklearn.metrics import f1_score
from typer.testing import CliRunner

from conftest import CLASSES, make_index
from ferdistill import params, workspace
from ferdistill.commands.teachers import teachers_cli
from ferdistill.data.truth import distribution
from ferdistill.errors import CheckError, UsageError
from ferdistill.evaluation import diversity
from ferdistill.softlabels import store


def draw(seed, teachers=3, images=20, classes=4, scale=3.0):
    rng = np.random.default_rng(seed)
    return rng.normal(0, scale, (teachers, images, classes)).astype(np.float32), rng.integers(0, classes, images)


shapes = {
    "seed": st.integers(0, 2**31),
    "teachers": st.integers(1, 5),
    "classes": st.integers(2, 8),
    "scale": st.sampled_from([0.0, 1.0, 50.0, 2000.0]),
}


# ---- measures -------------------------------------------------------------------------------------------------


@given(**shapes)
@settings(max_examples=50, deadline=None)
def test_jensen_shannon_is_scipys_squared_distance(seed, teachers, classes, scale):
    p = softmax(draw(seed, teachers, 5, classes, scale)[0].astype(np.float64), -1)
    p[p < np.finfo(p.dtype).tiny] = 0  # with halves of the least floats scipy's distance is infinite
    found = diversity.jensen_shannon(p)
    # For some equal rows scipy takes the root of a rounding error below 0, which is NaN.
    expected = [[np.nan_to_num(jensenshannon(one, other, axis=-1) ** 2).mean() for other in p] for one in p]
    np.testing.assert_allclose(found, expected, atol=1e-12)
    np.testing.assert_array_equal(found, found.T)
    assert (np.diag(found) == 0).all()
    assert found.min() >= 0
    assert found.max() <= np.log(2) + 1e-12


def test_jensen_shannon_of_closed_forms():
    apart = np.array([[[1.0, 0.0]], [[0.0, 1.0]], [[0.5, 0.5]]])
    half = 0.75 * np.log(4 / 3)  # H(3/4, 1/4) - H(1/2, 1/2) / 2
    np.testing.assert_allclose(
        diversity.jensen_shannon(apart), [[0, np.log(2), half], [np.log(2), 0, half], [half, half, 0]], rtol=1e-12
    )
    least = np.array([[[1.0, 5e-324]], [[1.0, 0.0]]])
    assert diversity.jensen_shannon(least)[0, 1] == pytest.approx(0, abs=1e-300)


def test_disagreement_counts_different_predictions_right_or_wrong():
    predicted = np.array([[0, 1, 2, 2], [0, 2, 1, 2], [1, 1, 1, 1]])
    expected = np.array([[0, 0.5, 0.75], [0.5, 0, 0.75], [0.75, 0.75, 0]])
    np.testing.assert_array_equal(diversity.disagreement(predicted), expected)


def test_variance_shrinks_to_a_share_of_one_in_m_only_for_independent_teachers():
    rng = np.random.default_rng(0)
    independent = rng.dirichlet(np.ones(5), (4, 50_000))
    assert diversity.variance_shrinkage(independent)["ratio"] == pytest.approx(1 / 4, abs=0.005)
    assert diversity.variance_shrinkage(np.stack([independent[0]] * 4))["ratio"] == pytest.approx(1)
    assert diversity.variance_shrinkage(independent)["ratio_if_independent"] == 0.25
    assert diversity.variance_shrinkage(np.full((3, 8, 5), 0.2))["ratio"] is None


@given(seed=shapes["seed"], teachers=shapes["teachers"], classes=shapes["classes"])
@settings(max_examples=30, deadline=None)
def test_fusing_loses_the_variance_between_teachers_less_that_of_their_means(seed, teachers, classes):
    p = softmax(draw(seed, teachers, 12, classes)[0].astype(np.float64), -1)
    found = diversity.variance_shrinkage(p)
    between = p.var(axis=0).mean() - p.mean(axis=1).var(axis=0).mean()  # the law of total variance
    assert found["teachers"] - found["fused"] == pytest.approx(between, abs=1e-14)
    assert found["teachers"] == pytest.approx(
        np.mean([np.var(p[m, :, c]) for m in range(teachers) for c in range(classes)])
    )


def test_the_oracle_is_right_where_any_teacher_is():
    predicted, labels = np.array([[0, 1, 2, 0], [1, 1, 0, 0]]), np.array([1, 1, 2, 2])
    assert diversity.oracle_accuracy(predicted, labels) == 0.75


@given(seed=shapes["seed"], classes=shapes["classes"])
@settings(max_examples=30, deadline=None)
def test_distances_to_the_truth_are_scipys(seed, classes):
    rng = np.random.default_rng(seed)
    truth, p = rng.dirichlet(np.ones(classes), (2, 9))
    truth[0] = np.eye(classes)[0]
    assert diversity.kl_from_truth(truth, np.log(p)) == pytest.approx(entropy(truth, p, axis=-1).mean())
    assert diversity.kl_from_truth(truth[1:], np.log(truth[1:])) == pytest.approx(0, abs=1e-12)
    farthest = np.maximum(truth - p, 0).sum(-1).mean()  # the largest difference of any event's probability
    assert diversity.total_variation(truth, p) == pytest.approx(farthest)


# ---- measure --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_measure_agrees_with_its_parts(temperature):
    logits, labels = draw(1)
    truth = np.random.default_rng(2).dirichlet(np.ones(4), 20)
    report = diversity.measure(logits, labels, ["a", "b", "c"], temperature, truth)
    p = softmax(logits.astype(np.float64) / temperature, -1)
    softened = truth ** (1 / temperature) / (truth ** (1 / temperature)).sum(1, keepdims=True)
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert list(report["each"]) == report["teachers"] == ["a", "b", "c"]
    for name, of in [("a", p[0]), ("b", p[1]), ("c", p[2]), ("fused", p.mean(0))]:
        scores = report["fused"] if name == "fused" else report["each"][name]
        assert scores == pytest.approx(
            {
                "accuracy": np.mean(of.argmax(1) == labels),
                "macro_f1": f1_score(labels, of.argmax(1), average="macro"),
                "entropy": entropy(of, axis=-1).mean(),
                "kl_from_truth": entropy(softened, of, axis=-1).mean(),
                "total_variation": np.abs(softened - of).sum(-1).mean() / 2,
            }
        )
    np.testing.assert_allclose(report["jensen_shannon"], diversity.jensen_shannon(p))
    np.testing.assert_allclose(report["disagreement"], diversity.disagreement(p.argmax(-1)))
    assert report["variance"] == pytest.approx(diversity.variance_shrinkage(p))
    split_less_fused = np.mean([entropy(of, p.mean(0), axis=-1).mean() for of in p])
    assert report["jensen_shannon_of_all"] == pytest.approx(split_less_fused)


def test_two_teachers_all_at_once_are_as_far_apart_as_the_pair():
    logits, labels = draw(3, teachers=2)
    report = diversity.measure(logits, labels, ["a", "b"], 2.0)
    assert report["jensen_shannon_of_all"] == pytest.approx(report["jensen_shannon"][0][1])
    assert "kl_from_truth" not in report["fused"]


def test_measure_is_finite_for_logits_of_ten_thousand_and_for_one_teacher():
    logits, labels = draw(4)
    truth = np.random.default_rng(2).dirichlet(np.ones(4), 20)
    for teachers in (["a", "b", "c"], ["a"]):
        report = diversity.measure(np.sign(logits[: len(teachers)]) * 1e4, labels, teachers, 0.5, truth)
        json.dumps(report, allow_nan=False)


@pytest.mark.parametrize(
    ("changed", "error", "named"),
    [
        ({"temperature": 0.0}, UsageError, "temperature 0"),
        ({"teachers": ["a"]}, CheckError, "1 teachers"),
        ({"logits": np.zeros((2, 4))}, CheckError, r"logits \(2, 4\)"),
        ({"labels": np.array([0, 4, 1])}, CheckError, "from 0 to 4"),
        ({"labels": np.array([0, 1])}, CheckError, r"labels \(2,\)"),
        ({"logits": np.full((2, 3, 4), np.nan)}, CheckError, "not finite"),
        ({"logits": np.zeros((2, 0, 4)), "labels": np.zeros(0, np.int64)}, CheckError, "nothing to score"),
        ({"truth": np.full((3, 5), 0.2)}, CheckError, r"truth \(3, 5\)"),
    ],
)
def test_measure_refuses_what_does_not_fit(changed, error, named):
    call = {
        "logits": np.zeros((2, 3, 4)),
        "labels": np.array([0, 3, 1]),
        "teachers": ["a", "b"],
        "temperature": 2.0,
        "truth": np.full((3, 4), 0.25),
    }
    diversity.measure(**call)
    with pytest.raises(error, match=named):
        diversity.measure(**call | changed)


# ---- the command ----------------------------------------------------------------------------------------------

app = typer.Typer()
app.add_typer(teachers_cli, name="teachers")


def invoke(*arguments):
    return CliRunner().invoke(app, ["teachers", "diversity", *map(str, arguments)])


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A working directory with an index, soft labels of every teacher, and the truth."""
    shutil.copy(Path(__file__).parents[1] / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    chosen = params.load()
    rows = make_index(workspace.index_csv(chosen.index_tag), {"train": 14, "val": 7, "calib": 7, "test": 21}, CLASSES)
    rng = np.random.default_rng(0)
    for name in chosen.teachers:
        logits = 2 * np.eye(7)[rows.codes(CLASSES)] + rng.normal(0, 1, (len(rows.rows), 7))
        store.write(
            workspace.softlabels(name, chosen.index_tag),
            rows,
            logits,
            CLASSES,
            teacher=name,
            checkpoint_sha256=f"of {name}",
        )
    truth = pd.DataFrame(rng.dirichlet(np.ones(7), len(rows.rows)), columns=[f"q_{name}" for name in CLASSES])
    truth.insert(0, "path", rows.rows["path"])
    (workspace.corpus(chosen.corpus) / "truth").mkdir(parents=True)
    truth.sample(frac=1, random_state=0).to_csv(workspace.corpus(chosen.corpus) / "truth" / "samples.csv", index=False)
    return tmp_path


def test_the_command_shows_what_measure_found(project):
    chosen = params.load()
    table = store.read(workspace.softlabels(chosen.teachers[0], chosen.index_tag))[0]
    at = (table["split"] == "test").to_numpy()
    logits = [
        store.logits_of(store.read(workspace.softlabels(name, chosen.index_tag))[0], CLASSES)[at]
        for name in chosen.teachers
    ]
    truth = distribution(workspace.corpus(chosen.corpus), table["path"][at].tolist(), CLASSES)
    labels = np.array([CLASSES.index(label) for label in table["label"][at]])
    expected = diversity.measure(np.stack(logits), labels, chosen.teachers, 3.0, truth)

    printed = invoke("--temperature", 3, "--json").output
    assert json.loads(printed) == {"split": "test", **expected}
    assert printed == invoke("--temperature", 3, "--json").output
    shown = invoke("--temperature", 3, "--split", "test", "--index", workspace.index_csv(chosen.index_tag)).output
    for name in chosen.teachers:
        assert f"{expected['each'][name]['macro_f1']:.4f}" in shown
    assert f"{expected['variance']['ratio']:.1%}" in shown


def test_the_default_temperature_is_that_of_the_params(project):
    report = json.loads(invoke("--split", "val", "--json").output)
    assert (report["temperature"], report["n"]) == (params.load().temperature, 7)


def test_the_picture_is_a_png_the_same_each_time(project):
    for name in ("one.png", "two.png"):
        assert invoke("--out", name).exit_code == 0
    assert Image.open("one.png").size[0] > 800
    assert Path("one.png").read_bytes() == Path("two.png").read_bytes()
    assert isinstance(invoke("--out", "three.svg").exception, UsageError)
    assert not Path("three.svg").exists()


def test_without_a_truth_the_rest_is_shown(project):
    shutil.rmtree(workspace.corpus(params.load().corpus))
    report = json.loads(invoke("--json", "--out", "diversity.png").output)
    assert set(report["fused"]) == {"accuracy", "macro_f1", "entropy"}
    assert "truth" not in invoke().output.split("Entropies")[0]


def test_soft_labels_out_of_step_stop_the_command(project):
    chosen = params.load()
    directory = workspace.softlabels(chosen.teachers[1], chosen.index_tag)
    table = pd.read_parquet(directory / store.TABLE)
    table.iloc[::-1].to_parquet(directory / store.TABLE)
    error = invoke().exception
    assert isinstance(error, CheckError)
    assert str(directory) in str(error)


def test_a_split_that_is_none_and_missing_soft_labels_are_wrong_calls(project):
    assert isinstance(invoke("--split", "dev").exception, UsageError)
    chosen = params.load()
    shutil.rmtree(workspace.softlabels(chosen.teachers[2], chosen.index_tag))
    assert isinstance(invoke().exception, UsageError)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda t: t.drop(columns="q_fear"), "q_fear"),
        (lambda t: t.iloc[1:], "lacks"),
        (lambda t: t.assign(q_fear=2.0), "distributions"),
        (lambda t: t.assign(q_fear=np.nan), "distributions"),
        (lambda t: t.assign(q_fear="much"), "cannot be read"),
        (lambda t: t.drop(columns="path"), "cannot be read"),
        (lambda t: pd.concat([t, t]), "two rows"),
    ],
)
def test_a_damaged_truth_is_refused(project, change, named):
    corpus = workspace.corpus(params.load().corpus)
    file = corpus / "truth" / "samples.csv"
    table = pd.read_csv(file)
    change(table).to_csv(file, index=False)
    with pytest.raises(CheckError, match=named):
        distribution(corpus, table["path"].tolist(), CLASSES)
