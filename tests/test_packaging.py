import re
import runpy
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import onnxruntime
import pytest
from packaging.requirements import Requirement

from ferdistill.errors import UsageError
from ferdistill.runtime import session
from ferdistill.runtime.classifier import Classifier
from support import repository

ROOT = Path(__file__).parents[1]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
MACHINES = [("linux", "x86_64"), ("linux", "aarch64"), ("darwin", "arm64"), ("win32", "AMD64")]


def brought(extra, system, machine):
    """The names that an extra brings there, those of the extras that it names included."""
    names, waiting = set(), [*EXTRAS[extra]]
    while waiting:
        wanted = Requirement(waiting.pop())
        if wanted.name == "ferdistill":
            waiting += [line for other in wanted.extras for line in EXTRAS[other]]
        elif wanted.marker is None or wanted.marker.evaluate({"sys_platform": system, "platform_machine": machine}):
            names.add(wanted.name)
    return names


@pytest.mark.parametrize(("system", "machine"), MACHINES)
def test_an_extra_brings_one_onnx_runtime_or_none(system, machine):
    """They are one folder of files: the one that is installed last has it, and its removal breaks the other."""
    found = {
        extra: {name for name in brought(extra, system, machine) if name.startswith("onnxruntime")} for extra in EXTRAS
    }
    assert found["runtime"] == {"onnxruntime"}
    gpu = {"onnxruntime-gpu"} if machine in ("x86_64", "AMD64") else {"onnxruntime"}
    assert found["gpu"] == found["train"] == found["dev"] == gpu
    assert [extra for extra, names in found.items() if len(names) > 1] == []


def test_each_extra_has_a_use_that_the_wheel_is_tried_with():
    assert runpy.run_path(str(ROOT / ".ci/wheel.py"))["USES"].keys() == EXTRAS.keys()


@pytest.mark.slow
def test_each_extra_alone_in_an_empty_environment_does_its_work(tmp_path):
    """Gigabytes from PyPI."""
    command = [sys.executable, str(ROOT / ".ci/wheel.py"), "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    sizes = {
        name: float(mb.replace(",", "")) for name, mb in re.findall(r"\| `(\w+)` \| \d+ \| ([\d,]+) ", done.stdout)
    }
    assert sizes.keys() == EXTRAS.keys()
    assert sizes["align"] < 250 and sizes["runtime"] < 450 and sizes["runtime"] < sizes["gpu"] < sizes["train"]


@pytest.mark.parametrize("device", ["cuda", "tensorrt"])
def test_a_device_that_is_not_here_is_not_tried(bundle, device, monkeypatch, capfd):
    """ONNX Runtime itself would print pages of errors before it says no."""
    monkeypatch.setattr(session, "has_cuda", lambda: False)
    with pytest.raises(UsageError, match=rf"cannot use {device} here(.|\n)*ferdistill\[gpu\]"):
        Classifier(bundle, device=device)
    Classifier(bundle, device="auto")
    assert "".join(capfd.readouterr()) == ""


def test_on_a_cpu_no_other_provider_is_asked_for(bundle, monkeypatch):
    asked = []

    def opened(model, options, providers):
        asked.append(providers)
        return session_class(model, options, providers=providers)

    session_class = onnxruntime.InferenceSession
    monkeypatch.setattr(onnxruntime, "InferenceSession", opened)
    monkeypatch.setattr(session, "has_cuda", lambda: False)
    Classifier(bundle)
    assert asked == [["CPUExecutionProvider"]]


@pytest.fixture
def project(tmp_path, monkeypatch):
    """What a release changes, in a repository of its own."""
    for name in ("CHANGELOG.md", "CITATION.cff", ".gitignore"):
        shutil.copy(ROOT / name, tmp_path)
    repository.run(tmp_path, "git", "init", "-q")
    for key in ("name", "email"):
        repository.run(tmp_path, "git", "config", f"user.{key}", "tester")
    repository.commit(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def release():
    """The script, whose steps write a wheel and a bill of materials at once."""
    script = runpy.run_path(str(ROOT / ".ci/release.py"))
    names = script["main"].__globals__

    def step(program, what, *words):
        if "wheel" in what:
            Path("dist/ferdistill-1.0-py3-none-any.whl").write_bytes(b"wheel")
        elif "sbom" in what:
            Path(words[-1]).write_bytes(b"bill")

    names["__version__"], names["step"] = "1.0", step
    return names


def begin(version, project):
    """A changelog whose newest heading is of a version; not committed."""
    text = f"# Changes\n\n## {version} (not yet released)\n\n- New.\n\n## 0.9 (2020-01-01)\n\n- Old.\n"
    (project / "CHANGELOG.md").write_text(text)


def test_a_release_is_dated_tagged_and_has_its_checksums(project, release):
    begin("1.0", project)
    repository.commit(project)
    release["main"]("auditor")
    assert re.search(r"^## 1\.0 \(20\d\d-\d\d-\d\d\)\n\n- New", (project / "CHANGELOG.md").read_text(), re.M)
    assert re.search(r"^version: 1\.0\ndate-released: 20\d\d-\d\d-\d\d$", (project / "CITATION.cff").read_text(), re.M)
    told = repository.run(project, "git", "tag", "-n9", "--list", "v1.0").stdout
    assert "- New." in told and "Old" not in told
    assert repository.run(project, "git", "describe", "--dirty").stdout == "v1.0\n"
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=project / "dist", check=True)
    with pytest.raises(UsageError, match=r"newest version is ## 1\.0"):
        release["main"]("auditor")


def test_what_cannot_be_released_is_refused_and_changes_nothing(project, release):
    begin("1.1", project)
    with pytest.raises(UsageError, match="uncommitted"):
        release["main"]("auditor")
    repository.commit(project)
    with pytest.raises(UsageError, match=r"## 1\.1(.|\n)*## 1\.0 \(not yet released\)"):
        release["main"]("auditor")
    begin("1.0", project)
    repository.commit(project)
    repository.run(project, "git", "tag", "v1.0")
    with pytest.raises(UsageError, match=r"a tag v1\.0 already"):
        release["main"]("auditor")
    repository.run(project, "git", "tag", "-d", "v1.0")

    def fails(*command):
        if "wheel" in command[1]:
            raise UsageError("no wheel")

    release["step"] = fails
    with pytest.raises(UsageError, match="no wheel"):
        release["main"]("auditor")
    assert repository.run(project, "git", "status", "--porcelain").stdout == ""
    assert repository.run(project, "git", "tag").stdout == ""
