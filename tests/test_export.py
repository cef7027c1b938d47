import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pandas as pd
import pytest
import timm
import torch
import yaml
from scipy.special import softmax

from ferdistill.errors import CheckError
from ferdistill.files import read_json
from ferdistill.params import BenchmarkParams, ExportParams
from ferdistill.runtime.classifier import Classifier
from ferdistill.stages import benchmark, export

CLASSES = ["angry", "happy", "sad"]
MEAN, STD = [0.4], [0.2]
SETTINGS = ExportParams(opset=17, tolerance=1e-5)
CALIBRATION = {"t_star": 1.7}
SCORES = {"nll": 0.9, "brier": 0.5, "ece": 0.1, "mce": 0.2}
EVALUATION = {
    "test": {
        "n": 300,
        "macro_f1": 0.5,
        "accuracy": 0.55,
        "f1": {"angry": 0.4, "happy": 0.7, "sad": 0.4},
        "raw": SCORES,
        "scaled": SCORES,
        "ece_null": 0.03,
    }
}
CONFIG = {
    "model": "test_efficientnet",
    "classes": CLASSES,
    "image": {"size": 32, "channels": 1, "mean": MEAN, "std": STD},
    "run_family": "6E",
    "run_mode": "kd",
    "seed": 1,
    "index_digest": "0" * 64,
    "sha256": "1" * 64,
}
SOURCES = pd.DataFrame({"test": [300, 0], "train": [10, 20]}, index=["fer2013", "rafdb"])


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (320, 32, 32, 1), dtype=np.uint8)


@pytest.fixture
def network() -> Any:
    torch.manual_seed(0)
    network: Any = timm.create_model("test_efficientnet", in_chans=1, num_classes=3)
    with torch.no_grad():
        network(torch.randn(64, 1, 32, 32))  # moves the batch norms' statistics off 0 and 1
        network.get_classifier().weight.mul_(50)
    return network.eval()


def logits_of(network: Any, images: np.ndarray) -> np.ndarray:
    """As training computes them: normalised in numpy, channels first."""
    pixels = ((images / 255 - MEAN) / STD).astype(np.float32).transpose(0, 3, 1, 2)
    with torch.inference_mode():
        return network(torch.from_numpy(pixels.copy())).numpy()


def export_to(
    directory: Path,
    network: Any,
    images: np.ndarray,
    evaluated: np.ndarray | None = None,
    calibration: dict[str, Any] = CALIBRATION,
    settings: ExportParams = SETTINGS,
) -> dict[str, Any]:
    positions = np.arange(len(images))[::-1][:300]
    evaluated = logits_of(network, images[positions]) if evaluated is None else evaluated
    arguments = (network, CONFIG, calibration, EVALUATION, images, positions, evaluated, SOURCES)
    return export.export_bundle(*arguments, directory, settings)


def test_bundle_gives_torchs_probabilities_at_t_star(network: Any, images: np.ndarray, tmp_path: Path) -> None:
    result = export_to(tmp_path / "bundle", network, images)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle"]
    assert sorted(path.name for path in (tmp_path / "bundle").iterdir()) == [
        "MODEL_CARD.md",
        "bundle.json",
        "model.onnx",
    ]
    assert result["parity_max_abs"] <= 1e-5
    assert result["evaluated_max_abs"] <= 1e-5
    assert result["argmax_equal"] == 1
    assert result["size_bytes"] == (tmp_path / "bundle" / "model.onnx").stat().st_size
    expected = softmax(logits_of(network, images) / 1.7, axis=1)
    assert np.ptp(expected, axis=0).max() > 0.1  # the images are told apart
    classifier = Classifier(tmp_path / "bundle", threads=1, device="cpu")
    assert np.allclose(classifier.predict(images), expected, atol=1e-5)
    assert np.allclose(classifier.predict(images[:1]), expected[:1], atol=1e-5)
    assert classifier.info["t_star"] == 1.7
    assert classifier.info["test"] == EVALUATION["test"]


def test_onnx_takes_raw_pixels_and_gives_logits_too(network: Any, images: np.ndarray, tmp_path: Path) -> None:
    export_to(tmp_path / "bundle", network, images)
    session = onnxruntime.InferenceSession(tmp_path / "bundle" / "model.onnx", providers=["CPUExecutionProvider"])
    (taken,) = session.get_inputs()
    assert (taken.name, taken.type, taken.shape) == ("images", "tensor(uint8)", ["batch", 32, 32, 1])
    assert [(out.name, out.type) for out in session.get_outputs()] == [
        ("logits", "tensor(float)"),
        ("probabilities", "tensor(float)"),
    ]
    logits = session.run(["logits"], {"images": images[:7]})[0]
    assert np.allclose(logits, logits_of(network, images[:7]), atol=1e-4)


def test_rerun_writes_the_same_bytes(network: Any, images: np.ndarray, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    export_to(bundle, network, images)
    first = {path.name: path.read_bytes() for path in bundle.iterdir()}
    (bundle / "left-over").touch()
    export_to(bundle, network, images)
    assert {path.name: path.read_bytes() for path in bundle.iterdir()} == first


def test_parity_failure_leaves_the_last_bundle(
    network: Any, images: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = tmp_path / "bundle"
    export_to(bundle, network, images)
    before = {path.name: path.read_bytes() for path in bundle.iterdir()}
    original = export.export_onnx

    def export_altered(deployed: export.Deployed, *arguments: Any) -> None:
        network: Any = deployed.network
        bias = network.get_classifier().bias
        with torch.no_grad():
            bias[0] += 0.001
            original(deployed, *arguments)
            bias[0] -= 0.001

    monkeypatch.setattr(export, "export_onnx", export_altered)
    with pytest.raises(CheckError, match=r"ONNX Runtime and torch disagree(.|\n)*at most 1e-05"):
        export_to(bundle, network, images)
    assert {path.name: path.read_bytes() for path in bundle.iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle"]


def test_nan_is_no_parity(network: Any, images: np.ndarray, tmp_path: Path) -> None:
    evaluated = logits_of(network, images[::-1][:300])
    with torch.no_grad():
        network.get_classifier().bias[0] = torch.nan
    with pytest.raises(CheckError, match="disagree"):
        export_to(tmp_path / "bundle", network, images, evaluated)


def test_predictions_of_another_preprocessing_are_refused(network: Any, images: np.ndarray, tmp_path: Path) -> None:
    evaluated = logits_of(network, 255 - images[::-1][:300])
    with pytest.raises(CheckError, match="not those that were evaluated"):
        export_to(tmp_path / "bundle", network, images, evaluated)
    assert list(tmp_path.iterdir()) == []


def test_images_of_another_size_are_refused(network: Any, images: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(CheckError, match=r"\(N, 32, 32, 1\)"):
        export_to(tmp_path / "bundle", network, images[:, :24], evaluated=np.zeros((300, 3)))


def test_model_card_says_what_was_measured_and_on_what(network: Any, images: np.ndarray, tmp_path: Path) -> None:
    export_to(tmp_path / "bundle", network, images)
    card = (tmp_path / "bundle" / "MODEL_CARD.md").read_text(encoding="utf-8")
    for text in ("n = 300", "family 6E, mode kd", "about 0.030", "| fer2013 | 10 | 300 |", "| Macro F1 | 0.500 |"):
        assert text in card, text
    info = read_json(tmp_path / "bundle" / "bundle.json") | {"run_family": "none", "run_mode": "none"}
    assert "cross-entropy alone, without teachers" in export.model_card(info, SOURCES)


def test_benchmark_measures_both_peers(
    network: Any, images: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    export_to(Path("models/bundle"), network, images)
    monkeypatch.setattr(benchmark, "load_network", lambda _: (network, CONFIG))
    settings = BenchmarkParams(batches=[1, 4], threads=1, warmup=2, repeats=10)
    threads = torch.get_num_threads()
    benchmark.run(type("P", (), {"benchmark": settings})())
    torch.set_num_threads(threads)
    result = json.loads(Path("metrics/benchmark.json").read_text())
    for batch in (1, 4):
        part = result[f"batch_{batch}"]
        assert 0 < part["p50_ms"] <= part["p95_ms"] <= part["p99_ms"]
        assert part["torch_ratio"] == pytest.approx(part["torch_p50_ms"] / part["p50_ms"])
    assert result["machine"]
    parameters = yaml.safe_load((Path(__file__).parents[1] / "params.yaml").read_text(encoding="utf-8"))
    assert not set(part) & set(parameters["benchmark"]) and not set(result) & set(parameters["benchmark"])
