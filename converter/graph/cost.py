"""What a network costs: counts, not times.

A value with native stride s along an axis has S/s elements for each cell of the scores, which have stride S, and 1/s
for each pixel of the image; a crop has what one window gives.
"""

import math
from collections.abc import Mapping

import onnx_ir as ir

from converter.graph.geometry import Plane
from protos import model_pb2

FLOAT_BYTES = 4

Shapes = Mapping[ir.Value, tuple[int, ...]]


def cost(graph: ir.Graph, planes: Mapping[ir.Value, Plane], shapes: Shapes) -> model_pb2.Cost:
    """Multiply-adds for a cell and for a crop, and the activations alive at the worst node."""
    vertical, horizontal = planes[graph.outputs[0]]
    per_cell = per_crop = alive = 0.0
    for node in graph:
        alive = max(alive, sum(_bytes_per_pixel(value, planes, shapes) for value in [*node.inputs, *node.outputs]))
        if node.op_type == "Conv":
            output = node.outputs[0]
            each = _multiply_adds_per_position(node)
            per_crop += each * math.prod(shapes[output][2:])
            per_cell += each * vertical.stride * horizontal.stride * _density(planes[output])
    return model_pb2.Cost(
        stride=model_pb2.Size(height=vertical.stride, width=horizontal.stride),
        multiply_adds_per_cell=per_cell,
        multiply_adds_per_crop=per_crop,
        activation_bytes_per_pixel=alive,
    )


def _multiply_adds_per_position(conv: ir.Node) -> int:
    weights = conv.inputs[1]
    assert weights is not None  # noqa: S101 (geometry has refused computed weights)
    assert weights.const_value is not None  # noqa: S101
    return math.prod(weights.const_value.shape.numpy())


def _density(plane: Plane) -> float:
    """Elements for each pixel of the image."""
    return 1 / (plane[0].stride * plane[1].stride)


def _bytes_per_pixel(value: ir.Value | None, planes: Mapping[ir.Value, Plane], shapes: Shapes) -> float:
    if value is None or value not in planes:
        return 0.0
    channels = shapes[value][-1 if _is_channels_last(value) else 1]
    return channels * FLOAT_BYTES * _density(planes[value])


def _is_channels_last(value: ir.Value) -> bool:
    """Whether this goes into or comes out of a normalisation of its last axis."""
    nodes = [value.producer(), *(use.node for use in value.uses())]
    return any(node is not None and node.op_type == "LayerNormalization" for node in nodes)
