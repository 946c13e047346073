"""A network with several outputs for each window: probabilities, offsets of boxes, and an embedding."""

from collections.abc import Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from support.written_graphs import node

SIDE, STRIDE = 16, 4
"""The window, and the native stride, in pixels."""
OUTPUTS = {"prob": 3, "boxes": 4, "embedding": 6}
"""Number of values of each output."""


def detector(pad: int = 1) -> onnx.ModelProto:
    """Return the network, whose convolutions pad `pad` pixels: 1, or 0 for a network whose dense scores are exact."""
    rng = np.random.default_rng(7)
    cells = 6 * (4 if pad else 3) ** 2
    shapes = {"k1": (5, 3, 3, 3), "k2": (6, 5, 3, 3), "w": (cells, 6), "wb": (cells, 4), "wp": (6, 3)}
    constants = {name: rng.standard_normal(shape) / fan_in(shape) for name, shape in shapes.items()}
    constants["scale"] = np.array(1 / 64)
    nodes = [
        node("Mul: image scale -> small"),
        node("Conv: small k1 -> c1", pads=[pad] * 4, strides=[2, 2]),
        node("Relu: c1 -> r1"),
        node("Conv: r1 k2 -> c2", pads=[pad] * 4, strides=[2, 2]),
        node("Relu: c2 -> r2"),
        node("Flatten: r2 -> f"),
        node("MatMul: f w -> e"),
        node("Tanh: e -> embedding"),
        node("MatMul: embedding wp -> logits"),
        node("Softmax: logits -> prob", axis=1),
        node("MatMul: f wb -> boxes"),
    ]
    proto = helper.make_graph(
        nodes,
        "detector",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", values]) for name, values in OUTPUTS.items()],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in constants.items()],
    )
    return helper.make_model(proto, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def fan_in(shape: tuple[int, ...]) -> float:
    """Return the square root of the number of inputs of a layer with weights of this shape."""
    return float(np.sqrt(np.prod(shape[1:]) if len(shape) == 4 else shape[0]))


def windows_of(
    network: onnx.ModelProto, pixels: NDArray[np.uint8], names: Sequence[str], stride: int = STRIDE
) -> list[NDArray[np.float32]]:
    """Return outputs of the network for every window of an image, (rows, cols, values) each."""
    crops = np.lib.stride_tricks.sliding_window_view(pixels, (SIDE, SIDE), (0, 1))[::stride, ::stride]
    rows, cols = crops.shape[:2]
    batch = crops.reshape(rows * cols, 3, SIDE, SIDE).astype(np.float32)
    outputs = ReferenceEvaluator(network).run(list(names), {"image": batch})
    return [np.asarray(output).reshape(rows, cols, -1) for output in outputs]
