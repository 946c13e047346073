"""The two modes of running a model: dense, one pass over every tile, and crops, every window by itself.

Dense runs the file for the requested stride if there is one, else the native file: it reaches finer strides by shift
and stitch and coarser strides by skipping cells. Crops reach any stride. If a request leaves the mode open and both
modes give the same scores, `choose` returns both, so that the plan can take the cheaper.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import chain, islice, product
from typing import Protocol, cast

import numpy as np

from fullconv.protos import model_pb2
from service.dense.arrays import Pixels, Scores
from service.dense.axis import AxisLattice
from service.dense.cost import Cost
from service.dense.tiles import AxisTile, Network, TilePlan
from service.engine.engine import Prefetcher
from service.engine.repository import StoredModel
from service.errors import CapabilityError
from service.limits import Tuning
from service.scoring.options import ModeChoice, ResolvedOptions

Submit = Callable[[Sequence[Pixels], float], Future[Sequence[Scores]]]
"""Submits tiles of one shape with the multiply-adds of each; the future holds the (rows, cols, classes) of each."""

Rate = Callable[[int], float]
"""Returns the multiply-adds per second of one of a model's files, by its position."""

WINDOWS_PER_SUBMISSION = 8
"""Number of windows of one tile that are submitted together."""
MIN_TILE_WINDOWS, MIN_TILE_PIXELS = 8, 256
"""Smallest number of windows, and smallest number of pixels, of a tile along each axis in mode crops."""


class Mode(Protocol):
    """A mode of running a model at one stride."""

    @property
    def name(self) -> str:
        """The mode: "dense" or "crops"."""

    @property
    def position(self) -> int:
        """The position of the file that runs, in the order of `spec.strides`."""

    @property
    def network(self) -> Network:
        """The geometry and strides of the file that runs."""

    def tile_pixels(self, lattices: tuple[AxisLattice, AxisLattice], tuning: Tuning, rate: Rate) -> int:
        """Return the number of pixels that a tile should have."""

    def multiply_adds(self, view: TilePlan) -> float:
        """Return the multiply-adds of a tile plan."""

    def multiply_adds_of(self, row: AxisTile, col: AxisTile) -> float:
        """Return the multiply-adds of one tile."""

    def submits(self, view: TilePlan, batch: int) -> int:
        """Return an upper bound for the number of submissions, with at most `batch` tiles in each."""

    def activations(self, view: TilePlan, batch: int) -> float:
        """Return the bytes of activations of `batch` of the largest tiles together."""

    def run(self, submit: Submit, batches: Iterable[Sequence[Pixels]]) -> Iterator[Iterable[Scores]]:
        """Score batches of tiles of one shape; yields the (rows, cols, classes) of each tile, batch by batch, in order.

        The first tiles are submitted by the call itself, before the first scores are requested.
        """


@dataclass(frozen=True)
class Dense:
    """One pass of the network over every tile."""

    position: int
    network: Network
    cost: Cost
    name: str = "dense"

    def tile_pixels(self, _: tuple[AxisLattice, AxisLattice], tuning: Tuning, rate: Rate) -> int:
        """Return the pixels of a tile, limited by memory and run time; larger tiles repeat less work in their halos."""
        most = math.inf if tuning.tile_seconds is None else tuning.tile_seconds * rate(self.position)
        return self.cost.tile_pixels(tuning.tile_bytes, most)

    def multiply_adds(self, view: TilePlan) -> float:
        """Return the multiply-adds of all tiles, with the halos that neighbours both compute."""
        return self.cost.total(view)

    def multiply_adds_of(self, row: AxisTile, col: AxisTile) -> float:
        """Return the multiply-adds of one tile, with its halo."""
        return self.cost.multiply_adds(row.length, col.length)

    def submits(self, view: TilePlan, batch: int) -> int:
        """Return the number of batches, each of which has tiles of one shape."""
        rows = [tile.length for band in view.bands for tile in band.tiles]
        shapes = Counter(product(rows, (tile.length for tile in view.columns)))
        return sum(-(-count // batch) for count in shapes.values())

    def activations(self, view: TilePlan, batch: int) -> float:
        """Return the bytes of activations of a batch of the largest tiles."""
        return batch * view.max_tile_shape[0] * view.max_tile_shape[1] * self.cost.bytes_per_pixel

    def run(self, submit: Submit, batches: Iterable[Sequence[Pixels]]) -> Iterator[Iterable[Scores]]:
        """Submit each batch as a whole."""
        return Prefetcher(submit(batch, self.cost.multiply_adds(*batch[0].shape[:2])) for batch in batches)


@dataclass(frozen=True)
class Crops:
    """Every window by itself, with several windows in a submission."""

    network: Network
    window_multiply_adds: float
    """Multiply-adds of one window."""
    bytes_per_pixel: float
    """Bytes of activations for each pixel."""
    position: int = 0
    name: str = "crops"

    def tile_pixels(self, lattices: tuple[AxisLattice, AxisLattice], _: Tuning, __: Rate) -> int:
        """Return the pixels of a tile that holds several windows along each axis."""
        return math.prod(max(lattice.pixels(MIN_TILE_WINDOWS), MIN_TILE_PIXELS) for lattice in lattices)

    def multiply_adds(self, view: TilePlan) -> float:
        """Return the multiply-adds of all windows, including those of the mirrored image."""
        return view.cells * (2 if view.mirrored else 1) * self.window_multiply_adds

    def multiply_adds_of(self, row: AxisTile, col: AxisTile) -> float:
        """Return the multiply-adds of the windows of one tile."""
        windows = len(range(row.cells.stop)[row.cells]) * len(range(col.cells.stop)[col.cells])
        return windows * self.window_multiply_adds

    def submits(self, view: TilePlan, _: int) -> int:
        """Return an upper bound for the number of submissions of WINDOWS_PER_SUBMISSION windows each."""
        return -(-view.cells * (2 if view.mirrored else 1) // WINDOWS_PER_SUBMISSION) + len(view) - 1

    def activations(self, _: TilePlan, __: int) -> float:
        """Return the bytes of activations of WINDOWS_PER_SUBMISSION windows: tiles are run one after another."""
        pixels = self.network.vertical.window * self.network.horizontal.window
        return WINDOWS_PER_SUBMISSION * pixels * self.bytes_per_pixel

    def run(self, submit: Submit, batches: Iterable[Sequence[Pixels]]) -> Iterator[Iterable[Scores]]:
        """Run one tile after another, WINDOWS_PER_SUBMISSION windows in a submission."""
        begun = ([self._begin(submit, tile) for tile in batch] for batch in batches)
        first = list(islice(begun, 1))
        return ([_grid(*tile) for tile in batch] for batch in chain(first, begun))

    def _begin(self, submit: Submit, tile: Pixels) -> tuple[tuple[int, ...], Iterator[Sequence[Scores]]]:
        """Return the (rows, cols) of a tile's grid, and the scores of its windows, WINDOWS_PER_SUBMISSION at a time."""
        window, (down, right) = tuple(axis.window for axis, _ in self.network.axes), self.network.strides
        windows = np.lib.stride_tricks.sliding_window_view(tile, window, (0, 1))[::down, ::right]
        grid = cast("Pixels", np.moveaxis(windows, 2, -1))
        following = (grid[cell] for cell in np.ndindex(*grid.shape[:2]))
        batches = iter(lambda: list(islice(following, WINDOWS_PER_SUBMISSION)), [])
        return grid.shape[:2], Prefetcher(submit(batch, self.window_multiply_adds) for batch in batches)


def _grid(shape: tuple[int, ...], windows: Iterable[Sequence[Scores]]) -> Scores:
    return np.stack([scores for batch in windows for scores in batch]).reshape(*shape, -1)


def choose(model: StoredModel, options: ResolvedOptions) -> tuple[list[Mode], str]:
    """Return the possible modes and the reason for them; raises CapabilityError if no mode is possible."""
    dense, crops, requested = _dense(model, options.stride), _crops(model, options.stride), options.requested.mode
    if requested is ModeChoice.CROPS:
        return [crops], "requested"
    if not model.supports_dense:
        if requested is ModeChoice.DENSE:
            raise CapabilityError(
                f"mode: expected crops, since model {model.name!r} looks at whole windows and cannot slide"
            )
        return [crops], "the model looks at whole windows and cannot slide"
    if dense is None and requested is ModeChoice.AUTO and model.spec.parity[0].exact:
        return [crops], f"there is no dense stride of {_text(options.stride)} pixels, and crops give the same scores"
    if dense is None:
        raise CapabilityError(
            f"stride: expected a divisor or a multiple of {_text(model.strides[0])} pixels, or a stride of model "
            f"{model.name!r} ({', '.join(map(_text, model.strides))}), got {_text(options.stride)}; "
            "mode crops takes any"
        )
    if requested is ModeChoice.DENSE:
        return [dense], "requested"
    if model.spec.parity[dense.position].exact:
        return [dense, crops], "crops would give the same scores for no fewer multiply-adds"
    return [dense], "default for a model whose dense scores are not exact"


def crops_multiply_adds(model: StoredModel, view: TilePlan) -> float:
    """Return the multiply-adds of the same cells in mode crops."""
    return _crops(model, model.strides[0]).multiply_adds(view)


def _dense(model: StoredModel, stride: tuple[int, int]) -> Dense | None:
    """Return mode dense with the file for a stride, else with the native file; None if neither reaches the stride."""
    position = model.strides.index(stride) if stride in model.strides else 0
    base = model.strides[position]
    if any(own % wanted and wanted % own for own, wanted in zip(base, stride, strict=True)):
        return None
    network = Network(model.vertical, model.horizontal, base)
    return Dense(position, network, _cost(model.spec.cost[position], network))


def _crops(model: StoredModel, stride: tuple[int, int]) -> Crops:
    network, cost = (
        Network(model.vertical.crop_geometry(), model.horizontal.crop_geometry(), stride),
        model.spec.cost[0],
    )
    return Crops(network, cost.multiply_adds_per_crop, cost.activation_bytes_per_pixel)


def _cost(cost: model_pb2.Cost, network: Network) -> Cost:
    """Return the cost that the converter counted. Files of version 0.1.0 lack the cost per row and per column."""
    between = math.sqrt(cost.multiply_adds_per_crop * cost.multiply_adds_per_cell)
    return Cost(
        window=cost.multiply_adds_per_window or cost.multiply_adds_per_crop,
        row=cost.multiply_adds_per_row or between,
        column=cost.multiply_adds_per_column or between,
        cell=cost.multiply_adds_per_cell,
        bytes_per_pixel=cost.activation_bytes_per_pixel,
        network=network,
    )


def _text(stride: tuple[int, int]) -> str:
    return str(stride[0]) if stride[0] == stride[1] else f"{stride[0]}×{stride[1]}"
