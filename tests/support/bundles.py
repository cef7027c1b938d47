"""A bundle written without ferdistill's exporter."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ferdistill.files import sha256_file, write_json

WEIGHTS = np.array([[0.02, -0.01, 0.005]], np.float32)


def write_bundle(tmp_path: Path) -> Path:
    """A bundle whose probabilities are softmax(mean pixel * WEIGHTS), written without ferdistill's exporter."""
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", "height", "width", "channels"])
    probabilities = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", 3])
    nodes = [
        helper.make_node("Cast", ["images"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float"], ["mean"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Unsqueeze", ["mean", "last"], ["column"]),
        helper.make_node("MatMul", ["column", "weights"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    weights = [numpy_helper.from_array(WEIGHTS, "weights"), numpy_helper.from_array(np.array([1]), "last")]
    graph = helper.make_graph(nodes, "mean", [images], [probabilities], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "model.onnx")
    info = {
        "schema_version": 2,
        "classes": ["a", "b", "c"],
        "image": {"size": 8, "channels": 1},
        "t_star": 1.0,
        "thresholds": {"confidence": 0.5},
        "variants": {"fp32": "model.onnx"},
        "run_family": "6E",
        "run_mode": "kd",
        "architecture": "mean",
        "test": {"macro_f1": 0.5},
        "files": {"model.onnx": sha256_file(tmp_path / "model.onnx")},
    }
    write_json(tmp_path / "bundle.json", info)
    return tmp_path
