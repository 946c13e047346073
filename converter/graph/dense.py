"""Converts a classifier's graph to a network for images of any size: the passes, in their order."""

import math
from pathlib import Path

import onnx_ir as ir
from onnx_ir.passes import common

from converter.graph.converted import ConvertedGraph
from converter.graph.cost import dense_cost
from converter.graph.geometry import check_window, geometries, output_geometry
from converter.graph.passes.canonicalize import CanonicalizePass
from converter.graph.passes.convolutionalize import convolutionalize
from converter.graph.passes.declare_interface import DeclareInterfacePass
from converter.graph.passes.fold_constants import FoldConstantsPass
from converter.graph.passes.inline_branches import InlineBranchesPass
from converter.graph.passes.separate_pads import SeparatePadsPass
from converter.graph.passes.write_out_padding import write_out_padding
from converter.graph.scores import SCORES, check_distinct, count_values
from converter.graph.strides import set_stride
from converter.graph.trace import trace


def to_dense(model: ir.Model, window: tuple[int, int], layout: str, scratch: Path) -> ConvertedGraph:
    """Rewrite a classifier of windows (height, width) in place; raises ConversionError if it cannot slide.

    The scores are its first output; `layout` is that of its input, "NCHW" or "NHWC".
    """
    CanonicalizePass()(model)
    traced = trace(model, window, layout, scratch)
    while InlineBranchesPass(traced.constants)(model).modified:
        CanonicalizePass()(model)
        traced = trace(model, window, layout, scratch)
    batch, outputs = traced.shapes[str(model.graph.inputs[0].name)][0], list(model.graph.outputs)
    values = [count_values(output, traced.shapes[str(output.name)], batch) for output in outputs]
    further = dict(zip([str(output.name) for output in outputs[1:]], values[1:], strict=True))

    FoldConstantsPass(traced)(model)
    common.IdentityEliminationPass()(model)
    common.RemoveUnusedNodesPass()(model)
    padded = write_out_padding(model, traced.shapes)
    convolutional = convolutionalize(model, traced.shapes, layout)
    SeparatePadsPass()(model)
    common.RemoveUnusedNodesPass()(model)
    common.TopologicalSortPass()(model)
    common.NameFixPass()(model)

    image = model.graph.inputs[0]
    check_distinct(model.graph.outputs)
    geometry = output_geometry(geometries(model.graph, window), model.graph)
    check_window(geometry, window)
    if any(axis.period > axis.stride for axis in geometry):  # scores between the periods are not those of windows
        geometry = set_stride(model, math.lcm(*(axis.period for axis in geometry)), window)
    channels = convolutional.shapes[image][layout.index("C")]
    axes = [channels if axis == "C" else axis for axis in layout]
    depths = {SCORES: values[0], **further}
    DeclareInterfacePass(axes, {name: ["N", depth, "rows", "cols"] for name, depth in depths.items()})(model)
    sizes = {str(value.name): shape for value, shape in convolutional.shapes.items()}
    return ConvertedGraph(
        model=model,
        mode="dense",
        layout=layout,
        channels=channels,
        classes=values[0],
        further=further,
        geometry=geometry,
        cost=dense_cost(model.graph, geometry, sizes, window),
        sizes=sizes,
        rewrites=[*padded.rewrites, *convolutional.rewrites],
    )
