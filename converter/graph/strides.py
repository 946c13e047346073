"""Variants of a network at other strides, with the same weights.

Finer, t = S/k, à trous: a value of native stride s gets stride gcd(s, t). So a layer between values of strides s and s'
strides by gcd(s', t) / gcd(s, t), and since its input is denser by s / gcd(s, t), its dilation and pads grow by that.
Coarser, t = mS: the layer that sees a whole window, and makes one element of it, strides by m more.

Each axis by itself. Refused: a padded average that leaves its padding out of the count.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import common

from converter.errors import UnsupportedError
from converter.graph.constants import constant
from converter.graph.converted import ConvertedGraph, ending_activation
from converter.graph.cost import dense_cost
from converter.graph.geometry import Axis, Plane, constant_of, extend, ints, kernel_of, of_image, planes
from converter.graph.operators import WINDOWED
from converter.graph.padding import float_of, keep_apart
from fullconv.common.model_files import MODEL, STRIDE_MODEL
from fullconv.protos import model_pb2

END = np.iinfo(np.int64).max
"""The end of a map, for a Slice."""


@dataclass(frozen=True)
class Variant:
    """A network at one stride, its weights shared with the others; `name` is its ONNX file's."""

    name: str
    model: ir.Model
    plane: Plane
    cost: model_pb2.Cost


def variants(network: ConvertedGraph, wanted: Sequence[int], window: tuple[int, int]) -> list[Variant]:
    """The network itself, then what is wanted besides, in pixels; raises UnsupportedError for what cannot be had."""
    made = [Variant(MODEL, network.model, network.plane, network.cost)]
    if network.mode == "crops":
        return made
    check_strides(wanted, network.plane)
    for stride in dict.fromkeys(wanted):
        if {stride} != {axis.stride for axis in network.plane}:
            model, plane = restrided(network.model, stride, window)
            cost = dense_cost(model.graph, network.plane, network.sizes, window)
            cost.multiply_adds_per_crop = network.cost.multiply_adds_per_crop
            made.append(Variant(STRIDE_MODEL.format(stride), model, plane, cost))
    return made


def restrided(model: ir.Model, stride: int, window: tuple[int, int]) -> tuple[ir.Model, Plane]:
    """A copy of a lifted network, with the same weights, at another stride in pixels; and its geometry."""
    copy = model.clone()
    restride(copy.graph, stride, window)
    align(copy.graph, window)
    plane = planes(copy.graph)[copy.graph.outputs[0]]
    if any(axis.stride != stride for axis in plane):
        raise UnsupportedError(
            f"strides: expected a layer that sees the whole window, to stride it, for a stride of {stride} pixels, got "
            f"a network without one; leave {stride} out of --strides"
        )
    drop_further(copy.graph, [count - 1 for count in _elements(plane, window)])
    tidy = (common.RemoveUnusedNodesPass(), common.NameFixPass())  # also the constants that others have replaced
    ir.passes.Sequential(*tidy)(copy)
    return copy, plane


def check_strides(wanted: Sequence[int], plane: Plane) -> None:
    """Raise UnsupportedError unless each stride, in pixels, divides the native one of either axis or is a multiple."""
    for stride in wanted:
        for axis in plane:
            if axis.stride % stride and stride % axis.stride:
                finer = [size for size in range(1, axis.stride + 1) if axis.stride % size == 0]
                raise UnsupportedError(
                    f"strides: expected a divisor ({', '.join(map(str, finer))}) or a multiple of the native stride of "
                    f"{axis.stride} pixels, got {stride}"
                )


def restride(graph: ir.Graph, stride: int, window: tuple[int, int]) -> None:
    """Bring a lifted network for windows (height, width) to another stride, in pixels, in place."""
    known = planes(graph)
    native = known[graph.outputs[0]]
    for node in list(graph):
        source = node.inputs[0] if node.inputs else None
        if node.op_type in (*WINDOWED, "Pad", "Slice") and source in known and source is not None:
            own, made = known[source], known[node.outputs[0]]
            changes = [_change(own[axis], made[axis], native[axis], stride, window[axis]) for axis in (0, 1)]
            _apply(graph, node, [rate for rate, _ in changes], [own for _, own in changes])


def align(graph: ir.Graph, window: tuple[int, int]) -> None:
    """Cut branches that meet to one size, in place: without their strides one may have a row that it threw away."""
    known = of_image(graph)
    for node in list(graph):
        maps = [(position, value) for position, value in enumerate(node.inputs) if value is not None and value in known]
        counts = np.array([_elements(known[value], window) for _, value in maps])
        for (position, value), count in zip(maps, counts, strict=True):
            if (count > counts.min(0)).any():
                crop = cropped(graph, value, (count - counts.min(0)).tolist())
                extend(known, crop)
                node.replace_input_with(position, crop.outputs[0])
        extend(known, node)


def _elements(plane: Plane, window: tuple[int, int]) -> list[int]:
    """Rows and columns that a window gives."""
    return [axis.elements(size) for axis, size in zip(plane, window, strict=True)]


def cropped(graph: ir.Graph, value: ir.Value, further: Sequence[int]) -> ir.Node:
    """Take the last rows and columns off a map, as many as `further` says."""
    producer = value.producer()
    assert producer is not None  # noqa: S101 (maps are computed)
    crop = ir.node("Slice", [value, None, None, None], name=f"{value.name}.crop")
    crop.outputs[0].name, crop.outputs[0].type = f"{value.name}.cropped", value.type
    graph.insert_after(producer, crop)
    for position, numbers in ((1, [0, 0]), (2, [-count or END for count in further]), (3, [2, 3])):
        _replace(graph, crop, position, np.array(numbers))
    return crop


def drop_further(graph: ir.Graph, further: Sequence[int]) -> None:
    """Leave out the last rows and columns of a grid, in place.

    Strides throw away what pixels of a window they do not reach; at a finer stride there are cells for those.
    """
    if not any(further):
        return
    activation = ending_activation(graph.outputs[0])
    grid = activation.inputs[0] if activation else graph.outputs[0]
    assert grid is not None  # noqa: S101 (an activation has an input)
    (crop,) = cropped(graph, grid, further).outputs
    if activation:
        activation.replace_input_with(0, crop)
        return
    crop.name, grid.name = grid.name, f"{grid.name}.all"
    crop.shape, grid.shape = grid.shape, None
    graph.outputs[:] = [crop]


def _change(own: Axis, made: Axis, native: Axis, stride: int, window: int) -> tuple[int, int]:
    """How much denser a layer's input is than at the native stride, and the stride that the layer has."""
    before, after = (math.gcd(axis.stride, stride) for axis in (own, made))
    contracts = made.elements(window) == 1 < own.elements(window)
    return own.stride // before, after // before * (max(1, stride // native.stride) if contracts else 1)


def _apply(graph: ir.Graph, node: ir.Node, rates: Sequence[int], strides: Sequence[int]) -> None:
    if node.op_type in WINDOWED:
        node.attributes["strides"] = ir.AttrInt64s("strides", strides)
    if set(rates) == {1}:
        return
    if node.op_type in WINDOWED:
        _dilate(graph, node, rates)
    elif node.op_type == "Pad":
        factors = np.array([1, 1, *rates] * 2)
        _replace(graph, node, 1, np.array(constant_of(node, 1)) * factors)
    elif constant_of(node, 3) == [2, 3]:
        for position in (1, 2):
            borders = [_further(at, rate) for at, rate in zip(constant_of(node, position), rates, strict=True)]
            _replace(graph, node, position, np.array(borders))


def _further(at: int, rate: int) -> int:
    """A border of a Slice as many pixels from the edge as before; its end of the map stays the end."""
    return at if at == END else at * rate


def _dilate(graph: ir.Graph, node: ir.Node, rates: Sequence[int]) -> None:
    dilations = [size * rate for size, rate in zip(ints(node, "dilations", [1, 1]), rates, strict=True)]
    pads = [size * rate for size, rate in zip(ints(node, "pads", [0] * 4), [*rates, *rates], strict=True)]
    if node.op_type != "Conv" and any(pad >= size for pad, size in zip(pads, kernel_of(node) * 2, strict=True)):
        _pad_before(graph, node, pads)
        pads = [0] * 4
    if node.op_type != "Conv":
        keep_apart(graph, node)
    node.attributes["dilations"] = ir.AttrInt64s("dilations", dilations)
    node.attributes["pads"] = ir.AttrInt64s("pads", pads)


def _pad_before(graph: ir.Graph, node: ir.Node, pads: Sequence[int]) -> None:
    """ONNX Runtime's pools take no pads as large as their kernels; a Pad before them does."""
    if node.op_type == "AveragePool" and ints(node, "count_include_pad", [0]) != [1]:
        raise UnsupportedError(
            f"node {node.name!r} (AveragePool): an average that leaves its padding out of the count has no form "
            "at this stride; leave it out of --strides"
        )
    source = node.inputs[0]
    assert source is not None  # noqa: S101 (not optional)
    filling = np.array(-np.inf if node.op_type == "MaxPool" else 0.0, float_of(source))
    pad = ir.node("Pad", [source, None, None], name=f"{node.name}.pad")
    pad.outputs[0].name, pad.outputs[0].type = f"{node.name}.padded", source.type
    graph.insert_before(node, pad)
    _replace(graph, pad, 1, np.array([0, 0, *pads[:2], 0, 0, *pads[2:]]))
    _replace(graph, pad, 2, filling)
    node.replace_input_with(0, pad.outputs[0])


def _replace(graph: ir.Graph, node: ir.Node, position: int, array: NDArray[np.generic]) -> None:
    """Give a node a constant of its own."""
    node.replace_input_with(position, constant(graph, f"{node.name}.{position}", array))
