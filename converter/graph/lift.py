"""Lifting the head: from one vector per image to one per window position.

A dataflow pass. A spatial tensor (N, C, h, w) is a *map*: it grows with the image by itself. From the point where the
head looks at the whole map, a value is *cells*: what it says of one window, for every position of the window. A
flattened map of C×h×w becomes cells that still spread over h×w positions; the fully connected layer that follows is
a convolution with a kernel of h×w, since both are the same sum over the same numbers:

    y[k] = sum over c, i, j of W[k, (c·h + i)·w + j] · x[c, i, j]

Every later fully connected layer sees 1×1 and becomes a 1×1 convolution. One handler an operator, in `heads`; what has
none is refused by name.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from converter.errors import UnsupportedError
from converter.graph.trace import Shapes


@dataclass(frozen=True)
class Cells:
    """A head's value, lifted: `value` is (N, C, ...) and each window's features spread over height×width of it."""

    value: ir.Value
    channels: int
    height: int = 1
    width: int = 1

    @property
    def contracted(self) -> bool:
        """Whether one position of `value` holds all features of one window."""
        return self.height == self.width == 1

    @property
    def features(self) -> int:
        """Length of the vector in the original head."""
        return self.channels * self.height * self.width


@dataclass(frozen=True)
class Rewrite:
    """One rewritten layer, for the report: "Gemm 25088→4096" became "Conv 7×7, 512→4096"."""

    node: str
    was: str
    now: str


@dataclass
class Lifting:
    """The state of the pass: what has become of the head's values so far."""

    graph: ir.Graph
    shapes: Shapes
    cells: dict[ir.Value, Cells] = field(default_factory=dict)
    rewrites: list[Rewrite] = field(default_factory=list)

    def shape(self, value: ir.Value) -> tuple[int, ...]:
        """A value's shape for one window of the training size."""
        if value.const_value is not None:
            return tuple(value.const_value.shape.numpy())
        return self.shapes[str(value.name)]

    def constant(self, node: ir.Node, position: int) -> NDArray[np.float32]:
        """The constant at one of a node's inputs; raises UnsupportedError if it is none."""
        value = node.inputs[position]
        if value is None or value.const_value is None:
            raise refusal(node, f"expected constant weights at input {position}, got a computed value")
        array: NDArray[np.float32] = value.const_value.numpy()
        return array

    def initializer(self, name: str, array: NDArray[np.float32]) -> ir.Value:
        """Add a constant to the graph, under a name of its own."""
        while name in self.graph.initializers:
            name += "_"
        tensor = ir.tensor(np.ascontiguousarray(array), name=name)
        value = ir.val(name, tensor.dtype, array.shape, const_value=tensor)
        self.graph.register_initializer(value)
        return value

    def emit(self, after: ir.Node, node: ir.Node) -> ir.Value:
        """Put a new node behind an old one, named after it."""
        node.name = f"{after.name}_cells"
        node.outputs[0].name = f"{after.outputs[0].name}_cells"
        self.graph.insert_after(after, node)
        return node.outputs[0]

    def report(self, node: ir.Node, was: str, now: str) -> None:
        """Note a rewritten layer."""
        self.rewrites.append(Rewrite(str(node.name), was, now))


Handler = Callable[[Lifting, ir.Node], Cells | None]
"""Returns what a node's output becomes, or None for a node of the trunk that stays as it is."""


def lift(graph: ir.Graph, shapes: Shapes, handlers: Mapping[str, Handler]) -> list[Rewrite]:
    """Rewrite the head in place; the output becomes scores (N, classes, rows, cols).

    Raises UnsupportedError, naming the node, if something in the head has no handler.
    """
    lifting = Lifting(graph, shapes)
    images = {graph.inputs[0]}
    for node in list(graph):
        if not images.intersection(node.inputs):
            continue
        images.update(node.outputs)
        if node.op_type == "Shape":
            images.difference_update(node.outputs)
            continue
        lifted = handlers.get(node.op_type, _unknown)(lifting, node)
        if lifted is not None:
            lifting.cells[node.outputs[0]] = lifted
    graph.outputs[:] = [_scores(lifting, graph.outputs[0])]
    return lifting.rewrites


def refusal(node: ir.Node, reason: str) -> UnsupportedError:
    """An error that names the node: "node 'fc' (Gemm): ..."."""
    return UnsupportedError(f"node {node.name!r} ({node.op_type}): {reason}")


def _unknown(lifting: Lifting, node: ir.Node) -> Cells | None:
    if any(value in lifting.cells for value in node.inputs):
        raise refusal(node, "no fully-convolutional form of this operator in a head is known")
    shape = lifting.shape(node.outputs[0])
    if len(shape) != 4:
        raise refusal(node, f"expected maps (N, C, height, width) up to the head, got shape {shape}")
    return None


def _scores(lifting: Lifting, output: ir.Value) -> ir.Value:
    shape = lifting.shape(output)
    if output in lifting.cells:
        cells = lifting.cells[output]
        if cells.contracted:
            return cells.value
    elif len(shape) == 4 and shape[2:] == (1, 1):
        return output
    raise UnsupportedError(
        f"output {output.name!r}: expected one vector of scores per window, got shape {shape}; is it a classifier?"
    )
