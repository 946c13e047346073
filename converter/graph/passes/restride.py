"""Converts a converted network to another stride, with the same weights; each axis is independent.

A finer stride, t = S/k, is made à trous: a value of native stride s gets stride gcd(s, t). A layer between values of
strides s and s' then has stride gcd(s', t) / gcd(s, t). Since its input is denser by the factor s / gcd(s, t), its
dilation and pads are multiplied by this factor. For a coarser stride, t = mS, the stride of the layer that reads a
whole window, and computes one element from it, is multiplied by m.

Refused: an average pool that leaves its padding out of the count and whose pads would be as wide as its kernel; a
stride that is not a multiple of the period of an enlarged map (`graph.upsampling`).
"""

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from converter.errors import UnsupportedError
from converter.graph.geometry import AxisGeometry, Geometry2D, geometries, output_geometry
from converter.graph.nodes import (
    END,
    constant_input,
    first_input,
    float_type,
    ints,
    kernel_shape,
    set_constant_input,
    signature,
)
from converter.graph.operators import WINDOWED
from converter.graph.passes.separate_pads import separate
from converter.graph.upsampling import UPSAMPLING


class RestridePass(ir.passes.InPlacePass):
    """Change a network for windows (height, width) to another stride; all in pixels."""

    def __init__(self, stride: int, window: tuple[int, int]) -> None:
        super().__init__()
        self._stride, self._window = stride, window

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Apply the pass; raises UnsupportedError for a pool that has no form at the stride."""
        graph = model.graph
        known = geometries(graph, self._window)
        native = output_geometry(known, graph)
        if {axis.stride for axis in native} == {self._stride}:
            return ir.passes.PassResult(model, modified=False)
        for node in graph:
            if node.op_type in UPSAMPLING and node.outputs[0] in known:
                self._check_period(node, known[node.outputs[0]])
        before = signature(graph)
        for node in list(graph):
            source = node.inputs[0] if node.inputs else None
            if node.op_type in (*WINDOWED, "Pad", "Slice") and source in known and source is not None:
                own, made = known[source], known[node.outputs[0]]
                changes = [self._change(own[axis], made[axis], native[axis], axis) for axis in (0, 1)]
                _apply(graph, node, [rate for rate, _ in changes], [stride for _, stride in changes])
        return ir.passes.PassResult(model, signature(graph) != before)

    def _check_period(self, node: ir.Node, made: Geometry2D) -> None:
        """Raise UnsupportedError if a node's output, shifted by the stride, differs from that of a shifted image."""
        period = math.lcm(*(axis.period for axis in made))
        if self._stride % period:
            raise UnsupportedError(
                f"strides: expected a multiple of {period} pixels, because node {node.name!r} ({node.op_type}) "
                "enlarges a map, whose values change if the image is shifted by other distances, got "
                f"{self._stride}; leave {self._stride} out of --strides"
            )

    def _change(self, own: AxisGeometry, made: AxisGeometry, native: AxisGeometry, axis: int) -> tuple[int, int]:
        """Return the factor by which a layer's input is denser than at the native stride, and its new stride."""
        before, after = (math.gcd(value.stride, self._stride) for value in (own, made))
        sees_window = made.output_size(self._window[axis]) == 1 < own.output_size(self._window[axis])
        coarser = max(1, self._stride // native.stride) if sees_window else 1
        return own.stride // before, after // before * coarser


def _apply(graph: ir.Graph, node: ir.Node, rates: Sequence[int], strides: Sequence[int]) -> None:
    """Give a node new strides, and dilations, pads or crops for an input that is `rates` times as dense."""
    if node.op_type in WINDOWED:
        node.attributes["strides"] = ir.AttrInt64s("strides", strides)
    if set(rates) == {1}:
        return
    if node.op_type in WINDOWED:
        _dilate(graph, node, rates)
    elif node.op_type == "Pad":
        set_constant_input(graph, node, 1, constant_input(node, 1) * np.array([1, 1, *rates] * 2))
    elif constant_input(node, 3).tolist() == [2, 3]:
        for position in (1, 2):
            borders = zip(constant_input(node, position).tolist(), rates, strict=True)
            moved = [border if border == END else border * rate for border, rate in borders]
            set_constant_input(graph, node, position, np.array(moved))


def _dilate(graph: ir.Graph, node: ir.Node, rates: Sequence[int]) -> None:
    """Multiply a layer's dilations and pads by `rates`."""
    dilations = [size * rate for size, rate in zip(ints(node, "dilations", [1, 1]), rates, strict=True)]
    pads = [size * rate for size, rate in zip(ints(node, "pads", [0] * 4), [*rates, *rates], strict=True)]
    if node.op_type != "Conv" and any(pad >= size for pad, size in zip(pads, kernel_shape(node) * 2, strict=True)):
        _pad_before(graph, node, pads)
        pads = [0] * 4
    if node.op_type != "Conv":
        separate(graph, node)
    node.attributes["dilations"] = ir.AttrInt64s("dilations", dilations)
    node.attributes["pads"] = ir.AttrInt64s("pads", pads)


def _pad_before(graph: ir.Graph, pool: ir.Node, pads: Sequence[int]) -> None:
    """Put a Pad before a pool, since ONNX Runtime's pools take no pads as large as their kernels."""
    if pool.op_type == "AveragePool" and not pool.attributes.get_int("count_include_pad", 0):
        raise UnsupportedError(
            f"node {pool.name!r} (AveragePool): an average that does not count its padding cannot be computed at this "
            "stride; leave this stride out of --strides"
        )
    source = first_input(pool)
    filling = np.array(-np.inf if pool.op_type == "MaxPool" else 0.0, float_type(source))
    pad = ir.node("Pad", [source, None, None], name=f"{pool.name}.pad")
    pad.outputs[0].name, pad.outputs[0].type = f"{pool.name}.padded", source.type
    graph.insert_before(pool, pad)
    set_constant_input(graph, pad, 1, np.array([0, 0, *pads[:2], 0, 0, *pads[2:]]))
    set_constant_input(graph, pad, 2, filling)
    pool.replace_input_with(0, pad.outputs[0])
