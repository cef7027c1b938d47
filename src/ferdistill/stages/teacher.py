"""Train one teacher by its recipe: phases, and born-again generations where it asks for them."""

from pathlib import Path

import torch

from ..corpus import images, index
from ..files import write_json
from ..params import Params
from ..training import losses, models
from ..training.curves import curves
from ..training.loop import Loss, Split, evaluate, fit, make_deterministic, predict


def run(params: Params, name: str) -> None:
    """Index and images -> models/teachers/NAME, metrics/teachers/NAME.json, plots/teachers/NAME."""
    rows = index.read(params.index_csv)
    packed = images.load(params.images_npy, rows)
    codes = rows.codes(params.classes)
    train, val, test = (
        Split(packed, rows.positions(split), codes[rows.positions(split)]) for split in ("train", "val", "test")
    )
    recipe = params.scale_.teachers[name]
    generations = 1 + (recipe.born_again.generations if recipe.born_again else 0)

    soft: torch.Tensor | None = None
    for generation in range(generations):
        make_deterministic(recipe.seed + generation)
        network = models.build_for(recipe, params.classes, params.scale_.image)
        label = name if generations == 1 else f"{name}, generation {generation + 1} of {generations}"
        loss = _loss(params, name, soft)
        with curves(Path("plots/teachers") / name) as log:
            result = fit(network, train, val, recipe, recipe.seed + generation, loss, name=label, log=log)
        if generation + 1 < generations:
            soft = torch.from_numpy(predict(network, train))

    models.save_network(
        network,
        Path("models/teachers") / name,
        recipe,
        params.classes,
        params.scale_.image,
        teacher=name,
        index_digest=rows.digest,
    )
    write_json(
        Path("metrics/teachers") / f"{name}.json",
        {
            "best_epoch": result.best_epoch,
            "parameters": sum(tensor.numel() for tensor in network.parameters()),
            "validation": evaluate(network, val),
            "test": evaluate(network, test),
        },
    )


def _loss(params: Params, name: str, soft: torch.Tensor | None) -> Loss:
    """Cross-entropy, or distillation from the generation before where there is one (its logits on the train split)."""
    recipe = params.scale_.teachers[name]
    if soft is None or recipe.born_again is None:
        return lambda logits, labels, positions: torch.nn.functional.cross_entropy(
            logits, labels, label_smoothing=recipe.label_smoothing
        )
    again = recipe.born_again
    one = torch.ones(1)
    before, weight = losses.soft_targets(soft[None], one, torch.zeros(1, dtype=torch.int64), again.temperature, "logit")

    def distil(logits: torch.Tensor, labels: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        return losses.kd_loss(
            logits,
            labels,
            before.to(logits.device)[:, positions],
            weight.to(logits.device),
            alpha=again.alpha,
            temperature=again.temperature,
            label_smoothing=recipe.label_smoothing,
        )

    return distil
