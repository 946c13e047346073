"""Gives the outputs of single windows, (N, values), the shape of grids of one cell: (N, values, 1, 1) float32."""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from converter.graph.nodes import add_constant


class ReshapeOutputsPass(ir.passes.InPlacePass):
    """Append a Cast and a Reshape to every output; `values` is the number of values of each output."""

    def __init__(self, values: Sequence[int]) -> None:
        super().__init__()
        self._values = values

    def requires(self, model: ir.Model) -> None:
        """Raise PreconditionError unless the number of outputs is right."""
        if len(model.graph.outputs) != len(self._values):
            raise ir.passes.PreconditionError(f"expected {len(self._values)} outputs, got {len(model.graph.outputs)}")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Apply the pass; adds the nodes "NAME.cast" and "NAME.reshape" for an output NAME."""
        graph = model.graph
        for position, (output, values) in enumerate(zip(graph.outputs, self._values, strict=True)):
            shape = add_constant(graph, f"{output.name}.shape", np.array([-1, values, 1, 1]))
            cast = ir.node("Cast", [output], {"to": int(ir.DataType.FLOAT)}, name=f"{output.name}.cast")
            reshape = ir.node("Reshape", [cast.outputs[0], shape], name=f"{output.name}.reshape")
            graph.extend([cast, reshape])
            graph.outputs[position] = reshape.outputs[0]
        return ir.passes.PassResult(model, modified=True)
