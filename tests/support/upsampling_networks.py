"""Networks of a few layers that enlarge maps, written as ONNX graphs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from support.conversion import SILENT
from support.written_graphs import node

from converter import convert as conversion
from converter.sources.read import read_source
from fullconv.protos import model_pb2

RNG = np.random.default_rng(0)
Nodes = Sequence[str | onnx.NodeProto]
CONSTANTS = {
    "k3": RNG.standard_normal((4, 3, 3, 3)) / 4,
    "k4": RNG.standard_normal((4, 4, 3, 3)) / 6,
    "t2": RNG.standard_normal((4, 4, 2, 2)) / 3,
    "t3": RNG.standard_normal((4, 4, 3, 3)) / 4,
    "t4": RNG.standard_normal((4, 4, 4, 4)) / 5,
    "groups": RNG.standard_normal((4, 2, 2, 2)) / 2,
    "w4": RNG.standard_normal((4, 5)) / 2,
    "double": np.array([1, 1, 2, 2.0]),
    "double_rows": np.array([1, 1, 2, 1.0]),
    "half": np.array([1, 1, 0.5, 0.5]),
    "spatial": np.array([2, 2.0]),
    "eight": np.array([1, 4, 8, 8]),
    "ten": np.array([1, 4, 10, 10]),
    "part": np.array([0, 0, 0, 0, 1, 1, 1, 1.0]),
    "t1": RNG.standard_normal((4, 4, 1, 1)),
    "k1": RNG.standard_normal((4, 1, 3, 3)),
    "k2": RNG.standard_normal((4, 2, 3, 3)) / 2,
    "n1": RNG.standard_normal((1, 4, 1, 1)) / 2,
    "n4": RNG.standard_normal((4, 1, 1, 1)),
    "n16": RNG.standard_normal((16, 4, 1, 1)) / 2,
    "n48": RNG.standard_normal((48, 3, 1, 1)),
    "columns": np.array([1, 1, 4, 4, 4]),
    "wide": np.array([1, 1, 4, 16]),
    "factor": np.full((1, 1, 1, 1), 1.5),
    "blocks": np.array([1, 1, 2, 2, 4, 4]),
    "shuffled": np.array([1, 1, 8, 8]),
}


def graph(nodes: Nodes, *, opset: int = 19) -> onnx.ModelProto:
    """Return a classifier of 3×20×20 windows; its last map is m, whose average has 4 features."""
    head = [node("GlobalAveragePool: m -> g"), node("Flatten: g -> f"), node("MatMul: f w4 -> y")]
    proto = helper.make_graph(
        [*(each if isinstance(each, onnx.NodeProto) else node(each) for each in nodes), *head],
        "net",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 20, 20])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, None])],
        [
            numpy_helper.from_array(array.astype(np.float32 if array.dtype.kind == "f" else np.int64), name)
            for name, array in CONSTANTS.items()
        ],
    )
    return helper.make_model(proto, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def convert(proto: onnx.ModelProto, folder: Path, *strides: int, **options: Any) -> model_pb2.ModelSpec:
    """Convert a network that takes pixels from 0 to 1."""
    onnx.save(proto, folder / "net.onnx")
    request = conversion.Request(folder / "net" / "1", windows=4, preprocess="unit", strides=strides, **options)
    return conversion.convert(read_source(folder / "net.onnx", arch=None, window=None), request, SILENT).spec


TRUNK: Nodes = [node("Conv: image k3 -> c", strides=[2, 2], pads=[0, 0, 1, 1]), "Relu: c -> x"]
"""Ten rows and columns, 2 pixels apart; the last ones read padding."""
UNPADDED: Nodes = [node("MaxPool: image -> p", kernel_shape=[2, 2], strides=[2, 2]), node("Conv: p k3 -> x")]
"""Eight rows and columns, 2 pixels apart."""
SMALLER = node("MaxPool: x -> s", kernel_shape=[2, 2], strides=[2, 2])
SHUFFLE = node("DepthToSpace: s -> r", blocksize=2, mode="CRD")
