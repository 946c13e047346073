"""Prepares a classifier that cannot slide for mode crops, with the same input and output as a dense network."""

from pathlib import Path

import onnx_ir as ir
from onnx_ir.passes import common

from converter.graph.batches import scored_batch
from converter.graph.converted import ConvertedGraph
from converter.graph.cost import crop_cost
from converter.graph.geometry import AxisGeometry, Geometry2D
from converter.graph.passes.declare_interface import DeclareInterfacePass
from converter.graph.passes.reshape_outputs import ReshapeOutputsPass
from converter.graph.passes.separate_pads import SeparatePadsPass
from converter.graph.scores import SCORES, count_values
from converter.graph.trace import trace

OVERLAP = 2
"""Number of windows that cover a pixel along each axis: the default stride is a window's side divided by this."""


def to_crops(
    model: ir.Model, window: tuple[int, int], layout: str, scratch: Path, *, stride: int | None
) -> ConvertedGraph:
    """Give the outputs for one window (height, width) the shape of grids of one cell, in place.

    `stride` is the default number of pixels between windows; None stands for half a window. If the scores of a window
    depend on the other windows of its batch, the network takes one window at a time. Raises UnsupportedError if its
    batches have a fixed size above 1.
    """
    graph = model.graph
    common.RemoveUnusedNodesPass()(model)
    common.ClearMetadataAndDocStringPass()(model)
    SeparatePadsPass()(model)
    shapes = trace(model, window, layout, scratch).shapes
    image = graph.inputs[0]
    batch, channels = shapes[str(image.name)][0], shapes[str(image.name)][layout.index("C")]
    values = [count_values(output, shapes[str(output.name)], batch) for output in graph.outputs]
    further = dict(zip([str(output.name) for output in graph.outputs[1:]], values[1:], strict=True))
    axes = {"N": scored_batch(model, shapes[str(image.name)], scratch), "C": channels, "H": window[0], "W": window[1]}
    ReshapeOutputsPass(values)(model)
    depths = {SCORES: values[0], **further}
    DeclareInterfacePass(
        [axes[axis] for axis in layout], {name: [axes["N"], depth, 1, 1] for name, depth in depths.items()}
    )(model)
    strides = [stride or max(1, size // OVERLAP) for size in window]
    geometry = Geometry2D(AxisGeometry(strides[0], window[0]), AxisGeometry(strides[1], window[1]))
    return ConvertedGraph(
        model=model,
        mode="crops",
        layout=layout,
        channels=channels,
        classes=values[0],
        further=further,
        geometry=geometry,
        cost=crop_cost(graph, geometry, shapes, window),
        sizes=shapes,
        rewrites=[],
    )
