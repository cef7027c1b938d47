"""A task that a small network learns in seconds."""

import numpy as np
from torch.nn.functional import cross_entropy

from conftest import CLASSES
from ferdistill.distill import models
from ferdistill.distill.data import Split
from ferdistill.distill.inference import make_deterministic
from ferdistill.distill.loop import Method, Objective, TrainingData, fit
from ferdistill.params import ImageParams, StudentParams, TrainingParams

GREY = ImageParams(size=32, channels=1)


def recipe(**changes):
    phases = [{"epochs": 12, "lr": 3e-3, "augment": "none"}]
    values = {
        "model": "test_efficientnet", "options": {}, "stem": "stock", "init": "scratch", "batch": 16, "phases": phases,
        "weight_decay": 0.0, "label_smoothing": 0.0, "test_every": 1,
    }  # fmt: skip
    return StudentParams.model_validate(values | changes)


def bars(count, seed=0):
    """Images whose class is where a bright bar lies."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 7, count)
    images = rng.integers(0, 80, (count, 32, 32, 1), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[4 * label + 1 : 4 * label + 5] += 120
    return Split(images, np.arange(count), labels.astype(np.int64))


def training(**changes):
    values = {"threads": 1, "amp": "auto", "monitor": "nll", "class_weights": "none", "clip_norm": 5.0, "ema": None}
    return TrainingParams.model_validate(values | changes)


def hard(logits, batch):
    return {"loss": cross_entropy(logits.float(), batch.labels)}


def train(seed=0, settings=None, loss=hard, log=lambda record: None, checkpoint=None, **changes):
    make_deterministic(seed)
    network = models.build_for(recipe(**changes), CLASSES, GREY)
    data = TrainingData(bars(64), bars(40, 1), bars(40, 2), test_every=5)
    method = Method(recipe(**changes), settings or training(), seed)
    objective = loss if isinstance(loss, Objective) else Objective(loss)
    result = fit(network, method, data, objective, name="bars", log=log, checkpoint=checkpoint)
    return network, result
