"""Which file a teacher or student starts from, or is, and by which digest that is known.

A recipe with `init: imagenet` starts from `pretrained/imagenet/MODEL.safetensors` where that is, and else from timm's
hub. `ferdistill weights fetch` puts it there.
"""

from pathlib import Path
from typing import Any

from .. import workspace
from ..errors import UsageError, require_same
from ..files import read_json, sha256, sha256_file
from ..params import FrozenTeacher, NetworkParams, SoftLabelsTeacher, TableTeacher

IMAGENET = workspace.PRETRAINED / "imagenet"
WITHOUT_FILE = ("scratch", "imagenet", "votes")
Network = NetworkParams | FrozenTeacher | TableTeacher


def facts(network: Network, where: str) -> dict[str, Any]:
    """`from`: scratch, imagenet, votes, a file, or a directory of soft labels; `sha256`: the file's, else null.

    ImageNet's weights have a digest where they lie in the folder `IMAGENET`.

    Raises UsageError if it is not there.
    """
    source = _source(network)
    if source in WITHOUT_FILE:
        here = of_imagenet(network.model) if isinstance(network, NetworkParams) and source == "imagenet" else None
        return {"from": source, "sha256": sha256_file(here) if here and here.is_file() else None}
    place, table = Path(source), isinstance(network, TableTeacher)
    if not (place.exists() if table else place.is_file()):
        raise UsageError(
            "no soft labels here" if table else "no weights here",
            where=f"{source} (params.yaml, {where})",
            expected="a recipe's init is scratch, imagenet or a safetensors file; a frozen teacher is a file, soft "
            "labels are a file or a directory",
            hint="put it there (`dvc pull` if DVC keeps it), or correct params.yaml",
        )
    return {"from": source, "sha256": sha256_file(place) if place.is_file() else _directory_sha256(place)}


def of_imagenet(model: str) -> Path:
    """Where ImageNet's weights of a timm model lie, if they are here."""
    return IMAGENET / f"{model}.safetensors"


def _source(network: Network) -> str:
    if isinstance(network, FrozenTeacher):
        return network.frozen
    if isinstance(network, SoftLabelsTeacher):
        return network.softlabels
    return network.init if isinstance(network, NetworkParams) else "votes"


def _directory_sha256(directory: Path) -> str:
    """Over the names and digests of the files in it."""
    files = sorted(file for file in directory.iterdir() if file.is_file() and not file.name.startswith("."))
    return sha256("".join(f"{sha256_file(file)}  {file.name}\n" for file in files))


def require(network: Network, checked: Path) -> dict[str, Any]:
    """The facts that the stage `params` wrote, if the weights are still those.

    Raises CheckError if they are others.
    """
    expected = read_json(checked, "from", "sha256")
    found = facts(network, checked.stem)
    require_same(
        [("file", expected["from"], found["from"]), ("digest", expected["sha256"], found["sha256"])],
        "the weights are not those that were checked",
        where=f"{found['from']}, against {checked}",
        hint="run `dvc repro`",
    )
    return found
