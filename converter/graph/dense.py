"""From a classifier's graph to a network for any image."""

from pathlib import Path

import onnx_ir as ir
from onnx_ir.passes import common

from converter.graph.branches import take_branches
from converter.graph.canonical import canonicalise, canonicalise_nodes
from converter.graph.converted import ConvertedGraph, finish, row_of_scores
from converter.graph.cost import dense_cost
from converter.graph.geometry import check_window, planes
from converter.graph.handlers import HANDLERS
from converter.graph.lift import lift
from converter.graph.padding import keep_pads_apart, write_out_padding
from converter.graph.trace import fold, trace


def to_dense(model: ir.Model, window: tuple[int, int], layout: str, scratch: Path) -> ConvertedGraph:
    """Rewrite a classifier of windows (height, width) in place; raises ConversionError if it cannot slide.

    The scores are its only output; `layout` is that of its input, "NCHW" or "NHWC".
    """
    canonicalise(model)
    traced = trace(model, window, layout, scratch)
    while take_branches(model, traced.constants):
        canonicalise_nodes(model.graph)
        traced = trace(model, window, layout, scratch)
    image, scores = model.graph.inputs[0], model.graph.outputs[0]
    row_of_scores(scores, traced.shapes[str(scores.name)], traced.shapes[str(image.name)][0])
    fold(model.graph, traced)
    ir.passes.Sequential(common.IdentityEliminationPass(), common.RemoveUnusedNodesPass())(model)
    padded = write_out_padding(model.graph, traced.shapes)
    lifting = lift(model.graph, traced.shapes, layout, HANDLERS)
    keep_pads_apart(model.graph)
    tidy = (common.RemoveUnusedNodesPass(), common.TopologicalSortPass(), common.NameFixPass())
    ir.passes.Sequential(*tidy)(model)
    image, scores = model.graph.inputs[0], model.graph.outputs[0]
    plane = planes(model.graph)[scores]
    check_window(plane, window)
    channels, classes = lifting.shapes[image][layout.index("C")], lifting.shapes[scores][1]
    finish(model, [channels if axis == "C" else axis for axis in layout], ["N", classes, "rows", "cols"])
    sizes = {str(value.name): shape for value, shape in lifting.shapes.items()}
    return ConvertedGraph(
        model=model,
        mode="dense",
        layout=layout,
        channels=channels,
        classes=classes,
        plane=plane,
        cost=dense_cost(model.graph, plane, sizes, window),
        sizes=sizes,
        rewrites=padded + lifting.rewrites,
    )
