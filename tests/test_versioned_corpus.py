"""A corpus that was added to DVC is DVC's: seen, sent, kept; and no picture is git's."""

import json
import shutil

import pytest
import yaml

from support.repository import ROOT, run


@pytest.fixture
def repository(tmp_path):
    """This repository's rules of what git and DVC ignore, and a corpus that was added."""
    for name in (".gitignore", ".dvcignore"):
        shutil.copy2(ROOT / name, tmp_path / name)
    run(tmp_path, "git", "init", "-q")
    run(tmp_path, "git", "config", "user.name", "tester")
    run(tmp_path, "git", "config", "user.email", "tester@example.org")
    run(tmp_path, "dvc", "init", "-q")
    corpus = tmp_path / "data/raw/mine/cats"
    corpus.mkdir(parents=True)
    (corpus / "one.png").write_text("one")
    run(tmp_path, "dvc", "add", "-q", "data/raw/mine")
    run(tmp_path, "git", "add", "-A")
    run(tmp_path, "git", "commit", "-qm", "a corpus")
    return tmp_path


def test_dvc_sees_a_change_of_the_corpus_sends_it_and_keeps_it(repository, tmp_path_factory):
    assert "data/raw/mine.dvc" in run(repository, "git", "ls-files").stdout.split()
    (repository / "data/raw/mine/cats/two.png").write_text("two")
    assert list(json.loads(run(repository, "dvc", "status", "--json").stdout)) == ["data/raw/mine.dvc"]
    run(repository, "dvc", "commit", "-fq")
    assert "data/raw/mine.dvc" in run(repository, "git", "status", "--porcelain").stdout
    remote = tmp_path_factory.mktemp("remote")
    run(repository, "dvc", "remote", "add", "-dq", "shared", str(remote))
    run(repository, "dvc", "push", "-q")
    shutil.rmtree(repository / "data/raw/mine")
    shutil.rmtree(repository / ".dvc/cache")
    run(repository, "dvc", "pull", "-q")
    run(repository, "dvc", "gc", "-wfq")
    shutil.rmtree(repository / "data/raw/mine")
    run(repository, "dvc", "checkout", "-q")
    assert sorted(file.name for file in (repository / "data/raw/mine/cats").iterdir()) == ["one.png", "two.png"]


def test_no_picture_is_gits_before_it_is_added_or_after(repository):
    for name in ("data/raw/theirs/dog.png", "data/raw/loose.jpg", "data/raw/.hidden/x.png"):
        (repository / name).parent.mkdir(parents=True, exist_ok=True)
        (repository / name).write_text("picture")
    assert run(repository, "git", "status", "--porcelain", "--untracked-files=all").stdout == ""


def test_an_experiment_in_a_workspace_of_its_own_has_the_corpus(repository):
    (repository / "params.yaml").write_text("seed: 1\n")
    stage = {"cmd": "ls data/raw/mine/cats > seen.txt", "deps": ["data/raw/mine"], "params": ["seed"]}
    pipeline = {"stages": {"see": stage | {"outs": [{"seen.txt": {"cache": False}}]}}}
    (repository / "dvc.yaml").write_text(yaml.safe_dump(pipeline))
    run(repository, "git", "add", "-A")
    run(repository, "git", "commit", "-qm", "a pipeline")
    run(repository, "dvc", "exp", "run", "-q", "--temp", "-n", "apart", "-S", "seed=2")
    ref = run(repository, "git", "for-each-ref", "--format=%(refname)", "refs/exps").stdout.split()
    (ref,) = (name for name in ref if name.endswith("/apart"))
    assert run(repository, "git", "show", f"{ref}:seen.txt").stdout == "one.png\n"
