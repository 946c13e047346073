"""The ONNX files of mode shared: one for each stride at which windows share a different part of the network."""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from converter.graph.converted import ConvertedGraph
from converter.graph.geometry import geometries
from converter.graph.sharing.cost import SharedCost
from converter.graph.sharing.share import share
from fullconv.common.model_files import SHARED_MODEL
from fullconv.common.sharing import crops_effort
from fullconv.protos import model_pb2


@dataclass(frozen=True)
class SharedVariant:
    """A network of mode shared for strides that are multiples of some pixels; `name` is the name of its ONNX file."""

    name: str
    model: ir.Model
    multiple_of: tuple[int, int]
    cost: SharedCost

    def message(self, difference: model_pb2.Difference) -> model_pb2.SharedFile:
        """Return the description for the ModelSpec, with the measured difference from single windows."""
        height, width = self.multiple_of
        return model_pb2.SharedFile(
            multiple_of=model_pb2.Size(height=height, width=width),
            file=self.name,
            multiply_adds=self.cost.multiply_adds.ravel().tolist(),
            activation_bytes=self.cost.activation_bytes.ravel().tolist(),
            moved_bytes=self.cost.moved_bytes.ravel().tolist(),
            window_bytes=self.cost.window_bytes,
            difference=difference,
        )


def shared_variants(network: ConvertedGraph, window: tuple[int, int]) -> list[SharedVariant]:
    """Return the networks of mode shared, those for fine strides first.

    A network whose dense scores are exact, or that runs on single windows, has none.
    """
    is_exact = all(axis.is_exact(size) for axis, size in zip(network.geometry, window, strict=True))
    if network.mode != "dense" or is_exact:
        return []
    known = geometries(network.model.graph).values()
    levels = sorted({(each.vertical.stride, each.horizontal.stride) for each in known})
    made = list[SharedVariant]()
    for level in levels:
        model, cost = share(network.model, network.layout, window, network.sizes, level)
        crops = crops_effort(network.cost.multiply_adds_per_crop, cost.window_bytes)
        is_new = not any(np.array_equal(cost.multiply_adds, other.cost.multiply_adds) for other in made)
        if cost.effort_per_window(level) < crops and is_new:
            text = str(level[0]) if level[0] == level[1] else f"{level[0]}x{level[1]}"
            made.append(SharedVariant(SHARED_MODEL.format(text), model, level, cost))
    return made
