"""Fully connected layers: Gemm, MatMul and Einsum, the constant weights on either side."""

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from converter.graph.affine import Floats, Form, channels_at
from converter.graph.convolutionalizer import Handler, Layer, Lifting
from converter.graph.nodes import constant_input, ints
from converter.graph.refusals import NOT_THE_SAME_EVERYWHERE, refusal


def gemm(lifting: Lifting, node: ir.Node) -> Sequence[Form]:
    """Gemm(A, B, C): alpha · A B + beta · C."""
    form, weights, position = _operands(lifting, node)
    turned, weights_turned = (
        bool(node.attributes.get_int(name, 0)) for name in ("transA", "transB")[:: 1 if position else -1]
    )
    if turned:
        form = form.moved(np.arange(form.index[..., 0].size).reshape(form.shape).T)
    if weights_turned != bool(position):
        weights = weights.T
    bias = None
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        bias = _scaled(constant_input(node, 2), node.attributes.get_float("beta", 1.0)).reshape(-1)
        if bias.size not in (1, len(weights)):
            raise refusal(node, f"expected a bias for {len(weights)} outputs, got {bias.size} numbers")
    layer = Layer(_name_of_weights(node), _scaled(weights, node.attributes.get_float("alpha", 1.0)), bias)
    return [_contracted(lifting, node, form, position, layer)]


def matmul(lifting: Lifting, node: ir.Node) -> Sequence[Form]:
    """MatMul of matrices, the computed one perhaps many."""
    form, weights, position = _operands(lifting, node)
    if weights.ndim < 2 or weights.size != weights.shape[-1] * weights.shape[-2]:
        raise refusal(node, f"expected one matrix of weights, got shape {weights.shape}")
    matrix = weights.reshape(weights.shape[-2:])
    form = form.reshaped((*[1] * (weights.ndim - len(form.shape)), *form.shape))
    axis = len(form.shape) - (1 if position else 2)
    return [_contracted(lifting, node, form, axis, Layer(_name_of_weights(node), matrix.T if position else matrix))]


def einsum(lifting: Lifting, node: ir.Node) -> Sequence[Form]:
    """Einsum of a computed value and weights, summed over what both have and the output has not."""
    if len(node.inputs) != 2:
        raise refusal(node, f"expected a computed value and weights, got {len(node.inputs)} values")
    form, weights, position = _operands(lifting, node)
    terms, _, made = node.attributes["equation"].as_string().replace(" ", "").partition("->")
    own, others = terms.split(",")[:: 1 if position else -1]
    summed, new = ([letter for letter in others if (letter in own) is shared] for shared in (True, False))
    kept = [letter for letter in own if letter not in summed]
    if sorted(made) != sorted([*kept, *new]) or len(set(own)) != len(form.shape) or len(set(others)) != weights.ndim:
        raise refusal(
            node, "it is no sum of products with the same weights everywhere; locally connected layers are none"
        )
    axes = [own.index(letter) for letter in summed]
    matrix = weights.transpose([others.index(letter) for letter in [*new, *summed]])
    features = math.prod(form.shape[axis] for axis in axes)
    layer = Layer(_name_of_weights(node), np.ascontiguousarray(matrix).reshape(-1, features))
    rows = _contracted(lifting, node, form.with_last(axes), 1, layer)
    sizes = dict(zip(own, form.shape, strict=True)) | dict(zip(others, weights.shape, strict=True))
    found = np.arange(math.prod(rows.shape)).reshape([sizes[letter] for letter in [*kept, *new]])
    return [rows.moved(found.transpose([[*kept, *new].index(letter) for letter in made]))]


def _operands(lifting: Lifting, node: ir.Node) -> tuple[Form, Floats, int]:
    """A computed value, the weights, and which of the node's inputs these are."""
    left, right = lifting.form(node, 0), lifting.form(node, 1)
    form, position = (left, 1) if left is not None else (right, 0)
    if form is None:
        raise refusal(node, "expected a computed value and weights, got two constants")
    return form, constant_input(node, position), position


def _contracted(lifting: Lifting, node: ir.Node, form: Form, axis: int, layer: Layer) -> Form:
    """The layer, along one axis of a form, as a convolution of its map."""
    outputs, features = layer.weights.shape
    if form.shape[axis] != features:
        raise refusal(node, f"expected weights for {form.shape[axis]} features, got {features}")
    stencil = form.stencil([axis])
    if stencil is None:
        raise refusal(node, NOT_THE_SAME_EVERYWHERE)
    of = lifting.convolve(node, form.map, stencil, layer)
    lifting.report(node, f"{node.op_type} {features}→{outputs}", f"{_named(of.value)}, {form.map.size[1]}→{outputs}")
    shape = tuple(outputs if position == axis else size for position, size in enumerate(form.shape))
    return channels_at(of, stencil.anchors).along(axis, shape)


def _named(made: ir.Value) -> str:
    """The convolution that a value comes out of, "Conv 7×7", with its dilations if there are any."""
    conv = made.producer()
    kernel, dilations = (ints(conv, name, [1, 1]) for name in ("kernel_shape", "dilations")) if conv else ([], [])
    dilated = f" dilated by {'×'.join(map(str, dilations))}" if set(dilations) != {1} else ""
    return f"Conv {'×'.join(map(str, kernel))}{dilated}"


def _name_of_weights(node: ir.Node) -> str:
    return next(str(value.name) for value in node.inputs if value is not None and value.const_value is not None)


def _scaled(array: Floats, factor: float) -> Floats:
    """Without a copy where there is nothing to do: these can be hundreds of megabytes."""
    return array if factor == 1 else array * np.float32(factor)


HANDLERS: dict[str, Handler] = {"Einsum": einsum, "Gemm": gemm, "MatMul": matmul}
