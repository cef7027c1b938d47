"""A corpus, its paths and the commands, as somebody means them ill or a system holds them: links, depth, odd bytes."""

import contextlib
import io
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import typer
import yaml
from PIL import Image

from conftest import face
from ferdistill import cli, image_files, params, workspace
from ferdistill.data import index, reader, sources
from ferdistill.data.corpora import folders
from ferdistill.data.description import SourceDescription
from ferdistill.data.diff import read_rows_at
from ferdistill.data.survey import survey
from ferdistill.errors import CheckError, UsageError
from ferdistill.files import atomic, sha256
from ferdistill.runtime import pictures
from ferdistill.softlabels import store
from ferdistill.stages import index as index_stage
from ferdistill.tracking import experiments, queue
from support.bundles import write_bundle
from support.repository import commit, copy_of_repository, run

ROOT = Path(__file__).parents[2]
THREE = ["angry", "happy", "neutrál"]  # a letter that ASCII lacks
FEW_RUNS = ("study-none-s", "study-6A-kd-s")
LONG = ["a" * 5000, "a/" * 2500]


def call(monkeypatch, *arguments, stdout=None, encoding="utf-8"):
    """Run the program in this process: its exit code, and what it wrote to standard output and standard error."""
    held, said = io.BytesIO(), io.BytesIO()
    out = io.TextIOWrapper(held, encoding=encoding) if stdout is None else stdout
    with monkeypatch.context() as patch:
        patch.setattr(sys, "argv", ["ferdistill", *map(str, arguments)])
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", io.TextIOWrapper(said, encoding=encoding))
        code = 0
        try:
            cli.app()
        except SystemExit as end:
            code = end.code or 0
        sys.stderr.flush()
        return code, "" if stdout else held.getvalue().decode(encoding), said.getvalue().decode(encoding)


@pytest.fixture
def bench(tmp_path, corpus, monkeypatch):
    """params.yaml, an index of `corpus` with a class whose name ASCII lacks, and four teachers' soft labels."""
    raw = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    raw |= {"classes": THREE, "corpus": "mine", "scale": "smoke"}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(raw, sort_keys=False, allow_unicode=True), encoding="utf-8")
    described = yaml.safe_load((corpus / "corpus.yaml").read_text())
    for source in described["sources"]:
        source["classes"] = {"neutral": THREE[2]}
    (corpus / "corpus.yaml").write_text(yaml.safe_dump(described, allow_unicode=True), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    settings = params.load()
    with contextlib.redirect_stdout(io.StringIO()):
        index_stage.run(settings)
    found = index.read(workspace.index_csv(settings.index_tag))
    for name in settings.teachers:
        logits = 3 * np.eye(3)[found.codes(THREE)] + np.random.default_rng(len(name)).normal(0, 1, (len(found.rows), 3))
        directory = workspace.softlabels(name, settings.index_tag)
        store.write(directory, found, logits, THREE, teacher=name, checkpoint_sha256=sha256(name))
    table = {"label": found.rows["label"], **{f"prob_{name}": 1 / 3 for name in THREE}}
    pd.DataFrame(table).to_csv("predictions.csv", index=False)
    runs = (ROOT / "metrics/study/results_summary.csv").read_text(encoding="utf-8").splitlines(keepends=True)
    Path("results.csv").write_text("".join(run for run in runs if run.startswith(("experiment", *FEW_RUNS))))
    return settings


# ---- what the system refuses, and standard output ---------------------------------------------------------------

TAG = "ixNextAffFull"
PRINTING = [
    ["--help"],
    ["audit", "results.csv"],
    ["audit", "results.csv", "--json"],
    ["corpus", "describe", "data/raw/mine"],
    ["corpus", "describe", "data/raw/mine", "--json"],
    ["index", "show"],
    ["index", "show", "--json"],
    ["index", "verify"],
    ["index", "diff", f"data/index/{TAG}.csv", "--json"],
    ["index", "seed", "--tries", "5"],
    ["align", "check"],
    ["align", "check", "--json"],
    ["align", "repair", f"data/softlabels/vit_ban_{TAG}", "--out", "again", "--json"],
    ["teachers", "diversity"],
    ["teachers", "diversity", "--json"],
    ["score", "predictions.csv", "--no-intervals"],
    ["score", "predictions.csv", "--no-intervals", "--json"],
    ["study", "compare", "--baseline", "none", "--all", "--results", "results.csv", "--json"],
    ["study", "decide", "--results", "results.csv"],
    ["predict", "data/raw/mine/folders", "--bundle", "bundle", "--whole"],
    ["predict", "data/raw/mine/folders", "--bundle", "bundle", "--whole", "--csv"],
    ["bench", "bundle", "--rounds", "10", "--warmup", "0", "--batch", "1"],
    ["watch", "data/raw/mine/folders/train/angry", "--bundle", "bundle", "--whole"],
]


SOME = [PRINTING[at] for at in (0, 4, 6, 10, 16, 20)]
OF_THESE = pytest.mark.parametrize(
    "commands", [pytest.param(SOME, id="some"), pytest.param(PRINTING, id="all", marks=pytest.mark.slow)]
)


@pytest.fixture
def printing(bench):
    Path("bundle").mkdir()
    write_bundle(Path("bundle"))
    shutil.copytree(ROOT / "metrics", "metrics", dirs_exist_ok=True)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@OF_THESE
def test_a_full_disk_behind_standard_output_is_said_and_exits_with_one(printing, monkeypatch, commands):
    for command in commands:
        shutil.rmtree("again", ignore_errors=True)
        with Path("/dev/full").open("w") as full:
            code, _, said = call(monkeypatch, *command, stdout=full)
        assert (code, "no room to write" in said) == (1, True), (command, code, said)


def test_a_pipe_that_nobody_reads_any_more_ends_a_command_in_silence(printing, monkeypatch):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as closed:
        code, _, said = call(monkeypatch, "index", "show", "--json", stdout=closed)
    assert (code, said) == (1, "")


@OF_THESE
def test_ascii_output_holds_the_same_json_and_no_command_stops_for_it(printing, monkeypatch, commands):
    escaped = 0
    for command in commands:
        shutil.rmtree("again", ignore_errors=True)
        code, plain, _ = call(monkeypatch, *command)
        shutil.rmtree("again", ignore_errors=True)
        code_ascii, ascii_only, said_ascii = call(monkeypatch, *command, encoding="ascii")
        assert code_ascii == code and "Traceback" not in said_ascii, (command, said_ascii)
        escaped += r"neutr\u00e1l" in ascii_only
        if "--json" in command and "align" not in command:
            assert json.loads(ascii_only) == json.loads(plain) and "neutrál" not in ascii_only
    assert escaped >= len(commands) // 4


def test_a_name_that_is_no_text_is_written_as_json_has_it(printing, monkeypatch):
    shutil.copy2("data/raw/mine/folders/test/neutral/a b é.png", os.fsencode("crop\udcff𝔽.png"))
    code, shown, _ = call(monkeypatch, "predict", "crop\udcff𝔽.png", "--bundle", "bundle", "--whole")
    assert code in (0, 1) and json.loads(shown)["path"] == "crop\udcff𝔽.png"


def leaves(command, words=()):
    """Every command with its words."""
    for name, inner in getattr(command, "commands", {}).items():
        yield from leaves(inner, (*words, name))
    if not hasattr(command, "commands"):
        yield words, command


PATHS = {"bundle", "corpus", "detector", "grid", "json_lines", "markdown", "out", "replication", "revs", "table"}


def with_long_path(long):
    """For each path that a command takes, the command with a path too long in its place."""
    for words, command in leaves(typer.main.get_command(cli.cli)):
        required = [p for p in command.params if p.param_type_name == "argument" and p.required]
        options = [[p.opts[0], "none"] for p in command.params if p.param_type_name == "option" and p.required]
        rest = [word for option in options for word in option]
        for p in required:
            yield [*words, *(long if q is p else "bench.csv" for q in required), *rest]
        for p in command.params:
            if p.param_type_name == "option" and (p.name in PATHS or p.name.endswith("_csv")):
                yield [*words, *("predictions.csv" for _ in required), *rest, p.opts[0], long]


@pytest.mark.parametrize(
    "long", [pytest.param(LONG[0], id="one name"), pytest.param(LONG[1], id="folders", marks=pytest.mark.slow)]
)
def test_a_path_of_5000_characters_ends_every_command_with_one_short_message(bench, monkeypatch, long):
    commands = [command for command in with_long_path(long) if command[:2] != ["study", "misalignment"]]
    commands.append(["score", "predictions.csv", "--no-intervals", "--out", long])
    assert len(commands) > 35
    for command in commands:
        code, _, said = call(monkeypatch, *command)
        assert code in (1, 2) and ("error:" in said or "Usage:" in said), (command[:3], code, said[-300:])
        assert len(said) < 7000 and "Traceback" not in said, (command[:3], said[:300])
    assert not [path for path in Path().iterdir() if path.name.startswith("a")]


# ---- depth ------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def deep(folder, levels):
    """A picture so many folders deep, each named `a`; removed at once, since pytest's own clearing up recurs."""
    folder.mkdir(parents=True)
    here = os.open(folder, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir("a", dir_fd=here)
        inner = os.open("a", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    held = io.BytesIO()
    Image.fromarray(face(1)).save(held, "PNG")
    file = os.open("x.png", os.O_CREAT | os.O_WRONLY, dir_fd=here)
    os.write(file, held.getvalue())
    os.close(file)
    os.close(here)
    try:
        yield
    finally:
        subprocess.run(["rm", "-r", folder], check=True)


@pytest.fixture
def few_open_files():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    open_now = sum(1 for _ in Path("/proc/self/fd").iterdir())
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_now + 30, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs Linux")
@pytest.mark.parametrize("levels", [400, 1500])
def test_a_picture_however_deep_is_found_with_few_files_open(tmp_path, few_open_files, levels):
    with deep(tmp_path / "c" / "angry", levels):
        reader.refuse_exits(tmp_path / "c")
        (name,) = sources.file_names(tmp_path / "c")
        assert name == "angry/" + "a/" * levels + "x.png"
        source = SourceDescription(name="s", adapter="folders", path=".")
        (row,) = folders.rows(tmp_path / "c", ".", reader.labels_of(source, ["angry"]), folders.Options())
        assert isinstance(row, CheckError)  # no class folder holds it directly
        assert not survey(tmp_path / "c", ["angry", "happy"]).sources
        (found,) = pictures.find([str(tmp_path / "c")])
        assert pictures.read(found).shape == (48, 48, 3)


def test_a_tree_deeper_than_paths_may_be_long_is_said(tmp_path, bench, monkeypatch):
    with deep(tmp_path / "c" / "angry", 2500):
        for command in (["corpus", "describe", "c"], ["predict", "c", "--bundle", "nowhere"]):
            code, _, said = call(monkeypatch, *command)
            assert code == 2 and "File name too long" in said and len(said) < 1000, said


@pytest.mark.parametrize("name", ["", "/**", "/**/*.jpg"])
def test_predict_does_not_search_where_it_was_not_asked_to(name):
    start = time.monotonic()
    with pytest.raises(UsageError, match="no picture there"):
        pictures.find([name])
    assert time.monotonic() - start < 1


# ---- links ------------------------------------------------------------------------------------------------------


@pytest.fixture
def linked(tmp_path, corpus, monkeypatch):
    """A DVC repository with a corpus under `cache.type` symlink, its cache elsewhere by its own configuration."""
    monkeypatch.chdir(tmp_path)
    run(tmp_path, "git", "init", "-q")
    run(tmp_path, "dvc", "init", "-q")
    run(tmp_path, "dvc", "cache", "dir", "--local", str(tmp_path / "elsewhere" / "cache"))
    run(tmp_path, "dvc", "config", "cache.type", "symlink")
    (corpus / "subjects.csv").write_text("path,subject\n")
    run(tmp_path, "dvc", "add", "-q", str(corpus))
    sources._dvc_cache.cache_clear()
    yield corpus
    sources._dvc_cache.cache_clear()


def test_links_that_dvc_made_are_the_corpus_own_and_all_others_are_refused(linked, tmp_path):
    picture, listing = "folders/train/angry/a b é.png", linked / "rafdb/EmoLabel/list_patition_label.txt"
    assert (linked / picture).is_symlink() and listing.is_symlink()
    classes = ["angry", "happy", "neutral"]
    rows = [row for _, row in reader.read_rows(linked, classes)]
    assert len(rows) == 144 and sources.decode(linked, next(row for row in rows if row.image == picture)).any()
    assert len(survey(linked, classes).sources) == 3

    outside = tmp_path / "elsewhere" / "beside the cache.png"
    shutil.copy2(linked / picture, outside)
    (linked / picture).unlink()
    (linked / picture).symlink_to(outside)
    with pytest.raises(CheckError, match="leaves the corpus"):
        image_files.read_image(linked, picture, sources.belongs)
    listing.unlink()
    listing.symlink_to("/etc/passwd")
    with pytest.raises(CheckError, match="leaves the corpus"):
        list(reader.read_rows(linked, classes))


def test_a_corpus_cannot_say_where_the_cache_is(tmp_path, monkeypatch):
    """Only the repository that one works in can: a `.dvc` folder that comes with a corpus is data."""
    corpus = tmp_path / "corpus"
    (corpus / ".dvc").mkdir(parents=True)
    (corpus / ".dvc/config").write_text("[cache]\n    dir = /etc\n")
    (corpus / "labels.txt").symlink_to("/etc/passwd")
    monkeypatch.chdir(tmp_path)
    sources._dvc_cache.cache_clear()
    with pytest.raises(CheckError, match="leaves the corpus"):
        reader.refuse_exits(corpus)
    sources._dvc_cache.cache_clear()


# ---- params.yaml of a stranger ----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "value"), [("launch", "touch ran; python"), ("teachers", ["x;touch ran;#"]), ("corpus", "$(touch ran)")]
)
def test_params_start_no_process_whatever_stage_is_asked_for(tmp_path, name, value):
    project = copy_of_repository(tmp_path / "ferdistill")
    raw = yaml.safe_load((project / "params.yaml").read_text(encoding="utf-8")) | {name: value}
    (project / "params.yaml").write_text(yaml.safe_dump(raw, sort_keys=False), encoding="utf-8")
    for target in (["student"], ["evaluate"], ["--keep-going"], ["--single-item", "student"]):
        assert run(project, "dvc", "repro", *target, check=False).returncode
        assert not list(project.rglob("ran"))


def test_classes_that_are_synonyms_or_capitalised_are_read_from_folders_so_named(tmp_path):
    for name in ("anger", "Happy"):
        (tmp_path / name).mkdir()
        Image.fromarray(face(1)).save(tmp_path / name / "a.png")
    (tmp_path / "corpus.yaml").write_text("sources:\n  - {name: a, adapter: folders, path: .}\n")
    rows = [row for _, row in reader.read_rows(tmp_path, ["anger", "Happy"])]
    assert [(row.path, row.label) for row in rows] == [("Happy/a.png", "Happy"), ("anger/a.png", "anger")]


# ---- what git and DVC are asked ---------------------------------------------------------------------------------


def test_a_clone_that_converts_ends_of_lines_has_the_bytes_of_the_repository(tmp_path):
    """Of the files as they stand here, committed."""
    source = tmp_path / "source"
    listed = run(ROOT, "git", "ls-files", "-co", "--exclude-standard", "-z").stdout.split("\0")
    for name in {name for name in listed if name and (ROOT / name).is_file()}:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, source / name)
    run(source, "git", "init", "-q")
    for key, value in (("user.name", "tester"), ("user.email", "tester@example.org")):
        run(source, "git", "config", key, value)
    commit(source)
    run(tmp_path, "git", "clone", "-q", "-c", "core.autocrlf=true", "-c", "core.eol=crlf", str(source), "clone")
    names = run(source, "git", "ls-files", "-z").stdout.split("\0")[:-1]
    assert len(names) > 200
    assert [name for name in names if (source / name).read_bytes() != (tmp_path / "clone" / name).read_bytes()] == []
    (tmp_path / "clone" / "README.md").touch()
    assert run(tmp_path / "clone", "git", "status", "--porcelain").stdout == ""


@pytest.fixture
def git_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy2(ROOT / "params.yaml", tmp_path)
    run(tmp_path, "git", "init", "-q")
    for key, value in (("user.name", "tester"), ("user.email", "tester@example.org")):
        run(tmp_path, "git", "config", key, value)
    commit(tmp_path)


@pytest.mark.parametrize("rev", ["HEAD:params.yaml", "HEAD\nHEAD", "HEAD\n", "\udcff", "HEAD^{tree}", "--help"])
def test_what_is_no_commit_is_refused_in_one_message(git_here, rev):
    with pytest.raises(UsageError, match="no commit"):
        experiments.baselines([rev])
    with pytest.raises(UsageError, match="no index") as caught:
        read_rows_at(rev, Path(f"data/index/{TAG}.csv"))
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (",".join(map(str, range(5000))) + "\n" + ",".join("1" * 5000), "5,000 columns"),
        ("path,label\na,b\n", "no column sample_id, split"),
        ("path,label,sample_id,split\n" + "a,b,c,d,e,f\n" * 2 + '"', "no index"),
    ],
)
def test_what_is_no_index_in_a_commit_is_refused_in_one_message(git_here, tmp_path, text, message):
    csv = Path(f"data/index/{TAG}.csv")
    csv.parent.mkdir(parents=True)
    csv.write_text(text)
    commit(tmp_path)
    with pytest.raises(UsageError, match=message) as caught:
        read_rows_at("HEAD", csv)
    assert len(str(caught.value)) < 1000


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="needs the right to give files away")
def test_a_repository_of_somebody_else_is_refused_with_gits_way_out(git_here, tmp_path, monkeypatch):
    os.chown(tmp_path, 12345, 12345)
    os.chown(tmp_path / ".git", 12345, 12345)
    monkeypatch.setenv("HOME", str(tmp_path / "nobody"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "nobody"))
    (tmp_path / "data/index").mkdir(parents=True)
    (tmp_path / f"data/index/{TAG}.json").write_text('{"digest": ""}')
    for command in (["index", "diff", "HEAD"], ["study", "collect"]):
        code, _, said = call(monkeypatch, *command)
        assert code == 2 and "safe.directory" in said, said


def test_a_cache_whose_path_dvc_cannot_write_stops_a_study_before_it_starts(tmp_path, monkeypatch):
    here = tmp_path / "wört"
    here.mkdir()
    monkeypatch.chdir(here)
    run(here, "git", "init", "-q")
    run(here, "dvc", "init", "-q")
    run(here, "git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qam", "state")
    with pytest.raises(UsageError, match="not ASCII") as caught:
        queue.require_ready(experiments.Present({}, {}, {}))
    assert str(here) in caught.value.where and "dvc cache dir --local" in caught.value.hint
    run(here, "dvc", "cache", "dir", "--local", str(tmp_path / "cache"))
    monkeypatch.setattr(queue, "stale", lambda names: [])
    queue.require_ready(experiments.Present({}, {}, {}))


# ---- what is left when a write fails ----------------------------------------------------------------------------


def test_a_write_that_fails_leaves_no_folder_that_it_made(tmp_path):
    (tmp_path / "there").mkdir()
    with pytest.raises(CheckError, match="no room"), atomic(tmp_path / "there/a/b/x.json"):
        raise OSError(28, "No space left on device")
    assert list((tmp_path / "there").iterdir()) == []
    with pytest.raises(ValueError), atomic(tmp_path / "there/a/b/x.json"):
        (tmp_path / "there/a/other.txt").touch()
        raise ValueError
    assert [path.name for path in (tmp_path / "there/a").iterdir()] == ["other.txt"]


def test_a_repair_that_finds_no_room_leaves_nothing(bench):
    code = f"""
import resource, sys
from ferdistill import cli
import pandas, pyarrow.parquet
resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))
sys.argv = ["ferdistill", "align", "repair", "data/softlabels/vit_ban_{TAG}", "--out", "made/again"]
cli.app()
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "no room" in done.stderr and not Path("made").exists(), done.stderr
