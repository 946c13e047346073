"""Classifiers in ONNX that are written down as lines: "Conv: image k -> x"."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

RNG = np.random.default_rng(0)
CONSTANTS = {
    "k": RNG.standard_normal((4, 3, 1, 1)) / 2,
    "k3": RNG.standard_normal((4, 3, 3, 3)) / 4,
    "k4": RNG.standard_normal((4, 4, 3, 3)) / 6,
    "w": RNG.standard_normal((400, 5)) / 20,
    "w4": RNG.standard_normal((4, 5)) / 2,
    "w324": RNG.standard_normal((324, 5)) / 18,
    "b": RNG.standard_normal(5),
    "middle": np.array([4, 4]),
    "behind": np.array([5, 5]),
    "one": np.array([1, 1]),
    "nine": np.array([9, 9]),
    "space": np.array([2, 3]),
    "order": np.array([4, 3, 2, 0]),
    "border": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
    "negative": np.array([0, 0, 0, -1, 0, 0, 0, 0]),
    "cut": np.array([0, -1, 0, 0, 0, 0, 0, 0]),
}


def node(line: str, **attributes: Any) -> onnx.NodeProto:
    """Make a node, named like its first output, from a line like "Conv: image k -> x"; _ is an omitted input."""
    op, operands = line.split(": ")
    inputs, outputs = (part.split() for part in operands.split("->"))
    return helper.make_node(op, [name.strip("_") for name in inputs], outputs, outputs[0], **attributes)


def graph(nodes: Sequence[str | onnx.NodeProto], *shape: int) -> onnx.ModelProto:
    """Return a classifier; default window: 3×10×10."""
    constants = [
        numpy_helper.from_array(array.astype(np.float32 if array.dtype.kind == "f" else np.int64), name)
        for name, array in CONSTANTS.items()
    ]
    proto = helper.make_graph(
        [each if isinstance(each, onnx.NodeProto) else node(each) for each in nodes],
        "net",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape or [1, 3, 10, 10])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, None])],
        constants,
    )
    opsets = [helper.make_opsetid("", 19), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(proto, opset_imports=opsets, ir_version=9)
