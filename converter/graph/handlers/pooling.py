"""Pools and reductions: over the whole map they are taken at every position, over channels they stay."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from converter.graph.affine import Form, Ints, Map, channels_at, whole
from converter.graph.convolutionalizer import Handler, Lifting, stays
from converter.graph.nodes import add_constant, constant_input, ints
from converter.graph.operators import ELEMENTWISE, MOVEMENT, REDUCTIONS
from converter.graph.refusals import refusal

POOLS = {"ReduceMean": "AveragePool", "ReduceMax": "MaxPool", "ReduceSum": "AveragePool"}
OF_GLOBAL = {"GlobalAveragePool": "ReduceMean", "GlobalMaxPool": "ReduceMax"}


@dataclass(frozen=True)
class _Reduction:
    """One number of all of a form's elements along some axes."""

    node: ir.Node
    op_type: str
    form: Form
    axes: Sequence[int]


def global_pool(lifting: Lifting, node: ir.Node) -> Sequence[Form]:
    """GlobalAveragePool and GlobalMaxPool."""
    form = lifting.source(node)
    axes = range(2, len(form.shape))
    return [_reduced(lifting, _Reduction(node, OF_GLOBAL[node.op_type], form, axes), keep=True)]


def reduction(lifting: Lifting, node: ir.Node) -> Sequence[Form]:
    """ReduceMean and its kind."""
    form = lifting.source(node)
    rank = len(form.shape)
    given = constant_input(node, 1).tolist() if len(node.inputs) > 1 and node.inputs[1] is not None else []
    axes = sorted(axis % rank for axis in given) or list(range(rank))
    keep = node.attributes.get_int("keepdims", 1)
    return [_reduced(lifting, _Reduction(node, node.op_type, form, axes), keep=bool(keep))]


def _reduced(lifting: Lifting, it: _Reduction, *, keep: bool) -> Form:
    rows = _of_positions(lifting, it) or _of_channels(lifting, it)
    if rows is None and it.op_type in ("ReduceMean", "ReduceSum"):
        count = math.prod(it.form.shape[axis] for axis in it.axes) if it.op_type == "ReduceMean" else 1
        rows = it.form.summed(it.axes).scaled(1 / count, 0.0)
    if rows is None:
        raise refusal(it.node, "it looks at the whole map, and not as a pool does")
    shape = [1 if axis in it.axes else size for axis, size in enumerate(it.form.shape) if keep or axis not in it.axes]
    return rows.reshaped(tuple(shape))


def _of_positions(lifting: Lifting, it: _Reduction) -> Form | None:
    """A reduction of one channel over a rectangle of the map, the same for every row: a pool."""
    if it.op_type not in POOLS or not it.form.pure:
        return None
    rows, of = it.form.with_last(it.axes), it.form.map
    channel = rows.channels()
    if not (channel == channel[:, :1]).all():
        return None
    flat = Map(of.value, (of.size[0], 1, *of.size[2:]))
    stencil = Form(flat, rows.positions()[..., None]).stencil([1])
    if stencil is None or not stencil.is_rectangle:
        return None
    (height, width), count = stencil.extent, len(stencil.channel)
    if count > 1:
        op_type, kernel = POOLS[it.op_type], f"{height}×{width}"
        size = (*of.size[:2], of.size[2] - height + 1, of.size[3] - width + 1)
        of = lifting.emit(it.node, op_type, [of.value], size, kernel_shape=[height, width])
        lifting.report(it.node, f"{it.node.op_type} of {kernel}", f"{op_type} {kernel}, stride 1")
    image, row, col = stencil.anchors.T
    pooled = Form(of, of.flat(image, channel[:, 0], row, col)[:, None])
    return pooled.scaled(float(count), 0.0) if it.op_type == "ReduceSum" and count > 1 else pooled


def _of_channels(lifting: Lifting, it: _Reduction) -> Form | None:
    """A reduction over the channels of each position."""
    stencil = it.form.stencil(it.axes)
    if stencil is None or not stencil.pointwise:
        return None
    of, anchors = lifting.mixed(it.node, it.form, it.axes)
    axes = add_constant(lifting.graph, f"{it.node.name}.axes", np.array([1]))
    reduced = lifting.emit(it.node, it.op_type, [of.value, axes], (of.size[0], 1, *of.size[2:]), keepdims=1)
    return channels_at(reduced, anchors).reshaped((len(anchors),))


def pool(lifting: Lifting, node: ir.Node) -> Sequence[Form]:
    """Pools of the trunk stay; what sees the whole map, or comes last before a head, is taken at every position."""
    form = lifting.source(node)
    kernel = ints(node, "kernel_shape", [])
    if len(form.shape) == 5 and kernel[1:] == [1, 1]:
        return [_over_depth(node, form, kernel[0])]
    stays(lifting, node)
    extent, output = lifting.source(node).map.size[2:], lifting.shapes[node.outputs[0]]
    if _covers(node, extent):
        kernel = list(extent)
    elif any(ints(node, "pads", [])) or not _divides(node, extent) or not _feeds_head(node):
        return ()
    return [_everywhere(lifting, node, kernel, output)] if _restrided(node, kernel) else ()


def _covers(node: ir.Node, extent: Sequence[int]) -> bool:
    """Whether the pool's only window holds the whole map, and its padding, if there is any, counts for nothing."""
    kernel, pads = ints(node, "kernel_shape", []), ints(node, "pads", [0] * 4)
    strides, dilations = ints(node, "strides", [1, 1]), ints(node, "dilations", [1, 1])
    single = all(
        size + pads[axis] + pads[axis + 2] - kernel[axis] < strides[axis] and kernel[axis] - pads[axis] >= size
        for axis, size in enumerate(extent)
    )
    counted = node.op_type != "MaxPool" and any(pads) and bool(node.attributes.get_int("count_include_pad", 0))
    return single and dilations == [1, 1] and not counted


def _divides(node: ir.Node, extent: Sequence[int]) -> bool:
    """Whether these are averages over a partition of the map."""
    kernel = ints(node, "kernel_shape", [])
    whole_blocks = not any(size % own for size, own in zip(extent, kernel, strict=True))
    return node.op_type == "AveragePool" and ints(node, "strides", [1, 1]) == kernel and whole_blocks


def _restrided(node: ir.Node, kernel: Sequence[int]) -> bool:
    """Whether taking the pool with this kernel at every position changes anything."""
    same = ints(node, "kernel_shape", []) == list(kernel) and not any(ints(node, "pads", []))
    return not same or ints(node, "strides", [1, 1]) != [1, 1]


def _everywhere(lifting: Lifting, node: ir.Node, kernel: Sequence[int], output: Sequence[int]) -> Form:
    """The pool at every position, and those of them that there were."""
    strides, extent = ints(node, "strides", [1, 1]), lifting.source(node).map.size[2:]
    was = f"{node.op_type} {'×'.join(map(str, ints(node, 'kernel_shape', [])))}, stride {'×'.join(map(str, strides))}"
    lifting.report(node, was, f"{node.op_type} {'×'.join(map(str, kernel))}, stride 1")
    for name in ("strides", "pads"):
        node.attributes.pop(name, None)
    node.attributes["kernel_shape"] = ir.AttrInt64s("kernel_shape", kernel)
    height, width = (total - own + 1 for total, own in zip(extent, kernel, strict=True))
    of = Map(node.outputs[0], (output[0], output[1], height, width))
    lifting.shapes[node.outputs[0]] = of.size
    every = whole(of)
    return Form(of, every.index[:, :, :: strides[0], :: strides[1]][:, :, : output[2], : output[3]])


def _feeds_head(node: ir.Node) -> bool:
    """Whether a fully connected layer is all that comes of a map, by way of what moves elements about."""
    pending, seen = [node], {node}
    while pending:
        users = {use.node for use in pending.pop().outputs[0].uses()}
        between = {user for user in users if user.op_type in MOVEMENT | ELEMENTWISE}
        if not users or any(user.op_type not in ("Gemm", "MatMul") for user in users - between):
            return False
        pending += between - seen
        seen |= between
    return True


def _over_depth(node: ir.Node, form: Form, kernel: int) -> Form:
    """An average over the first of three dimensions, as local response normalisation comes out of PyTorch."""
    strided = ints(node, "strides", [1, 1, 1]) != [1, 1, 1]
    if node.op_type != "AveragePool" or strided or any(ints(node, "pads", [])):
        raise refusal(node, "expected a plain average over channels")
    order: Ints = np.arange(form.index[..., 0].size).reshape(form.shape)
    windows = form.moved(np.lib.stride_tricks.sliding_window_view(order, kernel, axis=2))
    shape = windows.shape[:-1]
    return windows.summed([5]).scaled(1 / kernel, 0.0).reshaped(shape)


HANDLERS: dict[str, Handler] = {
    **dict.fromkeys(OF_GLOBAL, global_pool),
    **dict.fromkeys(REDUCTIONS, reduction),
    **dict.fromkeys(["AveragePool", "LpPool", "MaxPool"], pool),
}
