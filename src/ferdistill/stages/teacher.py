"""Train one teacher by its recipe: phases, and born-again generations where it asks for them; or take a frozen one."""

from typing import Any

import torch
from torch import nn

from .. import workspace
from ..data import images, index
from ..distill import checkpoint as checkpoints
from ..distill import frozen, losses, models, weights
from ..distill.curves import curves
from ..distill.loop import (
    Batch,
    Loss,
    Split,
    by_class,
    evaluate,
    fit,
    hard_loss,
    hard_weights,
    is_main_process,
    make_deterministic,
    predict,
    splits_of,
)
from ..files import write_json
from ..params import FrozenTeacher, Params, TeacherParams


def run(params: Params, name: str) -> None:
    """Index and images -> models/teachers/NAME, metrics/teachers/NAME.json, plots/teachers/NAME."""
    rows = index.read(workspace.index_csv(params.index_tag))
    train, val, test = splits_of(rows, images.load(workspace.images_npy(params.index_tag), rows), params.classes)
    recipe = params.scale_.teachers[name]
    start = weights.require(recipe, workspace.checked_weights(name))
    directory = workspace.teacher(name)
    about = {"teacher": name, "index_digest": rows.digest}
    if isinstance(recipe, FrozenTeacher):
        frozen.save(recipe, directory, params.classes, params.scale_.image, **about)
        network, _ = models.load_network(directory)
        (workspace.PLOTS / "teachers" / name).mkdir(parents=True)  # an out of every teacher; this one has no curves
        best_epoch = None
    else:
        network, best_epoch = _train(params, name, recipe, start, rows.digest, train, val)
        if not is_main_process():
            return
        models.save_network(network, directory, recipe, params.classes, params.scale_.image, **about)
    write_json(
        workspace.METRICS / "teachers" / f"{name}.json",
        {
            "best_epoch": best_epoch,
            "parameters": sum(tensor.numel() for tensor in network.parameters()),
            "validation": {key: value for key, value in evaluate(network, val).items() if key != "f1"},
            "test": by_class(evaluate(network, test), params.classes),
        },
    )


def _train(
    params: Params,
    name: str,
    recipe: TeacherParams,
    start: dict[str, Any],
    index_digest: str,
    train: Split,
    val: Split,
) -> tuple[nn.Module, int]:
    generations = 1 + (recipe.born_again.generations if recipe.born_again else 0)
    soft: torch.Tensor | None = None
    used = []
    for generation in range(generations):
        checkpoint = checkpoints.path_for(
            {
                "stage": "teacher",
                "generation": generation,
                "recipe": recipe.model_dump(mode="json"),
                "training": params.training.model_dump(mode="json"),
                "image": params.scale_.image.model_dump(mode="json"),
                "classes": params.classes,
                "weights": start,
                "index_digest": index_digest,
            }
        )
        used.append(checkpoint)
        make_deterministic(recipe.seed + generation)
        network = models.build_for(recipe, params.classes, params.scale_.image)
        with curves(workspace.PLOTS / "teachers" / name) as log:
            result = fit(
                network,
                train,
                val,
                recipe,
                params.training,
                recipe.seed + generation,
                _loss(params, recipe, train, soft),
                name=name if generations == 1 else f"{name}, generation {generation + 1} of {generations}",
                log=log,
                checkpoint=checkpoint,
            )
        if generation + 1 < generations:
            soft = torch.from_numpy(predict(network, train))
    for checkpoint in used:  # the first generations' are needed until the last has ended
        checkpoint.unlink(missing_ok=True)
    return network, result.best_epoch


def _loss(params: Params, recipe: TeacherParams, train: Split, soft: torch.Tensor | None) -> Loss:
    """Cross-entropy, or distillation from the generation before where there is one (its logits on the train split)."""
    weights = hard_weights(params.training, torch.from_numpy(train.labels), params.classes)
    if soft is None or recipe.born_again is None:
        return hard_loss(recipe, weights)
    again = recipe.born_again
    one = torch.ones(1)
    before, weight = losses.soft_targets(soft[None], one, torch.zeros(1, dtype=torch.int64), again.temperature, "logit")

    def distil(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        return losses.kd_loss(
            logits,
            batch.labels,
            before.to(logits.device)[:, batch.positions],
            weight.to(logits.device),
            alpha=again.alpha,
            temperature=again.temperature,
            label_smoothing=recipe.label_smoothing,
            class_weights=weights,
        )

    return distil
