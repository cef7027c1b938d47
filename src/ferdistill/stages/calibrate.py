"""Stage `calibrate`: fit T*, and what may be acted on, on the calib split."""

from rich.console import Console

from .. import workspace
from ..evaluation import guarantees, scaling
from ..evaluation.metrics import read_predictions
from ..files import write_json
from ..params import Params


def run(params: Params) -> None:
    """Write `metrics/calibration.json` from the calib split of `models/student/predictions.parquet`."""
    calib = read_predictions(workspace.PREDICTIONS, "calib", params.classes)
    metrics, warnings = scaling.calibrate(calib, params.classes, params.calibrate)
    guaranteed, more = guarantees.calibrate(calib, metrics["t_star"], params.classes, params.calibrate)
    console = Console(stderr=True)
    for warning in warnings + more:
        console.print(f"Warning: {warning}", style="yellow", markup=False, highlight=False, soft_wrap=True)
    write_json(workspace.CALIBRATION_METRICS, metrics | guaranteed)
