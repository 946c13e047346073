"""Converts a network of 16-bit floats to float32, which every machine can run; the weights keep their values."""

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

NARROW = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


class WidenFloatsPass(ir.passes.InPlacePass):
    """Convert every float16 and bfloat16 to float32: weights, constants, casts and the stated types."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Apply the pass, also to subgraphs."""
        widened = [_widen(graph) for graph in model.graphs()]
        return ir.passes.PassResult(model, any(widened))

    def ensures(self, model: ir.Model) -> None:
        """Raise PostconditionError if a value or constant still has 16-bit floats."""
        narrow = [value.name for graph in model.graphs() for value in _values(graph) if value.dtype in NARROW]
        if narrow:
            raise ir.passes.PostconditionError(f"expected float32, got 16 bits in {narrow}")


def _widen(graph: ir.Graph | ir.GraphView) -> bool:
    """Widen one graph without its subgraphs; returns whether it had 16-bit floats."""
    modified = False
    for value in graph.initializers.values():
        if value.const_value is not None and value.const_value.dtype in NARROW:
            value.const_value, modified = _wide(value.const_value), True
    for value in _values(graph):
        if value.dtype in NARROW:
            value.dtype, modified = ir.DataType.FLOAT, True
    for node in graph:
        modified |= _widen_attributes(node)
    return modified


def _widen_attributes(node: ir.Node) -> bool:
    modified = False
    for key, attribute in list(node.attributes.items()):
        if attribute.type == ir.AttributeType.TENSOR and attribute.as_tensor().dtype in NARROW:
            node.attributes[key], modified = ir.AttrTensor(key, _wide(attribute.as_tensor())), True
    if node.op_type == "Cast" and node.attributes["to"].as_int() in NARROW:
        node.attributes["to"], modified = ir.AttrInt64("to", int(ir.DataType.FLOAT)), True
    return modified


def _values(graph: ir.Graph | ir.GraphView) -> Iterator[ir.Value]:
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in graph:
        yield from node.outputs


def _wide(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    return ir.tensor(tensor.numpy().astype(np.float32), name=tensor.name)
