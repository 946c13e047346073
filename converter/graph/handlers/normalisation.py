"""Normalisations and activations along the channels: at every position by itself."""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from converter.graph.affine import Form, channels_at
from converter.graph.convolutionalizer import Handler, Lifting, stays
from converter.graph.nodes import add_constant, constant_input
from converter.graph.refusals import WHOLE_MAP_NORMALISATION, refusal

EPSILON = 1e-5  # the specification's default


def batch_norm(lifting: Lifting, node: ir.Node) -> Sequence[Form]:
    """On a map it stays; on features it is a factor and a shift for each of them."""
    form = lifting.source(node)
    if form.whole:
        return stays(lifting, node)
    if form.pure and form.map.size[2:] == (1, 1):
        of, anchors = lifting.mixed(node, form, [1])
        normed = lifting.emit(node, node.op_type, [of.value, *node.inputs[1:]], of.size, **node.attributes)
        return [channels_at(normed, anchors).along(1, form.shape)]
    scale, bias, mean, variance = (constant_input(node, position).astype(np.float64) for position in range(1, 5))
    epsilon = node.attributes.get_float("epsilon", EPSILON)
    factor = scale / np.sqrt(variance + epsilon)
    shape = (-1, *[1] * (len(form.shape) - 2))
    return [form.scaled(factor.reshape(shape), (bias - mean * factor).reshape(shape))]


def layer_norm(lifting: Lifting, node: ir.Node) -> Sequence[Form]:
    """LayerNormalization over the channels of each position."""
    form = lifting.source(node)
    axis = node.attributes.get_int("axis", -1)
    axes = range(axis % len(form.shape), len(form.shape))
    stencil = form.stencil(axes)
    if stencil is None or not stencil.pointwise:
        raise refusal(node, WHOLE_MAP_NORMALISATION)
    of, anchors = lifting.mixed(node, form, axes)
    batch, channels, height, width = of.size
    last, parameters = (batch, height, width, channels), []
    for position in range(1, len(node.inputs)):
        name = f"{node.name}.{position}"
        parameters.append(add_constant(lifting.graph, name, constant_input(node, position).reshape(-1)))
    attributes = {**node.attributes, "axis": ir.AttrInt64("axis", -1)}
    turned = lifting.emit(node, "Transpose", [of.value], last, perm=[0, 2, 3, 1])
    normed = lifting.emit(node, node.op_type, [turned.value, *parameters], last, **attributes)
    back = lifting.emit(node, "Transpose", [normed.value], of.size, perm=[0, 3, 1, 2])
    return [channels_at(back, anchors).reshaped(form.shape)]


def softmax(lifting: Lifting, node: ir.Node) -> Sequence[Form]:
    """Softmax over the channels of each position."""
    form = lifting.source(node)
    axis = node.attributes.get_int("axis", -1) % len(form.shape)
    stencil = form.stencil([axis])
    if stencil is None or not stencil.pointwise or len(stencil.channel) != form.map.size[1]:
        raise refusal(node, "expected softmax over the classes, got one that looks along the map")
    if form.whole:
        return stays(lifting, node)
    of, anchors = lifting.mixed(node, form, [axis])
    lifted = lifting.emit(node, node.op_type, [of.value], of.size, axis=1)
    return [channels_at(lifted, anchors).along(axis, form.shape)]


HANDLERS: dict[str, Handler] = {
    "BatchNormalization": batch_norm,
    "LayerNormalization": layer_norm,
    "LogSoftmax": softmax,
    "Softmax": softmax,
}
