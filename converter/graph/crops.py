"""A classifier that no single pass can slide, for scoring window by window: the network itself, with the same ends."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from converter.graph.constants import constant
from converter.graph.converted import ConvertedGraph, finish, row_of_scores
from converter.graph.cost import crop_cost
from converter.graph.geometry import Axis
from converter.graph.padding import keep_pads_apart
from converter.graph.trace import trace

OVERLAP = 2
"""Windows begin every half window unless told."""


def to_crops(
    model: ir.Model, window: tuple[int, int], layout: str, scratch: Path, *, stride: int | None
) -> ConvertedGraph:
    """Give the scores of one window, (N, classes), the shape of a grid of one cell, in place.

    `stride` is how many pixels windows lie apart unless a request says otherwise; None for half a window.
    """
    graph = model.graph
    ir.passes.Sequential(common.RemoveUnusedNodesPass(), common.ClearMetadataAndDocStringPass())(model)
    keep_pads_apart(graph)
    shapes = trace(model, window, layout, scratch).shapes
    image = graph.inputs[0]
    assert image.shape is not None  # noqa: S101 (readers check it)
    batch, channels = shapes[str(image.name)][0], shapes[str(image.name)][layout.index("C")]
    classes = row_of_scores(graph.outputs[0], shapes[str(graph.outputs[0].name)], batch)
    shape = constant(graph, "scores.shape", np.array([-1, classes, 1, 1]))
    cast = ir.node("Cast", graph.outputs, {"to": int(ir.DataType.FLOAT)}, name="scores.cast")
    reshape = ir.node("Reshape", [cast.outputs[0], shape], name="scores.reshape")
    graph.extend([cast, reshape])
    graph.outputs[:] = reshape.outputs
    fixed = isinstance(image.shape[0], int)
    own = {"N": batch if fixed else "N", "C": channels, "H": window[0], "W": window[1]}
    finish(model, [own[axis] for axis in layout], [own["N"], classes, 1, 1])
    apart = [stride or max(1, size // OVERLAP) for size in window]
    plane = (Axis(apart[0], window[0]), Axis(apart[1], window[1]))
    return ConvertedGraph(
        model=model,
        mode="crops",
        layout=layout,
        channels=channels,
        classes=classes,
        plane=plane,
        cost=crop_cost(graph, plane, shapes, window),
        sizes=shapes,
        rewrites=[],
    )
