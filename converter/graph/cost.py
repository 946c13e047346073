"""Counts the cost of a network in multiply-adds and bytes, not in time.

A value with stride s along an axis has a number of elements for one window, and S/s more elements for every S pixels by
which the image is larger, where S is the native stride; per pixel of a large image these are 1/s elements.
"""

import math
from collections.abc import Mapping

import onnx_ir as ir

from converter.graph.geometry import Geometry2D, geometries, output_geometry
from converter.graph.nodes import conv_weights, ints
from fullconv.protos import model_pb2

FLOAT_BYTES = 4

Shapes = Mapping[str, tuple[int, ...]]


def dense_cost(graph: ir.Graph, native: Geometry2D, shapes: Shapes, window: tuple[int, int]) -> model_pb2.Cost:
    """Return the multiply-adds for one window, those for each additional native stride, and the peak activations.

    `native` is the geometry at the native stride. `shapes` are the values' shapes for one window at that stride, by
    name; values without a shape do not count as activations.
    """
    known = geometries(graph, window)
    grids = output_geometry(known, graph)
    per_window = per_row = per_column = per_cell = alive = 0.0
    for node in graph:
        alive = max(alive, sum(_bytes_per_pixel(value, known, shapes) for value in [*node.inputs, *node.outputs]))
        counted = counted_value(node)
        if counted is not None and counted in known:
            each, own = math.prod(conv_weights(node).shape.numpy()), known[counted]
            rows, cols = own.output_size(window)
            more_rows, more_cols = (whole.stride / axis.stride for whole, axis in zip(native, own, strict=True))
            per_window += each * rows * cols
            per_row += each * more_rows * cols
            per_column += each * rows * more_cols
            per_cell += each * more_rows * more_cols
    return model_pb2.Cost(
        stride=model_pb2.Size(height=grids.vertical.stride, width=grids.horizontal.stride),
        multiply_adds_per_cell=per_cell,
        multiply_adds_per_crop=per_window,
        activation_bytes_per_pixel=alive,
        multiply_adds_per_window=per_window,
        multiply_adds_per_row=per_row,
        multiply_adds_per_column=per_column,
    )


def counted_value(node: ir.Node) -> ir.Value | None:
    """Return the value of a convolution each of whose positions costs as many multiply-adds as it has weights.

    That is the output, or the input of a ConvTranspose. Return None for another operator.
    """
    match node.op_type:
        case "Conv":
            return node.outputs[0]
        case "ConvTranspose":
            return node.inputs[0]
        case _:
            return None


def crop_cost(graph: ir.Graph, geometry: Geometry2D, shapes: Shapes, window: tuple[int, int]) -> model_pb2.Cost:
    """Return the cost of a network that runs window by window, so that each cell costs a whole window."""
    per_crop = alive = 0.0
    for node in graph:
        taken = [shapes.get(str(value.name), ()) for value in (*node.inputs, *node.outputs) if value is not None]
        alive = max(alive, sum(math.prod(shape) * FLOAT_BYTES for shape in taken if shape))
        per_crop += _multiply_adds(node, shapes)
    batch = shapes[str(graph.inputs[0].name)][0]
    return model_pb2.Cost(
        stride=model_pb2.Size(height=geometry.vertical.stride, width=geometry.horizontal.stride),
        multiply_adds_per_cell=per_crop / batch,
        multiply_adds_per_crop=per_crop / batch,
        activation_bytes_per_pixel=alive / batch / math.prod(window),
    )


def _multiply_adds(node: ir.Node, shapes: Shapes) -> float:
    """Return the multiply-adds of a node for one batch of windows."""
    counted = counted_value(node)
    if counted is not None:
        shape, weights = shapes.get(str(counted.name)), node.inputs[1].const_value if node.inputs[1] else None
        return math.prod(shape) * math.prod(weights.shape.numpy()[1:]) if shape and weights is not None else 0.0
    if node.op_type not in ("Gemm", "MatMul") or str(node.outputs[0].name) not in shapes:
        return 0.0
    output = shapes[str(node.outputs[0].name)]
    source = node.inputs[0]
    taken = source.const_value.shape.numpy() if source is not None and source.const_value is not None else None
    taken = shapes.get(str(source.name), ()) if taken is None and source is not None else taken
    return float(math.prod(output)) * (taken[-1] if taken else 1)


def _bytes_per_pixel(value: ir.Value | None, known: Mapping[ir.Value, Geometry2D], shapes: Shapes) -> float:
    """Return the bytes of a value for each pixel of a large image; 0 if it does not grow with the image."""
    if value is None or value not in known or str(value.name) not in shapes:
        return 0.0
    channels = shapes[str(value.name)][-1 if _is_channels_last(value) else 1]
    return channels * FLOAT_BYTES * (1 / (known[value].vertical.stride * known[value].horizontal.stride))


def _is_channels_last(value: ir.Value) -> bool:
    """Return whether a Transpose makes a value (N, h, w, C), or one of its users transposes it back."""
    producer = value.producer()
    is_transposed = producer is not None and _permutation(producer) == [0, 2, 3, 1]
    return is_transposed or any(_permutation(use.node) == [0, 3, 1, 2] for use in value.uses())


def _permutation(node: ir.Node) -> list[int]:
    return ints(node, "perm", []) if node.op_type == "Transpose" else []
