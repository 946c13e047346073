"""Rewrites a dense network so that it gives the classifier's own scores of overlapping windows.

    image (1, H, W, C), pixels between windows (2,)  →  scores (1, classes, rows, cols)

Each layer is repeated for each kind of part (`parts`), with its own padding where a part ends at the window's edge and
with none elsewhere. Where a layer would share nothing, or where the part that windows share is small, the windows are
put together, and the rest of the network runs on each window.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

import onnx_ir as ir
from onnx_ir.passes import common

from converter.graph.cost import counted_value
from converter.graph.nodes import constant_input, conv_weights, ints, kernel_shape
from converter.graph.operators import WINDOWED
from converter.graph.passes.fold_pads import FoldPadsPass
from converter.graph.sharing.cost import SharedCost
from converter.graph.sharing.emitter import INT64, STRIDE, Emitter
from converter.graph.sharing.margins import AxisMargins, AxisReads
from converter.graph.sharing.parts import DENSE, NEAR, Kind, Parts, blocks, windows
from converter.graph.sharing.states import Grid, State, Windows
from converter.graph.upsampling import UPSAMPLING, upsampling

WORTHWHILE = 0.95
"""Largest number of cells per window of a layer that is shared, as a fraction of the cells of one window."""
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Layer:
    """The spatial part of an operator: a convolution or pool, or a Pad or Slice of the map."""

    reach: tuple[int, int]
    strides: tuple[int, int]
    before: tuple[int, int]
    after: tuple[int, int]
    factors: tuple[int, int] = (1, 1)
    """Cells of the output for each cell of the input."""
    shares: bool = True
    """Whether it can run on parts: its padding does not depend on far cells, and it does not enlarge the map."""

    @property
    def is_pointwise(self) -> bool:
        """Whether each cell reads the cell at the same place alone."""
        is_one = (self.reach, self.strides, self.before, self.after) == ((1, 1), (1, 1), (0, 0), (0, 0))
        return is_one and self.shares

    def size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the cells of the output."""
        rows, cols = (
            ((cells - 1) * factor + 1 + before + after - reach) // stride + 1
            for cells, factor, before, after, reach, stride in zip(
                size, self.factors, self.before, self.after, self.reach, self.strides, strict=True
            )
        )
        return rows, cols


def layer_of(node: ir.Node) -> Layer | None:
    """Return the spatial part of an operator; None if it has none."""
    if node.op_type in WINDOWED:
        strides, dilations = (ints(node, name, [1, 1]) for name in ("strides", "dilations"))
        pads, kernel = ints(node, "pads", [0] * 4), kernel_shape(node)
        reach = [(extent - 1) * dilation + 1 for extent, dilation in zip(kernel, dilations, strict=True)]
        return Layer((reach[0], reach[1]), (strides[0], strides[1]), (pads[0], pads[1]), (pads[2], pads[3]))
    if node.op_type in UPSAMPLING:
        down, across = upsampling(node)
        return Layer(
            (1, 1), (1, 1), (0, 0), (down.last - 1, across.last - 1), (down.factor, across.factor), shares=False
        )
    if node.op_type == "Pad":
        pads = constant_input(node, 1).tolist()
        is_constant = node.attributes.get_string("mode", "constant") in ("constant", "edge")
        return Layer((1, 1), (1, 1), (pads[2], pads[3]), (pads[6], pads[7]), shares=is_constant)
    if node.op_type == "Slice" and constant_input(node, 3).tolist() == [2, 3]:
        starts, stops = (constant_input(node, position).tolist() for position in (1, 2))
        ends = [min(stop, 0) for stop in stops]
        return Layer((1, 1), (1, 1), (-starts[0], -starts[1]), (ends[0], ends[1]))
    return None


@dataclass
class Sharer:
    """A graph that is being rewritten for strides that are multiples of `level` pixels, vertical before horizontal."""

    graph: ir.Graph
    emitter: Emitter
    level: tuple[int, int]
    shapes: Shapes
    states: dict[ir.Value, State] = field(default_factory=dict)
    cost: SharedCost = field(default_factory=SharedCost)

    def run(self, node: ir.Node) -> None:
        """Add what a node of the dense network becomes."""
        sources = [value for value in node.inputs if value is not None and value in self.states]
        if not sources:
            self.emitter.nodes.append(node)
            return
        layer = layer_of(node)
        if layer is not None and not layer.is_pointwise:
            self._run_layer(node, layer, sources[0])
        else:
            self._run_pointwise(node, sources)

    def _run_layer(self, node: ir.Node, layer: Layer, source: ir.Value) -> None:
        self._share_layer(node, layer, source)
        self.cost.pass_window(self.states[source], self.states[node.outputs[0]])

    def _share_layer(self, node: ir.Node, layer: Layer, source: ir.Value) -> None:
        state = self.states[source]
        if isinstance(state, Parts):
            reads = self._reads(state, layer)
            if reads is not None:
                found = blocks(self.emitter, state, reads)
                after = (reads[0].after, reads[1].after)
                maps = {kind: self._padded(node, source, block, kind, reads) for kind, block in found.items()}
                shared = Parts(*after, self._channels(node, state), maps)
                self.cost.move(state, shared)
                self._set(node, [shared])
                return
            state = self._whole(source)
        if isinstance(state, Grid):
            state = self._spread(state)
        size = layer.size(state.size)
        is_head = size == (1, 1) and layer.reach == state.size and not any((*layer.before, *layer.after))
        if is_head and node.op_type == "Conv":
            value = self._clone(node, {source: self._tiled(state)}, strides=list(state.size))
            self._set(node, [Grid(value[0], self._channels(node, state))])
            return
        value = self._clone(node, {source: state.value})
        whole = Windows(value[0], self._channels(node, state), size)
        self._set(node, [self._gathered(whole) if is_head else whole])

    def _run_pointwise(self, node: ir.Node, sources: Sequence[ir.Value]) -> None:
        states = self._aligned(sources)
        first = states[sources[0]]
        if isinstance(first, Parts):
            made = list[dict[Kind, ir.Value]]([{} for _ in node.outputs])
            for kind in first.maps:
                inputs = {source: state.maps[kind] for source, state in states.items() if isinstance(state, Parts)}
                for output, value in zip(made, self._clone(node, inputs), strict=True):
                    output[kind] = value
            after = [
                replace(first, maps=maps, channels=self._channels(node, first, position))
                for position, maps in enumerate(made)
            ]
            self._set(node, after)
            return
        values = self._clone(
            node, {source: state.value for source, state in states.items() if not isinstance(state, Parts)}
        )
        self._set(
            node,
            [
                replace(first, value=value, channels=self._channels(node, first, position))
                for position, value in enumerate(values)
            ],
        )

    def _reads(self, parts: Parts, layer: Layer) -> tuple[AxisReads, AxisReads] | None:
        """Return what a layer reads; None if it should run on whole windows."""
        if not layer.shares:
            return None
        found = list[AxisReads]()
        for axis, margins in enumerate(parts.axes):
            reads = margins.after_layer(
                reach=layer.reach[axis],
                stride=layer.strides[axis],
                before=layer.before[axis],
                after=layer.after[axis],
            )
            if reads is None or self.level[axis] % reads.after.stride:
                return None
            found.append(reads)
        per_window = math.prod(
            self.level[axis] // reads.after.stride + reads.after.near + reads.after.far
            for axis, reads in enumerate(found)
        )
        if per_window > WORTHWHILE * math.prod(reads.after.size for reads in found):
            return None
        return found[0], found[1]

    def _padded(
        self, node: ir.Node, source: ir.Value, block: ir.Value, kind: Kind, reads: tuple[AxisReads, AxisReads]
    ) -> ir.Value:
        """Return a layer of one part, which is padded where it ends at the window's edge."""
        before, after = zip(*(_pads(each, side) for side, each in zip(kind, reads, strict=True)), strict=True)
        pads = [*before, *after]
        if node.op_type in WINDOWED:
            return self._clone(node, {source: block}, pads=pads)[0]
        if node.op_type == "Slice" or not any(pads):
            return block
        amounts = self.emitter.constant([0, 0, *before, 0, 0, *after])
        clone = ir.node("Pad", [block, amounts, *node.inputs[2:]], node.attributes)
        return self.emitter.add(clone).outputs[0]

    def _aligned(self, sources: Sequence[ir.Value]) -> Mapping[ir.Value, State]:
        """Return values of one form: parts with the same margins, whole windows, or grids."""
        parts = {source: state for source in sources if isinstance(state := self.states[source], Parts)}
        if len(parts) == len(set(sources)):
            axes = list(zip(*(state.axes for state in parts.values()), strict=True))
            widest = [(max(axis.near for axis in each), max(axis.far for axis in each)) for each in axes]
            if all(near + far < each[0].size for (near, far), each in zip(widest, axes, strict=True)):
                return {source: self._widened(state, widest) for source, state in parts.items()}
        grids = {source: state for source in sources if isinstance(state := self.states[source], Grid)}
        if len(grids) == len(set(sources)):
            return grids
        return {source: self._spread(grids[source]) if source in grids else self._whole(source) for source in sources}

    def _widened(self, parts: Parts, widest: Sequence[tuple[int, int]]) -> Parts:
        """Return parts with wider margins; what they gain is dense."""
        if all((axis.near, axis.far) == wanted for axis, wanted in zip(parts.axes, widest, strict=True)):
            return parts
        reads = [axis.widened(*wanted) for axis, wanted in zip(parts.axes, widest, strict=True)]
        maps = blocks(self.emitter, parts, (reads[0], reads[1]))
        wider = Parts(reads[0].after, reads[1].after, parts.channels, maps)
        self.cost.move(parts, wider)
        return wider

    def _whole(self, source: ir.Value) -> Windows:
        """Return a value as whole windows, and keep it in this form."""
        state = self.states[source]
        if isinstance(state, Parts):
            whole = Windows(windows(self.emitter, state), state.channels, state.size)
            self.cost.move(state, whole)
            state = self.states[source] = whole
        return cast("Windows", state)

    def _tiled(self, state: Windows) -> ir.Value:
        """Return whole windows side by side: (1, C, rows · height, cols · width)."""
        emitter, (height, width) = self.emitter, state.size
        split = self._reshaped(state.value, [*emitter.counts, state.channels, height, width])
        moved = emitter.emit("Transpose", [split], perm=[2, 0, 3, 1, 4])
        rows, cols = (
            emitter.emit("Mul", [count, emitter.constant([size])])
            for count, size in zip(emitter.counts, state.size, strict=True)
        )
        return self._reshaped(moved, [1, state.channels, rows, cols])

    def _gathered(self, state: Windows) -> Grid:
        """Return maps of one cell as a grid."""
        split = self._reshaped(state.value, [*self.emitter.counts, state.channels])
        moved = self.emitter.emit("Transpose", [split], perm=[2, 0, 1])
        return Grid(self.emitter.emit("Unsqueeze", [moved, self.emitter.constant([0])]), state.channels)

    def _spread(self, state: Grid) -> Windows:
        """Return a grid as maps of one cell."""
        moved = self.emitter.emit("Transpose", [state.value], perm=[2, 3, 1, 0])
        shape = self.emitter.constant([-1, state.channels, 1, 1])
        return Windows(self.emitter.emit("Reshape", [moved, shape]), state.channels, (1, 1))

    def grid(self, source: ir.Value) -> ir.Value:
        """Return the scores (1, classes, rows, cols)."""
        state = self.states[source]
        if isinstance(state, Grid):
            return state.value
        return self._gathered(self._whole(source)).value

    def _reshaped(self, value: ir.Value, sizes: Sequence[ir.Value | int]) -> ir.Value:
        parts = [self.emitter.constant([size]) if isinstance(size, int) else size for size in sizes]
        return self.emitter.emit("Reshape", [value, self.emitter.emit("Concat", parts, axis=0)])

    def _clone(
        self, node: ir.Node, inputs: Mapping[ir.Value, ir.Value], **changed: Sequence[int]
    ) -> Sequence[ir.Value]:
        """Add a copy of a node with other inputs and attributes; returns its outputs."""
        attributes = dict(node.attributes) | {name: ir.AttrInt64s(name, value) for name, value in changed.items()}
        taken = [inputs.get(value, value) if value is not None else None for value in node.inputs]
        copy = ir.Node(node.domain, node.op_type, taken, list(attributes.values()), num_outputs=len(node.outputs))
        for old, new in zip(node.outputs, copy.outputs, strict=True):
            new.type = old.type
        return self.emitter.add(copy).outputs

    def _channels(self, node: ir.Node, source: State, position: int = 0) -> int:
        """Return the channels of one of a node's outputs; `source` is its first input."""
        shape = self.shapes.get(str(node.outputs[position].name))
        channels = shape[1] if shape is not None and len(shape) == 4 else source.channels
        match node.op_type:
            case "Conv":
                channels = int(conv_weights(node).shape.numpy()[0])
            case "ConvTranspose":
                channels = int(conv_weights(node).shape.numpy()[1]) * node.attributes.get_int("group", 1)
            case "Concat":
                channels = sum(self._channels_of(value) for value in node.inputs if value is not None)
            case "Gather":
                channels = int(constant_input(node, 1).size)
            case "Slice" if constant_input(node, 3).tolist() == [1]:
                first, stop = (int(constant_input(node, place)[0]) for place in (1, 2))
                step = int(constant_input(node, 4)[0]) if len(node.inputs) > 4 else 1
                channels = len(range(source.channels)[first:stop:step])
            case "Split" if len(node.inputs) > 1:
                channels = int(constant_input(node, 1)[position])
            case "Split":
                channels = source.channels // len(node.outputs)
        return channels

    def _channels_of(self, value: ir.Value) -> int:
        """Return the channels of a value of the dense network, or of a constant (1, C, 1, 1)."""
        if value in self.states:
            return self.states[value].channels
        assert value.const_value is not None  # noqa: S101 (other values depend on the image)
        return int(value.const_value.shape.numpy()[1])

    def _set(self, node: ir.Node, states: Sequence[State]) -> None:
        self.states.update(zip(node.outputs, states, strict=True))
        taken = [self.states[value] for value in node.inputs if value is not None and value in self.states]
        self.cost.hold([*taken, *states])
        counted = counted_value(node)
        if counted is not None:
            self.cost.count(math.prod(conv_weights(node).shape.numpy()), self.states[counted])


def _pads(reads: AxisReads, side: str) -> tuple[int, int]:
    """Return the padding before and after a part along one axis."""
    if side == DENSE:
        return reads.dense_pads
    return (reads.pads[0], 0) if side == NEAR else (0, reads.pads[1])


def share(
    dense: ir.Model,
    layout: str,
    window: tuple[int, int],
    shapes: Shapes,
    level: tuple[int, int],
    limit: int | None = None,
) -> tuple[ir.Model, SharedCost]:
    """Return a copy of a dense network that gives the classifier's own scores, and its cost.

    The pixels between windows must be multiples of `level`, vertical before horizontal. `shapes` holds the shapes of
    the dense network's values for one window, by name. With `limit`, margins are cut off at this number of cells, and
    the scores are no longer the classifier's own.
    """
    model = dense.clone()
    FoldPadsPass()(model)
    graph, originals = model.graph, list(model.graph)
    image = graph.inputs[0]
    assert image.shape is not None  # noqa: S101 (a dense network states the shape of its image)
    channels = image.shape[layout.index("C")]
    assert isinstance(channels, int)  # noqa: S101 (and its channels)
    image.shape = ir.Shape([1, *image.shape[1:]])
    stride = ir.val(STRIDE, INT64, ir.Shape([2]))
    graph.inputs.append(stride)

    emitter = Emitter(graph, window, (layout.index("H"), layout.index("W")))
    emitter.begin(image, stride)
    sharer = Sharer(graph, emitter, level, shapes)
    down, across = (AxisMargins(size, limit=limit) for size in window)
    sharer.states[image] = Parts(down, across, channels, {(DENSE, DENSE): image})
    for node in originals:
        sharer.run(node)
    for position, output in enumerate(graph.outputs):
        grid = sharer.grid(output)
        grid.name, grid.shape, grid.type = output.name, output.shape, output.type
        output.name = f"{output.name}.dense"
        graph.outputs[position] = grid
    graph.remove(originals)
    graph.extend(emitter.nodes)
    common.RemoveUnusedNodesPass()(model)
    return model, sharer.cost
