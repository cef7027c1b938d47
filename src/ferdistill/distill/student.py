"""The student: trained on hard labels and, unless it is the baseline, on the family's soft labels."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from ..data.images import Pixels
from ..data.index import TRANSFER, Index
from ..params import Params
from ..softlabels import families
from ..softlabels.targets import Targets, blocks
from . import checkpoint as checkpoints
from . import losses, models
from .augment import recorded
from .batches import Batch
from .data import Split, splits_of, trained_by
from .inference import make_deterministic, predict, training_device
from .loop import Method, Objective, TrainingData, TrainingResult, fit
from .modes import MODES
from .training_canary import TrainingCanary, named_classes

# Params that no student depends on, but through its targets, its index, its images and its scale. Any other, one of a
# new mode too, is part of a checkpoint's name.
NOT_ITS_OWN = {
    "benchmark", "calibrate", "corpus", "decide", "export", "families", "groups", "index", "index_tag", "lambda_",
    "scale", "scales", "task", "teachers", "top_k", "view_augment",
}  # fmt: skip


def train(
    params: Params,
    rows: Index,
    packed: Pixels,
    targets: Targets,
    *,
    log: Callable[[dict[str, Any]], None] = lambda record: None,
    checkpoint: Path | None = None,
    misaligned: bool = False,
) -> tuple[nn.Module, TrainingResult]:
    """Train a student on the train split of an index and the targets given; if it distils, on unlabelled images too.

    `misaligned` says that the targets are out of step on purpose, so that the training canary must not stop the run.
    """
    split, val, test = splits_of(rows, packed, params.classes)
    if families.distils(params):
        split = trained_by(rows, packed, params.classes)
    recipe = params.scale_.student
    goal = objective(params, targets, torch.from_numpy(split.labels), misaligned)
    how = params.scale_.student.phases[0].augment  # of every phase, where there are views
    views = recorded(params.views, len(split.rows), packed.shape[1], how) if params.views > 1 else None
    make_deterministic(params.seed)
    network = models.build_for(recipe, params.classes, params.scale_.image)
    result = fit(
        network,
        Method(recipe, params.training, params.seed),
        TrainingData(split, val, test, recipe.test_every, views),
        goal,
        name=f"student {families.run_family(params)} {families.run_mode(params)} seed {params.seed}",
        log=log,
        checkpoint=checkpoint,
    )
    return network, result


def checkpoint_for(params: Params, start: dict[str, Any], rows: Index, targets: Targets) -> Path:
    """Where a run with these params, starting weights, index and targets is written down after each epoch."""
    return checkpoints.path_for(
        {
            "stage": "student",
            "params": params.model_dump(mode="json", exclude=NOT_ITS_OWN),
            "scale": params.scale_.model_dump(mode="json", include={"image", "student"}),
            "weights": start,
            "index_digest": rows.digest,
            "targets": targets.plan["sha256"],
        }
    )


def objective(params: Params, soft: Targets, labels: torch.Tensor, misaligned: bool) -> Objective:
    """The loss of this run's mode, and what to record after each epoch: how soft labels and labels agreed."""
    device = training_device()
    cross_entropy = losses.cross_entropy_for(params.scale_.student, params.training, labels, params.classes, device)
    mode = MODES[families.run_mode(params)]
    if families.distils(params):
        soft_targets_of = _soft_targets(soft, params.temperature, device)
    else:
        nothing = torch.zeros(0, soft.logits.shape[1] * len(labels), len(params.classes))
        soft_targets_of = losses.SoftTargets(nothing, torch.zeros(0)).to(device).at
    teachers = [teacher["teacher"] for teacher in soft.plan["teachers"]]
    some_unlabelled = bool((labels < 0).any())
    named = torch.cat([named_classes(torch.from_numpy(block)) for block in blocks(soft.logits)], 1)
    canary = TrainingCanary(named, teachers, len(params.classes), device, stops=not misaligned)

    def loss(outputs: torch.Tensor, batch: Batch) -> dict[str, torch.Tensor]:
        rows = batch.positions if batch.views is None else batch.views * len(labels) + batch.positions
        canary.see(rows, batch.labels)
        ce, soft_targets = cross_entropy(outputs, batch), soft_targets_of(rows)
        if some_unlabelled:  # a mode that asks for the class of an image is told the one that the teachers name
            named = batch.labels.where(batch.labels >= 0, soft_targets.mixture().argmax(-1))
            batch = replace(batch, labels=named)
        return mode(params, batch.plain(outputs), batch, ce, soft_targets)

    return Objective(loss, canary.epoch, soft=families.distils(params))


def _soft_targets(
    soft: Targets, temperature: float, device: torch.device
) -> Callable[[torch.Tensor], losses.SoftTargets]:
    """What the sources say of rows: softened once for all, or for each batch where all would not fit into memory."""
    weights, sources = torch.from_numpy(soft.weights), torch.from_numpy(soft.sources)

    def softened(logits: np.ndarray, covered: np.ndarray | None) -> losses.SoftTargets:
        known = None if covered is None else torch.from_numpy(covered)  # with one view alone
        fusion = soft.plan["fusion"]
        return losses.soft_targets(torch.from_numpy(logits), weights, sources, temperature, fusion, known).to(device)

    stored, covered = soft.logits, soft.covered
    if isinstance(stored, np.ndarray):
        teachers, views, rows, classes = stored.shape
        return softened(stored.reshape(teachers, views * rows, classes), covered).at

    def of_batch(at: torch.Tensor) -> losses.SoftTargets:
        places = at.numpy(force=True)
        return softened(stored.at(places), None if covered is None else covered[:, places])

    return of_batch


def predictions(network: nn.Module, rows: Index, packed: Pixels, classes: list[str]) -> pd.DataFrame:
    """Logits of every image of val, calib and test, beside its path, split, group, subject, label, and votes if any."""
    reported = rows.rows[~rows.rows["split"].isin(["train", TRANSFER])]
    logits = predict(network, Split(packed, reported.index.to_numpy(), rows.codes(classes)[reported.index]))
    told = reported[["path", "split", "group", "subject", "label"]].reset_index(drop=True)
    votes = rows.votes(classes)
    if votes is not None:
        shares = pd.DataFrame(votes[reported.index], columns=[f"vote_{name}" for name in classes])
        told = pd.concat([told, shares], axis=1)
    return pd.concat([told, pd.DataFrame(logits, columns=[f"logit_{name}" for name in classes])], axis=1)


def report_protocol(history: list[dict[str, Any]], macro_f1: float, classes: list[str]) -> dict[str, Any]:
    """What the report would have written: the best of the test evaluations, with the optimism that this adds.

    `macro_f1` is that of the epoch chosen on val, on test.
    """
    best = max((record for record in history if "test_macro_f1" in record), key=lambda r: r["test_macro_f1"])
    return {
        "best_test_epoch": int(best["epoch"]),
        "best_test_macro_f1": best["test_macro_f1"],
        "best_test_acc": best["test_accuracy"],
        "best_test_f1": dict(zip(classes, best["test_f1"], strict=True)),
        "optimism_macro_f1": best["test_macro_f1"] - macro_f1,
    }


def soft_label_agreement(history: list[dict[str, Any]]) -> dict[str, float]:
    """How far each teacher agreed with the labels in the last epoch, by its name."""
    start = "agreement_"
    return {name.removeprefix(start): value for name, value in history[-1].items() if name.startswith(start)}
