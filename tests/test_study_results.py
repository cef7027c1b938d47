"""Tables of runs: reading, selecting, what may be compared; and comparisons, from the table to the sentences."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from conftest import CLASSES
from ferdistill import files, params, workspace
from ferdistill.cli import cli
from ferdistill.errors import CheckError, UsageError
from ferdistill.evaluation.metrics import score
from ferdistill.study import collect, comparison, recipes, results, schema, statistics
from ferdistill.study.stored import KEPT, keep
from support.cached import predictions, store

ROOT = Path(__file__).parents[1]
SECTION_5_1 = Path(__file__).parent / "data" / "section_5_1.csv"
SEEDS = [1337, 2025, 42]


def run(family, mode="kd", seed=1337, **other):
    """One row of a full table, with scores that depend on what it is of."""
    generator = np.random.default_rng(list(f"{family}{mode}{seed}{sorted(other.items())}".encode()))
    f1 = generator.uniform(0.6, 0.9, len(CLASSES))
    row = dict.fromkeys(results.columns(CLASSES), "")
    row |= {f"f1_{name}": repr(float(value)) for name, value in zip(CLASSES, f1, strict=True)}
    row |= {name: repr(float(generator.uniform(0.1, 0.9))) for name in ("accuracy", "ece", "brier", "nll")}
    row |= {"family": family, "mode": mode, "seed": str(seed), "macro_f1": repr(float(f1.mean())), "views": "1"}
    row |= {"scale": "smoke", "index_tag": "t", "index_digest": "d", "misaligned": "false"}
    row |= {"alpha": "0.5", "temperature": "2.0", "fusion": "probability"} if mode != "none" else {}
    return row | {name: str(value) for name, value in other.items()}


def compare(frame, baseline, candidate, **options):
    """The comparison of two recipes."""
    (found,) = comparison.compare(frame, baseline, candidate, **options)
    return found


@pytest.fixture
def write(tmp_path):
    def writer(rows, name="runs.csv"):
        pd.DataFrame(rows).to_csv(tmp_path / name, index=False)
        return tmp_path / name

    return writer


@pytest.fixture
def table(write):
    rows = [run("none", "none", seed) for seed in SEEDS]
    rows += [run("6A", seed=seed) for seed in SEEDS] + [run("6E", seed=seed) for seed in SEEDS]
    rows += [run("6E", seed=seed, views=4) for seed in SEEDS[:2]]
    rows += [run("6D", seed=seed, **{"lambda": value}) for seed in SEEDS for value in (0.3, 0.7)]
    rows += [run("6E", "dkd", seed, beta=b, dkd_target_term=t) for seed in SEEDS for b in (2, 4) for t in ("official",)]
    return write(rows)


def test_a_full_table_reads_as_numbers_texts_and_flags(table):
    frame = results.read(table)
    assert list(frame.columns) == results.columns(CLASSES) and results.classes_of(frame) == CLASSES
    assert frame["seed"].dtype == np.int64 and frame["misaligned"].dtype == bool and not frame["misaligned"].any()
    text = pd.read_csv(table, dtype=str)["macro_f1"]
    assert [repr(value) for value in frame["macro_f1"]] == text.tolist()
    assert frame["lambda"].notna().sum() == 6 and frame["experiment"].eq("").all()


def test_a_bare_table_is_enough():
    frame = results.read(SECTION_5_1)
    assert list(frame.columns) == ["family", "mode", "seed", "macro_f1"] and len(frame) == 6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"macro_f1": "71.88"}, "line 3, column macro_f1"),
        ({"macro_f1": "nan"}, "macro_f1 is 'nan'"),
        ({"macro_f1": ""}, "macro_f1 is ''"),
        ({"f1_sad": "1.2"}, "f1_sad is '1.2'"),
        ({"nll": "-0.1"}, "nll is '-0.1'"),
        ({"seed": "1.5"}, "whole number"),
        ({"mode": "KD"}, "mode is 'KD'"),
        ({"family": "6A:x"}, "without a colon"),
        ({"misaligned": "no"}, "true or false"),
        ({"t_star": "0"}, "t_star is '0'"),
        ({"family": "none"}, "family none with mode kd"),
        ({"seed": "1337", "macro_f1": "0.5"}, "lines 2, 3"),
    ],
)
def test_a_bad_cell_is_named(write, change, message):
    with pytest.raises(CheckError, match=message):
        results.read(write([run("6A"), run("6A", seed=2025) | change]))


def test_a_bad_file_is_named(tmp_path, write):
    with pytest.raises(UsageError, match="no table of results here"):
        results.read(tmp_path / "absent.csv")
    for text, message in [
        ("family,mode,seed\n6A,kd,1\n", "no column macro_f1"),
        ("family,mode,seed,macro_f1,seed\n", "named twice"),
        ("family,mode,seed,macro_f1\n", "without a run"),
        ("family,mode,seed,macro_f1\n6A,kd,1,0.7,9\n", "5 cells"),
        ("", "no column"),
    ]:
        (tmp_path / "bad.csv").write_text(text)
        with pytest.raises(CheckError, match=message):
            results.read(tmp_path / "bad.csv")


def test_selectors_find_one_recipe_or_say_what_to_name(table):
    frame = results.read(table)
    for selector, name in [
        ("none", "none"),
        ("none:none", "none"),
        ("6E:kd", "6E kd"),
        ("6D:kd:lambda=0.7", "6D kd λ=0.7"),
        ("6E:dkd:beta=4", "6E dkd β=4"),
        ("6E:kd:views=4", "6E kd views=4"),
    ]:
        rows = recipes.select(frame, selector)
        assert schema.label(rows.iloc[0]) == name and not rows["seed"].duplicated().any()
    with pytest.raises(UsageError, match=r"also named: lambda=0\.3, 0\.7"):
        recipes.select(frame, "6D:kd")
    with pytest.raises(UsageError, match=r"no run of `6B:kd`[\s\S]*6D:kd:lambda=0\.3"):
        recipes.select(frame, "6B:kd")
    for wrong in ("6E", "6E:KD", "6E:kd:lamda=0.7", "6E:kd:lambda="):
        with pytest.raises(UsageError, match="no recipe can be named"):
            recipes.select(frame, wrong)
    with pytest.raises(UsageError, match="not a number"):
        recipes.select(frame, "6D:kd:lambda=x")
    known = recipes.split(frame)
    assert list(known) == [
        *("none", "6A:kd", "6E:kd", "6E:kd:views=4", "6D:kd:lambda=0.3", "6D:kd:lambda=0.7"),
        *("6E:dkd:beta=2", "6E:dkd:beta=4"),
    ]
    for selector, rows in known.items():
        assert sorted(recipes.select(frame, selector)["macro_f1"]) == sorted(rows["macro_f1"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scale": "paper"}, "different scale"),
        ({"index_digest": "e"}, "different index_digest"),
        ({"index_tag": "u"}, "tag"),
    ],
)
def test_runs_of_other_data_never_meet(write, change, message):
    frame = results.read(write([run("6A"), run("6E"), run("6E", seed=42, **change)]))
    with pytest.raises(CheckError, match=message):
        compare(frame, "6A:kd", "6E:kd")
    again = results.read(write([run("6A"), run("6A", **change), run("6E")]))
    with pytest.raises(CheckError, match=message):
        recipes.select(again, "6A:kd")
    out_of_step = results.read(write([run("6A"), run("6E", misaligned="true")]))
    with pytest.raises(CheckError, match="out of step"):
        compare(out_of_step, "6A:kd", "6E:kd")


def test_a_comparison_is_what_statistics_says(table):
    frame = results.read(table)
    assert set(compare(frame, "6A:kd", "6E:kd")["metrics"]) == set(schema.COMPARED)
    result = compare(frame, "6A:kd", "6E:kd", metrics=["ece"])
    assert result["comparisons"] == 7
    a, b = (recipes.select(frame, name).set_index("seed")["ece"] for name in ("6A:kd", "6E:kd"))
    found = result["metrics"]["ece"]
    assert found["mean_difference"] == pytest.approx((b - a).mean()) and found["pairs"] == 3
    assert found["t_interval"] == list(statistics.paired_t_interval((b - a).to_numpy()))
    assert found["permutation_p"] == statistics.permutation(a.to_numpy(), b.to_numpy()).p
    assert (found["permutation_p_min"], found["paired_p_min"]) == (0.1, 0.25)
    assert [line["seed"] for line in found["per_seed"]] == SEEDS
    json.dumps(result, allow_nan=False)
    every = comparison.compare(frame, "6A:kd", metrics=["ece"])
    assert len(every) == 7
    ece = [recipes.select(frame, one["candidate"]["selector"])["ece"].to_numpy() for one in every]
    tested = statistics.dunnett(recipes.select(frame, "6A:kd")["ece"].to_numpy(), ece)
    assert [one["metrics"]["ece"]["dunnett_p"] for one in every] == [one.p for one in tested]
    assert [one["metrics"]["ece"]["dunnett_interval"] for one in every] == [list(one.interval) for one in tested]
    same = next(one for one in every if one["candidate"]["selector"] == "6E:kd")
    assert same == result | {"candidate": same["candidate"]}


def test_seeds_without_a_partner_are_dropped_and_named(write):
    rows = [run("6A", seed=seed) for seed in (1, 2, 3)] + [run("6E", seed=seed) for seed in (2, 3, 4, 5)]
    found = compare(results.read(write(rows)), "6A:kd", "6E:kd")["metrics"]["macro_f1"]
    assert found["pairs"] == 2 and found["unpaired_seeds"] == [1, 4, 5]
    assert found["permutation_p_min"] == pytest.approx(1 / 35) and found["paired_p_min"] == 0.5
    assert found["mean_difference"] != found["mean_difference_unpaired"]
    assert found["bootstrap_coverage"] == statistics.bootstrap_coverage(3, 4)
    single = compare(results.read(write([run("6A", seed=1), run("6E", seed=2)])), "6A:kd", "6E:kd")
    alone = single["metrics"]["macro_f1"]
    assert alone["pairs"] == 0 and alone["t_interval"] is None and alone["paired_p"] is None and alone["dunnett_p"] == 1
    assert "no paired interval" in " ".join(comparison.sentences(single))


def test_any_metric_of_the_schema_is_a_column_that_can_be_compared(write):
    rows = [run(family, seed=seed, ece_smooth=0.01 * number) for family in ("6A", "6E") for number, seed in
            enumerate(SEEDS, family == "6E")]  # fmt: skip
    result = compare(results.read(write(rows)), "6A:kd", "6E:kd", metrics=["ece_smooth", "f1_sad"])
    assert result["metrics"]["ece_smooth"]["mean_difference"] == pytest.approx(0.01)
    assert comparison.sentences(result)[0].startswith("smooth ECE: 6E kd is 0.0100 above 6A kd")


def test_a_setting_that_is_not_always_told_is_told_where_runs_differ_in_it(write):
    rows = [run("6A", seed=seed, alpha=alpha, dkd_warmup="") for seed in SEEDS for alpha in (0.5, 0.7)]
    rows += [run("6E", "dkd", seed, beta=4, dkd_target_term="official", dkd_warmup=n) for seed in SEEDS for n in (0, 9)]
    rows += [run("none", "none", seed, views=n) for seed in SEEDS for n in (1, 4)]
    frame = results.read(write(rows))
    assert list(recipes.split(frame)) == [
        *("6A:kd:alpha=0.5", "6A:kd:alpha=0.7", "6E:dkd:beta=4", "6E:dkd:beta=4,dkd_warmup=9"),
        *("none", "none:none:views=4"),
    ]
    labels = [recipe.label for recipe in recipes.of(frame, params.load(), [])]
    assert labels == [
        *("labels alone", "labels alone views=4", "6A kd α=0.5", "6A kd α=0.7", "6E dkd β=4", "6E dkd β=4 warmup=9"),
    ]
    with pytest.raises(UsageError, match=r"also named: alpha=0\.5, 0\.7"):
        recipes.select(frame, "6A:kd")
    assert set(recipes.select(frame, "6E:dkd")["dkd_warmup"]) == {0}
    assert len(recipes.select(frame, "none")) == 3


def row(family, mode="kd", **other):
    return pd.Series({"family": family, "mode": mode, **other}, dtype=object)


def test_null_pairs_follow_from_the_teacher_weights():
    settings = params.load()
    same = recipes.same_loss
    assert same(settings, row("6C"), row("6E")) is True
    assert same(settings, row("6B"), row("6D", **{"lambda": 0.7})) is True
    assert same(settings, row("6B"), row("6D", **{"lambda": 0.5})) is False
    assert same(settings, row("6A"), row("6D", **{"lambda": 1.0})) is True  # the other source has no weight
    assert same(settings, row("6A"), row("6E")) is False
    assert same(settings, row("6C", fusion="logit"), row("6E")) is False
    assert same(settings, row("6C", "dkd", beta=4.0), row("6E", "dkd", beta=4.0)) is False  # NCKD is not linear
    assert same(settings, row("6E", "dkd", beta=4.0), row("6E", "dkd", beta=2.0)) is False
    assert same(settings, row("6C", temperature=2.0), row("6E", temperature=4.0)) is False
    assert same(settings, row("6C"), row("6E", "dkd")) is False
    dkd = {"beta": 4.0, "dkd_target_term": "official", "dkd_warmup": 0}
    assert same(settings, row("6E", "dkd", **dkd), row("6E", "dkd", **dkd)) is True
    assert same(settings, row("6E", "dkd", **dkd), row("6E", "dkd", **dkd | {"dkd_warmup": 9})) is False
    assert same(settings, row("6C", beta=4.0), row("6E")) is True  # kd does not read it
    assert same(settings, row("none", "none"), row("none", "none")) is True
    assert same(settings, row("6C"), row("unknown")) is None
    assert same(settings, row("6B"), row("6D")) is None  # lambda is not recorded


def test_a_null_pair_is_called_one(write):
    frame = results.read(write([run(family, seed=seed) for family in ("6C", "6E", "6A") for seed in SEEDS]))
    result = compare(frame, "6C:kd", "6E:kd")
    assert result["null_pair"]["identical_losses"] is True
    said = " ".join(comparison.sentences(result))
    assert "minimise the same loss (teacher weights resnet18 0.25" in said and "not an effect of the recipe" in said
    assert compare(frame, "6A:kd", "6E:kd")["null_pair"]["identical_losses"] is False


@pytest.fixture
def stored(tmp_path, write):
    """Runs whose predictions lie in a DVC cache."""
    generator = np.random.default_rng(1)
    labels = generator.integers(0, len(CLASSES), 90)
    rows, logits_of = [], {}
    for number, (family, seed) in enumerate((f, s) for f in ("6A", "6E") for s in SEEDS):
        logits = (2 * np.eye(len(CLASSES))[labels] + generator.normal(0, 1.3, (90, len(CLASSES)))).astype(np.float32)
        frame = predictions(logits, labels, "test", each=3)
        frame = pd.concat([frame, frame.assign(split="val")]).sample(frac=1, random_state=number)  # in any order
        digest = f"{number:032x}"
        store(tmp_path / "cache", digest, frame)
        logits_of[family, seed] = logits
        rows.append(run(family, seed=seed, predictions=digest))
    return results.read(write(rows)), tmp_path / "cache", labels, logits_of


def test_stored_predictions_give_intervals_over_subjects(stored):
    frame, cache, labels, logits_of = stored
    result = compare(frame, "6A:kd", "6E:kd", cache=cache)
    found = result["examples"]
    assert found["available"] and (found["rows"], found["clusters"], found["seeds"]) == (90, 30, SEEDS)
    for name in schema.COMPARED:
        means = [np.mean([score(logits_of[f, s], labels, CLASSES)[name] for s in SEEDS]) for f in ("6A", "6E")]
        assert found["metrics"][name]["difference"] == pytest.approx(means[1] - means[0], abs=1e-9)
        low, high = found["metrics"][name]["interval"]
        assert low < high
    assert "30 subjects or groups" in " ".join(comparison.sentences(result))


def test_kept_predictions_stand_in_for_a_cache(stored, tmp_path, monkeypatch):
    frame, cache, _, _ = stored
    monkeypatch.chdir(tmp_path)
    before = compare(frame, "6A:kd", "6E:kd", cache=cache)
    keep(frame, cache)
    assert compare(frame, "6A:kd", "6E:kd", cache=tmp_path / "elsewhere") == before
    keep(frame, tmp_path / "elsewhere")  # where they are kept already
    (tmp_path / KEPT / f"{5:032x}.parquet").unlink()
    with pytest.raises(CheckError, match="1 of 6 runs"):
        keep(frame, tmp_path / "elsewhere")


def test_absent_predictions_are_said_and_wrong_ones_refused(stored, tmp_path):
    frame, cache, _, _ = stored
    gone = compare(frame, "6A:kd", "6E:kd", cache=tmp_path / "elsewhere")["examples"]
    assert not gone["available"] and "6 of 6 runs are neither in DVC's cache" in gone["why"]
    frame["predictions"] = "../../../etc/passwd"
    assert compare(frame, "6A:kd", "6E:kd", cache=cache)["examples"]["why"].startswith("a run has no md5")
    frame["predictions"] = [f"{number:032x}" for number in range(6)]
    target = cache / "files" / "md5" / "00" / f"{5:030x}"
    other = pd.read_parquet(target)
    other["path"] = "x" + other["path"]
    (cache / "files" / "md5" / "ff").mkdir()
    other.to_parquet(cache / "files" / "md5" / "ff" / f"{5:030x}")
    frame.loc[5, "predictions"] = "ff" + f"{5:030x}"
    with pytest.raises(CheckError, match="not of the same images"):
        compare(frame, "6A:kd", "6E:kd", cache=cache)
    (cache / "files" / "md5" / "ff" / f"{6:030x}").write_bytes(b"PAR1 and no more")
    frame.loc[5, "predictions"] = "ff" + f"{6:030x}"
    with pytest.raises(CheckError, match="cannot be read"):
        compare(frame, "6A:kd", "6E:kd", cache=cache)


def test_the_command_answers_people_and_machines():
    command = ["study", "compare", "--baseline", "6A:kd", "--results", str(SECTION_5_1)]
    result = json.loads(CliRunner().invoke(cli, [*command, "--candidate", "6E:kd", "--json"]).output)
    found = result["metrics"]["macro_f1"]
    assert {
        *("per_seed", "mean_difference", "t_interval", "bootstrap_interval", "bootstrap_coverage", "permutation_p"),
        *("permutation_p_min", "paired_p", "paired_p_min", "cohens_d", "seeds_needed", "dunnett_p"),
    } <= set(found)
    assert found["mean_difference"] == pytest.approx(0.0042226) and found["permutation_p"] == 0.1
    shown = CliRunner().invoke(cli, [*command, "--candidate", "6E:kd"]).output
    assert "3 against 3 seeds cannot give p < 0.10 unpaired" in shown and "+0.0042" in shown
    every = CliRunner().invoke(cli, [*command, "--all", "--json"])
    assert [one["candidate"]["selector"] for one in json.loads(every.output)] == ["6E:kd"]
    assert "6E kd" in CliRunner().invoke(cli, [*command, "--all", "--metric", "macro_f1"]).output
    for wrong in ([], ["--all", "--candidate", "6E:kd"], ["--all", "--metric", "f1"], ["--candidate", "6A:kd"]):
        assert isinstance(CliRunner().invoke(cli, [*command, *wrong]).exception, UsageError)


def test_a_metric_without_values_is_said_to_have_none():
    frame = results.read(SECTION_5_1)
    frame["ece"] = np.nan
    with pytest.raises(UsageError, match="no run of the table has a value of ece"):
        compare(frame, "6A:kd", "6E:kd", metrics=["ece"])
    frame.loc[frame["family"] == "6A", "ece"] = 0.05  # one of them has
    (said,) = comparison.sentences(compare(frame, "6A:kd", "6E:kd", metrics=["ece"]))
    assert "cannot be compared" in said


def test_the_workspaces_own_table_is_of_its_own_corpus_and_index(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "params.yaml").read_text()
    files.write_text(tmp_path / "params.yaml", text)
    files.write_text(tmp_path / results.SUMMARY, (ROOT / results.SUMMARY).read_text())
    compare = ["study", "compare", "--baseline", "none", "--candidate", "6E:kd"]
    every = [compare, ["study", "decide"], ["study", "report"]]
    digest = pd.read_csv(ROOT / results.SUMMARY)["index_digest"].unique().item()[:8]
    # A clone before `dvc repro` has no index.
    assert CliRunner().invoke(cli, compare).exit_code == 0
    files.write_json(tmp_path / "data/index/ixNextAffFull.json", {"digest": "0" * 64})
    for command in every:
        refused = CliRunner().invoke(cli, command).exception
        assert isinstance(refused, CheckError)
        of = f"of corpus embedded, scale embedded, index {digest}; the workspace has embedded, embedded, 00000000"
        assert of in str(refused)
    assert not any((tmp_path / name).exists() for name in ("docs", "plots", "reports"))
    assert CliRunner().invoke(cli, [*compare, "--results", str(results.SUMMARY)]).exit_code == 0
    (tmp_path / "data/index/ixNextAffFull.json").unlink()
    files.write_text(tmp_path / "params.yaml", text.replace("corpus: embedded ", "corpus: mine ", 1))
    with pytest.raises(UsageError, match="no table of results here"):
        results.require_own(params.load())
    files.write_text(tmp_path / workspace.results("mine"), (ROOT / results.SUMMARY).read_text())
    with pytest.raises(CheckError, match="the workspace has mine, embedded\n"):
        results.require_own(params.load())
    bare = "family,mode,seed,macro_f1\n6E,kd,1,0.8\n"
    files.write_text(tmp_path / workspace.results("mine"), bare)
    with pytest.raises(CheckError, match="of corpus not said, scale not said"):
        results.require_own(params.load())


def test_a_table_is_not_written_over_where_runs_would_be_lost(tmp_path):
    rows = [
        {"family": "6D", "mode": "kd", "lambda": 0.7, "seed": seed, "macro_f1": 0.8 + seed / 100, "scale": "embedded"}
        for seed in (1, 2)
    ]
    path = tmp_path / "r.csv"
    collect.require_kept(path, rows)  # nothing is there
    collect.write(path, rows)
    newer = [row | {"macro_f1": 0.7} for row in rows]
    collect.require_kept(path, [*newer, rows[0] | {"seed": 3}])
    for fewer in (rows[:1], [row | {"lambda": 0.3} for row in rows], [row | {"scale": "smoke"} for row in rows]):
        with pytest.raises(CheckError, match=r"of the 2 runs there.*lost(?s:.*)--replace"):
            collect.require_kept(path, fewer)
