"""Networks of 16-bit floating-point numbers as float32 ones with the same weights, which every machine can run."""

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

NARROW = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


def widen(model: ir.Model) -> None:
    """Make float32 of every float16 and bfloat16, in place: weights, constants, casts and the stated types."""
    for graph in model.graphs():
        for value in graph.initializers.values():
            if value.const_value is not None and value.const_value.dtype in NARROW:
                value.const_value = _wide(value.const_value)
        for value in _values(graph):
            if value.dtype in NARROW:
                value.dtype = ir.DataType.FLOAT
        for node in graph:
            for key, attribute in list(node.attributes.items()):
                if attribute.type == ir.AttributeType.TENSOR and attribute.as_tensor().dtype in NARROW:
                    node.attributes[key] = ir.AttrTensor(key, _wide(attribute.as_tensor()))
            if node.op_type == "Cast" and node.attributes["to"].as_int() in NARROW:
                node.attributes["to"] = ir.AttrInt64("to", int(ir.DataType.FLOAT))


def _values(graph: ir.Graph | ir.GraphView) -> Iterator[ir.Value]:
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in graph:
        yield from node.outputs


def _wide(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    return ir.tensor(tensor.numpy().astype(np.float32), name=tensor.name)
