import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from scipy.special import softmax

from ferdistill.errors import CheckError, UsageError
from ferdistill.files import read_json, sha256_file, write_json
from ferdistill.runtime.classifier import Classifier

WEIGHTS = np.array([[0.02, -0.01, 0.005]], np.float32)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle whose probabilities are softmax(mean pixel * WEIGHTS), written without ferdistill's exporter."""
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", 8, 8, 1])
    probabilities = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", 3])
    nodes = [
        helper.make_node("Cast", ["images"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float"], ["mean"], axes=[1, 2], keepdims=0),
        helper.make_node("MatMul", ["mean", "weights"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    weights = numpy_helper.from_array(WEIGHTS, "weights")
    graph = helper.make_graph(nodes, "mean", [images], [probabilities], [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "model.onnx")
    info = {
        "schema_version": 1,
        "classes": ["a", "b", "c"],
        "image": {"size": 8, "channels": 1},
        "sha256": sha256_file(tmp_path / "model.onnx"),
    }
    write_json(tmp_path / "bundle.json", info)
    return tmp_path


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
    "images",
    [
        np.zeros((2, 8, 8, 1), np.float32),
        np.zeros((8, 8, 1), np.uint8),
        np.zeros((2, 8, 8, 3), np.uint8),
        np.zeros((2, 9, 8, 1), np.uint8),
    ],
)
def test_other_images_are_refused(bundle: Path, images: np.ndarray) -> None:
    with pytest.raises(UsageError, match=r"expected: uint8 \(N, 8, 8, 1\)"):
        Classifier(bundle, device="cpu").predict(images)


def test_an_empty_batch_is_refused(bundle: Path) -> None:
    with pytest.raises(UsageError, match="empty batch"):
        Classifier(bundle, device="cpu").predict(np.zeros((0, 8, 8, 1), np.uint8))


def test_a_damaged_model_is_refused(bundle: Path) -> None:
    model = bundle / "model.onnx"
    data = bytearray(model.read_bytes())
    data[-1] ^= 1
    model.write_bytes(data)
    with pytest.raises(CheckError, match=r"damaged(.|\n)*copy the whole directory"):
        Classifier(bundle)


def test_a_bundle_of_another_version_is_refused(bundle: Path) -> None:
    info = read_json(bundle / "bundle.json")
    (bundle / "bundle.json").write_text(json.dumps(info | {"schema_version": 2}), encoding="utf-8")
    with pytest.raises(CheckError, match="schema version 2"):
        Classifier(bundle)


def test_an_incomplete_bundle_is_refused(bundle: Path) -> None:
    (bundle / "model.onnx").unlink()
    with pytest.raises(UsageError, match="without its model"):
        Classifier(bundle)
    with pytest.raises(UsageError, match="missing"):
        Classifier(bundle / "nowhere")
