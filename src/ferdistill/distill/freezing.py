"""A trained teacher made a frozen one, so that new images bring its answers and no training."""

import subprocess
from pathlib import Path
from typing import Any

from .. import workspace, yaml_file
from ..errors import CheckError, UsageError, require_same
from ..files import atomic, read_json, sha256_file, write_json, write_text
from ..params import FrozenTeacher, Params, TeacherParams
from ..tracking.experiments import git
from .models import NORMALISATION


def freeze(params: Params, names: list[str]) -> dict[str, Path]:
    """Take the weights of teachers into `pretrained/`, for DVC to keep, and have params.yaml name them.

    The file is NAME-DIGEST.safetensors; beside it, in JSON, stands what it was made of: the teacher's config.json and
    metrics, what dvc.lock says of its stage (recipe, and digests of data and code), and the commit. Params come last,
    so that nothing names weights that are not there.

    Returns the files by teacher.

    Raises
    ------
    UsageError, CheckError
        If one is no teacher of params.yaml, is not trained here, or was made by another recipe than stands there;
        then, nothing is written. If DVC cannot take a file: then, params are as they were.
    """
    recorded = {name: _provenance(params, name) for name in dict.fromkeys(names)}
    text = workspace.PARAMS.read_text(encoding="utf-8")
    files = {}
    for name, provenance in recorded.items():
        file = workspace.PRETRAINED / f"{name}-{provenance['config']['sha256'][:12]}.safetensors"
        text = yaml_file.with_value(text, ["scales", params.scale, "teachers", name], _entry(name, file, provenance))
        files[name] = file
    for name, file in files.items():
        with atomic(file) as temporary:
            temporary.write_bytes((workspace.teacher(name) / "model.safetensors").read_bytes())
        write_json(file.with_suffix(".json"), recorded[name])
        done = subprocess.run(["dvc", "add", "-q", file.as_posix()], capture_output=True, text=True, check=False)
        if done.returncode:
            hint = "params.yaml is as it was"
            raise CheckError(f"DVC cannot take weights: {done.stderr.strip()}", where=str(file), hint=hint)
    write_text(workspace.PARAMS, text)
    return files


def _provenance(params: Params, name: str) -> dict[str, Any]:
    recipe = params.scale_.teachers.get(name) if name in params.teachers else None
    where = f"params.yaml, scales.{params.scale}.teachers.{name}"
    if not isinstance(recipe, TeacherParams):
        found = "a frozen teacher already" if isinstance(recipe, FrozenTeacher) else "no teacher that is trained here"
        trained = [one for one in params.teachers if isinstance(params.scale_.teachers[one], TeacherParams)]
        raise UsageError(f"`{name}` is {found}", where=where, expected=f"of {', '.join(trained) or 'none'}")
    directory, again = workspace.teacher(name), f"run `dvc repro teacher@{name}`"
    config = read_json(directory / "config.json", "model", "options", "stem", "classes", "image", "sha256", hint=again)
    lock = yaml_file.read("dvc.lock") if Path("dvc.lock").is_file() else {}
    stage = lock.get("stages", {}).get(f"teacher@{name}")
    if not isinstance(stage, dict):
        raise UsageError("dvc.lock does not say what made a teacher", where=f"teacher@{name}", hint=again)
    key = f"scales.{params.scale}.teachers.{name}"
    used = stage.get("params", {}).get("params.yaml", {}).get(key)
    now = yaml_file.read(workspace.PARAMS)["scales"][params.scale]["teachers"][name]
    file = directory / "model.safetensors"
    image = {fact: config["image"].get(fact) for fact in ("size", "channels")}
    require_same(
        [
            ("recipe", now, used),
            ("classes", params.classes, config["classes"]),
            (
                "images",
                params.scale_.image.model_dump(),
                image,
            ),
            ("digest of its weights", config["sha256"], sha256_file(file) if file.is_file() else "of no file"),
        ],
        "the teacher is not the one that params.yaml describes",
        where=str(directory),
        hint=again,
    )
    metrics = workspace.METRICS / "teachers" / f"{name}.json"
    return {
        "teacher": name,
        "config": config,
        "metrics": read_json(metrics) if metrics.is_file() else None,
        "stage": stage,
        "commit": git("rev-parse", "HEAD").decode().strip(),
    }


def _entry(name: str, file: Path, provenance: dict[str, Any]) -> str:
    """Its lines in params.yaml."""
    config = provenance["config"]
    size, channels = config["image"]["size"], config["image"]["channels"]
    mean, std = NORMALISATION[channels]
    values = {
        "frozen": file.as_posix(),
        "model": config["model"],
        "options": config["options"],
        "stem": config["stem"],
        "classes": config["classes"],
        "size": size,
        "channels": channels,
        "mean": mean,
        "std": std,
    }
    FrozenTeacher.model_validate(values)
    lines = [f"  {key}: {yaml_file.in_one_line(value)}" for key, value in values.items()]
    return "\n".join([f"{name}:  # trained here, then frozen: {file.with_suffix('.json').as_posix()}", *lines])
