"""Variants of a converted network at other strides, with the same weights."""

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir
from onnx_ir.passes import common

from converter.errors import UnsupportedError
from converter.graph.converted import ConvertedGraph
from converter.graph.cost import dense_cost
from converter.graph.geometry import Geometry2D, geometries, output_geometry
from converter.graph.passes.align_branches import AlignBranchesPass
from converter.graph.passes.crop_grid import CropGridPass
from converter.graph.passes.restride import RestridePass
from fullconv.common.model_files import MODEL, STRIDE_MODEL
from fullconv.protos import model_pb2


@dataclass(frozen=True)
class Variant:
    """A network at one stride, whose weights all variants share; `name` is the name of its ONNX file."""

    name: str
    model: ir.Model
    geometry: Geometry2D
    cost: model_pb2.Cost


def variants(network: ConvertedGraph, wanted: Sequence[int], window: tuple[int, int]) -> list[Variant]:
    """Return the network itself, then its variants at the wanted strides in pixels.

    A network of crops has no variants. Raises UnsupportedError for a stride that the network cannot have.
    """
    made = [Variant(MODEL, network.model, network.geometry, network.cost)]
    if network.mode == "crops":
        return made
    check_strides(wanted, network.geometry)
    for stride in dict.fromkeys(wanted):
        if {stride} != {axis.stride for axis in network.geometry}:
            model, geometry = with_stride(network.model, stride, window)
            cost = dense_cost(model.graph, network.geometry, network.sizes, window)
            cost.multiply_adds_per_crop = network.cost.multiply_adds_per_crop
            made.append(Variant(STRIDE_MODEL.format(stride), model, geometry, cost))
    return made


def with_stride(model: ir.Model, stride: int, window: tuple[int, int]) -> tuple[ir.Model, Geometry2D]:
    """Return a copy of a converted network at another stride in pixels, with the same weights, and its geometry.

    Raises UnsupportedError if the network has no layer that can make the stride.
    """
    copy = model.clone()
    return copy, set_stride(copy, stride, window)


def set_stride(model: ir.Model, stride: int, window: tuple[int, int]) -> Geometry2D:
    """Bring a converted network to another stride in pixels, in place; returns its geometry.

    Raises UnsupportedError if the network has no layer that can make the stride.
    """
    RestridePass(stride, window)(model)
    AlignBranchesPass(window)(model)
    known = geometries(model.graph, window)
    geometry = output_geometry(known, model.graph)
    if any(axis.stride != stride for axis in geometry):
        raise UnsupportedError(
            f"strides: expected a layer that sees the whole window and can get a stride of {stride} pixels, got a "
            f"network without such a layer; leave {stride} out of --strides"
        )
    CropGridPass([[count - 1 for count in known[each].output_size(window)] for each in model.graph.outputs])(model)
    common.RemoveUnusedNodesPass()(model)  # including constants that were replaced
    common.NameFixPass()(model)
    return geometry


def check_strides(wanted: Sequence[int], geometry: Geometry2D) -> None:
    """Raise UnsupportedError unless each stride, in pixels, is a divisor or multiple of both native strides."""
    for stride in wanted:
        for axis in geometry:
            if axis.stride % stride and stride % axis.stride:
                finer = [size for size in range(1, axis.stride + 1) if axis.stride % size == 0]
                raise UnsupportedError(
                    f"strides: expected a divisor ({', '.join(map(str, finer))}) or a multiple of the native stride of "
                    f"{axis.stride} pixels, got {stride}"
                )
