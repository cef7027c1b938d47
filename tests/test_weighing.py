"""Weights of least NLL: the optimum against independent solvers, other people, and the family that is written."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import logsumexp, softmax

from conftest import CLASSES, make_index
from ferdistill import params, workspace, yaml_file
from ferdistill.errors import CheckError, UsageError
from ferdistill.evaluation import weighing
from ferdistill.files import sha256
from ferdistill.softlabels import gather, store, targets
from ferdistill.study import recipes

ROOT = Path(__file__).parents[1]
CALIBRATE = params.load(ROOT / "params.yaml").calibrate


def draw(seed, n=400, teachers=4, classes=5):
    """Logits (M, N, K) of teachers that differ in how much they know, and labels (N,)."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    knows = rng.uniform(0, 3, teachers)
    return rng.normal(0, 1.5, (teachers, n, classes)) + knows[:, None, None] * np.eye(classes)[labels], labels


def log_likelihoods(logits, labels):
    return (logits - logsumexp(logits, axis=2, keepdims=True))[:, np.arange(len(labels)), labels].T


def nll(logs, weights):
    return -logsumexp(logs, axis=1, b=weights).mean()


def em(logs, steps=20_000):
    """The textbook's way: slow, sure, and with nothing of ours in it."""
    likelihoods = np.exp(logs)
    weights = np.full(logs.shape[1], 1 / logs.shape[1])
    for _ in range(steps):
        weights = weights * (likelihoods / (likelihoods @ weights)[:, None]).mean(axis=0)
    return weights


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 7))
def test_the_optimum_is_that_of_independent_solvers(seed, teachers):
    logs = log_likelihoods(*draw(seed, 150, teachers))
    found = weighing.fit(logs)
    assert found.weights.min() >= 0 and found.weights.sum() == pytest.approx(1)
    assert found.nll == pytest.approx(nll(logs, found.weights), abs=1e-12) and found.gap <= 1e-9
    other = minimize(
        lambda w: nll(logs, w), np.full(teachers, 1 / teachers), method="SLSQP", bounds=[(0, 1)] * teachers,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1}, options={"ftol": 1e-12, "maxiter": 500},
    )  # fmt: skip
    assert found.nll <= other.fun + 1e-9 and found.nll <= nll(logs, em(logs, 3000)) + 1e-9
    for corner in np.eye(teachers):
        assert found.nll <= nll(logs, corner) + 1e-12


def test_the_weights_themselves_are_those_of_em():
    logs = log_likelihoods(*draw(5, 600))
    np.testing.assert_allclose(weighing.fit(logs).weights, em(logs), atol=2e-4)


def test_samples_that_count_twice_are_samples_that_stand_twice():
    logs = log_likelihoods(*draw(1))
    counts = np.random.default_rng(0).integers(0, 3, len(logs)).astype(float)
    twice = weighing.fit(np.repeat(logs, counts.astype(int), axis=0))
    np.testing.assert_allclose(weighing.fit(logs, counts).weights, twice.weights, atol=1e-7)


@pytest.mark.parametrize("case", ["twins", "zeros", "one", "certain"])
def test_hard_cases_converge(case):
    logits, labels = draw(2)
    logs = log_likelihoods(logits, labels)
    if case == "twins":
        logs = np.column_stack([logs, logs[:, 0]])
    elif case == "zeros":
        logs[::7, 0] = np.log(np.finfo(np.float32).tiny)
    elif case == "one":
        logs = logs[:, :1]
    else:
        logs[:, 2] = 0.0  # always right, and sure
    found = weighing.fit(logs)
    assert found.gap <= 1e-9 and found.weights.sum() == pytest.approx(1)
    if case == "certain":
        assert found.weights[2] == pytest.approx(1)


@pytest.mark.parametrize("seed", [153, 1355, 1385])
def test_rounding_stops_no_resample_short_of_the_optimum(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(100, 500))
    logs = rng.normal(0, rng.uniform(1, 4), (n, 3)) - 2
    logs[:, 1] = logs[:, 0] + rng.normal(0, 1.5, n)
    assert weighing.fit(np.minimum(logs, 0), rng.multinomial(n, np.full(n, 1 / n))).gap <= 1e-9


def people(n, of=4):
    return np.array([f"p{i // of}" for i in range(n)])


def weigh(logits, labels, clusters=None, **options):
    names = [f"t{m}" for m in range(len(logits))]
    clusters = people(len(labels)) if clusters is None else clusters
    return weighing.weigh(logits, labels, clusters, names, CALIBRATE, draws=100, **options)


def test_fitted_weights_are_found_again_and_beat_equal_ones_on_other_people():
    rng = np.random.default_rng(0)
    log_p = rng.normal(0, 1.5, (3, 3000, 5))
    p = softmax(log_p, axis=2)
    truth = np.array([0.1, 0.6, 0.3])
    labels = np.array([rng.choice(5, p=q) for q in np.einsum("m,mnk->nk", truth, p)])
    found = weigh(log_p, labels)
    for name, weight in zip(("t0", "t1", "t2"), truth, strict=True):
        of = found["teachers"][name]
        assert of["low"] <= of["weight"] <= of["high"] and of["low"] - 0.03 < weight < of["high"] + 0.03
        assert of["temperature"] == 1
    crossed = found["cross_validated"]
    assert crossed["equal"]["gain_low"] > 0 and crossed["best_single"]["gain_low"] > 0
    assert crossed["fitted"]["low"] < crossed["fitted"]["nll"] < crossed["fitted"]["high"]
    assert crossed["fitted"]["nll"] >= found["nll"] - 1e-12  # those not fitted to are no easier
    assert (found["n"], found["people"], found["folds_used"]) == (3000, 750, 5)


def test_no_person_is_in_two_folds():
    """Whoever shares a label with all their images would give it away."""
    logits, labels = draw(3, 40)
    with pytest.raises(CheckError, match="all images are of one subject"):
        weigh(logits, labels, np.full(40, "p"))
    assert weigh(logits, labels, people(40, 20))["folds_used"] == 2


def test_a_temperature_of_its_own_undoes_each_teachers_sharpness():
    rng = np.random.default_rng(1)
    log_p = rng.normal(0, 1.5, (2, 4000, 5))
    labels = np.array([rng.choice(5, p=q) for q in softmax(log_p, axis=2).mean(axis=0)])
    sharp = log_p * np.array([3.0, 1.0])[:, None, None]
    plain, fitted = weigh(sharp, labels), weigh(sharp, labels, temperatures=True)
    at = [fitted["teachers"][name]["temperature"] for name in ("t0", "t1")]
    assert at == pytest.approx([3, 1], rel=0.15)
    with_them = minimize(
        lambda x: nll(log_likelihoods(sharp / np.exp(x[:2])[:, None, None], labels), softmax([x[2], 0])),
        [0, 0, 0], method="Nelder-Mead", options={"xatol": 1e-6, "fatol": 1e-9, "maxiter": 2000},
    )  # fmt: skip
    assert fitted["nll"] == pytest.approx(with_them.fun, abs=1e-5) and fitted["nll"] < plain["nll"]
    assert fitted["cross_validated"]["fitted"]["nll"] < plain["cross_validated"]["fitted"]["nll"]
    assert fitted["cross_validated"]["equal"]["nll"] == plain["cross_validated"]["equal"]["nll"]


@pytest.mark.parametrize("weights", [[1, 1, 1], [0.2251, 0.0061, 0.7268, 0.042], [1e-9, 1], [1 / 7] * 7])
def test_rounded_weights_still_sum_to_one(weights):
    found = weighing.rounded(weights)
    assert sum(found) == pytest.approx(1, abs=1e-12)
    np.testing.assert_allclose(found, np.array(weights) / sum(weights), atol=1e-4)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """params.yaml as it stands, and stores of its teachers, of which two know more."""
    monkeypatch.chdir(tmp_path)
    shutil.copy2(ROOT / "params.yaml", tmp_path)
    settings = params.load()
    index = make_index(
        workspace.index_csv(settings.index_tag), {"train": 70, "val": 210, "calib": 14, "test": 14}, CLASSES
    )
    for seed, name in enumerate(settings.teachers):
        rng = np.random.default_rng(seed)
        logits = rng.normal(0, 1.5, (len(index.rows), 7)) + (1 + seed % 2) * np.eye(7)[index.codes(CLASSES)]
        directory = workspace.softlabels(name, settings.index_tag)
        store.write(directory, index, logits, CLASSES, teacher=name, checkpoint_sha256=sha256(name))
    return index


def run(*arguments):
    command = [sys.executable, "-m", "ferdistill", "teachers", "weigh", "--draws", "100", *arguments]
    code = "from ferdistill.cli import app; app()"
    command[1:3] = ["-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_command_writes_a_family_and_leaves_every_other_line(project):
    before = Path("params.yaml").read_text(encoding="utf-8")
    done = run("--write", "fitted", "--temperatures", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["gap"] <= 1e-9 and report["uncovered"] == 0
    after = Path("params.yaml").read_text(encoding="utf-8")
    start = next(i for i, (one, other) in enumerate(zip(before, after, strict=False)) if one != other)
    added = len(after) - len(before)
    assert 100 < added < 400 and after[:start] + after[start + added :] == before

    settings = params.load().model_copy(update={"family": "fitted"})
    (source,) = settings.family_.sources
    for name, weight in source.teachers.items():
        assert weight == pytest.approx(report["teachers"][name]["weight"], abs=1e-4)
    gather.write_targets(workspace.TARGETS, project, settings)
    soft = targets.read(workspace.TARGETS, project, settings)
    name = soft.plan["teachers"][0]["teacher"]
    table, _ = store.read(workspace.softlabels(name, settings.index_tag))
    own = store.logits_of(table, CLASSES)[project.positions("train")]
    np.testing.assert_allclose(soft.logits[0, 0], own / settings.family_.temperatures[name], rtol=1e-5)

    again = run("--write", "fitted")
    assert again.returncode == 2 and "there is a family `fitted`" in again.stderr
    assert Path("params.yaml").read_text(encoding="utf-8") == after


def test_the_command_refuses_what_it_cannot_weigh(project):
    wrong = run("resnet81")
    assert wrong.returncode == 2 and "no teacher `resnet81`" in wrong.stderr
    raw = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    raw["teachers"].append("votes")
    raw["scales"]["embedded"]["teachers"]["votes"] = {"votes": {"smoothing": 1.0}, "covers": "all"}
    Path("params.yaml").write_text(yaml.safe_dump(raw, sort_keys=False), encoding="utf-8")
    settings = params.load()
    with pytest.raises(UsageError, match="`votes` cannot be weighed: labels are made of votes"):
        weighing.of_val(settings, project, ["votes"], temperatures=False, draws=100)
    found = weighing.of_val(settings, project, [], temperatures=False, draws=100)
    assert found["left_out"] == ["votes"] and "votes" not in found["teachers"]


def test_two_families_that_differ_in_temperature_are_not_one_loss(project):
    settings = params.load()
    raw = settings.families["6C"].model_dump()
    warm = params.Family.model_validate(raw | {"temperatures": {"resnet18": 1.5}})
    settings = settings.model_copy(update={"families": settings.families | {"warm": warm}})
    row = {"mode": "kd", "fusion": "probability"}
    of = [recipes.loss_parts(settings, row | {"family": name}) for name in ("6C", "6E", "warm")]
    assert of[0] == of[1] != of[2]
    with pytest.raises(ValueError, match="unknown `resnet81`"):
        params.Family.model_validate(raw | {"temperatures": {"resnet81": 1.5}})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\n", "no section"),
        ("s: {a: 1}\n", "no section"),
        ("s:\n  a: 1\n", "cannot be added"),
        ("- 1\n", "no section"),
    ],
)
def test_an_entry_is_only_added_where_nothing_else_changes(text, message):
    with pytest.raises(UsageError, match=message):
        yaml_file.with_entry(text, "s", "a: 2")


def test_an_entry_comes_before_the_comments_of_what_follows():
    text = "s:\n    # first\n    a:\n        - {x: 1}   # beside\n\n# of t\nt: 2\n"
    expected = "s:\n    # first\n    a:\n        - {x: 1}   # beside\n    b:\n      c: 2\n\n# of t\nt: 2\n"
    assert yaml_file.with_entry(text, "s", "b:\n  c: 2") == expected
    assert yaml_file.with_entry("s:\n  a: 1", "s", "b: 2") == "s:\n  a: 1\n  b: 2\n"
