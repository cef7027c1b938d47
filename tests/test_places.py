"""How many places an addition touches, counted by making each: CONTRIBUTING's table, and what it promises."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from conftest import CLASSES, face, make_index
from ferdistill import params, workspace
from ferdistill.files import sha256
from ferdistill.softlabels import store
from support.images import pack

ROOT = Path(__file__).parents[1]
LENGTHS = {"train": 112, "val": 14, "calib": 14, "test": 14}

# Of each addition every file that it touches, with what stands there before and after.
MODE = {
    "params.yaml": [("beta: 4.0 ", "gamma: 0.5\nbeta: 4.0 ")],
    "src/ferdistill/params.py": [
        ('"kd", "dkd"]', '"kd", "dkd", "brier"]'),
        ("    beta: Annotated", "    gamma: Share\n    beta: Annotated"),
    ],
    "src/ferdistill/distill/modes.py": [
        (
            "\n\nMODES: dict",
            """

def brier(params: Params, logits: Tensor, batch: Batch, ce: Tensor, targets: SoftTargets) -> dict[str, Tensor]:
    distance = (logits.softmax(-1) - targets.mixture()).square().sum(-1).mean()
    return {"loss": (1 - params.gamma) * ce + params.gamma * distance, "ce": ce, "brier": distance}


MODES: dict""",
        ),
        ('"dkd": dkd}', '"dkd": dkd, "brier": brier}'),
    ],
    "src/ferdistill/study/schema.py": [
        ('    Setting("beta"', '    Setting("gamma", "γ={:g}", in_mode("brier"), named=True),\n    Setting("beta"')
    ],
    "dvc.yaml": [("      - dkd_warmup\n", "      - dkd_warmup\n      - gamma\n")],
}
METRIC = {
    "src/ferdistill/study/schema.py": [
        (
            '    Metric("ece_null"',
            '    Metric("surprisal", EVALUATION, "test.surprisal", "surprisal", 0, INFINITE, better="lower"),\n'
            '    Metric("ece_null"',
        )
    ],
}
TEACHER = {
    "params.yaml": [
        ("teachers: [resnet18", "teachers: [fifth, resnet18"),
        (
            "    teachers:\n",
            "    teachers:\n      fifth:\n        model: test_resnet\n        options: {}\n        stem: stock\n"
            "        init: scratch\n        seed: 105\n        batch: 28\n"
            "        phases: [{epochs: 1, lr: 1.0e-3, augment: flip}]\n"
            "        born_again: null\n        weight_decay: 0.05\n        label_smoothing: 0.0\n",
        ),
    ]
}
SOURCES = "    sources:\n      - {weight: 1.0, teachers: {resnet18: 0.5, vit_ban: 0.5}}\n"
FAMILY = {"params.yaml": [("families:\n", f"families:\n  6F:\n    fusion: logit\n{SOURCES}")]}
CLASS_SET = {
    "params.yaml": [
        ("[angry, disgust, fear, happy, neutral, sad, surprise]", "[wütend, Ekel, Angst, froh, ruhig, traurig, '7']")
    ]
}


def change(root, addition):
    """Make an addition in a copy."""
    for name, edits in addition.items():
        text = (root / name).read_text(encoding="utf-8")
        for old, new in edits:
            assert old in text, (name, old)
            text = text.replace(old, new, 1)
        (root / name).write_text(text, encoding="utf-8")


@pytest.fixture
def copy(tmp_path):
    """The code, dvc.yaml and params.yaml at the smoke scale, without data."""
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__", "vendor"))
    shutil.copytree(ROOT / "pretrained", tmp_path / "pretrained")
    shutil.copy2(ROOT / "dvc.yaml", tmp_path)
    text = (ROOT / "params.yaml").read_text(encoding="utf-8").replace("scale: embedded", "scale: smoke", 1)
    (tmp_path / "params.yaml").write_text(text, encoding="utf-8")
    return tmp_path


def run(root, *command):
    done = subprocess.run([sys.executable, *command], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def python(root, code):
    return run(root, "-c", f"import sys; sys.path.insert(0, 'src')\n{code}")


def test_a_mode_with_a_parameter_of_its_own_is_five_places(copy, monkeypatch):
    assert len(MODE) == 5
    change(copy, MODE)
    raw = yaml.safe_load((copy / "params.yaml").read_text(encoding="utf-8"))
    raw["mode"] = "brier"
    raw["scales"]["smoke"]["student"]["phases"][0]["epochs"] = 1
    (copy / "params.yaml").write_text(yaml.safe_dump(raw, sort_keys=False), encoding="utf-8")

    monkeypatch.chdir(copy)
    index = make_index(workspace.index_csv(raw["index_tag"]), LENGTHS, CLASSES)
    pictures = [face(seed)[..., None] for seed in range(len(index.rows))]
    pack(workspace.images(raw["index_tag"]), index, np.stack(pictures))
    for seed, name in enumerate(raw["teachers"]):
        logits = np.random.default_rng(seed).normal(0, 1, (len(index.rows), 7)) + 3 * np.eye(7)[index.codes(CLASSES)]
        directory = workspace.softlabels(name, raw["index_tag"])
        store.write(directory, index, logits, CLASSES, teacher=name, checkpoint_sha256=sha256(name))
    for stage in ("params", "targets", "student"):
        run(copy, "src/stage.py", stage)

    student = json.loads((copy / "metrics/student.json").read_text())
    assert (student["run_family"], student["run_mode"]) == ("6E", "brier")
    assert (copy / "plots/student/plots/metrics/train/brier.tsv").is_file()
    (copy / "grid.yaml").write_text(
        "seeds: {s: [1]}\ncells:\n  - {family: 6E, mode: brier, seeds: s, gamma: [0.2, 0.4]}\n", encoding="utf-8"
    )
    names = python(
        copy,
        "import yaml\nfrom pathlib import Path\nfrom ferdistill.study import grid\n"
        "raw = yaml.safe_load(Path('params.yaml').read_text())\n"
        "print(*[run.name for run in grid.load(Path('grid.yaml'), raw)])",
    ).split()
    assert names == ["study-6E-brier-gamma0.2-s1", "study-6E-brier-gamma0.4-s1"]


def test_a_metric_is_one_place_beside_the_line_that_computes_it(copy):
    assert len(METRIC) == 1
    change(copy, METRIC)
    shown = python(
        copy,
        "from ferdistill.study import results, schema\n"
        "files = {name: {} for name in schema.FILES} | {schema.EVALUATION: {'test': {'surprisal': 0.5}}}\n"
        "print(schema.METRIC['surprisal'].of(files, ['a', 'b']), 'surprisal' in results.columns(['a', 'b'], []))\n"
        "print(schema.title_of('surprisal'))",
    )
    assert shown.splitlines() == ["{'surprisal': 0.5} True", "surprisal"]


@pytest.mark.parametrize("addition", [TEACHER, FAMILY, CLASS_SET], ids=["teacher", "family", "class set"])
def test_a_teacher_a_family_and_other_classes_are_params_alone(copy, addition):
    assert list(addition) == ["params.yaml"]
    change(copy, addition)
    assert "params.yaml is sound" in run(copy, "src/stage.py", "params")
    settings = params.load(copy / "params.yaml")
    if addition is TEACHER:
        assert settings.scale_.teachers["fifth"].seed == 105
        assert (copy / workspace.checked_weights("fifth")).is_file()
    if addition is FAMILY:
        assert settings.families["6F"].fusion == "logit"
    if addition is CLASS_SET:
        assert settings.classes[0] == "wütend" and settings.classes[-1] == "7"
