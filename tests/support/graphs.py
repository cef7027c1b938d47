"""Small ONNX graphs, written by hand: classifiers of grey pictures, honest and otherwise."""

import math
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ferdistill.files import read_json, sha256_file, write_json

FLOAT = TensorProto.FLOAT
LOG_2, LOG_3 = math.log(2), math.log(3)


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


def yunet(path, box=(0.5, 0.5, LOG_2, LOG_3)):
    """A network with YuNet's outputs that sees a face at every bright 32 x 32 cell, its eyes aslant."""
    nodes, constants, outputs = [], [], []
    eyes = [0.25, 0.4, 0.75, 0.6, 0.5, 0.6, 0.3, 0.8, 0.7, 0.8]
    heads = {"cls": [0.0], "obj": [1.0], "bbox": list(box), "kps": eyes}
    for stride in (8, 16, 32):
        pooled = f"pooled_{stride}"
        kernel = {"kernel_shape": [stride, stride], "strides": [stride, stride]}
        nodes.append(helper.make_node("AveragePool", ["input"], [pooled], **kernel))
        for name, bias in heads.items():
            weight = np.zeros((len(bias), 3, 1, 1), np.float32)
            weight[:] = 1 / 765 if name == "cls" and stride == 32 else 0
            names = [f"{name}_{stride}_{part}" for part in ("weight", "bias", "shape")]
            values = (weight, np.array(bias, np.float32), np.array([1, -1, len(bias)], np.int64))
            constants += [numpy_helper.from_array(value, key) for key, value in zip(names, values, strict=True)]
            here = f"{name}_{stride}"
            nodes += [
                helper.make_node("Conv", [pooled, *names[:2]], [here + "_map"]),
                helper.make_node("Transpose", [here + "_map"], [here + "_last"], perm=[0, 2, 3, 1]),
                helper.make_node("Reshape", [here + "_last", names[2]], [here]),
            ]
            cells = (320 // stride) ** 2
            outputs.append(helper.make_tensor_value_info(here, TensorProto.FLOAT, [1, cells, len(bias)]))
    source = helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, 320, 320])
    graph = helper.make_graph(nodes, "cells", [source], outputs, constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=8), path)
    return path
