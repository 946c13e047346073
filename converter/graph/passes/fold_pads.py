"""Folds a Pad of zeros into the convolutions that follow it.

Conv(Pad(x, p), pads = q) = Conv(x, pads = p + q)
"""

import onnx_ir as ir

from converter.graph.nodes import bypass, constant_input, ints


class FoldPadsPass(ir.passes.InPlacePass):
    """Fold each Pad of rows and columns of zeros whose users are convolutions alone."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Apply the pass; a Pad with a user that is no convolution remains."""
        pads = [node for node in model.graph if node.op_type == "Pad" and _can_be_folded(node)]
        for pad in pads:
            amounts = constant_input(pad, 1).tolist()
            for user in [use.node for use in pad.outputs[0].uses()]:
                more = [*amounts[2:4], *amounts[6:8]]
                added = [own + other for own, other in zip(ints(user, "pads", [0] * 4), more, strict=True)]
                user.attributes["pads"] = ir.AttrInt64s("pads", added)
            bypass(model.graph, pad)
        return ir.passes.PassResult(model, bool(pads))


def _can_be_folded(pad: ir.Node) -> bool:
    """Return whether a Pad adds zeros alone, around rows and columns alone, before convolutions alone."""
    amounts = constant_input(pad, 1).tolist()
    value = pad.inputs[2] if len(pad.inputs) > 2 else None
    is_zero = value is None or (value.const_value is not None and not value.const_value.numpy().any())
    is_plain = pad.attributes.get_string("mode", "constant") == "constant" and len(pad.inputs) < 4
    is_spatial = len(amounts) == 8 and not any([*amounts[:2], *amounts[4:6]]) and min(amounts) >= 0
    users = [use.node.op_type for use in pad.outputs[0].uses()]
    is_before_convolutions = bool(users) and set(users) == {"Conv"} and not pad.outputs[0].is_graph_output()
    return is_zero and is_plain and is_spatial and is_before_convolutions
