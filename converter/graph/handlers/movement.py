"""Operators that move elements about: where they go is read off a run of the node on the elements' numbers."""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from converter.graph.affine import Form, Ints, whole
from converter.graph.convolutionalizer import Handler, Lifting, stays
from converter.graph.nodes import add_constant, constant_input
from converter.graph.operators import MOVEMENT
from converter.graph.refusals import refusal

OF_CHANNELS = ("Gather", "Slice", "Split")


def move(lifting: Lifting, node: ir.Node) -> Sequence[Form]:
    """Run the node on 1, 2, 3 ...: zeros in what comes out are padding."""
    form = lifting.source(node)
    if node.op_type == "Pad" and node.attributes.get_string("mode", "constant") == "wrap":
        raise refusal(node, "it pads with the map's far side, so that every border looks at the other one")
    if form.whole and _is_of_channels(lifting, node):
        return stays(lifting, node)
    if lifting.settles(form) and _is_spatial_padding(node):
        return stays(lifting, node)
    if node.op_type == "Pad" and (padded := _padded(lifting, node, form)) is not None:
        return [padded]
    feed = {str(node.inputs[0].name): np.arange(1, form.index[..., 0].size + 1).reshape(form.shape)}  # type: ignore[union-attr]
    for position, value in enumerate(node.inputs[1:], 1):
        if value is not None:
            feed[str(value.name)] = constant_input(node, position)
    if node.op_type == "Pad" and len(node.inputs) > 2 and node.inputs[2] is not None:
        if constant_input(node, 2).any():
            raise refusal(node, "expected padding with zeros")
        feed[str(node.inputs[2].name)] = np.zeros((), np.int64)
    orders: list[Ints] = ReferenceEvaluator(ir.to_proto(node)).run(None, feed)  # type: ignore[assignment]
    return [form.moved(order - 1) for order in orders]


def _is_of_channels(lifting: Lifting, node: ir.Node) -> bool:
    """Whether whole channels of a map are taken, so that the node stays."""
    if node.op_type == "Slice":
        given = len(node.inputs) > 3 and node.inputs[3] is not None
        axes = constant_input(node, 3) if given else range(len(constant_input(node, 1)))
        return {axis % 4 for axis in axes} == {1}
    axis = node.attributes.get_int("axis", 0)
    return node.op_type in OF_CHANNELS and axis % 4 == 1 and len(lifting.shapes[node.outputs[0]]) == 4


def _is_spatial_padding(node: ir.Node) -> bool:
    """Whether a map grows at its borders, as by the padding of a convolution."""
    if node.op_type != "Pad" or len(node.inputs) > 3:
        return False
    pads = constant_input(node, 1)
    return not pads.reshape(2, 4)[:, :2].any() and bool((pads >= 0).all())


def _padded(lifting: Lifting, node: ir.Node, form: Form) -> Form | None:
    """The padding of a map whose channels were put last, done to the map; None for another form."""
    batch, channels, height, width = form.map.size
    pads = constant_input(node, 1)
    spatial = len(form.shape) == 4 and len(pads) == 8 and not pads[[0, 3, 4, 7]].any() and (pads >= 0).all()
    if not spatial or not form.channels_first.whole:
        return None
    first = add_constant(lifting.graph, f"{node.name}.pads", pads[[0, 3, 1, 2, 4, 7, 5, 6]])
    size = (batch, channels, int(height + pads[1] + pads[5]), int(width + pads[2] + pads[6]))
    of = lifting.emit(node, "Pad", [form.map.value, first, *node.inputs[2:3]], size, **node.attributes)
    return whole(of).channels_last


HANDLERS: dict[str, Handler] = dict.fromkeys(MOVEMENT, move)
