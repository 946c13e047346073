"""States the element types that a graph's values have, and no shapes.

ONNX Runtime's tools leave wrong types behind, and shapes that hold for one stride only.
"""

import onnx_ir as ir
from onnx_ir.passes import common


class InferTypesPass(ir.passes.InPlacePass):
    """State every computed value's type anew; the graph's inputs and outputs keep theirs."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Apply the pass; also removes unused nodes and operator sets, and sorts the nodes for shape inference."""
        graph = model.graph
        inner = [value for node in graph for value in node.outputs if not value.is_graph_output()]
        ends = (*graph.outputs, *graph.initializers.values())
        before = [(value, value.type, value.shape) for value in (*inner, *ends)]
        for value in inner:
            value.type = value.shape = None
        for value in graph.initializers.values():
            value.type = None if value.const_value is None else ir.TensorType(value.const_value.dtype)
        tidy = (common.RemoveUnusedNodesPass(), common.TopologicalSortPass(), common.RemoveUnusedOpsetsPass())
        tidied = [each(model).modified for each in tidy]
        common.ShapeInferencePass()(model)
        for value in inner:
            value.shape = None
        restated = any((value.type, value.shape) != (kind, shape) for value, kind, shape in before)
        return ir.passes.PassResult(model, restated or any(tidied))
