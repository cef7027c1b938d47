"""Anybody's soft labels and a CSV: one verdict a file, the command that mends it, and no guess in silence."""

import json
import os
import re
import shlex
import subprocess
import sys
import venv
from importlib import metadata
from pathlib import Path

import damage
import numpy as np
import pytest
from typer.testing import CliRunner

from conftest import CLASSES
from ferdistill import extras
from ferdistill.cli import cli
from ferdistill.errors import CheckError, FerdistillError, UsageError
from ferdistill.files import sha256_file, write_json
from ferdistill.softlabels import labelled, matching

ROOT = Path(__file__).parents[1]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_labels(pair, name="labels.csv", splits=False):
    head = "path,label,split" if splits else "path,label"
    lines = zip(pair.paths, np.array(CLASSES)[pair.labels], pair.splits, strict=True)
    rows = [",".join(line if splits else line[:2]) for line in lines]
    Path(name).write_text("\n".join([head, *rows, ""]), encoding="utf-8")


def run(*words):
    result = CliRunner().invoke(cli, ["align", *words])
    assert result.exception is None or isinstance(result.exception, SystemExit | FerdistillError), result.exception
    return result


def checked(*words):
    result = run("check", *words, "--json")
    return json.loads(result.output), result.exit_code


@pytest.mark.parametrize(
    ("name", "keyed"), [(name, keyed) for name in damage.KINDS for keyed in damage.KINDS[name].keyed]
)
def test_each_kind_is_named_and_mended(name, keyed):
    found = damage.run(name, keyed, seeds=1, size=1500)
    assert found["said"] == 1
    intact = damage.KINDS[name].shows in (damage.in_step, damage.by_rule)
    # Within a label nothing tells the order; and a row that is lost is all that is wrong where each has its path.
    certain = not intact and (name, keyed) not in (("sorted by label", False), ("one row lost", True))
    assert (found["offered"], found["mended"]) == ((1, 1) if certain else (0, 0))
    assert found["without"] < 100


@pytest.mark.slow
def test_the_whole_matrix_and_no_false_alarm():
    for name, kind in damage.KINDS.items():
        for keyed in kind.keyed:
            found = damage.run(name, keyed, 20)
            # A teacher that hardly knows a class hides the order of its columns.
            assert found["said"] >= (15 if name == "columns exchanged" else 19), found
            assert found["mended"] == found["offered"], found
    assert damage.false_alarms(200) == 0


def test_two_files_in_an_empty_directory(folder):
    pair = damage.draw(0, 1000)
    write_labels(pair)
    np.save("P.npy", pair.values[0])
    np.savez("Q.npz", **damage.kind(pair.values[1]), paths=pair.paths)
    report, code = checked("P.npy", "Q.npz", "--labels", "labels.csv")
    assert code == 0 and [one["verdict"] for one in report["verdicts"]] == ["in step", "in step"]
    assert report["classes"] == CLASSES and "sorted by name" in report["classes_from"]
    shown = run("check", "P.npy", "Q.npz", "--labels", "labels.csv").output
    assert "the labels that occur" in shown and "no paths" in shown and "every path in its row" in shown
    np.save("P.npy", pair.values[0][::-1])
    report, code = checked("P.npy", "Q.npz", "--labels", "labels.csv")
    assert code == 1 and [one["verdict"] for one in report["verdicts"]] == ["out of step", "in step"]
    command = shlex.split(report["verdicts"][0]["mend"])
    assert command[0] == "ferdistill" and run(*command[2:]).exit_code == 0
    assert checked(command[-1], "--labels", "labels.csv")[1] == 0
    assert sorted(path.name for path in folder.iterdir()) == [
        "P.npy", "P.repaired.json", "P.repaired.npz", "Q.npz", "labels.csv",
    ]  # fmt: skip
    evidence = json.loads(Path("P.repaired.json").read_text())["provenance"]["placed"]
    assert evidence["by"] == "canary" and evidence["parts"][0]["shift"]["order"] == "reversed"
    assert run("check", "P.npy", "--labels", "labels.csv", "--no-strict").exit_code == 0


def test_classes_come_from_the_json_else_the_option_else_the_labels(folder):
    pair = damage.draw(1, 500)
    write_labels(pair)
    np.save("P.npy", pair.values[0])
    given = ",".join(CLASSES)
    assert checked("P.npy", "--labels", "labels.csv", "--classes", given)[0]["classes_from"] == "named by --classes"
    Path("labels.json").write_text(json.dumps({"classes": CLASSES}))
    report, _ = checked("P.npy", "--labels", "labels.csv")
    assert report["classes_from"] == "named in labels.json" and report["classes"] == CLASSES
    with pytest.raises(UsageError, match="other classes than those beside the labels"):
        raise run("check", "P.npy", "--labels", "labels.csv", "--classes", "a,b").exception
    Path("labels.json").write_text(json.dumps({"classes": CLASSES, "digest": "0" * 64}))
    with pytest.raises(CheckError, match="changed after it was written"):
        raise run("check", "P.npy", "--labels", "labels.csv").exception


def test_numbers_as_labels_sort_as_numbers(folder):
    Path("labels.csv").write_text("path,label\n" + "".join(f"{row}.png,{row % 11}\n" for row in range(33)))
    assert labelled.read(Path("labels.csv")).classes == [str(number) for number in range(11)]


@pytest.mark.parametrize("lost", [0, 700, 1493])
def test_a_lost_row_is_told_with_its_path_and_repaired_up_to_it_if_asked_for(folder, lost):
    pair = damage.draw(2, 1500)
    write_labels(pair)
    np.save("P.npy", np.delete(pair.values[0], lost, axis=0))
    report, code = checked("P.npy", "--labels", "labels.csv")
    (problem,) = report["problems"]
    assert code == 1 and abs(problem["row"] - lost) < 50 and pair.paths[problem["row"]] in problem["found"]
    command = shlex.split(report["verdicts"][0]["mend"])[2:]
    with pytest.raises(CheckError, match="not certain where they belong"):
        raise run(*[word for word in command if word != "--drop-unmatched"]).exception
    shown = run(*command)
    without = json.loads(Path("P.repaired.json").read_text())["provenance"]["unlabelled"]
    assert pair.paths[lost] in without and all(path in shown.output for path in without)
    with np.load("P.repaired.npz") as made:
        at = np.searchsorted(pair.paths, made["paths"])
        assert np.array_equal(made[next(iter(made))], pair.values[0][at])
        assert len(at) + len(without) == len(pair.paths)


def in_words(*words):
    """What a command prints, without the lines of its table."""
    return " ".join(re.split(r"[\s│]+", run(*words).output))


def test_rows_without_paths_in_step_are_so_with_what_that_cannot_show(folder):
    pair = damage.draw(13, 3000)
    write_labels(pair)
    at, some = np.arange(3000), pair.rng.choice(3000, 600, replace=False)
    at[some] = pair.rng.permutation(some)
    np.save("P.npy", pair.values[0][at])
    np.savez("Q.npz", **damage.kind(pair.values[1]), paths=pair.paths)
    report, code = checked("P.npy", "Q.npz", "--labels", "labels.csv")
    keyless, keyed = report["verdicts"]
    assert code == 0 and keyless["verdict"] == keyed["verdict"] == "in step"
    assert "path" in keyless["caveat"] and keyed["caveat"] is None
    assert keyless["caveat"] in in_words("check", "P.npy", "--labels", "labels.csv")
    Path("P_paths.txt").write_text("".join(f"{path}\n" for path in pair.paths[at]), encoding="utf-8")
    (verdict,) = checked("P.npy", "--labels", "labels.csv")[0]["verdicts"]
    assert verdict["verdict"] == "out of step"


def by_class_folder():
    """A table in the order of the numbers in names, and soft labels as a loader of class folders writes them."""
    pair = damage.draw(14, 1500)
    pair = pair._replace(paths=np.array([f"{CLASSES[label]}/img_{row}.png" for row, label in enumerate(pair.labels)]))
    write_labels(pair)
    order = np.argsort(pair.paths)
    np.save("P.npy", pair.values[0][order])
    return pair, order


def test_orders_that_the_labels_cannot_distinguish_are_told_once_each_with_what_to_do(folder):
    pair, order = by_class_folder()
    report, code = checked("P.npy", "--labels", "labels.csv")
    (verdict,), (problem,) = report["verdicts"], report["problems"]
    assert code == 1 and verdict["mend"] is None
    assert "order: path as bytes or path by numbers, which" in verdict["why"]  # of five names, two orders
    assert "P_paths.txt" in problem["hint"]
    Path("P_paths.txt").write_text("".join(f"{path}\n" for path in pair.paths[order]))
    (verdict,) = checked("P.npy", "--labels", "labels.csv")[0]["verdicts"]
    assert run(*shlex.split(verdict["mend"])[2:]).exit_code == 0
    with np.load("P.repaired.npz") as made:
        assert np.array_equal(made[next(iter(made))], pair.values[0])


def test_a_repair_that_would_keep_less_than_half_is_refused_and_not_offered(folder):
    pair, _ = by_class_folder()
    others = np.array([path if row < 3 else f"other{row}.png" for row, path in enumerate(pair.paths)])
    np.savez("Q.npz", **damage.kind(pair.values[0]), paths=others)
    splits = np.where(np.arange(1500) < 1000, "train", "val")
    write_labels(pair._replace(splits=splits), "split.csv", splits=True)
    strange = np.array([f"x{path}" if split == "val" else path for path, split in zip(pair.paths, splits, strict=True)])
    np.savez("R.npz", **damage.kind(pair.values[1]), paths=strange, split=splits)
    before = sorted(folder.iterdir())
    for file, table, kept in (
        ("P.npy", "labels.csv", r"keep \d of 1,500 rows"),
        ("Q.npz", "labels.csv", "keep 3 of 1,500 rows"),
        ("R.npz", "split.csv", "keep 0 of 500 rows"),
    ):
        assert checked(file, "--labels", table)[0]["verdicts"][0]["mend"] is None
        with pytest.raises(CheckError, match=kept):
            raise run("repair", file, "--labels", table, "--drop-unmatched", "--out", "new.npz").exception
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize("keyed", [True, False])
def test_the_price_of_a_repair_is_told_and_what_it_leaves_is_in_step_but_incomplete(folder, keyed):
    pair = damage.draw(15, 1500)
    write_labels(pair)
    order = np.delete(np.arange(1500), slice(700, 800))
    if keyed:
        order[:2] = 1, 0
        np.savez("P.npz", **damage.kind(pair.values[0][order]), paths=pair.paths[order])
    else:
        np.save("P.npy", pair.values[0][order])
    words = ("P.npz" if keyed else "P.npy", "--labels", "labels.csv")
    (verdict,) = checked(*words)[0]["verdicts"]
    kept, of = verdict["keeps"]
    assert of == 1500 and (kept == 1400 if keyed else 1300 < kept <= 1400)
    assert f"{kept:,} of 1,500 images" in in_words("check", *words)
    assert run(*shlex.split(verdict["mend"])[2:]).exit_code == 0
    with np.load("P.repaired.npz") as made:
        at = np.searchsorted(pair.paths, made["paths"])
    assert len(at) == kept
    report, code = checked("P.repaired.npz", "--labels", "labels.csv")
    (verdict,), (problem,) = report["verdicts"], report["problems"]
    assert code == 1 and (verdict["verdict"], verdict["mend"]) == ("in step, incomplete", None)
    assert f"{1500 - kept:,} of 1,500 images have no soft label" in verdict["why"]
    assert problem["row"] == np.setdiff1d(np.arange(1500), at)[0] and not report["train_len_equal"]
    assert "covers: partial" in problem["hint"] and "align repair" not in problem["hint"]
    write_labels(of_rows(pair, at), "rest.csv")
    assert checked("P.repaired.npz", "--labels", "rest.csv")[1] == 0


def of_rows(pair, at):
    return pair._replace(**{field: getattr(pair, field)[at] for field in ("paths", "labels", "splits")})


def test_values_that_slipped_beside_paths_that_lack_some_are_out_of_step(folder):
    pair = damage.draw(16, 1500)
    write_labels(pair)
    some = np.flatnonzero(np.arange(1500) % 5 > 0)
    np.savez("P.npz", **damage.kind(np.roll(pair.values[0][some], 1, axis=0)), paths=pair.paths[some])
    np.savez("Q.npz", **damage.kind(pair.values[1]), paths=pair.paths)
    first, second = checked("P.npz", "Q.npz", "--labels", "labels.csv")[0]["verdicts"]
    assert (first["verdict"], second["verdict"]) == ("out of step", "in step")


def test_an_archive_of_one_array_without_a_name_is_read_and_said_and_others_are_not(folder):
    pair = damage.draw(17, 1000)
    write_labels(pair)
    np.savez("P.npz", pair.values[0])
    report, code = checked("P.npz", "--labels", "labels.csv")
    assert code == 0 and "arr_0" in report["soft_labels"][0]["kind_from"] and report["verdicts"][0]["caveat"]
    for arrays in ([pair.values[0], pair.paths], [pair.labels[:, None]], [pair.values[0][:, 0]]):
        np.savez("P.npz", *arrays)
        with pytest.raises(CheckError, match="do not say what they hold") as caught:
            raise run("check", "P.npz", "--labels", "labels.csv").exception
        assert "probs=" in caught.value.hint


def test_a_file_that_cannot_be_judged_leaves_the_others_their_verdicts(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    pair = damage.draw(18, 1000)
    write_labels(pair)
    np.save("P.npy", pair.values[0])
    np.save("flat.npy", pair.values[0][:, 0])
    Path("bad.npz").write_bytes(b"nothing of the kind")
    Path("P.parquet").write_bytes(b"")
    names = ["bad.npz", "P.npy", "nowhere.npy", "flat.npy", "labels.txt", "P.parquet", f"{'long' * 100}.npy"]
    report, code = checked(*names, "--labels", "labels.csv")
    assert code == 1 and [one["dir"] for one in report["verdicts"]] == names
    assert [one["verdict"] for one in report["verdicts"]] == ["not judged", "in step", *["not judged"] * 5]
    assert "ferdistill[align,parquet]" in report["verdicts"][5]["why"]
    assert {one["dir"] for one in report["problems"]} == {*names} - {"P.npy"} and not report["ok"]
    shown = run("check", *names, "--labels", "labels.csv")
    assert shown.exit_code == 1 and "whole npz file" in shown.output and "2D" not in shown.output
    assert run("check", *names, "--labels", "labels.csv", "--no-strict").exit_code == 0
    report, code = checked("nowhere.npy", "--labels", "labels.csv")
    assert code == 2 and report["verdicts"][0]["verdict"] == "not judged"
    assert checked("nowhere.npy", "here", "--labels", "labels.csv")[1] == 2
    assert checked("bad.npz", "--labels", "labels.csv")[1] == 1


def test_classes_of_which_there_is_no_image_are_asked_for_where_to_name_them(folder):
    pair = damage.draw(19, 1000)
    few = np.flatnonzero(pair.labels != 6)
    write_labels(of_rows(pair, few))
    np.save("P.npy", pair.values[0][few])
    (problem,) = checked("P.npy", "--labels", "labels.csv")[0]["problems"]
    assert "all 7 columns" in problem["hint"] and "--classes" in problem["hint"] and "labels.json" in problem["hint"]
    with pytest.raises(CheckError, match="other classes") as caught:
        raise run("repair", "P.npy", "--labels", "labels.csv", "--out", "new.npz").exception
    assert caught.value.hint == problem["hint"]
    assert checked("P.npy", "--labels", "labels.csv", "--classes", ",".join(CLASSES))[1] == 0
    Path("one.csv").write_text("path,label\na,b\nc,b\n")
    with pytest.raises(CheckError, match="too few classes") as caught:
        raise run("check", "P.npy", "--labels", "one.csv").exception
    assert "--classes" in caught.value.hint and "--classes" not in caught.value.where


def test_a_block_that_moved_is_repaired_but_for_the_rows_near_its_edges(folder):
    pair = damage.draw(10, 1500)
    write_labels(pair)
    rest = np.delete(np.arange(1500), slice(300, 500))
    order = np.concatenate([rest[:900], np.arange(300, 500), rest[900:]])
    np.save("P.npy", pair.values[0][order])
    np.savez("Q.npz", **damage.kind(pair.values[0][order]), paths=pair.paths[order])
    report, _ = checked("P.npy", "--labels", "labels.csv")
    assert run(*shlex.split(report["verdicts"][0]["mend"])[2:]).exit_code == 0
    with np.load("P.repaired.npz") as made:
        at = np.searchsorted(pair.paths, made["paths"])
        assert 1350 < len(at) < 1500 and np.array_equal(made[next(iter(made))], pair.values[0][at])
    (problem,) = checked("Q.npz", "--labels", "labels.csv")[0]["problems"]
    assert problem["hint"].startswith("blocks of rows have moved: 300 to 899, 900 to 1099")


def test_columns_that_are_not_sorted_are_told_with_the_option_that_names_them(folder):
    pair = damage.draw(11, 1500)
    write_labels(pair)
    np.save("P.npy", pair.values[0][:, ::-1])
    (problem,) = checked("P.npy", "--labels", "labels.csv")[0]["problems"]
    option = ",".join(CLASSES[::-1])
    assert f"--classes {option}" in problem["hint"]
    assert checked("P.npy", "--labels", "labels.csv", "--classes", option)[1] == 0


def test_a_rotation_by_a_row_or_two_is_told_as_one_of_two_things(folder):
    pair = damage.draw(12, 1500)
    write_labels(pair)
    np.save("P.npy", np.roll(pair.values[0], 1, axis=0))
    (problem,) = checked("P.npy", "--labels", "labels.csv")[0]["problems"]
    assert "rotated by 1, as np.roll does" in problem["found"] and "--drop-unmatched" in problem["hint"]


def test_soft_labels_of_train_alone_are_checked_as_such(folder):
    pair = damage.draw(3, 1500)
    write_labels(pair, splits=True)
    train = pair.splits == "train"
    np.save("P.npy", pair.values[0][train])
    np.savez("Q.npz", **damage.kind(pair.values[1][train]), paths=pair.paths[train])
    report, code = checked("P.npy", "Q.npz", "--labels", "labels.csv")
    assert code == 0
    assert [soft["held"][0]["splits"] for soft in report["soft_labels"]] == [["train"], ["train"]]
    assert [soft["held"][0]["guessed"] for soft in report["soft_labels"]] == [
        f"by its length, {train.sum()} rows",
        "by its paths",
    ]
    np.save("P.npy", np.roll(pair.values[0][train], 100, axis=0))
    assert checked("P.npy", "--labels", "labels.csv")[0]["problems"][0]["split"] == "train"


def test_a_split_of_which_an_index_has_no_row_is_no_problem(folder):
    pair = damage.draw(3, 1500)
    write_labels(pair, "own.csv", splits=True)
    Path("own.csv").write_text(Path("own.csv").read_text().replace(",val", ",train"))
    write_json("own.json", {"schema_version": 2, "digest": sha256_file("own.csv"), "classes": CLASSES})
    splits = np.where(pair.splits == "val", "train", pair.splits)
    np.savez("P.npz", **damage.kind(pair.values[0]), paths=pair.paths, split=splits)
    report = json.loads(run("check", "P.npz", "--index", "own.csv", "--json").output)
    assert report["ok"] and set(report["splits"]) == {"train", "val", "calib", "test"}


def test_paths_beside_an_array_are_its_keys(folder):
    pair = damage.draw(4, 500)
    write_labels(pair)
    np.save("mine.npy", pair.values[0])
    Path("mine_paths.txt").write_text("".join(f"{path}\n" for path in pair.paths), encoding="utf-8")
    (soft,) = checked("mine.npy", "--labels", "labels.csv")[0]["soft_labels"]
    assert soft["held"][0]["paths"] == "paths of mine_paths.txt, line by line"


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda path: f"/home/me/data/{path}", "/home/me/data/"),
        (lambda path: "C:\\data\\" + path.replace("/", "\\"), "C:/data/"),
        (lambda path: path.rpartition(".")[0] + ".jpg", "without their extension"),
        (lambda path: f"./{path}", "no ./"),
        (lambda path: path.removeprefix("a/"), "a/ of the table's"),
        (
            lambda path: f"x/{path.removeprefix('a/')[:-4]}.npy",
            "without x/ of the soft labels' paths and a/ of the table's",
        ),
    ],
)
def test_paths_of_another_form_match_by_a_rule_that_is_told(change, rule):
    wanted = np.array([f"a/{folder}/{row}.png" for folder in ("b", "c") for row in range(20)], object)
    order = np.random.default_rng(0).permutation(40)
    found = matching.match(np.array([change(path) for path in wanted[order]], object), wanted, "P")
    assert np.array_equal(found.at, order) and found.rule and rule in found.rule


@pytest.mark.parametrize(
    ("paths", "wanted"),
    [
        (["1", "2"], ["a/1.png", "a/1.jpg", "a/2.png"]),
        (["x/1.png", "x/2.png"], ["a/1.png", "b/1.png", "a/2.png", "b/2.png"]),
    ],
    ids=["two extensions", "two folders"],
)
def test_paths_that_match_in_two_ways_are_refused(paths, wanted):
    with pytest.raises(CheckError, match="only ambiguously"):
        matching.match(np.array(paths, object), np.array(wanted, object), "P")


def test_paths_of_other_images_match_by_no_rule():
    paths = np.array([f"x/{row}.png" for row in range(9)], object)
    found = matching.match(paths, np.array([f"y/img{row}.png" for row in range(9)], object), "P")
    assert (found.at == -1).all() and found.rule is None


def test_too_few_rows_without_paths_cannot_be_told_and_fail(folder):
    pair = damage.draw(5, 30)
    write_labels(pair)
    np.save("P.npy", pair.values[0])
    report, code = checked("P.npy", "--labels", "labels.csv", "--classes", ",".join(CLASSES))
    assert code == 1 and report["verdicts"][0]["verdict"] == "cannot tell"
    np.savez("P.npz", **damage.kind(pair.values[0]), paths=pair.paths)
    assert checked("P.npz", "--labels", "labels.csv", "--classes", ",".join(CLASSES))[1] == 0


def test_wrong_tables_and_wrong_use_are_one_clear_message(folder):
    pair = damage.draw(6, 200)
    np.save("P.npy", pair.values[0])
    np.savez("Q.npz", probs=np.full((200, 7), 0.1), paths=pair.paths)
    write_labels(pair)

    def refused(match, error=CheckError, *words, table="labels.csv"):
        with pytest.raises(error, match=match):
            raise run("check", "P.npy", "--labels", table, *words).exception

    refused(r"(?s)no table of labels here.*--labels", UsageError, table="nowhere.csv")
    refused("labels that are no class: ", CheckError, "--classes", "angry,happy")
    (problem,) = checked("Q.npz", "--labels", "labels.csv")[0]["problems"]
    assert problem["kind"] == "not a distribution" and "the sum 0.7" in problem["found"]
    np.savez("again.npz", **damage.kind(pair.values[0]), paths=pair.paths)
    report, code = checked("P.npy", "again.npz", "--labels", "labels.csv", "--no-canary")
    assert code == 1 and "checkpoint" in {problem["kind"] for problem in report["problems"]}
    for text, match in (
        ("image,label\na,b\n", "no column path"),
        ("path,label\n", "no rows"),
        ("path,label\na,b\nb,\n", "empty cells: 1"),
        ("path,label\na,b\na,c\n", "a path stands 2 times: a"),
        ("path,label\na,b\nb\n", "1 cell in data row 1, not 2"),
        ("path,label\na,b\nc,b\n", "too few classes"),
    ):
        Path("t.csv").write_text(text)
        refused(match, table="t.csv")
    Path("t.csv").write_bytes(b"path,label\n\xff,a\n")
    refused("cannot be read", table="t.csv")
    for words, match in (
        (["P.npy"], "no labels to hold the soft labels against"),
        (["--labels", "labels.csv"], "no soft labels named"),
        (["P.npy", "--labels", "labels.csv", "--index", "i.csv"], "both an index and a table"),
        (["P.npy", "--classes", "a,b"], "an index names its classes"),
    ):
        with pytest.raises(UsageError, match=match):
            raise run("check", *words).exception
    for out in ("new", "new.npy", "again.npz"):
        with pytest.raises(UsageError) as caught:
            raise run("repair", "again.npz", "--labels", "labels.csv", "--out", out).exception
        assert "--out again.repaired.npz" in caught.value.hint and not Path(out).is_dir()


def test_nothing_heavy_is_loaded(folder):
    """What `pip install 'ferdistill[align]'` does not bring; and `--help` needs not even NumPy."""
    pair = damage.draw(7, 500)
    write_labels(pair)
    np.save("P.npy", pair.values[0][::-1])
    program = """
import sys
from ferdistill.cli import cli
heavy = {"torch", "timm", "dvc", "onnxruntime", "pandas", "pyarrow", "sklearn", "cv2", "PIL", "matplotlib", "yaml"}
def loaded():
    return {name.partition(".")[0] for name in sys.modules}
for words in (["--help"], ["align", "check", "--help"], ["study", "collect", "--help"], ["watch", "--help"]):
    cli(words, standalone_mode=False)
assert not loaded() & (heavy | {"numpy", "scipy"}), loaded() & (heavy | {"numpy", "scipy"})
for words in (["check", "P.npy", "--no-strict"], ["repair", "P.npy", "--out", "R.npz"]):
    cli(["align", *words, "--labels", "labels.csv"], standalone_mode=False)
assert not loaded() & heavy, loaded() & heavy
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert Path("R.npz").is_file()


@pytest.mark.parametrize(
    ("package", "words", "extra"),
    [
        ("scipy", ["align", "check", "P.npy", "--labels", "labels.csv"], "align"),
        ("pyarrow", ["align", "check", "P.parquet", "--labels", "labels.csv"], "align,parquet"),
        ("torch", ["align", "check", "P.pt", "--labels", "labels.csv"], "train"),
        ("pandas", ["align", "check", "P.npy", "--index", "labels.csv"], "train"),
        ("yaml", ["align", "check"], "train"),
        ("pandas", ["score", "P.npz"], "train"),
        ("onnxruntime", ["bench", "."], "runtime"),
    ],
)
def test_a_command_without_its_packages_names_the_extra(folder, package, words, extra, monkeypatch, capsys):
    write_labels(damage.draw(8, 50))
    for name in ("P.npy", "P.parquet", "P.pt", "params.yaml"):
        Path(name).write_bytes(b"")
    program = f"import sys; sys.modules[{package!r}] = None; from ferdistill.cli import app; app()"
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [sys.executable, "-c", program, *words], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1 and f"pip install 'ferdistill[{extra}]'" in done.stderr


def test_the_extra_that_is_named_brings_the_package():
    """Of all that is imported anywhere, for a command of each kind."""
    source = "".join(file.read_text(encoding="utf-8") for file in (ROOT / "src/ferdistill").rglob("*.py"))
    imported = set(re.findall(r"^ *(?:import|from) (\w+)", source, re.MULTILINE))
    required = [line for line in metadata.requires("ferdistill") if "extra ==" in line]
    brought = {(re.match(r"[\w.-]+", line)[0].lower(), re.search(r"extra == '(\w+)'", line)[1]) for line in required}
    known = 0
    provided = metadata.packages_distributions()
    for name in imported & set(provided):
        # ONNX Runtime comes in two distributions, one of which is installed and the other named as it is imported.
        distributions = {name.lower(), *map(str.lower, provided[name])}
        having = {extra for package, extra in brought if package in distributions}
        for command, own in (("align", "align"), ("serve", "runtime"), ("score", "train")):
            named = extras.bringing(name, command).split(",")
            assert having & set(named) if having else named == [own], (name, command, named)
            assert {package for package, extra in brought if extra == own} <= {
                package for package, extra in brought if extra in named
            }
        known += bool(having)
    assert known > 20


@pytest.mark.slow
def test_from_a_bare_environment_to_the_first_verdict(folder):
    """The wheel and `[align]` alone: at most 250 MB, and no command of theirs that fails for want of a package."""
    subprocess.run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", "dist", str(ROOT)], check=True)
    (wheel,) = Path("dist").glob("ferdistill-*.whl")
    venv.create("bare", with_pip=True)
    scripts = Path("bare") / ("Scripts" if os.name == "nt" else "bin")

    def size():
        return sum(file.lstat().st_size for file in Path("bare").rglob("*") if not file.is_dir())

    before = size()
    install = ["install", "-q", "--disable-pip-version-check", "-c", str(ROOT / "constraints.txt"), f"{wheel}[align]"]
    subprocess.run([scripts / "python", "-m", "pip", *install], check=True)
    assert size() - before < 250e6
    pair = damage.draw(9, 1000)
    write_labels(pair)
    np.save("P.npy", pair.values[0])
    np.savez("Q.npz", **damage.kind(pair.values[1]), paths=pair.paths)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def said(*words):
        command = [scripts / "ferdistill", *words]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    done = said("align", "check", "P.npy", "Q.npz", "--labels", "labels.csv")
    assert done.returncode == 0 and "in step" in done.stdout, done.stdout + done.stderr
    np.save("P.npy", np.roll(pair.values[0], 100, axis=0))
    assert said("align", "check", "P.npy", "--labels", "labels.csv").returncode == 1
    assert said("align", "repair", "P.npy", "--labels", "labels.csv", "--out", "R.npz").returncode == 0
    for words in (["--help"], ["study", "report", "--help"], ["serve", "--help"]):
        assert said(*words).returncode == 0
    assert "ferdistill[train]" in said("study", "collect").stderr
