"""Which file of weights a network starts from, or is, and by which digest it is known."""

from pathlib import Path
from typing import Any

from ..errors import UsageError, require_same
from ..files import read_json, sha256_file
from ..params import FrozenTeacher, NetworkParams

WITHOUT_FILE = ("scratch", "imagenet")


def facts(network: NetworkParams | FrozenTeacher, where: str) -> dict[str, Any]:
    """`from`: scratch, imagenet, or a file; `sha256`: the file's, else null.

    Raises UsageError if the file is not there.
    """
    source = network.frozen if isinstance(network, FrozenTeacher) else network.init
    if source in WITHOUT_FILE:
        return {"from": source, "sha256": None}
    if not Path(source).is_file():
        raise UsageError(
            "no weights here",
            where=f"{source} (params.yaml, {where})",
            expected="a recipe's init is scratch, imagenet or a safetensors file; a frozen teacher is a file",
            hint="put it there (`dvc pull` if DVC keeps it), or correct params.yaml",
        )
    return {"from": source, "sha256": sha256_file(source)}


def require(network: NetworkParams | FrozenTeacher, checked: Path) -> dict[str, Any]:
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
