"""DVC experiments as git holds them, and whether one fits the present code, params and data."""

import copy
import os
import subprocess
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from ..errors import UsageError, clipped

# Stages that belong to one run; what lies before them is shared by all.
OWN = ("targets", "student", "calibrate", "evaluate")
# Stages that only use the student that a run made.
AFTER = ("robustness", "export", "benchmark")
# Params that a lock names only in the paths and names of others.
IN_PATHS = ("scale", "corpus", "index_tag")
# refs/exps/01/234…/name; DVC keeps its queue and temporary refs under other names there.
REFS = "refs/exps/??/*/*"
# libyaml's loader is about ten times as fast, but not in every build of PyYAML.
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class PlannedRun(NamedTuple):
    """A run to be made: the name of its experiment, and the params, by dotted names, that it lays over params.yaml."""

    name: str
    overrides: dict[str, Any]


class Experiment(NamedTuple):
    """One experiment: where it is, and the text of its files by path; None for a file that it does not have."""

    name: str
    commit: str
    baseline: str
    time: datetime
    files: dict[str, str | None]

    def params(self) -> dict[str, Any]:
        """`params.yaml`, empty if there is none."""
        return load_yaml(self.files["params.yaml"] or "") or {}

    def lock(self) -> dict[str, Any]:
        """The stages of `dvc.lock`."""
        return (load_yaml(self.files["dvc.lock"] or "") or {}).get("stages", {})


class Present(NamedTuple):
    """What a run of today depends on.

    `stages` has, for each stage up to `evaluate`: its command, the hashes of the files that no stage makes, and the
    names of the params that it tracks.
    """

    params: dict[str, Any]
    lock: dict[str, Any]
    stages: dict[str, dict[str, Any]]


def load_yaml(text: str) -> Any:
    """Parse YAML, fast where libyaml is there."""
    return yaml.load(text, Loader=LOADER)


def git(*arguments: str, stdin: bytes | None = None) -> bytes:
    """Standard output of a git command; a UsageError if it fails, with what it said, or git is not installed."""
    try:
        done = subprocess.run(["git", *arguments], input=stdin, capture_output=True, check=False)
    except FileNotFoundError:
        raise UsageError("there is no git here", expected="git on the path", hint="install it") from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()
        hint = "as git says" if "safe.directory" in said else "run from the repository's root"
        raise UsageError(f"git {arguments[0]} failed: {said}", hint=hint)
    return done.stdout


def baselines(revs: list[str]) -> list[str]:
    """Commits that experiments may have started from: those named, or HEAD and its ancestors, nearest first.

    A UsageError if a named commit is not there.
    """
    if not revs:
        return git("rev-list", "HEAD").decode().split()
    asked = b"".join(b"%s^{commit}\n" % os.fsencode(rev.replace("\n", " ")) for rev in revs)  # no rev has a line feed
    found = git("cat-file", "--batch-check=%(objectname) %(objecttype)", stdin=asked)
    lines = found.decode(errors="replace").splitlines()
    for rev, line in zip(revs, lines, strict=True):
        if not line.endswith(" commit"):
            raise UsageError(f"no commit `{clipped(rev)}`", expected="a branch, tag or commit", hint="see git log")
    return [line.split()[0] for line in lines]


def why_none(starts: list[str]) -> tuple[str, str]:
    """Why no experiment started from any of some commits, and what to do; two empty texts if one did."""
    refs = git("for-each-ref", "--format=%(refname)", REFS).decode().split()
    found = {baseline + rest for _, _, baseline, rest, _ in (ref.split("/") for ref in refs)}
    some = ", ".join(commit[:10] for commit in sorted(found)[:3])
    if not found:
        why = "this repository holds no experiment: they lie under refs/exps of the one that ran them, and git clone "
        hint = "run them here, or bring those that were pushed: `dvc exp pull REMOTE --all-commits`"
        return why + "leaves those behind", hint
    if found.isdisjoint(starts):
        why = f"no experiment started from these commits; the {len(refs)} here are of {len(found)} others, as {some}"
        return why, "check out one of those, or name it with `ferdistill study collect --rev`"
    return "", ""


def read(starts: list[str], paths: list[str], names: set[str] | None = None) -> list[Experiment]:
    """Every experiment that started from one of some commits, in their order, then by name; of some names, if given.

    `starts` are full hashes; of each experiment the files at `paths` are read, beside `params.yaml` and `dvc.lock`.
    """
    rank = {commit: place for place, commit in enumerate(starts)}
    form = "--format=%(refname) %(objectname) %(committerdate:iso-strict)"
    found = []
    for line in git("for-each-ref", form, REFS).decode().splitlines():
        ref, commit, when = line.split(" ")
        _, _, start, rest, name = ref.split("/")
        if start + rest in rank and (names is None or name in names):
            found.append(Experiment(name, commit, start + rest, datetime.fromisoformat(when), {}))
    found.sort(key=lambda one: (rank[one.baseline], one.name))
    wanted = ["params.yaml", "dvc.lock", *paths]
    texts = iter(blobs([f"{one.commit}:{path}" for one in found for path in wanted]))
    return [one._replace(files={path: next(texts) for path in wanted}) for one in found]


def workspace_run(paths: list[str]) -> Experiment:
    """What lies in the workspace, as an experiment of that name without a commit."""
    found = {path: Path(path) for path in ["params.yaml", "dvc.lock", *paths]}
    texts = {path: file.read_text(encoding="utf-8") if file.is_file() else None for path, file in found.items()}
    return Experiment("workspace", "", "", datetime.now().astimezone(), texts)


def blobs(names: list[str]) -> list[str | None]:
    """Text of each `COMMIT:PATH`, None for one that is not there, all by one call of `git`."""
    data = BytesIO(git("cat-file", "--batch", stdin="".join(f"{name}\n" for name in names).encode()))
    texts: list[str | None] = []
    for _ in names:
        last = data.readline().split()[-1]  # the size, or why there is none
        texts.append(None if last in (b"missing", b"ambiguous") else data.read(int(last) + 1)[:-1].decode())
    return texts


def present() -> Present:
    """Hash the code and data that runs of this workspace depend on."""
    from . import dvc_private

    lock = load_yaml(Path("dvc.lock").read_text(encoding="utf-8"))["stages"] if Path("dvc.lock").is_file() else {}
    return Present(load_yaml(Path("params.yaml").read_text(encoding="utf-8")), lock, dvc_private.stages("evaluate"))


def misfit(experiment: Experiment, now: Present, overrides: dict[str, Any]) -> str:
    """Say why an experiment is not what the present workspace would give with some params set; "" if it is.

    DVC recorded in the experiment's `dvc.lock` what each stage was run with. All of it must be what the workspace has,
    but for the params set, and what stages make from them.
    """
    wanted = laid_over(now.params, overrides)
    recorded = experiment.params()
    for key in [*overrides, *IN_PATHS]:
        if (its := lookup(recorded, key)) != (ours := lookup(wanted, key)):
            return f"its {key} is {its}, not {ours}"
    lock = experiment.lock()
    for stage, facts in now.stages.items():
        if (entry := lock.get(stage)) is None:
            return f"it has no stage {stage}"
        if entry["cmd"] != facts["cmd"]:
            return f"its {stage} ran `{entry['cmd']}`"
        md5s = {dep["path"]: dep.get("md5") for dep in entry.get("deps", [])}
        for path, md5 in facts["sources"].items():
            if md5s.get(path) != md5:
                return f"its {stage} was run with another {path}"
        # dvc.yaml says `families.${family}`, so a run tracks its own.
        family = {f"families.{now.params['family']}": f"families.{wanted['family']}"}
        tracked = [family.get(key, key) for key in facts["params"]]
        expected = {key: lookup(wanted, key) for key in tracked}
        if entry.get("params", {}).get("params.yaml", {}) != expected:
            return f"its {stage} was run with other params"
        shared = stage not in OWN and expected == {key: lookup(now.params, key) for key in facts["params"]}
        # Which weights a student starts from is among what the stage `params` writes.
        shared &= stage != "params" or not any(key.endswith((".student.model", ".student.init")) for key in overrides)
        if shared and entry.get("outs") != now.lock.get(stage, {}).get("outs"):
            return f"its {stage} gave other files"
    return ""


def lookup(tree: dict[str, Any], key: str) -> Any:
    """The value at a dotted name, in which a number is a place in a list; None if there is none."""
    value: Any = tree
    for part in key.split("."):
        if isinstance(value, list) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        else:
            value = value.get(part) if isinstance(value, dict) else None
    return value


def differing(name: str, before: Any, now: Any) -> list[tuple[str, Any, Any]]:
    """The values below a name that differ in two trees, as (dotted name, before, now); `none` where there is none."""
    if isinstance(before, dict) and isinstance(now, dict):
        keys = dict.fromkeys([*before, *now])
        below = f"{name}." if name else ""
        return [found for key in keys for found in differing(f"{below}{key}", before.get(key), now.get(key))]
    return [] if before == now else [(name, "none" if before is None else before, "none" if now is None else now)]


def laid_over(tree: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    """A tree with other values at some dotted names, as `lookup` reads them; what is not there stays so."""
    changed = copy.deepcopy(tree)
    for key, value in overrides.items():
        *path, last = key.split(".")
        inner = lookup(changed, ".".join(path)) if path else changed
        if isinstance(inner, list) and last.isdecimal() and int(last) < len(inner):
            inner[int(last)] = value
        elif isinstance(inner, dict):
            inner[last] = value
    return changed
