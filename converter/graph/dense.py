"""From a classifier's graph to a network for any image, with what is known of it."""

from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir
from onnx_ir.passes import common

from converter.graph.branches import take_branches
from converter.graph.canonical import canonicalise
from converter.graph.cost import cost
from converter.graph.geometry import Plane, check_window, planes
from converter.graph.handlers import HANDLERS
from converter.graph.lift import Rewrite, lift
from converter.graph.padding import write_out_padding
from converter.graph.trace import fold, trace
from protos import model_pb2

SCORES = "scores"
PASSED_THROUGH = {"Cast", "Clip", "Flatten", "Identity", "Reshape", "Squeeze"}


@dataclass(frozen=True)
class DenseNetwork:
    """A fully-convolutional network: (N, channels, H, W) in, "scores" (N, classes, rows, cols) out."""

    model: ir.Model
    channels: int
    classes: int
    plane: Plane
    cost: model_pb2.Cost
    rewrites: list[Rewrite]

    @property
    def activation(self) -> str | None:
        """The operator that ends the network, if it makes probabilities: "Softmax" or "Sigmoid"."""
        node = ending_activation(self.model.graph.outputs[0])
        return node.op_type if node else None


def rewrite(model: ir.Model, output: int, window: tuple[int, int], layout: str, scratch: Path) -> DenseNetwork:
    """Rewrite a classifier of windows (height, width) in place; raises ConversionError if it cannot slide.

    `output` is the position of the scores among the graph's outputs.
    """
    model.graph.outputs[:] = [model.graph.outputs[output]]
    canonicalise(model)
    traced = trace(model, window, layout, scratch)
    while take_branches(model, traced.constants):
        traced = trace(model, window, layout, scratch)
    fold(model.graph, traced.constants)
    common.RemoveUnusedNodesPass()(model)
    padded = write_out_padding(model.graph, traced.shapes)
    lifting = lift(model.graph, traced.shapes, layout, HANDLERS)
    tidy = (common.RemoveUnusedNodesPass(), common.TopologicalSortPass(), common.NameFixPass())
    ir.passes.Sequential(*tidy)(model)
    known = planes(model.graph)
    check_window(known[model.graph.outputs[0]], window)
    image, scores = model.graph.inputs[0], model.graph.outputs[0]
    channels, classes = lifting.shapes[image][layout.index("C")], lifting.shapes[scores][1]
    counted = cost(model.graph, known, lifting.shapes)
    image.shape = ir.Shape([channels if axis == "C" else axis for axis in layout])
    claim_name(model.graph, scores, SCORES)
    scores.shape, scores.dtype = ir.Shape(["N", classes, "rows", "cols"]), ir.DataType.FLOAT
    return DenseNetwork(model, channels, classes, known[scores], counted, padded + lifting.rewrites)


def ending_activation(output: ir.Value) -> ir.Node | None:
    """The Softmax or Sigmoid that a value comes out of, perhaps by way of a cast or a change of shape."""
    node = output.producer()
    while node is not None and node.op_type in PASSED_THROUGH and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    return node if node is not None and node.op_type in ("Softmax", "Sigmoid") else None


def claim_name(graph: ir.Graph, value: ir.Value, name: str) -> None:
    """Give a value a name; whatever else has it is renamed."""
    others = [*graph.inputs, *graph.initializers.values(), *(output for node in graph for output in node.outputs)]
    for other in others:
        if other is not value and other.name == name:
            other.name = f"{name}_of_source"
    value.name = name
