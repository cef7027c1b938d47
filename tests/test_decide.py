"""The decision: what it rests on, and what can never change it."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from typer.testing import CliRunner

from ferdistill import params
from ferdistill.cli import cli
from ferdistill.errors import CheckError
from ferdistill.study import decision, shrinkage
from support.cached import predictions, store

ROOT = Path(__file__).parents[1]
SETTINGS = params.load(ROOT / "params.yaml")
FAMILIES = ["6A", "6B", "6C", "6E", "resnet18", "vit_ban"]
SPREAD = np.array([0.004, -0.003, 0.001, -0.002, 0.003, -0.001, 0.002, -0.004])  # of seeds, sum 0


def runs(family, mean, seeds=8, noise=SPREAD, mode="kd", **other):
    """Runs of one recipe whose mean on calib is as asked."""
    values = noise[:seeds] - noise[:seeds].mean() + mean
    common = {"family": family, "mode": mode, "macro_f1": 0.78, "val_macro_f1": 0.8, "ece_scaled": 0.03}
    return pd.DataFrame([common | {"seed": at, "calib_macro_f1": value} | other for at, value in enumerate(values)])


def table(of, default=0.78):
    return pd.concat([runs("none", default, mode="none"), *of], ignore_index=True)


def decided(*of, settings=SETTINGS, **options):
    return decision.decide(table(of), settings, **options)


def test_a_clear_lead_is_taken_and_a_small_one_is_not():
    found = decided(runs("6A", 0.80), runs("6E", 0.79))
    assert found["decided"] and found["chosen"]["recipe"] == "6A:kd" and found["fallback"]["recipe"] == "6E:kd"
    assert found["merit"] == "calib_macro_f1" and found["near_best"] > 0.9
    nothing = decided(runs("6A", 0.7805), runs("6E", 0.7795))
    assert not nothing["decided"] and nothing["chosen"] == nothing["default"]
    assert any(line.startswith("Nothing can be decided") and "labels alone" in line for line in nothing["reasoning"])


def test_what_is_expected_is_between_the_default_and_what_was_measured_the_nearer_the_fewer_seeds():
    found = decided(runs("6A", 0.80, seeds=3), runs("6E", 0.80))
    few, many = sorted(found["candidates"], key=lambda one: one["seeds"])
    assert few["difference"] == pytest.approx(many["difference"]) == pytest.approx(0.02)
    assert 0 < few["expected"] < many["expected"] < 0.02 and few["score"] < many["score"]
    assert found["chosen"]["recipe"] == "6E:kd"


def test_the_noise_of_people_is_stated_or_measured(tmp_path):
    assert decided(runs("6A", 0.80))["candidates"][0]["people"] == SETTINGS.decide.people_noise
    rng = np.random.default_rng(0)
    labels, of = np.arange(210) % 7, []
    for family, mode, hit in (("none", "none", 1.0), ("6A", "kd", 1.6)):
        digests = []
        for seed in range(3):
            logits = rng.normal(0, 1, (210, 7)) + hit * np.eye(7)[labels]
            digests.append(f"{seed + (family == '6A') * 8:032x}")
            store(tmp_path, digests[-1], predictions(logits, labels, "calib", each=7))
        of.append(runs(family, 0.78, seeds=3, mode=mode).assign(predictions=digests))
    found = decision.decide(pd.concat(of, ignore_index=True), SETTINGS, cache=tmp_path)
    assert 0.015 < found["candidates"][0]["people"] < 0.06  # of 30 people
    assert any("other people (measured)" in line for line in found["reasoning"])


def test_val_which_chose_the_epochs_judges_only_where_it_is_named():
    frame = table([runs("6A", 0.80).assign(val_macro_f1=0.83)]).drop(columns="calib_macro_f1")
    frame.loc[frame["family"] == "none", "val_macro_f1"] += SPREAD
    with pytest.raises(CheckError, match="--by val_macro_f1"):
        decision.decide(frame, SETTINGS)
    found = decision.decide(frame, SETTINGS, merit="val_macro_f1")
    assert found["merit"] == "val_macro_f1" and found["chosen"]["recipe"] == "6A:kd"
    assert any("chose the epochs too" in line for line in found["reasoning"])


def test_of_one_loss_under_two_names_the_simpler_is_taken_and_is_no_fallback_to_itself():
    found = decided(runs("6A", 0.79), runs("6E", 0.80), runs("6C", 0.80))
    assert found["chosen"]["recipe"] == "6C:kd" and found["fallback"]["recipe"] == "6A:kd"


def test_seeds_are_asked_for_where_they_may_change_the_choice():
    found = decided(runs("6A", 0.792), runs("6E", 0.793, seeds=3), runs("6B", 0.76, seeds=3))
    asked = {one["recipe"]: one for one in found["ask"]}
    assert "6E:kd" in asked and "6B:kd" not in asked
    assert asked["6E:kd"]["probability"] >= decision.WORTH_ASKING and 1 <= asked["6E:kd"]["seeds"] <= 64
    sure = decided(runs("6A", 0.82), runs("6B", 0.76))
    assert not sure["ask"] and any("other people" in line for line in sure["reasoning"])


def test_a_row_to_compare_with_is_never_deployed():
    found = decided(runs("6A", 0.80), runs("6E", 0.85), never="6E")
    assert found["chosen"]["recipe"] == "6A:kd" and found["left_out"] == ["6E kd"]


def test_too_few_seeds_are_no_candidate_and_a_default_has_enough():
    found = decided(runs("6A", 0.80), runs("6E", 0.9, seeds=2))
    assert found["left_out"] == ["6E kd"] and found["chosen"]["recipe"] == "6A:kd"
    frame = table([runs("6A", 0.80)])
    with pytest.raises(CheckError, match="the default recipe, labels alone, has 2 of the 3 seeds"):
        decision.decide(frame[(frame["family"] != "none") | (frame["seed"] < 2)], SETTINGS)
    with pytest.raises(CheckError, match="the default recipe `none` is not in the table"):
        decision.decide(runs("6A", 0.80), SETTINGS)
    with pytest.raises(CheckError, match="out of step"):
        decision.decide(frame.assign(misaligned=True), SETTINGS)
    with pytest.raises(CheckError, match="no family 7Z"):
        decision.decide(frame.replace({"family": {"6A": "7Z"}}), SETTINGS)


def test_a_student_that_is_too_slow_or_large_is_said_to_be_so():
    measured = {"batch_1": {"p50_ms": 40.0, "p95_ms": 50.0}, "machine": "m", "cpu_threads": 1, "model_bytes": 9}
    slow = decision.decide(table([runs("6A", 0.80)]), SETTINGS, measured, {"size_bytes": 2_000_000})
    assert not slow["ok"] and any("above the limit of 33 ms" in sentence for sentence in slow["reasoning"])
    for size, ok in ((2_000_000, True), (20_000_001, False)):
        assert decision.decide(table([runs("6A", 0.80)]), SETTINGS, None, {"size_bytes": size})["ok"] == ok


COSTS = {"machine": "m", "threads": 1, "students": {
    "small": {"p95_ms": 1.0, "size_bytes": 2_000_000, "parameters": 500_000},
    "large": {"p95_ms": 8.0, "size_bytes": 17_000_000, "parameters": 4_200_000},
    "slow": {"p95_ms": 9.0, "size_bytes": 18_000_000, "parameters": 4_500_000},
}}  # fmt: skip
OF_SMALL = SETTINGS.decide.model_copy(update={"default": "none:none:student=small"})


def of_students(*of, **changes):
    """The decision over labels alone with the small student, and these recipes."""
    settings = SETTINGS.model_copy(update={"decide": OF_SMALL.model_copy(update=changes)})
    frame = pd.concat([runs("none", 0.78, mode="none", student="small"), *of], ignore_index=True)
    return decision.decide(frame, settings, costs=COSTS)


def test_of_several_students_the_best_within_the_limits_is_taken():
    of = runs("6A", 0.79, student="small"), runs("6A", 0.80, student="large"), runs("6A", 0.799, student="slow")
    found = of_students(*of)
    assert found["ok"] and found["chosen"]["recipe"] == "6A:kd:student=large"
    assert [(one["student"], one["within"], one["front"]) for one in found["students"]] == [
        ("small", True, True), ("large", True, True), ("slow", True, False),
    ]  # fmt: skip
    limited = of_students(*of, max_p95_ms=5.0)
    assert limited["ok"] and limited["chosen"]["recipe"] == "6A:kd:student=small"
    assert limited["left_out"] == ["6A kd large", "6A kd slow"] and "no candidates" in limited["reasoning"][0]
    assert of_students(*of, max_mb=17.5)["left_out"] == ["6A kd slow"]


def test_a_default_that_costs_too_much_is_neither_fine_nor_a_fallback():
    large = runs("6A", 0.80, student="large")
    found = of_students(large, max_p95_ms=0.5)
    assert not found["ok"] and found["chosen"] == found["default"] and found["fallback"] is None
    slow = {"small": COSTS["students"]["slow"], "large": COSTS["students"]["small"]}
    frame = pd.concat([runs("none", 0.78, mode="none", student="small"), large], ignore_index=True)
    settings = SETTINGS.model_copy(update={"decide": OF_SMALL.model_copy(update={"max_p95_ms": 5.0})})
    taken = decision.decide(frame, settings, costs=COSTS | {"students": slow})
    assert taken["ok"] and taken["chosen"]["recipe"] == "6A:kd" and taken["fallback"] is None


def test_a_student_of_unknown_cost_is_asked_for():
    with pytest.raises(CheckError, match="what tiny costs is not known") as caught:
        of_students(runs("6A", 0.80, student="tiny"))
    assert "study cost" in str(caught.value)


def test_decide_answers_people_and_machines(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table([runs("6A", 0.80)]).to_csv("r.csv", index=False)
    Path("params.yaml").write_text((ROOT / "params.yaml").read_text())
    command = ["study", "decide", "--results", "r.csv"]
    answer = json.loads(CliRunner().invoke(cli, [*command, "--json"]).output)
    assert answer["chosen"]["recipe"] == "6A:kd" and answer["ok"] and answer["decided"]
    shown = CliRunner().invoke(cli, command)
    assert shown.exit_code == 0 and "Chosen" in shown.output
    Path("metrics").mkdir()
    Path("metrics/export.json").write_text('{"size_bytes": 30000000}')
    assert CliRunner().invoke(cli, command).exit_code == 1


# ---- what can never change it -----------------------------------------------------------------------------------

MEANS = st.floats(0.74, 0.84)
SEEDS = st.integers(3, 8)
RECIPES = st.lists(st.tuples(MEANS, SEEDS), min_size=2, max_size=len(FAMILIES))


def of_recipes(found):
    return [runs(family, mean, seeds) for family, (mean, seeds) in zip(FAMILIES, found, strict=False)]


@examples(max_examples=20, deadline=None)
@given(RECIPES, st.data())
def test_leaving_out_a_recipe_that_is_not_chosen_never_changes_the_choice(found, data):
    of = of_recipes(found)
    chosen = decided(*of)["chosen"]["recipe"]
    others = [at for at, some in enumerate(of) if f"{some['family'].iloc[0]}:kd" != chosen]
    out = data.draw(st.sets(st.sampled_from(others), min_size=1))
    assert decided(*(some for at, some in enumerate(of) if at not in out))["chosen"]["recipe"] == chosen


@examples(max_examples=10, deadline=None)
@given(RECIPES, st.lists(st.floats(0, 1), min_size=60, max_size=60))
def test_no_score_of_test_has_a_part_in_it(found, scores):
    frame = table(of_recipes(found))
    other = frame.assign(macro_f1=scores[: len(frame)], ece_scaled=scores[-len(frame) :])

    def rests_on(result):
        kept = [{k: v for k, v in one.items() if k != "macro_f1"} for one in result["candidates"]]
        return result["chosen"]["recipe"], result["chosen"]["deploy"], kept, result["near_best"], result["ask"]

    assert rests_on(decision.decide(frame, SETTINGS)) == rests_on(decision.decide(other, SETTINGS))


@examples(max_examples=200, deadline=None)
@given(
    st.floats(-0.05, 0.05), st.integers(1, 40), st.integers(1, 40), st.integers(2, 40), st.floats(1e-3, 0.05),
    st.floats(0, 0.05), st.floats(1e-3, 0.1),
)  # fmt: skip
def test_fewer_seeds_never_bring_a_recipe_above_another_or_above_the_default(
    difference, fewer, more, default_seeds, noise, people, spread
):
    assume(fewer < more)
    few, many = (shrinkage.posterior(difference, n, default_seeds, noise**2, people**2, spread) for n in (fewer, more))
    if difference > 0:
        assert few.score() <= many.score() and few.probability() <= many.probability() + 1e-12
    else:
        assert few.probability() <= 0.5  # which no confidence takes


@examples(max_examples=12, deadline=None)
@given(RECIPES, st.integers(0, 5), SEEDS)
def test_a_recipe_that_is_not_chosen_is_not_chosen_for_having_fewer_seeds(found, which, seeds):
    which %= len(found)
    assume(seeds < found[which][1])
    before = decided(*of_recipes(found))["chosen"]["recipe"]
    assume(before != f"{FAMILIES[which]}:kd")
    found = [*found[:which], (found[which][0], seeds), *found[which + 1 :]]
    assert decided(*of_recipes(found))["chosen"]["recipe"] == before


@pytest.mark.parametrize("gain", [0.0, 0.01])
def test_seeds_alone_are_no_advantage_where_all_recipes_are_one(gain):
    # 4,000 tables of twelve recipes, all as good, half of them with three seeds and half with eight.
    rng = np.random.default_rng(1)
    seeds = np.tile([3, 8], 6)
    default = rng.normal(0.78, 0.006, (4000, 8))
    means = rng.normal(0.78 + gain, 0.006 / np.sqrt(seeds), (4000, 12))
    noise = shrinkage.noise_of_seeds(default, SETTINGS.decide.seed_noise)[:, None]
    differences = means - default.mean(axis=1, keepdims=True)
    of = shrinkage.posterior(differences, seeds, 8, noise, 0.0, SETTINGS.decide.spread)
    score = np.where(of.probability() > SETTINGS.decide.confidence, of.score(), -np.inf)
    taken = seeds[score.argmax(axis=1)][np.isfinite(score).any(axis=1)]
    assert len(taken) > 2000 and np.mean(taken == 3) < 0.5 + 2 / np.sqrt(len(taken))
    assert np.mean(seeds[means.argmax(axis=1)] == 3) > 0.65  # as the highest mean takes them
