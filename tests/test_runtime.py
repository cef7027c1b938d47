import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import softmax
from typer.testing import CliRunner

from ferdistill.cli import cli
from ferdistill.errors import CheckError, UsageError
from ferdistill.files import read_json, sha256_file, write_json
from ferdistill.runtime import latency
from ferdistill.runtime.classifier import Classifier
from support.bundles import WEIGHTS


@pytest.mark.parametrize("n", [1, 5])
def test_probabilities_of_any_batch(bundle: Path, n: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (n, 8, 8, 1), dtype=np.uint8)
    classifier = Classifier(bundle, threads=1, device="cpu")
    expected = softmax(images.mean(axis=(1, 2)) * WEIGHTS, axis=1)
    probabilities = classifier.predict(images)
    assert probabilities.dtype == np.float32
    assert np.allclose(probabilities, expected, atol=1e-6)
    assert classifier.classes == ["a", "b", "c"]
    assert classifier.provider == "CPUExecutionProvider"


def test_nothing_is_sent_of_who_predicts(bundle: Path, tmp_path: Path) -> None:
    """ONNX Runtime keeps an identifier and a queue of what it sends below a user's cache, if it sends anything."""
    program = f"""
import numpy as np
from ferdistill.runtime.classifier import Classifier
Classifier({str(bundle)!r}).predict(np.zeros((2, 8, 8, 1), np.uint8))
"""
    home = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    kept = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    subprocess.run([sys.executable, "-c", program], env=kept | home, check=True)
    assert not [path for path in tmp_path.rglob("*") if "onnxruntime" in path.name]


def test_prediction_needs_neither_torch_nor_pandas(bundle: Path) -> None:
    """A camera has numpy and onnxruntime. None in sys.modules makes an import fail."""
    program = f"""
import sys
absent = ["torch", "torchvision", "timm", "pandas", "sklearn", "scipy", "onnx", "pydantic", "yaml", "dvc"]
sys.modules.update(dict.fromkeys(absent))
import numpy as np
from ferdistill.runtime.classifier import Classifier
print(Classifier({str(bundle)!r}).predict(np.zeros((2, 8, 8, 1), np.uint8)).shape)
assert all(sys.modules[name] is None for name in absent)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "(2, 3)"


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((2, 8, 8, 1), np.float32), "dtype float32"),
        (np.zeros((8, 8, 1), np.uint8), r"shape \(8, 8, 1\)"),
        (np.zeros((2, 8, 8, 4), np.uint8), r"shape \(2, 8, 8, 4\)"),
        (np.zeros((2, 8, 8, 1), np.uint16), "dtype uint16"),
        ("face.jpg", r"not an array, but a str(.|\n)*Image\.open"),
    ],
)
def test_other_images_are_refused(bundle: Path, images: np.ndarray, message: str) -> None:
    with pytest.raises(UsageError, match=message) as error:
        Classifier(bundle, device="cpu").predict(images)
    assert error.value.expected.startswith("uint8 (N, H, W, 1)")
    assert ("images[None]" in error.value.hint) == ("shape" in message)


@pytest.mark.parametrize("shape", [(0, 8, 8, 1), (1, 0, 8, 1)])
def test_an_empty_batch_is_refused(bundle: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="empty batch"):
        Classifier(bundle, device="cpu").predict(np.zeros(shape, np.uint8))


def test_a_damaged_model_is_refused(bundle: Path) -> None:
    model = bundle / "model.onnx"
    data = bytearray(model.read_bytes())
    data[-1] ^= 1
    model.write_bytes(data)
    with pytest.raises(CheckError, match=r"damaged(.|\n)*copy the whole directory"):
        Classifier(bundle)


def test_a_bundle_of_another_version_is_refused(bundle: Path) -> None:
    info = read_json(bundle / "bundle.json")
    (bundle / "bundle.json").write_text(json.dumps(info | {"schema_version": 1}), encoding="utf-8")
    with pytest.raises(CheckError, match="schema version 1"):
        Classifier(bundle)


def test_an_incomplete_bundle_is_refused(bundle: Path) -> None:
    (bundle / "model.onnx").unlink()
    with pytest.raises(UsageError, match=r"without one of its files(.|\n)*model.onnx"):
        Classifier(bundle)
    with pytest.raises(UsageError, match="no bundle here"):
        Classifier(bundle / "nowhere")
    (bundle / "bundle.json").write_text("{")
    with pytest.raises(CheckError, match=r"not valid JSON(.|\n)*copy the whole directory again"):
        Classifier(bundle)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"files": {"../model.onnx": "0"}, "variants": {}}, UsageError, "without one of its files"),
        ({"variants": {"fp32": "other.onnx"}}, CheckError, "lacks the digest of a variant"),
        ({"task": {"thing": 1}}, CheckError, "task cannot be so"),
        ({"task": {"detector": "../faces"}}, CheckError, "task cannot be so"),
        ({"crop": {"margin": "0.1"}}, CheckError, "crop cannot be so"),
        ({"variants": {"int8": "model.onnx"}}, UsageError, r"has no fp32(.|\n)*expected: one of int8"),
    ],
)
def test_a_description_that_lies_is_refused(
    bundle: Path, change: dict[str, Any], error: type[Exception], message: str
) -> None:
    write_json(bundle / "bundle.json", read_json(bundle / "bundle.json") | change)
    (bundle.parent / "model.onnx").touch()
    with pytest.raises(error, match=message):
        Classifier(bundle)


def test_a_description_without_thresholds_is_refused(bundle: Path) -> None:
    info = read_json(bundle / "bundle.json")
    del info["thresholds"]
    write_json(bundle / "bundle.json", info)
    with pytest.raises(CheckError, match="lacks thresholds"):
        Classifier(bundle)


def test_a_file_that_is_no_model_is_named(bundle: Path) -> None:
    (bundle / "model.onnx").write_text("no model")
    info = read_json(bundle / "bundle.json")
    write_json(bundle / "bundle.json", info | {"files": {"model.onnx": sha256_file(bundle / "model.onnx")}})
    with pytest.raises(CheckError, match=r"cannot load the model(.|\n)*model\.onnx"):
        Classifier(bundle, device="cpu")


def test_a_task_is_filled_up_with_the_words_that_fit_any(bundle: Path) -> None:
    description = read_json(bundle / "bundle.json")
    description.pop("task", None)
    write_json(bundle / "bundle.json", description | {"task": {"thing": "digit"}})
    task = Classifier(bundle, device="cpu").info["task"]
    assert task == {"thing": "digit", "things": "images", "label": "class", "labels": "classes", "detector": None}


def test_a_bundle_that_does_not_say_how_it_was_cropped_has_the_margin_of_those_before_it(bundle: Path) -> None:
    assert Classifier(bundle, device="cpu").info["crop"] == {"margin": 0.0}


def test_an_unknown_device_is_refused(bundle: Path) -> None:
    with pytest.raises(UsageError, match="no device `gpu`"):
        Classifier(bundle, device="gpu")  # type: ignore[arg-type]


def test_rounds_call_each_model_once_and_take_turns_to_begin() -> None:
    order: list[int] = []
    times = latency.interleave([lambda: order.append(0), lambda: order.append(1)], warmup=2, repeats=10)
    assert times.shape == (2, 10) and (times > 0).all()
    assert len(order) == 24 and order[4:8] == [0, 1, 1, 0]


def test_summary_of_known_times() -> None:
    found = latency.summary(np.array([0.001] * 99 + [0.101]), 8)
    assert found["p50_ms"] == pytest.approx(1) and found["p95_ms"] == pytest.approx(1)
    assert found["p99_ms"] == pytest.approx(2)  # linear between the 99th value and the last
    assert found["images_per_s"] == pytest.approx(8 * 100 / 0.2)


def test_bench_sets_models_side_by_side(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = [
        "bench",
        str(bundle),
        str(bundle / "model.onnx"),
        "--shape",
        "8,8,1",
        "--batch",
        "1,3",
        "--rounds",
        "10",
    ]
    done = CliRunner().invoke(cli, [*arguments, "--json"])
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    first, second = result["models"]
    assert first["run_family"] == "6E" and "run_family" not in second
    assert first["batch_1"]["ratio"] == 1 and first["provider"] == "cpu"
    assert second["batch_3"]["ratio"] == pytest.approx(second["batch_3"]["p50_ms"] / first["batch_3"]["p50_ms"])
    assert first["peak_memory_bytes"] is None or first["peak_memory_bytes"] > 10e6
    assert result["threads"] == 1 and result["machine"] and result["versions"]["onnxruntime"]
    monkeypatch.setenv("COLUMNS", "200")
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 0 and "images/s" in done.output and str(bundle / "model.onnx") in done.output
    assert "one architecture" not in done.output  # one bundle, and a file that nothing is known of
    done = CliRunner().invoke(cli, ["bench", str(bundle), str(bundle), "--batch", "1", "--rounds", "10"])
    assert done.exit_code == 0 and "one architecture" in done.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["model.onnx"], "--shape"),
        (["model.onnx", "--shape", "8,8"], "an input of shape"),
        (["model.onnx", "--shape", "8,x,1"], "whole numbers"),
        (["nowhere.onnx"], "no model there"),
        ([".", "--provider", "tpu"], "one of auto, cpu, cuda, tensorrt"),
        ([".", "--batch", "0"], "whole numbers"),
    ],
)
def test_bench_says_what_it_cannot_measure(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(bundle)
    with pytest.raises(UsageError, match=message):
        CliRunner().invoke(cli, ["bench", *arguments], catch_exceptions=False)
