"""Makes one row of scores per window into one row per position of the window: the head becomes convolutions.

A dataflow pass. What a node makes of a map by windows (convolutions, pools, pointwise operators) grows with the image
by itself and stays. Everything else, the head above all, is followed as a `Form`, which says what each of its elements
is in terms of a map. Where the head looks at the whole map, the form says which weight meets which element, and the
layer becomes a convolution with a kernel as large as the map, since both are the same sum over the same numbers:

    y[k] = sum over c, i, j of W[k, (c·h + i)·w + j] · x[c, i, j]

Every later fully connected layer sees a map of 1×1 and becomes a 1×1 convolution. `graph.handlers` has one handler per
operator. Refused, by node: operators without a handler that are not the same at every position.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from converter.errors import UnsupportedError
from converter.graph.affine import Form, Map, WholeMapError, whole
from converter.graph.convolutionalizer import Lifting, stays
from converter.graph.handlers import HANDLERS
from converter.graph.nodes import signature
from converter.graph.passes.inline_branches import SUBGRAPHS
from converter.graph.refusals import ATTENTION, CLASS_NUMBERS, MIXED_SUMMARY, NOT_LOCAL, not_a_classifier, refusal
from converter.graph.rewrites import RewriteResult
from converter.runtime import one_line

Shapes = Mapping[str, tuple[int, ...]]


@dataclass
class ConvolutionalizeResult(RewriteResult):
    """The result of ConvolutionalizePass; `shapes` are those of all values for one window."""

    shapes: Mapping[ir.Value, tuple[int, ...]]


def convolutionalize(model: ir.Model, shapes: Shapes, layout: str) -> ConvolutionalizeResult:
    """Apply ConvolutionalizePass; returns its result, with the rewritten layers and the shapes of all values."""
    result = ConvolutionalizePass(shapes, layout)(model)
    assert isinstance(result, ConvolutionalizeResult)  # noqa: S101 (`call` returns one)
    return result


class ConvolutionalizePass(ir.passes.InPlacePass):
    """Convolutionalize a classifier, whose output becomes scores (N, classes, rows, cols).

    `shapes` are those for one window, by name; `layout` is that of the input, "NCHW" or "NHWC".
    """

    def __init__(self, shapes: Shapes, layout: str) -> None:
        super().__init__()
        self._shapes, self._layout = shapes, layout

    def requires(self, model: ir.Model) -> None:
        """Raises PreconditionError unless there is one input and one output, and no subgraph."""
        ends = len(model.graph.inputs), len(model.graph.outputs)
        subgraphs = [node for node in model.graph for part in node.attributes.values() if part.type in SUBGRAPHS]
        if ends != (1, 1) or subgraphs:
            raise ir.passes.PreconditionError(
                f"expected one input, one output and no subgraphs, got {ends[0]}, {ends[1]} and {len(subgraphs)}"
            )

    def call(self, model: ir.Model) -> ConvolutionalizeResult:
        """Raises UnsupportedError, naming the node, if something has no fully-convolutional form."""
        graph, before = model.graph, signature(model.graph)
        values = [graph.inputs[0], *(value for node in graph for value in node.outputs)]
        shapes = {value: self._shapes[str(value.name)] for value in values if value.name in self._shapes}
        state, nodes = Lifting(graph, shapes), list(graph)
        if self._layout == "NHWC":
            _transpose_image(state, graph.inputs[0])
        _check_local(nodes)
        for node in nodes:
            for value, form in zip(node.outputs, _rewrite(state, node), strict=False):
                state.forms[value] = form
        graph.outputs[:] = [_scores(state, graph.outputs[0])]
        return ConvolutionalizeResult(model, signature(graph) != before, state.rewrites, state.shapes)


def _rewrite(state: Lifting, node: ir.Node) -> Sequence[Form]:
    """Returns what a node's outputs become; refuses a use of its operator that the handler does not expect."""
    if node.domain not in ("", "ai.onnx"):
        raise refusal(node, f"it is not known what the operators of {node.domain!r} do")
    try:
        return HANDLERS.get(node.op_type, stays)(state, node)
    except WholeMapError:
        raise refusal(node, MIXED_SUMMARY) from None
    except (IndexError, RuntimeError, TypeError, ValueError) as error:
        raise refusal(node, f"it is used in a way that is not known: {one_line(error)}") from None


def _check_local(nodes: Sequence[ir.Node]) -> None:
    """Raises UnsupportedError for an operator that looks at the whole map.

    Before anything is rewritten, so that the operator itself is named and not one of the nodes around it.
    """
    for node in nodes:
        if node.op_type in CLASS_NUMBERS:
            raise UnsupportedError(
                f"node {node.name!r} ({node.op_type}): it gives the number of a class, not its score; export without it"
            )
        if node.op_type in NOT_LOCAL:
            raise refusal(node, NOT_LOCAL[node.op_type])
        computed = [value for value in node.inputs if value is not None and value.const_value is None]
        if node.op_type in ("Einsum", "MatMul") and len(computed) > 1:
            raise refusal(node, ATTENTION)


def _transpose_image(state: Lifting, image: ir.Value) -> None:
    """Put a Transpose to (N, C, H, W) behind an image (N, H, W, C), which is a form of its output from then on."""
    batch, height, width, channels = state.shapes[image]
    node = ir.node("Transpose", [image], {"perm": [0, 3, 1, 2]}, name="channels_first")
    size = (batch, channels, height, width)
    state.graph.insert_before(state.graph[0], node)
    first = whole(Map(node.outputs[0], size))
    state.shapes[first.map.value] = size
    state.forms[image] = first.channels_last


def _scores(state: Lifting, output: ir.Value) -> ir.Value:
    """Returns the value (N, classes, rows, cols) that takes the place of one row of scores per window."""
    shape, node = state.shapes[output], output.producer()
    form = state.forms.get(output) if len(shape) != 4 else state.form_of(output, node) if node else None
    stencil = form.stencil(range(1, len(shape))) if form is not None else None
    if form is None or node is None or stencil is None or not stencil.pointwise:
        raise not_a_classifier(output, shape)
    return state.settled(node, form.reshaped((shape[0], math.prod(shape[1:]), 1, 1))).value
