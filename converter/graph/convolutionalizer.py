"""The state of convolutionalization, and its methods for the operators' handlers.

The graph is rewritten while it is traversed. The state records whether each value is a feature map; otherwise it holds
the value's affine view of a feature map. A view has no node in the graph until it must become a map again; then it is
materialized: by a Slice, a Gather of channels, or a convolution.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from converter.graph.affine import AffineView, FeatureMap, Lattice, Size, Stencil, channels_at, identity_view
from converter.graph.nodes import END, add_constant
from converter.graph.operators import ELEMENTWISE, MOVEMENT
from converter.graph.refusals import MIXED_SUMMARY, NOT_THE_SAME_EVERYWHERE, refusal
from converter.graph.rewrites import Rewrite

MAX_COPY_WEIGHTS = 1 << 24
"""Largest number of weights of a convolution that brings features at several positions to one: 64 MiB."""
Attribute = int | float | str | Sequence[int] | ir.Attr


@dataclass(frozen=True)
class FullyConnected:
    """A fully connected layer: `weights` (outputs, features) called `name`, and `bias` (outputs,) or (1,)."""

    name: str
    weights: NDArray[Any]
    bias: NDArray[Any] | None = None


@dataclass
class Convolutionalizer:
    """A graph that is being convolutionalized.

    `shapes` holds the shapes of all values for one window; `views` holds every value that is not itself a feature map;
    `rewrites` holds the layers rewritten so far.
    """

    graph: ir.Graph
    shapes: dict[ir.Value, tuple[int, ...]]
    views: dict[ir.Value, AffineView] = field(default_factory=dict)
    rewrites: list[Rewrite] = field(default_factory=list)

    def view(self, node: ir.Node, position: int = 0) -> AffineView | None:
        """Return one of a node's inputs as a view of a map; None for a constant or an omitted input."""
        value = node.inputs[position]
        return None if value is None or value.const_value is not None else self.view_of(value, node)

    def view_of(self, value: ir.Value, node: ir.Node) -> AffineView:
        """Return a value that depends on the pixels as a view of a map; raises UnsupportedError, naming the node."""
        if value not in self.views:
            shape = self.shapes[value]
            if len(shape) != 4:
                raise refusal(node, f"expected a map (N, C, height, width), got shape {shape}")
            return identity_view(FeatureMap(value, (shape[0], shape[1], shape[2], shape[3])))
        return self.views[value]

    def input_view(self, node: ir.Node) -> AffineView:
        """Return a node's first input as a view of a map; raises UnsupportedError if it is a constant."""
        view = self.view(node)
        if view is None:
            raise refusal(node, "expected a computed value as its first input, got a constant")
        return view

    def emit(
        self, after: ir.Node, op_type: str, inputs: Sequence[ir.Value | None], size: Size, **attributes: Attribute
    ) -> FeatureMap:
        """Insert a new node after a node of the source, named after it; returns its output, a map of a given size."""
        new = ir.node(op_type, inputs, attributes, name=f"{after.name}_cells")
        new.outputs[0].name = f"{after.outputs[0].name}_cells"
        self.shapes[new.outputs[0]] = size
        self.graph.insert_after(after, new)
        return FeatureMap(new.outputs[0], size)

    def convolve(
        self,
        node: ir.Node,
        source: FeatureMap,
        stencil: Stencil,
        layer: FullyConnected,
        strides: tuple[int, int] = (1, 1),
    ) -> FeatureMap:
        """Emit a fully connected layer of a stencil's features as a convolution of the map; returns its output."""
        kernel, dilations = stencil.kernel(layer.weights, source.size[1])
        bias = layer.bias
        if stencil.offset is not None and stencil.offset.any():
            bias = layer.weights @ stencil.offset + (0 if bias is None else bias)
        inputs = [source.value, add_constant(self.graph, f"{layer.name}.conv", kernel.astype(np.float32, copy=False))]
        if bias is not None:
            biases = np.broadcast_to(bias.astype(np.float32), len(kernel))
            inputs.append(add_constant(self.graph, f"{node.name}.bias", biases))
        reach = [(extent - 1) * dilation for extent, dilation in zip(kernel.shape[2:], dilations, strict=True)]
        height, width = (
            (extent - far - 1) // stride + 1
            for extent, far, stride in zip(source.size[2:], reach, strides, strict=True)
        )
        optional = {"dilations": dilations, "strides": list(strides)}
        attributes = {name: numbers for name, numbers in optional.items() if numbers != [1, 1]}
        size = (source.size[0], len(kernel), height, width)
        return self.emit(node, "Conv", inputs, size, kernel_shape=list(kernel.shape[2:]), **attributes)

    def channels_of(self, node: ir.Node, view: AffineView, axes: Sequence[int]) -> tuple[FeatureMap, NDArray[np.int64]]:
        """Return a map whose channels are the features along some axes of a view, and the anchor of each row.

        Raises UnsupportedError, naming the node, if the features are not the same channels at every position.
        """
        stencil = view.stencil(axes)
        if stencil is None or not stencil.is_pointwise:
            raise refusal(node, NOT_THE_SAME_EVERYWHERE)
        return self._apply(node, view.map, stencil, (1, 1)), stencil.anchors

    def features_of(
        self, node: ir.Node, view: AffineView, axes: Sequence[int]
    ) -> tuple[FeatureMap, NDArray[np.int64]] | None:
        """Return a map whose channels are the features along some axes of a view, and the anchor of each row.

        Features at several positions are brought to one by a convolution that copies. Return None if its weights would
        be more than MAX_COPY_WEIGHTS, or if the features are not the same pattern in every row.
        """
        stencil = view.stencil(axes)
        if stencil is None:
            return None
        count = len(stencil.channel)
        if count * view.map.size[1] * math.prod(stencil.extent) > MAX_COPY_WEIGHTS:
            return None
        if stencil.is_pointwise:
            return self._apply(node, view.map, stencil, (1, 1)), stencil.anchors
        copy = FullyConnected(f"{node.name}.copy", np.eye(count, dtype=np.float32))
        return self.convolve(node, view.map, stencil, copy), stencil.anchors

    def select_channels(self, node: ir.Node, source: FeatureMap, channels: NDArray[np.int64]) -> FeatureMap:
        """Emit a Gather of some channels of a map; returns its output."""
        indices = add_constant(self.graph, f"{node.name}.channels", channels)
        size = (source.size[0], len(channels), *source.size[2:])
        return self.emit(node, "Gather", [source.value, indices], size, axis=1)

    def as_selection(self, node: ir.Node, view: AffineView) -> AffineView:
        """Return the same tensor as a selection of the elements of a map, which is made if the view is not one.

        Raises UnsupportedError, naming the node, if no map holds the elements.
        """
        if view.is_selection:
            return view
        features = self.features_of(node, view, [1]) if len(view.shape) == 2 else None
        return identity_view(self.materialize(node, view)) if features is None else channels_at(*features)

    def map_before(self, value: ir.Value | None) -> ir.Value | None:
        """Return the last map before a value, with only movement and pointwise operators between; None without one."""
        while value is not None and len(self.shapes.get(value, ())) != 4:
            producer = value.producer()
            value = producer.inputs[0] if producer is not None and producer.op_type in MOVEMENT | ELEMENTWISE else None
        return value

    def materialize(self, node: ir.Node, view: AffineView) -> FeatureMap:
        """Return a view (N, C, h, w) as a map.

        It may select channels, a part of the map, every nth row or column, or take blocks of the map as channels or
        channels as blocks. Raises UnsupportedError, naming the node, for any other view.
        """
        if view.is_identity:
            return view.map
        if blocks := view.blocks():
            return self._enlarge(node, view, *blocks)
        stencil, lattice = _pattern(view)
        if (stencil is None or lattice is None) and view.sums_whole_map:
            raise refusal(node, MIXED_SUMMARY)
        if stencil is None or lattice is None:
            is_map = len(view.shape) == 4
            what = "positions in another order" if is_map else "values combined from several positions"
            raise refusal(node, f"expected a map (N, C, height, width), got {what}: {view.shape}")
        ends = [
            start + (count - 1) * stride + extent - size
            for start, count, stride, extent, size in zip(
                lattice.first, view.shape[2:], lattice.strides, stencil.extent, view.map.size[2:], strict=True
            )
        ]
        return self._apply(node, self._crop(node, view.map, lattice.first, ends), stencil, lattice.strides)

    def materialize_channels_last(self, node: ir.Node, views: Sequence[AffineView]) -> list[FeatureMap] | None:
        """Return views (N, h, w, C) as maps (N, C, h, w); None if one of them cannot be materialized."""
        if any(len(view.shape) != 4 for view in views):
            return None
        transposed = [view.channels_first for view in views]
        if not all(map(self.can_materialize, transposed)):
            return None
        return [self.materialize(node, view) for view in transposed]

    def can_materialize(self, view: AffineView) -> bool:
        """Return whether a view can be materialized."""
        return view.is_identity or view.blocks() is not None or _pattern(view)[1] is not None

    def _enlarge(self, node: ir.Node, view: AffineView, size: int, channels: NDArray[np.int64]) -> FeatureMap:
        """Emit a DepthToSpace that makes a block of size×size of some channels (C, size, size) at every position."""
        if 1 in view.map.size[2:]:
            raise refusal(node, MIXED_SUMMARY)
        source, order = view.map, channels.ravel()
        if not np.array_equal(order, np.arange(source.size[1])):
            source = self.select_channels(node, source, order)
        batch, count, height, width = view.shape
        return self.emit(
            node, "DepthToSpace", [source.value], (batch, count, height, width), blocksize=size, mode="CRD"
        )

    def _crop(self, node: ir.Node, source: FeatureMap, starts: Sequence[int], ends: Sequence[int]) -> FeatureMap:
        """Crop a map to rows and columns; `starts` count from its beginning, `ends` (0 or less) from its end."""
        if not any(starts) and not any(ends):
            return source
        stops = [end or END for end in ends]
        bounds = [add_constant(self.graph, f"{node.name}.crop", np.array(part)) for part in (starts, stops, [2, 3])]
        height, width = (size - start + end for size, start, end in zip(source.size[2:], starts, ends, strict=True))
        return self.emit(node, "Slice", [source.value, *bounds], (*source.size[:2], height, width))

    def _apply(self, node: ir.Node, source: FeatureMap, stencil: Stencil, strides: tuple[int, int]) -> FeatureMap:
        """Return a map whose channels are a stencil's features, at every position or with strides."""
        count, is_dense = len(stencil.channel), strides == (1, 1)
        if is_dense and stencil.is_all_channels(source.size[1]):
            return source
        if is_dense and stencil.is_pointwise and stencil.channel.shape[1] == 1:
            return self._scale(node, self.select_channels(node, source, stencil.channel[:, 0]), stencil)
        identity = FullyConnected(f"{node.name}.mix", np.eye(count, dtype=np.float32))
        return self.convolve(node, source, stencil, identity, strides)

    def _scale(self, node: ir.Node, source: FeatureMap, stencil: Stencil) -> FeatureMap:
        """Return a map whose channels are multiplied by the weights of a stencil, and shifted by its offsets."""
        for op_type, numbers in (("Mul", stencil.weight), ("Add", stencil.offset)):
            if numbers is not None:
                constant = add_constant(self.graph, f"{node.name}.{op_type}", np.float32(numbers).reshape(1, -1, 1, 1))
                source = self.emit(node, op_type, [source.value, constant], source.size)
        return source

    def record(self, node: ir.Node, was: str, now: str) -> None:
        """Add a rewritten layer to the report."""
        self.rewrites.append(Rewrite(str(node.name), was, now))


Handler = Callable[[Convolutionalizer, ir.Node], Sequence[AffineView]]
"""Rewrites a node; returns its outputs as views, or an empty sequence if the node remains and its outputs are maps."""


def keep_node(state: Convolutionalizer, node: ir.Node) -> Sequence[AffineView]:
    """Keep a node whose inputs and outputs are maps, after materializing its inputs. This function is a handler."""
    for position in range(len(node.inputs)):
        view = state.view(node, position)
        if view is not None:
            node.replace_input_with(position, state.materialize(node, view).value)
    return ()


def _pattern(view: AffineView) -> tuple[Stencil | None, Lattice | None]:
    """Return the stencil of a view (N, C, h, w) and the lattice of its anchors, each None if the view has none."""
    stencil = view.stencil([1]) if len(view.shape) == 4 else None
    return stencil, stencil.lattice((view.shape[0], *view.shape[2:])) if stencil else None
