"""Adds nodes to the end of a graph under construction, and the indices of its windows.

The graph has a second input, "stride": the pixels between neighbouring windows, vertical before horizontal, (2,) int64.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from converter.graph.nodes import add_constant

STRIDE = "stride"
"""Name of the second input."""
INT64 = ir.DataType.INT64

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

    def _window_starts(self, axis: int, stride: int) -> ir.Value:
        if (axis, stride) not in self._starts:
            pixels = self._starts[axis, 1]
            self._starts[axis, stride] = self.emit("Div", [pixels, self.constant(stride)])
        return self._starts[axis, stride]

    def sliced(self, value: ir.Value, axis: int, first: int, last: int) -> ir.Value:
        """Return a value without its first and last cells along an axis."""
        if not first and not last:
            return value
        stop = -last if last else np.iinfo(np.int64).max
        return self.emit("Slice", [value, self.constant([first]), self.constant([int(stop)]), self.constant([axis])])

    def joined(self, values: Sequence[ir.Value | None], axis: int) -> ir.Value:
        """Return values side by side; None stands for no cells."""
        present = [value for value in values if value is not None]
        return present[0] if len(present) == 1 else self.emit("Concat", present, axis=axis)
