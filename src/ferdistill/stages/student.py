"""Train the student on hard labels and, unless it is the baseline, on the family's soft labels."""

from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from .. import workspace
from ..data import images, index
from ..distill import models, student, weights
from ..distill.curves import curves
from ..distill.data import splits_of
from ..distill.inference import evaluate, final_metrics
from ..distill.loop import is_main_process
from ..files import atomic, write_json
from ..params import Params
from ..softlabels import families, targets


def run(params: Params) -> None:
    """Targets, index and images -> models/student, metrics/student.json, plots/student."""
    rows = index.read(workspace.index_csv(params.index_tag))
    packed = images.load(workspace.images(params.index_tag), rows)
    soft, recipe = targets.read(workspace.TARGETS, rows, params), params.scale_.student
    start = weights.require(recipe, workspace.checked_weights("student"))
    checkpoint = student.checkpoint_for(params, start, rows, soft)
    with curves(workspace.STUDENT_CURVES) as log:
        network, (history, best_epoch) = student.train(params, rows, packed, soft, log=log, checkpoint=checkpoint)
    if not is_main_process():
        return
    facts = {"run_family": families.run_family(params), "run_mode": families.run_mode(params)}
    models.save_network(
        network,
        workspace.STUDENT,
        recipe,
        params.classes,
        params.scale_.image,
        **facts,
        seed=params.seed,
        index_digest=rows.digest,
    )
    table = pa.Table.from_pandas(student.predictions(network, rows, packed, params.classes), preserve_index=False)
    with atomic(workspace.PREDICTIONS) as temporary:
        pq.write_table(table, temporary, compression="zstd")
    _, val, test = splits_of(rows, packed, params.classes)
    metrics: dict[str, Any] = facts | {
        "index_digest": rows.digest,
        "parameters": models.size(network),
        "best_epoch": best_epoch,
    }
    metrics |= final_metrics(evaluate(network, val, "val"), evaluate(network, test, "test"), params.classes)
    metrics["report_protocol"] = student.report_protocol(history, metrics["test"]["macro_f1"], params.classes)
    metrics["soft_label_agreement"] = student.soft_label_agreement(history)
    metrics |= {name: soft.plan[name] for name in ("covered", "uncovered") if name in soft.plan}
    write_json(workspace.STUDENT_METRICS, metrics)
    checkpoint.unlink(missing_ok=True)
