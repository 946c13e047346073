"""The modes of running a model: dense, one pass over every tile; crops, every window by itself; and shared.

Dense runs the file for the requested stride if there is one, else the native file: it reaches finer strides by shift
and stitch and coarser strides by skipping cells. Crops reach any stride. Shared gives the scores of crops, unless
margins are cut off, and runs a file whose strides include the requested one. If a request leaves the mode open,
`choose` returns all modes that may run, and the plan takes the cheapest.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import chain, islice, product
from typing import Protocol, cast

import numpy as np

from fullconv.common.certificate import overall
from fullconv.common.sharing import crops_effort
from fullconv.protos import model_pb2
from service.dense.arrays import Pixels, Scores
from service.dense.axis import AxisLattice
from service.dense.cost import Cost, SharedCost
from service.dense.tiles import AxisTile, Network, TilePlan
from service.engine.engine import Prefetcher
from service.engine.repository import StoredModel
from service.engine.session import Session
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
        """The mode: "dense", "shared" or "crops"."""

    @property
    def position(self) -> int:
        """The position of the file that runs, in the order of `model.files`."""

    @property
    def network(self) -> Network:
        """The geometry and strides of the file that runs."""

    def effort(self, view: TilePlan) -> float:
        """Return the cost of a tile plan in multiply-adds, for the comparison with other modes."""

    def session(self, session: Session) -> Session:
        """Return the session of the file at the stride of this mode."""

    def tile_sizes(self, lattices: tuple[AxisLattice, AxisLattice], tuning: Tuning, rate: Rate) -> Sequence[int]:
        """Return the numbers of pixels that a tile may have, ascending."""

    def multiply_adds(self, view: TilePlan) -> float:
        """Return the multiply-adds of a tile plan."""

    def multiply_adds_of(self, row: AxisTile, col: AxisTile) -> float:
        """Return the multiply-adds of one tile."""

    def submits(self, view: TilePlan, batch: int) -> int:
        """Return an upper bound for the number of submissions, with at most `batch` tiles in each."""

    def activations(self, view: TilePlan, batch: int) -> float:
        """Return the bytes of activations of `batch` of the largest tiles together."""

    def run(self, submit: Submit, batches: Iterable[Sequence[Pixels]], prefetch: int) -> Iterator[Iterable[Scores]]:
        """Score batches of tiles of one shape; yields the (rows, cols, classes) of each tile, batch by batch, in order.

        The first `prefetch` batches are submitted by the call itself, before the first scores are requested.
        """


@dataclass(frozen=True)
class Dense:
    """One pass of the network over every tile."""

    position: int
    network: Network
    cost: Cost | SharedCost
    name: str = "dense"

    def session(self, session: Session) -> Session:
        """Return the session itself."""
        return session

    def tile_sizes(self, _: tuple[AxisLattice, AxisLattice], tuning: Tuning, rate: Rate) -> Sequence[int]:
        """Return numbers of pixels that memory and run time allow; larger tiles repeat less work in their halos."""
        most = math.inf if tuning.tile_seconds is None else tuning.tile_seconds * rate(self.position)
        return self.cost.tile_sizes(tuning.tile_bytes, most)

    def multiply_adds(self, view: TilePlan) -> float:
        """Return the multiply-adds of all tiles, with the halos that neighbours both compute."""
        return self.cost.total(view)

    def effort(self, view: TilePlan) -> float:
        """Return the multiply-adds of all tiles."""
        return self.multiply_adds(view)

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
        return batch * self.cost.bytes(*view.max_tile_shape)

    def run(self, submit: Submit, batches: Iterable[Sequence[Pixels]], prefetch: int) -> Iterator[Iterable[Scores]]:
        """Submit each batch as a whole."""
        futures = (submit(batch, self.cost.multiply_adds(*batch[0].shape[:2])) for batch in batches)
        return Prefetcher(futures, prefetch)


@dataclass(frozen=True)
class Shared(Dense):
    """One run for every tile that gives the scores of crops: the windows share what they have in common.

    If margins are cut off, the scores are not those of crops.
    """

    cost: SharedCost
    name: str = "shared"

    def session(self, session: Session) -> Session:
        """Return the session at the stride of this mode."""
        return session.at_stride(self.network.strides)

    def activations(self, view: TilePlan, _: int) -> float:
        """Return the bytes of activations of the largest tile: tiles of a batch are run one after another."""
        return self.cost.bytes(*view.max_tile_shape)

    def effort(self, view: TilePlan) -> float:
        """Return the multiply-adds of all tiles, with the time in which bytes are moved."""
        return self.cost.effort(view)


@dataclass(frozen=True)
class Crops:
    """Every window by itself, with several windows in a submission."""

    network: Network
    window_multiply_adds: float
    """Multiply-adds of one window."""
    bytes_per_pixel: float
    """Bytes of activations for each pixel."""
    window_bytes: float = 0.0
    """Bytes that the layers read and return for one window; 0 for a model without mode shared."""
    position: int = 0
    name: str = "crops"

    def session(self, session: Session) -> Session:
        """Return the session itself."""
        return session

    def tile_sizes(self, lattices: tuple[AxisLattice, AxisLattice], _: Tuning, __: Rate) -> Sequence[int]:
        """Return the pixels of a tile that holds several windows along each axis."""
        return (math.prod(max(lattice.pixels(MIN_TILE_WINDOWS), MIN_TILE_PIXELS) for lattice in lattices),)

    def multiply_adds(self, view: TilePlan) -> float:
        """Return the multiply-adds of all windows, including those of the mirrored image."""
        return self._windows(view) * self.window_multiply_adds

    def effort(self, view: TilePlan) -> float:
        """Return the multiply-adds of all windows, with the time in which layers read and return values."""
        return self._windows(view) * crops_effort(self.window_multiply_adds, self.window_bytes)

    def multiply_adds_of(self, row: AxisTile, col: AxisTile) -> float:
        """Return the multiply-adds of the windows of one tile."""
        windows = len(range(row.cells.stop)[row.cells]) * len(range(col.cells.stop)[col.cells])
        return windows * self.window_multiply_adds

    def submits(self, view: TilePlan, _: int) -> int:
        """Return an upper bound for the number of submissions of WINDOWS_PER_SUBMISSION windows each."""
        return -(-self._windows(view) // WINDOWS_PER_SUBMISSION) + len(view) - 1

    def activations(self, _: TilePlan, __: int) -> float:
        """Return the bytes of activations of WINDOWS_PER_SUBMISSION windows: tiles are run one after another."""
        pixels = self.network.vertical.window * self.network.horizontal.window
        return WINDOWS_PER_SUBMISSION * pixels * self.bytes_per_pixel

    def run(self, submit: Submit, batches: Iterable[Sequence[Pixels]], prefetch: int) -> Iterator[Iterable[Scores]]:
        """Run one tile after another, WINDOWS_PER_SUBMISSION windows in a submission."""
        begun = ([self._begin(submit, tile, prefetch) for tile in batch] for batch in batches)
        first = list(islice(begun, 1))
        return ([_grid(*tile) for tile in batch] for batch in chain(first, begun))

    @staticmethod
    def _windows(view: TilePlan) -> int:
        return view.cells * (2 if view.mirrored else 1)

    def _begin(self, submit: Submit, tile: Pixels, prefetch: int) -> tuple[tuple[int, ...], Iterator[Sequence[Scores]]]:
        """Return the (rows, cols) of a tile's grid, and the scores of its windows, WINDOWS_PER_SUBMISSION at a time."""
        window, (down, right) = tuple(axis.window for axis, _ in self.network.axes), self.network.strides
        windows = np.lib.stride_tricks.sliding_window_view(tile, window, (0, 1))[::down, ::right]
        grid = cast("Pixels", np.moveaxis(windows, 2, -1))
        following = (grid[cell] for cell in np.ndindex(*grid.shape[:2]))
        batches = iter(lambda: list(islice(following, WINDOWS_PER_SUBMISSION)), [])
        return grid.shape[:2], Prefetcher((submit(batch, self.window_multiply_adds) for batch in batches), prefetch)


def _grid(shape: tuple[int, ...], windows: Iterable[Sequence[Scores]]) -> Scores:
    return np.stack([scores for batch in windows for scores in batch]).reshape(*shape, -1)


def choose(model: StoredModel, options: ResolvedOptions) -> tuple[list[Mode], str]:
    """Return the possible modes and the reason for them; raises CapabilityError if no mode is possible."""
    stride, requested = options.stride, options.requested.mode
    if options.requested.min_agreement is not None:
        return _agreeing(model, stride, options.requested.min_agreement)
    match requested:
        case ModeChoice.CROPS:
            return [_crops(model, stride)], "requested"
        case ModeChoice.SHARED:
            return [*_shared_or_refuse(model, stride)], "requested"
        case ModeChoice.EXACT:
            return _exact(model, stride), "the cheapest mode with the classifier's own scores"
        case ModeChoice.DENSE:
            return [_dense_or_refuse(model, stride)], "requested"
    return _auto(model, stride)


def _auto(model: StoredModel, stride: tuple[int, int]) -> tuple[list[Mode], str]:
    crops = _crops(model, stride)
    if not model.supports_dense:
        return [crops], "the model looks at whole windows and cannot slide"
    if _dense(model, stride) is None and model.spec.parity[0].exact:
        return [crops], f"there is no dense stride of {_text(stride)} pixels, and crops give the same scores"
    dense = _dense_or_refuse(model, stride)
    if model.spec.parity[dense.position].exact:
        return [dense, crops], "crops would give the same scores for no fewer multiply-adds"
    return [dense], "default for a model whose dense scores are not exact"


def _exact(model: StoredModel, stride: tuple[int, int]) -> list[Mode]:
    """Return the modes whose scores are the classifier's own."""
    dense = _dense(model, stride) if model.supports_dense else None
    if dense is not None and model.spec.parity[dense.position].exact:
        return [dense, _crops(model, stride)]
    return [*_shared(model, stride), _crops(model, stride)]


def _agreeing(model: StoredModel, stride: tuple[int, int], least: float) -> tuple[list[Mode], str]:
    """Return the modes with the classifier's own scores, and those that are measured to agree on enough windows.

    `least` is the share of windows. Agreement on synthetic images says little, and does not count.
    """
    modes, spec = _exact(model, stride), model.spec
    dense = _dense(model, stride) if model.supports_dense else None
    if dense is not None and dense not in modes:
        parity = spec.parity[dense.position]
        if parity.of_given_images and overall(spec, dense.position).agreement_low >= least:
            modes.append(dense)
    modes += [
        _shared_by(model, number, stride)
        for number in _cut(model, stride)
        if spec.shared[number].difference.agreement_low >= least
    ]
    return modes, (
        "the cheapest mode with the classifier's own scores, or measured to have its top class on at least "
        f"{100 * least:.4g} % of windows"
    )


def _dense_or_refuse(model: StoredModel, stride: tuple[int, int]) -> Dense:
    if not model.supports_dense:
        raise CapabilityError(
            f"mode: expected crops, since model {model.name!r} looks at whole windows and cannot slide"
        )
    dense = _dense(model, stride)
    if dense is None:
        raise CapabilityError(
            f"stride: expected a divisor or a multiple of {_text(model.strides[0])} pixels, or a stride of model "
            f"{model.name!r} ({', '.join(map(_text, model.strides))}), got {_text(stride)}; mode crops takes any"
        )
    return dense


def exact_multiply_adds(model: StoredModel, view: TilePlan) -> float:
    """Return the multiply-adds of the same cells in the cheapest mode with the classifier's own scores."""
    crops, lattices = _crops(model, model.strides[0]), (view.vertical, view.horizontal)
    found = [(crops.effort(view), crops.multiply_adds(view))]
    for shared in _shared(model, (view.vertical.stride, view.horizontal.stride)):
        phases = [base // lattice.stride for base, lattice in zip(shared.network.strides, lattices, strict=True)]
        rows, cols = (-(-lattice.cells // count) for lattice, count in zip(lattices, phases, strict=True))
        multiply_adds, predicted = shared.cost.of_grid(rows, cols)
        passes = math.prod(phases) * (2 if view.mirrored else 1)
        found.append((passes * predicted, passes * multiply_adds))
    return min(found)[1]


def _shared(model: StoredModel, stride: tuple[int, int]) -> list[Shared]:
    """Return mode shared with each file whose scores are the classifier's own."""
    return [_shared_by(model, number, stride) for number, file in enumerate(model.spec.shared) if not file.margin_limit]


def _cut(model: StoredModel, stride: tuple[int, int]) -> list[int]:
    """Return the positions in `spec.shared` of the files whose margins are cut off and that serve a stride."""
    return [
        number
        for number, file in enumerate(model.spec.shared)
        if file.margin_limit and stride[0] % file.multiple_of.height == stride[1] % file.multiple_of.width == 0
    ]


def _shared_by(model: StoredModel, number: int, stride: tuple[int, int]) -> Shared:
    """Return mode shared with one of the files of `spec.shared`, on phases if it does not serve the stride itself."""
    least = model.spec.shared[number].multiple_of
    cost = model.shared_cost(number, (math.lcm(stride[0], least.height), math.lcm(stride[1], least.width)))
    return Shared(len(model.strides) + number, cost.network, cost)


def _shared_or_refuse(model: StoredModel, stride: tuple[int, int]) -> list[Shared]:
    if shared := _shared(model, stride):
        return shared
    raise CapabilityError(
        f"mode: expected {' or '.join(model.spec.modes)}, since model {model.name!r} has no files for mode shared; "
        "mode exact takes the cheapest mode with the classifier's own scores"
    )


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
    window_bytes = model.spec.shared[0].window_bytes if model.spec.shared else 0.0
    return Crops(network, cost.multiply_adds_per_crop, cost.activation_bytes_per_pixel, window_bytes)


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
