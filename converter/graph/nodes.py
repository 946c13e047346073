"""Access to a graph's nodes: their attributes and inputs, their constants, and the names of values.

Attributes with one type and a default need no function of this module: `node.attributes.get_int("axis", -1)`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from converter.graph.refusals import refusal

Signature = tuple[object, ...]
END = np.iinfo(np.int64).max
"""The value that means the end of an axis in the stops of a Slice."""


def ints(node: ir.Node, name: str, default: Sequence[int]) -> list[int]:
    """Return an attribute of several integers, or its default, as a new list."""
    return list(node.attributes.get_ints(name, default))


def first_input(node: ir.Node) -> ir.Value:
    """Return the first input of a node whose operator does not make it optional."""
    value = node.inputs[0]
    assert value is not None  # noqa: S101 (the checker has refused such a graph)
    return value


def constant_input(node: ir.Node, position: int) -> NDArray[Any]:
    """Return the constant at one of a node's inputs; raises UnsupportedError if there is no constant."""
    value = node.inputs[position] if position < len(node.inputs) else None
    if value is None or value.const_value is None:
        got = "none" if value is None else "a computed value"
        raise refusal(node, f"expected constants at input {position}, got {got}")
    return value.const_value.numpy()


def set_constant_input(graph: ir.Graph, node: ir.Node, position: int, array: NDArray[Any]) -> None:
    """Replace one of a node's inputs by a new constant, in place."""
    node.replace_input_with(position, add_constant(graph, f"{node.name}.{position}", array))


def add_constant(graph: ir.Graph, name: str, array: NDArray[Any]) -> ir.Value:
    """Add an initializer to a graph, with underscores after the name if the name is taken; returns its value."""
    while name in graph.initializers:
        name += "_"
    tensor = ir.tensor(np.asarray(array, order="C"), name=name)
    value = ir.val(name, tensor.dtype, array.shape, const_value=tensor)
    graph.register_initializer(value)
    return value


def kernel_shape(node: ir.Node) -> list[int]:
    """Return the rows and columns of the kernel of a convolution or pool."""
    has_weights = node.op_type in ("Conv", "ConvTranspose")
    return list(conv_weights(node).shape.numpy())[2:] if has_weights else ints(node, "kernel_shape", [])


def conv_weights(conv: ir.Node) -> ir.TensorProtocol:
    """Return a convolution's weights (outputs, channels per group, rows, columns), quantized or not.

    The weights of a ConvTranspose are (inputs, channels per group, rows, columns). Raises UnsupportedError if they are
    computed.
    """
    weights = conv.inputs[1]
    producer = weights.producer() if weights is not None else None
    if producer is not None and producer.op_type == "DequantizeLinear":
        weights = producer.inputs[0]
    if weights is None or weights.const_value is None:
        raise refusal(conv, "expected constant weights, got computed ones")
    return weights.const_value


def float_type(value: ir.Value) -> type[np.floating[Any]]:
    """Return the element type of a floating-point map: float16 or float32."""
    return np.float16 if value.dtype == ir.DataType.FLOAT16 else np.float32


def rename(graph: ir.Graph, value: ir.Value, name: str) -> None:
    """Give a value a name, and rename every other value that has this name, in place."""
    others = [*graph.inputs, *graph.initializers.values(), *(output for node in graph for output in node.outputs)]
    for other in others:
        if other is not value and other.name == name:
            other.name = f"{name}_of_source"
    value.name = name


def bypass(graph: ir.Graph, node: ir.Node) -> None:
    """Remove a node and give its first input to all users of its first output, in place."""
    node.outputs[0].replace_all_uses_with(first_input(node), replace_graph_outputs=True)
    graph.remove(node, safe=True)


def signature(graph: ir.Graph) -> Signature:
    """Return a value that is equal before and after a change in place only if the graph computes the same.

    It holds the graph's inputs, outputs and initializers, and each node with its operator, inputs and attributes.
    """
    nodes = [(node, node.op_type, node.inputs, dict(node.attributes), tuple(node.outputs)) for node in graph]
    initializers = [(value, value.const_value) for value in graph.initializers.values()]
    return tuple(graph.inputs), tuple(graph.outputs), tuple(initializers), tuple(nodes)
