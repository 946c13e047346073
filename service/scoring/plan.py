"""The plan of a request, computed from the image's size and the options: tiles, multiply-adds and memory.

    options → mode → the windows at every scale → tiles → multiply-adds and bytes

Planning reads no pixels and runs no network.
"""

import math
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache, cached_property

import numpy as np

from service.dense.axis import AxisLattice
from service.dense.tiles import TilePlan, plan_tiles
from service.engine.repository import StoredModel
from service.errors import ImageError, LimitError
from service.images.picture import covering
from service.images.rows import ScaledRows
from service.limits import Tuning
from service.scoring.grid import cell_bytes, part_rows
from service.scoring.modes import Mode, Rate, choose
from service.scoring.options import Border, ModeChoice, Region, ResolvedOptions, Scale

STRIPS = 2
"""Number of strips in memory: one is scored while the next is read."""
FLOAT_BYTES = COUNT_BYTES = 4
WORTHWHILE = 1.1
"""Upper bound for the multiply-adds of a plan with a grid, as a multiple of those of the same plan without a grid."""
GROWTH = 1.2
"""Ratio between the heights of the bands that are tried."""
MAX_RELATIVE_EFFORT = 1.02
"""Cost of a plan, relative to that of the cheapest, up to which its smaller tiles are preferred."""


@dataclass(frozen=True)
class View:
    """The plan of the image at one scale; lengths in pixels."""

    height: int
    width: int
    tile_plan: TilePlan
    batch: int
    """Number of tiles of one shape that are submitted together."""
    prefetch: int
    """Number of batches that are submitted before the first result is taken."""
    multiply_adds: float
    held_bytes: int
    """Peak bytes of strips of pixels, of the rows of the grid of one band, and of a mask."""
    activation_bytes: int
    """Peak bytes while a batch runs: its activations, and the scores of batches that are not reduced yet."""

    @property
    def bytes(self) -> int:
        """Peak bytes."""
        return self.held_bytes + self.activation_bytes


@dataclass(frozen=True, eq=False)
class Plan:
    """How an image is scored, and the reason for the mode. Two plans are equal only if they are the same object."""

    mode: Mode
    reason: str
    views: tuple[View, ...]

    @cached_property
    def multiply_adds(self) -> float:
        """Multiply-adds of all views."""
        return sum(view.multiply_adds for view in self.views)

    @property
    def effort(self) -> float:
        """Predicted cost of all views in multiply-adds, for the comparison of modes that move many bytes."""
        return sum(self.mode.effort(view.tile_plan) for view in self.views)

    @cached_property
    def tile_count(self) -> int:
        """Number of tiles of all views."""
        return sum(len(view.tile_plan) for view in self.views)

    @cached_property
    def submits(self) -> int:
        """Upper bound for the number of submissions of the first view."""
        return self.mode.submits(self.views[0].tile_plan, self.views[0].batch)

    @cached_property
    def bytes(self) -> int:
        """Peak bytes beside the model. Views are scored one after another."""
        return max(view.bytes for view in self.views)

    @cached_property
    def held_bytes(self) -> int:
        """Peak bytes beside the model and a running batch."""
        return max(view.held_bytes for view in self.views)


@dataclass(frozen=True)
class Bounds:
    """What a plan may use."""

    pixels: int
    """Pixels of the image at any scale."""
    memory_bytes: int
    """Bytes of memory beside the model."""
    tuning: Tuning


@dataclass(frozen=True)
class ImageSizes:
    """Heights and widths of an image in pixels."""

    own: tuple[int, int]
    scored: tuple[int, int]
    """At the requested resolution."""
    copies: tuple[tuple[int, int], ...] = ()
    """Of the reduced copies in its file, from large to small."""

    def source_of(self, scaled: tuple[int, int]) -> tuple[int, int]:
        """Return the size of the copy from which an image of another size is made, as `Picture.copy_for` chooses it."""
        sizes = (self.own, *self.copies)
        return sizes[covering(sizes, scaled)]

    def snapped(self, scaled: tuple[int, int]) -> tuple[int, int]:
        """Return the size of the image or of a copy if it differs by at most a pixel or 0.1 %; else the same size."""

        def is_alike(size: tuple[int, int]) -> bool:
            return all(abs(a - b) <= max(1, a // 1000) for a, b in zip(size, scaled, strict=True))

        return next(filter(is_alike, (self.own, *self.copies)), scaled)


def make_plan(
    model: StoredModel,
    options: ResolvedOptions,
    sizes: ImageSizes,
    bounds: Bounds,
    *,
    rate: Rate = lambda _: math.inf,
) -> Plan:
    """Plan an image.

    `rate` returns the multiply-adds per second of one of the model's files, by its position, for tiles of a limited
    duration. Raises CapabilityError, ImageError or LimitError if the image cannot be scored with these options.
    """
    modes, reason = choose(model, options)
    planner = _Planner(model, options, sizes, bounds, rate)
    plans = [Plan(mode, reason, tuple(planner.views(mode))) for mode in modes]
    requested = options.requested
    if requested.mode in (ModeChoice.EXACT, ModeChoice.SHARED) or requested.min_agreement is not None:
        return min(plans, key=lambda plan: plan.effort)
    best = min(plans, key=lambda plan: plan.multiply_adds)
    if best is not plans[0]:
        saved = f"{best.multiply_adds:.3g} multiply-adds instead of {plans[0].multiply_adds:.3g}"
        return replace(best, reason=f"the same scores as {plans[0].mode.name} for {saved}")
    return best


@dataclass(frozen=True)
class _Planner:
    """Plans the views of one image; pairs are vertical before horizontal."""

    model: StoredModel
    options: ResolvedOptions
    sizes: ImageSizes
    bounds: Bounds
    rate: Rate

    def views(self, mode: Mode) -> Iterator[View]:
        """Yield the plan at each scale. Only the first view has a grid."""
        for number, scale in enumerate(self.options.requested.scales):
            scaled = self.sizes.snapped(scale.size(*self.sizes.scored))
            self._check_size(scaled, scale)
            yield self._view(mode, scaled, grid=self.options.requested.grid and number == 0)

    def _check_size(self, scaled: tuple[int, int], scale: Scale) -> None:
        window = self.model.spec.window
        field = "scales" if self.sizes.scored == self.sizes.own else "mpp, level or magnification"
        if scaled[0] * scaled[1] > self.bounds.pixels:
            raise LimitError(
                f"{field}: expected at most {self.bounds.pixels / 1e6:.0f} megapixels, got {scaled[0]}×{scaled[1]} "
                f"(height×width) at {scale}"
            )
        if scaled[0] < window.height or scaled[1] < window.width:
            raise ImageError(
                f"{field}: expected at least the model's window of {window.height}×{window.width} pixels "
                f"(height×width), got {scaled[0]}×{scaled[1]} at {scale}"
            )

    def _view(self, mode: Mode, size: tuple[int, int], *, grid: bool) -> View:
        (height, width), wanted = size, self.model.spec.input
        lattices = self._lattices(size)
        row_bytes = width * wanted.channels * np.dtype(wanted.dtype).itemsize
        grid_bytes = lattices[1].cells * cell_bytes(self.options) if grid else 0
        pixels, tiles = self._best_tiles(mode, lattices, row_bytes, grid_bytes)
        batch = max(1, min(pixels // math.prod(tiles.max_tile_shape), len(tiles) // len(tiles.bands)))
        needed = STRIPS * tiles.max_strip_rows * row_bytes
        if grid:
            needed += (tiles.max_band_rows + min(tiles.max_band_rows, part_rows(grid_bytes))) * grid_bytes
        source = self.sizes.source_of(size)
        if size != source:
            needed += ScaledRows.source_rows(source[0], height) * source[1] * (row_bytes // width)
            needed += ScaledRows.rows_together(source[0], height) * row_bytes
        if self.options.requested.mask is not None:
            needed += tiles.max_strip_rows * (width + COUNT_BYTES * lattices[1].cells)
            needed += self.options.requested.areas * tiles.max_band_rows * lattices[1].cells
        scores_bytes = self._scores_bytes(mode, tiles)
        prefetch = self._prefetch(batch * scores_bytes)
        running = int(mode.activations(tiles, batch)) + min(prefetch * batch, len(tiles)) * scores_bytes
        view = View(height, width, tiles, batch, prefetch, mode.multiply_adds(tiles), needed, running)
        self._check_memory(view.bytes)
        return view

    def _best_tiles(
        self, mode: Mode, lattices: tuple[AxisLattice, AxisLattice], row_bytes: int, grid_bytes: int
    ) -> tuple[int, TilePlan]:
        """Return the pixels of a tile and the tiles: the smallest ones that cost hardly more than the best.

        Raises LimitError if there would be too many tiles. `row_bytes` and `grid_bytes` are those of `_tiles`.
        """
        found, failure = list[tuple[int, TilePlan]](), ""
        for pixels in mode.tile_sizes(lattices, self.bounds.tuning, self.rate):
            try:
                found.append((pixels, self._tiles(mode, lattices, pixels, row_bytes, grid_bytes)))
            except ValueError as error:
                failure = str(error)
        if not found:
            raise LimitError(f"stride: {failure}; use a coarser stride, or a region")
        most = MAX_RELATIVE_EFFORT * min(mode.effort(tiles) for _, tiles in found)
        return next(plan for plan in found if mode.effort(plan[1]) <= most)

    def _tiles(
        self, mode: Mode, lattices: tuple[AxisLattice, AxisLattice], pixels: int, row_bytes: int, grid_bytes: int
    ) -> TilePlan:
        """Plan the tiles; raises ValueError if there are too many.

        `row_bytes` and `grid_bytes` are the bytes of one row of pixels and of one row of the grid. Bands are as high as
        without a grid if the rows of the grid that a band gives fit into `strip_bytes`. Otherwise they are lower, as
        long as computing halos again costs at most WORTHWHILE times the multiply-adds.
        """

        @cache
        def planned(rows: int) -> TilePlan:
            flip = self.options.requested.flip
            return plan_tiles(*lattices, mode.network, pixels=pixels, rows=rows, flip=flip)

        def is_worthwhile(rows: int) -> bool:
            try:
                return mode.multiply_adds(planned(rows)) <= most
            except ValueError:  # such low bands would be too many
                return False

        strip_bytes = self.bounds.tuning.strip_bytes
        highest = planned(max(1, strip_bytes // row_bytes))
        if highest.max_band_rows * grid_bytes <= strip_bytes:
            return highest
        most = WORTHWHILE * mode.multiply_adds(highest)
        shortest = mode.network.vertical.min_tile_length(mode.network.strides[0])
        lowest = max(shortest, lattices[0].pixels(strip_bytes // grid_bytes))
        steps = math.ceil(math.log(max(1, highest.max_tile_shape[0] / lowest), GROWTH))
        heights = [round(lowest * GROWTH**step) for step in range(steps)]
        found = bisect_left(heights, True, key=is_worthwhile)
        return planned(heights[found]) if found < steps else highest

    def _prefetch(self, batch_bytes: int) -> int:
        """Return the number of batches that are submitted in advance; `batch_bytes` are those of the scores of one."""
        tuning = self.bounds.tuning
        return max(Tuning.prefetch, min(tuning.prefetch, tuning.strip_bytes // batch_bytes))

    def _scores_bytes(self, mode: Mode, tiles: TilePlan) -> int:
        """Return the bytes of the scores of the largest tile."""
        cells = math.prod(
            (length - axis.window) // stride + 1
            for length, (axis, stride) in zip(tiles.max_tile_shape, mode.network.axes, strict=True)
        )
        return cells * self.model.values * FLOAT_BYTES

    def _check_memory(self, needed: int) -> None:
        if needed > self.bounds.memory_bytes:
            raise LimitError(
                f"memory: expected a plan of at most {self.bounds.memory_bytes >> 20} MiB, got {needed >> 20} MiB; "
                "use a region, fewer classes, a coarser stride, only the highest scores (grid_as) or no grid"
            )

    def _lattices(self, scaled: tuple[int, int]) -> tuple[AxisLattice, AxisLattice]:
        window, region = self.model.spec.window, self._region()
        vertical = self._lattice(0, scaled[0], window.height, (region.y, region.height))
        horizontal = self._lattice(1, scaled[1], window.width, (region.x, region.width))
        return vertical, horizontal

    def _lattice(self, axis: int, scaled: int, window: int, part: tuple[int, int]) -> AxisLattice:
        extent, (start, length) = self.sizes.own[axis], part
        first, stop = -(-start * scaled // extent), (start + length) * scaled // extent
        is_anchored = self.options.requested.border is Border.ANCHOR
        try:
            return AxisLattice(scaled, window, self.options.stride[axis], is_anchored, first, stop)
        except ValueError as error:
            raise ImageError(f"region: {('vertically', 'horizontally')[axis]}, {error}") from None

    def _region(self) -> Region:
        (height, width), region = self.sizes.own, self.options.requested.region
        if region is None:
            return Region(0, 0, width, height)
        if region.x + region.width > width or region.y + region.height > height:
            raise ImageError(
                f"region: expected pixels inside the image of {height}×{width} (height×width), got "
                f"{region.height}×{region.width} from x {region.x}, y {region.y} on"
            )
        return region
