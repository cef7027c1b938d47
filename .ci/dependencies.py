"""What code each stage of dvc.yaml runs, by its imports, held against the `deps` that dvc.yaml lists.

`python .ci/dependencies.py` names what differs and exits with 1; with `--write` it corrects dvc.yaml.
"""

import ast
import re
import sys
from pathlib import Path

SOURCE = Path("src/ferdistill")
DVC_YAML = Path("dvc.yaml")
# Run by stages, and named by none: an edit of these cannot change what a stage writes.
CANNOT_CHANGE_A_RESULT = {
    "src/ferdistill/__init__.py": "the version, for which a stage that writes it names this file; and no telemetry",
    "src/ferdistill/errors.py": "messages of runs that write nothing",
    "src/ferdistill/output.py": "how a program ends, and its messages",
    "src/ferdistill/params.py": "types and checks: DVC tracks the values that pass through",
    "src/ferdistill/progress.py": "progress bars",
    "src/ferdistill/tracking/put_back.py": "brings back what a stage that failed had removed",
    "src/ferdistill/workspace.py": "paths, which dvc.yaml names too; tests/test_dependencies.py compares them",
    "src/ferdistill/yaml_file.py": "reads params.yaml, whose values DVC tracks",
    "src/stage.py": "starts a stage",
}
# What is imported by a name that only a file or a folder holds.
BY_NAME = {"src/ferdistill/data/reader.py": "src/ferdistill/*/corpora/[a-z]*.py"}


def imports(file: Path) -> set[Path]:
    """The files of this package that one of them imports, wherever in it the statement stands."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    only_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    found = set(Path().glob(BY_NAME.get(file.as_posix(), "-")))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level and id(node) not in only_types:
            base = file.parents[node.level - 1].joinpath(*(node.module or "").split("."))
            for name in node.names:
                found.add(next((f for f in _files(base / name.name) if f.is_file()), None) or _module(base))
    return found


def _files(path: Path) -> tuple[Path, Path]:
    return path.with_name(f"{path.name}.py"), path / "__init__.py"


def _module(path: Path) -> Path:
    return next(file for file in _files(path) if file.is_file())


def closure(file: Path) -> set[str]:
    """A file, and all that it imports, at whatever remove, but for what cannot change a result.

    Tensors of a module's name beside it are what it reads.
    """
    found, waiting = {file}, [file]
    while waiting:
        new = imports(waiting.pop()) - found
        found |= new
        waiting += new
    names = {
        (path.parent if path.parent.name == "corpora" else path).as_posix()  # the folder, to which a file may come
        for path in found
        if any(not isinstance(node, ast.Expr) for node in ast.parse(path.read_text(encoding="utf-8")).body)
    }
    names |= {data.as_posix() for path in found if (data := path.with_suffix(".safetensors")).is_file()}
    # The version is a result where a stage's own code asks for it.
    version = {"src/ferdistill/__init__.py"} if SOURCE / "__init__.py" in found else set()
    return (names - CANNOT_CHANGE_A_RESULT.keys()) | version


def code_of_stages() -> dict[str, set[str]]:
    """For each stage the code that it runs."""
    return {file.stem: closure(file) for file in sorted(SOURCE.glob("stages/[a-z]*.py"))}


def listed() -> dict[str, set[str]]:
    """For each stage the code that dvc.yaml lists."""
    found: dict[str, set[str]] = {}
    stage = ""
    for line in DVC_YAML.read_text(encoding="utf-8").splitlines():
        if name := re.fullmatch(r"  (\w+):", line):
            stage = name[1]
        elif code := re.fullmatch(r" +- (src/\S+)", line):
            found.setdefault(stage, set()).add(code[1])
    return found


def differences() -> list[str]:
    """A line for each file that a stage runs and does not list, or lists and does not run."""
    runs, lists = code_of_stages(), listed()
    return [
        f"{stage}: {why} {file}"
        for stage in runs
        for why, files in (
            ("runs and does not list", runs[stage] - lists.get(stage, set())),
            ("lists and does not run", lists.get(stage, set()) - runs[stage]),
        )
        for file in sorted(files)
    ]


def write() -> None:
    """Put the code that each stage runs at the end of its `deps` in dvc.yaml."""
    runs = code_of_stages()
    lines: list[str] = []
    stage, inside, indent = "", False, ""
    for line in [*DVC_YAML.read_text(encoding="utf-8").splitlines(), ""]:
        if name := re.fullmatch(r"  (\w+):", line):
            stage = name[1]
        if inside and not line.startswith(indent + "  "):
            lines += [f"{indent}  - {file}" for file in sorted(runs[stage])]
            inside = False
        if deps := re.fullmatch(r"( +)deps:", line):
            inside, indent = True, deps[1]
        if not re.fullmatch(r" +- src/\S+", line):
            lines.append(line)
    DVC_YAML.write_text("\n".join(lines[:-1]) + "\n", encoding="utf-8", newline="\n")


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        write()
    found = differences()
    print("\n".join(found) or "dvc.yaml lists the code that each stage runs")
    sys.exit(bool(found))
