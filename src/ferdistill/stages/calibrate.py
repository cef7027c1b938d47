"""Stage `calibrate`: fit T* on the calib split."""

from rich.console import Console

from ..evaluation.calibration import fit_temperature
from ..evaluation.metrics import read_predictions, score
from ..files import write_json
from ..params import Params


def run(params: Params) -> None:
    """Write `metrics/calibration.json` from the calib split of `models/student/predictions.parquet`."""
    calib = read_predictions("models/student/predictions.parquet", "calib", params.classes)
    grid, bins = params.calibrate.grid, params.calibrate.bins
    fit = fit_temperature(calib.logits, calib.labels, grid, bins)
    before = score(calib.logits, calib.labels, params.classes, bins=bins)
    after = score(calib.logits, calib.labels, params.classes, fit.t_star, bins)
    if fit.grid_at_edge:
        Console(stderr=True).print(
            f"Warning: the best temperature of calibrate.grid, {fit.t_star_grid:g}, is at its edge "
            f"({min(grid):g} to {max(grid):g}). T* = {fit.t_star:.4g} is the optimum, and is deployed.",
            style="yellow",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
    write_json(
        "metrics/calibration.json",
        {
            "t_star": fit.t_star,
            "t_star_grid": fit.t_star_grid,
            "grid_at_edge": fit.grid_at_edge,
            "calib": {
                "n": before["n"],
                "before": {name: before[name] for name in ("nll", "ece", "brier")},
                "after": {name: after[name] for name in ("nll", "ece", "brier")},
            },
        },
    )
