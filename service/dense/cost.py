"""What tiles cost, counted and not timed, and how large they should be.

A network's multiply-adds are bilinear in the size of what it runs on: with u and v native strides more than a window
along either axis, window + row · u + column · v + cell · u · v, exactly, for sizes on the lattice.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from service.dense.tiles import Network, TilePlan

OVERHEAD = 1.05
"""Tiles that compute this much more than one large pass would are large enough: larger ones need memory for little."""
HURRIED = 2.0
"""The same where tiles have to be short."""
SPAN = 1 << 14
"""Pixels of the largest tile that is looked at."""


@dataclass(frozen=True)
class Cost:
    """Multiply-adds of one ONNX file, and the bytes of activations that it needs."""

    window: float
    """Of one window."""
    row: float
    """Of one native stride more from top to bottom, in an image as wide as a window."""
    column: float
    """Of one native stride more from left to right, in an image as high as a window."""
    cell: float
    """Of one native stride more along both axes of a large image."""
    bytes_per_pixel: float
    network: Network

    def multiply_adds(self, height: int, width: int) -> float:
        """Multiply-adds of a tile of so many pixels."""
        return self._sum([height], [width])

    def total(self, tiles: TilePlan) -> float:
        """Multiply-adds of all tiles of a plan."""
        return self._sum(
            [tile.length for band in tiles.bands for tile in band.tiles],
            [tile.length for tile in tiles.columns],
        )

    @lru_cache(maxsize=256)  # noqa: B019 (costs are values, few and small)
    def tile_pixels(self, budget: int, most: float = math.inf) -> int:
        """Pixels of the tiles of an image however large.

        Few enough for a budget of bytes, no more than worthwhile, and no more multiply-adds than `most` unless the halo
        would be most of them.
        """
        allowed = max(1, int(budget / self.bytes_per_pixel))
        side = max(axis.window for axis, _ in self.network.axes)
        while side < SPAN and side * side < allowed and self._overhead(side) > self._worthwhile(side, most):
            side += max(16, side // 8)
        return min(allowed, side * side)

    def _worthwhile(self, side: int, most: float) -> float:
        return OVERHEAD if self.multiply_adds(side, side) < most else HURRIED

    def _sum(self, heights: Sequence[int], widths: Sequence[int]) -> float:
        """Of tiles of all heights by all widths."""
        u, v = (
            sum(length - axis.window for length in lengths) / axis.stride
            for lengths, (axis, _) in zip((heights, widths), self.network.axes, strict=True)
        )
        rows, cols = len(heights), len(widths)
        return self.window * rows * cols + self.row * u * cols + self.column * v * rows + self.cell * u * v

    def _overhead(self, side: int) -> float:
        """What a tile in the middle of an image computes, over what its kept cells would cost in one large pass."""
        kept = 1.0
        for axis, base in self.network.axes:
            cells = (side - axis.window) // base + 1 - axis.halo_before(base) - axis.halo_after(base)
            kept *= max(0, cells) * base / axis.stride
        return self.multiply_adds(side, side) / (kept * self.cell) if kept else math.inf
