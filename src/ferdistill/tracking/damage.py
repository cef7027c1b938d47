"""Damage that DVC does not see: it takes a write-protected object of its cache for whole without reading it.

What a disk lost, or an edit that kept a file's size and time, so goes on into all that is made from it. This reads
every byte again.
"""

import hashlib
import json
import os
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from .. import workspace
from ..errors import UsageError
from ..progress import track
from . import dvc_private

ASIDE = workspace.SCRATCH / "damaged"
OBJECT = re.compile(r"[0-9a-f]{30}(\.dir)?")


class Damage(NamedTuple):
    """What was read, and which of it cannot be read or is not what its name, or dvc.lock, says."""

    objects: int
    files: int
    damaged_objects: list[Path]
    damaged_files: list[Path]


def find() -> Damage:
    """Hash every object of DVC's cache, and every file in the workspace that DVC takes for unchanged.

    A file that DVC sees to be edited is not damage: `dvc status` lists it. A UsageError outside a DVC repository.
    """
    if not Path(".dvc").is_dir():
        raise UsageError("no DVC repository here", where=str(Path.cwd()), hint="run from the repository's root")
    folder, outputs = dvc_private.unchanged_outputs()
    cache = Path(os.path.relpath(folder))
    found = [path for path in sorted(cache.glob("[0-9a-f][0-9a-f]/*")) if OBJECT.fullmatch(path.name)]
    objects = {path: path.parent.name + path.name.removesuffix(".dir") for path in found}
    damaged_objects = _unlike(objects, "reading DVC's cache")
    whole = objects.keys() - set(damaged_objects)
    files: dict[Path, str] = {}
    for output in outputs:
        files |= _files(output, cache, whole)
    return Damage(len(objects), len(files), damaged_objects, _unlike(files, "reading the workspace"))


def set_aside(damage: Damage) -> None:
    """Move what is damaged to `.dvc/tmp/damaged`, so that the next `dvc repro` or `dvc pull` brings it anew."""
    places = {path: ASIDE / "cache" / path.parent.name / path.name for path in damage.damaged_objects}
    places |= {path: ASIDE / "workspace" / path for path in damage.damaged_files}
    for path, to in places.items():
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(path, to)


def _files(output: dvc_private.Output, cache: Path, whole: set[Path]) -> dict[Path, str]:
    """Each file of an output with the MD5 that DVC recorded; none of a folder whose list is itself damaged."""
    path = output.path.relative_to(Path.cwd())
    if not output.is_folder:
        return {path: output.md5}
    listed = cache / output.md5[:2] / output.md5[2:]
    if listed not in whole:
        return {}
    files = {path / entry["relpath"]: entry["md5"] for entry in json.loads(listed.read_text(encoding="utf-8"))}
    return {file: md5 for file, md5 in files.items() if os.path.lexists(file)}


def _unlike(expected: dict[Path, str], description: str) -> list[Path]:
    """The files whose MD5 is another than expected."""
    with ThreadPoolExecutor() as pool:
        found = track(pool.map(_md5, expected), description, total=len(expected))
        return [path for (path, md5), is_ in zip(expected.items(), found, strict=True) if is_ != md5]


def _md5(path: Path) -> str:
    """MD5 in hex, "" of what cannot be read: a failing disk, a lost permission, a folder in a file's place."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "md5").hexdigest()
    except OSError:
        return ""
