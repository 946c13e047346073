"""Keeps ONNX Runtime from fusing a Pad with the MaxPool that follows it.

A MaxPool pads with −∞, a Pad with zeros, so that the fused node would give other maxima. A Clip that changes no value
separates them:

    MaxPool(Pad(x)) = MaxPool(Clip(Pad(x), lowest number))
"""

import numpy as np
import onnx_ir as ir

from converter.graph.nodes import add_constant, first_input, float_type

FUSED = ("DequantizeLinear", "Pad")
"""Operators that ONNX Runtime fuses with a pool after them."""


class SeparatePadsPass(ir.passes.InPlacePass):
    """Separate each MaxPool from a Pad before it."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Apply the pass; adds nodes named "POOL.apart"."""
        pools = [node for node in model.graph if node.op_type == "MaxPool"]
        separated = [separate(model.graph, pool) for pool in pools]
        return ir.passes.PassResult(model, any(separated))


def separate(graph: ir.Graph, pool: ir.Node) -> bool:
    """Put a Clip that changes no value before a pool that ONNX Runtime would fuse; returns whether it was necessary.

    ONNX Runtime fuses a pool with a Pad before it, and with a DequantizeLinear: its average of integers has no
    dilations.
    """
    source = first_input(pool)
    producer = source.producer()
    if producer is None or producer.op_type not in FUSED:
        return False
    lowest = add_constant(graph, f"{pool.name}.lowest", np.array(np.finfo(float_type(source)).min))
    clip = ir.node("Clip", [source, lowest], name=f"{pool.name}.apart")
    clip.outputs[0].name, clip.outputs[0].type = f"{pool.name}.unclipped", source.type
    graph.insert_before(pool, clip)
    pool.replace_input_with(0, clip.outputs[0])
    return True
