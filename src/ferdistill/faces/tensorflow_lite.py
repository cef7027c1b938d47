"""A network of convolutions that TensorFlow Lite wrote, as ONNX, without TensorFlow. Needs tflite and onnx.

Weights of 16 bits become those of 32, and sparse ones dense. What it holds is the flatbuffer of the schema of
TensorFlow Lite, which the package `tflite` reads.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..errors import CheckError, UsageError
from .conversion import Graph, unknown_layer

FLOATS = {0: np.dtype(np.float32), 1: np.dtype(np.float16), 2: np.dtype(np.int32)}  # TensorType
SEGMENTS = {1: "Int32Vector", 2: "Uint16Vector", 3: "Uint8Vector"}  # SparseIndexVector
SAME, RELU, SPARSE = 0, 1, 1  # Padding, ActivationFunctionType, DimensionType


def from_tensorflow_lite(file: bytes, names: Mapping[int, str]) -> bytes:
    """ONNX that takes `images`, float32 (N, C, H, W), and gives an array (N, A, D) by each of its last sides, D.

    `names` has the name of each output by D.
    """
    try:
        import tflite
    except ImportError:
        raise UsageError(
            "tflite is not here, and TensorFlow Lite's files need it",
            expected="tflite",
            hint="pip install 'ferdistill[public]'",
        ) from None
    model = tflite.Model.GetRootAs(file, 0)
    network = model.Subgraphs(0)
    kinds = {code: name for name, code in vars(tflite.BuiltinOperator).items() if not name.startswith("_")}
    graph = Graph()
    made = {int(network.Inputs(0)): "images"}
    arrays: dict[int, np.ndarray] = {}  # what is known before any image is

    def held(number: int) -> np.ndarray:
        if number not in arrays:
            arrays[number] = _array(tflite, model, network.Tensors(number))
        return arrays[number]

    def options(operator: Any, kind: str) -> Any:
        found, table = getattr(tflite, kind)(), operator.BuiltinOptions()
        found.Init(table.Bytes, table.Pos)
        return found

    def convolve(operator: Any, kind: str) -> str:
        of = options(operator, kind)
        depthwise = kind == "DepthwiseConv2DOptions"
        kernel = held(operator.Inputs(1))
        # To height, width, channels in and out from (1, H, W, C), or from (out, H, W, in).
        kernel = kernel.transpose(1, 2, 3, 0)
        images, bias = made[operator.Inputs(0)], held(operator.Inputs(2))
        same, stride = of.Padding() == SAME, of.StrideW()
        return activate(graph.convolve(images, kernel, bias, stride, same, depthwise), of)

    def activate(node: str, of: Any) -> str:
        return graph.node("Relu", node) if of.FusedActivationFunction() == RELU else node

    for place in range(network.OperatorsLength()):
        operator = network.Operators(place)
        code = model.OperatorCodes(operator.OpcodeIndex())
        kind = kinds[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())]
        first, output = operator.Inputs(0), operator.Outputs(0)
        if kind in ("DEQUANTIZE", "DENSIFY"):
            arrays[output] = held(first).astype(np.float32)
        elif kind == "CONV_2D":
            made[output] = convolve(operator, "Conv2DOptions")
        elif kind == "DEPTHWISE_CONV_2D":
            made[output] = convolve(operator, "DepthwiseConv2DOptions")
        elif kind == "ADD":
            both = graph.node("Add", made[first], made[operator.Inputs(1)])
            made[output] = activate(both, options(operator, "AddOptions"))
        elif kind == "PAD":
            before, after = held(operator.Inputs(1))[[0, 3, 1, 2]].T.astype(np.int64)
            made[output] = graph.node("Pad", made[first], graph.constant(np.concatenate([before, after])))
        elif kind == "RESIZE_BILINEAR" and options(operator, "ResizeBilinearOptions").HalfPixelCenters():
            scales = held(operator.Inputs(1)) / network.Tensors(first).ShapeAsNumpy()[1:3]
            times = graph.constant(np.array([1, 1, *scales], np.float32))
            made[output] = graph.node("Resize", made[first], "", times, mode="linear")
        elif kind == "DEPTH_TO_SPACE":
            block = options(operator, "DepthToSpaceOptions").BlockSize()
            made[output] = graph.node("DepthToSpace", made[first], blocksize=block)
        elif kind == "RESHAPE":
            shape = graph.constant(np.array([0, -1, network.Tensors(output).Shape(2)]))
            made[output] = graph.node("Reshape", graph.node("Transpose", made[first], perm=[0, 2, 3, 1]), shape)
        else:
            raise unknown_layer(kind, f"operator {place}")
    outputs = {}
    for number in network.OutputsAsNumpy().tolist():
        _, count, side = network.Tensors(number).ShapeAsNumpy().tolist()
        outputs[names[side]] = (made[number], ["n", count, side])
    _, height, width, channels = network.Tensors(network.Inputs(0)).ShapeAsNumpy().tolist()
    return graph.finish({"images": ["n", channels, height, width]}, outputs)


def _array(tflite: Any, model: Any, tensor: Any) -> np.ndarray:
    """The values of a constant; of a sparse one, whose last side is compressed by rows, with its zeros."""
    stored = model.Buffers(tensor.Buffer())
    if tensor.Type() not in FLOATS or not stored.DataLength():
        raise CheckError(f"a network holds a constant of type {tensor.Type()}", where=tensor.Name().decode())
    shape = tensor.ShapeAsNumpy()
    values = stored.DataAsNumpy().view(FLOATS[tensor.Type()])
    sparsity = tensor.Sparsity()
    if sparsity is None:
        return values.reshape(shape)
    sides = [sparsity.DimMetadata(side) for side in range(sparsity.DimMetadataLength())]
    plain = list(range(len(shape)))
    formats = [side.Format() for side in sides]
    if sparsity.TraversalOrderAsNumpy().tolist() != plain or formats != [*[1 - SPARSE] * (len(plain) - 1), SPARSE]:
        raise CheckError("a network's weights are sparse in a way that is not known here", where=tensor.Name().decode())
    segments, columns = (
        _numbers(tflite, kind, table)
        for kind, table in (
            (sides[-1].ArraySegmentsType(), sides[-1].ArraySegments()),
            (sides[-1].ArrayIndicesType(), sides[-1].ArrayIndices()),
        )
    )
    dense = np.zeros((int(np.prod(shape[:-1])), shape[-1]), values.dtype)
    dense[np.repeat(np.arange(len(dense)), np.diff(segments)), columns] = values
    return dense.reshape(shape)


def _numbers(tflite: Any, kind: int, table: Any) -> np.ndarray:
    vector = getattr(tflite, SEGMENTS[kind])()
    vector.Init(table.Bytes, table.Pos)
    return np.asarray(vector.ValuesAsNumpy(), np.int64)
