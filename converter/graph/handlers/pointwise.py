"""Operators on one element, or on elements at the same position. They are applied to the map instead of to its view.

    op(view of x) = view of op(x),    if the view is a selection of the elements of x

An operator that is linear in the view changes only the view's weights and offsets, and needs no node.
"""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from converter.errors import UnsupportedError
from converter.graph.affine import AffineView, Floats, Size, channels_at, identity_view
from converter.graph.convolutionalizer import Convolutionalizer, Handler, keep_node
from converter.graph.nodes import add_constant, constant_input
from converter.graph.operators import ARITHMETIC, ELEMENTWISE, MOVEMENT
from converter.graph.refusals import MIXED_SUMMARY, position_constant, refusal

REAL_TYPES = (ir.DataType.BOOL, ir.DataType.BFLOAT16, ir.DataType.DOUBLE, ir.DataType.FLOAT, ir.DataType.FLOAT16)


def elementwise(state: Convolutionalizer, node: ir.Node) -> Sequence[AffineView]:
    """Convert an operator on one element, such as Relu."""
    view = state.input_view(node)
    if node.op_type == "Cast" and ir.DataType(node.attributes["to"].as_int()) not in REAL_TYPES:
        raise refusal(node, "it rounds the values; expected floating-point numbers to the end")
    if view.is_identity or (not view.is_selection and state.can_materialize(view)):
        return keep_node(state, node)
    view = state.as_selection(node, view)
    inputs = [view.map.value, *node.inputs[1:]]
    made = state.emit(node, node.op_type, inputs, view.map.size, **node.attributes)
    return [AffineView(made, view.index)]


def arithmetic(state: Convolutionalizer, node: ir.Node) -> Sequence[AffineView]:
    """Convert an operator on several elements, such as Add: on computed values, or on one value and constants."""
    views = [state.view(node, position) for position in range(len(node.inputs))]
    computed = [view for view in views if view is not None]
    if len(views) == 1:
        return computed
    if len(views) == 2 and len(computed) == 1:
        return with_constant(state, node, computed[0], 0 if views[0] is None else 1)
    if len(views) == 2:
        return two_computed(state, node, *computed)
    if len(computed) < len(views) or len({view.shape for view in computed}) > 1:
        raise refusal(node, f"expected computed values of one shape, got {len(views)} values of several shapes")
    return keep_node(state, node)


def two_computed(state: Convolutionalizer, node: ir.Node, one: AffineView, other: AffineView) -> Sequence[AffineView]:
    """Convert an operator on two computed values."""
    sizes = [view.map.size for view in (one, other)]
    is_one_size = sizes[0][2:] == sizes[1][2:]
    if is_one_size and one.is_identity and other.is_identity:
        return keep_node(state, node)
    shape = np.broadcast_shapes(one.shape, other.shape)
    wide = [view.broadcast_to(shape) for view in (one, other)]
    if is_one_size and one.is_selection and other.is_selection and _select_same_elements(*wide):
        wider = wide[0] if sizes[0][1] >= sizes[1][1] else wide[1]
        made = state.emit(node, node.op_type, [one.map.value, other.map.value], wider.map.size)
        return [AffineView(made, wider.index)]
    is_map = len(shape) == 4 and shape[2:] != (1, 1)
    if is_map and state.can_materialize(one) and state.can_materialize(other):
        if one.shape == other.shape:
            return keep_node(state, node)
    elif one.map == other.map and node.op_type in ("Add", "Sub"):
        return [wide[0].add(wide[1], 1 if node.op_type == "Add" else -1)]
    if one.shape == other.shape and (maps := state.materialize_channels_last(node, [one, other])):
        made = state.emit(node, node.op_type, [each.value for each in maps], maps[0].size)
        return [identity_view(made).channels_last]
    rows = None
    if is_one_size and len(shape) > 1:
        rows = _on_features(state, node, *wide)
    elif len(shape) == 2:
        rows = _on_copied_features(state, node, *wide)
    if rows is None:
        raise _of_other_positions(node, sizes)
    return [rows]


def _of_other_positions(node: ir.Node, sizes: Sequence[Size]) -> UnsupportedError:
    """Return the error for an operator on values of maps of different sizes."""
    if (1, 1) in (sizes[0][2:], sizes[1][2:]):
        return refusal(node, MIXED_SUMMARY)
    return refusal(node, f"expected values of the same positions, got maps of {sizes[0][2:]} and {sizes[1][2:]}")


def _on_features(state: Convolutionalizer, node: ir.Node, one: AffineView, other: AffineView) -> AffineView:
    """Return the operator's result for features that are several channels of a position, as in a gated unit."""
    if one.sums_whole_map or other.sums_whole_map:
        raise refusal(node, MIXED_SUMMARY)
    (left, anchors), (right, other_anchors) = (state.channels_of(node, view, [1]) for view in (one, other))
    if not np.array_equal(anchors, other_anchors):
        raise refusal(node, "expected values of the same positions of the map")
    made = state.emit(node, node.op_type, [left.value, right.value], left.size)
    return channels_at(made, anchors).from_rows(1, one.shape)


def _on_copied_features(
    state: Convolutionalizer, node: ir.Node, one: AffineView, other: AffineView
) -> AffineView | None:
    """Return the operator's result for rows of features of maps of different sizes, as a flattened map by its length.

    Return None if there are too many features to be copied to one position.
    """
    left, right = (state.features_of(node, view, [1]) for view in (one, other))
    if left is None or right is None or left[0].size[2:] != right[0].size[2:] or not np.array_equal(left[1], right[1]):
        return None
    return channels_at(state.emit(node, node.op_type, [left[0].value, right[0].value], left[0].size), left[1])


def _select_same_elements(one: AffineView, other: AffineView) -> bool:
    """Return whether two selections agree on positions, and on channels unless one map has a single channel."""
    if not np.array_equal(one.position_indices(), other.position_indices()):
        return False
    has_single = 1 in (one.map.size[1], other.map.size[1])
    return has_single or np.array_equal(one.channel_indices(), other.channel_indices())


def with_constant(state: Convolutionalizer, node: ir.Node, view: AffineView, position: int) -> Sequence[AffineView]:
    """Convert an operator on a computed value and a constant, which is the node's input at `position`."""
    constant = constant_input(node, position)
    view = _broadcast(state, node, view, np.broadcast_shapes(view.shape, constant.shape))
    values = per_channel(view, constant) if view.is_selection else None
    if values is not None:
        return _on_map(state, node, view, values, position)
    if view.shape[2:] == view.map.size[2:] != (1, 1) and constant.size > 1 and view.is_selection:
        name = node.inputs[position].name  # type: ignore[union-attr]
        raise position_constant(node, name)
    changed = _linear(node.op_type, view, constant, position)
    if changed is not None:
        return [changed]
    return with_constant(state, node, state.as_selection(node, view), position)


def _broadcast(state: Convolutionalizer, node: ir.Node, view: AffineView, shape: tuple[int, ...]) -> AffineView:
    """Return a view broadcast to a shape; if one channel becomes several, they become channels of a map."""
    wide = view.broadcast_to(shape)
    grown = [axis for axis in range(-len(view.shape), 0) if view.shape[axis] != shape[axis]]
    if len(grown) == 1 and view.is_selection and view.map.size[1] == 1:
        axis = grown[0] % len(shape)
        channels, anchors = state.channels_of(node, wide, [axis])
        return channels_at(channels, anchors).from_rows(axis, shape)
    return wide


def _on_map(
    state: Convolutionalizer, node: ir.Node, view: AffineView, values: Floats, position: int
) -> Sequence[AffineView]:
    """Return the result of the operator on the map; an Add after a MatMul becomes the bias of its convolution."""
    conv = view.map.value.producer()
    is_bias = node.op_type == "Add" and conv is not None and _can_take_bias(conv, view)
    if conv is not None and is_bias and _has_no_other_use(node.inputs[1 - position]):
        conv.resize_inputs(3)
        bias = np.broadcast_to(values.reshape(-1), view.map.size[1])
        conv.replace_input_with(2, add_constant(state.graph, f"{node.name}.bias", bias))
        return [view]
    inputs = [view.map.value, add_constant(state.graph, f"{node.name}.constant", values)]
    made = state.emit(node, node.op_type, inputs if position else inputs[::-1], view.map.size)
    return [AffineView(made, view.index)]


def _can_take_bias(conv: ir.Node, view: AffineView) -> bool:
    """Return whether a node is the convolution of a MatMul, has no bias, and is not used by another node yet."""
    is_unused = not view.is_identity and not any(conv.outputs[0].uses())
    return conv.op_type == "Conv" and len(conv.inputs) == 2 and is_unused


def _has_no_other_use(value: ir.Value | None) -> bool:
    """Return whether a layer's output has only one user, and so have the outputs of movement operators after it."""
    while value is not None and len(value.uses()) == 1 and not value.is_graph_output():
        producer = value.producer()
        if producer is None or producer.op_type not in MOVEMENT:
            return True
        value = producer.inputs[0]
    return False


def per_channel(view: AffineView, constant: Floats) -> Floats | None:
    """Return a constant as (1, channels, 1, 1), or (1, 1, 1, 1) if all its numbers are equal.

    Return None if it has several numbers for one channel of the view.
    """
    if constant.size == 1 or (constant == constant.flat[0]).all():
        return constant.reshape(-1)[:1].reshape(1, 1, 1, 1)
    values = np.broadcast_to(constant, view.shape)
    channels = view.channel_indices()
    table = np.full(view.map.size[1], constant.flat[0])
    table[channels] = values
    return table.reshape(1, -1, 1, 1) if np.array_equal(table[channels], values) else None


def _linear(op_type: str, view: AffineView, constant: Floats, position: int) -> AffineView | None:
    """Return the view after an operator that is linear in it; None for other operators."""
    match op_type, position:
        case "Add", _:
            return view.scale_and_shift(1.0, constant)
        case "Sub", 1:
            return view.scale_and_shift(1.0, -constant)
        case "Sub", 0:
            return view.scale_and_shift(-1.0, constant)
        case "Mul", _:
            return view.scale_and_shift(constant, 0.0)
        case "Div", 1:
            return view.scale_and_shift(1 / constant, 0.0)
    return None


def quantization(state: Convolutionalizer, node: ir.Node) -> Sequence[AffineView]:
    """Convert QuantizeLinear and DequantizeLinear, with one scale for all values or one for each channel of a map."""
    view = state.view(node)
    if view is None:  # the weights of a convolution
        return ()
    parameters = [constant_input(node, position) for position in range(1, len(node.inputs))]
    if view.is_identity or not view.is_selection or any(part.size > 1 for part in parameters):
        return keep_node(state, node)
    numbers = [add_constant(state.graph, f"{node.name}.number", part.reshape(())) for part in parameters]
    made = state.emit(node, node.op_type, [view.map.value, *numbers], view.map.size, **node.attributes)
    return [AffineView(made, view.index)]


def where(state: Convolutionalizer, node: ir.Node) -> Sequence[AffineView]:
    """Convert a choice between a computed value and a constant; a constant condition makes it linear."""
    if state.view(node, 0) is not None:
        return _where_computed(state, node)
    mask = constant_input(node, 0)
    view, position = state.view(node, 1), 2
    if view is None:
        view, position, mask = state.view(node, 2), 1, ~mask
    if view is None:
        raise refusal(node, "expected a computed value and a constant")
    constant = constant_input(node, position)
    view = view.broadcast_to(np.broadcast_shapes(view.shape, mask.shape, constant.shape))
    return [view.scale_and_shift(mask.astype(np.float32), np.where(mask, 0.0, constant))]


def _where_computed(state: Convolutionalizer, node: ir.Node) -> Sequence[AffineView]:
    """Keep a choice by a computed value between maps and constants that are the same at every position."""
    for position in range(3):
        view = state.view(node, position)
        if view is None and constant_input(node, position).size > 1:
            raise refusal(node, "expected a choice between computed values and single constants")
    return keep_node(state, node)


HANDLERS: dict[str, Handler] = {
    **dict.fromkeys(ELEMENTWISE, elementwise),
    **dict.fromkeys(ARITHMETIC, arithmetic),
    **dict.fromkeys(["DequantizeLinear", "QuantizeLinear"], quantization),
    "Where": where,
}
