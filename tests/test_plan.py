"""`ferdistill repro --plan`: beside what DVC then does."""

import json
import subprocess
import sys

import pytest
import yaml
from typer.testing import CliRunner

from ferdistill import workspace
from ferdistill.cli import cli
from ferdistill.errors import UsageError
from ferdistill.files import write_json
from ferdistill.tracking.plan import plan

FIRST = (
    "import yaml\nvalue = yaml.safe_load(open('params.yaml'))['first']['value']\nopen('a', 'w').write(str(value % 2))\n"
)
SECOND = "a = open('a').read()\nopen('b', 'w').write(a)\n"
STAGES = {
    "first": {"cmd": "python first.py", "deps": ["first.py"], "params": ["first"], "outs": ["a"]},
    "second": {"cmd": "python second.py", "deps": ["second.py", "a"], "outs": ["b"]},
}


def run(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("plan")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        run("git", "init", "-q")
        run(sys.executable, "-m", "dvc", "init", "-q")
        (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": STAGES}))
        (root / "params.yaml").write_text("first:\n  value: 1\n  other: x\n")
        (root / "first.py").write_text(FIRST)
        (root / "second.py").write_text(SECOND)
        run(sys.executable, "-m", "dvc", "repro", "-q")
        run("git", "add", "-A")
        run("git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "x")
    return root


@pytest.fixture
def repository(made, monkeypatch):
    monkeypatch.chdir(made)
    yield made
    run("git", "checkout", "-q", "-f", ".")
    run(sys.executable, "-m", "dvc", "checkout", "-q", "--force")


def test_nothing_to_do(repository):
    assert plan([]) == []
    assert "up to date" in CliRunner().invoke(cli, ["repro", "--plan"]).stdout


def test_a_param_its_values_and_what_may_follow(repository):
    (repository / "params.yaml").write_text("first:\n  value: 3\n  other: x\n")
    first, second = plan([])
    assert first.certain and first.reasons == ["params.yaml: first.value 1 -> 3"]
    assert not second.certain and "`first`" in second.reasons[0]
    assert [stage.stage for stage in plan(["first"])] == ["first"]


def test_the_line_of_a_file_and_how_long_it_took(repository):
    (repository / "second.py").write_text(SECOND.replace("write(a)", "write(a + a)"))
    write_json(workspace.duration("second"), {"seconds": 12.4})
    (second,) = plan([])
    assert second.certain and second.reasons == ["second.py:2: modified"] and second.seconds == 12.4
    said = json.loads(CliRunner().invoke(cli, ["repro", "--plan", "--json"]).stdout)
    assert said == [{"stage": "second", "certain": True, "reasons": ["second.py:2: modified"], "seconds": 12.4}]
    workspace.duration("second").write_text("damaged")
    assert plan([])[0].seconds is None
    workspace.duration("second").unlink()


def test_an_output_that_was_edited_or_is_gone(repository):
    (repository / "b").unlink()
    (second,) = plan([])
    assert second.reasons == ["b: not here, made by this stage"]


def test_a_target_that_is_none(repository):
    with pytest.raises(UsageError, match="third"):
        plan(["third"])


def test_where_there_is_no_repository(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError):
        plan([])
