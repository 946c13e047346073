"""Operators of one number, or of numbers at one place: the same on a map as on whatever its elements were put into."""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from converter.graph.affine import Floats, Form, channels_at, whole
from converter.graph.convolutionalizer import Handler, Lifting, stays
from converter.graph.nodes import add_constant, constant_input
from converter.graph.operators import ARITHMETIC, ELEMENTWISE, MOVEMENT
from converter.graph.refusals import MIXED_SUMMARY, position_constant, refusal

NUMBERS = (ir.DataType.BOOL, ir.DataType.BFLOAT16, ir.DataType.DOUBLE, ir.DataType.FLOAT, ir.DataType.FLOAT16)


def elementwise(lifting: Lifting, node: ir.Node) -> Sequence[Form]:
    """One number in, one number out: done to the map."""
    form = lifting.source(node)
    if node.op_type == "Cast" and ir.DataType(node.attributes["to"].as_int()) not in NUMBERS:
        raise refusal(node, "it rounds the values; expected floating-point numbers to the end")
    if form.whole or not form.pure:
        return stays(lifting, node)
    of = lifting.emit(node, node.op_type, [form.map.value, *node.inputs[1:]], form.map.size, **node.attributes)
    return [Form(of, form.index)]


def arithmetic(lifting: Lifting, node: ir.Node) -> Sequence[Form]:
    """Several numbers in, one out: values of the same places, or one value and constants."""
    forms = [lifting.form(node, position) for position in range(len(node.inputs))]
    computed = [form for form in forms if form is not None]
    if len(forms) == 1:
        return computed
    if len(forms) == 2 and len(computed) == 1:
        return with_constant(lifting, node, computed[0], 0 if forms[0] is None else 1)
    if len(forms) == 2:
        return two(lifting, node, *computed)
    if len(computed) < len(forms) or len({form.shape for form in computed}) > 1:
        raise refusal(node, f"expected computed values of one shape, got {len(forms)} of several")
    return stays(lifting, node)


def two(lifting: Lifting, node: ir.Node, one: Form, other: Form) -> Sequence[Form]:
    """Two computed values."""
    sizes = [form.map.size for form in (one, other)]
    alike = sizes[0][2:] == sizes[1][2:]
    if alike and one.whole and other.whole:
        return stays(lifting, node)
    shape = np.broadcast_shapes(one.shape, other.shape)
    wide = [form.broadcast(shape) for form in (one, other)]
    if alike and one.pure and other.pure and _same_places(*wide):
        most = wide[0] if sizes[0][1] >= sizes[1][1] else wide[1]
        of = lifting.emit(node, node.op_type, [one.map.value, other.map.value], most.map.size)
        return [Form(of, most.index)]
    if len(shape) == 4 and shape[2:] != (1, 1) and lifting.settles(one) and lifting.settles(other):
        if one.shape == other.shape:
            return stays(lifting, node)
    elif one.map == other.map and node.op_type in ("Add", "Sub"):
        return [wide[0].plus(wide[1], 1 if node.op_type == "Add" else -1)]
    if alike and len(shape) > 1:
        return [_on_features(lifting, node, *wide)]
    if one.shape == other.shape and (maps := lifting.settled_last(node, [one, other])):
        of = lifting.emit(node, node.op_type, [each.value for each in maps], maps[0].size)
        return [whole(of).channels_last]
    if (1, 1) in (sizes[0][2:], sizes[1][2:]):
        raise refusal(node, MIXED_SUMMARY)
    raise refusal(node, f"expected values of the same places, got maps of {sizes[0][2:]} and {sizes[1][2:]}")


def _on_features(lifting: Lifting, node: ir.Node, one: Form, other: Form) -> Form:
    """The node done to features that are several channels of a position, as in a gated unit."""
    if one.sums_map or other.sums_map:
        raise refusal(node, MIXED_SUMMARY)
    (left, anchors), (right, others) = (lifting.mixed(node, form, [1]) for form in (one, other))
    if not np.array_equal(anchors, others):
        raise refusal(node, "expected values of the same places of the map")
    of = lifting.emit(node, node.op_type, [left.value, right.value], left.size)
    return channels_at(of, anchors).along(1, one.shape)


def _same_places(one: Form, other: Form) -> bool:
    if not np.array_equal(one.positions(), other.positions()):
        return False
    return 1 in (one.map.size[1], other.map.size[1]) or np.array_equal(one.channels(), other.channels())


def with_constant(lifting: Lifting, node: ir.Node, form: Form, position: int) -> Sequence[Form]:
    """A computed value and, at an input of the node, a constant."""
    constant = constant_input(node, position)
    form = _widened(lifting, node, form, np.broadcast_shapes(form.shape, constant.shape))
    values = per_channel(form, constant) if form.pure else None
    if values is not None:
        return _on_map(lifting, node, form, values, position)
    if form.shape[2:] == form.map.size[2:] != (1, 1) and constant.size > 1 and form.pure:
        name = node.inputs[position].name  # type: ignore[union-attr]
        raise position_constant(node, name)
    scaled = _linear(node.op_type, form, constant, position)
    if scaled is not None:
        return [scaled]
    return with_constant(lifting, node, whole(lifting.settled(node, form)), position)


def _widened(lifting: Lifting, node: ir.Node, form: Form, shape: tuple[int, ...]) -> Form:
    """A form broadcast to a shape; one channel that becomes several is several channels of a map."""
    wide = form.broadcast(shape)
    grown = [axis for axis in range(-len(form.shape), 0) if form.shape[axis] != shape[axis]]
    if len(grown) == 1 and form.pure and form.map.size[1] == 1:
        of, anchors = lifting.mixed(node, wide, [grown[0] % len(shape)])
        return channels_at(of, anchors).along(grown[0] % len(shape), shape)
    return wide


def _on_map(lifting: Lifting, node: ir.Node, form: Form, values: Floats, position: int) -> Sequence[Form]:
    """The node done to the map; the Add behind a MatMul is the bias of its convolution."""
    conv = form.map.value.producer()
    if node.op_type == "Add" and conv is not None and _lacks_bias(conv, form) and _is_alone(node.inputs[1 - position]):
        conv.resize_inputs(3)
        bias = np.broadcast_to(values.reshape(-1), form.map.size[1])
        conv.replace_input_with(2, add_constant(lifting.graph, f"{node.name}.bias", bias))
        return [form]
    inputs = [form.map.value, add_constant(lifting.graph, f"{node.name}.constant", values)]
    of = lifting.emit(node, node.op_type, inputs if position else inputs[::-1], form.map.size)
    return [Form(of, form.index)]


def _lacks_bias(conv: ir.Node, form: Form) -> bool:
    """Whether this is the convolution that a MatMul has become, and nothing else has used it."""
    return conv.op_type == "Conv" and len(conv.inputs) == 2 and not form.whole and not any(conv.outputs[0].uses())


def _is_alone(value: ir.Value | None) -> bool:
    """Whether a layer's sums go this way only, moved about perhaps."""
    while value is not None and len(value.uses()) == 1 and not value.is_graph_output():
        producer = value.producer()
        if producer is None or producer.op_type not in MOVEMENT:
            return True
        value = producer.inputs[0]
    return False


def per_channel(form: Form, constant: Floats) -> Floats | None:
    """A constant as (1, channels, 1, 1), or (1, 1, 1, 1) if all are alike; None if it varies within a channel."""
    if constant.size == 1 or (constant == constant.flat[0]).all():
        return constant.reshape(-1)[:1].reshape(1, 1, 1, 1)
    values = np.broadcast_to(constant, form.shape)
    channels = form.channels()
    table = np.full(form.map.size[1], constant.flat[0])
    table[channels] = values
    return table.reshape(1, -1, 1, 1) if np.array_equal(table[channels], values) else None


def _linear(op_type: str, form: Form, constant: Floats, position: int) -> Form | None:
    """The form after an operator that is linear in it; None for the others."""
    match op_type, position:
        case "Add", _:
            return form.scaled(1.0, constant)
        case "Sub", 1:
            return form.scaled(1.0, -constant)
        case "Sub", 0:
            return form.scaled(-1.0, constant)
        case "Mul", _:
            return form.scaled(constant, 0.0)
        case "Div", 1:
            return form.scaled(1 / constant, 0.0)
    return None


def where(lifting: Lifting, node: ir.Node) -> Sequence[Form]:
    """A choice between a computed value and a constant, by a constant."""
    if lifting.form(node, 0) is not None:
        return _chosen(lifting, node)
    mask = constant_input(node, 0)
    form, position = lifting.form(node, 1), 2
    if form is None:
        form, position, mask = lifting.form(node, 2), 1, ~mask
    if form is None:
        raise refusal(node, "expected a computed value and a constant")
    constant = constant_input(node, position)
    form = form.broadcast(np.broadcast_shapes(form.shape, mask.shape, constant.shape))
    return [form.scaled(mask.astype(np.float32), np.where(mask, 0.0, constant))]


def _chosen(lifting: Lifting, node: ir.Node) -> Sequence[Form]:
    """A choice by a computed value: maps, and constants that are the same at every position."""
    for position in range(3):
        form = lifting.form(node, position)
        if form is None and constant_input(node, position).size > 1:
            raise refusal(node, "expected a choice between computed values and single constants")
    return stays(lifting, node)


HANDLERS: dict[str, Handler] = {
    **dict.fromkeys(ELEMENTWISE, elementwise),
    **dict.fromkeys(ARITHMETIC, arithmetic),
    "Where": where,
}
