"""Concat: channels of one map after those of another."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from converter.graph.affine import Form, whole
from converter.graph.convolutionalizer import Handler, Lifting, stays
from converter.graph.refusals import refusal


def concat(lifting: Lifting, node: ir.Node) -> Sequence[Form]:
    """Maps along the channels stay; other forms become forms of their maps' concatenation."""
    axis = node.attributes["axis"].as_int()
    forms = [_form(lifting, node, position) for position in range(len(node.inputs))]
    if len(forms[0].shape) == 4 and axis % 4 == 1:
        return stays(lifting, node)
    sizes = [form.map.size for form in forms]
    if len({(size[0], *size[2:]) for size in sizes}) > 1:
        if axis % len(forms[0].shape) == 3 and (maps := lifting.settled_last(node, forms)):
            made = (*maps[0].size[:1], sum(each.size[1] for each in maps), *maps[0].size[2:])
            return [whole(lifting.emit(node, "Concat", [each.value for each in maps], made, axis=1)).channels_last]
        raise refusal(node, f"expected maps of one size, got {', '.join(str(size[2:]) for size in sizes)}")
    if not all(form.pure for form in forms):
        raise refusal(node, "expected elements of maps as they are")
    size = (sizes[0][0], sum(size[1] for size in sizes), *sizes[0][2:])
    joined = lifting.emit(node, "Concat", [form.map.value for form in forms], size, axis=1)
    indices, channels = [], 0
    for form in forms:
        image, channel, row, col = form.map.coordinates(form.index)
        indices.append(joined.flat(image, channel + channels, row, col))
        channels += form.map.size[1]
    return [replace(forms[0], map=joined, index=np.concatenate(indices, axis % len(forms[0].shape)))]


def _form(lifting: Lifting, node: ir.Node, position: int) -> Form:
    form = lifting.form(node, position)
    if form is None:
        raise refusal(node, "it adds a constant beside the map (as a class token is), which belongs to no position")
    return form


HANDLERS: dict[str, Handler] = {"Concat": concat}
