import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import vl_convert
import yaml
from dvc_render import VegaRenderer  # type: ignore[import-untyped]
from dvc_render.html import HTML  # type: ignore[import-untyped]
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import softmax
from scipy.stats import binom
from sklearn.metrics import log_loss

from conftest import make_index
from ferdistill import params
from ferdistill.errors import CheckError
from ferdistill.evaluation.calibration import (
    consistency_band,
    expected_calibration_error,
    maximum_calibration_error,
    null_calibration_errors,
    reliability,
)
from ferdistill.evaluation.metrics import score
from ferdistill.evaluation.scaling import (
    METHODS,
    T_MIN,
    cross_validate,
    fit_temperature,
    fit_vector,
    temperature_interval,
)
from ferdistill.stages import calibrate, evaluate
from ferdistill.tracking import offline_html
from support.scores import calibrated

ROOT = Path(__file__).parents[1]
GRID = [0.8, 0.9, 1.0, 1.1, 1.2]
CLASSES = ["angry", "disgust", "fear", "happy", "neutral", "sad", "surprise"]


def test_reliability_table_by_hand() -> None:
    top = np.array([0.5, 0.6, 0.75, 0.75, 1.0])
    probabilities = np.column_stack([top, 1 - top])
    table = reliability(probabilities, np.array([0, 1, 0, 1, 0]), 4)
    assert table["count"].tolist() == [0, 0, 2, 3]  # 0.75 opens the last bin, which also holds 1.0
    assert table["low"].tolist() == [0, 0.25, 0.5, 0.75]
    assert table["high"].tolist() == [0.25, 0.5, 0.75, 1]
    assert table["confidence"][2:].tolist() == pytest.approx([0.55, 2.5 / 3])
    assert table["accuracy"][2:].tolist() == pytest.approx([0.5, 2 / 3])
    assert table[:2][["confidence", "accuracy"]].isna().all(axis=None)
    assert expected_calibration_error(table) == pytest.approx((2 * 0.05 + 3 * 0.5 / 3) / 5)
    assert maximum_calibration_error(table) == pytest.approx(0.5 / 3)


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 400), st.floats(0.2, 0.95), st.integers(2, 20))
def test_null_floor_is_the_mean_absolute_deviation_of_a_binomial(n: int, confidence: float, bins: int) -> None:
    """With one confidence c there is one bin, and its gap is |X/n - c| with X binomial."""
    exact = binom(n, confidence).expect(lambda x: np.abs(x / n - confidence))
    spread = np.sqrt(binom(n, confidence).var()) / n / np.sqrt(200)
    assert null_calibration_errors(np.full(n, confidence), bins).mean() == pytest.approx(exact, abs=5 * spread)


def test_null_floor_is_what_a_calibrated_model_shows() -> None:
    observed = [score(*calibrated(500, seed), CLASSES)["ece"] for seed in range(60)]
    assert score(*calibrated(500), CLASSES)["ece_null"] == pytest.approx(np.mean(observed), rel=0.1)


@pytest.mark.parametrize("scale", [0.5, 3.0])
def test_temperature_undoes_a_scaling_of_calibrated_logits(scale: float) -> None:
    logits, labels = calibrated(50_000)
    fit = fit_temperature(logits * scale, labels, GRID)
    assert fit.t_star == pytest.approx(scale, rel=0.01)
    assert fit.grid_at_edge
    assert fit.t_star_grid == (0.8 if scale < 1 else 1.2)


def test_temperature_agrees_with_an_independent_search() -> None:
    logits, labels = calibrated(2000, seed=4)
    reference = minimize_scalar(
        lambda inverse: log_loss(labels, softmax(logits * inverse, axis=1)), bracket=(0.5, 1.5), tol=1e-10
    )
    fit = fit_temperature(logits, labels, GRID)
    assert fit.t_star == pytest.approx(1 / reference.x, rel=1e-5)
    assert fit.t_star_grid == 1.0
    assert not fit.grid_at_edge


def test_the_grid_follows_nll_then_ece_and_macro_f1_cannot_decide() -> None:
    logits, labels = calibrated(1000, seed=2)
    by_t = {t: score(logits, labels, CLASSES, t) for t in GRID}
    assert len({scores["macro_f1"] for scores in by_t.values()}) == 1
    lexicographic = min(GRID, key=lambda t: (by_t[t]["nll"], by_t[t]["ece"], -by_t[t]["macro_f1"]))
    assert fit_temperature(logits, labels, GRID).t_star_grid == lexicographic


def test_the_grid_is_widened_until_its_choice_lies_inside() -> None:
    logits, labels = calibrated(3000)
    for scale, grid in ((3.0, GRID), (0.3, GRID), (2.0, [1.0]), (0.5, [1.0])):
        fit = fit_temperature(logits * scale, labels, grid)
        assert fit.grid_at_edge
        assert fit.widened_from < fit.t_star_grid_widened < fit.widened_to
        step = 1.2 / 1.1 if scale > 1 and len(grid) > 1 else 0.9 / 0.8 if len(grid) > 1 else 1.1
        assert abs(np.log(fit.t_star_grid_widened / fit.t_star)) < np.log(step)
    inside = fit_temperature(logits, labels, GRID)
    assert (inside.t_star_grid_widened, inside.widened_from, inside.widened_to) == (inside.t_star_grid, 0.8, 1.2)


def test_the_interval_of_t_star_is_that_of_fits_to_resampled_people() -> None:
    logits, labels = calibrated(600, seed=8)
    people = np.array([f"p{i % 30:02}" for i in range(600)])
    found = temperature_interval(2 * logits, labels, people, draws=60, level=0.9, seed=3)
    times = np.random.default_rng(3).multinomial(30, np.full(30, 1 / 30), size=60)
    fits = []
    for of_draw in times:
        rows = np.concatenate([np.tile(np.arange(of, 600, 30), k) for of, k in enumerate(of_draw)])
        fits.append(fit_temperature(2 * logits[rows], labels[rows], GRID).t_star)
    assert found == pytest.approx(np.quantile(fits, [0.05, 0.95]), rel=1e-4)
    assert found[0] < 2 < found[1]


def test_vector_scaling_finds_the_weights_and_the_bias_that_were_undone() -> None:
    logits, labels = calibrated(40_000, seed=1)
    weights = np.array([0.5, 1, 2, 1, 0.8, 1.5, 1])
    bias = np.array([1.0, -1, 0, 0.5, -0.5, 0, 0])
    found, shift = fit_vector((logits - bias) / weights, labels)
    assert found == pytest.approx(weights, rel=0.05)
    assert shift - shift.mean() == pytest.approx(bias - bias.mean(), abs=0.06)
    assert shift.sum() == pytest.approx(0, abs=1e-3)


def test_every_method_gives_distributions_and_isotonic_is_monotone_and_never_zero() -> None:
    logits, labels = calibrated(300, seed=1)
    new = np.concatenate([calibrated(200, seed=2)[0], [[99.0] + [0] * 6]])
    for name, method in METHODS.items():
        log_probs = method(logits, labels, new)
        assert np.isfinite(log_probs).all(), name
        assert np.exp(log_probs).sum(axis=1) == pytest.approx(np.ones(201)), name
    two = np.column_stack([np.linspace(-4, 4, 50), np.zeros(50)])
    fitted = METHODS["isotonic"](logits[:, :2], np.minimum(labels, 1), two)
    assert (np.diff(fitted[:, 0]) >= -1e-12).all()


def test_temperature_stands_unless_another_method_wins_by_a_standard_error() -> None:
    logits, labels = calibrated(800, seed=6)
    people = np.array([f"p{i // 8}" for i in range(800)])
    kept = cross_validate(logits, labels, people, 5, 0)
    assert (kept["method"], kept["people"], kept["folds_used"]) == ("temperature", 100, 5)
    skewed = logits + np.array([3.0, 0, 0, 0, -3, 0, 0])  # which no temperature can undo
    changed = cross_validate(skewed, labels, people, 5, 0)
    assert changed["method"] == "vector"
    assert changed["vector"]["gain"] == pytest.approx(changed["temperature"]["nll"] - changed["vector"]["nll"])
    assert changed["vector"]["gain"] > changed["vector"]["gain_standard_error"] > 0
    with pytest.raises(CheckError, match="one subject"):
        cross_validate(logits, labels, np.full(800, "p"), 5, 0)


def test_no_person_is_in_two_folds() -> None:
    """If people repeat a wrong label, a method that saw them would win; none does where they are held out whole."""
    rng = np.random.default_rng(0)
    logits = np.repeat(rng.normal(0, 2, (60, 7)), 10, axis=0) + rng.normal(0, 1e-3, (600, 7))
    labels = np.repeat(rng.integers(0, 7, 60), 10)
    person = np.repeat(np.arange(60), 10).astype(str)
    alone = np.arange(600).astype(str)
    leaked, held = (cross_validate(logits, labels, who, 5, 0)["isotonic"]["nll"] for who in (alone, person))
    assert leaked < np.log(7) - 0.1 < held


def test_the_band_is_that_of_a_binomial() -> None:
    confidence = np.r_[np.full(40, 0.72), np.full(1000, 0.95)]
    band = consistency_band(confidence, 10, draws=4000, level=0.9)
    assert band.iloc[:7].isna().all(axis=None) and band.iloc[8].isna().all()
    for row, n, p in ((7, 40, 0.72), (9, 1000, 0.95)):
        exact = np.array(binom(n, p).interval(0.9)) / n
        assert band.iloc[row].to_numpy() == pytest.approx(exact, abs=1.5 / n)


@pytest.mark.parametrize("kind", ["constant", "zero", "against"])
def test_uninformative_logits_are_refused(kind: str) -> None:
    logits, labels = calibrated(500)
    logits = {"constant": np.repeat(logits[:, :1], 7, axis=1), "zero": logits * 0, "against": -logits}[kind]
    with pytest.raises(CheckError, match="ignoring the logits"):
        fit_temperature(logits, labels, GRID)


@pytest.mark.parametrize("margin", [1.0, 30.0, 1e6])
def test_separable_classes_have_the_lowest_temperature_that_is_tried(margin: float) -> None:
    """With the greatest margin the NLL is 0 to the last bit at every temperature."""
    labels = np.arange(70) % 7
    fit = fit_temperature(margin * np.eye(7)[labels], labels, GRID)
    assert (fit.t_star, fit.t_star_grid) == (T_MIN, 0.8) and fit.grid_at_edge


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    monkeypatch.chdir(tmp_path)
    parts = []
    for seed, (split, n) in enumerate([("val", 200), ("calib", 400), ("test", 600)]):
        logits, labels = calibrated(n, seed)
        part = pd.DataFrame((2 * logits).astype(np.float32), columns=[f"logit_{name}" for name in CLASSES])
        parts.append(
            part.assign(
                path=[f"{split}/{i}" for i in range(n)],
                split=split,
                group="",
                subject=None,
                label=np.array(CLASSES)[labels],
            )
        )
    Path("models/student").mkdir(parents=True)
    pd.concat(parts).to_parquet("models/student/predictions.parquet")
    settings = params.load(ROOT / "params.yaml").calibrate.model_copy(update={"draws": 100})
    make_index(Path("data/index/real.csv"), dict.fromkeys(["train", "val", "calib", "test"], 7), CLASSES)
    groups = params.load(ROOT / "params.yaml").groups
    return SimpleNamespace(classes=CLASSES, calibrate=settings, corpus="real", index_tag="real", groups=groups)


def run_stages(params: Any) -> dict[str, bytes]:
    calibrate.run(params)
    evaluate.run(params)
    return {str(path): path.read_bytes() for folder in ("metrics", "plots") for path in sorted(Path(folder).iterdir())}


def leaves(tree: dict[str, Any]) -> set[str]:
    return {leaf for key, value in tree.items() for leaf in (leaves(value) if isinstance(value, dict) else {key})}


def test_stages_write_the_same_bytes_again_and_are_silent_of_a_grid_that_nothing_is_deployed_from(
    project: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    first = run_stages(project)
    assert "grid" not in capsys.readouterr().err
    assert run_stages(project) == first
    calibration = json.loads(first["metrics/calibration.json"])
    assert calibration["t_star"] > 1.2 == calibration["t_star_grid"]
    assert calibration["calib"]["after"]["nll"] < calibration["calib"]["before"]["nll"]


def test_a_perfect_student_is_calibrated_and_evaluated_with_a_warning(
    project: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    frame = pd.read_parquet("models/student/predictions.parquet")
    frame["label"] = np.array(CLASSES)[frame[[f"logit_{name}" for name in CLASSES]].to_numpy().argmax(axis=1)]
    frame.to_parquet("models/student/predictions.parquet")
    files = run_stages(project)
    assert "falls down to T = 0.05" in capsys.readouterr().err
    calibration, evaluation = (json.loads(files[f"metrics/{name}.json"]) for name in ("calibration", "evaluation"))
    assert calibration["t_star"] == T_MIN <= calibration["t_star_low"] <= calibration["t_star_high"] < 1
    assert evaluation["test"]["scaled"]["nll"] < evaluation["test"]["raw"]["nll"]


def test_stage_evaluate_keeps_its_tables_consistent(project: Any) -> None:
    files = run_stages(project)
    test = json.loads(files["metrics/evaluation.json"])["test"]
    assert test["n"] == 600
    assert test["macro_f1"] == pytest.approx(np.mean(list(test["f1"].values())))
    confusion = pd.read_csv("plots/confusion.csv")
    assert (confusion["actual"] == confusion["predicted"]).mean() == pytest.approx(test["accuracy"])
    per_class = pd.read_csv("plots/per_class_f1.csv").set_index("class")
    assert per_class["f1"].to_dict() == pytest.approx(test["f1"], abs=1e-6)
    assert per_class["support"].sum() == 600
    table = pd.read_csv("plots/reliability.csv")
    for scaling, scores in (("before", "raw"), ("after", "scaled")):
        rows = table[table["scaling"] == scaling]
        assert rows["count"].sum() == 600
        assert expected_calibration_error(rows) == pytest.approx(test[scores]["ece"], abs=1e-5)


def test_the_test_split_chooses_nothing(project: Any) -> None:
    before = run_stages(project)["metrics/calibration.json"]
    frame = pd.read_parquet("models/student/predictions.parquet")
    frame.loc[frame["split"] != "calib", "label"] = "sad"
    frame.to_parquet("models/student/predictions.parquet")
    after = run_stages(project)
    assert after["metrics/calibration.json"] == before


def test_no_metric_is_named_as_a_parameter(project: Any) -> None:
    """`dvc exp show` renames both columns of a metric and a parameter that share a name."""
    files = run_stages(project)
    parameters = yaml.safe_load((Path(__file__).parents[1] / "params.yaml").read_text(encoding="utf-8"))
    for name in ("metrics/calibration.json", "metrics/evaluation.json"):
        assert not leaves(json.loads(files[name])) & leaves(parameters)


def fields(tree: Any) -> set[str]:
    """Every column that a Vega-Lite specification names."""
    if isinstance(tree, list):
        return {field for item in tree for field in fields(item)}
    if not isinstance(tree, dict):
        return set()
    return {value for key, value in tree.items() if key == "field"} | fields([*tree.values()])


@pytest.mark.parametrize(
    ("name", "x", "y"), [("reliability", "confidence", "accuracy"), ("per_class_f1", "f1", "class")]
)
def test_plot_templates_use_the_columns_that_are_written(project: Any, name: str, x: str, y: str) -> None:
    run_stages(project)
    table = pd.read_csv(f"plots/{name}.csv", dtype=str).assign(rev="workspace")
    template = Path(__file__).parents[1] / f".dvc/plots/{name}.json"
    plot = VegaRenderer(table.to_dict("records"), name, template=str(template), x=x, y=y, title="Title")
    filled = plot.get_filled_template()
    assert "<DVC_METRIC" not in json.dumps(filled)
    assert fields(filled["layer"][1:] if "layer" in filled else filled) <= set(table.columns)
    assert "<svg" in vl_convert.vegalite_to_svg(filled)


def test_offline_page_takes_nothing_from_the_network(tmp_path: Path) -> None:
    offline_html.write(tmp_path / "offline.html")
    page = (tmp_path / "offline.html").read_text(encoding="utf-8")
    assert page.count("</script") == 1  # none inside the bundle may end it early
    assert "window.vegaEmbed" in page
    assert "<script src" not in page and "<link" not in page
    filled = HTML(page).with_scripts("<script src='cdn'></script>").with_element("<div>plot</div>").embed()
    assert "<div>plot</div>" in filled and "'cdn'" not in filled
