"""Lifting: from one row of scores per window to one per window position.

A dataflow pass. What a node makes of a map by windows (convolutions, pools, pointwise operators) grows with the image
by itself and stays. Everything else, a head above all, is followed as a `Form`: what each of its elements is in terms
of a map. Where the head looks at the whole map, the form says which weight meets which element, and the layer becomes
a convolution with a kernel as large as the map, since both are the same sum over the same numbers:

    y[k] = sum over c, i, j of W[k, (c·h + i)·w + j] · x[c, i, j]

Every later fully connected layer sees 1×1 and becomes a 1×1 convolution. One handler an operator, in `handlers`; what
has none, or is not the same at every position, is refused by name.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from converter.graph.affine import Form, Map, Size, Stencil, whole
from converter.graph.nodes import add_constant
from converter.graph.refusals import MIXED_SUMMARY, NOT_THE_SAME_EVERYWHERE, refusal
from converter.graph.rewrites import Rewrite

Attribute = int | float | str | Sequence[int] | ir.Attr


@dataclass(frozen=True)
class Layer:
    """A fully connected layer: `weights` (outputs, features), `bias` (outputs,) or (1,); `name` is the weights'."""

    name: str
    weights: NDArray[Any]
    bias: NDArray[Any] | None = None


@dataclass
class Lifting:
    """The state of the pass: the shapes for one window, and the forms of what is no map of the graph's own."""

    graph: ir.Graph
    shapes: dict[ir.Value, tuple[int, ...]]
    forms: dict[ir.Value, Form] = field(default_factory=dict)
    rewrites: list[Rewrite] = field(default_factory=list)

    def form(self, node: ir.Node, position: int = 0) -> Form | None:
        """What one of a node's inputs is in terms of a map; None for a constant or an input left out."""
        value = node.inputs[position]
        if value is None or value.const_value is not None:
            return None
        return self.form_of(value, node)

    def form_of(self, value: ir.Value, node: ir.Node) -> Form:
        """What a value that depends on the pixels is in terms of a map."""
        if value not in self.forms:
            shape = self.shapes[value]
            if len(shape) != 4:
                raise refusal(node, f"expected a map (N, C, height, width), got shape {shape}")
            return whole(Map(value, (shape[0], shape[1], shape[2], shape[3])))
        return self.forms[value]

    def source(self, node: ir.Node) -> Form:
        """The form of a node's first input."""
        form = self.form(node)
        if form is None:
            raise refusal(node, "expected a computed value as its first input, got a constant")
        return form

    def emit(
        self, after: ir.Node, op_type: str, inputs: Sequence[ir.Value | None], size: Size, **attributes: Attribute
    ) -> Map:
        """Put a new node behind an old one, named after it; returns what it makes, of a known size."""
        new = ir.node(op_type, inputs, attributes, name=f"{after.name}_cells")
        new.outputs[0].name = f"{after.outputs[0].name}_cells"
        self.shapes[new.outputs[0]] = size
        self.graph.insert_after(after, new)
        return Map(new.outputs[0], size)

    def convolve(
        self, node: ir.Node, of: Map, stencil: Stencil, layer: Layer, strides: tuple[int, int] = (1, 1)
    ) -> Map:
        """A fully connected layer of what a stencil takes of a map, as a convolution."""
        kernel, dilations = stencil.kernel(layer.weights, of.size[1])
        bias = layer.bias
        if stencil.offset is not None and stencil.offset.any():
            bias = layer.weights @ stencil.offset + (0 if bias is None else bias)
        inputs = [of.value, add_constant(self.graph, f"{layer.name}.conv", kernel.astype(np.float32, copy=False))]
        if bias is not None:
            inputs.append(
                add_constant(self.graph, f"{node.name}.bias", np.broadcast_to(bias.astype(np.float32), len(kernel)))
            )
        reach = [(extent - 1) * dilation for extent, dilation in zip(kernel.shape[2:], dilations, strict=True)]
        height, width = (
            (extent - far - 1) // stride + 1 for extent, far, stride in zip(of.size[2:], reach, strides, strict=True)
        )
        attributes = {"kernel_shape": list(kernel.shape[2:])}
        attributes |= {
            name: own for name, own in (("dilations", dilations), ("strides", list(strides))) if own != [1, 1]
        }
        return self.emit(node, "Conv", inputs, (of.size[0], len(kernel), height, width), **attributes)

    def mixed(self, node: ir.Node, form: Form, axes: Sequence[int]) -> tuple[Map, NDArray[np.int64]]:
        """The features along some axes as a map's channels, in their order; and the anchor of each row."""
        stencil = form.stencil(axes)
        if stencil is None or not stencil.pointwise:
            raise refusal(node, NOT_THE_SAME_EVERYWHERE)
        return self._selected(node, form.map, stencil, (1, 1)), stencil.anchors

    def settled(self, node: ir.Node, form: Form) -> Map:
        """A form (N, C, h, w) as a map: some channels, a part, every nth row, or blocks of a map as channels."""
        if form.whole:
            return form.map
        stencil, lattice = _lattice(form)
        if (stencil is None or lattice is None) and form.sums_map:
            raise refusal(node, MIXED_SUMMARY)
        if stencil is None or lattice is None:
            what = (
                "positions in another order" if len(form.shape) == 4 else "what was put together of several positions"
            )
            raise refusal(node, f"expected a map (N, C, height, width), got {what}: {form.shape}")
        starts, strides = lattice
        ends = [
            start + (count - 1) * stride + extent - size
            for start, count, stride, extent, size in zip(
                starts, form.shape[2:], strides, stencil.extent, form.map.size[2:], strict=True
            )
        ]
        return self._selected(node, self._cropped(node, form.map, starts, ends), stencil, strides)

    def settled_last(self, node: ir.Node, forms: Sequence[Form]) -> list[Map] | None:
        """Forms (N, h, w, C) as maps (N, C, h, w), parts of maps of several sizes perhaps; None if one is no map."""
        if any(len(form.shape) != 4 for form in forms):
            return None
        first = [form.channels_first for form in forms]
        return [self.settled(node, form) for form in first] if all(map(self.settles, first)) else None

    def settles(self, form: Form) -> bool:
        """Whether a form can be settled."""
        return form.whole or _lattice(form)[1] is not None

    def _cropped(self, node: ir.Node, of: Map, starts: Sequence[int], ends: Sequence[int]) -> Map:
        """A map without some rows and columns at its edges: `starts` from 0 up, `ends` from 0 down."""
        if not any(starts) and not any(ends):
            return of
        stops = [end or np.iinfo(np.int64).max for end in ends]
        bounds = [add_constant(self.graph, f"{node.name}.crop", np.array(part)) for part in (starts, stops, [2, 3])]
        height, width = (size - start + end for size, start, end in zip(of.size[2:], starts, ends, strict=True))
        return self.emit(node, "Slice", [of.value, *bounds], (*of.size[:2], height, width))

    def _selected(self, node: ir.Node, of: Map, stencil: Stencil, strides: tuple[int, int]) -> Map:
        """What a stencil takes of a map: all channels, some, or combinations of elements."""
        count, every = len(stencil.channel), strides == (1, 1)
        if every and stencil.is_channels(of.size[1]):
            return of
        if not every or stencil.mixes:
            unit = Layer(f"{node.name}.mix", np.eye(count, dtype=np.float32))
            return self.convolve(node, of, stencil, unit, strides)
        picked = add_constant(self.graph, f"{node.name}.channels", stencil.channel[:, 0])
        return self.emit(node, "Gather", [of.value, picked], (of.size[0], count, *of.size[2:]), axis=1)

    def report(self, node: ir.Node, was: str, now: str) -> None:
        """Note a rewritten layer."""
        self.rewrites.append(Rewrite(str(node.name), was, now))


def _lattice(form: Form) -> tuple[Stencil | None, tuple[tuple[int, int], tuple[int, int]] | None]:
    """What makes a form (N, C, h, w) a map: the same stencil at the positions of a lattice."""
    stencil = form.stencil([1]) if len(form.shape) == 4 else None
    return stencil, stencil.lattice((form.shape[0], *form.shape[2:])) if stencil else None


Handler = Callable[[Lifting, ir.Node], Sequence[Form]]
"""Returns the forms of a node's outputs; none for a node that stays, its inputs settled."""


def stays(lifting: Lifting, node: ir.Node) -> Sequence[Form]:
    """A node that takes maps and makes maps: what it takes is settled."""
    for position in range(len(node.inputs)):
        form = lifting.form(node, position)
        if form is not None:
            node.replace_input_with(position, lifting.settled(node, form).value)
    return ()
