"""The grid of an image along one axis: how many cells, which read beyond the image, and how to score some of them only.

With native stride S, receptive field R, padding P and window W, cell y of n reads pixels [yS − P, yS − P + R) of an
image that is cropped to its lattice, W + (n − 1)S pixels. The first ⌈P/S⌉ cells and the last ⌈max(0, R − P − W)/S⌉ read
beyond it: the border. The others are the interior.
"""

from dataclasses import dataclass

import numpy as np

from converter.graph.geometry import AxisGeometry


@dataclass(frozen=True)
class Extent:
    """An image along one axis; every length in pixels."""

    axis: AxisGeometry
    window: int
    cells: int

    @classmethod
    def of(cls, axis: AxisGeometry, window: int, pixels: int) -> "Extent":
        """Returns the extent of an image of that many pixels, at least a window's."""
        return cls(axis, window, (pixels - window) // axis.stride + 1)

    @classmethod
    def around(cls, axis: AxisGeometry, window: int, interior: int) -> "Extent":
        """Returns the smallest extent with that many interior cells."""
        empty = cls(axis, window, 0)
        return cls(axis, window, empty.before + interior + empty.after)

    @property
    def before(self) -> int:
        """Cells at the top or left that read beyond the image."""
        return -(-self.axis.padding_before // self.axis.stride)

    @property
    def after(self) -> int:
        """Cells at the bottom or right that read beyond the image."""
        reach = self.axis.receptive_field - self.axis.padding_before - self.window
        return -(-max(0, reach) // self.axis.stride)

    @property
    def interior(self) -> range:
        """The cells that read nothing beyond the image; empty if the image is too small."""
        return range(self.before, max(self.before, self.cells - self.after))

    @property
    def pixels(self) -> int:
        """Pixels that the windows of all cells cover."""
        return self.window + (self.cells - 1) * self.axis.stride

    def span(self, first: int, stop: int) -> slice:
        """Returns the pixels that the windows of cells [first, stop) cover."""
        return slice(first * self.axis.stride, (stop - 1) * self.axis.stride + self.window)

    def part(self, pixels: int, rng: np.random.Generator) -> "Part":
        """Returns all cells, or as many neighbouring ones as a pass over that many pixels scores, placed at random."""
        if self.pixels <= pixels:
            return Part(self, 0, self.cells)
        scored = (pixels - self.window) // self.axis.stride + 1 - self.before - self.after
        count = min(self.cells, max(1, scored))
        first = int(rng.integers(self.cells - count + 1))
        return Part(self, first, first + count)


@dataclass(frozen=True)
class Part:
    """Cells [first, stop) of an extent, scored as a pass over the whole image scores them."""

    extent: Extent
    first: int
    stop: int

    @property
    def cells(self) -> int:
        """How many cells."""
        return self.stop - self.first

    @property
    def is_whole(self) -> bool:
        """Whether these are all cells of the extent."""
        return self.cells == self.extent.cells

    @property
    def read(self) -> slice:
        """The pixels of the image that a pass must read: those of the cells, and of the neighbours that they see."""
        return self.extent.span(self._read_first, min(self.extent.cells, self.stop + self.extent.after))

    @property
    def kept(self) -> slice:
        """The cells of that pass's grid that are as in a pass over the whole image."""
        return slice(self.first - self._read_first, self.stop - self._read_first)

    @property
    def passed(self) -> int:
        """How many cells that pass gives."""
        return min(self.extent.cells, self.stop + self.extent.after) - self._read_first

    def crop(self, cell: int) -> slice:
        """The pixels of a cell's window, counted from the first that the pass reads."""
        window = self.extent.span(cell, cell + 1)
        return slice(window.start - self.read.start, window.stop - self.read.start)

    @property
    def _read_first(self) -> int:
        return max(0, self.first - self.extent.before)
