"""Teachers from elsewhere, made to look like ours: our normalised input in, logits in our order out."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import tensor_files
from ..errors import CheckError, require_same
from ..files import atomic, read_json, sha256_file, write_json
from ..params import FrozenTeacher, ImageParams
from . import models


class FrozenNetwork(nn.Module):
    """A network with its own preprocessing and order of classes inside: from `inference.as_input` to our logits.

    `body` takes float32 (N, channels, size, size), normalised its own way, and gives logits (N, K) in its own order.
    """

    def __init__(self, body: Any, teacher: FrozenTeacher, classes: list[str], image: ImageParams) -> None:
        super().__init__()
        self.body, self.size, self.channels = body, teacher.size, teacher.channels
        self.order = [teacher.classes.index(name) for name in classes]
        constants = (*models.NORMALISATION[image.channels], teacher.mean, teacher.std)
        self.in_mean, self.in_std, self.mean, self.std = (
            nn.Buffer(torch.tensor(values)[:, None, None]) for values in constants
        )

    def forward(self, images: Tensor) -> Tensor:
        pixels = images * self.in_std + self.in_mean
        if pixels.shape[1] == 1 and self.channels == 3:
            pixels = pixels.expand(-1, 3, -1, -1)
        elif pixels.shape[1] == 3 and self.channels == 1:
            grey = torch.tensor([0.299, 0.587, 0.114], device=pixels.device)[:, None, None]
            pixels = (pixels * grey).sum(1, keepdim=True)
        if pixels.shape[2] != self.size:
            pixels = F.interpolate(pixels, (self.size, self.size), mode="bilinear", antialias=True)
        logits: Tensor = self.body((pixels - self.mean) / self.std)
        if logits.ndim != 2 or logits.shape[1] != len(self.order):
            raise CheckError(
                f"a frozen teacher gives an output of shape {tuple(logits.shape)}",
                expected=f"(N, {len(self.order)}), a logit for each class of params",
                hint="give the file's own `classes`, or export it with one logit a class",
            )
        return logits[:, self.order]


def save(params: FrozenTeacher, directory: Path, classes: list[str], image: ImageParams, **facts: Any) -> None:
    """Copy the file into a teacher's directory, with a config.json; `facts` are recorded in the latter.

    That the file is there `weights.require` has seen.
    """
    copy = directory / f"frozen{Path(params.frozen).suffix}"
    with atomic(copy) as temporary:
        shutil.copyfile(params.frozen, temporary)
    config = {
        "frozen": params.model_dump(mode="json"),
        "classes": classes,
        "image": {"size": image.size, "channels": image.channels},
        **facts,
        "sha256": sha256_file(copy),
    }
    write_json(directory / "config.json", config)


def load_teacher(directory: Path) -> tuple[nn.Module, dict[str, Any]]:
    """Read a teacher, trained or frozen, in eval mode, with its config; as `models.load_network`.

    Raises UsageError or CheckError if a file is missing, is not the one that was saved, or is of another architecture.
    """
    config = read_json(directory / "config.json", "classes", "image", "sha256")
    if "frozen" not in config:
        return models.load_network(directory)
    teacher = FrozenTeacher.model_validate(config["frozen"])
    file = directory / f"frozen{Path(teacher.frozen).suffix}"
    require_same(
        [("digest", config["sha256"], sha256_file(file) if file.is_file() else "of no file")],
        "a frozen teacher is not the one that was saved",
        where=str(file),
        hint="restore it with `dvc checkout --force`",
    )
    body: Any = _onnx(file) if teacher.model is None else None
    if teacher.model is not None:
        own = ImageParams(size=teacher.size, channels=teacher.channels)
        body = models.build(teacher.model, teacher.options, "stock", len(teacher.classes), own, False)
        models.load_matching(body, tensor_files.read(file, "pt"), file)
    image = ImageParams.model_validate(config["image"])
    return FrozenNetwork(body, teacher, config["classes"], image).eval(), config


def _onnx(file: Path) -> Callable[[Tensor], Tensor]:
    """An ONNX file as a function of tensors."""
    import onnxruntime

    # Asked for CUDA where there is no GPU, onnxruntime-gpu prints errors.
    there = onnxruntime.get_available_providers() if torch.cuda.is_available() else []
    providers = [name for name in ("CUDAExecutionProvider",) if name in there] + ["CPUExecutionProvider"]
    try:
        session = onnxruntime.InferenceSession(file, providers=providers)
    except Exception as error:  # onnxruntime's errors have no common base of their own
        raise CheckError(f"not an ONNX model that runs here: {error}", where=str(file), hint="export it anew") from None
    name = session.get_inputs()[0].name

    def run(images: Tensor) -> Tensor:
        logits = session.run(None, {name: images.cpu().numpy().astype(np.float32)})[0]
        return torch.from_numpy(logits).to(images.device)

    return run
