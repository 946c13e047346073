"""Fully connected layers: Gemm, MatMul and Einsum, with the constant weights on either side."""

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from converter.graph.affine import AffineView, Floats, channels_at
from converter.graph.convolutionalizer import Convolutionalizer, FullyConnected, Handler
from converter.graph.handlers.bilinear import pool_products
from converter.graph.nodes import constant_input, ints
from converter.graph.refusals import NOT_THE_SAME_EVERYWHERE, refusal
from fullconv.common.text import counted


def gemm(state: Convolutionalizer, node: ir.Node) -> Sequence[AffineView]:
    """Convert Gemm(A, B, C): alpha · A B + beta · C."""
    view, weights, position = _operands(state, node)
    view_transposed, weights_transposed = (
        bool(node.attributes.get_int(name, 0)) for name in ("transA", "transB")[:: 1 if position else -1]
    )
    if view_transposed:
        view = view.gather(np.arange(view.index[..., 0].size).reshape(view.shape).T)
    if weights_transposed != bool(position):
        weights = weights.T
    bias = None
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        bias = _scaled(constant_input(node, 2), node.attributes.get_float("beta", 1.0)).reshape(-1)
        if bias.size not in (1, len(weights)):
            raise refusal(
                node, f"expected a bias for {counted(len(weights), 'output')}, got {counted(bias.size, 'number')}"
            )
    alpha = node.attributes.get_float("alpha", 1.0)
    return [_apply(state, node, view, position, FullyConnected(_weights_name(node), _scaled(weights, alpha), bias))]


def matmul(state: Convolutionalizer, node: ir.Node) -> Sequence[AffineView]:
    """Convert a MatMul of one matrix of weights and a computed matrix, or a stack of computed matrices.

    A MatMul of two computed matrices is converted if it is bilinear pooling.
    """
    computed = [view for view in (state.view(node, 0), state.view(node, 1)) if view is not None]
    if len(computed) == 2:
        return [pool_products(state, node, *computed)]
    view, weights, position = _operands(state, node)
    if weights.ndim < 2 or weights.size != weights.shape[-1] * weights.shape[-2]:
        raise refusal(node, f"expected one matrix of weights, got shape {weights.shape}")
    matrix = weights.reshape(weights.shape[-2:])
    view = view.reshape((*[1] * (weights.ndim - len(view.shape)), *view.shape))
    axis = len(view.shape) - (1 if position else 2)
    layer = FullyConnected(_weights_name(node), matrix.T if position else matrix)
    return [_apply(state, node, view, axis, layer)]


def einsum(state: Convolutionalizer, node: ir.Node) -> Sequence[AffineView]:
    """Convert an Einsum of a computed value and weights, summed over the axes that both have and the output lacks."""
    if len(node.inputs) != 2:
        raise refusal(node, f"expected a computed value and weights, got {counted(len(node.inputs), 'value')}")
    view, weights, position = _operands(state, node)
    inputs, _, output = node.attributes["equation"].as_string().replace(" ", "").partition("->")
    own, others = inputs.split(",")[:: 1 if position else -1]
    summed, new = ([letter for letter in others if (letter in own) is shared] for shared in (True, False))
    kept = [letter for letter in own if letter not in summed]
    if sorted(output) != sorted([*kept, *new]) or len(set(own)) != len(view.shape) or len(set(others)) != weights.ndim:
        raise refusal(
            node,
            "expected a sum of products with the same weights at every position, got different "
            "weights at each position, as in locally connected layers",
        )
    axes = [own.index(letter) for letter in summed]
    matrix = weights.transpose([others.index(letter) for letter in [*new, *summed]])
    features = math.prod(view.shape[axis] for axis in axes)
    layer = FullyConnected(_weights_name(node), np.ascontiguousarray(matrix).reshape(-1, features))
    rows = _apply(state, node, view.as_rows(axes), 1, layer)
    sizes = dict(zip(own, view.shape, strict=True)) | dict(zip(others, weights.shape, strict=True))
    numbers = np.arange(math.prod(rows.shape)).reshape([sizes[letter] for letter in [*kept, *new]])
    return [rows.gather(numbers.transpose([[*kept, *new].index(letter) for letter in output]))]


def _operands(state: Convolutionalizer, node: ir.Node) -> tuple[AffineView, Floats, int]:
    """Return the computed operand, the weights, and the position of the weights among the node's inputs."""
    left, right = state.view(node, 0), state.view(node, 1)
    view, position = (left, 1) if left is not None else (right, 0)
    if view is None:
        raise refusal(node, "expected a computed value and weights, got two constants")
    return view, constant_input(node, position), position


def _apply(state: Convolutionalizer, node: ir.Node, view: AffineView, axis: int, layer: FullyConnected) -> AffineView:
    """Return the output of a layer that is applied to a view along one of its axes, by a convolution of the map."""
    outputs, features = layer.weights.shape
    if view.shape[axis] != features:
        raise refusal(node, f"expected weights for {view.shape[axis]} features, got {features}")
    stencil = view.stencil([axis])
    if stencil is None:
        raise refusal(node, NOT_THE_SAME_EVERYWHERE)
    convolved = state.convolve(node, view.map, stencil, layer)
    now = f"{_describe_conv(convolved.value)}, {view.map.size[1]}→{outputs}"
    state.record(node, f"{node.op_type} {features}→{outputs}", now)
    shape = tuple(outputs if position == axis else size for position, size in enumerate(view.shape))
    return channels_at(convolved, stencil.anchors).from_rows(axis, shape)


def _describe_conv(output: ir.Value) -> str:
    """Return a description of the convolution that makes a value, "Conv 7×7", with its dilations if it is dilated."""
    conv = output.producer()
    kernel, dilations = (ints(conv, name, [1, 1]) for name in ("kernel_shape", "dilations")) if conv else ([], [])
    dilated = f" dilated by {'×'.join(map(str, dilations))}" if set(dilations) != {1} else ""
    return f"Conv {'×'.join(map(str, kernel))}{dilated}"


def _weights_name(node: ir.Node) -> str:
    return next(str(value.name) for value in node.inputs if value is not None and value.const_value is not None)


def _scaled(array: Floats, factor: float) -> Floats:
    """Return the array times the factor; the array itself if the factor is 1, since it may be very large."""
    return array if factor == 1 else array * np.float32(factor)


HANDLERS: dict[str, Handler] = {"Einsum": einsum, "Gemm": gemm, "MatMul": matmul}
