"""Fully connected layers in all forms that operators allow, for `make_built.py`; batch 1, no padding."""

from collections.abc import Callable

import numpy as np
import onnx
from built_graph import Graph

Layer = Callable[[Graph, str], str]

FEATURES = 120


def network(layer: Layer, opset: int = 17, *, flatten: bool = True) -> onnx.ModelProto:
    """Return an unpadded trunk with a map of 6×4×5, followed by the layer, which gives five scores."""
    graph = Graph(opset, (1, 3, 22, 26))
    value = graph.pool(graph.relu(graph.conv("data_0", (4, 3, 3, 3))), 2, 2)
    value = graph.pool(graph.relu(graph.conv(value, (6, 4, 3, 3))), 2, 2)
    value = graph.add("Flatten", value) if flatten else value
    return graph.model(layer(graph, value), (1, 5), "onnx.helper")


def matmul_left(graph: Graph, value: str) -> str:
    """The weights on the left of a column."""
    column = graph.add("Transpose", value, perm=[1, 0])
    column = graph.add("MatMul", graph.weight(5, FEATURES), column)
    return graph.add("Transpose", graph.add("Add", column, graph.uniform(-0.2, 0.3, 5, 1)), perm=[1, 0])


def matmul_column(graph: Graph, value: str) -> str:
    """The weights on the left of a column that a Reshape makes."""
    column = graph.add("MatMul", graph.weight(5, FEATURES), graph.reshape(value, FEATURES, 1))
    return graph.reshape(column, 1, 5)


def matmul_axes(graph: Graph, value: str) -> str:
    """A vector with a further axis, as (1, 1, features)."""
    row = graph.add("MatMul", graph.reshape(value, 1, 1, FEATURES), graph.weight(FEATURES, 5, fan_in=FEATURES))
    return graph.reshape(row, 1, 5)


def gemm_trans_a(graph: Graph, value: str) -> str:
    """A column as the first operand, transposed back; factors on both terms."""
    column = graph.add("Transpose", value, perm=[1, 0])
    weights, bias = graph.weight(FEATURES, 5, fan_in=FEATURES), graph.uniform(-0.2, 0.3, 5)
    return graph.add("Gemm", column, weights, bias, transA=1, alpha=0.5, beta=2.0)


def gemm_left(graph: Graph, value: str) -> str:
    """The weights as the first operand."""
    column = graph.add("Gemm", graph.weight(5, FEATURES), value, transB=1)
    return graph.add("Transpose", column, perm=[1, 0])


def gemm_left_trans_a(graph: Graph, value: str) -> str:
    """The weights as the first operand, transposed."""
    weights, bias = graph.weight(FEATURES, 5, fan_in=FEATURES), graph.uniform(-0.2, 0.3, 5, 1)
    column = graph.add("Gemm", weights, value, bias, transA=1, transB=1, alpha=2.0, beta=0.5)
    return graph.add("Transpose", column, perm=[1, 0])


def gemm_scaled(graph: Graph, value: str) -> str:
    """A factor, and no bias."""
    return graph.add("Gemm", value, graph.weight(FEATURES, 5, fan_in=FEATURES), alpha=0.25)


def gemm_bias(*shape: int) -> Layer:
    """A bias of this shape."""
    return lambda graph, value: graph.add(
        *("Gemm", value, graph.weight(5, FEATURES), graph.uniform(-0.2, 0.3, *shape)), transB=1, beta=3.0
    )


def weights_by_nodes(graph: Graph, value: str) -> str:
    """Weights that other nodes make of constants."""
    halves = [graph.weight(5, 12, 5, fan_in=FEATURES) for _ in range(2)]
    joined = graph.add("Concat", *halves, axis=1)
    weights = graph.add("Transpose", graph.reshape(joined, 5, FEATURES), perm=[1, 0])
    return graph.add("MatMul", value, graph.add("Mul", weights, graph.constant(np.array(0.5, np.float32))))


def einsum(graph: Graph, value: str) -> str:
    """The whole layer in one operator, from the map."""
    return graph.add("Einsum", value, graph.weight(5, 6, 4, 5), equation="nchw,ochw->no")


def einsum_pixels(graph: Graph, value: str) -> str:
    """A layer at every position, its weights on the left, then one of the map; axes in other orders."""
    last = graph.relu(graph.add("Einsum", graph.weight(8, 6), value, equation="oc, nchw -> nhwo"))
    column = graph.add("Einsum", last, graph.weight(4, 5, 8, 5, fan_in=160), equation="nhwo,hwok->kn")
    return graph.add("Transpose", column, perm=[1, 0])


def cropped_last(graph: Graph, value: str) -> str:
    """Channels last: a crop of the map beside a convolution of it, then transposed back."""
    starts, ends, axes = (graph.constant(np.array(numbers)) for numbers in ((2, 1), (4, 4), (1, 2)))
    part = graph.add("Slice", graph.add("Transpose", value, perm=[0, 2, 3, 1]), starts, ends, axes)
    beside = graph.add("Transpose", graph.conv(value, (4, 6, 3, 3)), perm=[0, 2, 3, 1])
    first = graph.add("Transpose", graph.add("Concat", part, beside, axis=3), perm=[0, 3, 1, 2])
    return graph.gemm(graph.add("Flatten", first), 60, 5)


def flatten_axis0(graph: Graph, value: str) -> str:
    """Flatten before axis 0: one row for any batch."""
    return graph.gemm(graph.add("Flatten", value, axis=0), FEATURES, 5)


def flatten_axis2(graph: Graph, value: str) -> str:
    """Flatten before axis 2, then the channels as well."""
    return graph.gemm(graph.reshape(graph.add("Flatten", value, axis=2), 1, FEATURES), FEATURES, 5)


def squeezed_map(graph: Graph, value: str) -> str:
    """A convolution over the whole map, whose axes of 1 are squeezed away."""
    return graph.add("Squeeze", graph.conv(value, (5, 6, 4, 5)), graph.constant(np.array([2, 3])))


NETWORKS: dict[str, Callable[[], onnx.ModelProto]] = {
    "matmul_left": lambda: network(matmul_left),
    "matmul_column": lambda: network(matmul_column),
    "matmul_axes": lambda: network(matmul_axes),
    "gemm_trans_a": lambda: network(gemm_trans_a),
    "gemm_left": lambda: network(gemm_left),
    "gemm_left_trans_a": lambda: network(gemm_left_trans_a),
    "gemm_scaled": lambda: network(gemm_scaled),
    "gemm_bias_row": lambda: network(gemm_bias(1, 5)),
    "gemm_bias_one": lambda: network(gemm_bias(1)),
    "gemm_bias_scalar": lambda: network(gemm_bias()),
    "weights_by_nodes": lambda: network(weights_by_nodes),
    "einsum": lambda: network(einsum, flatten=False),
    "einsum_pixels": lambda: network(einsum_pixels, flatten=False),
    "cropped_last": lambda: network(cropped_last, flatten=False),
    "flatten_axis0": lambda: network(flatten_axis0, flatten=False),
    "flatten_axis2": lambda: network(flatten_axis2, flatten=False),
    "squeezed_map": lambda: network(squeezed_map, flatten=False),
}
