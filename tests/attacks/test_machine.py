"""The machine that the pipeline runs on: links of DVC's cache, users, locales, memory, locks, file systems, letters."""

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml

from support.repository import commit, copy_of_repository, environment, ran, run, set_param

ROOT = Path(__file__).parents[2]
INDEX = "ixNextAffFull"
NOBODY = 61234  # a user whom no system has


def outs(project, but=None):
    """What each stage made, by dvc.lock, but for timings, and for one thing said of each file."""
    stages = yaml.safe_load((project / "dvc.lock").read_text())["stages"]
    of = {name: stage.get("outs", []) for name, stage in stages.items() if name != "benchmark"}
    return {name: [{k: v for k, v in out.items() if k != but} for out in made] for name, made in of.items()}


def dvc_add(project, *command):
    run(project, "dvc", *command)
    commit(project)


# ---- what a refused run leaves ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_refused_run_leaves_what_was_committed_and_cached(project, restored):
    """DVC clears a stage's outputs away before it runs it."""
    other = project / "data/raw/other"
    other.mkdir(parents=True)
    (other / "corpus.yaml").write_text("sources:\n  - {name: a, adapter: folders, path: .}\n")
    (other / "labels.txt").symlink_to("/etc/passwd")
    made = [f"data/index/{INDEX}.csv", f"data/index/{INDEX}_sheets", "metrics/index.json", "plots/class_counts.csv"]
    set_param(project, "corpus: embedded", "corpus: other")
    done = run(project, "dvc", "repro", check=False)
    assert done.returncode and "leaves the corpus directory" in done.stderr, done.stderr
    assert all((project / path).exists() for path in made)
    changed = run(project, "git", "status", "--porcelain", "metrics", "plots", "dvc.lock").stdout
    assert changed in ("", " M dvc.lock\n")  # `params` ran
    shutil.rmtree(other)


# ---- links of DVC's cache ---------------------------------------------------------------------------------------


def reflinks(folder):
    probe = folder / "probe"
    probe.write_text("x")
    command = ["cp", "--reflink=always", probe, folder / "copy"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def mounted(tmp_path, make, mount):
    """A file system of a kind of its own in a file, mounted; skips where that cannot be."""
    image, folder = tmp_path / "image", tmp_path / "mounted"
    folder.mkdir()
    with image.open("wb") as file:
        file.truncate(3 << 30)
    loop = ""
    try:
        if not shutil.which(make[0]) or not shutil.which(mount[0]):
            pytest.skip(f"needs {make[0]} and {mount[0]}")
        subprocess.run([*make, image], check=True, capture_output=True)
        done = subprocess.run(["losetup", "-f", "--show", image], capture_output=True, text=True, check=False)
        loop = done.stdout.strip()
        if not loop or subprocess.run([*mount, loop, folder], capture_output=True, check=False).returncode:
            pytest.skip("needs the right to mount a file system")
        yield folder
    finally:
        if folder.is_mount():
            subprocess.run(["umount", "-l", folder], check=True)
        if loop:
            subprocess.run(["losetup", "-d", loop], check=True)


@pytest.fixture
def btrfs(tmp_path):
    yield from mounted(tmp_path, ["mkfs.btrfs", "-q"], ["mount"])


@pytest.fixture
def exfat(tmp_path):
    yield from mounted(tmp_path, ["mkfs.exfat"], ["mount.exfat-fuse"])


def require_the_same(root, pipeline, kind=None, but=None):
    """A whole run there gives the bytes of the run that nothing troubled, and its commands work."""
    project = copy_of_repository(root)
    if kind:
        dvc_add(project, "config", "cache.type", kind)
    run(project, "dvc", "repro")
    assert outs(project, but) == outs(pipeline / "ferdistill", but)
    run(project, "ferdistill", "data", "check")
    run(project, "ferdistill", "index", "verify")
    run(project, "ferdistill", "align", "check", "--present")
    assert "up to date" in run(project, "dvc", "status").stdout
    return project


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["hardlink", "symlink"])
def test_the_whole_pipeline_gives_the_same_bytes_under_links(pipeline, tmp_path, kind):
    project = require_the_same(tmp_path / "ferdistill", pipeline, kind)
    picture = next((project / "data/raw/embedded").rglob("*.jpg"))
    assert picture.is_symlink() if kind == "symlink" else picture.stat().st_nlink > 1
    # Of two workspaces that share a cache, the second one's links lead out of it too.
    run(project, "git", "add", "-A")
    run(project, "git", "commit", "-qm", "state")
    run(project, "dvc", "exp", "run", "--temp", "-S", "index.seed=1", "images")


@pytest.mark.slow
def test_the_whole_pipeline_gives_the_same_bytes_under_reflinks(pipeline, btrfs):
    assert reflinks(btrfs)
    require_the_same(btrfs / "ferdistill", pipeline, "reflink")


@pytest.mark.slow
def test_the_whole_pipeline_gives_the_same_bytes_where_there_are_no_links(pipeline, exfat):
    with pytest.raises(OSError):
        (exfat / "link").symlink_to("nowhere")
    require_the_same(exfat / "ferdistill", pipeline, but="isexec")  # every file has an x there


# ---- another user, another locale -------------------------------------------------------------------------------


def for_anybody(folder):
    """The environment of a Python that every user may start: it, `dvc` and `ferdistill` in a folder of their own."""
    names = [sys.executable, shutil.which(f"python3.{sys.version_info.minor}", path="/usr/bin:/usr/local/bin")]
    packages = os.pathsep.join(path for path in sys.path if path.endswith("site-packages"))
    folder.mkdir(mode=0o755)
    os.chown(folder, NOBODY, NOBODY)
    env = environment() | {"HOME": str(folder), "PATH": f"{folder}:/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1"}
    env |= {
        "PYTHONPATH": packages,
        "USER": "anybody",
        "XDG_CACHE_HOME": str(folder / "cache"),
        "XDG_CONFIG_HOME": str(folder / "config"),
    }
    for python in filter(None, names):
        script = "import {0}\nimport sys\nsys.exit({0}.{1}())\n"
        for name, module, function in (("dvc", "dvc.cli", "main"), ("ferdistill", "ferdistill.cli", "app")):
            text = f"#!{python}\n" + script.format(module, function)
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)
        (folder / "python").unlink(missing_ok=True)
        (folder / "python").symlink_to(python)
        command = [folder / "python", "-c", "import torch, dvc"]
        try:
            subprocess.run(command, env=env, user=NOBODY, group=NOBODY, extra_groups=[], check=True, cwd=folder)
            return env
        except (OSError, subprocess.CalledProcessError):
            continue
    pytest.skip("needs a Python, and packages, that every user may read")


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="needs the right to become another user")
def test_the_whole_pipeline_gives_the_same_bytes_to_a_user_without_rights(pipeline, tmp_path):
    for folder in (tmp_path, *list(tmp_path.parents)[:-2]):
        if not folder.stat().st_mode & 0o001:
            folder.chmod(folder.stat().st_mode | 0o011)  # pytest keeps its folders to itself
    project = copy_of_repository(tmp_path / "ferdistill")
    env = for_anybody(tmp_path / "home")
    env["PYTHONPATH"] += f"{os.pathsep}{project / 'src'}"  # there is no editable install for others
    subprocess.run(["chown", "-R", f"{NOBODY}:{NOBODY}", project], check=True)
    user = {"user": NOBODY, "group": NOBODY, "extra_groups": [], "env": env, "cwd": project}
    subprocess.run(["dvc", "repro"], check=True, **user)
    assert outs(project) == outs(pipeline / "ferdistill")
    subprocess.run(["ferdistill", "index", "verify"], check=True, **user)


@pytest.mark.slow
def test_a_turkish_locale_changes_no_byte(project, restored, tmp_path):
    """Where `I` in small letters is `ı`."""
    if not shutil.which("localedef"):
        pytest.skip("needs localedef")
    locales = tmp_path / "locales"
    locales.mkdir()
    command = ["localedef", "-i", "tr_TR", "-f", "UTF-8", locales / "tr_TR.UTF-8"]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("needs the sources of locales: Debian's package `locales`")
    env = environment() | {"LOCPATH": str(locales), "LC_ALL": "tr_TR.UTF-8", "LANG": "tr_TR.UTF-8"}
    asked = "import locale; locale.setlocale(locale.LC_ALL, ''); print(locale.getlocale()[0])"
    assert run(project, "python", "-c", asked, env=env).stdout.strip() == "tr_TR"
    before = outs(project)
    for stage in ("params", "corpus", "index", "images", "targets", "calibrate", "evaluate"):
        assert ran(run(project, "dvc", "repro", "--single-item", "--force", stage, env=env)) == [stage]
    assert outs(project) == before
    run(project, "ferdistill", "corpus", "describe", "data/raw/embedded", env=env)


@pytest.mark.slow
def test_a_queue_runs_from_a_path_with_other_letters_once_the_cache_has_none(project, tmp_path):
    here = tmp_path / "Fotoğraflar-ü" / "ferdistill"
    shutil.copytree(project, here, symlinks=True)
    refused = run(here, "ferdistill", "study", "run", check=False)
    assert refused.returncode == 2 and "not ASCII" in refused.stderr, refused.stderr
    run(here, "dvc", "cache", "dir", "--local", str(tmp_path / "cache"))
    (here / ".dvc/cache").rename(tmp_path / "cache")
    run(here, "dvc", "exp", "run", "--temp", "-n", "tried", "-S", "calibrate.draws=150", "calibrate")
    assert "tried" in run(here, "dvc", "exp", "list", "--name-only").stdout


# ---- memory and locks -------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="needs Linux")
def test_memory_that_ends_in_the_middle_of_training_is_said_and_the_next_run_goes_on(project, restored):
    before = outs(project)
    log = project.parent / "log.txt"
    command = ["dvc", "repro", "--force", "--single-item", "student"]
    with log.open("w") as file:
        process = subprocess.Popen(command, cwd=project, env=environment(), stdout=file, stderr=file)
        while "epoch 2/" not in log.read_text():
            assert process.poll() is None, log.read_text()
            time.sleep(0.02)
        (stage,) = [one for one in psutil.Process(process.pid).children() if "student" in one.cmdline()]
        most = stage.memory_info().vms
        resource.prlimit(stage.pid, resource.RLIMIT_AS, (most, most))
        resource.prlimit(stage.pid, resource.RLIMIT_DATA, (1 << 20, 1 << 20))
        assert process.wait(300)
    assert "there is no memory left" in log.read_text() and "Traceback" not in log.read_text(), log.read_text()
    assert "goes on after epoch" in run(project, *command).stderr
    assert outs(project) == before


@pytest.mark.slow
def test_the_locks_of_a_killed_worker_hold_nobody_up(project, restored):
    before = outs(project)
    run(project, "dvc", "exp", "run", "--queue", "-n", "killed", "-S", "alpha=0.6", "evaluate")
    with (project.parent / "log.txt").open("w") as file:
        start = ["dvc", "queue", "start"]
        subprocess.run(start, cwd=project, env=environment(), stdout=file, stderr=file, check=True)
    deadline = time.monotonic() + 300
    while not any("epoch 1/" in log.read_text() for log in project.glob(".dvc/tmp/exps/run/*/*.out")):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    own = [one for one in psutil.process_iter(["cwd"]) if Path(one.info["cwd"] or "/").is_relative_to(project)]
    assert own
    for one in own:
        one.send_signal(signal.SIGKILL)
    psutil.wait_procs(own, 30)
    # As where the machine went down: names of processes that are no more.
    gone = '{"write": {"%s": {"pid": 4194303, "cmd": "dvc queue-worker"}}}' % (project / "dvc.lock")
    for lock in (".dvc/tmp/rwlock", ".dvc/tmp/exps/rwlock"):
        (project / lock).write_text(gone)
    (project / ".dvc/tmp/lock").touch()
    run(project, "dvc", "repro", "--force", "--single-item", "calibrate")
    grid = project / "grid.yaml"
    grid.write_text("seeds: {one: [1337]}\ncells:\n  - {family: 6E, mode: kd, seeds: one, alpha: [0.6]}\n")
    run(project, "dvc", "queue", "remove", "killed", check=False)
    run(project, "git", "checkout", "-q", "HEAD", "--", ".")
    done = run(project, "ferdistill", "study", "run", "--grid", str(grid))
    assert "1 of 1 runs are done" in done.stdout
    assert outs(project) == before
