"""Pools: those that read a window's whole map, or that divide it before a head, slide over the map.

A pool whose kernel covers the whole map (N, C, h, w) of a window, or that divides the map before a head, becomes a pool
with the same kernel at every position (stride 1). The view of its output holds the positions that the source had. Other
pools remain.
"""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from converter.graph.affine import AffineView, FeatureMap, Ints, identity_view
from converter.graph.convolutionalizer import Convolutionalizer, Handler, keep_node
from converter.graph.nodes import ints
from converter.graph.operators import ELEMENTWISE, MOVEMENT
from converter.graph.refusals import refusal


def pool(state: Convolutionalizer, node: ir.Node) -> Sequence[AffineView]:
    """Convert AveragePool, LpPool and MaxPool: a pool before the head slides to every position, other pools remain."""
    view = state.input_view(node)
    kernel = ints(node, "kernel_shape", [])
    if len(view.shape) == 5 and kernel[1:] == [1, 1]:
        return [_average_channels(node, view, kernel[0])]
    keep_node(state, node)
    extent, output = state.input_view(node).map.size[2:], state.shapes[node.outputs[0]]
    if _covers_map(node, extent):
        kernel = list(extent)
    elif any(ints(node, "pads", [])) or not (_divides_map(node, extent) or _feeds_pyramid(state, node)):
        return ()
    return [_slide(state, node, kernel, output)] if _is_changed(node, kernel) else ()


def _covers_map(node: ir.Node, extent: Sequence[int]) -> bool:
    """Return whether the pool's only window holds the whole map, and padding, if there is any, is not counted."""
    kernel, pads = ints(node, "kernel_shape", []), ints(node, "pads", [0] * 4)
    strides, dilations = ints(node, "strides", [1, 1]), ints(node, "dilations", [1, 1])
    is_single = all(
        size + pads[axis] + pads[axis + 2] - kernel[axis] < strides[axis] and kernel[axis] - pads[axis] >= size
        for axis, size in enumerate(extent)
    )
    counts_pads = node.op_type != "MaxPool" and any(pads) and bool(node.attributes.get_int("count_include_pad", 0))
    return is_single and dilations == [1, 1] and not counts_pads


def _divides_map(node: ir.Node, extent: Sequence[int]) -> bool:
    """Return whether the node averages equal rectangles that make up the map, before fully connected layers."""
    kernel = ints(node, "kernel_shape", [])
    fits = not any(size % side for size, side in zip(extent, kernel, strict=True))
    is_partition = node.op_type == "AveragePool" and ints(node, "strides", [1, 1]) == kernel and fits
    users = {user.op_type for user in _users(node)} if is_partition else set()
    return bool(users) and users <= {"Gemm", "MatMul"}


def _feeds_pyramid(state: Convolutionalizer, node: ir.Node) -> bool:
    """Return whether the pool is a level of a spatial pyramid: features of maps of several sizes are concatenated."""
    users = _users(node)
    if not users or any(user.op_type != "Concat" or len(state.shapes[user.outputs[0]]) != 2 for user in users):
        return False
    maps = [state.map_before(value) for user in users for value in user.inputs]
    return len({state.shapes[value][2:] for value in maps if value is not None}) > 1


def _is_changed(node: ir.Node, kernel: Sequence[int]) -> bool:
    """Return whether the pool with this kernel at every position differs from the node."""
    is_same = ints(node, "kernel_shape", []) == list(kernel) and not any(ints(node, "pads", []))
    return not is_same or ints(node, "strides", [1, 1]) != [1, 1]


def _slide(state: Convolutionalizer, node: ir.Node, kernel: Sequence[int], output: Sequence[int]) -> AffineView:
    """Make the node a pool at every position; returns the positions that the source had, of the shape `output`."""
    strides, extent = ints(node, "strides", [1, 1]), state.input_view(node).map.size[2:]
    was = f"{node.op_type} {'×'.join(map(str, ints(node, 'kernel_shape', [])))}, stride {'×'.join(map(str, strides))}"
    state.record(node, was, f"{node.op_type} {'×'.join(map(str, kernel))}, stride 1")
    for name in ("strides", "pads"):
        node.attributes.pop(name, None)
    node.attributes["kernel_shape"] = ir.AttrInt64s("kernel_shape", kernel)
    height, width = (total - side + 1 for total, side in zip(extent, kernel, strict=True))
    pooled = FeatureMap(node.outputs[0], (output[0], output[1], height, width))
    state.shapes[node.outputs[0]] = pooled.size
    index = identity_view(pooled).index
    return AffineView(pooled, index[:, :, :: strides[0], :: strides[1]][:, :, : output[2], : output[3]])


def _users(node: ir.Node) -> set[ir.Node]:
    """Return the nodes that a node feeds, apart from movement and pointwise operators between."""
    pending, seen, found = [node], {node}, set[ir.Node]()
    while pending:
        users = {use.node for use in pending.pop().outputs[0].uses()}
        passed = {user for user in users if user.op_type in MOVEMENT | ELEMENTWISE}
        found |= users - passed
        pending += passed - seen
        seen |= passed
    return found


def _average_channels(node: ir.Node, view: AffineView, kernel: int) -> AffineView:
    """Return a 3-D average over channels alone, as PyTorch exports local response normalisation."""
    is_strided = ints(node, "strides", [1, 1, 1]) != [1, 1, 1]
    if node.op_type != "AveragePool" or is_strided or any(ints(node, "pads", [])):
        raise refusal(node, "expected a plain average over channels")
    numbers: Ints = np.arange(view.index[..., 0].size).reshape(view.shape)
    windows = view.gather(np.lib.stride_tricks.sliding_window_view(numbers, kernel, axis=2))
    shape = windows.shape[:-1]
    return windows.sum_along([5]).scale_and_shift(1 / kernel, 0.0).reshape(shape)


HANDLERS: dict[str, Handler] = {
    **dict.fromkeys(["AveragePool", "LpPool", "MaxPool"], pool),
}
