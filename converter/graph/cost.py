"""What a network costs: counts, not times.

A value with stride s along an axis has as many elements as one window gives, and S/s more for every S pixels that the
image is larger, where S is the native stride; 1/s for each pixel of a large image.
"""

import math
from collections.abc import Mapping

import onnx_ir as ir

from converter.graph.geometry import Plane, elements, planes
from converter.graph.nodes import conv_weights, ints
from fullconv.protos import model_pb2

FLOAT_BYTES = 4

Shapes = Mapping[str, tuple[int, ...]]


def dense_cost(graph: ir.Graph, native: Plane, shapes: Shapes, window: tuple[int, int]) -> model_pb2.Cost:
    """Multiply-adds for a window and for what an image is larger, and the activations alive at the worst node.

    `shapes` are those for one window at the native stride, by name; the activations of what has none are not counted.
    """
    known = planes(graph)
    vertical, horizontal = known[graph.outputs[0]]
    per_window = per_row = per_column = per_cell = alive = 0.0
    for node in graph:
        alive = max(alive, sum(_bytes_per_pixel(value, known, shapes) for value in [*node.inputs, *node.outputs]))
        if node.op_type == "Conv" and node.outputs[0] in known:
            each, plane = _multiply_adds_per_position(node), known[node.outputs[0]]
            rows, cols = elements(plane, window)
            more_rows, more_cols = (whole.stride / axis.stride for whole, axis in zip(native, plane, strict=True))
            per_window += each * rows * cols
            per_row += each * more_rows * cols
            per_column += each * rows * more_cols
            per_cell += each * more_rows * more_cols
    return model_pb2.Cost(
        stride=model_pb2.Size(height=vertical.stride, width=horizontal.stride),
        multiply_adds_per_cell=per_cell,
        multiply_adds_per_crop=per_window,
        activation_bytes_per_pixel=alive,
        multiply_adds_per_window=per_window,
        multiply_adds_per_row=per_row,
        multiply_adds_per_column=per_column,
    )


def crop_cost(graph: ir.Graph, plane: Plane, shapes: Shapes, window: tuple[int, int]) -> model_pb2.Cost:
    """The same for a network that runs window by window: a cell costs a crop."""
    per_crop = alive = 0.0
    for node in graph:
        taken = [shapes.get(str(value.name), ()) for value in (*node.inputs, *node.outputs) if value is not None]
        alive = max(alive, sum(math.prod(shape) * FLOAT_BYTES for shape in taken if shape))
        per_crop += _multiply_adds(node, shapes)
    batch = shapes[str(graph.inputs[0].name)][0]
    return model_pb2.Cost(
        stride=model_pb2.Size(height=plane[0].stride, width=plane[1].stride),
        multiply_adds_per_cell=per_crop / batch,
        multiply_adds_per_crop=per_crop / batch,
        activation_bytes_per_pixel=alive / batch / math.prod(window),
    )


def _multiply_adds(node: ir.Node, shapes: Shapes) -> float:
    """Of a node on one batch of windows."""
    if node.op_type not in ("Conv", "Gemm", "MatMul") or str(node.outputs[0].name) not in shapes:
        return 0.0
    made = shapes[str(node.outputs[0].name)]
    if node.op_type == "Conv":
        weights = node.inputs[1].const_value if node.inputs[1] is not None else None
        return 0.0 if weights is None else math.prod(made) * math.prod(weights.shape.numpy()[1:])
    source = node.inputs[0]
    taken = source.const_value.shape.numpy() if source is not None and source.const_value is not None else None
    taken = shapes.get(str(source.name), ()) if taken is None and source is not None else taken
    return float(math.prod(made)) * (taken[-1] if taken else 1)


def _multiply_adds_per_position(conv: ir.Node) -> int:
    return math.prod(conv_weights(conv).shape.numpy())


def _density(plane: Plane) -> float:
    """Elements for each pixel of the image."""
    return 1 / (plane[0].stride * plane[1].stride)


def _bytes_per_pixel(value: ir.Value | None, known: Mapping[ir.Value, Plane], shapes: Shapes) -> float:
    if value is None or value not in known or str(value.name) not in shapes:
        return 0.0
    channels = shapes[str(value.name)][-1 if _is_channels_last(value) else 1]
    return channels * FLOAT_BYTES * _density(known[value])


def _is_channels_last(value: ir.Value) -> bool:
    """Whether a Transpose has put the channels there, or brings them back."""
    producer = value.producer()
    made = producer is not None and _order(producer) == [0, 2, 3, 1]
    return made or any(_order(use.node) == [0, 3, 1, 2] for use in value.uses())


def _order(node: ir.Node) -> list[int]:
    return ints(node, "perm", []) if node.op_type == "Transpose" else []
