"""Stage `evaluate`: score the student once on the test split, for the report; nothing is chosen by it."""

from .. import workspace
from ..data import index, truth
from ..evaluation import groups, guarantees, known_truth, summary
from ..evaluation.metrics import read_predictions
from ..files import read_json, write_json, write_text
from ..params import Params


def run(params: Params) -> None:
    """Write `evaluation.json`, `groups.json` and `intervals.json` under `metrics/`, and the tables under `plots/`."""
    classes, settings = params.classes, params.calibrate
    fitted = read_json(workspace.CALIBRATION_METRICS, "t_star", "sets", "abstention", "alerts")
    t_star = fitted["t_star"]
    parts = {split: read_predictions(workspace.PREDICTIONS, split, classes) for split in ("calib", "val", "test")}
    test = parts["test"]
    known = known_truth.read(workspace.corpus(params.corpus), test.paths.tolist(), classes)
    scores = summary.scores(parts, known, classes, t_star, settings)
    write_json(workspace.EVALUATION_METRICS, scores | {"acting": guarantees.report(test, t_star, classes, fitted)})
    rows = index.read(workspace.index_csv(params.index_tag))
    told = groups.joined(rows.attributes(), test.paths.tolist(), rows.rows["path"])
    if params.groups.truth:
        told = told.join(truth.attributes(workspace.corpus(params.corpus), test.paths.tolist(), params.groups.truth))
    by_group = groups.measure(test, told, t_star, fitted, settings, params.groups)
    write_json(workspace.GROUP_METRICS, by_group)
    write_json(workspace.METRICS / "intervals.json", summary.score_intervals(test, t_star, settings))
    tables = summary.tables(test, classes, t_star, settings)
    tables["risk_coverage"] = guarantees.risk_table(test.logits, test.labels, t_star)
    for name, table in tables.items():
        write_text(workspace.PLOTS / f"{name}.csv", table.to_csv(index=False, float_format="%.6f", lineterminator="\n"))
