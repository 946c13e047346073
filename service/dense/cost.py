"""The cost of tiles in multiply-adds, counted and not timed, and the tile size that follows from it.

The number of multiply-adds is bilinear in the size of the input. For an input that is u native strides higher and v
native strides wider than a window it is exactly: window + row · u + column · v + cell · u · v.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from fullconv.common.sharing import bilinear, per_window, shared_effort
from service.dense.tiles import Network, TilePlan

MAX_OVERHEAD = 1.05
"""Multiply-adds of tiles, relative to one large pass, at which tiles are large enough. Larger tiles would need more
memory and save little compute."""
MAX_OVERHEAD_IN_LIMITED_TIME = 2.0
"""The same ratio for tiles whose predicted run time has reached the limit for one tile."""
MAX_SIDE = 1 << 14
"""Upper limit, in pixels, of the side of a square tile while the tile size is searched."""
MAX_RELATIVE_OVERHEAD = 1.5
"""Multiply-adds of tiles of mode shared, relative to those of the largest tiles, up to which tiles are considered."""


@dataclass(frozen=True)
class Cost:
    """Multiply-adds of one ONNX file, and the bytes of its activations."""

    window: float
    """Multiply-adds of one window."""
    row: float
    """Additional multiply-adds for each native stride of height, in an image as wide as a window."""
    column: float
    """Additional multiply-adds for each native stride of width, in an image as high as a window."""
    cell: float
    """Additional multiply-adds for each cell in the interior of a large image."""
    bytes_per_pixel: float
    """Bytes of activations for each pixel of the input."""
    network: Network

    def multiply_adds(self, height: int, width: int) -> float:
        """Return the multiply-adds of one tile of height × width pixels."""
        return self._sum([height], [width])

    def bytes(self, height: int, width: int) -> float:
        """Return the bytes of activations of one tile of height × width pixels."""
        return height * width * self.bytes_per_pixel

    def total(self, tiles: TilePlan) -> float:
        """Return the multiply-adds of all tiles of a plan."""
        return self._sum(
            [tile.length for band in tiles.bands for tile in band.tiles],
            [tile.length for tile in tiles.columns],
        )

    @lru_cache(maxsize=256)  # noqa: B019 (costs are values, few and small)
    def tile_pixels(self, max_bytes: int, max_multiply_adds: float = math.inf) -> int:
        """Return the number of pixels of one tile in an image of any size.

        Tiles grow until their multiply-adds are at most `MAX_OVERHEAD` times those of one large pass. For tiles of
        `max_multiply_adds` or more, the factor is `MAX_OVERHEAD_IN_LIMITED_TIME`. The activations of a tile need at
        most `max_bytes` bytes.
        """
        allowed = max(1, int(max_bytes / self.bytes_per_pixel))
        side = max(axis.window for axis, _ in self.network.axes)
        while side < MAX_SIDE and side * side < allowed:
            if self._overhead(side) <= self._max_overhead(side, max_multiply_adds):
                break
            side += max(16, side // 8)
        return min(allowed, side * side)

    def tile_sizes(self, max_bytes: int, max_multiply_adds: float = math.inf) -> tuple[int, ...]:
        """Return the number of pixels of a tile; the parameters are those of `tile_pixels`."""
        return (self.tile_pixels(max_bytes, max_multiply_adds),)

    def _max_overhead(self, side: int, max_multiply_adds: float) -> float:
        return MAX_OVERHEAD if self.multiply_adds(side, side) < max_multiply_adds else MAX_OVERHEAD_IN_LIMITED_TIME

    def _sum(self, heights: Sequence[int], widths: Sequence[int]) -> float:
        """Return the multiply-adds of the tiles of every combination of height and width."""
        u, v = (
            sum(length - axis.window for length in lengths) / axis.stride
            for lengths, (axis, _) in zip((heights, widths), self.network.axes, strict=True)
        )
        rows, cols = len(heights), len(widths)
        return self.window * rows * cols + self.row * u * cols + self.column * v * rows + self.cell * u * v

    def _overhead(self, side: int) -> float:
        """Return the multiply-adds of a square interior tile, relative to those of its kept cells in one large pass."""
        kept = 1.0
        for axis, base in self.network.axes:
            cells = (side - axis.window) // base + 1 - axis.halo_before(base) - axis.halo_after(base)
            kept *= max(0, cells) * base / axis.stride
        return self.multiply_adds(side, side) / (kept * self.cell) if kept else math.inf


@dataclass(frozen=True)
class SharedCost:
    """The cost of one ONNX file of mode shared at one stride.

    The factors are those of `fullconv.common.sharing`.
    """

    factors: tuple[float, ...]
    """Factors of the multiply-adds."""
    byte_factors: tuple[float, ...]
    """Factors of the bytes of activations."""
    moved_factors: tuple[float, ...]
    """Factors of the bytes that are moved because windows share."""
    network: Network
    """The windows as cells of an unpadded network, or of the network itself if margins are cut off."""

    @property
    def bytes_per_pixel(self) -> float:
        """Bytes of activations for each pixel of a large tile."""
        return per_window(self.byte_factors, self.network.strides) / math.prod(self.network.strides)

    @property
    def multiply_adds_per_window(self) -> float:
        """Multiply-adds for each window of a large image."""
        return per_window(self.factors, self.network.strides)

    @property
    def effort_per_window(self) -> float:
        """Cost for each window of a large image, in multiply-adds, with the time in which bytes are moved."""
        return shared_effort(self.multiply_adds_per_window, per_window(self.moved_factors, self.network.strides))

    def multiply_adds(self, height: int, width: int) -> float:
        """Return the multiply-adds of one tile of height × width pixels."""
        return bilinear(self.factors, self._terms(0, [height]), self._terms(1, [width]))

    def bytes(self, height: int, width: int) -> float:
        """Return the bytes of activations of one tile of height × width pixels."""
        return bilinear(self.byte_factors, self._terms(0, [height]), self._terms(1, [width]))

    def total(self, tiles: TilePlan) -> float:
        """Return the multiply-adds of all tiles of a plan."""
        return bilinear(self.factors, *self._terms_of(tiles))

    def effort(self, tiles: TilePlan) -> float:
        """Return the cost of all tiles of a plan in multiply-adds, with the time in which bytes are moved."""
        return shared_effort(self.total(tiles), bilinear(self.moved_factors, *self._terms_of(tiles)))

    def of_grid(self, rows: int, cols: int) -> tuple[float, float]:
        """Return the multiply-adds and the predicted cost of rows × cols windows in one tile."""
        height, width = (
            axis.window + (count - 1) * step
            for (axis, step), count in zip(self.network.axes, (rows, cols), strict=True)
        )
        multiply_adds = self.multiply_adds(height, width)
        moved = bilinear(self.moved_factors, self._terms(0, [height]), self._terms(1, [width]))
        return multiply_adds, shared_effort(multiply_adds, moved)

    @lru_cache(maxsize=256)  # noqa: B019 (costs are values, few and small)
    def tile_sizes(self, max_bytes: int, max_multiply_adds: float = math.inf) -> tuple[int, ...]:
        """Return the numbers of pixels that a tile may have, ascending; the image decides which of them is best.

        Windows in neighbouring tiles share nothing. How much tiles cost together therefore depends on how many windows
        of the image each of them gets. The parameters are those of `Cost.tile_pixels`.
        """
        side = max(axis.window for axis, _ in self.network.axes)
        overheads = {side: self._overhead(side)}
        while side < MAX_SIDE:
            larger = side + max(16, side // 8)
            is_long = self.multiply_adds(side, side) >= max_multiply_adds
            if (is_long and overheads[side] <= MAX_OVERHEAD_IN_LIMITED_TIME) or self.bytes(larger, larger) > max_bytes:
                break
            side = larger
            overheads[side] = self._overhead(side)
        return tuple(each * each for each in overheads if overheads[each] <= MAX_RELATIVE_OVERHEAD * overheads[side])

    def _overhead(self, side: int) -> float:
        """Return the multiply-adds of a square tile, relative to those of its windows in a large image."""
        kept = math.prod(
            max(0, (side - axis.window) // step + 1 - axis.halo_before(step) - axis.halo_after(step))
            for axis, step in self.network.axes
        )
        return self.multiply_adds(side, side) / (kept * self.multiply_adds_per_window) if kept else math.inf

    def _terms_of(self, tiles: TilePlan) -> tuple[Sequence[float], Sequence[float]]:
        rows = self._terms(0, (tile.length for band in tiles.bands for tile in band.tiles))
        return rows, self._terms(1, (tile.length for tile in tiles.columns))

    def _terms(self, axis: int, lengths: Iterable[int]) -> tuple[float, float, float]:
        """Return the sums of ((m - 1)s, 1, m) over tiles of some lengths."""
        geometry, step = self.network.axes[axis]
        windows = [(length - geometry.window) // step + 1 for length in lengths]
        return (sum(windows) - len(windows)) * step, len(windows), sum(windows)
