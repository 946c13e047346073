"""Names the outputs of a converted graph, and states the shapes of its ends by the model file's contract."""

from collections.abc import Mapping, Sequence

import onnx_ir as ir

from converter.graph.nodes import rename

Axes = Sequence[int | str]
"""Sizes along the axes of a value, with a name in place of each open size."""


class DeclareInterfacePass(ir.passes.InPlacePass):
    """Name the outputs, and state the shape of the input and the shapes and types of the outputs.

    `outputs` holds the axes of every output by its new name, in the order of the outputs.
    """

    def __init__(self, image: Axes, outputs: Mapping[str, Axes]) -> None:
        super().__init__()
        self._image, self._outputs = image, outputs

    def requires(self, model: ir.Model) -> None:
        """Raise PreconditionError unless there is an image, the first input, and the number of outputs is right."""
        ends, expected = (len(model.graph.inputs), len(model.graph.outputs)), len(self._outputs)
        if not ends[0] or ends[1] != expected:
            raise ir.passes.PreconditionError(f"expected an input and {expected} outputs, got {ends[0]} and {ends[1]}")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Apply the pass; renames other values that have the name of an output."""
        before = _ends(model.graph)
        model.graph.inputs[0].shape = ir.Shape(self._image)
        for value, (name, axes) in zip(model.graph.outputs, self._outputs.items(), strict=True):
            rename(model.graph, value, name)
            value.shape, value.dtype = ir.Shape(axes), ir.DataType.FLOAT
        return ir.passes.PassResult(model, before != _ends(model.graph))


def _ends(graph: ir.Graph) -> list[tuple[str | None, ir.Shape | None, ir.DataType | None]]:
    """Return the name, shape and type of the image and of every output."""
    return [(value.name, value.shape, value.dtype) for value in (graph.inputs[0], *graph.outputs)]
