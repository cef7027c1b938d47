"""Faults: kills, a full disk, unreadable files, damage by hand and in the cache, races, a clock that jumps.

One project was built undisturbed; another, a copy of it, is disturbed. After each fault one more `dvc repro` (or
`ferdistill study run`) must end with the same bytes, and no partial file may be found under the name of a whole one.
Moments are drawn from FAULTS_SEED, how many from FAULTS_MOMENTS; FAULTS_RECORD names a file for what was tried, a JSON
object a line, from which `python tests/test_faults.py RECORD` prints the table of docs/robustness.md.
"""

import hashlib
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest
import yaml

from support.repository import environment, run

pytestmark = pytest.mark.slow

SEED = int(os.environ.get("FAULTS_SEED", "8"))
MOMENTS = int(os.environ.get("FAULTS_MOMENTS", "1"))
RECORD = os.environ.get("FAULTS_RECORD")
PATIENCE = 900  # seconds after which something hangs, however busy the machine
INDEX = "ixNextAffFull"
CHAINS = {
    "data": ["corpus", "index", "images"],
    "teacher": ["teacher@vit_ban", "softlabels@vit_ban"],
    "student": ["targets", "student"],
    "rest": ["calibrate", "evaluate", "robustness", "export"],
}
# Learning curves grow by a row an epoch, for whoever watches; no stage reads them.
GROWING = ("plots/student/", "plots/teachers/")
# No two runs take the same time.
TIMED = "metrics/benchmark.json"


class Kill(NamedTuple):
    how: str
    signal: int
    group: bool


KILLS = [
    Kill("SIGKILL to the group", signal.SIGKILL, True),
    Kill("SIGKILL to dvc alone", signal.SIGKILL, False),
    Kill("SIGTERM to the group", signal.SIGTERM, True),
    Kill("Ctrl-C", signal.SIGINT, True),
]


class Pair(NamedTuple):
    """The undisturbed project, the disturbed one, and what the former holds."""

    reference: Path
    victim: Path
    digests: dict[str, str]
    outs: dict[str, list]


def md5(path):
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def lock(project):
    file = project / "dvc.lock"
    return yaml.safe_load(file.read_text())["stages"] if file.is_file() else {}


def outs_of(project):
    """What each stage made, by dvc.lock, but for timings."""
    return {name: stage.get("outs") for name, stage in lock(project).items() if name != "benchmark"}


def made(project):
    """Digest of every file that a stage makes and of none that a killed process left, by relative path."""
    files = [file for top in ("data", "models", "metrics", "plots") for file in (project / top).rglob("*")]
    names = {file: file.relative_to(project).as_posix() for file in files if file.is_file()}
    return {name: md5(file) for file, name in names.items() if "/." not in name and name != TIMED}


@pytest.fixture(scope="module")
def pair(project, tmp_path_factory):
    victim = tmp_path_factory.mktemp("victim") / "ferdistill"
    shutil.copytree(project, victim, symlinks=True)
    yield Pair(project, victim, made(project), outs_of(project))
    end(processes_of(victim))


@pytest.fixture
def victim(pair):
    """The disturbed project, as the undisturbed one is: files, cache, git."""
    restore(pair)
    return pair.victim


def restore(pair):
    head = run(pair.reference, "git", "rev-parse", "HEAD").stdout.strip()
    run(pair.victim, "git", "reset", "-q", "--hard", head)
    run(pair.victim, "git", "clean", "-qfd")
    for name in ("data", "models", ".dvc/cache"):
        shutil.rmtree(pair.victim / name, ignore_errors=True)
        shutil.copytree(pair.reference / name, pair.victim / name, symlinks=True)
    shutil.rmtree(pair.victim / ".dvc/tmp/checkpoints", ignore_errors=True)


def forget(project, stages):
    """Leave no trace that stages ever ran: dvc.lock, files, and DVC's caches of files and of runs."""
    stages_of = lock(project)
    for stage in stages:
        for out in stages_of.pop(stage).get("outs", []):
            path = project / out["path"]
            objects = [out["md5"], *(md5(file) for file in path.rglob("*") if file.is_file())]
            for name in objects:
                (project / ".dvc/cache/files/md5" / name[:2] / name[2:]).unlink(missing_ok=True)
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    (project / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": stages_of}, sort_keys=False))
    shutil.rmtree(project / ".dvc/cache/runs", ignore_errors=True)


def begin(project, *command, before=None, log="log.txt"):
    """Start a command in a process group of its own; its output goes to a file."""

    def fresh():
        signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs pytest may have it ignored
        if before:
            before()

    log = project.parent / log
    with log.open("w") as file:
        process = subprocess.Popen(
            command, cwd=project, env=environment(), start_new_session=True, stdout=file, stderr=file, preexec_fn=fresh
        )
    return process, log


def kill_at(process, log, kill, first, seconds):
    """Kill `seconds` after the log first has `first`; return the stage that ran, "" if all was over."""
    deadline = time.monotonic() + PATIENCE
    while not re.search(first, log.read_text()):
        if process.poll() is not None:
            return ""
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.02)
    try:
        process.wait(seconds)
        return ""
    except subprocess.TimeoutExpired:
        where = re.findall(r"Running stage '([^']+)'", log.read_text())
        (os.killpg if kill.group else os.kill)(process.pid, kill.signal)
        process.wait(PATIENCE)
        return where[-1] if where else "start"


def require_nothing_partial(pair):
    """Whatever has the name of a whole file is whole: files, dvc.lock, and the cache."""
    for name, digest in made(pair.victim).items():
        assert name.startswith(GROWING) or digest == pair.digests.get(name), f"{name} is not whole"
    for stage, outs in outs_of(pair.victim).items():
        assert outs == pair.outs[stage], f"dvc.lock has {stage} otherwise"
    require_whole_cache(pair.victim)


def require_whole_cache(project):
    for file in (project / ".dvc/cache/files/md5").glob("[0-9a-f][0-9a-f]/*"):
        if re.fullmatch(r"[0-9a-f]{30}(\.dir)?", file.name):
            assert md5(file) == file.parent.name + file.name.removesuffix(".dir"), f"{file} is not whole"


def require_same(pair):
    """The disturbed project is as the undisturbed one, but for timings; git sees nothing to add."""
    assert outs_of(pair.victim) == pair.outs
    assert made(pair.victim) == pair.digests
    require_whole_cache(pair.victim)
    assert objects_named(pair.victim) == objects_named(pair.reference)
    changed = run(pair.victim, "git", "status", "--porcelain").stdout.split("\n")
    assert {line[3:] for line in changed if line} <= {"dvc.lock", TIMED}
    assert not list((pair.victim / ".dvc/tmp").glob("checkpoints/[!.]*"))


def objects_named(project):
    """The objects of the cache that dvc.lock names and that are there."""
    cache = project / ".dvc/cache/files/md5"
    outs = [out for stage in lock(project).values() for out in stage.get("outs", [])]
    named = {out["md5"] for out in outs if out["path"].startswith(("data/", "models/"))}
    lists = [cache / name[:2] / name[2:] for name in named if name.endswith(".dir")]
    named |= {entry["md5"] for path in lists if path.is_file() for entry in json.loads(path.read_text())}
    return {name for name in named if (cache / name[:2] / name[2:]).is_file()}


@contextmanager
def trying(fault, where, **more):
    """Record one try, and whether it was survived."""
    entry = {"fault": fault, "where": where, **more, "survived": False}
    try:
        yield entry
        entry["survived"] = True
    finally:
        if RECORD and entry["where"]:
            with Path(RECORD).open("a") as file:
                file.write(json.dumps(entry) + "\n")


def seconds_of(pair, chain):
    """How long a chain takes here, from its first stage on; measured once, on a run that nothing disturbs."""
    restore(pair)
    forget(pair.victim, chain)
    process, log = begin(pair.victim, "dvc", "repro", chain[-1])
    while "Running stage" not in log.read_text() and process.poll() is None:
        time.sleep(0.02)
    started = time.monotonic()
    assert process.wait(PATIENCE) == 0, log.read_text()
    require_same(pair)
    return time.monotonic() - started


@pytest.mark.parametrize("chain", CHAINS)
def test_a_repro_killed_at_any_moment_is_made_good_by_the_next(pair, chain):
    draw = random.Random(f"{SEED} {chain}")
    seconds = seconds_of(pair, CHAINS[chain])
    for kill in KILLS:
        for _ in range(MOMENTS):
            moment = round(draw.uniform(0, seconds), 3)
            with trying(f"`dvc repro`: {kill.how}", "", moment=moment) as entry:
                restore(pair)
                forget(pair.victim, CHAINS[chain])
                process, log = begin(pair.victim, "dvc", "repro", CHAINS[chain][-1])
                entry["where"] = kill_at(process, log, kill, "Running stage", moment)
                if not entry["where"]:
                    continue  # all was over by then: nothing was tried
                if kill.group:
                    require_nothing_partial(pair)
                # At once: where dvc alone was killed, its stage may still be at work.
                run(pair.victim, "dvc", "repro")
                require_same(pair)


def test_the_stage_of_a_dvc_that_died_ends_with_it(pair, victim):
    """Else it would write into what the next `dvc repro`, perhaps of other params, takes for its own."""
    forget(victim, CHAINS["student"])
    with trying("`dvc repro`: SIGKILL to dvc alone", "student", moment=0.0):
        process, log = begin(victim, "dvc", "repro", "student")
        assert kill_at(process, log, KILLS[1], "epoch 1/", 0) == "student"
        wait_for_end(victim)
        assert not (victim / "models/student/model.safetensors").exists()


@pytest.mark.parametrize("kill", KILLS[2:], ids=lambda kill: kill.how)
def test_a_stage_told_to_stop_says_one_line_and_leaves_nothing(pair, victim, kill):
    forget(victim, CHAINS["student"])
    with trying(f"`dvc repro`: {kill.how}", "student", moment=0.0):
        process, log = begin(victim, "dvc", "repro", "student")
        assert kill_at(process, log, kill, "epoch 1/", 0) == "student"
        wait_for_end(victim)  # the stage may end after dvc
        assert "Traceback" not in log.read_text() and "error: stopped; `dvc repro` goes on" in log.read_text()
        assert not list(victim.rglob(".*.partial*"))
        assert "goes on after epoch" in run(victim, "dvc", "repro").stderr
        require_same(pair)


WRITER = """
import sys
from ferdistill.files import write_json
print("ready", flush=True)
while True:
    for digit in "0123456789":
        write_json("whole.json", {"value": digit * 2_000_000})
"""


def test_a_writer_killed_at_any_moment_leaves_a_whole_file(tmp_path):
    draw = random.Random(SEED)
    for _ in range(20):
        moment = round(draw.uniform(0, 0.2), 4)
        with trying("file being written: SIGKILL", "`files.atomic`", moment=moment):
            process = subprocess.Popen([sys.executable, "-c", WRITER], cwd=tmp_path, stdout=subprocess.PIPE)
            process.stdout.readline()
            while not (tmp_path / "whole.json").exists() and process.poll() is None:
                time.sleep(0.001)
            time.sleep(moment)
            process.kill()
            process.wait()
            value = json.loads((tmp_path / "whole.json").read_text())["value"]
            assert len(value) == 2_000_000 and len(set(value)) == 1
            assert all(path.name == "whole.json" or ".partial" in path.name for path in tmp_path.iterdir())


def test_what_a_killed_writer_left_is_seen_by_neither_dvc_nor_git(pair, victim):
    """metrics/softlabels is a dependency as a folder: a file more in it would be another state of the pipeline."""
    with trying("file being written: SIGKILL", "metrics/softlabels"):
        for name in ("metrics/softlabels/.resnet18-abcdefgh.partial.json", "metrics/.student-abcdefgh.partial.json"):
            (victim / name).write_text("{")
        assert "Running stage" not in run(victim, "dvc", "repro").stdout
        require_same(pair)


def limited(size):
    """Let no file grow beyond `size` bytes."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@pytest.mark.parametrize(
    ("chain", "size"),
    [("data", 30_000), ("data", 1_000_000), ("teacher", 2_000_000), ("student", 400_000), ("rest", 1_000_000)],
)
def test_a_disk_that_lets_no_file_grow_stops_with_a_message_and_costs_nothing(pair, victim, chain, size):
    forget(victim, CHAINS[chain])
    with trying("disk: no file may grow beyond a size", "", size=size) as entry:
        process, log = begin(victim, "dvc", "repro", CHAINS[chain][-1], before=limited(size))
        assert process.wait(PATIENCE), log.read_text()
        entry["where"] = ["DVC's own files", *re.findall(r"Running stage '([^']+)'", log.read_text())][-1]
        require_nothing_partial(pair)
        print(log.read_text())
        run(victim, "dvc", "repro")
        require_same(pair)


@contextmanager
def small_disk(folder, held, spare=100_000):
    """Mount a file system that what the folder holds nearly fills; yield what gives it more room."""
    used = sum(-(-file.stat().st_size // 4096) * 4096 for file in folder.rglob("*") if file.is_file())
    folder.rename(held)
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={used + spare}", "ferdistill", str(folder)]
    try:
        mounted = shutil.which("mount") and not subprocess.run(command, capture_output=True, check=False).returncode
        if not mounted:
            pytest.skip("needs the right to mount a small file system")
        shutil.copytree(held, folder, symlinks=True, dirs_exist_ok=True)
        yield lambda: subprocess.run(["mount", "-o", "remount,size=1g", str(folder)], check=True)
    finally:
        if folder.is_mount():
            subprocess.run(["umount", "-l", str(folder)], check=True)
        folder.rmdir()
        held.rename(folder)


@pytest.mark.parametrize(
    ("folder", "chain"), [(".dvc/cache", "data"), (".dvc/cache", "rest"), ("data", "data"), ("models", "student")]
)
def test_a_full_disk_stops_with_a_message_and_costs_nothing(pair, victim, folder, chain):
    forget(victim, CHAINS[chain])
    with (
        small_disk(victim / folder, victim.parent / "held") as enlarge,
        trying("disk: full", f"{folder}, {chain} stages") as entry,
    ):
        process, log = begin(victim, "dvc", "repro", CHAINS[chain][-1])
        # 0 where only the cache is full and the output is a folder: DVC says so, and goes on.
        entry["code"] = process.wait(PATIENCE)
        assert re.search("no room|No space left", log.read_text()), log.read_text()
        require_nothing_partial(pair)
        enlarge()
        run(victim, "dvc", "repro")
        require_same(pair)


def as_folder(path):
    path.unlink()
    path.mkdir()


def as_broken_link(path):
    path.unlink()
    path.symlink_to("nowhere")


def as_forbidden(path):
    path.chmod(0)


HARM = [as_folder, as_broken_link]
with tempfile.NamedTemporaryFile() as probe:
    as_forbidden(Path(probe.name))
    if not os.access(probe.name, os.R_OK):  # root mostly reads whatever there is
        HARM.append(as_forbidden)


MADE = [
    f"data/index/{INDEX}.csv", f"data/images/{INDEX}/images.npy", "models/teachers/vit_ban/model.safetensors",
    f"data/softlabels/resnet18_{INDEX}/softlabels.parquet", "data/targets/targets.safetensors",
    "models/student/predictions.parquet", "metrics/calibration.json", "metrics/softlabels/resnet18.json",
]  # fmt: skip


def put_back(path):
    """As a user does who was told of a file that cannot be read: take it away."""
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    else:
        path.unlink(missing_ok=True)


@pytest.mark.parametrize("make", HARM)
def test_a_made_file_that_cannot_be_read_is_made_again(pair, victim, make):
    for name in random.Random(f"{SEED} {make.__name__}").sample(MADE, 4):
        with trying("file unreadable: " + make.__name__.replace("_", " "), name) as entry:
            make(victim / name)
            done = run(victim, "dvc", "repro", check=False)
            entry["alone"] = not done.returncode
            if done.returncode:
                entry["said"] = done.stderr[-400:]
                assert "Traceback" not in done.stderr
                put_back(victim / name)
                run(victim, "dvc", "repro")
            elif not os.access(victim / name, os.R_OK):  # its size and time are as they were, so DVC has not read it
                entry["alone"] = False
                found = run(victim, "ferdistill", "data", "check", check=False)
                assert found.returncode == 1 and name in found.stderr and "Traceback" not in found.stderr
                run(victim, "ferdistill", "data", "check", "--repair")
                run(victim, "dvc", "repro")
            require_same(pair)
        restore(pair)


@pytest.mark.parametrize(
    ("name", "make"),
    [("params.yaml", as_folder), ("params.yaml", as_broken_link), ("pretrained/student.safetensors", as_broken_link)],
)
def test_a_source_that_cannot_be_read_is_named(pair, victim, name, make):
    with trying("file unreadable: " + make.__name__.replace("_", " "), name) as entry:
        make(victim / name)
        done = run(victim, "dvc", "repro", check=False)
        entry["said"] = done.stderr[-400:]
        assert done.returncode and "Traceback" not in done.stderr
        assert Path(name).name in done.stderr, done.stderr
        put_back(victim / name)
        run(victim, "git", "checkout", "-q", name)
        run(victim, "dvc", "repro")
        require_same(pair)


def edit(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)


def cut(path):
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-7])


def empty(path):
    path.chmod(0o644)
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [edit, cut, empty])
def test_a_made_file_edited_by_hand_is_made_again(pair, victim, damage):
    for name in random.Random(f"{SEED} {damage.__name__}").sample(MADE, 4):
        with trying(f"file edited by hand: {damage.__name__}", name):
            damage(victim / name)
            run(victim, "dvc", "repro")
            require_same(pair)
        restore(pair)


def objects_of(project, stage):
    """The objects of DVC's cache that a stage's outs are in, one of each out."""
    found = []
    for out in lock(project)[stage]["outs"]:
        name = out["md5"]
        path = project / ".dvc/cache/files/md5" / name[:2] / name[2:]
        if name.endswith(".dir"):
            name = json.loads(path.read_text())[0]["md5"]
            path = path.parents[1] / name[:2] / name[2:]
        if out["path"].startswith(("data/", "models/")):  # metrics and plots are in git
            found.append((out["path"], path))
    return found


@pytest.mark.parametrize("damage", [edit, cut, empty])
def test_a_damaged_cache_is_found_and_made_good(pair, victim, damage):
    """DVC hands out write-protected objects unread, so `dvc repro` alone takes them for whole."""
    for stage in random.Random(f"{SEED} {damage.__name__}").sample(["corpus", "images", "targets", "export"], 2):
        where, path = objects_of(victim, stage)[0]
        with trying(f"cache object damaged: {damage.__name__}", where) as entry:
            damage(path)
            path.chmod(0o444)
            target = victim / where
            shutil.rmtree(target) if target.is_dir() else target.unlink()
            run(victim, "dvc", "checkout", "--force", check=False)
            entry["passed_on_by_dvc"] = any(digest != pair.digests[name] for name, digest in made(victim).items())
            found = run(victim, "ferdistill", "data", "check", check=False)
            assert found.returncode == 1 and str(path.relative_to(victim)) in found.stderr
            assert "Traceback" not in found.stderr
            run(victim, "ferdistill", "data", "check", "--repair")
            run(victim, "dvc", "repro")
            run(victim, "ferdistill", "data", "check")
            require_same(pair)
        restore(pair)


def test_an_edit_that_keeps_size_and_time_is_found_and_made_good(pair, victim):
    for name in (f"data/images/{INDEX}/images.npy", "models/student/predictions.parquet"):
        with trying("file edited by hand: size and time kept", name):
            before = (victim / name).stat()
            run(victim, "dvc", "repro")  # DVC has now seen the file whole
            edit(victim / name)
            os.utime(victim / name, ns=(before.st_atime_ns, before.st_mtime_ns))
            found = json.loads(run(victim, "ferdistill", "data", "check", "--json", check=False).stdout)
            assert found["damaged"] in ([name], [])  # [] where DVC itself sees it
            run(victim, "ferdistill", "data", "check", "--repair")
            run(victim, "dvc", "repro")
            require_same(pair)
        restore(pair)


@pytest.mark.parametrize("chain", ["data", "rest"])
def test_two_repros_at_once_do_not_meet(pair, victim, chain):
    forget(victim, CHAINS[chain])
    with trying("two `dvc repro` at once", f"{chain} stages") as entry:
        both = [begin(victim, "dvc", "repro", CHAINS[chain][-1], log=f"log{n}.txt") for n in range(2)]
        codes = [process.wait(PATIENCE) for process, _ in both]
        texts = [log.read_text() for _, log in both]
        entry["codes"] = codes
        assert 0 in codes, texts
        assert all("Traceback" not in text for text in texts), texts
        for code, text in zip(codes, texts, strict=True):
            assert not code or re.search("busy|lock", text), text
        require_nothing_partial(pair)
        run(victim, "dvc", "repro")
        require_same(pair)


@pytest.mark.parametrize("shift", ["-400d", "+400d"])
def test_a_clock_that_jumps_changes_nothing(pair, victim, shift):
    if not shutil.which("faketime"):
        pytest.skip("needs faketime")
    forget(victim, CHAINS["data"] + CHAINS["rest"])
    with trying("clock: moved within a run", shift):
        run(victim, "faketime", "-f", shift, "dvc", "repro", "index")
        run(victim, "dvc", "repro", "calibrate")
        run(victim, "faketime", "-f", shift, "dvc", "repro", "export")
        require_nothing_partial(pair)
        run(victim, "dvc", "repro")
        require_same(pair)


@pytest.mark.parametrize("when", [0, 4_000_000_000])
def test_file_times_far_from_now_change_nothing(pair, victim, when):
    with trying("clock: every file's time moved", time.strftime("%Y", time.gmtime(when))):
        for top in ("data", "models", "metrics", "plots", "src", "pretrained"):
            for file in (victim / top).rglob("*"):
                os.utime(file, (when, when))
        assert "Running stage" not in run(victim, "dvc", "repro").stdout
        require_same(pair)


# ---- experiments ---------------------------------------------------------------------------------------------

GRID = """
seeds: {one: [99]}
cells:
  - {family: none, mode: none, seeds: one}
  - {family: vit_ban, mode: kd, seeds: one}
"""


def processes_of(project):
    """Whatever still runs in a project, queue workers too."""
    found = []
    for process in psutil.process_iter(["cwd"]):
        if process.info["cwd"] and Path(process.info["cwd"]).is_relative_to(project):
            found.append(process)
    return found


def wait_for_end(project):
    """Wait until nothing runs in a project any more."""
    deadline = time.monotonic() + PATIENCE
    while running := processes_of(project):
        assert time.monotonic() < deadline, running
        time.sleep(0.1)


def end(processes):
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, 20)


def clear_experiments(project):
    end(processes_of(project))
    for ref in run(project, "git", "for-each-ref", "--format=%(refname)", "refs/exps").stdout.split():
        run(project, "git", "update-ref", "-d", ref)
    shutil.rmtree(project / ".dvc/tmp", ignore_errors=True)


def experiments(project):
    """What each experiment made: outs by its dvc.lock, and the student's scores."""
    found = {}
    for ref in run(project, "git", "for-each-ref", "--format=%(refname)", "refs/exps/*/*/*").stdout.split():
        stages = yaml.safe_load(run(project, "git", "show", f"{ref}:dvc.lock").stdout)["stages"]
        outs = {name: stages[name]["outs"] for name in ("targets", "student", "calibrate", "evaluate")}
        found[ref.rpartition("/")[2]] = outs
    return found


@pytest.fixture(scope="module")
def study(pair):
    """The grid of two runs, and what it gives where nothing disturbs it, with how long that takes."""
    grid = pair.victim.parent / "grid.yaml"
    grid.write_text(GRID)
    restore(pair)
    clear_experiments(pair.victim)
    started = time.monotonic()
    run(pair.victim, "ferdistill", "study", "run", "--grid", str(grid), "--jobs", "2")
    seconds = time.monotonic() - started
    found = experiments(pair.victim)
    assert sorted(found) == ["study-none-s99", "study-vit_ban-kd-s99"]
    return grid, found, seconds


STUDY_KILLS = ["SIGKILL", "SIGTERM", "Ctrl-C", "SIGKILL to all its processes", "SIGKILL to its workers"]


@pytest.mark.parametrize("how", STUDY_KILLS)
def test_a_study_killed_at_any_moment_goes_on_when_called_again(pair, study, how):
    grid, undisturbed, seconds = study
    command = ["ferdistill", "study", "run", "--grid", str(grid), "--jobs", "2"]
    draw = random.Random(f"{SEED} {how}")
    restore(pair)
    clear_experiments(pair.victim)
    # Each call goes on where the last was killed, so that several moments share the time of one study.
    moments = [round(draw.uniform(0, 0.8 * seconds / MOMENTS), 3) for _ in range(MOMENTS)]
    branch = run(pair.victim, "git", "symbolic-ref", "HEAD").stdout
    for moment in moments:
        with trying(f"`ferdistill study run`: {how}", "study of two runs", moment=moment) as entry:
            process, log = begin(pair.victim, *command)
            time.sleep(moment)
            if process.poll() is not None:
                entry["where"] = ""  # all was over by then: nothing was tried
                continue
            if how == "SIGKILL to all its processes":
                end(processes_of(pair.victim))
            elif how == "SIGKILL to its workers":
                end([p for p in processes_of(pair.victim) if p.pid != process.pid])
            else:
                sent = {"SIGKILL": signal.SIGKILL, "SIGTERM": signal.SIGTERM, "Ctrl-C": signal.SIGINT}[how]
                os.killpg(process.pid, sent)
            if how == "SIGKILL to its workers":
                assert process.wait(PATIENCE) == 0, log.read_text()
            process.wait(PATIENCE)
            for name, outs in experiments(pair.victim).items():
                assert outs == undisturbed[name], f"{name} is not whole"
            require_whole_cache(pair.victim)
    run(pair.victim, *command)
    assert experiments(pair.victim) == undisturbed
    assert run(pair.victim, "git", "symbolic-ref", "HEAD").stdout == branch
    require_same(pair)


@pytest.mark.parametrize("part", ["worker", "worker and its run"])
def test_a_queued_worker_killed_costs_a_rerun_at_most(pair, study, part):
    _, undisturbed, _ = study
    restore(pair)
    clear_experiments(pair.victim)
    moment = round(random.Random(f"{SEED} {part}").uniform(0, 3), 3)
    settings = ["-S", "family=none", "-S", "mode=none", "-S", "seed=99"]
    with trying(f"queued {part}: SIGKILL", "queue of one run", moment=moment):
        run(pair.victim, "dvc", "exp", "run", "--queue", "-n", "queued", *settings, "evaluate")
        # Its output to a file: the worker keeps a pipe open until it ends, and whoever reads the pipe waits for that.
        assert begin(pair.victim, "dvc", "queue", "start")[0].wait(PATIENCE) == 0
        deadline = time.monotonic() + PATIENCE
        while not any("epoch 1/" in log.read_text() for log in pair.victim.glob(".dvc/tmp/exps/run/*/*.out")):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        time.sleep(moment)
        workers = [p for p in processes_of(pair.victim) if "queue-worker" in p.cmdline()]
        assert workers
        end(workers if part == "worker" else processes_of(pair.victim))
        require_whole_cache(pair.victim)
        run(pair.victim, "dvc", "repro")
        run(pair.victim, "dvc", "exp", "run", "--temp", "-n", "again", *settings, "evaluate")
        found = experiments(pair.victim)
        assert found["again"] == undisturbed["study-none-s99"] == found.get("queued", found["again"])
        require_same(pair)  # now, since the run goes on from the checkpoint that the killed one left, and removes it
        end(processes_of(pair.victim))


def table(lines):
    """Markdown: fault, where and how often if more than once, how often tried, how often survived."""
    faults: dict[str, list[dict]] = {}
    for line in lines:
        entry = json.loads(line)
        faults.setdefault(entry["fault"], []).append(entry)
    rows = []
    for fault, tries in faults.items():
        places = Counter(entry["where"] for entry in tries)
        where = "; ".join(place if times == 1 else f"{place} ({times})" for place, times in places.items())
        rows.append(f"| {fault} | {where} | {len(tries)} | {sum(entry['survived'] for entry in tries)} |")
    return "\n".join(["| Fault | Where | Tried | Survived |", "|---|---|--:|--:|", *rows])


if __name__ == "__main__":
    print(table(Path(sys.argv[1]).read_text().splitlines()))
