"""Train the student on hard labels and, unless it is the baseline, on the family's soft labels."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import nn

from .. import workspace
from ..data import images, index
from ..distill import checkpoint as checkpoints
from ..distill import losses, models, weights
from ..distill.augment import recorded
from ..distill.curves import curves
from ..distill.loop import (
    Batch,
    Fit,
    Loss,
    Split,
    by_class,
    device,
    evaluate,
    fit,
    hard_loss,
    hard_weights,
    is_main_process,
    make_deterministic,
    predict,
    splits_of,
)
from ..distill.training_canary import Witness
from ..files import atomic, write_json
from ..params import Params
from ..softlabels import families, targets, views

# Top-level params that the student's weights depend on, beside its targets.
TRACKED = {
    "alpha", "beta", "classes", "dkd_target_term", "dkd_warmup", "mode", "seed", "temperature", "training", "views",
}  # fmt: skip


def run(params: Params) -> None:
    """Targets, index and images -> models/student, metrics/student.json, plots/student."""
    rows = index.read(workspace.index_csv(params.index_tag))
    packed = images.load(workspace.images_npy(params.index_tag), rows)
    _, val, test = splits_of(rows, packed, params.classes)
    recipe = params.scale_.student
    soft = targets.read(workspace.TARGETS, rows, params)
    checkpoint = checkpoints.path_for(
        {
            "stage": "student",
            "params": params.model_dump(mode="json", include=TRACKED),
            "scale": params.scale_.model_dump(mode="json", include={"image", "student"}),
            "weights": weights.require(recipe, workspace.checked_weights("student")),
            "index_digest": rows.digest,
            "targets": soft.plan["sha256"],
        }
    )
    with curves(workspace.STUDENT_CURVES) as log:
        network, result = train(params, rows, packed, soft, log=log, checkpoint=checkpoint)
    if not is_main_process():
        return

    directory = workspace.STUDENT
    models.save_network(
        network,
        directory,
        recipe,
        params.classes,
        params.scale_.image,
        run_family=families.run_family(params),
        run_mode=families.run_mode(params),
        seed=params.seed,
        index_digest=rows.digest,
    )
    reported = rows.rows[rows.rows["split"] != "train"]
    logits = predict(network, Split(packed, reported.index.to_numpy(), rows.codes(params.classes)[reported.index]))
    columns = [f"logit_{name}" for name in params.classes]
    predictions = pd.concat(
        [
            reported[["path", "split", "group", "subject", "label"]].reset_index(drop=True),
            pd.DataFrame(logits, columns=columns),
        ],
        axis=1,
    )
    with atomic(directory / "predictions.parquet") as temporary:
        pq.write_table(pa.Table.from_pandas(predictions, preserve_index=False), temporary, compression="zstd")
    chosen_on_val = evaluate(network, test)
    write_json(
        workspace.STUDENT_METRICS,
        {
            "run_family": families.run_family(params),
            "run_mode": families.run_mode(params),
            "index_digest": rows.digest,
            "parameters": sum(tensor.numel() for tensor in network.parameters()),
            "best_epoch": result.best_epoch,
            "validation": {key: value for key, value in evaluate(network, val).items() if key != "f1"},
            "test": by_class(chosen_on_val, params.classes),
            "report_protocol": report_protocol(result, chosen_on_val, params.classes),
            "soft_label_agreement": {
                name.removeprefix("agreement_"): value
                for name, value in result.history[-1].items()
                if name.startswith("agreement_")
            },
        },
    )
    checkpoint.unlink(missing_ok=True)


def train(
    params: Params,
    rows: index.Index,
    packed: np.ndarray,
    soft: targets.Targets,
    *,
    log: Callable[[dict[str, Any]], None] = lambda record: None,
    checkpoint: Path | None = None,
    misaligned: bool = False,
) -> tuple[nn.Module, Fit]:
    """Train a student on the train split of an index and the targets given.

    `misaligned` says that the targets are out of step on purpose, so that the training canary must not stop the run.
    """
    train_split, val, test = splits_of(rows, packed, params.classes)
    recipe = params.scale_.student
    loss, watch = _loss(params, soft, torch.from_numpy(train_split.labels), misaligned)
    seen = recorded(params.views, len(train_split.rows), packed.shape[1], views.SEED) if params.views > 1 else None
    make_deterministic(params.seed)
    network = models.build_for(recipe, params.classes, params.scale_.image)
    result = fit(
        network,
        train_split,
        val,
        recipe,
        params.training,
        params.seed,
        loss,
        name=f"student {families.run_family(params)} {families.run_mode(params)} seed {params.seed}",
        test=test,
        test_every=recipe.test_every,
        views=seen,
        watch=watch,
        log=log,
        checkpoint=checkpoint,
    )
    return network, result


def report_protocol(result: Fit, chosen_on_val: dict[str, Any], classes: list[str]) -> dict[str, Any]:
    """What the report would have written: the best of the test evaluations, with the optimism that this adds."""
    best = max((record for record in result.history if "test_macro_f1" in record), key=lambda r: r["test_macro_f1"])
    return {
        "best_test_epoch": int(best["epoch"]),
        "best_test_macro_f1": best["test_macro_f1"],
        "best_test_acc": best["test_accuracy"],
        "best_test_f1": dict(zip(classes, best["test_f1"], strict=True)),
        "optimism_macro_f1": best["test_macro_f1"] - chosen_on_val["macro_f1"],
    }


def _loss(
    params: Params, soft: targets.Targets, labels: torch.Tensor, misaligned: bool
) -> tuple[Loss, Callable[[], dict[str, float]]]:
    """The loss of this run, and what to record after each epoch: how soft labels and labels agreed."""
    recipe = params.scale_.student
    weights = hard_weights(params.training, labels, params.classes)
    if not families.distils(params):
        return hard_loss(recipe, weights), dict
    log_targets, log_weights = (
        tensor.to(device())
        for tensor in losses.soft_targets(
            torch.from_numpy(soft.logits).flatten(1, 2),
            torch.from_numpy(soft.weights),
            torch.from_numpy(soft.sources),
            params.temperature,
            soft.plan["fusion"],
        )
    )
    teachers = [part["teacher"] for part in soft.plan["teachers"]]
    witness = Witness(torch.from_numpy(soft.logits).flatten(1, 2), teachers, device(), stops=not misaligned)

    def distil(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        rows = batch.positions if batch.views is None else batch.views * len(labels) + batch.positions
        witness.see(rows, batch.labels)
        common: dict[str, Any] = {
            "alpha": params.alpha,
            "temperature": params.temperature,
            "label_smoothing": recipe.label_smoothing,
            "class_weights": weights,
        }
        if params.mode == "kd":
            return losses.kd_loss(logits, batch.labels, log_targets[:, rows], log_weights, **common)
        return losses.dkd_loss(
            logits,
            batch.labels,
            log_targets[:, rows],
            log_weights,
            beta=params.beta,
            target_term=params.dkd_target_term,
            warmup=min((batch.epoch + 1) / params.dkd_warmup, 1.0) if params.dkd_warmup else 1.0,
            **common,
        )

    return distil, witness.epoch
