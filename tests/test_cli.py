"""The command line: help, exit codes, JSON."""

import json

import pytest
from typer.testing import CliRunner

from conftest import CLASSES, make_index
from ferdistill import __version__
from ferdistill.cli import app, cli
from ferdistill.errors import UsageError
from ferdistill.files import sha256_file, write_json
from ferdistill.softlabels import store
from support.softlabels import make_store, rewrite

LENGTHS = {"train": 30, "val": 10, "calib": 10, "test": 10}


def test_help_has_examples_and_the_version_is_the_packages():
    shown = CliRunner().invoke(cli, ["align", "check", "--help"]).output
    assert "ferdistill align check --present" in shown
    assert CliRunner().invoke(cli, ["--version"]).output.strip() == __version__


def test_align_check_answers_people_and_machines(tmp_path):
    index = make_index(tmp_path / "i.csv", LENGTHS, CLASSES)
    good, bad = make_store(tmp_path / "good", index), make_store(tmp_path / "bad", index)
    table, _ = store.read(bad)
    rewrite(bad, table.drop(index=4))
    command = ["align", "check", "--index", str(tmp_path / "i.csv"), str(good)]
    assert CliRunner().invoke(cli, [*command, "--strict"]).exit_code == 0  # as without it
    result = CliRunner().invoke(cli, [*command, str(bad), "--json", "--out", str(tmp_path / "o.json")])
    assert result.exit_code == 1
    report = json.loads(result.output)
    assert report == json.loads((tmp_path / "o.json").read_text())
    assert not report["ok"] and {p["kind"] for p in report["problems"]} == {"length", "missing"}
    shown = CliRunner().invoke(cli, [*command, str(bad), "--no-strict"])
    assert shown.exit_code == 0 and "problems" in shown.output and "in step" in shown.output


def test_an_index_of_ones_own_needs_three_columns_and_three_entries(tmp_path):
    index = make_index(tmp_path / "i.csv", LENGTHS, CLASSES)
    table, _ = store.read(make_store(tmp_path / "store", index))
    own, old, new = tmp_path / "own.csv", tmp_path / "old", tmp_path / "new"
    index.rows[["path", "label", "split"]].to_csv(own, index=False)
    old.mkdir()
    table.sample(frac=1, random_state=0).to_csv(old / "t.csv", index=False)
    options = ["--index", str(own)]
    with pytest.raises(UsageError, match=r"(?s)without the JSON.*schema_version 2, digest.*docs/alignment.md"):
        CliRunner().invoke(cli, ["align", "check", str(old), *options], catch_exceptions=False)
    write_json(own.with_suffix(".json"), {"schema_version": 2, "digest": sha256_file(own), "classes": CLASSES})
    shown = CliRunner().invoke(cli, ["align", "check", str(old), *options])
    assert shown.exit_code == 1 and f"`ferdistill align repair {old} --out NEW` puts them in order" in shown.output
    assert CliRunner().invoke(cli, ["align", "repair", str(old), "--out", str(new), *options]).exit_code == 0
    shown = CliRunner().invoke(cli, ["align", "check", str(new), "--json", *options])
    assert shown.exit_code == 0
    assert [found["rows"] for found in json.loads(shown.output)["canary"]["results"]] == list(LENGTHS.values())


def test_a_known_error_is_one_message_and_exit_code_2(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["ferdistill", "align", "check"])
    with pytest.raises(SystemExit) as stop:
        app()
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith("error: no params file here")


def test_pretrain_refuses_a_network_it_has_no_recipe_for(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["ferdistill", "pretrain", "resnet81"])
    with pytest.raises(SystemExit) as stop:
        app()
    assert stop.value.code == 2
    assert "no starting weights to make for resnet81" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command",
    [
        "score x.csv --temperature",
        "score x.csv --level",
        "predict x.png --confidence",
        "watch 0 --smoothing",
        "watch 0 --hysteresis",
        "watch 0 --fps",
        "teachers diversity --temperature",
        "study misalignment --dose",
        "study collect --tz-offset",
        "pretrain --lr",
        "audit x.csv --grid",
    ],
)
def test_what_is_no_finite_number_is_wrong_use(command, monkeypatch, capsys):
    for value in ("nan", "inf", "-inf"):
        monkeypatch.setattr("sys.argv", ["ferdistill", *command.split(), value])
        with pytest.raises(SystemExit) as stop:
            app()
        assert stop.value.code == 2
        assert command.split()[-1] in capsys.readouterr().err
