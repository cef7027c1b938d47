"""The canary names a planted fault and its row, says nothing of intact rows, and admits what it cannot see."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from conftest import CLASSES, make_index
from ferdistill.cli import cli
from ferdistill.data.index import SPLITS
from ferdistill.errors import CheckError
from ferdistill.softlabels import canary, store
from ferdistill.softlabels.orders import sort_orders

benchmark = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks" / "canary.py"))
CASES, teacher, draw_labels = (benchmark[name] for name in ("CASES", "teacher", "draw_labels"))


def trials(name, rows, number):
    for trial in range(number):
        case = CASES[name](np.random.default_rng(trial), rows)
        yield case, canary.examine(case.values, case.labels, orders=case.orders, others=case.others)


@pytest.mark.parametrize("name", ["intact", "intact, errors in stretches"])
@pytest.mark.parametrize("rows", [500, 2000])
def test_intact_rows_are_aligned(name, rows):
    for _, result in trials(name, rows, 10):
        assert result["verdict"] == "aligned", result["why"]
        assert result["shift"] is None and result["slip_row"] is None and result["slip_interval"] is None
        assert result["agreement"] > result["chance"] and 0 < result["p_value"] < 0.01


@pytest.mark.parametrize(
    "name", ["row dropped", "row dropped, one row fewer", "row dropped, first 50", "row doubled", "blocks swapped"]
)
def test_a_slip_is_named_and_located(name):
    found = list(trials(name, 2000, 12))
    seen = [(case, result) for case, result in found if result["shift"]]
    assert len(seen) >= len(found) - 1  # a row lost among the last dozen leaves no trace
    for case, result in seen:
        assert result["verdict"] == "misaligned" and result["shift"]["kind"] == case.kind
        assert abs(result["slip_row"] - case.slip_row) <= 50
        assert result["evidence"]["log_likelihood_ratio"] > result["evidence"]["threshold"] or len(case.values) < 2000
        if case.kind != "swapped":
            assert result["shift"]["rows"] == 1
    held = [r["slip_interval"][0] <= case.slip_row <= r["slip_interval"][1] for case, r in seen]
    assert sum(held) >= len(held) - 1


def test_swapped_blocks_are_told_with_both_places():
    case = next(iter(trials("blocks swapped", 3000, 1)))[1]
    first, second = (s for s in case["shift"]["segments"] if s["shift"] != 0)
    assert first["shift"] == -second["shift"] > 0
    assert abs(first["start"] + first["shift"] - second["start"]) <= 50


@pytest.mark.parametrize("name", ["another sort order", "FER2013's order of columns", "shuffled"])
def test_other_faults_are_named(name):
    named = [
        result["shift"] is not None and result["shift"]["kind"] == case.kind for case, result in trials(name, 1000, 8)
    ]
    assert sum(named) >= 7  # a teacher that hardly knows a class hides the order of its columns


def test_rows_that_a_great_shift_would_send_beyond_the_labels_are_not_called_moved():
    rng = np.random.default_rng([77, 2000, 38])
    case = CASES["intact, errors in stretches"](rng, 2000)
    assert canary.examine(case.values, case.labels)["verdict"] == "aligned"


def test_a_shuffled_half_is_told_from_a_hard_one():
    rng = np.random.default_rng(0)
    labels = draw_labels(rng, 2000)
    values = teacher(rng, labels)
    hard = np.concatenate([values[:1000], teacher(rng, labels[1000:], accuracy=0.35)])
    assert canary.examine(hard.astype(np.float32), labels)["verdict"] == "aligned"
    values[1000:] = rng.permutation(values[1000:])
    result = canary.examine(values, labels)
    assert result["verdict"] == "misaligned" and result["shift"]["kind"] == "unrelated"
    assert abs(result["slip_row"] - 1000) <= 50


def test_each_sort_order_is_named():
    rng = np.random.default_rng(0)
    labels = draw_labels(rng, 2000)
    values = teacher(rng, labels)
    paths = sorted(f"{'ab'[i % 2]}{'/-'[i % 3 % 2]}{'iI'[i % 5 % 2]}mg{i}.png" for i in range(2000))
    splits = rng.choice(SPLITS, 2000)
    orders = sort_orders(np.array(paths, object), labels.astype(str).astype(object), splits.astype(object))
    assert all((np.sort(order) == np.arange(2000)).all() for order in orders.values())
    for name, order in orders.items():
        result = canary.examine(values[order], labels, orders=orders)
        if (order == np.arange(2000)).all():
            assert result["verdict"] == "aligned"
        else:
            assert result["shift"]["kind"] == "order"
            assert name in [result["shift"]["order"], *result["unresolved_orders"]]


def test_numbers_sort_as_numbers_and_folders_before_names():
    paths = ["a/10.png", "a/9.png", "a-b/1.png", "B/2.png"]
    orders = sort_orders(np.array(paths, object), np.array(["x", "x", "y", "x"], object))
    named = {name: [paths[i] for i in order] for name, order in orders.items()}
    assert named["path as bytes"] == ["B/2.png", "a-b/1.png", "a/10.png", "a/9.png"]
    assert named["path folder by folder"] == ["B/2.png", "a/10.png", "a/9.png", "a-b/1.png"]
    assert named["path regardless of case"] == ["a-b/1.png", "a/10.png", "a/9.png", "B/2.png"]
    assert named["path by numbers"] == ["B/2.png", "a-b/1.png", "a/9.png", "a/10.png"]
    assert named["label then path"] == ["B/2.png", "a/10.png", "a/9.png", "a-b/1.png"]


def test_an_order_that_the_labels_cannot_tell_is_listed():
    rng = np.random.default_rng(0)
    labels = np.sort(draw_labels(rng, 1000))
    within = np.lexsort((rng.random(1000), labels))
    result = canary.examine(teacher(rng, labels)[within], labels, orders={"within classes": within})
    assert result["shift"] is None and result["unresolved_orders"] == ["within classes"]


def test_a_slip_inside_runs_of_one_label_raises_no_false_alarm_and_its_interval_is_honest():
    for _, result in trials("intact, runs of 50 labels", 3000, 12):
        assert result["verdict"] != "misaligned", result["why"]
    found = [(c, r) for c, r in trials("row dropped, runs of 50 labels", 3000, 12) if r["slip_row"] is not None]
    assert len(found) >= 6
    held = [r["slip_interval"][0] <= case.slip_row <= r["slip_interval"][1] for case, r in found]
    assert sum(held) >= len(held) - 1
    # The interval spans at least the run that the slip lies in, but for its ends.
    assert np.median([high - low for low, high in (r["slip_interval"] for _, r in found)]) > 50


def test_rows_sorted_by_class_are_inconclusive_but_other_teachers_see_the_slip():
    for _, result in trials("intact, sorted by class, 3 teachers", 2000, 3):
        assert result["verdict"] == "inconclusive" and result["power"] == 0
        assert all(other["shift"] is None for other in result["others"])
    named = 0
    for case, result in trials("row dropped, sorted by class, 3 teachers", 2000, 5):
        assert canary.examine(case.values, case.labels)["verdict"] == "inconclusive"
        named += result["shift"] is not None and result["shift"]["kind"] == "teachers"
    assert named >= 2


def test_one_dissenting_teacher_is_not_blamed_on_these():
    found = [(c, r) for c, r in trials("row dropped, sorted by class, 3 teachers", 2000, 5) if r["shift"]]
    slipped, _ = found[0]
    one, two = slipped.others
    result = canary.examine(one, slipped.labels, others=[slipped.values, two])
    assert result["verdict"] == "inconclusive" and result["others"][0]["shift"] and not result["others"][1]["shift"]


def test_the_stated_blind_rows_are_those_where_a_lost_row_goes_unseen():
    rng = np.random.default_rng(3)
    labels = draw_labels(rng, 300)
    values = teacher(rng, labels)
    result = canary.examine(values, labels)
    assert result["verdict"] == "aligned" and 0 < result["blind_rows"] < 60
    assert result["power"] == 1 - result["blind_rows"] / 300
    seen = [
        canary.examine(np.concatenate([np.delete(values, row, axis=0), values[:1]]), labels)["shift"] is not None
        for row in range(0, 300, 10)
    ]
    assert abs(np.mean(seen) - result["power"]) < 0.1


def test_too_few_rows_are_inconclusive_not_aligned():
    rng = np.random.default_rng(0)
    labels = draw_labels(rng, 40)
    assert canary.examine(teacher(rng, labels), labels)["verdict"] == "inconclusive"
    shuffled = canary.examine(rng.permutation(teacher(rng, labels)), labels)
    assert shuffled["verdict"] == "inconclusive" and "too few rows" in shuffled["why"]


@pytest.mark.parametrize("rows", [991, 997, 1000])
def test_a_teacher_that_always_says_one_class_is_inconclusive(rows):
    labels = draw_labels(np.random.default_rng(rows), rows)
    result = canary.examine(np.eye(7)[np.full(rows, 3)], labels)
    assert result["verdict"] == "inconclusive" and result["p_value"] == 1


def test_another_length_is_misaligned_wherever_the_rows_went():
    rng = np.random.default_rng(0)
    labels = draw_labels(rng, 1000)
    values = teacher(rng, labels)
    short = canary.examine(values[:900], labels)
    assert short["verdict"] == "misaligned" and short["shift"]["rows"] == 100
    assert short["slip_interval"][0] > 880 and short["why"].startswith("900 rows for 1000")
    late = canary.examine(np.concatenate([values[100:], values[:3]]), labels)
    assert late["shift"]["kind"] == "dropped" and late["shift"]["rows"] == 100 and late["slip_interval"][0] == 0
    long = canary.examine(np.concatenate([values[:1], values]), labels)
    assert long["shift"]["kind"] == "doubled" and long["shift"]["rows"] == 1
    assert long["slip_interval"][0] <= 1 <= long["slip_interval"][1]


@given(seed=st.integers(0, 2**31), temperature=st.sampled_from([0.25, 0.5, 2.0, 4.0]))
@settings(max_examples=10, deadline=None)
def test_the_temperature_and_the_kind_of_soft_label_do_not_matter(seed, temperature):
    rng = np.random.default_rng(seed)
    labels = draw_labels(rng, 300)
    logits = rng.normal(0, 1, (300, 7)) + 2 * np.eye(7)[labels]
    probabilities = np.exp(logits / temperature)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    assert canary.examine(logits, labels) == canary.examine(probabilities, labels)


def test_the_p_value_is_that_of_shuffles():
    rng = np.random.default_rng(0)
    labels = draw_labels(rng, 200)
    predictions = np.where(rng.random(200) < 0.1, labels, draw_labels(rng, 200))
    values = np.eye(7)[predictions]
    result = canary.examine(values, labels)
    agreeing = [(rng.permutation(predictions) == labels).mean() for _ in range(10_000)]
    assert result["chance"] == pytest.approx(np.mean(agreeing), abs=0.001)
    share = np.mean(np.array(agreeing) >= result["agreement"])
    assert 0.002 < share < 0.5 and result["p_value"] == pytest.approx(share, rel=0.15)


@pytest.mark.parametrize(
    ("values", "labels", "message"),
    [
        (np.zeros((0, 7)), np.zeros(3, int), "shape"),
        (np.zeros(7), np.zeros(3, int), "shape"),
        (np.full((3, 7), np.nan), np.zeros(3, int), "row 0"),
        (np.zeros((3, 7)), np.full(3, 7), "not positions"),
        (np.zeros((3, 7)), np.full(3, -1), "not positions"),
        (np.zeros((3, 7)), np.zeros(0, int), "not positions"),
    ],
)
def test_what_cannot_be_examined_is_refused(values, labels, message):
    with pytest.raises(CheckError, match=message):
        canary.examine(values, labels)


def test_a_witness_of_another_length_is_refused():
    with pytest.raises(CheckError, match="another teacher has 4 rows"):
        canary.examine(np.eye(7), np.arange(7), others=[np.eye(7)[:4]])


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    lengths = {"train": 900, "val": 200, "calib": 200, "test": 300}
    return make_index(tmp_path_factory.mktemp("i") / "i.csv", lengths, CLASSES)


def logits_for(index, seed):
    return teacher(np.random.default_rng(seed), index.codes(CLASSES))


def test_directories_are_examined_split_by_split(index, tmp_path):
    for seed in range(2):
        store.write(
            tmp_path / str(seed), index, logits_for(index, seed), CLASSES, teacher=str(seed), checkpoint_sha256=None
        )
    (tmp_path / "keyless").mkdir()
    train = logits_for(index, 2)[index.positions("train")]
    np.save(tmp_path / "keyless" / "train_logits.npy", np.delete(train, 400, axis=0))
    report = canary.check([tmp_path / "0", tmp_path / "1", tmp_path / "keyless"], index)
    assert not report["ok"] and report["dirs"][2] == (tmp_path / "keyless").as_posix()
    assert [Path(r["dir"]).name + " " + r["split"] for r in report["results"]] == [
        "0 train", "1 train", "keyless train", "0 val", "1 val", "0 calib", "1 calib", "0 test", "1 test",
    ]  # fmt: skip
    slipped = [r for r in report["results"] if r["verdict"] != "aligned"]
    assert [(r["split"], r["verdict"], r["shift"]["kind"]) for r in slipped] == [("train", "misaligned", "dropped")]
    assert abs(slipped[0]["slip_row"] - 400) < 50
    assert [len(r["others"]) for r in report["results"][:3]] == [1, 1, 0]
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert canary.check([tmp_path / "0"], index)["ok"]


def test_a_file_without_splits_is_the_whole_index_and_columns_go_by_name(index, tmp_path):
    values = logits_for(index, 0)
    np.savez(tmp_path / "softlabels.npz", logits=values[:, ::-1], classes=np.array(CLASSES[::-1]))
    report = canary.check([tmp_path], index)
    assert report["ok"] and report["results"][0]["split"] == "" and report["results"][0]["rows"] == 1600
    np.savez(tmp_path / "softlabels.npz", logits=values[:, ::-1])
    (found,) = canary.check([tmp_path], index)["results"]
    assert found["shift"]["columns"] == list(range(7))[::-1]
    assert f"`ferdistill align repair {tmp_path} --columns {','.join(CLASSES[::-1])} --out NEW`" in found["hint"]


def test_keys_in_order_do_not_hide_values_that_are_not_theirs(tmp_path):
    """`align check`, whose keys alone would pass."""
    index = make_index(tmp_path / "i.csv", {"train": 900, "val": 200, "calib": 200, "test": 300}, CLASSES)
    values, (old, new) = logits_for(index, 0), (tmp_path / "old", tmp_path / "new")
    old.mkdir()
    exchanged = [0, 1, 5, 3, 4, 2, 6]  # fear and sad

    def align(command, *options):
        shown = CliRunner().invoke(cli, ["align", command, str(old), "--index", str(tmp_path / "i.csv"), *options])
        return shown.exit_code, shown.output

    def write(values, **more):
        keys = {name: index.rows[column].to_numpy(str) for name, column in (("paths", "path"), ("split", "split"))}
        np.savez(old / "softlabels.npz", probs=values, **keys, **more)

    write(values)
    code, output = align("check", "--json")
    report = json.loads(output)
    assert (
        code == 0 and report["canary"]["ok"] and [found["hint"] for found in report["canary"]["results"]] == [None] * 4
    )
    write(np.roll(values, 1, axis=0))
    assert align("check", "--no-canary")[0] == 0
    code, output = align("check", "--json")
    report = json.loads(output)
    assert code == 1 and not report["ok"] and not report["splits"]["train"]["ok"]
    first, found = report["problems"][0], report["canary"]["results"][0]
    assert (first["split"], first["kind"]) == ("train", "values") and found["verdict"] == "misaligned"
    assert first["row"] == found["slip_row"] <= 3 and found["why"] in first["found"]
    assert "the paths beside the values seem to be those of other rows" in first["hint"]
    write(values[:, exchanged])
    code, output = align("check")
    declared = f"`ferdistill align repair {old} --columns {','.join(CLASSES[i] for i in exchanged)} --out NEW`"
    assert code == 1 and f"columns fear and sad look exchanged; if so, {declared}" in output
    write(values[:, exchanged], classes=np.array(CLASSES)[exchanged])
    code, output = align("check")
    assert code == 1 and f"`ferdistill align repair {old} --out NEW` puts the columns in order" in output
    code, output = align("repair", "--out", str(new))
    assert code == 0 and "0 of 1600 rows moved" in output
    assert "columns put in order, from angry, disgust, sad" in output
    assert np.array_equal(store.logits_of(store.read(new)[0], CLASSES).argmax(axis=1), values.argmax(axis=1))


def test_other_classes_and_unknown_splits_are_refused(index, tmp_path):
    np.savez(tmp_path / "softlabels.npz", logits=logits_for(index, 0)[:, :6])
    with pytest.raises(CheckError, match="other classes"):
        canary.check([tmp_path], index)
    (tmp_path / "softlabels.npz").unlink()
    np.save(tmp_path / "extra_logits.npy", logits_for(index, 0))
    with pytest.raises(CheckError, match="a split that the labels do not have: extra"):
        canary.check([tmp_path], index)
