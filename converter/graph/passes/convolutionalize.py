"""Turns one row of scores per window into one row per position of the window: the head becomes convolutions.

This is a dataflow pass. Nodes that compute the same at every position of a map (convolutions, pools, pointwise
operators) are kept, and their outputs grow with the image. All other values, in particular those of the head, are
described as affine views (`graph.affine`), which express each element in terms of a map. Where the head reads the whole
map, the view says which weight multiplies which element, and the layer becomes a convolution with a kernel as large as
the map, since both are the same sum over the same numbers:

    y[k] = sum over c, i, j of W[k, (c·h + i)·w + j] · x[c, i, j]

Every later fully connected layer reads a map of 1×1 and becomes a 1×1 convolution. `graph.handlers` has one handler per
operator. Operators are refused if they differ between positions, or if no convolution computes their result; the error
names the node.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from converter.errors import UnsupportedError
from converter.graph.affine import AffineView, FeatureMap, TooManyTermsError, identity_view
from converter.graph.convolutionalizer import Convolutionalizer, keep_node
from converter.graph.handlers import HANDLERS
from converter.graph.nodes import first_input, signature
from converter.graph.passes.inline_branches import SUBGRAPHS
from converter.graph.refusals import ATTENTION, CLASS_NUMBERS, MIXED_SUMMARY, NOT_LOCAL, not_a_classifier, refusal
from converter.graph.rewrites import RewriteResult
from converter.messages import one_line

Shapes = Mapping[str, tuple[int, ...]]


@dataclass
class ConvolutionalizeResult(RewriteResult):
    """The result of ConvolutionalizePass; `shapes` holds the shapes of all values for one window."""

    shapes: Mapping[ir.Value, tuple[int, ...]]


def convolutionalize(model: ir.Model, shapes: Shapes, layout: str) -> ConvolutionalizeResult:
    """Apply ConvolutionalizePass; returns its result, with the rewritten layers and the shapes of all values."""
    result = ConvolutionalizePass(shapes, layout)(model)
    assert isinstance(result, ConvolutionalizeResult)  # noqa: S101 (`call` returns one)
    return result


class ConvolutionalizePass(ir.passes.InPlacePass):
    """Convolutionalize a classifier, whose outputs become grids (N, values, rows, cols).

    `shapes` holds the values' shapes for one window, by name; `layout` is that of the input, "NCHW" or "NHWC".
    """

    def __init__(self, shapes: Shapes, layout: str) -> None:
        super().__init__()
        self._shapes, self._layout = shapes, layout

    def requires(self, model: ir.Model) -> None:
        """Raise PreconditionError unless there is one input and an output, and no subgraph."""
        ends = len(model.graph.inputs), len(model.graph.outputs)
        subgraphs = [node for node in model.graph for part in node.attributes.values() if part.type in SUBGRAPHS]
        if ends[0] != 1 or not ends[1] or subgraphs:
            raise ir.passes.PreconditionError(
                f"expected one input, outputs and no subgraphs, got {ends[0]}, {ends[1]} and {len(subgraphs)}"
            )

    def call(self, model: ir.Model) -> ConvolutionalizeResult:
        """Apply the pass; raises UnsupportedError, naming the node, for a node without a fully-convolutional form."""
        graph, before = model.graph, signature(model.graph)
        values = [graph.inputs[0], *(value for node in graph for value in node.outputs)]
        shapes = {value: self._shapes[str(value.name)] for value in values if value.name in self._shapes}
        state, nodes = Convolutionalizer(graph, shapes), list(graph)
        if self._layout == "NHWC":
            _transpose_image(state, graph.inputs[0])
        _check_local(state, nodes)
        for node in nodes:
            for value, view in zip(node.outputs, _rewrite(state, node), strict=False):
                state.views[value] = view
        graph.outputs[:] = [_grid(state, output) for output in graph.outputs]
        return ConvolutionalizeResult(model, signature(graph) != before, state.rewrites, state.shapes)


def _rewrite(state: Convolutionalizer, node: ir.Node) -> Sequence[AffineView]:
    """Return the views that a node's outputs become; refuses uses of the operator that its handler does not support."""
    if node.domain not in ("", "ai.onnx"):
        raise refusal(node, f"operators of the domain {node.domain!r} are not known")
    try:
        return HANDLERS.get(node.op_type, keep_node)(state, node)
    except TooManyTermsError:
        raise refusal(node, MIXED_SUMMARY) from None
    except (IndexError, RuntimeError, TypeError, ValueError) as error:
        raise refusal(node, f"it is used in a way that is not supported: {one_line(error)}") from None


def _check_local(state: Convolutionalizer, nodes: Sequence[ir.Node]) -> None:
    """Raise UnsupportedError for an operator that reads the whole map.

    This is called before anything is rewritten, so that the error names the operator itself and not a node around it.
    """
    for node in nodes:
        if node.op_type in CLASS_NUMBERS:
            raise UnsupportedError(
                f"node {node.name!r} ({node.op_type}): it returns the number of a class instead of "
                "scores; export the network without it"
            )
        if node.op_type in NOT_LOCAL:
            raise refusal(node, NOT_LOCAL[node.op_type])
        computed = [value for value in node.inputs if value is not None and value.const_value is None]
        if node.op_type in ("Einsum", "MatMul") and len(computed) > 1 and not _may_pool(state, node):
            raise refusal(node, ATTENTION)


def _may_pool(state: Convolutionalizer, node: ir.Node) -> bool:
    """Return whether a MatMul may be bilinear pooling: its operands are maps, and it sums over their positions."""
    maps = [state.map_before(value) for value in node.inputs]
    summed = state.shapes[first_input(node)][-1]
    return node.op_type == "MatMul" and all(
        value is not None and summed == math.prod(state.shapes[value][2:]) for value in maps
    )


def _transpose_image(state: Convolutionalizer, image: ir.Value) -> None:
    """Transpose an image (N, H, W, C) to a map (N, C, H, W), of which the image is a view from then on."""
    batch, height, width, channels = state.shapes[image]
    node = ir.node("Transpose", [image], {"perm": [0, 3, 1, 2]}, name="channels_first")
    size = (batch, channels, height, width)
    state.graph.insert_before(state.graph[0], node)
    first = identity_view(FeatureMap(node.outputs[0], size))
    state.shapes[first.map.value] = size
    state.views[image] = first.channels_last


def _grid(state: Convolutionalizer, output: ir.Value) -> ir.Value:
    """Return the value (N, values, rows, cols) that takes the place of one row of values per window."""
    shape, node = state.shapes[output], output.producer()
    view = state.views.get(output) if len(shape) != 4 else state.view_of(output, node) if node else None
    stencil = view.stencil(range(1, len(shape))) if view is not None else None
    if view is None or node is None or stencil is None or not stencil.is_pointwise:
        raise not_a_classifier(output, shape)
    return state.materialize(node, view.reshape((shape[0], math.prod(shape[1:]), 1, 1))).value
