"""Fully connected layers: Gemm and MatMul with constant weights."""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from converter.graph.form import Floats, Form, channels_at
from converter.graph.lift import Handler, Layer, Lifting, refusal


def gemm(lifting: Lifting, node: ir.Node) -> Sequence[Form]:
    """Gemm(A, B, C): alpha · A B + beta · C."""
    form, weights = lifting.source(node), lifting.constant(node, 1)
    if _attribute(node, "transA", 0):
        form = form.moved(np.arange(form.index[..., 0].size).reshape(form.shape).T)
    if not _attribute(node, "transB", 0):
        weights = weights.T
    bias = None
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        bias = _scaled(lifting.constant(node, 2), _attribute(node, "beta", 1.0)).reshape(-1)
        if bias.size not in (1, len(weights)):
            raise refusal(node, f"expected a bias for {len(weights)} outputs, got {bias.size} numbers")
    layer = Layer(_name_of_weights(node), _scaled(weights, _attribute(node, "alpha", 1.0)), bias)
    return [_contracted(lifting, node, form, 1, layer)]


def matmul(lifting: Lifting, node: ir.Node) -> Sequence[Form]:
    """MatMul with the weights on either side."""
    left, right = lifting.form(node, 0), lifting.form(node, 1)
    form, position = (left, 1) if left is not None else (right, 0)
    weights = lifting.constant(node, position)
    if form is None or weights.ndim < 2 or weights.size != weights.shape[-1] * weights.shape[-2]:
        raise refusal(node, f"expected one matrix of weights, got shape {weights.shape}")
    matrix = weights.reshape(weights.shape[-2:])
    axis = len(form.shape) - (1 if position else 2)
    return [_contracted(lifting, node, form, axis, Layer(_name_of_weights(node), matrix.T if position else matrix))]


def _contracted(lifting: Lifting, node: ir.Node, form: Form, axis: int, layer: Layer) -> Form:
    """The layer, along one axis of a form, as a convolution of its map."""
    outputs, features = layer.weights.shape
    if form.shape[axis] != features:
        raise refusal(node, f"expected weights for {form.shape[axis]} features, got {features}")
    stencil = form.stencil([axis])
    if stencil is None:
        raise refusal(node, "it does not do the same at every position of the map")
    of = lifting.convolve(node, form.map, stencil, layer)
    height, width = stencil.extent
    lifting.report(node, f"{node.op_type} {features}→{outputs}", f"Conv {height}×{width}, {form.map.size[1]}→{outputs}")
    shape = tuple(outputs if position == axis else size for position, size in enumerate(form.shape))
    return channels_at(of, stencil.anchors).along(axis, shape)


def _name_of_weights(node: ir.Node) -> str:
    return next(str(value.name) for value in node.inputs if value is not None and value.const_value is not None)


def _scaled(array: Floats, factor: float) -> Floats:
    """Without a copy where there is nothing to do: these can be hundreds of megabytes."""
    return array if factor == 1 else array * np.float32(factor)


def _attribute(node: ir.Node, name: str, default: float) -> float:
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.value


HANDLERS: dict[str, Handler] = {"Gemm": gemm, "MatMul": matmul}
