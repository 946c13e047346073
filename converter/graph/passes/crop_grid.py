"""Removes the last rows and columns of the grids of the outputs.

A network's strides may leave out pixels at the far edge of a window. At a finer stride there are cells for these
pixels, and such a cell stands for no window. A Softmax or Sigmoid that ends the network is applied after the crop.
"""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from converter.graph.nodes import END, set_constant_input
from converter.graph.scores import final_activation


class CropGridPass(ir.passes.InPlacePass):
    """Remove a number of rows and of columns at the far edges of every output, `surplus` holds both for each."""

    def __init__(self, surplus: Sequence[Sequence[int]]) -> None:
        super().__init__()
        self._surplus = surplus

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Apply the pass, which keeps the outputs' names and stated shapes."""
        for position, surplus in enumerate(self._surplus):
            if any(surplus):
                _crop_output(model.graph, position, surplus)
        return ir.passes.PassResult(model, modified=any(any(surplus) for surplus in self._surplus))


def _crop_output(graph: ir.Graph, position: int, surplus: Sequence[int]) -> None:
    """Crop one of the outputs."""
    output = graph.outputs[position]
    activation = final_activation(output)
    grid = activation.inputs[0] if activation else output
    assert grid is not None  # noqa: S101 (an activation has an input)
    (cropped,) = crop(graph, grid, surplus).outputs
    if activation:
        activation.replace_input_with(0, cropped)
    else:
        cropped.name, grid.name = grid.name, f"{grid.name}.all"
        cropped.shape, grid.shape = grid.shape, None
        graph.outputs[position] = cropped


def crop(graph: ir.Graph, value: ir.Value, surplus: Sequence[int]) -> ir.Node:
    """Add a Slice that removes `surplus` rows and columns at the far edges of a map; returns the Slice."""
    producer = value.producer()
    assert producer is not None  # noqa: S101 (maps are computed)
    node = ir.node("Slice", [value, None, None, None], name=f"{value.name}.crop")
    node.outputs[0].name, node.outputs[0].type = f"{value.name}.cropped", value.type
    graph.insert_after(producer, node)
    for position, numbers in ((1, [0, 0]), (2, [-count or END for count in surplus]), (3, [2, 3])):
        set_constant_input(graph, node, position, np.array(numbers))
    return node
