"""Networks that other frameworks wrote, as ONNX, without these frameworks. Needs onnx, and h5py for Keras' files.

Every classifier takes `images`, float32 (N, channels, size, size), normalised, and gives `logits`: the softmax at its
end is left out.
"""

import base64
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ..errors import CheckError, UsageError

OPSET, IR_VERSION = 17, 8
Shape = Sequence[int | str]


class Graph:
    """An ONNX graph that grows by a node at a time. What it holds has its channels second."""

    def __init__(self) -> None:
        self._nodes: list[Any] = []
        self._constants: list[Any] = []

    def constant(self, values: np.ndarray) -> str:
        """Put an array in, and name it."""
        name = f"c{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Put an operator in, and name its output."""
        name = f"n{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def convolve(
        self, images: str, kernel: np.ndarray, bias: np.ndarray | None, stride: int, same: bool, depthwise: bool = False
    ) -> str:
        """A convolution by a kernel as TensorFlow has it: height, width, channels in, channels out.

        `same` pads as TensorFlow's SAME does, else there is no padding. A `depthwise` kernel has each channel's
        multiplier last.
        """
        inputs = [images, self.constant(kernel.transpose((2, 3, 0, 1) if depthwise else (3, 2, 0, 1)))]
        inputs += [] if bias is None else [self.constant(bias)]
        return self.node(
            "Conv",
            *inputs,
            group=kernel.shape[2] if depthwise else 1,
            strides=[stride, stride],
            auto_pad="SAME_UPPER" if same else "VALID",
        )

    def pool(self, images: str, size: int, stride: int, same: bool) -> str:
        """The maximum of each square of `size`."""
        pads = "SAME_UPPER" if same else "VALID"
        return self.node("MaxPool", images, kernel_shape=[size, size], strides=[stride, stride], auto_pad=pads)

    def pool_all(self, images: str) -> str:
        """The mean of each channel, (N, C)."""
        return self.node("Flatten", self.node("GlobalAveragePool", images))

    def finish(self, inputs: Mapping[str, Shape], outputs: Mapping[str, tuple[str, Shape]]) -> bytes:
        """The model file; `outputs` has by each name the node, and the shape, that it is to have.

        Raises CheckError if the graph does not give these shapes.
        """
        for name, (node, _) in outputs.items():
            self._nodes.append(helper.make_node("Identity", [node], [name]))
        shapes = {name: shape for name, (_, shape) in outputs.items()}
        takes, gives = (
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape)) for name, shape in tensors.items()]
            for tensors in (inputs, shapes)
        )
        graph = helper.make_graph(self._nodes, "converted", takes, gives, self._constants)
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="ferdistill"
        )
        try:
            onnx.checker.check_model(onnx.shape_inference.infer_shapes(model, strict_mode=True), full_check=True)
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
            raise CheckError(
                f"a network does not fit its description: {str(error).strip().splitlines()[-1]}",
                expected=", ".join(f"{name} of shape {tuple(shape)}" for name, shape in shapes.items()),
                hint="it has other classes, or another size, than faces/public.py says",
            ) from None
        return bytes(model.SerializeToString(deterministic=True))


Converter = Callable[[Sequence[bytes], int, int, int], bytes]  # of files, classes, channels and size; gives ONNX


def _classifier(graph: Graph, logits: str, classes: int, channels: int, size: int) -> bytes:
    return graph.finish({"images": ["n", channels, size, size]}, {"logits": (logits, ["n", classes])})


def unknown_layer(kind: str, source: str) -> CheckError:
    """The error of a layer that no converter here has met."""
    return CheckError(f"a network holds a layer that is not known here: {kind}", where=source)


def from_keras(files: Sequence[bytes], classes: int, channels: int, size: int) -> bytes:
    """A network of convolutions that Keras 2 wrote as HDF5: one file."""
    try:
        import h5py
    except ImportError:
        raise UsageError(
            "h5py is not here, and Keras' files need it", expected="h5py", hint="pip install 'ferdistill[public]'"
        ) from None
    graph, made = Graph(), dict[str, str]()
    with h5py.File(io.BytesIO(files[0])) as file:
        layers = json.loads(file.attrs["model_config"])["config"]["layers"]
        for layer in layers:
            name, kind, config = layer["name"], layer["class_name"], layer["config"]
            stored = file["model_weights"][name]
            weights = [np.array(stored[key]) for key in stored.attrs["weight_names"]]
            inputs = [made[inbound[0]] for inbound in layer["inbound_nodes"][0]] if layer["inbound_nodes"] else []
            same = config.get("padding") == "same"
            stride = config.get("strides", [1])[0]
            bias = weights[-1] if config.get("use_bias") else None
            if kind == "InputLayer":
                made[name] = "images"
            elif kind == "Conv2D":
                made[name] = graph.convolve(inputs[0], weights[0], bias, stride, same)
            elif kind == "SeparableConv2D":
                inner = graph.convolve(inputs[0], weights[0], None, stride, same, depthwise=True)
                made[name] = graph.convolve(inner, weights[1], bias, 1, same)
            elif kind == "BatchNormalization":
                named = [graph.constant(values) for values in weights]
                made[name] = graph.node("BatchNormalization", inputs[0], *named, epsilon=config["epsilon"])
            elif kind == "MaxPooling2D":
                made[name] = graph.pool(inputs[0], config["pool_size"][0], stride, same)
            elif kind == "Add":
                made[name] = graph.node("Add", *inputs)
            elif kind == "GlobalAveragePooling2D":
                made[name] = graph.pool_all(inputs[0])
            elif kind == "Activation" and config["activation"] == "relu":
                made[name] = graph.node("Relu", inputs[0])
            elif kind == "Activation" and config["activation"] == "softmax" and layer is layers[-1]:
                made[name] = inputs[0]
            else:
                raise unknown_layer(kind, name)
    return _classifier(graph, made[layers[-1]["name"]], classes, channels, size)


def from_tensorflow_js(files: Sequence[bytes], classes: int, channels: int, size: int) -> bytes:
    """A network of convolutions that TensorFlow.js wrote as a graph: its JSON and its weights."""
    model = json.loads(files[0])
    weights = _weights(model["weightsManifest"][0]["weights"], files[1])
    graph, made = Graph(), dict[str, str]()
    nodes = {node["name"]: node for node in model["modelTopology"]["node"]}

    def build(name: str) -> str:
        if name not in made:
            made[name] = add(nodes[name])
        return made[name]

    def add(node: dict[str, Any]) -> str:
        names = [each.partition(":")[0] for each in node.get("input", []) if not each.startswith("^")]
        of, kind = node.get("attr", {}), node["op"]
        stride = int(of["strides"]["list"]["i"][1]) if "strides" in of else 1
        same = "padding" in of and _word(of["padding"]["s"]) == "SAME"
        fused = [_word(each) for each in of.get("fused_ops", {}).get("list", {}).get("s", [])]
        if kind == "Placeholder":
            return "images"
        if kind in ("_FusedConv2D", "DepthwiseConv2dNative") and set(fused) <= {"BiasAdd", "Relu"}:
            bias = weights[names[2]] if "BiasAdd" in fused else None
            depthwise = kind == "DepthwiseConv2dNative"
            made_here = graph.convolve(build(names[0]), weights[names[1]], bias, stride, same, depthwise)
            return graph.node("Relu", made_here) if "Relu" in fused else made_here
        if kind == "MaxPool":
            return graph.pool(build(names[0]), int(of["ksize"]["list"]["i"][1]), stride, same)
        if kind == "AddV2":
            return graph.node("Add", *map(build, names))
        if kind == "Relu":
            return graph.node("Relu", build(names[0]))
        if kind == "Mean":
            return graph.pool_all(build(names[0]))
        if kind in ("Softmax", "Identity"):  # the former is the last but one
            return build(names[0])
        raise unknown_layer(kind, node["name"])

    return _classifier(graph, build("Identity"), classes, channels, size)


def from_face_api(files: Sequence[bytes], classes: int, channels: int, size: int) -> bytes:
    """The expression network of face-api, whose layers stand in its code alone: manifest and weights.

    Four densely connected blocks of separable convolutions, each of which halves the picture, then one linear layer.
    """
    weights = _weights(json.loads(files[0])[0]["weights"], files[1])
    graph = Graph()

    def convolve(images: str, layer: str, stride: int) -> str:
        bias = weights[f"{layer}/bias"]
        if f"{layer}/filters" in weights:
            return graph.convolve(images, weights[f"{layer}/filters"], bias, stride, same=True)
        inner = graph.convolve(images, weights[f"{layer}/depthwise_filter"], None, stride, same=True, depthwise=True)
        return graph.convolve(inner, weights[f"{layer}/pointwise_filter"], bias, 1, same=True)

    images = "images"
    for block in range(4):
        total = images = graph.node("Relu", convolve(images, f"dense{block}/conv0", 2))
        for layer in (1, 2, 3):
            total = graph.node("Add", total, convolve(images, f"dense{block}/conv{layer}", 1))
            images = graph.node("Relu", total)
    linear = [graph.constant(weights[f"fc/{part}"]) for part in ("weights", "bias")]
    return _classifier(graph, graph.node("Gemm", graph.pool_all(images), *linear), classes, channels, size)


def _word(encoded: str) -> str:
    return base64.b64decode(encoded).decode()


def _weights(manifest: list[dict[str, Any]], stored: bytes) -> dict[str, np.ndarray]:
    """The arrays of TensorFlow.js' one file of weights, by name: float32, or linear in whole numbers of fewer bits."""
    weights, offset = {}, 0
    for entry in manifest:
        quantised = entry.get("quantization", {})
        kind = np.dtype(quantised.get("dtype", entry["dtype"]))
        values = np.frombuffer(stored, kind, math.prod(entry["shape"]), offset).reshape(entry["shape"])
        offset += values.nbytes
        if "scale" in quantised:
            values = values.astype(np.float32) * np.float32(quantised["scale"]) + np.float32(quantised["min"])
        weights[entry["name"]] = values
    if offset != len(stored):
        raise CheckError(f"a file of weights has {len(stored)} bytes", expected=f"{offset}, by its manifest")
    return weights
