"""Plans of tiles whose grids, put together, equal the grid of the whole image.

Along one axis a tile covers the windows of neighbouring cells of the network, b pixels apart. At the edge of the image
a tile gets the network's own padding, as the whole image would. At its other ends its outermost cells read padding
instead of the pixels of the image next to the tile. These cells are the halo and are dropped: ceil(P/b) before and
ceil(max(0, R - P - W)/b) after. All tiles have the same length; the last tile overlaps the tile before it.

The grid may be coarser than the network's, t = mb: then every m-th cell is kept. The grid may be finer, t = b/k: then
the network runs on k phases. Phase a, for a = 0 ... k - 1, is the image from pixel a * t on, and the grids of the
phases interleave (shift and stitch). Along both axes that makes k² passes. A band is the part of the grid that the
tiles of all phases give at one position.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate

from service.dense.axis import AxisGeometry, AxisLattice

MAX_TILES = 1 << 17
"""Largest number of tiles along an axis: the plan is held in memory."""


@dataclass(frozen=True)
class AxisTile:
    """One tile along one axis: it reads pixels [start, start + length) and keeps some cells of the resulting grid."""

    start: int
    length: int
    count: int
    """Number of cells of the tile's grid. Further cells, which some networks return, are dropped."""
    kept: slice
    """Indices of the kept cells in the tile's grid."""
    cells: slice
    """Indices of the kept cells in the image's grid."""
    mirrored: bool = False
    """Whether the network gets the pixels mirrored, from right to left. Then `kept` holds indices in the mirrored
    tile's grid, and `cells` indices in the grid of the unmirrored image."""


@dataclass(frozen=True)
class AxisBand:
    """The tiles, one for each phase, that give cells [first, stop) of the image's grid."""

    first: int
    stop: int
    tiles: tuple[AxisTile, ...]
    begin: int
    """First pixel that is read by the tiles of this band or of any later band, so that pixels are read in order."""

    @cached_property
    def pixels(self) -> tuple[int, int]:
        """The range of pixels to be read, [begin, stop)."""
        return self.begin, max(tile.start + tile.length for tile in self.tiles)


@dataclass(frozen=True)
class TilePlan:
    """All tiles of an image: each tile of each band, from top to bottom, with each tile from left to right."""

    vertical: AxisLattice
    horizontal: AxisLattice
    bands: tuple[AxisBand, ...]
    forward: tuple[AxisTile, ...]
    """The tiles of one row of tiles in the unmirrored image."""
    mirrored: tuple[AxisTile, ...] = ()
    """The tiles of one row of tiles in the mirrored image; empty if the mirrored image is not run."""

    @property
    def columns(self) -> tuple[AxisTile, ...]:
        """All tiles that are run for one row of tiles: first of the unmirrored image, then of the mirrored image."""
        return (*self.forward, *self.mirrored)

    def iter_tiles(self) -> Iterator[tuple[AxisTile, AxisTile]]:
        """Yield every tile of the image, band by band, as (vertical `AxisTile`, horizontal `AxisTile`)."""
        return ((row, col) for band in self.bands for row in band.tiles for col in self.columns)

    @property
    def cells(self) -> int:
        """Number of cells of the grid."""
        return self.vertical.cells * self.horizontal.cells

    @property
    def max_tile_shape(self) -> tuple[int, int]:
        """Height and width in pixels of the largest tile."""
        return (
            max(tile.length for band in self.bands for tile in band.tiles),
            max(tile.length for tile in self.forward),
        )

    @property
    def max_band_rows(self) -> int:
        """Largest number of rows of the grid in one band."""
        return max(band.stop - band.first for band in self.bands)

    @property
    def max_strip_rows(self) -> int:
        """Largest number of rows of pixels that one band reads."""
        return max(stop - start for start, stop in (band.pixels for band in self.bands))

    def __len__(self) -> int:
        """Return the number of tiles."""
        return sum(len(band.tiles) for band in self.bands) * len(self.columns)


@dataclass(frozen=True)
class Network:
    """The network that runs: its geometry, and the strides of its ONNX file in pixels, vertical before horizontal."""

    vertical: AxisGeometry
    horizontal: AxisGeometry
    strides: tuple[int, int]

    @property
    def axes(self) -> tuple[tuple[AxisGeometry, int], tuple[AxisGeometry, int]]:
        """Geometry and stride of each axis, vertical before horizontal."""
        return (self.vertical, self.strides[0]), (self.horizontal, self.strides[1])


def plan_axis(
    lattice: AxisLattice, geometry: AxisGeometry, base: int, *, max_length: int | None = None
) -> tuple[AxisBand, ...]:
    """Cover every cell of an axis exactly once with tiles of at most `max_length` pixels.

    The shortest tile holds its halo and one cell, even if that exceeds `max_length`. Default of `max_length`: the
    whole axis. `base` is the stride in pixels of the network that runs; the lattice's stride divides
    it or is a multiple of it, else ValueError is raised.
    """
    regular = _RegularWindows(lattice, geometry, base)
    bands = [*regular.bands(max_length or lattice.extent)] if lattice.region_windows else []
    if lattice.anchor is not None:
        bands.append(_anchored_band(lattice, lattice.anchor, geometry, base))
    return tuple(_with_ascending_begins(bands))


def _with_ascending_begins(bands: list[AxisBand]) -> list[AxisBand]:
    """Lower the begin of each band to the lowest begin of all later bands.

    A later band may begin earlier because one of its phases ends earlier, so that this phase's tile starts earlier.
    """
    begins = list(accumulate((band.begin for band in reversed(bands)), min))
    return [replace(band, begin=begin) for band, begin in zip(bands, reversed(begins), strict=True)]


def plan_mirrored(
    lattice: AxisLattice, geometry: AxisGeometry, base: int, *, max_length: int | None = None
) -> tuple[AxisTile, ...]:
    """Cover every cell of an axis exactly once with tiles of the mirrored image; parameters as for `plan_axis`.

    For the regular windows the image is cropped to the lattice before it is mirrored. The anchored window is the first
    window of the mirrored whole image.
    """
    tiles: list[AxisTile] = []
    extent = lattice.cropped_extent
    if lattice.region_windows:
        stop = min(lattice.extent if lattice.stop is None else lattice.stop, extent)
        mirrored = AxisLattice(extent, lattice.window, lattice.stride, start=extent - stop, stop=extent - lattice.start)
        last = len(lattice.region_windows) - 1
        tiles += _mirrored_tiles(plan_axis(mirrored, geometry, base, max_length=max_length), extent, last)
    if lattice.anchor is not None:
        first = AxisLattice(lattice.extent, lattice.window, lattice.stride, start=0, stop=lattice.window)
        bands = plan_axis(first, geometry, base, max_length=max_length)
        tiles += _mirrored_tiles(bands, lattice.extent, lattice.cells - 1)
    return tuple(tiles)


def _mirrored_tiles(bands: tuple[AxisBand, ...], extent: int, last: int) -> Iterator[AxisTile]:
    """Place tiles of a mirrored image of `extent` pixels in the image; cell 0 of the mirrored image is cell `last`."""
    for tile in (tile for band in bands for tile in band.tiles):
        cells = [last - cell for cell in range(last + 1)[tile.cells]]
        place = slice(cells[-1], cells[0] + 1, tile.cells.step)
        yield replace(tile, start=extent - tile.start - tile.length, cells=place, mirrored=True)


@dataclass(frozen=True)
class _RegularWindows:
    """The regular windows of a lattice, as cells of the network that runs.

    Cell j of the lattice is cell j * step of the network if the grid is coarser. If the grid is finer, it is cell
    j // phases of phase j % phases. Indices of the network's cells below are those of phase 0.
    """

    lattice: AxisLattice
    geometry: AxisGeometry
    base: int

    def __post_init__(self) -> None:
        """Raise ValueError for a stride that neither divides the network's stride nor is a multiple of it."""
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

    def bands(self, max_length: int) -> Iterator[AxisBand]:
        """Yield bands of tiles of equal length from the first cell to the last."""
        windows, step, phases = self.lattice.region_windows, self.step, self.phases
        first, stop = windows.start * step // phases, (windows.stop - 1) * step // phases + 1
        begin, end = max(0, first - self.before), min(self._available(0), stop + self.after)
        cells = self._tile_cells(end - begin, max_length)
        if (stop - first) * phases // max(1, cells - self.before - self.after) > MAX_TILES:
            raise ValueError(f"expected at most {MAX_TILES} tiles along an axis, got more")
        while first < stop:
            start = min(max(begin, first - self.before), end - cells)
            next_first = stop if start + cells == end else start + cells - self.after
            phase_tiles = [self._tile(phase, start, cells, first, next_first) for phase in range(phases)]
            tiles = [tile for tile in phase_tiles if tile is not None]
            if tiles:
                low, high = min(tile.cells.start for tile in tiles), max(tile.cells.stop for tile in tiles)
                yield AxisBand(low, high, tuple(tiles), min(tile.start for tile in tiles))
            first = next_first

    def _available(self, phase: int) -> int:
        """Return the number of cells that the network has in one phase of the whole axis."""
        return (self.lattice.regular_windows - 1 - phase) * self.step // self.phases + 1

    def _tile_cells(self, needed: int, max_length: int) -> int:
        """Return the number of cells of each tile of at most `max_length` pixels; all tiles cover `needed` cells."""
        halo = self.before + self.after
        fitting = max((max_length - self.geometry.window) // self.base + 1, halo + 1)
        if fitting >= needed:
            return needed
        count = -(-(needed - halo) // (fitting - halo))
        return -(-(needed - halo) // count) + halo

    def _tile(self, phase: int, start: int, cells: int, first: int, stop: int) -> AxisTile | None:
        """Return the tile of one phase that keeps the network's cells [first, stop); None if it would keep no cell.

        The tile has `cells` cells and starts at cell `start`, or earlier where the phase ends before the tile.
        """
        available = self._available(phase)
        start = min(start, max(0, available - cells))
        cells = min(cells, available - start)
        phase_windows = range(phase, self.lattice.regular_windows, self.phases)
        windows = self.lattice.region_windows
        low = max(-(-first // self.step), -(-(windows.start - phase) // self.phases))
        high = min(-(-stop // self.step), len(phase_windows), -(-(windows.stop - phase) // self.phases))
        if low >= high:
            return None
        pixel, length = phase * self.lattice.stride + start * self.base, self.geometry.window + (cells - 1) * self.base
        if self.after and start + cells == available:  # the last cells read up to the image's edge
            length = self.lattice.cropped_extent - pixel
        kept = slice(low * self.step - start, (high - 1) * self.step - start + 1, self.step)
        place = slice(phase_windows[low] - windows.start, phase_windows[high - 1] - windows.start + 1, self.phases)
        return AxisTile(pixel, length, cells, kept, place)


def _anchored_band(lattice: AxisLattice, anchor: int, geometry: AxisGeometry, base: int) -> AxisBand:
    """Return the band of the anchored window, which is the last window of its own phase."""
    index, offset = divmod(anchor, base)
    first = max(0, index - geometry.halo_before(base))
    pixel, count, cell = offset + first * base, index - first + 1, lattice.cells - 1
    tile = AxisTile(pixel, lattice.extent - pixel, count, slice(count - 1, count, 1), slice(cell, cell + 1, 1))
    return AxisBand(cell, cell + 1, (tile,), pixel)


def plan_tiles(
    vertical: AxisLattice,
    horizontal: AxisLattice,
    network: Network,
    *,
    pixels: int,
    rows: int | None = None,
    flip: bool = False,
) -> TilePlan:
    """Plan tiles of at most `pixels` pixels, as square as the image allows.

    A band reads at most `rows` rows of pixels. Default: no limit. Both limits are exceeded where a tile's halo and one
    cell need more. With `flip` the plan has the tiles of the mirrored image too.
    """
    height = min(vertical.extent, max(math.isqrt(pixels), pixels // horizontal.extent), rows or vertical.extent)
    width = min(horizontal.extent, max(1, pixels // height))
    down = plan_axis(vertical, network.vertical, network.strides[0], max_length=height)
    across = plan_axis(horizontal, network.horizontal, network.strides[1], max_length=width)
    mirrored = plan_mirrored(horizontal, network.horizontal, network.strides[1], max_length=width) if flip else ()
    return TilePlan(vertical, horizontal, down, tuple(tile for band in across for tile in band.tiles), mirrored)
