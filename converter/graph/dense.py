"""Converts a classifier's graph to a network for images of any size: the passes, in their order."""

from pathlib import Path

import onnx_ir as ir
from onnx_ir.passes import common

from converter.graph.converted import ConvertedGraph
from converter.graph.cost import dense_cost
from converter.graph.geometry import check_window, geometries
from converter.graph.passes.canonicalize import CanonicalizePass
from converter.graph.passes.convolutionalize import convolutionalize
from converter.graph.passes.declare_interface import DeclareInterfacePass
from converter.graph.passes.fold_constants import FoldConstantsPass
from converter.graph.passes.inline_branches import InlineBranchesPass
from converter.graph.passes.separate_pads import SeparatePadsPass
from converter.graph.passes.write_out_padding import write_out_padding
from converter.graph.scores import count_classes
from converter.graph.trace import trace


def to_dense(model: ir.Model, window: tuple[int, int], layout: str, scratch: Path) -> ConvertedGraph:
    """Rewrite a classifier of windows (height, width) in place; raises ConversionError if it cannot slide.

    The scores are its only output; `layout` is that of its input, "NCHW" or "NHWC".
    """
    CanonicalizePass()(model)
    traced = trace(model, window, layout, scratch)
    while InlineBranchesPass(traced.constants)(model).modified:
        CanonicalizePass()(model)
        traced = trace(model, window, layout, scratch)
    image, scores = model.graph.inputs[0], model.graph.outputs[0]
    classes = count_classes(scores, traced.shapes[str(scores.name)], traced.shapes[str(image.name)][0])

    FoldConstantsPass(traced)(model)
    common.IdentityEliminationPass()(model)
    common.RemoveUnusedNodesPass()(model)
    padded = write_out_padding(model, traced.shapes)
    convolutional = convolutionalize(model, traced.shapes, layout)
    SeparatePadsPass()(model)
    common.RemoveUnusedNodesPass()(model)
    common.TopologicalSortPass()(model)
    common.NameFixPass()(model)

    image, scores = model.graph.inputs[0], model.graph.outputs[0]
    geometry = geometries(model.graph)[scores]
    check_window(geometry, window)
    channels = convolutional.shapes[image][layout.index("C")]
    axes = [channels if axis == "C" else axis for axis in layout]
    DeclareInterfacePass(axes, ["N", classes, "rows", "cols"])(model)
    sizes = {str(value.name): shape for value, shape in convolutional.shapes.items()}
    return ConvertedGraph(
        model=model,
        mode="dense",
        layout=layout,
        channels=channels,
        classes=classes,
        geometry=geometry,
        cost=dense_cost(model.graph, geometry, sizes, window),
        sizes=sizes,
        rewrites=[*padded.rewrites, *convolutional.rewrites],
    )
