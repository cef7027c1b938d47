"""Small ONNX graphs, written by hand: classifiers of grey pictures, honest and otherwise."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ferdistill.files import read_json, sha256_file, write_json

FLOAT = TensorProto.FLOAT


def save(path, nodes, takes, gives, constants=(), functions=()):
    """An ONNX file of nodes; `constants` are arrays by name."""
    weights = [numpy_helper.from_array(np.asarray(value), name) for name, value in dict(constants).items()]
    graph = helper.make_graph(nodes, "graph", takes, gives, weights)
    opsets = [helper.make_opsetid("", 17), *([helper.make_opsetid("own", 1)] if functions else [])]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8, functions=list(functions)), path)
    return path


def classifier(path, between, constants=(), functions=()):
    """A bundle's model: `between` are nodes from `mean` (N, 1), the mean pixel, to `logits` (N, 3)."""
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", "height", "width", 1])
    probabilities = helper.make_tensor_value_info("probabilities", FLOAT, ["batch", 3])
    nodes = [
        helper.make_node("Cast", ["images"], ["float"], to=FLOAT),
        helper.make_node("ReduceMean", ["float"], ["mean"], axes=[1, 2], keepdims=0),
        *between,
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    return save(path, nodes, [images], [probabilities], constants, functions)


def put_into(bundle: Path, model: Path, **changes):
    """Make a model, whatever its name, the one that a bundle's description names, with its digest."""
    files = {"model.onnx": sha256_file(model)} | changes.pop("files", {})
    if model != bundle / "model.onnx":
        (bundle / "model.onnx").write_bytes(model.read_bytes())
    write_json(bundle / "bundle.json", read_json(bundle / "bundle.json") | {"files": files} | changes)
    return bundle


def endless(count=2**62):
    """Nodes from `x` to `y` (any shape) that go round `count` times, and their constants."""
    flag, trip = (helper.make_tensor_value_info(name, kind, []) for name, kind in (("on", 9), ("trip", 7)))
    inner, outer = (helper.make_tensor_value_info(name, FLOAT, None) for name in ("inner", "outer"))
    again = helper.make_tensor_value_info("again", 9, [])
    body = [helper.make_node("Identity", ["on"], ["again"]), helper.make_node("Sin", ["inner"], ["outer"])]
    loop = helper.make_graph(body, "body", [trip, flag, inner], [again, outer])
    return [helper.make_node("Loop", ["count", "true", "x"], ["y"], body=loop)], {
        "count": np.int64(count),
        "true": np.bool_(True),
    }


def apart(model: Path, name: str):
    """Move the first weights of a model into a file beside it."""
    loaded = onnx.load(model)
    weights = loaded.graph.initializer[0]
    model.with_name(name).write_bytes(weights.raw_data)
    length = len(weights.raw_data)
    weights.ClearField("raw_data")
    weights.data_location = TensorProto.EXTERNAL
    for key, value in (("location", name), ("offset", "0"), ("length", str(length))):
        entry = weights.external_data.add()
        entry.key, entry.value = key, value
    model.write_bytes(loaded.SerializeToString())
