"""Names the output of a converted graph, and states the shapes of its input and output by the model file's contract."""

from collections.abc import Sequence

import onnx_ir as ir

from converter.graph.nodes import rename
from converter.graph.scores import SCORES

Axes = Sequence[int | str]
"""Sizes along the axes of a value, with a name in place of each open size."""


class DeclareInterfacePass(ir.passes.InPlacePass):
    """Name the output "scores" and state the shape of the input and the shape and type of the output."""

    def __init__(self, image: Axes, scores: Axes) -> None:
        super().__init__()
        self._image, self._scores = image, scores

    def requires(self, model: ir.Model) -> None:
        """Raise PreconditionError unless there is an image, the first input, and one output."""
        ends = len(model.graph.inputs), len(model.graph.outputs)
        if not ends[0] or ends[1] != 1:
            raise ir.passes.PreconditionError(f"expected an input and one output, got {ends[0]} and {ends[1]}")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Apply the pass; renames other values that are called "scores"."""
        image, scores = model.graph.inputs[0], model.graph.outputs[0]
        before = image.shape, scores.name, scores.shape, scores.dtype
        image.shape = ir.Shape(self._image)
        rename(model.graph, scores, SCORES)
        scores.shape, scores.dtype = ir.Shape(self._scores), ir.DataType.FLOAT
        return ir.passes.PassResult(model, before != (image.shape, scores.name, scores.shape, scores.dtype))
