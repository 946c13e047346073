"""Operators that only move elements. A run of the node on the elements' indices shows where each element goes."""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from converter.graph.affine import AffineView, Ints, identity_view
from converter.graph.convolutionalizer import Convolutionalizer, Handler, keep_node
from converter.graph.nodes import add_constant, constant_input, first_input
from converter.graph.operators import MOVEMENT
from converter.graph.refusals import refusal

OF_CHANNELS = ("Gather", "Slice", "Split")


def move(state: Convolutionalizer, node: ir.Node) -> Sequence[AffineView]:
    """Keep a node that moves whole channels or pads a map; return the gathered elements of any other node."""
    view = state.input_view(node)
    if node.op_type == "Pad" and node.attributes.get_string("mode", "constant") == "wrap":
        raise refusal(
            node, "it pads with the opposite side of the map, so that every border depends on the opposite border"
        )
    if view.is_identity and _selects_channels(state, node):
        return keep_node(state, node)
    if state.can_materialize(view) and _is_spatial_padding(node):
        return keep_node(state, node)
    if node.op_type == "Pad" and (padded := _pad_channels_last(state, node, view)) is not None:
        return [padded]
    return [view.gather(order - 1) for order in _run_on_numbers(node, view)]


def _run_on_numbers(node: ir.Node, view: AffineView) -> list[Ints]:
    """Run the node on 1, 2, 3 ... in place of its first input's elements; zeros in the outputs are padding."""
    feed = {str(first_input(node).name): np.arange(1, view.index[..., 0].size + 1).reshape(view.shape)}
    for position, value in enumerate(node.inputs[1:], 1):
        if value is not None:
            feed[str(value.name)] = constant_input(node, position)
    if node.op_type == "Pad" and len(node.inputs) > 2 and node.inputs[2] is not None:
        if constant_input(node, 2).any():
            raise refusal(node, "expected padding with zeros")
        feed[str(node.inputs[2].name)] = np.zeros((), np.int64)
    outputs: list[Ints] = ReferenceEvaluator(ir.to_proto(node)).run(None, feed)  # type: ignore[assignment]
    return outputs


def _selects_channels(state: Convolutionalizer, node: ir.Node) -> bool:
    """Return whether the node takes whole channels of a map, so that it can be kept."""
    if node.op_type == "Slice":
        has_axes = len(node.inputs) > 3 and node.inputs[3] is not None
        axes = constant_input(node, 3) if has_axes else range(len(constant_input(node, 1)))
        return {axis % 4 for axis in axes} == {1}
    axis = node.attributes.get_int("axis", 0)
    return node.op_type in OF_CHANNELS and axis % 4 == 1 and len(state.shapes[node.outputs[0]]) == 4


def _is_spatial_padding(node: ir.Node) -> bool:
    """Return whether the node pads the rows and columns of a map (N, C, h, w), as a convolution's pads do."""
    if node.op_type != "Pad" or len(node.inputs) > 3:
        return False
    pads = constant_input(node, 1)
    return not pads.reshape(2, 4)[:, :2].any() and bool((pads >= 0).all())


def _pad_channels_last(state: Convolutionalizer, node: ir.Node, view: AffineView) -> AffineView | None:
    """Pad a map (N, h, w, C) as (N, C, h, w); returns None for another view or other padding."""
    batch, channels, height, width = view.map.size
    pads = constant_input(node, 1)
    is_spatial = len(view.shape) == 4 and len(pads) == 8 and not pads[[0, 3, 4, 7]].any() and (pads >= 0).all()
    if not is_spatial or not view.channels_first.is_identity:
        return None
    reordered = add_constant(state.graph, f"{node.name}.pads", pads[[0, 3, 1, 2, 4, 7, 5, 6]])
    size = (batch, channels, int(height + pads[1] + pads[5]), int(width + pads[2] + pads[6]))
    inputs = [view.map.value, reordered, *node.inputs[2:3]]
    return identity_view(state.emit(node, "Pad", inputs, size, **node.attributes)).channels_last


HANDLERS: dict[str, Handler] = dict.fromkeys(MOVEMENT, move)
