"""Which windows a certificate is measured on: cells of images at their own size, chosen at random from whole grids.

images, in random order → of each the whole grid, or the part of it that one pass may score → cells of all of them
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from converter.graph.geometry import Geometry2D
from converter.verify.extent import Extent, Part
from converter.verify.images import Pixels, SampleImage, Wanted, synthetic_images

FEW_IMAGES = 8
"""Images that are looked at, if there are as many, whatever they cost."""
INTERIOR_CELLS = 4
"""Interior cells of a synthetic image along either axis, at the least."""
NOISE_IMAGES = 2
"""Synthetic images, at the least."""


@dataclass(frozen=True)
class Budget:
    """How much is measured: windows, and the pixels that one pass may take.

    If the images have no more than `affordable` windows, each is measured. `separate`: every cell costs a window.
    """

    windows: int
    pass_pixels: int
    affordable: int = 0
    separate: bool = False

    @property
    def wanted(self) -> int:
        """Cells from which the windows are chosen, at the least."""
        return max(self.windows, self.affordable)


@dataclass(frozen=True)
class Sample:
    """An image, the part of its grid that is scored in one pass, and the cells (row, col) of the grid to compare."""

    image: SampleImage
    rows: Part
    cols: Part
    cells: Sequence[tuple[int, int]]

    @property
    def pixels(self) -> Pixels:
        """What the pass reads of the image."""
        return self.image.read(self.rows.read, self.cols.read)

    @property
    def has_interior(self) -> bool:
        """Whether the image holds a cell that reads nothing beyond it."""
        return bool(self.rows.extent.interior) and bool(self.cols.extent.interior)

    def is_interior(self, cell: tuple[int, int]) -> bool:
        """Whether a cell reads nothing beyond the image."""
        return cell[0] in self.rows.extent.interior and cell[1] in self.cols.extent.interior


def sampled(
    images: Iterable[SampleImage],
    geometry: Geometry2D,
    window: tuple[int, int],
    budget: Budget,
    rng: np.random.Generator,
) -> list[Sample]:
    """Choose cells of the images: all if that is affordable, else `budget.windows`, each as likely as any other.

    Images are taken in their order until there are cells enough and the passes cost as much as the windows will.
    """
    parts = list(_parts(images, geometry, window, budget, rng))
    counts = [rows.cells * cols.cells for _, rows, cols in parts]
    total = sum(counts)
    whole = all(part.is_whole for _, *both in parts for part in both)
    count = min(total, budget.wanted if whole and total <= budget.wanted else budget.windows)
    chosen = np.sort(rng.choice(total, count, replace=False))
    ends = np.cumsum(counts)
    samples = []
    for (image, rows, cols), end, count in zip(parts, ends, counts, strict=True):
        own = chosen[(chosen >= end - count) & (chosen < end)] - (end - count)
        cells = [(rows.first + int(cell) // cols.cells, cols.first + int(cell) % cols.cells) for cell in own]
        if cells:
            samples.append(Sample(image, rows, cols, cells))
    return samples


def synthetic(
    geometry: Geometry2D, window: tuple[int, int], wanted: Wanted, budget: Budget, rng: np.random.Generator
) -> Iterator[SampleImage]:
    """Yield images for who has none, large enough that a quarter of their cells is interior, if a pass may be so."""
    side = math.isqrt(budget.pass_pixels)
    extents = []
    for axis, size in zip(geometry, window, strict=True):
        halo = Extent.around(axis, size, 0).cells
        room = (side - size) // axis.stride + 1 - halo
        extents.append(Extent.around(axis, size, max(INTERIOR_CELLS, min(halo, room))))
    cells = math.prod(extent.cells for extent in extents)
    count = max(NOISE_IMAGES, -(-budget.windows // cells))
    yield from synthetic_images((extents[0].pixels, extents[1].pixels), wanted, window, count, rng)


def _parts(
    images: Iterable[SampleImage],
    geometry: Geometry2D,
    window: tuple[int, int],
    budget: Budget,
    rng: np.random.Generator,
) -> Iterator[tuple[SampleImage, Part, Part]]:
    """Images until there are enough, and what one pass scores of each."""
    area, cells, pixels = math.prod(window), 0, 0
    for number, image in enumerate(images):
        if number >= FEW_IMAGES and cells >= budget.wanted and pixels >= budget.windows * area:
            return
        extents = [Extent.of(*each) for each in zip(geometry, window, image.size, strict=True)]
        rows, cols = _part(extents[0], extents[1], budget.pass_pixels, rng)
        cells += rows.cells * cols.cells
        read = math.prod(part.read.stop - part.read.start for part in (rows, cols))
        pixels += rows.cells * cols.cells * area if budget.separate else read
        yield image, rows, cols


def _part(vertical: Extent, horizontal: Extent, most: int, rng: np.random.Generator) -> tuple[Part, Part]:
    """The part of an image that a pass over so many pixels scores: as square as the image allows."""
    rows = vertical.part(max(math.isqrt(most), most // horizontal.pixels), rng)
    return rows, horizontal.part(most // (rows.read.stop - rows.read.start), rng)
