"""The mixture design and its response surface."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from typer.testing import CliRunner

from ferdistill import params
from ferdistill.cli import cli
from ferdistill.errors import CheckError, UsageError
from ferdistill.report import surfaces
from ferdistill.softlabels import families
from ferdistill.study import grid, mixture, recipes
from ferdistill.tracking import experiments

ROOT = Path(__file__).parents[1]
SETTINGS = params.load(ROOT / "params.yaml")
TEACHERS = SETTINGS.teachers
BETA = np.array([0.78, 0.77, 0.79, 0.76, 0.04, 0.0, 0.02, 0.06, -0.02, 0.03])  # of each weight, then of each product


@pytest.fixture(scope="module")
def designed(tmp_path_factory):
    """params.yaml with the families of the design over all four teachers, and the design."""
    file = tmp_path_factory.mktemp("mixture") / "params.yaml"
    shutil.copy(ROOT / "params.yaml", file)
    blends = mixture.design(SETTINGS, TEACHERS)
    mixture.write_families(file, blends)
    return params.load(file), blends, file


def table(settings, blends, noise=0.0, extra=0.0, seeds=3):
    """Runs of the design: what the quadratic says, what a seed adds to all, noise, and a cubic term."""
    rng = np.random.default_rng(0)
    rows = []
    for blend in blends:
        weights = np.array([float(blend.weights.get(name, 0)) for name in TEACHERS])
        true = float((mixture._quadratic(weights[None]) @ BETA)[0]) + extra * weights[0] * weights[1] * weights[2]
        for seed in range(seeds):
            value = true + 0.005 * (seed - 1) + rng.normal(0, noise)
            rows.append(
                {"family": blend.family, "mode": "kd", "fusion": "probability", "seed": seed, "macro_f1": value}
            )
    return pd.DataFrame(rows)


def test_the_design_has_every_kind_of_point_and_uses_the_families_that_are_there(designed):
    settings, blends, file = designed
    kinds = [blend.kind for blend in blends]
    assert [kinds.count(kind) for kind in ("vertex", "edge", "centroid", "interior")] == [4, 6, 1, 4]
    assert all(sum(blend.weights.values()) == 1 for blend in blends)
    assert [blend.family for blend in blends if not blend.new] == [*TEACHERS, "6C"]
    # The families that were written are these points, and all else in params.yaml stayed.
    for blend in blends:
        held = families.mixture(settings.families[blend.family], settings.lambda_)
        assert held == pytest.approx({name: float(weight) for name, weight in blend.weights.items()})
    held = yaml.safe_load(file.read_text())
    held["families"] = {name: of for name, of in held["families"].items() if not name.startswith("mix-")}
    assert held == yaml.safe_load((ROOT / "params.yaml").read_text())
    # And make a design that has nothing to add.
    assert not any(blend.new for blend in mixture.design(settings, TEACHERS))
    thirds = [blend for blend in mixture.design(SETTINGS, TEACHERS[:3]) if blend.kind == "centroid"]
    assert len(set(thirds[0].weights.values())) == 1
    for wrong in ([TEACHERS[0]], ["nobody", TEACHERS[0]], [TEACHERS[0]] * 2):
        with pytest.raises(UsageError):
            mixture.design(SETTINGS, wrong)


def test_the_command_writes_families_and_a_grid_that_can_be_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "params.yaml", "params.yaml")
    command = ["study", "mixture", *TEACHERS[:3], "--seed", "1", "--seed", "2"]
    listed = CliRunner().invoke(cli, command, catch_exceptions=False).output
    assert "10 mixtures" in listed and Path("params.yaml").read_text() == (ROOT / "params.yaml").read_text()
    answer = json.loads(CliRunner().invoke(cli, [*command, "--write", "--json"], catch_exceptions=False).output)
    runs = grid.load(Path("conf/mixture.yaml"), experiments.load_yaml(Path("params.yaml").read_text()))
    assert len(runs) == 2 * len(answer["runs"]) == 20
    assert {run.overrides["family"] for run in runs} == {row["family"] for row in answer["runs"]}
    again = CliRunner().invoke(cli, [*command, "--write"]).exception
    assert isinstance(again, UsageError) and "is there already" in str(again)


def test_the_surface_is_found_again(designed):
    settings, blends, _ = designed
    found = mixture.fit(table(settings, blends, noise=1e-9), settings)
    assert [one["value"] for one in found["terms"].values()] == pytest.approx(BETA, abs=1e-7)
    assert (found["runs"], found["teachers"]) == (45, TEACHERS)
    weights = np.array([0.7, 0.0, 0.3, 0.0])  # 6A
    place = mixture.place(found["surface"], {"resnet18": 0.7, "efficientnet_b3": 0.3})
    assert place["fitted"] == pytest.approx(float((mixture._quadratic(weights[None]) @ BETA)[0]), abs=1e-7)
    # Nothing on a fine lattice is better than what is called the best.
    lattice = np.array([row for row in np.ndindex(41, 41, 41, 41) if sum(row) == 40]) / 40
    assert found["best"]["fitted"] >= found["surface"].at(lattice)[0].max() - 1e-6
    assert found["best"]["over_best_point"]["difference"] >= -1e-9
    with pytest.raises(UsageError, match="no teacher nobody"):
        mixture.place(found["surface"], {"nobody": 1.0})


def test_intervals_hold_the_truth_and_lack_of_fit_is_seen(designed):
    settings, blends, _ = designed
    noisy = mixture.fit(table(settings, blends, noise=0.004), settings)
    assert noisy["noise"] == pytest.approx(0.004, rel=0.4) and noisy["lack_of_fit"] > 0.01
    held = [one["interval"][0] <= b <= one["interval"][1] for one, b in zip(noisy["terms"].values(), BETA, strict=True)]
    assert sum(held) >= 8
    cubic = mixture.fit(table(settings, blends, noise=0.002, extra=2.0), settings)
    assert cubic["lack_of_fit"] < 0.001


def test_what_is_no_point_of_this_simplex_is_left_out(designed):
    settings, blends, _ = designed
    frame = table(settings, blends, noise=0.002)
    dkd = frame[frame["family"] == "6C"].assign(mode="dkd", beta=2.0, macro_f1=0.1)
    logit = frame[frame["family"] == "6C"].assign(family="6C_logit", fusion="logit", macro_f1=0.1)
    longer = frame[frame["family"] == "6C"].assign(epochs=30.0, macro_f1=0.9)
    both = pd.concat([frame.assign(epochs=10.0), dkd.assign(epochs=10.0), logit.assign(epochs=10.0), longer])
    assert mixture.fit(both, settings)["terms"] == mixture.fit(frame, settings)["terms"]
    beside = next(one for one in recipes.of(both, settings, []) if one.setting("epochs") == 30)
    with pytest.raises(CheckError, match="of 1 mixtures"):
        mixture.fit(both, settings, beside=beside)
    with pytest.raises(CheckError, match="terms of the surface follow"):
        mixture.fit(frame[frame["family"].isin(["6C", *TEACHERS])], settings)


@pytest.mark.parametrize("count", [2, 3, 4])
def test_the_surface_is_drawn_alike_each_time(designed, count):
    settings, blends, _ = designed
    chosen = [blend for blend in blends if set(blend.weights) <= set(TEACHERS[:count])]
    if count == 3:  # the design of three has a centroid that four have not; another interior point will do
        chosen += [mixture.Blend("interior", "6B", {"resnet18": 0.49, "efficientnet_b3": 0.21, "vit_ban": 0.3}, False)]
        chosen = [one for one in chosen if "convnext_tiny" not in one.weights] + [
            blend for blend in blends if set(blend.weights) <= {"resnet18", "efficientnet_b3", "vit_ban"}
        ]
        chosen = list({one.family: one for one in chosen}.values())
    if count == 2:
        chosen += [mixture.Blend("edge", "6A", {"resnet18": 0.7, "efficientnet_b3": 0.3}, False)]
        chosen += [one for one in blends if set(one.weights) <= {"resnet18", "efficientnet_b3"}]
        chosen = list({one.family: one for one in chosen if "convnext_tiny" not in one.weights}.values())
    found = mixture.fit(table(settings, chosen, noise=0.002), settings)
    places = {"6A": mixture.place(found["surface"], {"resnet18": 0.7, "efficientnet_b3": 0.3})}
    one = surfaces.surface(found, places)
    assert one == surfaces.surface(found, places) and one.startswith(b"<?xml") and b"</svg>" in one


def test_surface_answers_people_and_machines(designed, tmp_path, monkeypatch):
    settings, blends, file = designed
    monkeypatch.chdir(tmp_path)
    shutil.copy(file, "params.yaml")
    table(settings, blends, noise=0.002).to_csv("r.csv", index=False)
    command = ["study", "surface", "--results", "r.csv", "--family", "6A", "--family", "6C"]
    shown = CliRunner().invoke(cli, [*command, "--picture", "s.svg"], catch_exceptions=False).output
    assert "6A (family)" in shown and "best of the surface" in shown and Path("s.svg").is_file()
    answer = json.loads(CliRunner().invoke(cli, [*command, "--json"], catch_exceptions=False).output)
    assert set(answer["places"]) == {"6A", "6C"} and len(answer["points"]) == 15
    assert isinstance(CliRunner().invoke(cli, [*command, "--family", "7Z"]).exception, UsageError)
