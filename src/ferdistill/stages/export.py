"""Stage `export`: the student as a bundle that takes raw pixels and gives calibrated probabilities, without torch."""

import pandas as pd

from .. import workspace
from ..data import images, index
from ..deployment import bundle
from ..deployment.graph import EvaluatedSplit
from ..distill.models import load_network
from ..errors import CheckError, require_same
from ..evaluation.metrics import read_predictions
from ..faces.caution import caution_for, use_for
from ..files import read_json, write_json
from ..params import Params


def run(params: Params) -> None:
    """Write `models/bundle/` and `metrics/export.json`."""
    network, config = load_network(workspace.STUDENT)
    rows_csv = workspace.index_csv(params.index_tag)
    rows = index.read(rows_csv)
    require_same(
        [("index digest", rows.digest, config["index_digest"])],
        "the student was trained on another index",
        where=f"{workspace.STUDENT / 'config.json'}, against {rows_csv}",
        hint="run `dvc repro student`",
    )
    fitted = read_json(workspace.CALIBRATION_METRICS, "t_star", "sets", "abstention", "alerts")
    student = bundle.EvaluatedStudent(
        network,
        config,
        fitted["t_star"],
        fitted,
        read_json(workspace.EVALUATION_METRICS, "test")["test"]
        | {"groups": read_json(workspace.GROUP_METRICS), "robustness": read_json(workspace.ROBUSTNESS_METRICS)},
        images.load(workspace.images(params.index_tag), rows),
        {split: read_split(rows, split, config["classes"]) for split in ("val", "calib", "test")},
    )
    sources = pd.crosstab(rows.rows["source"], rows.rows["split"])
    report = read_json(rows_csv.with_suffix(".report.json"), "licences", hint="run `dvc repro index`")
    named = bool((rows.rows["subject"] != "").any())
    told = bundle.Told(caution_for(params.task), use_for(params.task), report["licences"], named)
    result = bundle.write(student, workspace.BUNDLE, params.export, params.task, sources, told)
    write_json(workspace.EXPORT_METRICS, result)
    if fitted["abstention"]["threshold"] is None:
        print(f"no guarantee of abstention: export.confidence, {params.export.confidence:g}, is in the bundle")
    if params.export.int8 is not None and not result["int8"]["taken"]:
        print(f"no int8 file: {bundle.refusal(result['int8'], params.export.int8)}")


def read_split(rows: index.Index, split: str, classes: list[str]) -> EvaluatedSplit:
    """One split of the student's predictions, with its rows of the index."""
    predictions = read_predictions(workspace.PREDICTIONS, split, classes)
    positions = pd.Index(rows.rows["path"]).get_indexer(pd.Index(predictions.paths))
    if positions.min() < 0:
        raise CheckError(
            f"the index lacks `{predictions.paths[positions.argmin()]}`",
            where=str(workspace.PREDICTIONS),
            expected="paths of the index",
            hint="run `dvc repro student`",
        )
    return EvaluatedSplit(positions, predictions.labels, predictions.logits)
