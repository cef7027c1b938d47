"""The lists of settings and metrics: complete, and the one place that a new one needs."""

import json
import re
from pathlib import Path

import pytest
import yaml

from ferdistill import params
from ferdistill.study import schema

ROOT = Path(__file__).parents[1]
SETTINGS = params.load(ROOT / "params.yaml")
# Numbers of the metrics files that are no metric of a run, each with the reason.
EXCUSED = {
    "test.macro_f1": "student.json repeats it from the evaluation",
    "test.accuracy": "likewise",
    "test.nll": "likewise, as `nll`",
    "test.f1": "likewise",
    "validation.n": "the index's, the same for every run of a table",
    "validation.macro_f1": "evaluation.json repeats it from the student",
    "validation.accuracy": "likewise",
    "test.n": "the index's",
    "calib.n": "the index's",
    "cross_validation.people": "the index's",
    "cross_validation.folds_used": "the index's and `calibrate`'s",
    "test.truth.annotator.ideal": "of the truth itself, not of the student",
    "test.truth.label.ideal": "likewise",
    "vector.weights": "parameters of a fallback that is not deployed",
    "vector.bias": "likewise",
    "sets": "what `calibrate` fitted; `acting.labels` has what became of it",
    "abstention": "likewise",
    "alerts": "likewise",
    "acting.labels.abstention": "by risk, and of as many risks as could be guaranteed",
    "acting.labels.alerts": "of as many classes as could be guaranteed",
    "widened_from": "the search's, whose outcome is t_star_grid_widened",
    "widened_to": "likewise",
}


def numbers(value, at=""):
    for key, inner in value.items():
        if isinstance(inner, dict):
            yield from numbers(inner, f"{at}{key}.")
        elif isinstance(inner, (int, float)):
            yield f"{at}{key}"


@pytest.mark.parametrize("file", schema.FILES)
def test_every_number_of_the_metrics_files_is_a_metric_or_excused(file):
    listed = [metric for metric in schema.METRICS if metric.file == file]
    held = json.loads((ROOT / file).read_text())
    for place in numbers(held):
        named = any(metric.at == place or (metric.each and place.startswith(f"{metric.at}.")) for metric in listed)
        excused = any(place == one or place.startswith(f"{one}.") for one in EXCUSED)
        assert named or excused, f"{place} of {file} is not in schema.METRICS"
    files = {file: held}
    for metric in listed:
        for column, value in metric.of(files, SETTINGS.classes, SETTINGS.teachers).items():
            assert value is not None and metric.low <= value <= metric.high, column
            assert schema.metric_of(column) is metric


def test_the_gap_of_a_run_is_the_largest_of_its_attributes_with_that_ones_p():
    def attribute(gap, p):
        return {"groups": {}, "gap": gap, "gap_p": p, "gap_p_holm": None if p is None else 2 * p}

    held = {"sex": attribute(0.02, 0.01), "age": attribute(0.07, 0.2), "tone": attribute(None, None)}
    gap, p = (schema.METRIC[key] for key in ("group_gap", "group_gap_p"))
    assert gap.of({schema.GROUPS: held}, []) == {"group_gap": 0.07}
    assert p.of({schema.GROUPS: held}, []) == {"group_gap_p": 0.4}
    for nothing in ({}, {"tone": held["tone"]}):
        assert gap.of({schema.GROUPS: nothing}, []) == {"group_gap": None}
    assert (gap.better, p.better) == ("lower", None)


def test_every_parameter_that_dvc_yaml_gives_the_student_is_a_setting():
    tracked = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]["student"]["params"]
    others = {"classes", "family", "launch", "mode", "seed", "training"}
    assert {key for key in tracked if not key.startswith("scales.")} - others <= set(schema.SETTING)


def test_a_setting_has_the_kind_and_the_limits_that_params_has():
    found = {key: (setting.kind, *setting.limits) for key, setting in schema.SETTING.items() if setting.kind is not str}
    assert found["lambda"] == found["alpha"] == (float, 0, 1)
    assert found["beta"][:2] == (float, 0) and found["temperature"][1] == schema.POSITIVE
    assert found["views"][:2] == (int, 1) and found["dkd_warmup"][:2] == (int, 0)
    assert schema.SETTING["dkd_target_term"].choices == ("official", "report")


def test_a_setting_is_told_where_it_applies():
    of = {key: setting.of(SETTINGS) for key, setting in schema.SETTING.items()}
    assert of == {
        "lambda": None, "beta": None, "dkd_target_term": None, "dkd_warmup": None,
        "fusion": "probability", "alpha": 0.5, "temperature": 2.0, "views": 1,
        "student": "mobilenetv3_small_050", "init": "pretrained/student.safetensors", "epochs": 10, "lr": 2e-3,
    }  # fmt: skip
    dkd = SETTINGS.model_copy(update={"family": "6D", "mode": "dkd"})
    assert (schema.SETTING["lambda"].of(dkd), schema.SETTING["beta"].of(dkd)) == (0.5, 4.0)
    plain = SETTINGS.model_copy(update={"mode": "none"})
    assert [key for key, setting in schema.SETTING.items() if setting.of(plain) is not None] == [
        "views", "student", "init", "epochs", "lr",
    ]  # fmt: skip


def test_no_other_module_names_a_parameter_of_a_mode():
    # tables.py reads the printed tables of others.
    own = [setting.key for setting in schema.SETTINGS if setting.when.needs.startswith("mode ")]
    assert set(own) == {"beta", "dkd_target_term", "dkd_warmup"}
    named = re.compile(rf"""["'.]({"|".join(own)})\b""")
    for folder in ("study", "tracking", "commands"):
        for path in (ROOT / "src/ferdistill" / folder).glob("*.py"):
            assert path.name in ("schema.py", "tables.py") or not named.search(path.read_text()), path


def test_tracking_knows_nothing_of_studies():
    for path in (ROOT / "src/ferdistill/tracking").glob("*.py"):
        assert not re.search(r"^\s*(from \.\.study|import ferdistill\.study)", path.read_text(), re.MULTILINE), path
