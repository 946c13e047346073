"""The blocks that stand for cells in pictures and polygons: one stride along each axis, around the window's centre."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fullconv.grid import WindowAxis

NO_INDEX = -1
"""Stands for no class, or no block."""


@dataclass(frozen=True)
class Blocks:
    """Blocks of cells along an axis, without gaps; a block holds `step` cells, the last block may hold fewer."""

    edges: NDArray[np.floating]
    """Where blocks begin, and where the last block ends, (blocks + 1,), in pixels of the image."""
    step: int

    @property
    def count(self) -> int:
        """Number of blocks."""
        return len(self.edges) - 1

    @property
    def centres(self) -> NDArray[np.floating]:
        """Pixels of the image, (blocks,)."""
        return (self.edges[1:] + self.edges[:-1]) / 2

    def at(self, positions: NDArray[np.floating]) -> NDArray[np.intp]:
        """Return the block that holds each position, in pixels of the image; NO_INDEX outside."""
        found = np.searchsorted(self.edges, positions, side="right") - 1
        return np.where(found < self.count, found, NO_INDEX)

    def thinned(self, step: int) -> "Blocks":
        """Return blocks that hold `step` of these blocks each."""
        return Blocks(np.append(self.edges[:-1:step], self.edges[-1]), self.step * step)


def blocks_of(axis: WindowAxis, scale: float) -> Blocks:
    """Return the blocks along an axis, where `scale` pixels of the picture show one pixel of the image.

    A last cell that is flush with the image's edge begins where the block before it ends.
    """
    edges = axis.origin + axis.stride * np.arange(axis.count + 1) + (axis.window - axis.stride) / 2
    if axis.count > 1 and axis.last != axis.origin + (axis.count - 1) * axis.stride:
        edges[-1] = axis.last + (axis.window + axis.stride) / 2
        edges[-2] = edges[-3] + axis.stride
    return Blocks(edges * axis.scale, 1).thinned(max(1, math.ceil(1 / (axis.stride * axis.scale * scale))))
