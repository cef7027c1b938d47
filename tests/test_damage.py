"""`ferdistill data check`: damage that DVC takes for whole is found, and set aside without losing anything."""

import json
import os

import pytest
from dvc.repo import Repo
from typer.testing import CliRunner

from ferdistill.cli import cli
from ferdistill.errors import CheckError, UsageError
from ferdistill.tracking import damage


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A file and a folder in DVC's cache and in the workspace."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    for name in ("one.bin", "folder/a.bin", "folder/b.bin"):
        (tmp_path / name).write_bytes(name.encode() * 1000)
    with Repo.init(no_scm=True) as repo:
        repo.add(["one.bin", "folder"])
    return tmp_path


def cached(repository, name):
    """The object that a tracked file, or the list of a tracked folder, is in."""
    digest = next(line.split()[-1] for line in (repository / f"{name}.dvc").read_text().split("\n") if "md5:" in line)
    return repository / ".dvc/cache/files/md5" / digest[:2] / digest[2:]


def damaged(path):
    data = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    path.chmod(0o444)


def test_whole_data_is_said_to_be_whole(repository):
    assert damage.find() == damage.Damage(4, 3, [], [])
    done = CliRunner().invoke(cli, ["data", "check", "--repair", "--json"])
    assert json.loads(done.stdout) == {"objects": 4, "files": 3, "damaged": [], "set_aside": False}


def test_a_damaged_object_and_the_file_that_came_of_it_are_found_and_set_aside(repository):
    path = cached(repository, "one.bin")
    damaged(path)
    (repository / "one.bin").unlink()
    with Repo() as repo:
        repo.checkout(["one.bin"])
    wrong = path.read_bytes()
    assert (repository / "one.bin").read_bytes() == wrong  # DVC did not look
    done = CliRunner().invoke(cli, ["data", "check"])
    assert done.exit_code == 1 and isinstance(done.exception, CheckError)
    names = [path.relative_to(repository).as_posix(), "one.bin"]
    done = CliRunner().invoke(cli, ["data", "check", "--json"])
    assert done.exit_code == 1 and json.loads(done.stdout)["damaged"] == names and path.is_file()
    done = CliRunner().invoke(cli, ["data", "check", "--repair"])
    assert done.exit_code == 0 and not path.exists() and not (repository / "one.bin").exists()
    kept = repository / damage.ASIDE
    assert sorted(file.read_bytes() for file in kept.rglob("*") if file.is_file()) == [wrong, wrong]
    assert damage.find() == damage.Damage(3, 2, [], [])


def test_a_damaged_list_of_a_folder_is_found(repository):
    damaged(cached(repository, "folder"))
    found = damage.find()
    assert [path.name for path in found.damaged_objects] == [cached(repository, "folder").name]


def test_an_edit_that_dvc_cannot_see_is_found_and_one_that_it_sees_is_left_alone(repository):
    before = (repository / "folder/a.bin").stat()
    (repository / "folder/a.bin").write_bytes(b"Folder/a.bin" * 1000)
    os.utime(repository / "folder/a.bin", ns=(before.st_atime_ns, before.st_mtime_ns))
    (repository / "one.bin").write_bytes(b"my own work")
    assert [path.as_posix() for path in damage.find().damaged_files] == ["folder/a.bin"]
    (repository / "folder/b.bin").write_bytes(b"my own work")
    assert damage.find().damaged_files == []  # DVC now reads the folder itself


def test_what_cannot_be_read_is_damage_too(repository):
    path = cached(repository, "one.bin")
    path.unlink()
    path.mkdir()
    (repository / "folder/b.bin").unlink()
    (repository / "folder/a.bin").unlink()
    (repository / "folder/a.bin").symlink_to("a.bin")
    found = damage.find()
    assert found.damaged_objects == [path.relative_to(repository)]
    assert [path.as_posix() for path in found.damaged_files] == ["folder/a.bin"]
    damage.set_aside(found)
    assert not path.exists() and not os.path.lexists(repository / "folder/a.bin")


def test_no_repository_is_said(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="no DVC repository"):
        damage.find()
