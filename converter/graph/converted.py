"""A converted graph, with its geometry, its cost and the layers that were rewritten."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from converter.graph.geometry import Geometry2D
from converter.graph.rewrites import Rewrite
from converter.graph.scores import final_activation
from fullconv.protos import model_pb2


@dataclass(frozen=True)
class ConvertedGraph:
    """A graph that takes an image in `layout` and returns "scores" (N, classes, rows, cols), and further grids.

    `mode` is "dense" if it takes images of any size, and "crops" if it takes single windows and returns one cell for
    each. `further` holds the number of values of each further output, by name. `sizes` holds the shapes of its values
    for one window, by name.
    """

    model: ir.Model
    mode: str
    layout: str
    channels: int
    classes: int
    further: Mapping[str, int]
    geometry: Geometry2D
    cost: model_pb2.Cost
    sizes: Mapping[str, tuple[int, ...]]
    rewrites: Sequence[Rewrite]

    @property
    def activation(self) -> str | None:
        """The operator that ends the network, if it makes probabilities: "Softmax" or "Sigmoid"."""
        node = final_activation(self.model.graph.outputs[0])
        return node.op_type if node else None
