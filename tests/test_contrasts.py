"""The contrasts named before the runs, and the headroom that families are ranked in."""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from ferdistill import params
from ferdistill.cli import cli
from ferdistill.errors import UsageError
from ferdistill.study import contrasts, grid, results, statistics
from support.cached import predictions, store

ROOT = Path(__file__).parents[1]
SETTINGS = params.load(ROOT / "params.yaml")
SEEDS = [1, 2, 3, 4]
SPREAD = np.array([0.002, -0.001, 0.0015, -0.0025])


def table(means, noise=1.0):
    """Runs without predictions: a mean macro F1 a recipe, `family` or `none`."""
    rows = []
    for number, (family, mean) in enumerate(means.items()):
        own = np.random.default_rng(number).permutation(SPREAD) * noise
        mode = "none" if family == "none" else "kd"
        common = {"family": family, "mode": mode, "time": "2026-11-25T10:00:00+08:00"}
        rows += [
            common | {"seed": s, "macro_f1": mean + e, "nll": 1 - mean - e} for s, e in zip(SEEDS, own, strict=True)
        ]
    return pd.DataFrame(rows)


DESIGN = grid.Primary(candidate="6E:kd", baselines=["none", "6A:kd"], metrics=["nll", "macro_f1"])
STANDING = grid.Standing(oracle="6B", votes="6C")  # any two families will do


def test_without_predictions_seeds_alone_count_and_that_is_said():
    frame = table({"none": 0.78, "6A": 0.785, "6E": 0.79})
    found = contrasts.primary(frame, DESIGN, SETTINGS)
    assert [(one["baseline"], one["metric"]) for one in found] == [
        ("none", "nll"), ("none", "macro_f1"), ("6A:kd", "nll"), ("6A:kd", "macro_f1"),
    ]  # fmt: skip
    values = {family: rows["macro_f1"].to_numpy() for family, rows in frame.groupby("family")}
    assert found[1]["interval"] == list(statistics.paired_t_interval(values["6E"] - values["none"]))
    assert "no column `predictions`" in found[1]["why"] and found[1]["of_people"] is None
    assert [one["p_holm"] for one in found] == statistics.holm([one["p"] for one in found])


def test_people_count_where_predictions_are_here(tmp_path):
    rng, labels = np.random.default_rng(0), np.arange(280) % 7
    frame = table({"none": 0.78, "6E": 0.79}).assign(t_star=1.2)
    digests = []
    person = rng.normal(0, 1.5, 40)[np.arange(280) // 7]  # how clear a person is to the candidate alone
    for at, family in enumerate(frame["family"]):
        hit = 1.5 + (person if family == "6E" else 0)
        logits = rng.normal(0, 1, (280, 7)) + np.asarray(hit)[..., None] * np.eye(7)[labels]
        digests.append(f"{at + 200:032x}")
        store(tmp_path, digests[-1], predictions(logits, labels, "test", each=7))
    before, after = (rows for _, rows in frame.assign(predictions=digests).groupby("mode", sort=False))
    for metric in ("macro_f1", "nll", "nll_scaled"):
        found = contrasts.contrast(before.assign(nll_scaled=1.0), after.assign(nll_scaled=1.0), metric, tmp_path)
        assert found["why"] is None and found["people"] == 40 and found["of_people"] > found["of_seeds"]
        assert found["interval"][0] < found["difference"] < found["interval"][1]
        assert np.diff(found["interval"])[0] > 3.5 * found["of_people"]
    with pytest.raises(UsageError, match="some runs have no `mce`"):
        contrasts.contrast(before, after, "mce", tmp_path)


def test_families_are_ranked_only_where_the_headroom_is_above_the_noise():
    means = {"none": 0.78, "6A": 0.788, "6E": 0.79, "6B": 0.80, "6C": 0.787}
    found = contrasts.headroom(table(means), STANDING, SETTINGS)
    assert found["ranked"] and found["oracle"]["difference"] == pytest.approx(0.02)
    assert found["votes"]["difference"] == pytest.approx(0.007) and list(found["families"]) == ["6E:kd", "6A:kd"]
    assert not contrasts.headroom(table(means, noise=6.0), STANDING, SETTINGS)["ranked"]
    nothing = contrasts.headroom(table(means | {"6B": 0.7801}), STANDING, SETTINGS)
    assert not nothing["ranked"] and "cannot be distinguished from zero" in nothing["why"]
    by_nll = contrasts.headroom(table(means), STANDING, SETTINGS, "nll")
    assert by_nll["ranked"] and by_nll["oracle"]["difference"] == pytest.approx(-0.02)
    unknown = contrasts.headroom(table({"none": 0.78, "6A": 0.79}), STANDING, SETTINGS)
    assert unknown["ranked"] is None and unknown["oracle"] is None


def test_git_says_since_when_a_contrast_was_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    table({"none": 0.78, "6A": 0.785, "6E": 0.79}).to_csv("r.csv", index=False)
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "-q"], check=True)
    text = "primary: {candidate: 6E:kd, baselines: [none, 6A:kd], metrics: [nll, macro_f1]}\nseeds: {one: [1]}\n"
    cells = "cells:\n  - {family: 6E, mode: kd, seeds: one}\n"
    other = text.replace("[nll, macro_f1]", "[ece]")
    for time, held in (
        ("2026-11-20", text),
        ("2026-11-22", other),
        ("2026-11-24", text),
        ("2026-11-26", text + "# x\n"),
    ):
        Path("g.yaml").write_text(held + cells)
        subprocess.run([*git, "add", "g.yaml"], check=True)
        dated = {"GIT_COMMITTER_DATE": f"{time}T00:00:00+00:00", **os.environ}
        subprocess.run([*git, "commit", "-qm", time], check=True, env=dated)
    since = contrasts.stated(Path("g.yaml"), grid.read(Path("g.yaml")).primary)
    assert since.startswith("2026-11-24") and contrasts.was_stated_before(since, results.read("r.csv"))
    assert contrasts.was_stated_before("2026-11-26T00:00:00+00:00", results.read("r.csv")) is False
    assert contrasts.stated(Path("absent.yaml"), DESIGN) is None
    command = ["study", "primary", "--grid", "g.yaml", "--results", "r.csv"]
    answer = json.loads(CliRunner().invoke(cli, [*command, "--json"], catch_exceptions=False).output)
    assert answer["stated_before_runs"] and len(answer["contrasts"]) == 4 and len(answer["headroom"]) == 2
    shown = CliRunner().invoke(cli, command, catch_exceptions=False).output
    assert "before the first run" in shown and "Over seeds alone" in shown and "Headroom not known" in shown
    Path("g.yaml").write_text("seeds: {one: [1]}\n" + cells)
    assert isinstance(CliRunner().invoke(cli, command).exception, UsageError)
