"""WebDataset: tar archives of samples, `000017.jpg` beside `000017.cls` or `000017.json`; read without unpacking.

A sample is what stands together under one name up to its first point. `train-000000.tar`, or a folder `train`, is an
official part.
"""

import json
import re
import tarfile
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from ...errors import CheckError
from .. import sources
from ..containers import AGAIN, TarMember
from ..labels import Labels
from ..layouts import Found, Layout, Tree, parent
from ..sources import Dropped, Record, Row, has_image_suffix

PRECEDENCE = 97
MAX_LABEL = 2**20  # bytes of a file of labels
BLOCK = 512  # of a tar


class Options(sources.Options):
    """Fields of a sample's JSON; an empty name is for none."""

    label: str = "label"  # read where a sample has no `.cls`
    subject: str = ""


def rows(root: Path, path: str, labels: Labels, options: Options) -> Iterator[Row]:
    """Yield every sample of a tar, or of all tars below a folder.

    Raises
    ------
    CheckError
        If an archive is compressed, damaged or ends early.
    """
    for name in sources.containers_in(root, path, ".tar", "a tar"):
        if isinstance(name, Dropped):
            yield name
            continue
        first: dict[str, str] = {}
        for key, found in groupby(_members(root / name), lambda member: re.sub(r"\.[^/]*\Z", "", member.name)):
            members = list(found)
            try:
                sources.check_inside(key, str(root / name))
                sources.check_once(key, str(root / name), "an earlier sample", first)
                yield _row(root, name, key, members, labels, options)
            except CheckError as error:
                yield error


def _members(file: Path) -> Iterator[tarfile.TarInfo]:
    """The files of a tar, of which nothing may be left unread."""
    end = 0
    try:
        with tarfile.open(file, "r:") as archive:
            for member in archive:
                archive.members = []  # type: ignore[attr-defined]  # else the headers of all stay in memory
                end = member.offset_data + -(-member.size // BLOCK) * BLOCK
                if not member.isdir():
                    yield member
    except tarfile.TarError as error:
        expected = "a whole tar that is not compressed"
        raise CheckError(
            f"not a tar that can be read: {error}", where=str(file), expected=expected, hint=AGAIN
        ) from None
    with file.open("rb") as rest:
        rest.seek(end)
        marker = rest.read(2 * BLOCK)
        if len(marker) < 2 * BLOCK or any(marker) or any(any(block) for block in iter(lambda: rest.read(2**20), b"")):
            expected = "two empty blocks after the last file, and nothing more"
            what = "a tar that ends early, or several in one file"
            raise CheckError(what, where=str(file), expected=expected, hint=AGAIN)


def _row(root: Path, path: str, key: str, members: list[tarfile.TarInfo], labels: Labels, options: Options) -> Row:
    where = f"{root / path}, sample {key}"
    by_suffix = {member.name[len(key) + 1 :].lower(): member for member in members}
    images = [member for member in members if has_image_suffix(member.name)]
    if not images:
        return Dropped(f"{path}#{key}", sources.NOT_AN_IMAGE)
    if len(images) > 1 or len(by_suffix) < len(members) or not all(member.isreg() for member in members):
        names = ", ".join(member.name for member in members)
        raise sources.wrong(f"a sample of {names}", where, "one image and its label, each a file")
    (image,) = images
    described = {}
    if "json" in by_suffix:
        try:
            described = json.loads(_text(root / path, by_suffix["json"], where))
        except (ValueError, RecursionError) as error:
            raise sources.wrong(f"not valid JSON: {error}", where, "an object") from None
        if not isinstance(described, dict):
            raise sources.wrong("JSON that is no object", where, f"an object with {options.label}")
    label = _text(root / path, by_suffix["cls"], where) if "cls" in by_suffix else described.get(options.label)
    if label is None:
        return Dropped(f"{path}#{image.name}", "unlabelled")
    subject = described.get(options.subject, "") if options.subject else ""
    if isinstance(label, bool | float | list | dict) or not isinstance(subject, str | int):
        raise sources.wrong(f"a label {label!r}, a subject {subject!r}", where, "text or a whole number")
    inside = TarMember(image.offset_data, image.size)
    part = sources.part_of_file(path)
    record = Record(f"{path}#{image.name}", str(label).strip(), part, str(subject), image=path, inside=inside)
    return labels.row(record, where)


def _text(file: Path, member: tarfile.TarInfo, where: str) -> str:
    if member.size > MAX_LABEL:
        raise sources.wrong(f"a label of {member.size:,} bytes", where, f"at most {MAX_LABEL:,}")
    with file.open("rb") as archive:
        archive.seek(member.offset_data)
        try:
            return archive.read(member.size).decode("utf-8")
        except UnicodeDecodeError as error:
            raise sources.wrong(f"a label that is not UTF-8: {error}", where, "text") from None


def recognise(tree: Tree) -> Found:
    """Folders of tars of which the first holds an image with a label beside it."""
    for folder in sorted({parent(name) for name in tree.files if name.lower().endswith(".tar")}):
        tars = [name for name in tree.by_folder[folder] if name.lower().endswith(".tar")]
        try:
            names = [member.name for member, _ in zip(_members(tree.root / tars[0]), range(2), strict=False)]
        except CheckError:
            continue
        if len(names) == 2 and any(map(has_image_suffix, names)) and any(n.endswith((".cls", ".json")) for n in names):
            only = len(tree.by_folder[folder]) == len(tars) > 1
            for path in [folder] if only else tars:
                yield Layout(path, f"{len(tars)} tars of images with their labels", positions=True)
