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
from ..runtime.onnx_file import require_modest
from . import imagenet, models

FLOATS = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64}


class FrozenNetwork(nn.Module):
    """A network with its own preprocessing and order of classes inside: from `inference.as_input` to our logits.

    `body` takes float32 (N, channels, size, size), normalised its own way, and gives logits (N, K) in its own order.
    """

    def __init__(self, body: Any, teacher: FrozenTeacher, classes: list[str], image: ImageParams) -> None:
        super().__init__()
        self.body, self.teacher = body, teacher
        self.size, self.channels = teacher.size, teacher.channels
        self.order = [teacher.classes.index(name) for name in classes]
        ours = (image.size, image.channels, *imagenet.NORMALISATION[image.channels])
        self.takes_ours = ours == (teacher.size, teacher.channels, teacher.mean, teacher.std)
        constants = (*imagenet.NORMALISATION[image.channels], teacher.mean, teacher.std)
        self.in_mean, self.in_std, self.mean, self.std = (
            nn.Buffer(torch.tensor(values)[:, None, None]) for values in constants
        )

    def forward(self, images: Tensor) -> Tensor:
        # A network that was trained here answers to the bit as before it was frozen.
        logits: Tensor = self.body(images if self.takes_ours else self.as_theirs(images))
        require_logits(tuple(logits.shape), len(images), self.teacher)
        if not logits.isfinite().all():
            raise CheckError(
                "a frozen teacher gives logits that are no numbers: NaN or infinity",
                where=self.teacher.frozen,
                expected="finite logits for every image",
                hint="are `mean` and `std` in params.yaml those that it was trained with? else export it anew",
            )
        return logits[:, self.order]

    def as_theirs(self, images: Tensor) -> Tensor:
        """Our normalised input as the network takes it."""
        pixels = images * self.in_std + self.in_mean
        if pixels.shape[1] == 1 and self.channels == 3:
            pixels = pixels.expand(-1, 3, -1, -1)
        elif pixels.shape[1] == 3 and self.channels == 1:
            grey = torch.tensor([0.299, 0.587, 0.114], device=pixels.device)[:, None, None]
            pixels = (pixels * grey).sum(1, keepdim=True)
        if pixels.shape[2] != self.size:
            pixels = F.interpolate(pixels, (self.size, self.size), mode="bilinear", antialias=True)
        return (pixels - self.mean) / self.std


def require_logits(shape: tuple[int, ...], count: int, teacher: FrozenTeacher) -> None:
    """Raise a CheckError if what a teacher gives of `count` images is not of the shape of their logits."""
    if shape != (count, len(teacher.classes)):
        raise CheckError(
            f"a frozen teacher gives an output of shape {shape}",
            where=teacher.frozen,
            expected=f"{(count, len(teacher.classes))}, a logit for each class of params",
            hint="give the file's own `classes`, or export it with one logit a class",
        )


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
    body: Any = _onnx(file, teacher) if teacher.model is None else None
    if teacher.model is not None:
        own = ImageParams(size=teacher.size, channels=teacher.channels)
        body = models.build(teacher.model, teacher.options, teacher.stem, len(teacher.classes), own, False)
        models.load_matching(body, tensor_files.read(file, "pt"), file)
    image = ImageParams.model_validate(config["image"])
    return FrozenNetwork(body, teacher, config["classes"], image).eval(), config


def _onnx(file: Path, teacher: FrozenTeacher) -> Callable[[Tensor], Tensor]:
    """An ONNX file as a function of tensors.

    One that was exported with a fixed batch, of one image as a rule, is run so many at a time.
    """
    import onnxruntime

    from ..runtime.session import run as run_session

    require_modest(file, beside=())
    # Asked for CUDA where there is no GPU, onnxruntime-gpu prints errors.
    there = onnxruntime.get_available_providers() if torch.cuda.is_available() else []
    providers = [name for name in ("CUDAExecutionProvider",) if name in there] + ["CPUExecutionProvider"]
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # its warnings are about its own optimiser
    try:
        session = onnxruntime.InferenceSession(file, options, providers=providers)
        takes = [(one.name, one.type, one.shape) for one in session.get_inputs()]
        gives = [(one.name, one.type, one.shape) for one in session.get_outputs()]
    except Exception as error:  # onnxruntime's errors have no common base of their own
        raise CheckError(
            f"not an ONNX model that runs here: {str(error).splitlines()[0]}",
            where=str(file),
            expected=f"an ONNX file that onnxruntime {onnxruntime.__version__} knows",
            hint="export it anew",
        ) from None
    side = (teacher.channels, teacher.size, teacher.size)
    fits = len(takes) == 1 and takes[0][1] in FLOATS and len(takes[0][2]) == 4
    fits = fits and all(not isinstance(own, int) or own == due for own, due in zip(takes[0][2][1:], side, strict=True))
    if not fits or not gives or gives[0][1] not in FLOATS:
        raise CheckError(
            f"a frozen teacher takes {_told(takes)} and gives {_told(gives)}",
            where=teacher.frozen,
            expected=f"one input of numbers (N, {', '.join(map(str, side))}), and logits (N, {len(teacher.classes)}) "
            "as its first output",
            hint="correct `size` and `channels` in params.yaml, or export it anew: images in, logits out",
        )
    (name, kind, shape), output = takes[0], gives[0][0]

    def run(images: Tensor) -> Tensor:
        pixels = images.cpu().numpy().astype(FLOATS[kind])
        at_once = shape[0] if isinstance(shape[0], int) else len(pixels)
        logits = []
        for start in range(0, len(pixels), at_once):
            part = pixels[start : start + at_once]
            filled = np.concatenate([part, np.repeat(part[-1:], at_once - len(part), axis=0)])
            found = run_session(session, [output], {name: filled}, at_once)[0]
            require_logits(found.shape, at_once, teacher)
            logits.append(found[: len(part)])
        return torch.from_numpy(np.concatenate(logits).astype(np.float32)).to(images.device)

    return run


def _told(ends: list[tuple[str, str, Any]]) -> str:
    return ", ".join(f"`{name}` {kind} {shape}" for name, kind, shape in ends) or "nothing"
