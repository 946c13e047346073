"""Cutting an image into tiles whose grids, stitched, are the grid of the whole image.

Along one axis a tile covers the windows of neighbouring cells of the network that runs, b pixels apart. A tile that
ends at the image's edge gets the network's own padding there, as the whole image would; anywhere else its outermost
cells see that padding instead of their neighbours, and are dropped: ceil(P/b) before, ceil(max(0, R - P - W)/b) after.
All tiles have one length; the last one shifts back.

The grid may be coarser than the network, t = mb: every m-th cell is kept. Or finer, t = b/k, by shift and stitch: k
phases, the image from pixel at on for a = 0 ... k - 1, whose grids interleave. A band is what the phases of one place
give together; along both axes that makes k² passes.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import accumulate

from service.dense.axis import AxisGeometry, AxisLattice

MOST_TILES = 1 << 17
"""Along an axis; a plan is a value, and held in memory."""


@dataclass(frozen=True)
class AxisTile:
    """One tile along one axis: reads pixels [read, read + length), and keeps some cells of the grid that it gives."""

    start: int
    length: int
    count: int
    """Cells of the tile's own grid; a network may give some more, which are dropped."""
    kept: slice
    """Which of them are kept."""
    cells: slice
    """Where these lie in the image's grid."""
    mirrored: bool = False
    """Whether the network sees the pixels from right to left; `kept` counts in its grid, `cells` in the image's."""


@dataclass(frozen=True)
class AxisBand:
    """The tiles, one for each phase, that give cells [first, stop) of the image's grid."""

    first: int
    stop: int
    tiles: tuple[AxisTile, ...]
    begin: int
    """First pixel that its tiles read, or those of a band after it: bands are read in order."""

    @property
    def pixels(self) -> tuple[int, int]:
        """First pixel that is read, and the one behind the last."""
        return self.begin, max(tile.start + tile.length for tile in self.tiles)


@dataclass(frozen=True)
class TilePlan:
    """Every tile of an image: the product of its bands from top to bottom and its tiles from left to right."""

    vertical: AxisLattice
    horizontal: AxisLattice
    bands: tuple[AxisBand, ...]
    across: tuple[AxisTile, ...]
    """From left to right."""
    mirrored: tuple[AxisTile, ...] = ()
    """From right to left, for the mirrored image, if that is run too."""

    @property
    def columns(self) -> tuple[AxisTile, ...]:
        """The tiles that are run for each row of tiles: from left to right, then those for the mirrored image."""
        return (*self.across, *self.mirrored)

    def iter_tiles(self) -> Iterator[tuple[AxisTile, AxisTile]]:
        """Every tile of the image, band by band, as a pair of one along each axis."""
        return ((row, col) for band in self.bands for row in band.tiles for col in self.columns)

    @property
    def cells(self) -> int:
        """Cells of the grid."""
        return self.vertical.cells * self.horizontal.cells

    @property
    def max_tile_shape(self) -> tuple[int, int]:
        """Height and width of the largest tile; all are of that size where the image allows."""
        return (
            max(tile.length for band in self.bands for tile in band.tiles),
            max(tile.length for tile in self.across),
        )

    @property
    def max_band_rows(self) -> int:
        """Rows of the grid that the highest band gives."""
        return max(band.stop - band.first for band in self.bands)

    @property
    def max_strip_rows(self) -> int:
        """Rows of pixels that the highest band reads."""
        return max(stop - start for start, stop in (band.pixels for band in self.bands))

    def __len__(self) -> int:
        """How many tiles there are."""
        return sum(len(band.tiles) for band in self.bands) * len(self.columns)


@dataclass(frozen=True)
class Network:
    """What runs: a model's geometry, and the strides of the file that is run, vertical before horizontal, in pixels."""

    vertical: AxisGeometry
    horizontal: AxisGeometry
    strides: tuple[int, int]

    @property
    def axes(self) -> tuple[tuple[AxisGeometry, int], tuple[AxisGeometry, int]]:
        """Geometry and stride along either axis, vertical before horizontal."""
        return (self.vertical, self.strides[0]), (self.horizontal, self.strides[1])


def plan_axis(
    lattice: AxisLattice, geometry: AxisGeometry, base: int, *, length: int | None = None
) -> tuple[AxisBand, ...]:
    """Cover every cell of an axis once, with tiles of at most `length` pixels, or the shortest that get on.

    `base` is the stride in pixels of the network that runs; the lattice's divides it or is a multiple.
    """
    regular = _Regular(lattice, geometry, base)
    bands = [*regular.bands(length or lattice.extent)] if lattice.chosen else []
    if lattice.anchor is not None:
        bands.append(_anchored(lattice, lattice.anchor, geometry, base))
    return tuple(_in_order(bands))


def _in_order(bands: list[AxisBand]) -> list[AxisBand]:
    """Let no band begin behind one that follows: a phase that ends sooner may reach further back."""
    begins = list(accumulate((band.begin for band in reversed(bands)), min))
    return [replace(band, begin=begin) for band, begin in zip(bands, reversed(begins), strict=True)]


def plan_mirrored(
    lattice: AxisLattice, geometry: AxisGeometry, base: int, *, length: int | None = None
) -> tuple[AxisTile, ...]:
    """Like `plan_axis`, for the mirrored image: the same windows, seen from the other end.

    The image is cropped to the lattice, then mirrored; the window flush with the end is the first of the whole mirrored
    image.
    """
    tiles: list[AxisTile] = []
    stop = min(lattice.extent if lattice.stop is None else lattice.stop, lattice.cropped)
    parts = [(lattice.cropped, lattice.cropped - stop, lattice.cropped - lattice.start)] if lattice.chosen else []
    if lattice.anchor is not None:
        parts.append((lattice.extent, 0, lattice.window))
    for extent, start, end in parts:
        part = AxisLattice(extent, lattice.window, lattice.stride, start=start, stop=end)
        offset = len(lattice.chosen) - 1 if extent == lattice.cropped else lattice.cells - 1
        tiles += [
            _mirror(tile, extent, offset)
            for band in plan_axis(part, geometry, base, length=length)
            for tile in band.tiles
        ]
    return tuple(tiles)


def _mirror(tile: AxisTile, extent: int, last: int) -> AxisTile:
    """A tile of a mirrored image, as it lies in the image, whose cell 0 is there cell `last`."""
    cells = [last - cell for cell in range(last + 1)[tile.cells]]
    place = slice(cells[-1], cells[0] + 1, tile.cells.step)
    return replace(tile, start=extent - tile.start - tile.length, cells=place, mirrored=True)


@dataclass(frozen=True)
class _Regular:
    """The windows of the lattice; indices are those of the network's own cells, those of phase 0 where there are more.

    A lattice cell j is the network's cell j * step of the one phase, or j // phases of phase j % phases.
    """

    lattice: AxisLattice
    geometry: AxisGeometry
    base: int

    def __post_init__(self) -> None:
        """Refuse a stride that neither divides the network's nor is a multiple."""
        if self.lattice.stride % self.base and self.base % self.lattice.stride:
            raise ValueError(f"expected a divisor or a multiple of {self.base} pixels, got {self.lattice.stride}")

    @property
    def phases(self) -> int:
        return max(1, self.base // self.lattice.stride)

    @property
    def step(self) -> int:
        return max(1, self.lattice.stride // self.base)

    @property
    def before(self) -> int:
        return self.geometry.halo_before(self.base)

    @property
    def after(self) -> int:
        return self.geometry.halo_after(self.base)

    def bands(self, length: int) -> Iterator[AxisBand]:
        """Equal tiles from the first cell to the last, each as far as its halo lets it keep."""
        chosen, step, phases = self.lattice.chosen, self.step, self.phases
        first, stop = chosen.start * step // phases, (chosen.stop - 1) * step // phases + 1
        begin, end = max(0, first - self.before), min(self._available(0), stop + self.after)
        cells = self._cells(end - begin, length)
        if (stop - first) * phases // max(1, cells - self.before - self.after) > MOST_TILES:
            raise ValueError(f"expected at most {MOST_TILES} tiles along an axis, got more")
        while first < stop:
            start = min(max(begin, first - self.before), end - cells)
            following = stop if start + cells == end else start + cells - self.after
            tiles = [self._tile(phase, start, cells, first, following) for phase in range(phases)]
            kept = [tile for tile in tiles if tile is not None]
            if kept:
                low, high = min(tile.cells.start for tile in kept), max(tile.cells.stop for tile in kept)
                yield AxisBand(low, high, tuple(kept), min(tile.start for tile in kept))
            first = following

    def _available(self, phase: int) -> int:
        """Cells that the network has in one phase of the whole axis."""
        return (self.lattice.regular - 1 - phase) * self.step // self.phases + 1

    def _cells(self, wanted: int, length: int) -> int:
        """Cells of each tile, of at most `length` pixels, so that together they reach `wanted`."""
        halo = self.before + self.after
        fitting = max((length - self.geometry.window) // self.base + 1, halo + 1)
        if fitting >= wanted:
            return wanted
        count = -(-(wanted - halo) // (fitting - halo))
        return -(-(wanted - halo) // count) + halo

    def _tile(self, phase: int, start: int, cells: int, first: int, stop: int) -> AxisTile | None:
        """One phase of what keeps the network's cells [first, stop), if any; shifted back where it ends sooner."""
        available = self._available(phase)
        start = min(start, max(0, available - cells))
        cells = min(cells, available - start)
        own = range(phase, self.lattice.regular, self.phases)
        wanted = self.lattice.chosen
        low = max(-(-first // self.step), -(-(wanted.start - phase) // self.phases))
        high = min(-(-stop // self.step), len(own), -(-(wanted.stop - phase) // self.phases))
        if low >= high:
            return None
        read, length = phase * self.lattice.stride + start * self.base, self.geometry.window + (cells - 1) * self.base
        if self.after and start + cells == available:  # the last cells see on to the edge, and only there
            length = self.lattice.cropped - read
        kept = slice(low * self.step - start, (high - 1) * self.step - start + 1, self.step)
        left = wanted.start
        return AxisTile(read, length, cells, kept, slice(own[low] - left, own[high - 1] - left + 1, self.phases))


def _anchored(lattice: AxisLattice, anchor: int, geometry: AxisGeometry, base: int) -> AxisBand:
    """The window flush with the end, as the last of its own phase."""
    index, offset = divmod(anchor, base)
    start = max(0, index - geometry.halo_before(base))
    read, count, cell = offset + start * base, index - start + 1, lattice.cells - 1
    tile = AxisTile(read, lattice.extent - read, count, slice(count - 1, count, 1), slice(cell, cell + 1, 1))
    return AxisBand(cell, cell + 1, (tile,), read)


def plan_tiles(
    vertical: AxisLattice,
    horizontal: AxisLattice,
    network: Network,
    *,
    pixels: int,
    rows: int | None = None,
    flip: bool = False,
) -> TilePlan:
    """Plan tiles of at most so many pixels, as square as the image allows.

    Bands read at most `rows` rows of pixels. A tile always covers its halo and one cell more, so that budgets below
    that are exceeded. With `flip` the mirrored image is run too.
    """
    height = min(vertical.extent, max(math.isqrt(pixels), pixels // horizontal.extent), rows or vertical.extent)
    width = min(horizontal.extent, max(1, pixels // height))
    down = plan_axis(vertical, network.vertical, network.strides[0], length=height)
    across = plan_axis(horizontal, network.horizontal, network.strides[1], length=width)
    mirrored = plan_mirrored(horizontal, network.horizontal, network.strides[1], length=width) if flip else ()
    return TilePlan(vertical, horizontal, down, tuple(tile for band in across for tile in band.tiles), mirrored)
