"""The exported bundle as a function from images to probabilities. Needs numpy and onnxruntime alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CheckError, UsageError, require_same
from ..files import read_json, sha256_file
from .guarantees import acted_on
from .onnx_file import require_modest
from .session import open_session, run

SCHEMA_VERSION = 2
# What a bundle that names no task of its own classifies; `detector` is the room whose detector belongs in front of it.
TASK = {"thing": "image", "things": "images", "label": "class", "labels": "classes", "detector": None}
# What is taken around what a detector found, as a share of its side on each side, where a bundle does not say.
CROP = {"margin": 0.0}
# What bundles of before lack.
GUARANTEES: dict[str, Any] = {"guarantee": None, "sets": None, "alerts": None, "use": None}
CONFIDENCE = 0.5  # below which there is no label, where the bundle does not say
TOLERANCE = 1e-3  # of the sum of an answer's probabilities; float32 and int8 networks keep within 1e-5
MAX_SIZE = 1024  # pixels of a side, as in params.yaml
RECOPY = "copy the whole directory again"


def _are_texts(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(text, str) for text in value.values())


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _are_limits(value: Any) -> bool:
    return isinstance(value, dict) and all(limit is None or _is_number(limit) for limit in value.values())


# What bundle.json must hold, and whether a value of it can be one.
ENTRIES: dict[str, Callable[[Any], bool]] = {
    "task": lambda value: (
        isinstance(value, dict)
        and _are_texts(TASK | value | {"detector": ""})
        and (value.get("detector") is None or str(value["detector"]).isidentifier())
    ),
    "sets": lambda value: (
        value is None
        or (isinstance(value, dict) and value.get("method") in ("lac", "aps") and _are_limits(value.get("limits")))
    ),
    "alerts": lambda value: value is None or (isinstance(value, dict) and _are_limits(value.get("thresholds"))),
    "use": lambda value: value is None or (isinstance(value, dict) and isinstance(value.get("notice"), str)),
    "guarantee": lambda value: value is None or (isinstance(value, dict) and all(map(_is_number, value.values()))),
    "classes": lambda value: (
        isinstance(value, list) and all(isinstance(name, str) for name in value) and 2 <= len(set(value)) == len(value)
    ),
    "crop": lambda value: isinstance(value, dict) and all(map(_is_number, value.values())),
    "files": _are_texts,
    "image": lambda value: (
        isinstance(value, dict)
        and value.get("channels") in (1, 3)
        and type(value.get("size")) is int
        and 0 < value["size"] <= MAX_SIZE
    ),
    "t_star": lambda value: _is_number(value) and value > 0,
    "thresholds": lambda value: isinstance(value, dict) and all(map(_is_number, value.values())),
    # By that suffix ONNX Runtime takes a file for ONNX, the format that `require_modest` reads.
    "variants": lambda value: _are_texts(value) and all(name.endswith(".onnx") for name in value.values()),
}


def read_bundle(directory: Path) -> dict[str, Any]:
    """Check a bundle and read its bundle.json, filled up from `TASK`, `CROP` and `GUARANTEES`.

    Raises UsageError if there is no bundle, or one of its files is missing; CheckError if a file is not the one that
    bundle.json describes, a model names a file that it does not list, or another release wrote the bundle.
    """
    description = directory / "bundle.json"
    if not description.is_file():
        raise UsageError(
            "no bundle here",
            where=str(directory),
            expected="a directory with bundle.json, as the stage `export` writes it",
            hint="give the directory of a bundle; in a checkout, `dvc repro` or `dvc pull` brings models/bundle",
        )
    info = {"task": {}, "crop": {}, **GUARANTEES} | read_json(description, hint=RECOPY)
    version = [("schema version", SCHEMA_VERSION, info.get("schema_version"))]
    hint = "use the release of ferdistill that wrote it, or export again"
    require_same(version, "a bundle of another release", where=str(description), hint=hint)
    problem = ""
    if lacking := ENTRIES.keys() - info.keys():
        problem = f"bundle.json lacks {', '.join(sorted(lacking))}"
    elif odd := [name for name, fits in ENTRIES.items() if not fits(info[name])]:
        problem = f"in bundle.json, {', '.join(odd)} cannot be so"
    elif not set(info["variants"].values()) <= info["files"].keys():
        problem = "bundle.json lacks the digest of a variant"
    elif any(
        info[name] and set(info[name][of]) != set(info["classes"])
        for name, of in (("sets", "limits"), ("alerts", "thresholds"))
    ):
        problem = "in bundle.json, sets or alerts are for other classes"
    if problem:
        raise CheckError(problem, where=str(description), expected="what the stage `export` writes", hint=RECOPY)
    for name, expected in info["files"].items():
        file = directory / name
        if Path(name).name != name or not file.is_file():
            raise UsageError("a bundle without one of its files", where=str(file), hint=RECOPY)
        digest = [("SHA-256", expected, sha256_file(file))]
        what = "a file is damaged, or belongs to another bundle"
        require_same(digest, what, where=f"{file}, against bundle.json", hint=RECOPY)
    for name in info["variants"].values():
        require_modest(directory / name, beside=info["files"])
    return info | {"task": TASK | info["task"], "crop": CROP | info["crop"]}


class Classifier:
    """A bundle written by the stage `export`, checked and loaded.

    Parameters
    ----------
    bundle_dir
        Directory with `bundle.json` and the files that it names.
    threads, device
        As `session.open_session` takes them.
    variant
        `fp32`, or `int8` where the bundle has it: see `info["variants"]`.

    Attributes
    ----------
    info : dict
        What `bundle.json` holds: task, classes, preprocessing, T*, thresholds, sets, alerts, metrics, digests.
    classes : list of str
        Names of the K columns of `predict`.
    confidence : float
        The largest probability below which there should be no label: the bundle's, or 0.5.
    provider : str
        The ONNX Runtime execution provider in use.

    Raises
    ------
    UsageError
        If there is no bundle or no such variant, or the device cannot be used.
    CheckError
        If a file is not the one that `bundle.json` describes.
    """

    def __init__(
        self, bundle_dir: Path | str, threads: int | None = None, device: str = "auto", variant: str = "fp32"
    ) -> None:
        directory = Path(bundle_dir)
        self.info = read_bundle(directory)
        if variant not in self.info["variants"]:
            raise UsageError(
                f"the bundle has no {variant}",
                where=str(directory),
                expected=f"one of {', '.join(self.info['variants'])}",
                hint="README.md in the bundle says why there is no int8",
            )
        self.classes: list[str] = self.info["classes"]
        self.confidence = float(self.info["thresholds"].get("confidence", CONFIDENCE))
        self._model = directory / self.info["variants"][variant]
        self._session = open_session(self._model, threads, device)
        self.provider: str = self._session.get_providers()[0]
        try:
            takes = [one.name for one in self._session.get_inputs()]
            gives = {one.name: (one.type, one.shape) for one in self._session.get_outputs()}
        except UnicodeDecodeError:
            takes, gives = [], {}
        kind, shape = gives.get("probabilities", ("", []))
        if takes != ["images"] or kind != "tensor(float)" or shape[1:] != [len(self.classes)]:
            raise CheckError(
                f"a model that takes {', '.join(takes) or 'nothing'} and gives {gives}",
                where=str(self._model),
                expected=f"images, and probabilities of {len(self.classes)} classes, tensor(float)",
                hint="export it again",
            )

    def predict(self, images: np.ndarray) -> np.ndarray:
        """Calibrated probabilities of images.

        Parameters
        ----------
        images : (N, H, W, C) uint8 array
            N, H, W >= 1; RGB, or grey with one channel, whichever the network takes; cropped as the training images
            were. They are resized to the network's size, each side by itself; `info["image"]["size"]` is fastest.

        Returns
        -------
        (N, K) float32 array
            Columns as in `classes`; rows sum to 1.

        Raises
        ------
        UsageError
            On anything else than such an array.
        CheckError
            If ONNX Runtime cannot run the model on them or not in time, or what it answers are no probabilities.
        """
        _require_images(images)
        probabilities: np.ndarray = run(self._session, ["probabilities"], {"images": images}, len(images))[0]
        shape = (len(images), len(self.classes))
        rows = probabilities.tolist()  # lists: faster than NumPy on the one row of a camera
        if probabilities.shape != shape or not all(min(row) >= 0 and abs(sum(row) - 1) <= TOLERANCE for row in rows):
            raise CheckError(
                f"what the model answers are no probabilities: {np.array2string(probabilities, threshold=20)}",
                where=str(self._model),
                expected=f"rows {shape}, none of whose numbers is below 0, and which sum to 1",
                hint="train or export it again",
            )
        return probabilities

    def answer(self, row: np.ndarray, threshold: float) -> dict[str, Any]:
        """A row of probabilities as JSON takes it: `label` (None below `threshold`), `confidence`, `probabilities`.

        And `set` and `alerts`, where the bundle has what they take: see `guarantees.acted_on`.
        """
        best = int(row.argmax())
        return {
            "label": self.classes[best] if row[best] >= threshold else None,
            "confidence": float(row[best]),
            "probabilities": dict(zip(self.classes, row.tolist(), strict=True)),
            **acted_on(row, self.classes, self.info),
        }


def _require_images(images: Any) -> None:
    if not isinstance(images, np.ndarray):
        what = f"not an array, but a {type(images).__name__}"
        hint = 'open a picture with Pillow: np.asarray(Image.open("picture.jpg").convert("RGB"))[None]'
    elif images.dtype != np.uint8:
        what = f"images of dtype {images.dtype}"
        hint = "give the pixels as they were decoded, 0 to 255, not scaled or normalised: the graph does that"
    elif images.ndim != 4 or images.shape[3] not in (1, 3):
        what = f"images of shape {images.shape}"
        hint = "wrap a single image as images[None]; drop an alpha channel as images[..., :3]"
    elif images.size == 0:
        what, hint = "an empty batch", "give at least one image of one pixel or more"
    else:
        return
    raise UsageError(
        what,
        where=f"{images.dtype} {images.shape}" if isinstance(images, np.ndarray) else repr(images)[:200],
        expected="uint8 (N, H, W, 1) for grey or (N, H, W, 3) for RGB, as a NumPy array",
        hint=hint,
    )
