"""Adds nodes to the end of a graph under construction, and the indices of its windows.

The graph has a second input, "stride": the pixels between neighbouring windows, vertical before horizontal, (2,) int64.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from converter.graph.nodes import END, add_constant

STRIDE = "stride"
"""Name of the second input."""
INT64 = ir.DataType.INT64
MAX_SLICES = 8
"""Largest number of columns that are cut by a Slice each."""

Attribute = int | Sequence[int]


@dataclass
class Emitter:
    """Emits nodes whose names begin with "shared."; `window` is (height, width), `axes` those of the image."""

    graph: ir.Graph
    window: tuple[int, int]
    axes: tuple[int, int]
    nodes: list[ir.Node] = field(default_factory=list)
    _constants: dict[tuple[int, ...] | int, ir.Value] = field(default_factory=dict)
    _indices: dict[tuple[int, int, int, int], ir.Value] = field(default_factory=dict)
    _starts: dict[tuple[int, int], ir.Value] = field(default_factory=dict)
    counts: list[ir.Value] = field(default_factory=list)
    """Number of windows along each axis, (1,) each."""
    _pixels: list[ir.Value] = field(default_factory=list)
    """Pixels between windows along each axis, (1,) each."""
    _steps: dict[int, ir.Value] = field(default_factory=dict)
    _spans: dict[int, ir.Value] = field(default_factory=dict)

    def begin(self, image: ir.Value, stride: ir.Value) -> None:
        """Count the windows of an image."""
        shape = self.emit("Shape", [image])
        for axis in (0, 1):
            pixels = self.emit("Gather", [shape, self.constant([self.axes[axis]])])
            step = self.emit("Gather", [stride, self.constant([axis])])
            beyond = self.emit("Sub", [pixels, self.constant([self.window[axis]])])
            self.counts.append(self.emit("Add", [self.emit("Div", [beyond, step]), self.constant([1])]))
            numbers = self.emit(
                "Range", [self.constant(0), self.emit("Squeeze", [self.counts[axis]]), self.constant(1)]
            )
            self._starts[axis, 1] = self.emit("Mul", [numbers, step])
            self._pixels.append(step)

    def emit(self, op_type: str, inputs: Sequence[ir.Value | None], **attributes: Attribute) -> ir.Value:
        """Add a node with one output; returns this."""
        return self.add(ir.node(op_type, inputs, attributes)).outputs[0]

    def add(self, node: ir.Node) -> ir.Node:
        """Add a node, and name it and its outputs."""
        node.name = f"shared.{len(self.nodes)}"
        for number, value in enumerate(node.outputs):
            value.name = f"{node.name}.{number}"
        self.nodes.append(node)
        return node

    def constant(self, value: int | Sequence[int]) -> ir.Value:
        """Return a constant of int64."""
        key = value if isinstance(value, int) else tuple(value)
        if key not in self._constants:
            name = f"shared.{'_'.join(map(str, np.atleast_1d(key)))}{'' if isinstance(key, int) else '.list'}"
            self._constants[key] = add_constant(self.graph, name, np.array(value, np.int64))
        return self._constants[key]

    def cells(self, axis: int, stride: int, first: int, count: int) -> ir.Value:
        """Return the indices (windows, count) in the dense map of `count` cells of every window.

        `first` is the index of the first cell of the first window; neighbouring cells are `stride` pixels apart.
        """
        key = axis, stride, first, count
        if key not in self._indices:
            starts = self.emit("Unsqueeze", [self._window_starts(axis, stride), self.constant([1])])
            numbers = self.constant(list(range(first, first + count)))
            self._indices[key] = self.emit("Add", [starts, numbers])
        return self._indices[key]

    def columns(self, value: ir.Value, place: int, stride: int, first: int, count: int) -> ir.Value:
        """Return `count` columns of every window of a value, whose axis `place` becomes the axes (windows, count).

        The other parameters are those of `cells`. A Gather copies single numbers; for few columns, a Slice for each is
        up to twice as fast.
        """
        if count > MAX_SLICES:
            return self.emit("Gather", [value, self.cells(1, stride, first, count)], axis=place)
        after, slices = self.constant([place + 1]), list[ir.Value | None]()
        for column in range(first, first + count):
            start = self.constant([column])
            inputs = [value, start, self.emit("Add", [self._span(stride), start]), self.constant([place])]
            column_of_windows = self.emit("Slice", [*inputs, self._step(stride)])
            slices.append(self.emit("Unsqueeze", [column_of_windows, after]))
        return self.joined(slices, place + 1)

    def _step(self, stride: int) -> ir.Value:
        """Return the cells between the columns of neighbouring windows, (1,)."""
        if stride not in self._steps:
            self._steps[stride] = self.emit("Div", [self._pixels[1], self.constant([stride])])
        return self._steps[stride]

    def _span(self, stride: int) -> ir.Value:
        """Return the cells from the first column of the first window to that of the last, (1,)."""
        if stride not in self._spans:
            between = self.emit("Sub", [self.counts[1], self.constant([1])])
            cells = self.emit("Mul", [between, self._step(stride)])
            self._spans[stride] = self.emit("Add", [cells, self.constant([1])])
        return self._spans[stride]

    def _window_starts(self, axis: int, stride: int) -> ir.Value:
        if (axis, stride) not in self._starts:
            pixels = self._starts[axis, 1]
            self._starts[axis, stride] = self.emit("Div", [pixels, self.constant(stride)])
        return self._starts[axis, stride]

    def sliced(self, value: ir.Value, axis: int, first: int, last: int) -> ir.Value:
        """Return a value without its first and last cells along an axis."""
        if not first and not last:
            return value
        stop = -last if last else END
        return self.emit("Slice", [value, self.constant([first]), self.constant([stop]), self.constant([axis])])

    def cropped(self, value: ir.Value, first: tuple[int, int], last: tuple[int, int]) -> ir.Value:
        """Return a map (N, C, H, W) without its first and last rows and columns."""
        if not any((*first, *last)):
            return value
        stops = [-count if count else END for count in last]
        return self.emit("Slice", [value, self.constant(first), self.constant(stops), self.constant([2, 3])])

    def joined(self, values: Sequence[ir.Value | None], axis: int) -> ir.Value:
        """Return values side by side; None stands for no cells."""
        present = [value for value in values if value is not None]
        return present[0] if len(present) == 1 else self.emit("Concat", present, axis=axis)
