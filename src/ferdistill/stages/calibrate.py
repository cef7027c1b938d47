"""Stage `calibrate`: fit T* on the calib split."""

from rich.console import Console

from .. import workspace
from ..evaluation.calibration import cross_validate, fit_temperature, fit_vector, temperature_interval
from ..evaluation.metrics import read_predictions, score
from ..files import write_json
from ..params import Params


def run(params: Params) -> None:
    """Write `metrics/calibration.json` from the calib split of `models/student/predictions.parquet`."""
    calib = read_predictions(workspace.PREDICTIONS, "calib", params.classes)
    settings = params.calibrate
    grid, bins = settings.grid, settings.bins
    fit = fit_temperature(calib.logits, calib.labels, grid, bins)
    low, high = temperature_interval(
        calib.logits, calib.labels, calib.people, draws=settings.draws, level=settings.level, seed=settings.seed
    )
    choice = cross_validate(calib.logits, calib.labels, calib.people, settings.folds, settings.seed)
    weights, bias = fit_vector(calib.logits, calib.labels)
    before = score(calib.logits, calib.labels, params.classes, bins=bins)
    after = score(calib.logits, calib.labels, params.classes, fit.t_star, bins)
    if fit.grid_at_edge:
        _warn(
            f"the best temperature of calibrate.grid, {fit.t_star_grid:g}, is at its edge "
            f"({min(grid):g} to {max(grid):g}); widened, the grid gives {fit.t_star_grid_widened:.4g}. "
            f"T* = {fit.t_star:.4g} is the optimum, and is deployed."
        )
    method = choice["method"]
    if method != "temperature":
        scores = choice[method]
        _warn(
            f"{method} scaling has a lower cross-validated NLL on calib than temperature scaling, by "
            f"{scores['gain']:.4f} (standard error {scores['gain_standard_error']:.4f}). T* is deployed all the same: "
            "the exported graph holds one temperature."
        )
    write_json(
        workspace.CALIBRATION_METRICS,
        {
            "t_star": fit.t_star,
            "t_star_low": low,
            "t_star_high": high,
            "t_star_grid": fit.t_star_grid,
            "grid_at_edge": fit.grid_at_edge,
            "t_star_grid_widened": fit.t_star_grid_widened,
            "widened_from": fit.widened_from,
            "widened_to": fit.widened_to,
            "deployed": "temperature",
            "cross_validation": choice,
            "vector": {
                "weights": dict(zip(params.classes, weights.tolist(), strict=True)),
                "bias": dict(zip(params.classes, bias.tolist(), strict=True)),
            },
            "calib": {
                "n": before["n"],
                "before": {name: before[name] for name in ("nll", "ece", "brier")},
                "after": {name: after[name] for name in ("nll", "ece", "brier")},
            },
        },
    )


def _warn(message: str) -> None:
    Console(stderr=True).print(f"Warning: {message}", style="yellow", markup=False, highlight=False, soft_wrap=True)
