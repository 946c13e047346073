"""Normalisations and activations along the channels, which are independent for each position of the map."""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from converter.graph.affine import AffineView, channels_at
from converter.graph.convolutionalizer import Convolutionalizer, Handler, keep_node
from converter.graph.nodes import add_constant, constant_input
from converter.graph.refusals import WHOLE_MAP_NORMALISATION, refusal

EPSILON = 1e-5  # the specification's default


def batch_norm(state: Convolutionalizer, node: ir.Node) -> Sequence[AffineView]:
    """Keep the BatchNormalization of a map; for features it becomes a factor and an offset per feature."""
    view = state.input_view(node)
    if view.is_identity:
        return keep_node(state, node)
    if view.is_selection and view.map.size[2:] == (1, 1):
        features, anchors = state.channels_of(node, view, [1])
        inputs = [features.value, *node.inputs[1:]]
        normalised = state.emit(node, node.op_type, inputs, features.size, **node.attributes)
        return [channels_at(normalised, anchors).from_rows(1, view.shape)]
    scale, bias, mean, variance = (constant_input(node, position).astype(np.float64) for position in range(1, 5))
    epsilon = node.attributes.get_float("epsilon", EPSILON)
    factor = scale / np.sqrt(variance + epsilon)
    shape = (-1, *[1] * (len(view.shape) - 2))
    return [view.scale_and_shift(factor.reshape(shape), (bias - mean * factor).reshape(shape))]


def layer_norm(state: Convolutionalizer, node: ir.Node) -> Sequence[AffineView]:
    """Convert a LayerNormalization over the channels of each position, between transposes to channels last and back."""
    view = state.input_view(node)
    axis = node.attributes.get_int("axis", -1)
    axes = range(axis % len(view.shape), len(view.shape))
    stencil = view.stencil(axes)
    if stencil is None or not stencil.is_pointwise:
        raise refusal(node, WHOLE_MAP_NORMALISATION)
    features, anchors = state.channels_of(node, view, axes)
    batch, channels, height, width = features.size
    last, parameters = (batch, height, width, channels), []
    for position in range(1, len(node.inputs)):
        parameter = constant_input(node, position).reshape(-1)
        parameters.append(add_constant(state.graph, f"{node.name}.{position}", parameter))
    attributes = {**node.attributes, "axis": ir.AttrInt64("axis", -1)}
    transposed = state.emit(node, "Transpose", [features.value], last, perm=[0, 2, 3, 1])
    normalised = state.emit(node, node.op_type, [transposed.value, *parameters], last, **attributes)
    back = state.emit(node, "Transpose", [normalised.value], features.size, perm=[0, 3, 1, 2])
    return [channels_at(back, anchors).reshape(view.shape)]


def softmax(state: Convolutionalizer, node: ir.Node) -> Sequence[AffineView]:
    """Convert Softmax and LogSoftmax over the channels of each position."""
    view = state.input_view(node)
    axis = node.attributes.get_int("axis", -1) % len(view.shape)
    stencil = view.stencil([axis])
    if stencil is None or not stencil.is_pointwise or len(stencil.channel) != view.map.size[1]:
        raise refusal(node, "expected softmax over the classes, got one that looks along the map")
    if view.is_identity:
        return keep_node(state, node)
    classes, anchors = state.channels_of(node, view, [axis])
    activated = state.emit(node, node.op_type, [classes.value], classes.size, axis=1)
    return [channels_at(activated, anchors).from_rows(axis, view.shape)]


HANDLERS: dict[str, Handler] = {
    "BatchNormalization": batch_norm,
    "LayerNormalization": layer_norm,
    "LogSoftmax": softmax,
    "Softmax": softmax,
}
