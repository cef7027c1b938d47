"""The rooms of src/: which may import which, that only faces/ knows faces, and how large a file or function may be."""

import ast
import re
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src"
PACKAGE = SRC / "ferdistill"
# "" is the version.
FLOOR = {
    "", "cores", "errors", "extras", "f1", "files", "image_files", "markdown", "output", "packages", "params",
    "plain", "progress", "tensor_files", "workspace", "yaml_file",
}  # fmt: skip
# From the floor up. A room may import itself and what stands before it.
ROOMS = [
    "tracking", "runtime", "data", "softlabels", "evaluation", "distill", "deployment", "faces", "study", "report",
    "stages", "commands", "cli",
]  # fmt: skip
TEXT = {".py", ".j2", ".js", ".html", ".css", ".md", ".yaml"}

# Whoever has other classes reads none of these.
WORDS = re.compile(
    r"(?<![a-z])("
    r"faces?|facial|(?<!regular )expressions?|emotions?|emotional|"
    r"angry|anger|contempt|disgust(ed)?|fear(ful)?|happy|happiness|neutral|sad|sadness|surprised?|"
    r"affectnet|fer2013|fer ?\+|ferplus|raf-?db|jaffe|kdef|ck ?\+|ckplus\d*|expw"
    r")(?![a-z])"
)
# Where one of them has to stand: a line of which file, and why.
ALLOWED = {
    (
        "cli.py",
        "from .faces.commands import",
    ): "the commands of that room are registered here",
    ("params.py", 'detector: Literal["faces"] | None'): "the detectors that a params.yaml may name",
    (
        "stages/export.py",
        "from ..faces.caution import caution_for, use_for",
    ): "what that room has to say in a model card",
    ("data/licences.py", "license_expression"): "what packaging and SPDX call a licence",
    ("data/licences.py", "InvalidLicenseExpression"): "likewise",
    ("commands/index.py", "from ..faces.caution import use_for"): "what that room has to say of the use of a data set",
    ("stages/corpus.py", "from ..faces.rendered import write_corpus"): "the stage that writes the embedded corpus",
}


def modules():
    """Each module of the package by its dotted name in it; that of the package itself is empty."""
    names = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        parts = file.relative_to(PACKAGE).with_suffix("").parts
        names[".".join(part for part in parts if part != "__init__")] = file
    return names


MODULES = modules()


def imported(name):
    """The modules of the package that one of them imports, wherever in it the statement stands."""
    file = MODULES[name]
    # What a single dot stands for: the package that holds the module.
    here = name.split(".") if file.name == "__init__.py" and name else name.split(".")[:-1]
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = [node.module] if node.module else []
            if node.level:
                base = ["ferdistill", *here[: len(here) - node.level + 1], *base]
            targets = [".".join([*base, alias.name]) for alias in node.names]
        else:
            continue
        for target in targets:
            first, _, rest = target.partition(".")
            if first == "ferdistill":
                found.add(rest if rest in MODULES else rest.rpartition(".")[0])
    return found - {name}


def rank(name):
    """How high a module stands; the commands of a room stand with the other commands."""
    first, _, rest = name.partition(".")
    return 0 if first in FLOOR else 1 + ROOMS.index("commands" if rest == "commands" else first)


def test_every_module_has_its_room():
    assert {name.partition(".")[0] for name in MODULES} == FLOOR | set(ROOMS)


def test_imports_are_seen_wherever_they_stand():
    assert {
        "params",
        "workspace",
        "commands.options",
        "faces.camera",
        "runtime.classifier",
        "faces.pretrain",
    } <= imported("faces.commands")
    assert "" in imported("cli") and "study.results" in imported("commands.study")


def test_imports_run_downward():
    upward = [
        f"{name} imports {other or '__init__'}"
        for name in MODULES
        for other in imported(name)
        if rank(other) > rank(name)
    ]
    assert upward == []


def test_no_imports_run_in_a_circle():
    order = TopologicalSorter({name: imported(name) for name in MODULES})
    try:
        order.prepare()
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' <- '.join(error.args[1])}")


def test_the_runtime_loads_neither_torch_nor_pandas():
    names = [f"ferdistill.{name}" for name in MODULES if name.startswith("runtime.")]
    assert len(names) > 3
    program = f"""
import importlib, sys
for name in {names}:
    importlib.import_module(name)
print(*sorted({{name.partition(".")[0] for name in sys.modules}}))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert {"numpy", "onnxruntime"} <= loaded
    absent = "torch torchvision timm pandas pyarrow scipy sklearn onnx cv2 dvc pydantic yaml rich typer"
    assert loaded.isdisjoint(absent.split())


def outside_faces():
    for file in sorted(SRC.rglob("*")):
        if file.suffix in TEXT and PACKAGE / "faces" not in file.parents:
            yield file


def test_nothing_outside_its_room_names_a_face():
    named, used = [], set()
    for file in outside_faces():
        name = file.relative_to(PACKAGE if PACKAGE in file.parents else SRC).as_posix()
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
            here = {key for key in ALLOWED if key[0] == name and key[1] in line}
            used |= here
            separated = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", line).lower()
            if not here and (word := WORDS.search(separated)):
                named.append(f"{name}:{number}: {word[0]}: {line.strip()}")
    assert named == []
    assert used == set(ALLOWED), "an exception that nothing needs"


def test_nothing_is_named_in_a_path_either():
    paths = [file.relative_to(SRC).as_posix() for file in outside_faces()]
    assert [path for path in paths if WORDS.search(path.replace("_", " ").lower())] == []


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("def map_faces(records):", "faces"),
        ("class FaceBox:", "face"),
        ("EXPRESSIONS = {}", "expressions"),
        ("FER+ and RAF-DB", "fer+"),
        ("a regular expression of an interface", None),
        ('axes.bar(x, facecolor="white")', None),
        ("import ferdistill", None),
    ],
)
def test_the_words_are_found_in_names_of_any_form(line, found):
    word = WORDS.search(re.sub(r"(?<=[a-z])(?=[A-Z])", " ", line).lower())
    assert (word and word[0]) == found


def functions():
    """Every function of src/ with the name of its module."""
    for file in sorted(SRC.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield file.relative_to(SRC / "ferdistill" if PACKAGE in file.parents else SRC), node


def test_no_file_is_too_long():
    lengths = {
        file.relative_to(SRC).as_posix(): len(file.read_text(encoding="utf-8").splitlines())
        for file in SRC.rglob("*")
        if file.suffix in TEXT and "vendor" not in file.parts
    }
    assert {name: length for name, length in lengths.items() if length > 600} == {}


def test_no_function_is_too_long():
    lengths = {f"{file}:{node.name}": node.end_lineno - node.lineno + 1 for file, node in functions()}
    assert {name: length for name, length in lengths.items() if length > 100} == {}


def test_no_function_has_too_many_parameters():
    """But for commands, whose parameters are their options."""
    counts = {}
    for file, node in functions():
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs, node.args.vararg, node.args.kwarg]
        names = [argument.arg for argument in arguments if argument and argument.arg not in ("self", "cls")]
        if "commands" not in (file.parts[0], file.stem):
            counts[f"{file}:{node.name}"] = len(names)
    assert {name: count for name, count in counts.items() if count > 9} == {}
