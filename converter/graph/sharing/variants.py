"""The ONNX files of mode shared, each for the multiples of a stride at which windows share another part of the network.

At a stride of s pixels, the service can also run a file for the multiples of N pixels on phases, whose windows are
lcm(s, N) pixels apart. A file for fine strides shares few layers; it is written only if phases of the files for coarser
strides cost more.

Further files cut margins off at some number of cells. They cost less, and their scores are not the classifier's own.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from converter.graph.converted import ConvertedGraph
from converter.graph.geometry import geometries
from converter.graph.sharing.cost import SharedCost
from converter.graph.sharing.share import share
from fullconv.common.model_files import CUT_MODEL, SHARED_MODEL
from fullconv.common.sharing import LEAST_GAIN, crops_effort
from fullconv.protos import model_pb2

STRIDES = (1, 2, 3, 4, 8, 16, 32)
"""Strides at which files are compared, as multiples of the finer file's pixels, up to twice the pixels of the coarsest
file: where layers compute little, a file that shares fewer of them may cost less at coarser strides too."""
LIMITS = (4, 3, 2, 1)
"""Numbers of cells at which margins are cut off, the most exact first."""


@dataclass(frozen=True)
class SharedVariant:
    """A network of mode shared for strides that are multiples of some pixels; `name` is the name of its ONNX file.

    Its margins are cut off at `limit` cells; None: they are whole, and the scores are the classifier's own.
    """

    name: str
    model: ir.Model
    multiple_of: tuple[int, int]
    cost: SharedCost
    limit: int | None = None

    def message(self, difference: model_pb2.Difference) -> model_pb2.SharedFile:
        """Return the description for the ModelSpec, with the measured difference from the scores of single windows."""
        height, width = self.multiple_of
        return model_pb2.SharedFile(
            multiple_of=model_pb2.Size(height=height, width=width),
            file=self.name,
            multiply_adds=self.cost.multiply_adds.ravel().tolist(),
            activation_bytes=self.cost.activation_bytes.ravel().tolist(),
            moved_bytes=self.cost.moved_bytes.ravel().tolist(),
            window_bytes=self.cost.window_bytes,
            difference=difference,
            margin_limit=self.limit or 0,
        )


def shared_variants(network: ConvertedGraph, window: tuple[int, int]) -> list[SharedVariant]:
    """Return the networks of mode shared with the classifier's own scores, those for fine strides first.

    A network whose dense scores are exact, or that runs on single windows, has none.
    """
    if not _shares(network, window):
        return []
    known = geometries(network.model.graph, window).values()
    levels = sorted({(each.vertical.stride, each.horizontal.stride) for each in known})
    made = list[SharedVariant]()
    for level in levels:
        model, cost = share(network.model, network.layout, window, network.sizes, level)
        crops = crops_effort(network.cost.multiply_adds_per_crop, cost.window_bytes)
        is_new = not any(np.array_equal(cost.multiply_adds, other.cost.multiply_adds) for other in made)
        if cost.effort_per_window(level) < crops and is_new:
            text = str(level[0]) if level[0] == level[1] else f"{level[0]}x{level[1]}"
            made.append(SharedVariant(SHARED_MODEL.format(text), model, level, cost))
    return [variant for number, variant in enumerate(made) if _is_needed(variant, made[number + 1 :])]


def _is_needed(variant: SharedVariant, coarser: Sequence[SharedVariant]) -> bool:
    """Return whether, at some stride of a variant, no variant for coarser strides has a lower cost on phases."""
    pixels = variant.multiple_of
    most = 2 * coarser[-1].multiple_of[0] if coarser else pixels[0]
    for times in STRIDES:
        stride = times * pixels[0], times * pixels[1]
        own = variant.cost.effort_per_window(stride)
        if stride[0] <= most and all(own < _effort_on_phases(other, stride) for other in coarser):
            return True
    return False


def _effort_on_phases(variant: SharedVariant, stride: tuple[int, int]) -> float:
    """Return the cost for each window of a large image at any stride in pixels."""
    down, across = (math.lcm(*each) for each in zip(stride, variant.multiple_of, strict=True))
    return variant.cost.effort_per_window((down, across))


def cut_variants(
    network: ConvertedGraph, window: tuple[int, int], whole: Sequence[SharedVariant]
) -> list[SharedVariant]:
    """Return networks of mode shared for the native stride whose margins are cut off, the most exact first.

    `whole` are the networks with the classifier's own scores. Each network costs less than those before it.
    """
    if not _shares(network, window):
        return []
    down, across = (axis.stride for axis in network.geometry)
    efforts = [
        each.cost.effort_per_window((down, across))
        for each in whole
        if down % each.multiple_of[0] == across % each.multiple_of[1] == 0
    ]
    made = list[SharedVariant]()
    for limit in LIMITS:
        model, cost = share(network.model, network.layout, window, network.sizes, (down, across), limit)
        crops = crops_effort(network.cost.multiply_adds_per_crop, cost.window_bytes)
        effort = cost.effort_per_window((down, across))
        if effort * LEAST_GAIN < min([crops, *efforts]):
            efforts.append(effort)
            made.append(SharedVariant(CUT_MODEL.format(limit), model, (down, across), cost, limit))
    return made


def _shares(network: ConvertedGraph, window: tuple[int, int]) -> bool:
    """Return whether windows of a dense network differ from the dense map, so that mode shared has a purpose."""
    is_exact = all(axis.is_exact(size) for axis, size in zip(network.geometry, window, strict=True))
    return network.mode == "dense" and not is_exact
