"""Gives the scores of single windows, (N, classes), the shape of grids of one cell: (N, classes, 1, 1) float32."""

import numpy as np
import onnx_ir as ir

from converter.graph.nodes import add_constant


class ReshapeScoresPass(ir.passes.InPlacePass):
    """Append a Cast and a Reshape to the only output."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self._classes = classes

    def requires(self, model: ir.Model) -> None:
        """Raise PreconditionError unless there is one output."""
        if len(model.graph.outputs) != 1:
            raise ir.passes.PreconditionError(f"expected one output, got {len(model.graph.outputs)}")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Apply the pass; adds the nodes "scores.cast" and "scores.reshape"."""
        graph = model.graph
        shape = add_constant(graph, "scores.shape", np.array([-1, self._classes, 1, 1]))
        cast = ir.node("Cast", graph.outputs, {"to": int(ir.DataType.FLOAT)}, name="scores.cast")
        reshape = ir.node("Reshape", [cast.outputs[0], shape], name="scores.reshape")
        graph.extend([cast, reshape])
        graph.outputs[:] = reshape.outputs
        return ir.passes.PassResult(model, modified=True)
