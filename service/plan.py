"""The plan of a request: an image's size and options in; tiles, cost and memory out. Nothing is read, nothing is run.

options → how the model runs → a grid of windows for every scale → tiles → multiply-adds and bytes
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from protos import scoring_pb2
from service.dense.axis import AxisLattice
from service.dense.tiles import TilePlan, plan_tiles
from service.engine.repository import StoredModel
from service.errors import ImageError, LimitError
from service.images.rows import Scaled
from service.limits import Limits
from service.modes import Mode, choose
from service.options import Options, scale_text, scaled_size

STRIPS = 2
"""In memory at once: the one that is scored, and the one that is read meanwhile."""
FLOAT_BYTES = COUNT_BYTES = 4


@dataclass(frozen=True)
class View:
    """The image at one scale; lengths in pixels."""

    height: int
    width: int
    tiles: TilePlan
    batch: int
    """Tiles of one shape that run together."""
    multiply_adds: float
    held_bytes: int
    """Memory at the most: strips of pixels, the rows of the grid of one band, a mask."""
    activation_bytes: int
    """Memory at the most while a batch runs."""

    @property
    def bytes(self) -> int:
        """Memory at the most."""
        return self.held_bytes + self.activation_bytes


@dataclass(frozen=True)
class Plan:
    """How an image is going to be scored, and why so."""

    mode: Mode
    reason: str
    views: tuple[View, ...]

    @property
    def multiply_adds(self) -> float:
        """Of all views."""
        return sum(view.multiply_adds for view in self.views)

    @property
    def tiles(self) -> int:
        """Of all views."""
        return sum(len(view.tiles) for view in self.views)

    @property
    def bytes(self) -> int:
        """Memory at the most, beside the model: views follow one another."""
        return max(view.bytes for view in self.views)

    @property
    def held_bytes(self) -> int:
        """Memory at the most, beside the model and what a batch needs while it runs."""
        return max(view.held_bytes for view in self.views)


def make_plan(
    model: StoredModel,
    options: Options,
    size: tuple[int, int],
    limits: Limits,
    *,
    pixels: int,
    rate: Callable[[int], float] = lambda _: math.inf,
) -> Plan:
    """Plan an image of (height, width) pixels, of at most so many at any scale.

    `rate` says how many multiply-adds one of the model's files runs in a second, if tiles are to be short.

    Raises CapabilityError or ImageError if it cannot be scored so.
    """
    modes, reason = choose(model, options)
    planner = _Planner(model, options, size, limits, pixels, rate)
    plans = [Plan(mode, reason, tuple(planner.views(mode))) for mode in modes]
    best = min(plans, key=lambda plan: plan.multiply_adds)
    if best is not plans[0]:
        saved = f"{best.multiply_adds:.3g} multiply-adds instead of {plans[0].multiply_adds:.3g}"
        return replace(best, reason=f"the same scores as {plans[0].mode.name} for {saved}")
    return best


@dataclass(frozen=True)
class _Planner:
    """Plans the views of one image; pairs are vertical before horizontal."""

    model: StoredModel
    options: Options
    size: tuple[int, int]
    limits: Limits
    pixels: int
    rate: Callable[[int], float]

    def views(self, mode: Mode) -> Iterator[View]:
        """One for each scale; the grid is the first one's."""
        for number, scale in enumerate(self.options.scales):
            scaled = scaled_size(scale, *self.size)
            self._check_size(scaled, scale_text(scale))
            yield self._view(mode, scaled, grid=self.options.asked.grid and number == 0)

    def _check_size(self, scaled: tuple[int, int], scale: str) -> None:
        window = self.model.spec.window
        if scaled[0] * scaled[1] > self.pixels:
            raise LimitError(
                f"scales: expected at most {self.pixels / 1e6:.0f} megapixels, got {scaled[1]}×{scaled[0]} at {scale}"
            )
        if scaled[0] < window.height or scaled[1] < window.width:
            raise ImageError(
                f"scales: expected at least the model's window of {window.width}×{window.height} pixels, got "
                f"{scaled[1]}×{scaled[0]} at {scale}"
            )

    def _view(self, mode: Mode, size: tuple[int, int], *, grid: bool) -> View:
        (height, width), wanted = size, self.model.spec.input
        lattices = self._lattices(size)
        row_bytes = width * wanted.channels * np.dtype(wanted.dtype).itemsize
        cell_bytes = lattices[1].cells * len(self.options.chosen) * FLOAT_BYTES if grid else 0
        rows = self.limits.strip_bytes // row_bytes
        if cell_bytes:
            rows = min(rows, lattices[0].pixels(self.limits.strip_bytes // cell_bytes))
        pixels = mode.tile_pixels(lattices, self.limits, self.rate)
        flip = self.options.asked.flip
        try:
            tiles = plan_tiles(*lattices, mode.network, pixels=pixels, rows=max(1, rows), flip=flip)
        except ValueError as error:
            raise LimitError(f"stride: {error}: ask for a coarser one, or for a region") from None
        batch = max(1, min(pixels // math.prod(tiles.tile), len(tiles) // len(tiles.rows)))
        band = max(band.stop - band.first for band in tiles.rows) * cell_bytes
        needed = STRIPS * tiles.strip * row_bytes + band
        if size != self.size:
            needed += Scaled.source_rows(self.size[0], height) * self.size[1] * (row_bytes // width)
        if self.options.asked.WhichOneof("mask"):
            needed += tiles.strip * (width + COUNT_BYTES * lattices[1].cells)
        view = View(height, width, tiles, batch, mode.multiply_adds(tiles), needed, int(mode.activations(tiles, batch)))
        self._check_memory(view.bytes)
        return view

    def _check_memory(self, needed: int) -> None:
        if needed > self.limits.plan_bytes:
            raise LimitError(
                f"memory: expected a plan of at most {self.limits.plan_bytes >> 20} MiB, got one of {needed >> 20}: "
                "ask for a region, fewer classes, a coarser stride or no grid"
            )

    def _lattices(self, scaled: tuple[int, int]) -> tuple[AxisLattice, AxisLattice]:
        window, region = self.model.spec.window, self._region()
        vertical = self._lattice(0, scaled[0], window.height, (region.y, region.height))
        horizontal = self._lattice(1, scaled[1], window.width, (region.x, region.width))
        return vertical, horizontal

    def _lattice(self, axis: int, scaled: int, window: int, part: tuple[int, int]) -> AxisLattice:
        extent, (start, length) = self.size[axis], part
        first, stop = -(-start * scaled // extent), (start + length) * scaled // extent
        try:
            return AxisLattice(scaled, window, self.options.stride[axis], self.options.anchored, first, stop)
        except ValueError as error:
            raise ImageError(f"region: {('vertically', 'horizontally')[axis]}, {error}") from None

    def _region(self) -> scoring_pb2.Region:
        height, width = self.size
        region = self.options.asked.region
        if not self.options.asked.HasField("region"):
            return scoring_pb2.Region(x=0, y=0, width=width, height=height)
        if region.x + region.width > width or region.y + region.height > height:
            raise ImageError(
                f"region: expected pixels inside the image of {width}×{height}, got {region.width}×{region.height} "
                f"from x {region.x}, y {region.y} on"
            )
        return region
