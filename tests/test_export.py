"""Export: the graph against torch, Pillow and float64; int8; the bundle."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pandas as pd
import pytest
import timm
import torch
import yaml
from PIL import Image
from scipy.special import softmax
from sklearn.metrics import f1_score

from ferdistill.deployment import bundle as bundles
from ferdistill.deployment import graph, precision
from ferdistill.deployment.card import model_card
from ferdistill.deployment.graph import EvaluatedSplit, InferenceGraph
from ferdistill.errors import CheckError, UsageError
from ferdistill.faces.caution import caution_for, use_for
from ferdistill.files import read_json, sha256_file
from ferdistill.image_files import resize
from ferdistill.params import BenchmarkParams, ExportParams, Int8Params, TaskParams
from ferdistill.runtime.classifier import Classifier
from ferdistill.stages import benchmark

CLASSES = ["angry", "happy", "sad"]
MEAN, STD = [0.4], [0.2]
INT8 = Int8Params(max_macro_f1_loss=0.05, max_ece_rise=0.05, min_same_class=0.9, max_attempts=4)
SETTINGS = ExportParams(margin=0.1, opset=17, tolerance=1e-5, confidence=0.5, int8=None)
TASK = TaskParams(thing="face", things="faces", label="expression", labels="expressions", detector="faces")
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
def network(images: np.ndarray) -> Any:
    torch.manual_seed(0)
    network: Any = timm.create_model("test_efficientnet", in_chans=1, num_classes=3)
    with torch.no_grad():
        network(torch.randn(64, 1, 32, 32))  # moves the batch norms' statistics off 0 and 1
        network.get_classifier().weight.mul_(50)
        network.eval()
        network.get_classifier().bias -= torch.from_numpy(
            logits_of(network, images).mean(axis=0)
        )  # every class is chosen
    return network


def logits_of(network: Any, images: np.ndarray) -> np.ndarray:
    """As training computes them: normalised in numpy, channels first."""
    pixels = ((images / 255 - MEAN) / STD).astype(np.float32).transpose(0, 3, 1, 2)
    with torch.inference_mode():
        return network(torch.from_numpy(pixels.copy())).numpy()


# Nothing is guaranteed of abstention, and the third class is in every set.
ACTING: dict[str, Any] = {
    "sets": {
        "method": "lac",
        "coverage": 0.9,
        "by_class": True,
        "limits": dict(zip(CONFIG["classes"], (0.8, 0.8, None), strict=True)),
    },
    "abstention": {"risk": 0.1, "failure": 0.1, "people": 33, "threshold": None},
    "alerts": {
        "precision": 0.9,
        "failure": 0.1,
        "thresholds": dict(zip(CONFIG["classes"], (0.6, None, None), strict=True)),
    },
}


def export_to(
    directory: Path,
    network: Any,
    images: np.ndarray,
    evaluated: np.ndarray | None = None,
    settings: ExportParams = SETTINGS,
    task: TaskParams = TASK,
    acting: dict[str, Any] = ACTING,
) -> dict[str, Any]:
    splits = splits_of(network, images, evaluated)
    student = bundles.EvaluatedStudent(network, CONFIG, 1.7, acting, EVALUATION["test"], images, splits)
    return bundles.write(student, directory, settings, task, SOURCES, bundles.Told(caution_for(task), use_for(task)))


def splits_of(network: Any, images: np.ndarray, evaluated: np.ndarray | None = None) -> dict[str, EvaluatedSplit]:
    """Splits whose labels are the network's own classes, but for every fifth image."""
    splits = {}
    for name, rows in {"test": range(319, 19, -1), "val": range(200), "calib": range(200, 320)}.items():
        positions = np.array(rows)
        logits = logits_of(network, images[positions])
        labels = (logits.argmax(axis=1) + (positions % 5 == 0)) % 3
        told = logits if name != "test" or evaluated is None else evaluated
        splits[name] = EvaluatedSplit(positions, labels, told)
    return splits


def test_bundle_gives_torchs_probabilities_at_t_star(network: Any, images: np.ndarray, tmp_path: Path) -> None:
    result = export_to(tmp_path / "bundle", network, images)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle"]
    assert sorted(path.name for path in (tmp_path / "bundle").iterdir()) == [
        "README.md",
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


class Pixels(torch.nn.Module):
    """A network that gives what it is given."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels.flatten(1)


@pytest.fixture(scope="module", params=[1, 3])
def preprocessing(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A graph whose logits are the pixels, in 0..255, of a network of this many channels."""
    channels = request.param
    image = {"size": 32, "channels": channels, "mean": [0] * channels, "std": [1 / 255] * channels}
    file = tmp_path_factory.mktemp("pixels") / f"{channels}.onnx"
    graph.export_onnx(InferenceGraph(Pixels(), image, 1.0), file, 17)
    return file


@pytest.mark.parametrize("given", [1, 3])
@pytest.mark.parametrize("shape", [(32, 32), (1, 1), (7, 200), (31, 33), (64, 64), (150, 97)])
def test_graph_converts_and_resizes_as_torch_and_pillow_do(
    preprocessing: Path, shape: tuple[int, int], given: int
) -> None:
    """Random pixels: antialiasing and rounding show most in them."""
    pixels = np.random.default_rng(1).integers(0, 256, (2, *shape, given), dtype=np.uint8)
    found = graph.open_model(preprocessing).run(["logits"], {"images": pixels})[0]
    channels = int(preprocessing.stem)
    colour = [Image.fromarray(np.repeat(one, 3 // given, axis=2)) for one in pixels]
    converted = np.stack([np.array(one.convert("L" if channels == 1 else "RGB")).reshape(*shape, -1) for one in colour])
    exact = torch.nn.functional.interpolate(
        torch.from_numpy(converted.transpose(0, 3, 1, 2)).double(), (32, 32), mode="bilinear", antialias=True
    )
    found = found.reshape(exact.shape)
    assert np.allclose(found, exact, atol=2e-3)
    pillow = np.stack([resize(np.array(one), 32, channels) for one in colour])
    # Pillow rounds to whole levels after each of the two directions.
    assert np.abs(found - pillow.transpose(0, 3, 1, 2)).max() <= (1e-4 if shape == (32, 32) else 1.01)


def test_onnx_takes_raw_pixels_and_gives_logits_too(network: Any, images: np.ndarray, tmp_path: Path) -> None:
    export_to(tmp_path / "bundle", network, images)
    session = onnxruntime.InferenceSession(tmp_path / "bundle" / "model.onnx", providers=["CPUExecutionProvider"])
    (taken,) = session.get_inputs()
    assert (taken.name, taken.type, taken.shape) == (
        "images",
        "tensor(uint8)",
        ["batch", "height", "width", "channels"],
    )
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
    original = bundles.export_onnx

    def export_altered(exported: InferenceGraph, *arguments: Any) -> None:
        network: Any = exported.network
        bias = network.get_classifier().bias
        with torch.no_grad():
            bias[0] += 0.001
            original(exported, *arguments)
            bias[0] -= 0.001

    monkeypatch.setattr(bundles, "export_onnx", export_altered)
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


def test_the_guaranteed_threshold_is_deployed_with_its_guarantee(
    network: Any, images: np.ndarray, tmp_path: Path
) -> None:
    fitted = ACTING | {"abstention": ACTING["abstention"] | {"threshold": 0.7}}
    result = export_to(tmp_path / "bundle", network, images, acting=fitted)
    classifier = Classifier(tmp_path / "bundle", 1, "cpu")
    assert classifier.confidence == 0.7
    assert classifier.info["guarantee"] == {"risk": 0.1, "failure": 0.1, "people": 33}
    probabilities = classifier.predict(images)
    assert result["abstention"]["coverage"] == pytest.approx((probabilities[20:].max(axis=1) >= 0.7).mean(), abs=0.01)
    answer = classifier.answer(probabilities[0], classifier.confidence)
    names = classifier.classes
    shares = dict(zip(names, probabilities[0], strict=True))
    assert answer["set"] == [name for name in names if name == names[2] or shares[name] >= 0.2]
    assert answer["alerts"] == [name for name in names[:1] if shares[name] >= 0.6]
    card = (tmp_path / "bundle" / "README.md").read_text(encoding="utf-8")
    assert "33 people" in card and f"always hold {names[2]}" in card


def test_images_of_another_size_are_refused(network: Any, images: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(CheckError, match=r"\(N, 32, 32, 1\)"):
        export_to(tmp_path / "bundle", network, images[:, :24], evaluated=np.zeros((300, 3)))


def test_model_card_says_what_was_measured_and_on_what(network: Any, images: np.ndarray, tmp_path: Path) -> None:
    export_to(tmp_path / "bundle", network, images)
    card = (tmp_path / "bundle" / "README.md").read_text(encoding="utf-8")
    for text in ("n = 300", "family 6E, mode kd", "about 0.030", "| fer2013 | 10 | 300 |", "| Macro F1 | 0.500 |"):
        assert text in card, text
    assert "For whom it errs" not in card and "On worse images" not in card
    info = read_json(tmp_path / "bundle" / "bundle.json") | {"run_family": "none", "run_mode": "none"}
    scored = {"images": 90, "people": 9, "macro_f1": 0.61, "low": 0.5, "high": 0.7}
    groups = {"a": scored, "b": scored, "c": {"images": 3, "people": 1, "too_few": True}}
    by_group = {"sex": {"groups": groups, "unknown": 0, "gap": 0.2, "gap_p": 0.01, "gap_p_holm": 0.02}}
    told = model_card(info | {"test": info["test"] | {"groups": by_group}}, SOURCES)
    assert "| a | 90 | 9 | 0.610 | 0.500 to 0.700 |" in told and "| c | 3 | 1 | too few | |" in told
    assert "p = 0.02" in told
    clean = {"macro_f1": 0.5, "nll": 1.0, "ece": 0.03, "answered": 0.75, "errors": 0.1}
    dark = clean | {"macro_f1": 0.25, "answered": 0.0, "errors": None}
    worse = {"clean": clean, "mean": dark, "corruptions": {"low_resolution": clean, "darkness": dark}}
    told = model_card(info | {"test": info["test"] | {"robustness": worse}}, SOURCES)
    assert "| low resolution | 0.500 | 1.000 | 0.030 | 75.0% | 10.0% |" in told
    assert "| darkness | 0.250 | 1.000 | 0.030 | 0.0% | no answers |" in told
    assert "Licence" not in told
    sources = {"a": {"licence": "CC0-1.0", "url": "https://a.example"}, "b": {"licence": "unknown", "url": None}}
    told = model_card(info | {"licences": {"strictest": "unknown", "sources": sources}}, SOURCES)
    assert "| a | CC0-1.0, https" in told and "| b | unknown |" in told and "strictest of these is unknown" in told
    assert "Where people recur" in model_card(info, SOURCES, named=False) and "Where people recur" not in told
    sure = info | {"thresholds": {"confidence": 0.0}}
    assert "Abstain nowhere" in model_card(sure, SOURCES) and "under 0 " not in model_card(sure, SOURCES)
    assert "cross-entropy alone, without teachers" in model_card(info, SOURCES)


def test_the_card_of_another_task_speaks_of_that_task(network: Any, images: np.ndarray, tmp_path: Path) -> None:
    digits = TaskParams(thing="scan", things="scans", label="digit", labels="digits", detector=None)
    export_to(tmp_path / "bundle", network, images, task=digits)
    assert read_json(tmp_path / "bundle" / "bundle.json")["task"] == digits.model_dump()
    assert read_json(tmp_path / "bundle" / "bundle.json")["use"] is None
    card = (tmp_path / "bundle" / "README.md").read_text(encoding="utf-8")
    assert "# Classifier of scans by digit\n" in card and "probabilities of 3 digits" in card
    assert not re.search("face|facial|expression|emotion|Ethics", card)
    export_to(tmp_path / "bundle", network, images)
    assert "is not an emotion" in (tmp_path / "bundle" / "README.md").read_text(encoding="utf-8")
    use = read_json(tmp_path / "bundle" / "bundle.json")["use"]
    assert use["prohibited"] and "Article 50(3)" in " ".join(use["sources"]) and "being estimated" in use["notice"]


def with_an_outlier(network: Any) -> Any:
    """One channel after the first layer is large, and nothing reads it: that costs float nothing, and int8 a lot."""
    with torch.no_grad():
        network.bn1.bias[0] = 300
        network.blocks[0][0].conv.weight[:, 0] = 0
    return network


def int8_of(tmp_path: Path, network: Any, images: np.ndarray, limits: Int8Params) -> dict[str, Any]:
    settings = SETTINGS.model_copy(update={"int8": limits})
    result: dict[str, Any] = export_to(tmp_path / "bundle", network, images, settings=settings)["int8"]
    return result


def test_int8_is_smaller_and_near(network: Any, images: np.ndarray, tmp_path: Path) -> None:
    result = int8_of(tmp_path, network, images, INT8)
    assert result["taken"] and result["attempts"] == [{"float_layers": 0, **result["val_and_calib"]}]
    bundle = tmp_path / "bundle"
    assert result["size_bytes"] == (bundle / "model.int8.onnx").stat().st_size
    assert result["size_bytes"] < (bundle / "model.onnx").stat().st_size / 2
    exact, near = (Classifier(bundle, 1, "cpu", variant).predict(images) for variant in ("fp32", "int8"))
    assert 1e-4 < np.abs(exact - near).max() < 0.2
    assert result["test"]["same_class"] == (exact.argmax(1) == near.argmax(1))[20:].mean()
    kinds = {node.op_type for node in onnx.load(bundle / "model.int8.onnx").graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= kinds
    assert "`model.int8.onnx`: every layer" in (bundle / "README.md").read_text(encoding="utf-8")


def test_layers_that_int8_hurts_stay_in_float(network: Any, images: np.ndarray, tmp_path: Path) -> None:
    result = int8_of(tmp_path, with_an_outlier(network), images, INT8)
    assert [attempt["float_layers"] for attempt in result["attempts"]] == [0, 2]
    assert result["attempts"][0]["macro_f1_loss"] > 0.2 and result["taken"]
    # The layer that writes the large channel, and the one that reads it.
    assert result["float_layers"] == ["/network/blocks/blocks.0/blocks.0.0/conv/Conv", "/network/conv_stem/Conv"]
    assert "16 layers of 18 in int8" in (tmp_path / "bundle" / "README.md").read_text(encoding="utf-8")


def test_int8_that_costs_too_much_is_left_out_with_its_figures(
    network: Any, images: np.ndarray, tmp_path: Path
) -> None:
    limits = Int8Params(max_macro_f1_loss=0.001, max_ece_rise=0.0, min_same_class=1.0, max_attempts=1)
    result = int8_of(tmp_path, with_an_outlier(network), images, limits)
    assert not result["taken"] and "size_bytes" not in result
    assert not (tmp_path / "bundle" / "model.int8.onnx").exists()
    assert list(read_json(tmp_path / "bundle" / "bundle.json")["variants"]) == ["fp32"]
    with pytest.raises(UsageError, match=r"has no int8(.|\n)*expected: one of fp32"):
        Classifier(tmp_path / "bundle", variant="int8")
    lost = f"{-100 * result['val_and_calib']['macro_f1_loss']:+.2f} points"
    assert lost in bundles.refusal(result, limits) and "export.int8.max_attempts" in bundles.refusal(result, limits)
    assert "No int8" in (tmp_path / "bundle" / "README.md").read_text(encoding="utf-8")


def test_losses_are_scikit_learns(images: np.ndarray) -> None:
    rng = np.random.default_rng(3)
    labels, before, after = rng.integers(0, 3, 200), rng.normal(size=(200, 3)), rng.normal(size=(200, 3))
    found = precision.compare(before, after, labels, CLASSES, 1.3)
    scores = [f1_score(labels, logits.argmax(1), average="macro") for logits in (before, after)]
    assert found["macro_f1_loss"] == pytest.approx(scores[0] - scores[1])


def test_every_file_of_a_bundle_has_its_digest(network: Any, images: np.ndarray, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    result = export_to(bundle, network, images)
    info = read_json(bundle / "bundle.json")
    assert info["files"] == {name: sha256_file(bundle / name) for name in ("README.md", "model.onnx")}
    assert info["thresholds"] == {"confidence": 0.5}
    assert info["crop"] == {"margin": 0.1}
    probabilities = Classifier(bundle, 1, "cpu").predict(images)[20:]
    assert result["abstention"]["coverage"] == pytest.approx((probabilities.max(axis=1) >= 0.5).mean(), abs=0.01)
    with (bundle / "README.md").open("a") as file:
        file.write("edited")
    with pytest.raises(CheckError, match=r"damaged(.|\n)*README.md"):
        Classifier(bundle)


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
