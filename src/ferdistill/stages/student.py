"""Train the student on hard labels and, unless it is the baseline, on the family's soft labels."""

from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from ..corpus import images, index
from ..files import atomic, write_json
from ..params import Params
from ..softlabels import targets
from ..training import losses, models
from ..training.curves import curves
from ..training.loop import Fit, Loss, Split, device, evaluate, fit, make_deterministic, predict


def run(params: Params) -> None:
    """Targets, index and images -> models/student, metrics/student.json, plots/student."""
    rows = index.read(params.index_csv)
    packed = images.load(params.images_npy, rows)
    codes = rows.codes(params.classes)
    train, val, test = (
        Split(packed, rows.positions(split), codes[rows.positions(split)]) for split in ("train", "val", "test")
    )
    recipe = params.scale_.student
    loss = _loss(params, targets.read(Path("data/targets"), rows, params))

    make_deterministic(params.seed)
    network = models.build_for(recipe, params.classes, params.scale_.image)
    with curves(Path("plots/student")) as log:
        result = fit(
            network,
            train,
            val,
            recipe,
            params.seed,
            loss,
            name=f"student {params.run_family} {params.run_mode} seed {params.seed}",
            test=test,
            test_every=recipe.test_every,
            log=log,
        )

    directory = Path("models/student")
    models.save_network(
        network,
        directory,
        recipe,
        params.classes,
        params.scale_.image,
        run_family=params.run_family,
        run_mode=params.run_mode,
        seed=params.seed,
        index_digest=rows.digest,
    )
    reported = rows.rows[rows.rows["split"] != "train"]
    logits = predict(network, Split(packed, reported.index.to_numpy(), codes[reported.index]))
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
    write_json(
        "metrics/student.json",
        {
            "run_family": params.run_family,
            "run_mode": params.run_mode,
            "parameters": sum(tensor.numel() for tensor in network.parameters()),
            "best_epoch": result.best_epoch,
            "validation": evaluate(network, val),
            "test": (chosen_on_val := evaluate(network, test)),
            "report_protocol": report_protocol(result, chosen_on_val),
        },
    )


def report_protocol(result: Fit, chosen_on_val: dict[str, float]) -> dict[str, Any]:
    """What the report would have written: the best of the test evaluations, with the optimism that this adds."""
    best = max((record for record in result.history if "test_macro_f1" in record), key=lambda r: r["test_macro_f1"])
    return {
        "best_test_epoch": int(best["epoch"]),
        "best_test_macro_f1": best["test_macro_f1"],
        "best_test_acc": best["test_accuracy"],
        "optimism_macro_f1": best["test_macro_f1"] - chosen_on_val["macro_f1"],
    }


def _loss(params: Params, soft: targets.Targets) -> Loss:
    recipe = params.scale_.student
    if not params.distils:
        return lambda logits, labels, positions: torch.nn.functional.cross_entropy(
            logits, labels, label_smoothing=recipe.label_smoothing
        )
    log_targets, log_weights = (
        tensor.to(device())
        for tensor in losses.soft_targets(
            torch.from_numpy(soft.logits),
            torch.from_numpy(soft.weights),
            torch.from_numpy(soft.sources),
            params.temperature,
            soft.plan["fusion"],
        )
    )

    def distil(logits: torch.Tensor, labels: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        common = {
            "alpha": params.alpha,
            "temperature": params.temperature,
            "label_smoothing": recipe.label_smoothing,
        }
        batch = log_targets[:, positions]
        if params.mode == "kd":
            return losses.kd_loss(logits, labels, batch, log_weights, **common)
        return losses.dkd_loss(
            logits, labels, batch, log_weights, beta=params.beta, target_term=params.dkd_target_term, **common
        )

    return distil
