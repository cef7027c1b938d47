"""params.yaml: what it says of families, and what it refuses."""

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ferdistill import params
from ferdistill.errors import UsageError
from ferdistill.softlabels import families

ROOT = Path(__file__).parents[1]
RAW = yaml.safe_load((ROOT / "params.yaml").read_text())
# In the simplex of ResNet18, ConvNeXt, EfficientNet, ViT: the report's Table 2.
POINTS = {
    "6A": (0.7, 0, 0.3, 0), "6B": (0.49, 0, 0.21, 0.3), "6C": (0.25, 0.25, 0.25, 0.25), "6E": (0.25, 0.25, 0.25, 0.25),
}  # fmt: skip


def load(tmp_path, **changes):
    raw = copy.deepcopy(RAW)
    for path, value in changes.items():
        *parents, last = path.split("__")
        section = raw
        for parent in parents:
            section = section[parent]
        section[last] = value
    file = tmp_path / "params.yaml"
    file.write_text(yaml.safe_dump(raw, sort_keys=False))
    return params.load(file)


@pytest.mark.parametrize("family", POINTS)
def test_families_are_the_reports_points_in_the_simplex_of_teachers(tmp_path, family):
    sources = load(tmp_path, family=family).family_.sources
    found = dict.fromkeys(RAW["teachers"], 0.0)
    for source in sources:
        for teacher, weight in source.teachers.items():
            found[teacher] += families.resolved_weight(source, 0.5) * weight
    assert tuple(found.values()) == pytest.approx(POINTS[family])
    assert len(sources) == {"6A": 1, "6B": 1, "6C": 1, "6E": 4}[family]


@pytest.mark.parametrize("lambda_", [0.3, 0.5, 0.7])
def test_lambda_weighs_the_two_sources_of_6d(tmp_path, lambda_):
    pairwise, vit = load(tmp_path, family="6D", **{"lambda": lambda_}).family_.sources
    assert families.resolved_weight(pairwise, lambda_) == lambda_
    assert families.resolved_weight(vit, lambda_) == pytest.approx(1 - lambda_)
    assert pairwise.teachers == {"resnet18": 0.7, "efficientnet_b3": 0.3} and vit.teachers == {"vit_ban": 1.0}


@pytest.mark.parametrize(("family", "mode"), [("none", "kd"), ("6E", "none"), ("none", "none")])
def test_the_baseline_has_one_name(tmp_path, family, mode):
    found = load(tmp_path, family=family, mode=mode)
    assert (families.run_family(found), families.run_mode(found), families.distils(found)) == ("none", "none", False)


# What goes with a scale that has teachers of its own.
LITE = {"scale": "lite", "teachers": ["lite1", "lite2"], "family": "lite"}


def test_every_scale_has_its_teachers(tmp_path):
    for scale in RAW["scales"].keys() - {"lite"}:
        assert set(load(tmp_path, scale=scale).scale_.teachers) >= set(RAW["teachers"])
    found = load(tmp_path, **LITE)
    assert list(found.scale_.teachers) == found.teachers == found.family_.teachers
    assert {one.init for one in [*found.scale_.teachers.values(), found.scale_.student]} == {"imagenet"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"family": "6Z"}, "unknown `6Z`; known here: none, 6A"),
        ({"scale": "embeded"}, "did you mean `embedded`"),
        ({"sed": 1}, "sed: unknown parameter; did you mean `seed`"),
        ({"scales__smoke__student__bach": 1}, "scales.smoke.student.bach: unknown parameter; did you mean `batch`"),
        ({"alpha": 1.5}, "alpha: input should be less than or equal to 1; found 1.5"),
        ({"temperature": 0}, "temperature: input should be greater than 0; found 0"),
        ({"beta": float("nan")}, "beta: input should be a finite number"),
        ({"scales__smoke__student__weight_decay": float("inf")}, "weight_decay: input should be a finite number"),
        ({"mode": "KD"}, "mode: input should be 'none', 'kd' or 'dkd'; found 'KD'"),
        ({"seed": "many"}, "seed"),
        ({"index_tag": "../x"}, "index_tag"),
        ({"index__val": 0.6, "index__calib": 0.5}, "val + calib + test must be under 1"),
        ({"classes": ["a", "b", "a"]}, "each name once"),
        ({"classes": ["a", "Été", "e\u0301te\u0301"]}, "`Été` and `e\u0301te\u0301` are one folder"),
        ({"classes": ["a", "../b"]}, "classes.1: '../b' is a path"),
        ({"classes": ["a", "b\\c"]}, "is a path"),
        ({"classes": ["a", ".."]}, "is a path, or hidden"),
        ({"classes": ["a", "b\nc"]}, "printable text on one line"),
        ({"classes": ["a", " b"]}, "printable text on one line"),
        ({"classes": ["a", ""]}, "classes.1: string should have at least 1 character"),
        ({"classes": ["a", "b" * 61]}, "at most 60"),
        ({"classes": ["a", 7]}, "classes.1: YAML reads this as 7, which is no text: put it in quotes"),
        ({"classes": ["a", True]}, "put it in quotes"),
        ({"classes": ["a", None]}, "put it in quotes"),
        ({"views": 2, "view_augment": "shift"}, "views: recorded views are shift"),
        ({"families__6A__sources": [{"weight": 0.9, "teachers": {"resnet18": 1.0}}]}, "sum to 1; they sum to 0.9"),
        ({"families__6A__sources": [{"weight": 1.0, "teachers": {"resnet18": 0.8}}]}, "sum to 1; they sum to 0.8"),
        ({"families__6A__sources": [{"weight": 1.0, "teachers": {"resnet81": 1.0}}]}, "did you mean `resnet18`"),
        ({"families__6D__sources": [{"weight": "lambda", "teachers": {"vit_ban": 1.0}}]}, "two sources"),
        ({"teachers": [*RAW["teachers"], "swin"]}, "scales.embedded.teachers: no recipe for swin"),
        ({"family": "lite"}, "families.lite: unknown `lite1`; known here: resnet18"),
        ({"scale": "lite"}, "scales.lite.teachers: no recipe for resnet18"),
        (LITE | {"family": "6E"}, "families.6E: unknown `resnet18`; known here: lite1, lite2"),
        ({"families__lite__sources": [{"weight": 1.0, "teachers": {"lite3": 1.0}}]}, "families.lite: unknown `lite3`"),
    ],
)
def test_wrong_params_are_named(tmp_path, changes, message):
    with pytest.raises(UsageError) as error:
        load(tmp_path, **changes)
    assert message in str(error.value)


def test_any_printable_names_that_are_no_paths_are_classes(tmp_path):
    names = ["très heureux", "悲しい", 'a,b "c"', "7", "Happy", "yes"]
    assert load(tmp_path, classes=names).classes == names


def test_a_missing_or_broken_file_is_named(tmp_path):
    with pytest.raises(UsageError, match="no params file here"):
        params.load(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_text("a: [")
    with pytest.raises(UsageError, match="not valid YAML"):
        params.load(tmp_path / "params.yaml")


@pytest.mark.parametrize(
    ("words", "message"),
    [("teacher", "take a teacher"), ("teacher swin", "no teacher `swin`"), ("params x", "usage"), ("x", "usage")],
)
def test_a_stage_called_wrongly_is_wrong_use(words, message):
    command = [sys.executable, "src/stage.py", *words.split()]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr
