"""A teacher trained by its recipe: phases, and born-again generations where it asks for them."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from .. import workspace
from ..data.index import Index
from ..params import Params, TeacherParams
from ..softlabels.parts import covered
from . import checkpoint as checkpoints
from . import losses, models
from .batches import Batch
from .curves import curves
from .data import Split
from .inference import final_metrics, make_deterministic, predict, scores, training_device
from .loop import Method, Objective, TrainingData, fit


def train(
    params: Params,
    name: str,
    recipe: TeacherParams,
    splits: tuple[Split, Split],
    facts: dict[str, Any],
    plots: Path | None = None,
) -> tuple[nn.Module, int]:
    """Train on the first of two splits, and give the last generation and its epoch best on the second.

    `facts` are those that its start and its data are known by: they are part of the checkpoints' names. `plots` is
    where its curves go, if not to plots/teachers/NAME.
    """
    generations = 1 + (recipe.born_again.generations if recipe.born_again else 0)
    before: torch.Tensor | None = None
    known = {
        "stage": "teacher",
        "recipe": recipe.model_dump(mode="json"),
        "training": params.training.model_dump(mode="json"),
        "launch": params.launch.model_dump(mode="json"),
        "image": params.scale_.image.model_dump(mode="json"),
        "classes": params.classes,
        **facts,
    }
    used = [checkpoints.path_for(known | {"generation": generation}) for generation in range(generations)]
    for generation, checkpoint in enumerate(used):
        seed = recipe.seed + generation
        make_deterministic(seed)
        network = models.build_for(recipe, params.classes, params.scale_.image)
        with curves(plots or workspace.PLOTS / "teachers" / name) as log:
            result = fit(
                network,
                Method(recipe, params.training, seed),
                TrainingData(*splits),
                objective(params, recipe, torch.from_numpy(splits[0].labels), before),
                name=name if generations == 1 else f"{name}, generation {generation + 1} of {generations}",
                log=log,
                checkpoint=checkpoint,
            )
        if generation + 1 < generations:
            before = torch.from_numpy(predict(network, splits[0]))
    for checkpoint in used:  # the first generations' are needed until the last has ended
        checkpoint.unlink(missing_ok=True)
    return network, result.best_epoch


def objective(params: Params, recipe: TeacherParams, labels: torch.Tensor, before: torch.Tensor | None) -> Objective:
    """Cross-entropy, or distillation from the generation before where there is one (its logits on the train split)."""
    device = training_device()
    cross_entropy = losses.cross_entropy_for(recipe, params.training, labels, params.classes, device)

    again, targets = recipe.born_again, None
    if before is not None and again is not None:
        one, source = torch.ones(1), torch.zeros(1, dtype=torch.int64)
        targets = losses.soft_targets(before[None], one, source, again.temperature, "logit").to(device)

    def loss(outputs: torch.Tensor, batch: Batch) -> dict[str, torch.Tensor]:
        ce = cross_entropy(outputs, batch)
        if targets is None or again is None:
            return {"loss": ce, "ce": ce}
        of_batch = targets.at(batch.positions)
        return losses.kd_loss(batch.plain(outputs), ce, of_batch, alpha=again.alpha, temperature=again.temperature)

    return Objective(loss, soft=targets is not None)


def table_metrics(logits: np.ndarray, rows: Index, classes: list[str]) -> dict[str, Any]:
    """`final_metrics` of a teacher that is its logits (N, K) alone, on the images that it covers; None without any."""
    found = {}
    for name in ("val", "test"):
        at = rows.positions(name)
        at = at[covered(logits[at])]
        found[name] = scores(logits[at], rows.codes(classes)[at]) if len(at) else None
    return final_metrics(found["val"], found["test"], classes)
