"""What `dvc repro` would run, why, and how long each stage took when it last ran."""

import hashlib
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

from .. import workspace, yaml_file
from ..errors import CheckError, UsageError
from ..files import read_json
from . import dvc_private
from .experiments import differing, git

HERE = {"deleted": "not here"}  # DVC's word for what a clone has not made yet either
NAMED = 5  # reasons, and values of one parameter, that are written out


@dataclass(frozen=True)
class Planned:
    """A stage that will run, or that may."""

    stage: str
    certain: bool  # else it runs if what a stage before it makes comes out different
    reasons: list[str]
    seconds: float | None  # the last time here; None if it never ran here


def plan(targets: list[str]) -> list[Planned]:
    """The stages that `dvc repro` would run for these targets, or for all, in order.

    Raises UsageError if this is no DVC repository, or there is no such target.
    """
    upstream, changed = dvc_private.changes(targets)
    lock = yaml_file.read("dvc.lock")["stages"] if Path("dvc.lock").is_file() else {}
    found: dict[str, Planned] = {}
    for stage, before in upstream.items():
        reasons = _reasons(changed.get(stage, []), lock.get(stage, {}))
        waits = [name for name in before if name in found]
        if reasons or waits:
            told = reasons or [f"if `{name}` makes something else" for name in waits]
            found[stage] = Planned(stage, bool(reasons), told, _seconds(stage))
    return list(found.values())


def _reasons(status: list[Any], locked: dict[str, Any]) -> list[str]:
    """What `dvc status` says of a stage, with the values of params and the lines of code."""
    found = []
    for item in status:
        if isinstance(item, str):
            found.append(item)
            continue
        for path, what in item.get("changed deps", {}).items():
            if isinstance(what, dict):
                before = locked.get("params", {}).get(path, {})
                found += [reason for name in what for reason in _param(Path(path), name, before.get(name))]
            else:
                hashes = {dep["path"]: dep.get("md5") for dep in locked.get("deps", [])}
                found.append(_file(path, what, hashes.get(path)))
        outs: dict[str, list[str]] = {}
        for path, what in item.get("changed outs", {}).items():
            outs.setdefault(what, []).append(path)
        for what, paths in outs.items():
            more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
            found.append(f"{paths[0]}{more}: {HERE.get(what, what)}, made by this stage")
    return found


def _param(file: Path, name: str, before: Any) -> list[str]:
    now: Any = yaml_file.read(file)
    for key in name.split("."):
        now = now.get(key) if isinstance(now, dict) else None
    changes = [f"{file}: {where} {old} -> {new}" for where, old, new in differing(name, before, now)]
    return changes[:NAMED] + ([f"and {len(changes) - NAMED} more below {name}"] if len(changes) > NAMED else [])


def _file(path: str, what: str, md5: str | None) -> str:
    """A changed file, with the first line that differs from the last commit's, if the stage last ran on that."""
    try:
        committed = git("show", f"HEAD:./{path}")
        if what != "modified" or hashlib.md5(committed, usedforsecurity=False).hexdigest() != md5:
            return f"{path}: {HERE.get(what, what)}"
        before, now = committed.decode().splitlines(), Path(path).read_text(encoding="utf-8").splitlines()
    except (UsageError, OSError, UnicodeDecodeError):
        return f"{path}: {HERE.get(what, what)}"
    places = [low for kind, _, _, low, _ in SequenceMatcher(None, before, now, False).get_opcodes() if kind != "equal"]
    return f"{path}:{min(places[0] + 1, max(len(now), 1))}: {what}" if places else f"{path}: {what}"


def _seconds(stage: str) -> float | None:
    try:
        return float(read_json(workspace.duration(stage), "seconds")["seconds"])
    except (CheckError, UsageError, TypeError, ValueError):
        return None
