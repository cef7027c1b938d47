"""Drift: found where it is, from the records of `predict` and `watch` alone."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import chi2_contingency
from typer.testing import CliRunner

from ferdistill.cli import cli
from ferdistill.errors import CheckError
from ferdistill.evaluation import drift
from ferdistill.files import read_json, write_json

CLASSES = ["a", "b", "c"]


def answers(n: int, seed: int, shift: float = 0.0) -> np.ndarray:
    logits = np.random.default_rng(seed).normal([shift, 0, 0], 2, (n, 3))
    return softmax(logits, axis=1)


def lines(p: np.ndarray, threshold: float = 0.5) -> str:
    records = [
        {
            "path": f"{row}.png",
            "label": CLASSES[shares.argmax()] if shares.max() >= threshold else None,
            "probabilities": dict(zip(CLASSES, shares.tolist(), strict=True)),
        }
        for row, shares in enumerate(p)
    ]
    return "\n".join(json.dumps(record) for record in records)


def compared(tmp_path: Path, p: np.ndarray, threshold: float = 0.5) -> dict[str, Any]:
    (tmp_path / "log.jsonl").write_text(lines(p, threshold))
    known = drift.reference(answers(800, 0), 0.5)
    return drift.compare(drift.read(tmp_path / "log.jsonl", CLASSES, None), known, CLASSES, 48)


def test_false_alarms_are_as_rare_as_promised_and_drift_is_found(tmp_path: Path) -> None:
    alarms = [compared(tmp_path, answers(200, seed))["drifted"] for seed in range(1, 101)]
    assert sum(alarms) <= 10
    moved = compared(tmp_path, answers(200, 1, shift=2.0))
    assert moved["drifted"] and moved["tests"]["classes"]["p_holm"] < 1e-4
    unsure = compared(tmp_path, answers(200, 1) * 0.3 + 0.7 / 3)
    assert unsure["tests"]["abstention"]["p_holm"] < 1e-4 and unsure["tests"]["confidence"]["p_holm"] < 1e-4


def test_the_tests_are_the_stated_ones(tmp_path: Path) -> None:
    p = answers(300, 5)
    found = compared(tmp_path, p)
    known = drift.reference(answers(800, 0), 0.5)
    table = [np.bincount(p.argmax(axis=1), minlength=3), known["classes"]]
    assert found["tests"]["classes"]["p"] == pytest.approx(chi2_contingency(table, correction=False).pvalue)
    assert sum(known["confidence"]) == known["images"] == 800
    assert found["answers"] == 300 and found["small_crops"] is None


def test_a_track_counts_once_by_its_last_frame(tmp_path: Path) -> None:
    def of(number: int, share: float) -> dict[str, Any]:
        shares = {"a": share, "b": 1 - share, "c": 0.0}
        return {"track": number, "box": [0, 0, 40, 60], "smoothed": shares, "probabilities": {}, "label": None}

    frames = [{"frame": 0, "faces": [of(1, 0.1), of(2, 0.3)]}, {"frame": 1, "faces": [of(1, 0.9)]}]
    (tmp_path / "log").write_text("\n".join(map(json.dumps, frames)))
    log = drift.read(tmp_path / "log", CLASSES, "faces")
    assert log.probabilities[:, 0].tolist() == [0.9, 0.3] and log.sides.tolist() == [40, 40]


@pytest.mark.parametrize(
    "line", ["", "{}", "no json", '{"label": null, "probabilities": {"a": 2, "b": 0, "c": 0}}', "[]"]
)
def test_what_is_no_log_is_refused_with_its_line(tmp_path: Path, line: str) -> None:
    (tmp_path / "log").write_text(lines(answers(2, 0)) + "\n" + line + "\n" if line else "")
    with pytest.raises(CheckError, match="line 3" if line else "without answers"):
        drift.read(tmp_path / "log", CLASSES, None)


def test_the_command_says_so_and_draws(bundle: Path, tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text(lines(answers(200, 1, shift=2.0)))
    ask = ["monitor", str(log), "--bundle", str(bundle)]
    assert "export it again" in str(getattr(CliRunner().invoke(cli, ask).exception, "hint", ""))
    info = read_json(bundle / "bundle.json")
    write_json(bundle / "bundle.json", info | {"reference": drift.reference(answers(800, 0), 0.5)})
    result = CliRunner().invoke(cli, [*ask, "--json", "--out", str(tmp_path / "d.png")])
    assert result.exit_code == 1 and json.loads(result.stdout)["drifted"]
    assert (tmp_path / "d.png").read_bytes().startswith(b"\x89PNG")
    log.write_text(lines(answers(200, 1)) + '\n{"path": "x.png", "error": "cannot be read"}')
    result = CliRunner().invoke(cli, ask)
    assert result.exit_code == 0 and "1 pictures could not be read" in result.stdout
