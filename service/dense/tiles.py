"""Cutting an image into tiles whose grids, stitched, are the grid of the whole image.

Along one axis a tile covers the windows of `cells` neighbouring cells, so its pixels lie on the lattice. A tile clipped
at the image's edge gets the network's own padding there, as the whole image would; anywhere else its outermost cells
see that padding instead of their neighbours, and are dropped: ceil(P/S) before and ceil(max(0, R - P - W)/S) after.
All tiles of an axis have one length; the last one shifts back on the lattice.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from service.dense.axis import AxisLattice


@dataclass(frozen=True)
class AxisTile:
    """One tile along one axis: reads pixels [read, read + length), keeps cells [first, stop) of the image's grid."""

    read: int
    length: int
    count: int
    """Cells of the tile's own grid."""
    first: int
    stop: int
    skip: int
    """Leading cells of the tile's own grid that are dropped."""

    @property
    def pixels(self) -> slice:
        """What the tile reads of the image."""
        return slice(self.read, self.read + self.length)

    @property
    def kept(self) -> slice:
        """Where the kept cells lie in the tile's own grid."""
        return slice(self.skip, self.skip + self.stop - self.first)

    @property
    def cells(self) -> slice:
        """Where the kept cells lie in the image's grid."""
        return slice(self.first, self.stop)


@dataclass(frozen=True)
class TilePlan:
    """Every tile of an image: the product of its row tiles and its column tiles."""

    vertical: AxisLattice
    horizontal: AxisLattice
    rows: tuple[AxisTile, ...]
    cols: tuple[AxisTile, ...]

    @property
    def tile_pixels(self) -> int:
        """Pixels of one tile; all are of one shape."""
        return self.rows[0].length * self.cols[0].length

    def __len__(self) -> int:
        """How many tiles there are."""
        return len(self.rows) * len(self.cols)


def plan_tiles(vertical: AxisLattice, horizontal: AxisLattice, *, pixels: int) -> TilePlan:
    """Plan tiles of at most so many pixels, as square as the image allows.

    A tile always covers its halo and one cell more, so a budget below that is exceeded.
    """
    height = min(vertical.cropped, max(math.isqrt(pixels), pixels // horizontal.cropped))
    width = min(horizontal.cropped, pixels // height)
    return TilePlan(vertical, horizontal, plan_axis(vertical, length=height), plan_axis(horizontal, length=width))


def plan_axis(lattice: AxisLattice, *, length: int) -> tuple[AxisTile, ...]:
    """Cover every cell of an axis once, with equal tiles of at most `length` pixels, or the shortest that get on."""
    geometry = lattice.geometry
    halo = geometry.halo_before + geometry.halo_after
    fitting = max((length - geometry.window) // geometry.stride + 1, halo + 1)
    if fitting >= lattice.cells:
        return tuple(_tiles(lattice, lattice.cells))
    count = -(-(lattice.cells - halo) // (fitting - halo))
    return tuple(_tiles(lattice, -(-(lattice.cells - halo) // count) + halo))


def _tiles(lattice: AxisLattice, cells: int) -> Iterator[AxisTile]:
    geometry, first = lattice.geometry, 0
    while first < lattice.cells:
        start = min(max(0, first - geometry.halo_before), lattice.cells - cells)
        end = start + cells
        stop = lattice.cells if end == lattice.cells else end - geometry.halo_after
        yield AxisTile(start * geometry.stride, lattice.pixels(cells), cells, first, stop, first - start)
        first = stop
