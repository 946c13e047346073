"""Disables every Dropout: a network exported during training drops values by a third input, `training_mode`.

Dropout(x, ratio, training_mode)  →  Dropout(x, ratio),    which is x
"""

import onnx_ir as ir


class StopDropoutPass(ir.passes.InPlacePass):
    """Remove the input `training_mode` of every Dropout."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Apply the pass, which keeps the nodes; a later pass removes them."""
        training = [node for node in model.graph if node.op_type == "Dropout" and len(node.inputs) > 2]
        for node in training:
            node.resize_inputs(2)
        return ir.passes.PassResult(model, bool(training))
