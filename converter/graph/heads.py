"""What each operator of a head becomes when it is lifted."""

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from converter.graph.lift import Cells, Handler, Lifting, refusal
from converter.graph.operators import ARITHMETIC, ELEMENTWISE


def _flatten(lifting: Lifting, node: ir.Node) -> Cells | None:
    """Flatten and every Reshape or Squeeze that does the same: a map of C×h×w as one vector."""
    source, shape = _source(node), lifting.shape(node.outputs[0])
    before = lifting.shape(source)
    cells = lifting.cells.get(source)
    if cells is not None:
        if _is_vector(shape, before[0], cells.features):
            return cells
    elif len(before) == 4:
        if _is_vector(shape, before[0], int(np.prod(before[1:]))):
            return Cells(source, *before[1:])
        if len(shape) == 4 and shape == before:
            return Cells(source, *before[1:]) if shape[2:] == (1, 1) else None
    raise refusal(node, f"expected a flattening of the whole map, got {before} to {shape}")


def _is_vector(shape: tuple[int, ...], batch: int, features: int) -> bool:
    """Whether this is one vector per image, with or without trailing axes of 1."""
    return shape[:2] == (batch, features) and all(size == 1 for size in shape[2:])


def _gemm(lifting: Lifting, node: ir.Node) -> Cells | None:
    if node.inputs[0] not in lifting.cells:
        raise refusal(node, f"expected a flattened map as its input, got shape {lifting.shape(_source(node))}")
    if _attribute(node, "transA", 0):
        raise refusal(node, "expected transA = 0")
    weights = lifting.constant(node, 1)
    if not _attribute(node, "transB", 0):
        weights = weights.T
    weights = _scaled(weights, _attribute(node, "alpha", 1.0))
    bias = None
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        bias = _scaled(lifting.constant(node, 2), _attribute(node, "beta", 1.0))
    return _convolve(lifting, node, weights, bias)


def _scaled(array: NDArray[np.float32], factor: float) -> NDArray[np.float32]:
    """Without a copy where there is nothing to do: these can be hundreds of megabytes."""
    return array if factor == 1 else array * np.float32(factor)


def _matmul(lifting: Lifting, node: ir.Node) -> Cells | None:
    if node.inputs[0] not in lifting.cells:
        raise refusal(node, "expected a flattened map on the left of constant weights")
    return _convolve(lifting, node, lifting.constant(node, 1).T, None)


def _convolve(lifting: Lifting, node: ir.Node, weights: NDArray[np.float32], bias: NDArray[np.float32] | None) -> Cells:
    """A fully connected layer, weights (outputs, features), as a convolution over what its input spreads over."""
    cells = lifting.cells[_source(node)]
    if weights.ndim != 2 or weights.shape[1] != cells.features:
        raise refusal(node, f"expected weights for {cells.features} features, got shape {weights.shape[::-1]}")
    outputs, features = weights.shape
    inputs = [cells.value, lifting.initializer(f"{_weight_name(node)}.conv", kernel(weights, cells))]
    if bias is not None:
        row = np.broadcast_to(bias.reshape(-1), (outputs,))
        inputs.append(lifting.initializer(f"{node.name}.bias", row))
    conv = ir.node("Conv", inputs, {"kernel_shape": [cells.height, cells.width]})
    value = lifting.emit(node, conv)
    lifting.report(
        node,
        f"{node.op_type} {features}→{outputs}",
        f"Conv {cells.height}×{cells.width}, {cells.channels}→{outputs}",
    )
    return Cells(value, outputs)


def kernel(weights: NDArray[np.float32], cells: Cells) -> NDArray[np.float32]:
    """Weights (outputs, features) of a flattened map as (outputs, channels, height, width)."""
    return weights.reshape(-1, cells.channels, cells.height, cells.width)


def _weight_name(node: ir.Node) -> str:
    value = node.inputs[1]
    return str(value.name) if value is not None else str(node.name)


def _global_pool(lifting: Lifting, node: ir.Node) -> Cells | None:
    """A global average is an average over the map of the training size, at every position."""
    source = _source(node)
    if node.op_type == "ReduceMean" and not _reduces_map(lifting, node):
        raise refusal(node, "expected the mean over height and width")
    cells = lifting.cells.get(source)
    if cells is not None:
        if cells.contracted and len(lifting.shape(source)) == 4:  # the mean of one position
            return cells
        raise refusal(node, "expected a map, got a head's value")
    _, channels, height, width = lifting.shape(source)
    pool = ir.node("AveragePool", [source], {"kernel_shape": [height, width]})
    value = lifting.emit(node, pool)
    lifting.report(node, f"{node.op_type} of {height}×{width}", f"AveragePool {height}×{width}, stride 1")
    return Cells(value, channels)


def _reduces_map(lifting: Lifting, node: ir.Node) -> bool:
    axes = set(lifting.constant(node, 1).tolist()) if len(node.inputs) > 1 else set()
    return len(lifting.shape(_source(node))) == 4 and {axis % 4 for axis in axes} == {2, 3}


def _pool(lifting: Lifting, node: ir.Node) -> Cells | None:
    """Pools of the trunk stay; one over the whole map is taken at every position."""
    if node.inputs[0] in lifting.cells:
        raise refusal(node, "expected a map, got a head's value")
    kernel = tuple(node.attributes["kernel_shape"].as_ints())
    padded = "pads" in node.attributes and any(node.attributes["pads"].as_ints())
    strides = tuple(node.attributes["strides"].as_ints()) if "strides" in node.attributes else (1, 1)
    if kernel == lifting.shape(_source(node))[2:] and not padded and strides != (1, 1):
        size = "×".join(map(str, kernel))
        lifting.report(node, f"{node.op_type} of {size}", f"{node.op_type} {size}, stride 1")
        node.attributes["strides"] = ir.AttrInt64s("strides", [1, 1])
    return None


def _elementwise(lifting: Lifting, node: ir.Node) -> Cells | None:
    """One number in, one number out: the same on maps, on vectors and on cells."""
    cells = lifting.cells.get(_source(node))
    if cells is None:
        return None
    return _again(lifting, node, cells, dict(node.attributes))


def _again(lifting: Lifting, node: ir.Node, cells: Cells, attributes: dict[str, ir.Attr]) -> Cells:
    copy = ir.node(node.op_type, [cells.value, *node.inputs[1:]])
    copy.attributes.update(attributes)
    return Cells(lifting.emit(node, copy), cells.channels, cells.height, cells.width)


def _batch_norm(lifting: Lifting, node: ir.Node) -> Cells | None:
    cells = lifting.cells.get(_source(node))
    if cells is None:
        return None
    if not cells.contracted:
        raise refusal(node, "expected batch normalisation of single features, got it straight after a flatten")
    return _again(lifting, node, cells, dict(node.attributes))


def _softmax(lifting: Lifting, node: ir.Node) -> Cells | None:
    """Softmax over the classes: the last axis of a vector is axis 1 of the cells."""
    cells = lifting.cells.get(_source(node))
    if cells is None:
        return None
    rank = len(lifting.shape(node.outputs[0]))
    if _attribute(node, "axis", -1) % rank != 1 or not cells.contracted:
        raise refusal(node, "expected softmax over the classes")
    return _again(lifting, node, cells, {"axis": ir.AttrInt64("axis", 1)})


def _binary(lifting: Lifting, node: ir.Node) -> Cells | None:
    """Arithmetic of two values: two maps, two vectors, or a vector and constants."""
    operands = [lifting.cells.get(value) if value is not None else None for value in node.inputs]
    if all(operand is None for operand in operands):
        if len(lifting.shape(node.outputs[0])) != 4:
            raise refusal(node, f"expected maps (N, C, height, width), got shape {lifting.shape(node.outputs[0])}")
        return None
    if len(operands) != 2:
        raise refusal(node, f"expected two inputs in a head, got {len(operands)}")
    cells = next(operand for operand in operands if operand is not None)
    values = [
        operand.value if operand is not None else _constant_cells(lifting, node, position, cells)
        for position, operand in enumerate(operands)
    ]
    if len({(operand.height, operand.width) for operand in operands if operand is not None}) != 1:
        raise refusal(node, "expected two values that spread alike")
    return Cells(lifting.emit(node, ir.node(node.op_type, values)), cells.channels, cells.height, cells.width)


def _constant_cells(lifting: Lifting, node: ir.Node, position: int, cells: Cells) -> ir.Value:
    """A constant row of features as (1, C, 1, 1)."""
    value = node.inputs[position]
    if value is not None and value.const_value is None:
        raise refusal(node, "mixes a summary of the whole map back into it (squeeze-and-excite): not dense")
    constant = lifting.constant(node, position)
    if constant.size == 1:
        return lifting.initializer(f"{node.name}.constant", constant.reshape(1, 1, 1, 1))
    if not cells.contracted or constant.size != cells.channels:
        raise refusal(node, f"expected a constant for {cells.channels} features, got shape {constant.shape}")
    return lifting.initializer(f"{node.name}.constant", constant.reshape(1, -1, 1, 1))


def _add(lifting: Lifting, node: ir.Node) -> Cells | None:
    """The Add of a MatMul is the bias of its convolution."""
    operands = [(lifting.cells.get(value), position) for position, value in enumerate(node.inputs) if value is not None]
    cells = next((cells for cells, _ in operands if cells is not None), None)
    if cells is None or not _is_fresh_matmul(lifting, node, cells):
        return _binary(lifting, node)
    position = next(position for found, position in operands if found is None)
    bias = np.broadcast_to(lifting.constant(node, position).reshape(-1), (cells.channels,))
    conv = cells.value.producer()
    if conv is None:
        return _binary(lifting, node)
    conv.resize_inputs(3)
    conv.replace_input_with(2, lifting.initializer(f"{node.name}.bias", bias))
    return cells


def _is_fresh_matmul(lifting: Lifting, node: ir.Node, cells: Cells) -> bool:
    """Whether one input is a MatMul that nothing else uses, and the other a constant row."""
    constants = [value for value in node.inputs if value is not None and value.const_value is not None]
    producers = [value.producer() for value in node.inputs if value in lifting.cells]
    return (
        len(constants) == 1
        and constants[0].const_value is not None
        and constants[0].const_value.size in (1, cells.channels)
        and all(
            producer is not None and producer.op_type == "MatMul" and len(producer.outputs[0].uses()) == 1
            for producer in producers
        )
    )


def _attribute(node: ir.Node, name: str, default: float) -> float:
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.value


def _source(node: ir.Node) -> ir.Value:
    value = node.inputs[0]
    if value is None:
        raise refusal(node, "expected an input")
    return value


HANDLERS: dict[str, Handler] = {
    **dict.fromkeys(ELEMENTWISE, _elementwise),
    **dict.fromkeys(ARITHMETIC, _binary),
    **dict.fromkeys(["Flatten", "Reshape", "Squeeze"], _flatten),
    **dict.fromkeys(["GlobalAveragePool", "ReduceMean"], _global_pool),
    **dict.fromkeys(["AveragePool", "MaxPool"], _pool),
    **dict.fromkeys(["Softmax", "LogSoftmax"], _softmax),
    "Add": _add,
    "BatchNormalization": _batch_norm,
    "Gemm": _gemm,
    "MatMul": _matmul,
}
