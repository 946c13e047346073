"""What a conversion makes of a classifier's graph, with what is known of it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir

from converter.errors import UnsupportedError
from converter.graph.geometry import Plane
from converter.graph.lift import Rewrite
from converter.graph.operators import MOVEMENT
from fullconv.protos import model_pb2

SCORES = "scores"
PASSED_THROUGH = MOVEMENT | {"Cast", "Clip"}
"""What may lie between an activation and the scores that it makes."""


@dataclass(frozen=True)
class ConvertedGraph:
    """A graph that takes an image in `layout` and gives "scores" (N, classes, rows, cols).

    `mode` is "dense" if it takes images of any size, "crops" if windows alone: one cell each. `sizes` are the shapes
    of its values for one window, by name.
    """

    model: ir.Model
    mode: str
    layout: str
    channels: int
    classes: int
    plane: Plane
    cost: model_pb2.Cost
    sizes: Mapping[str, tuple[int, ...]]
    rewrites: list[Rewrite]

    @property
    def activation(self) -> str | None:
        """The operator that ends the network, if it makes probabilities: "Softmax" or "Sigmoid"."""
        node = ending_activation(self.model.graph.outputs[0])
        return node.op_type if node else None


def ending_activation(output: ir.Value) -> ir.Node | None:
    """The Softmax or Sigmoid that a value comes out of, perhaps by way of a cast or a change of shape."""
    node = output.producer()
    while node is not None and node.op_type in PASSED_THROUGH and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    return node if node is not None and node.op_type in ("Softmax", "Sigmoid") else None


def row_of_scores(output: ir.Value, shape: tuple[int, ...], batch: int) -> int:
    """How many classes an output has for one window; raises UnsupportedError unless it is one row of them."""
    classes = max(shape[1:], default=1)
    if not shape or math.prod(shape) != batch * classes:
        raise UnsupportedError(
            f"output {output.name!r}: expected one row of scores per window, got shape {shape}; is it a classifier?"
        )
    return classes


def finish(model: ir.Model, image: list[int | str], scores: list[int | str]) -> None:
    """Name the graph's output and state the shapes of its ends, in place."""
    graph = model.graph
    graph.inputs[0].shape = ir.Shape(image)
    claim_name(graph, graph.outputs[0], SCORES)
    graph.outputs[0].shape, graph.outputs[0].dtype = ir.Shape(scores), ir.DataType.FLOAT


def claim_name(graph: ir.Graph, value: ir.Value, name: str) -> None:
    """Give a value a name; whatever else has it is renamed."""
    others = [*graph.inputs, *graph.initializers.values(), *(output for node in graph for output in node.outputs)]
    for other in others:
        if other is not value and other.name == name:
            other.name = f"{name}_of_source"
    value.name = name
