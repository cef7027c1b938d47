"""Images a second of student training, beside a bare loop, torchdistill's, and ours with its teachers online.

All train the student of the embedded scale, from the same weights, on the same images, in float32, with cross-entropy
and the divergence from each of four teachers. They run in turn, an epoch each, and the first round does not count:

- ours: `distill.loop.fit` as the stage `student` calls it, with stored soft labels: images from a memory-mapped file,
  flip_shift, clipped gradients, warm-up and cosine, the training canary, deterministic algorithms;
- bare loop: forward, backward and a step of AdamW on normalised tensors that lie on the device, in one order, and no
  more;
- torchdistill, teachers online: its DistillationBox with a KDLoss a teacher; it stores no soft labels, so the teachers
  run on every batch. Its DataLoader works in the same process, with the same augmentation from torchvision;
- torchdistill, stored logits: the same with a "teacher" that looks stored logits up, so that loops alone are compared;
- ours, teachers online: `fit` as above, but the teachers run on every augmented batch, and there is no canary.

The clock runs from before the optimiser is made to the end of the epoch's last batch: building networks and evaluating
them is outside it. Speeds are medians over the rounds; a ratio is the median of the rounds' own ratios, and its spread
the least and the greatest of them.

Then ours alone, with teachers stored and online, while their number grows.
"""

import tempfile
from collections.abc import Callable
from copy import deepcopy
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, NamedTuple

import measure
import numpy as np
import torch
from PIL import Image
from timm.optim import create_optimizer_v2
from torch import Tensor, nn
from torchvision import transforms

from ferdistill import params
from ferdistill.distill import models
from ferdistill.distill.augment import reach
from ferdistill.distill.batches import Batch
from ferdistill.distill.data import Split
from ferdistill.distill.inference import as_input, make_deterministic, training_device
from ferdistill.distill.loop import Method, Objective, TrainingData, fit
from ferdistill.distill.losses import SoftTargets, ce_loss, kd_loss, soft_targets
from ferdistill.distill.training_canary import TrainingCanary, named_classes
from ferdistill.params import Params

EXAMPLES = """
  python benchmarks/training.py                            1024 images, 15 rounds, one thread: ten minutes
  python benchmarks/training.py --images 256 --rounds 2 --teachers    some seconds
  python benchmarks/training.py --threads 2 --json out.json
Run it from the repository's root. Without torchdistill its rows stay empty; `make bench` brings it.
"""
GROWTH_ROUNDS = 3


class Task(NamedTuple):
    """What every variant is given: images (N, H, W, 1) uint8, labels int64 (N,), teachers' logits (M, N, K)."""

    settings: Params
    images: np.ndarray
    labels: Tensor
    logits: Tensor
    student: nn.Module
    teachers: nn.ModuleDict

    def soften(self, logits: Tensor) -> SoftTargets:
        """Split targets of teachers that count alike, from their logits (M, B, K), on the training device."""
        logits = logits.to(training_device())
        sources = torch.arange(len(logits), device=logits.device)
        weights = torch.full((len(logits),), 1 / len(logits), device=logits.device)
        return soft_targets(logits, weights, sources, self.settings.temperature, "probability")

    def loss(self, logits: Tensor, labels: Tensor, targets: SoftTargets) -> dict[str, Tensor]:
        """The student's, of a batch."""
        alpha, temperature = self.settings.alpha, self.settings.temperature
        return kd_loss(logits, ce_loss(logits, labels), targets, alpha=alpha, temperature=temperature)


class Epoch(NamedTuple):
    """Seconds of one epoch, and the mean loss over its images."""

    seconds: float
    loss: float


def make_task(directory: Path, settings: Params, count: int) -> Task:
    """Smooth pictures in a file, labels, logits that agree with them as the canary asks, and networks."""
    rng = np.random.default_rng(0)
    scale, classes = settings.scale_, settings.classes
    coarse = rng.integers(0, 256, (count, 6, 6), dtype=np.uint8)
    side = (scale.image.size, scale.image.size)
    pictures = [np.asarray(Image.fromarray(picture).resize(side, Image.Resampling.BICUBIC)) for picture in coarse]
    np.save(directory / "images.npy", np.stack(pictures)[..., None])
    labels = rng.integers(0, len(classes), count)
    logits = rng.normal(0, 1, (len(settings.teachers), count, len(classes))) + 2 * np.eye(len(classes))[labels]
    torch.manual_seed(0)
    recipes = {name: scale.teachers[name].model_copy(update={"init": "scratch"}) for name in settings.teachers}
    teachers = {name: models.build_for(recipe, classes, scale.image).eval() for name, recipe in recipes.items()}
    student = models.build_for(scale.student.model_copy(update={"init": "scratch"}), classes, scale.image)
    return Task(
        settings,
        np.load(directory / "images.npy", mmap_mode="r"),
        torch.from_numpy(labels),
        torch.from_numpy(logits).float(),
        student.to(training_device()),
        nn.ModuleDict(teachers).to(training_device()),
    )


def settings_for(augment: str = "flip_shift") -> Params:
    """The parameters of the embedded scale, with one epoch for the student, in float32."""
    raw = params.load().model_dump(by_alias=True)
    raw["scale"] = "embedded"
    raw["training"] |= {"amp": "no", "threads": None}
    recipe = raw["scales"]["embedded"]["student"]
    recipe["phases"] = [recipe["phases"][0] | {"epochs": 1, "augment": augment}]
    return Params.model_validate(raw)


def ours(task: Task) -> Epoch:
    """Our loop with stored soft labels."""
    targets = task.soften(task.logits)
    canary = TrainingCanary(named_classes(task.logits), list(task.teachers), task.logits.shape[-1], training_device())

    def distil(logits: Tensor, batch: Batch) -> dict[str, Tensor]:
        canary.see(batch.positions, batch.labels)
        return task.loss(logits, batch.labels, targets.at(batch.positions))

    return fit_one_epoch(task, deepcopy(task.student), Objective(distil, canary.epoch))


def ours_online(task: Task) -> Epoch:
    """Our loop with teachers that see each batch as the student does, augmented."""
    network = deepcopy(task.student)
    seen: dict[str, Tensor] = {}
    network.register_forward_pre_hook(lambda _, inputs: seen.update(inputs=inputs[0]))

    def distil(logits: Tensor, batch: Batch) -> dict[str, Tensor]:
        with torch.no_grad():
            taught = torch.stack([teacher(seen["inputs"]) for teacher in task.teachers.values()])
        return task.loss(logits, batch.labels, task.soften(taught))

    return fit_one_epoch(task, network, Objective(distil))


def fit_one_epoch(task: Task, network: nn.Module, objective: Objective) -> Epoch:
    """Train by our loop, which calls `after_epoch` after the last batch of an epoch and before it evaluates."""
    settings, labels, ends = task.settings, task.labels.numpy(), []

    def stop_the_clock() -> dict[str, float]:
        record = objective.after_epoch()
        ends.append(perf_counter())
        return record

    train = Split(task.images, np.arange(len(labels)), labels)
    val = Split(task.images, np.arange(8), labels[:8])
    recipe = settings.scale_.student
    make_deterministic(settings.seed)
    start = perf_counter()
    result = fit(
        network,
        Method(recipe, settings.training, settings.seed),
        TrainingData(train, val),
        Objective(objective.loss, stop_the_clock),
        name="benchmark",
    )
    torch.use_deterministic_algorithms(False)
    return Epoch(ends[0] - start, result.history[0]["train_loss"])


def bare(task: Task) -> Epoch:
    """No more than training needs."""
    recipe, device, network = task.settings.scale_.student, training_device(), deepcopy(task.student).train()
    inputs = as_input(torch.from_numpy(np.array(task.images)).permute(0, 3, 1, 2), device)
    targets = task.soften(task.logits)
    labels = task.labels.to(device)
    start = perf_counter()
    optimizer = create_optimizer_v2(network, "adamw", lr=recipe.phases[0].lr, weight_decay=recipe.weight_decay)
    total = torch.zeros((), device=device)
    for first in range(0, len(labels), recipe.batch):
        part = slice(first, first + recipe.batch)
        own = SoftTargets(targets.log_targets[:, part], targets.log_weights)
        loss = task.loss(network(inputs[part]), labels[part], own)["loss"]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        total += loss.detach() * len(labels[part])
    mean = float(total) / len(labels)  # before the clock is read: it waits for a GPU
    return Epoch(perf_counter() - start, mean)


class Faces(torch.utils.data.Dataset[Any]):
    """Images one by one, augmented with torchvision as the recipe says: (1, H, W) float32, label, row."""

    def __init__(self, task: Task) -> None:
        side = task.images.shape[1]
        self.images, self.labels = task.images, task.labels.tolist()
        augment = [
            transforms.RandomHorizontalFlip(),
            transforms.RandomCrop(side, padding=reach(side), padding_mode="edge"),
            transforms.ColorJitter(brightness=0.2),
        ]
        if task.settings.scale_.student.phases[0].augment == "none":
            augment = []
        to_input = [transforms.ToTensor(), transforms.Normalize(*models.NORMALISATION[1])]
        self.transform = transforms.Compose(augment + to_input)

    def __getitem__(self, row: int) -> tuple[Tensor, int, dict[str, int]]:
        return self.transform(Image.fromarray(self.images[row, :, :, 0])), self.labels[row], {"row": row}

    def __len__(self) -> int:
        return len(self.labels)


class Online(nn.Module):
    """The teachers as torchdistill takes them: one module, whose parts it hooks."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.parts = task.teachers

    def forward(self, inputs: Tensor, more: dict[str, Tensor]) -> list[Tensor]:
        return [part(inputs) for part in self.parts.values()]


class Stored(nn.Module):
    """The same with stored logits."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.parts = nn.ModuleDict({name: nn.Identity() for name in task.teachers})
        self.logits = nn.Buffer(task.logits)

    def forward(self, inputs: Tensor, more: dict[str, Tensor]) -> list[Tensor]:
        logits = self.logits[:, more["row"]]
        return [part(own) for part, own in zip(self.parts.values(), logits, strict=True)]


def torchdistill(task: Task, teacher: nn.Module) -> Epoch:
    """An epoch of torchdistill's DistillationBox, driven as its examples do, without their logging."""
    from torchdistill.core.distillation import get_distillation_box

    settings, device = task.settings, training_device()
    recipe = settings.scale_.student
    steps = -(-len(task.labels) // recipe.batch)
    parts = {name: f"parts.{name}" for name in task.teachers}
    terms = {
        name: {
            "criterion": {
                "key": "KDLoss",
                "kwargs": {
                    "student_module_path": ".",
                    "student_module_io": "output",
                    "teacher_module_path": path,
                    "teacher_module_io": "output",
                    "temperature": settings.temperature,
                    "alpha": 1 - settings.alpha,  # theirs weighs the cross-entropy
                },
            },
            "weight": 1 / len(parts),
        }
        for name, path in parts.items()
    }
    config = {
        "num_epochs": 1,
        "train_data_loader": {
            "dataset_id": "train",
            "requires_supp": False,  # the data set gives the row itself
            "sampler": {"class_or_func": torch.utils.data.RandomSampler},
            "kwargs": {"batch_size": recipe.batch, "num_workers": 0},
        },
        "teacher": {
            "forward_proc": "forward_batch_supp_dict",
            "forward_hook": {"output": list(parts.values())},
            "requires_grad": False,
        },
        "student": {"forward_proc": "forward_batch_only"},
        "optimizer": {
            "key": "AdamW",
            "kwargs": {"lr": recipe.phases[0].lr, "weight_decay": recipe.weight_decay},
            "max_grad_norm": settings.training.clip_norm,
        },
        "scheduler": {"key": "CosineAnnealingLR", "kwargs": {"T_max": steps}, "scheduling_step": 1},
        "criterion": {"key": "WeightedSumLoss", "kwargs": {"sub_terms": terms}},
    }
    faces, network, total = {"train": Faces(task)}, deepcopy(task.student), torch.zeros((), device=device)
    start = perf_counter()
    box = get_distillation_box(teacher.to(device), network, faces, config, device, None, False, 1)
    box.pre_epoch_process(epoch=0)
    for inputs, labels, more in box.train_data_loader:
        inputs, labels = inputs.to(device), labels.to(device)
        loss = box.forward_process(inputs, labels, more)
        box.post_forward_process(loss=loss)
        total += loss.detach() * len(labels)
    mean = float(total) / len(task.labels)
    seconds = perf_counter() - start
    box.post_epoch_process()
    box.clean_modules()
    return Epoch(seconds, mean)


PEERS: dict[str, tuple[str, Callable[[Task], Epoch]]] = {
    "bare loop": ("torch", bare),
    "torchdistill, teachers online": ("torchdistill", lambda task: torchdistill(task, Online(task))),
    "torchdistill, stored logits": ("torchdistill", lambda task: torchdistill(task, Stored(task))),
    "ours, teachers online": ("ferdistill", ours_online),
}


def in_turn(variants: dict[str, Callable[[Task], Epoch]], task: Task, rounds: int) -> dict[str, list[float]]:
    """Images a second of each variant in each round, after one that does not count."""
    speeds: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(1 + rounds):
        for name, run in variants.items():
            seconds = run(task).seconds
            if number > 0:
                speeds[name].append(len(task.labels) / seconds)
    return speeds


def beside_peers(task: Task, rounds: int) -> list[dict[str, Any]]:
    """Ours beside every peer that is installed."""
    versions = {name: measure.installed(package) for name, (package, _) in PEERS.items()}
    present = {name: run for name, (_, run) in PEERS.items() if versions[name]}
    speeds = in_turn({"ours": ours} | present, task, rounds)
    rows = []
    for name, (package, _) in PEERS.items():
        theirs, ratios = None, None
        if name in speeds:
            theirs = median(speeds[name])
            ratios = [own / other for own, other in zip(speeds["ours"], speeds[name], strict=True)]
        peer = f"{package} {versions[name] or '(not installed)'}"
        rows.append(measure.row(name, median(speeds["ours"]), theirs, "images/s", peer, ratios))
    return rows


def growth(task: Task, counts: list[int], rounds: int) -> list[dict[str, Any]]:
    """Ours with stored soft labels beside ours with teachers online, for each number of teachers."""
    rows = []
    for count in counts:
        pick = list(islice(cycle(range(len(task.logits))), count))
        names = list(task.teachers)
        teachers = nn.ModuleDict({f"{place}": deepcopy(task.teachers[names[one]]) for place, one in enumerate(pick)})
        grown = task._replace(logits=task.logits[pick], teachers=teachers)
        speeds = in_turn({"stored": ours, "online": ours_online}, grown, rounds)
        ratios = [own / other for own, other in zip(speeds["stored"], speeds["online"], strict=True)]
        figures = (median(speeds[which]) for which in ("stored", "online"))
        rows.append(
            measure.row(
                "stored soft labels", *figures, "images/s", "ours, teachers online", ratios, {"teachers": count}
            )
        )
    return rows


def hardware(threads: int) -> str:
    """The GPU's name, or the CPU's with the threads that torch is given."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{measure.cpu()}, torch on {threads}"


def main() -> None:
    """Run the variants in turn."""
    parser = measure.parser(__doc__, EXAMPLES)
    parser.add_argument("--images", type=int, default=1024, help="images of an epoch, at least a batch (default 1024)")
    parser.add_argument(
        "--rounds", type=int, default=15, help="rounds that count, after one that does not (default 15)"
    )
    parser.add_argument("--threads", type=int, default=1, help="threads that torch may use (default 1)")
    parser.add_argument(
        "--teachers", type=int, nargs="*", default=[1, 4, 16], help="numbers to grow through (default 1 4 16)"
    )
    arguments = parser.parse_args()
    settings = settings_for()
    if arguments.images < settings.scale_.student.batch:
        parser.error(f"--images: at least a batch of {settings.scale_.student.batch}")
    if min(arguments.rounds, arguments.threads, *arguments.teachers) < 1:
        parser.error("--rounds, --threads and --teachers: at least 1")
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as directory:
        task = make_task(Path(directory), settings, arguments.images)
        rows = beside_peers(task, arguments.rounds)
        rows += growth(task, arguments.teachers, min(arguments.rounds, GROWTH_ROUNDS))
    packages = ("ferdistill", "torch", "timm", "accelerate", "torchdistill")
    measure.finish(measure.result(rows, *packages, device=hardware(arguments.threads)), arguments.json)


if __name__ == "__main__":
    main()
