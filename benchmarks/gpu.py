"""What a GPU does with our loop at 224 pixels: `make gpu-check`, ten minutes at most on one.

For each network, in mixed precision as `training.amp: auto` chooses it (bfloat16, where the card has it):

- ours: `distill.loop.fit`, from packed shards, flip_shift, clipped gradients, deterministic algorithms;
- bare loop: forward, backward and a step of AdamW on normalised tensors that lie on the device, in one order, and no
  more. Both in turn; the first round does not count;
- the largest memory that ours takes, and how busy the card is meanwhile, as nvidia-smi samples it.

Then what must hold: two runs end with the same bytes; so does one that was broken off; float32 on the card answers as
the CPU does; and the bundle, where there is one, through ONNX Runtime's CUDA provider, and TensorRT's where it is.

Without a GPU it stops, but with `--cpu`, which tries this script itself on a few images.
"""

import subprocess
import tempfile
from copy import deepcopy
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import measure
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from safetensors.torch import save
from timm.optim import create_optimizer_v2
from torch import Tensor, nn

from ferdistill import workspace
from ferdistill.data import images as packed_images
from ferdistill.data import packing
from ferdistill.data.index import Index
from ferdistill.distill import models
from ferdistill.distill.batches import Batch
from ferdistill.distill.data import Split
from ferdistill.distill.inference import as_input, make_deterministic, training_device
from ferdistill.distill.loop import Method, Objective, TrainingData, fit
from ferdistill.errors import FerdistillError
from ferdistill.files import sha256
from ferdistill.params import ImageParams, NetworkParams, TrainingParams
from ferdistill.runtime.session import open_session

EXAMPLES = """
  python benchmarks/gpu.py --json gpu.json
  python benchmarks/gpu.py --cpu --images 16 --batch 8 --side 64 --networks mobilenetv3_small_050
"""
NETWORKS = ("mobilenetv3_large_100", "efficientnet_b3", "vit_small_patch16_224")
CLASSES = ["a", "b", "c", "d", "e", "f", "g"]


class Task:
    """Random pictures in shards, their labels, and a recipe of one epoch or more for a network."""

    def __init__(self, directory: Path, model: str, count: int, batch: int, side: int) -> None:
        rng = np.random.default_rng(0)
        self.image = ImageParams(size=side, channels=3)
        pictures = rng.integers(0, 256, (count, side, side, 3), dtype=np.uint8)
        ids = [sha256(picture.tobytes()) for picture in pictures]
        packing.write(directory, np.array(ids), (side, side, 3), lambda rows: iter(pictures[rows]))
        rows = pd.DataFrame({"sample_id": ids})
        self.images = packed_images.load(directory, Index(rows, {}))
        self.labels = rng.integers(0, len(CLASSES), count)
        self.model, self.batch = model, batch
        self.options = {"img_size": side} if model.startswith("vit") else {}

    def network(self) -> nn.Module:
        torch.manual_seed(0)
        return models.build(self.model, self.options, "stock", len(CLASSES), self.image, False)

    def ours(self, epochs: int = 1, checkpoint: Path | None = None, stop: int | None = None) -> tuple[float, nn.Module]:
        """Seconds of the last epoch of our loop, and the network; broken off in epoch `stop`, if one is named."""
        recipe = NetworkParams.model_validate(
            {
                "model": self.model, "options": self.options, "stem": "stock", "init": "scratch", "batch": self.batch,
                "phases": [{"epochs": epochs, "lr": 1e-4, "augment": "flip_shift"}], "weight_decay": 0.05,
                "label_smoothing": 0.0,
            }
        )  # fmt: skip
        settings = TrainingParams(
            threads=None, amp="auto", monitor="nll", class_weights="none", clip_norm=5.0, ema=None
        )
        clock: list[float] = []

        def hard(logits: Tensor, batch: Batch) -> dict[str, Tensor]:
            if not clock:
                clock.append(perf_counter())
            return {"loss": F.cross_entropy(logits.float(), batch.labels)}

        def read_the_clock() -> dict[str, float]:
            if training_device().type == "cuda":
                torch.cuda.synchronize()
            clock.append(perf_counter())
            if len(clock) - 1 == stop:
                raise KeyboardInterrupt
            return {}

        train = Split(self.images, np.arange(len(self.labels)), self.labels)
        val = Split(self.images, np.arange(min(64, len(self.labels))), self.labels[:64])
        network = self.network()
        make_deterministic(0)
        data, method = TrainingData(train, val), Method(recipe, settings, 0)
        try:
            fit(network, method, data, Objective(hard, read_the_clock), name=self.model, checkpoint=checkpoint)
        finally:
            torch.use_deterministic_algorithms(False)
        return clock[-1] - clock[-2], network

    def bare(self) -> float:
        """Seconds of an epoch that does no more than training needs, on tensors that lie on the device."""
        device = training_device()
        network = self.network().to(device).train()
        pixels = torch.from_numpy(np.asarray(self.images[np.arange(len(self.labels))])).permute(0, 3, 1, 2)
        inputs, labels = as_input(pixels, device), torch.from_numpy(self.labels).to(device)
        optimizer = create_optimizer_v2(network, "adamw", lr=1e-4, weight_decay=0.05)
        low = device.type == "cuda" and torch.cuda.is_bf16_supported()
        start = 0.0
        for rows in torch.arange(len(labels)).split(self.batch):
            with torch.autocast(device.type, torch.bfloat16, enabled=low):
                logits = network(inputs[rows[0] : rows[-1] + 1])
            start = start or perf_counter()  # as ours: from the first loss
            loss = F.cross_entropy(logits.float(), labels[rows[0] : rows[-1] + 1])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return perf_counter() - start


def digest(network: nn.Module) -> str:
    """Of a network's weights."""
    return sha256(save({name: tensor.cpu().contiguous() for name, tensor in network.state_dict().items()}))


class Utilisation:
    """How busy the card is, in per cent, in the mean while the block runs; None where nvidia-smi is not there."""

    def __enter__(self) -> "Utilisation":
        command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "--loop-ms=200"]
        try:
            self._sampler = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        except FileNotFoundError:
            self._sampler = None
        return self

    def __exit__(self, *_: object) -> None:
        self.mean: float | None = None
        if self._sampler:
            self._sampler.terminate()
            found = [float(line) for line in self._sampler.communicate()[0].split() if line.isdigit()]
            self.mean = float(np.mean(found)) if found else None


def speed(task: Task, rounds: int) -> list[dict[str, Any]]:
    """Ours beside the bare loop, in turn, and what ours takes."""
    cuda = training_device().type == "cuda"
    speeds: dict[str, list[float]] = {"ours": [], "bare": []}
    busy: list[float] = []
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    for number in range(1 + rounds):
        with Utilisation() as used:
            ours = task.ours()[0]
        memory = torch.cuda.max_memory_allocated() / 2**20 if cuda else measure.peak_memory()
        bare = task.bare()
        if number:
            speeds["ours"].append(len(task.labels) / ours)
            speeds["bare"].append(len(task.labels) / bare)
            busy += [used.mean] if used.mean is not None else []
    ratios = [ours / bare for ours, bare in zip(speeds["ours"], speeds["bare"], strict=True)]
    medians = (median(speeds[name]) for name in ("ours", "bare"))
    rows = [measure.row(f"{task.model}: training", *medians, "images/s", "bare loop on resident tensors", ratios)]
    rows.append(measure.row(f"{task.model}: largest memory of ours", memory, None, "MiB", ""))
    if busy:
        rows.append(measure.row(f"{task.model}: the card is busy", float(np.mean(busy)), None, "%", ""))
    return rows


def same_bytes(task: Task, folder: Path) -> list[dict[str, Any]]:
    """Whether two runs of two epochs end alike, and one that is broken off after the first."""
    twice = [digest(task.ours(epochs=2)[1]) for _ in range(2)]
    checkpoint = folder / "checkpoint.safetensors"
    for stop in (2, None):  # in the second epoch, when the first has been kept
        try:
            resumed = digest(task.ours(epochs=2, checkpoint=checkpoint, stop=stop)[1])
        except KeyboardInterrupt:
            continue
    found = {"two runs": twice[0] == twice[1], "one broken off": resumed == twice[0]}
    return [
        measure.row(f"{task.model}: {name}, same bytes", int(same), None, "1 is yes", "")
        for name, same in found.items()
    ]


def distance(task: Task) -> list[dict[str, Any]]:
    """The largest difference of a logit between the CPU and the card, in float32, on eight images."""
    network = task.network().eval()
    pixels = torch.from_numpy(np.asarray(task.images[np.arange(min(8, len(task.labels)))])).permute(0, 3, 1, 2)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    with torch.inference_mode():
        found = [
            deepcopy(network).to(device)(as_input(pixels, device)).cpu()
            for device in (torch.device("cpu"), training_device())
        ]
    apart = float((found[0] - found[1]).abs().max())
    return [measure.row(f"{task.model}: logits of CPU and card, float32, apart by", apart, None, "at most", "")]


def providers(bundle: Path) -> list[dict[str, Any]]:
    """The bundle's answers through each provider beside the CPU's, on random pictures."""
    rows: list[dict[str, Any]] = []
    model = bundle / "model.onnx"
    if not model.is_file():
        return rows
    cpu = open_session(model, device="cpu")
    channels = cpu.get_inputs()[0].shape[3]
    pictures = np.random.default_rng(0).integers(0, 256, (32, 48, 48, channels), dtype=np.uint8)
    expected = cpu.run(["probabilities"], {"images": pictures})[0]
    for device in ("cuda", "tensorrt"):
        try:
            found = open_session(model, device=device).run(["probabilities"], {"images": pictures})[0]
        except FerdistillError as error:
            print(f"{device}: {error.what}")
            continue
        apart = float(np.abs(found - expected).max())
        rows.append(measure.row(f"bundle through {device}: probabilities apart by", apart, None, "at most", "CPU"))
    return rows


def main() -> None:
    """Check one GPU."""
    parser = measure.parser(__doc__, EXAMPLES)
    parser.add_argument("--images", type=int, default=4096, help="of an epoch (default 4096)")
    parser.add_argument("--batch", type=int, default=128, help="images of a step (default 128)")
    parser.add_argument("--side", type=int, default=224, help="pixels (default 224)")
    parser.add_argument("--rounds", type=int, default=3, help="that count, after one that does not (default 3)")
    parser.add_argument("--networks", nargs="+", default=NETWORKS, help="timm's names")
    parser.add_argument("--bundle", type=Path, default=workspace.BUNDLE, help="to run through the providers")
    parser.add_argument("--cpu", action="store_true", help="try the script where there is no GPU")
    arguments = parser.parse_args()
    if training_device().type != "cuda" and not arguments.cpu:
        raise SystemExit("no GPU that torch can use is here: nothing was measured")
    rows: list[dict[str, Any]] = []
    for model in arguments.networks:
        with tempfile.TemporaryDirectory() as folder:
            task = Task(Path(folder) / "images", model, arguments.images, arguments.batch, arguments.side)
            rows += speed(task, arguments.rounds)
            few = Task(Path(folder) / "few", model, min(512, arguments.images), arguments.batch, arguments.side)
            rows += distance(few) + same_bytes(few, Path(folder))
    rows += providers(arguments.bundle)
    device = torch.cuda.get_device_name() if training_device().type == "cuda" else measure.cpu()
    packages = ("ferdistill", "torch", "timm", "accelerate", "onnxruntime-gpu")
    measure.finish(measure.result(rows, *packages, device=device), arguments.json)


if __name__ == "__main__":
    main()
