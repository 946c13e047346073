"""A session turns the pixels of tiles into the scores of their cells, with the runtime of its backend."""

import time
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from fullconv.common.model_files import WEIGHTS
from fullconv.protos import model_pb2
from service.dense.arrays import Pixels
from service.dense.cost import SharedCost
from service.engine.backend import REFERENCE, Backend
from service.engine.cancellation import Cancellation
from service.engine.executable import Executable
from service.engine.executables import Executables, Threads
from service.engine.repository import StoredModel
from service.engine.version_files import model_path
from service.errors import ModelError
from service.log import log

GREY = 128
"""Value of all pixels of the window that tests a session."""
INITIAL_RATE = 1e10
"""Multiply-adds per second that are assumed before the first run is timed."""
WARM_RUNS, MAX_WARM_RUNS, WARM_SECONDS = 2, 8, 0.1
"""Fewest and most windows that are scored to measure the rate, and the seconds after which no further run begins."""
RATE_WEIGHT = 0.2
"""Weight of the latest run in the running mean of the rate."""
KEPT_STRIDES = 16
"""Number of strides of a session of mode shared that are kept."""
STRIDE = "stride"
"""Name of the second input of a file of mode shared."""
MIN_SHRINK_BYTES = 4 << 20
"""Bytes of activations up to which the arena is not shrunk."""


@dataclass(frozen=True)
class SingleRuns:
    """Runs that compute in one thread each, several at the same time."""

    pixels: int
    """Pixels of all tiles of one run; larger tiles compute in all threads."""
    most: int
    """Largest number of runs at the same time."""
    fewest: int = 1
    """Number of runs, with those that wait, from which on they compute more together than one after the other in all
    threads."""


@dataclass(frozen=True)
class RunSizes:
    """How a session computes fastest on this machine."""

    pixels: int
    """Pixels of all tiles of one run in all threads."""
    concurrent: int = 1
    """Number of these runs at the same time."""
    single: SingleRuns | None = None
    """None: no run computes in one thread."""


class Session:
    """One ONNX file of a model, loaded into memory. Several threads may use it at the same time."""

    def __init__(
        self,
        model: StoredModel,
        position: int = 0,
        *,
        backend: Backend = REFERENCE,
        threads: Threads | None = None,
    ) -> None:
        """Load the file at `position` of `model.files`; raises ModelError. Default of `threads`: `Threads()`."""
        self.model, self.position, self.backend = model, position, backend
        self.difference = model_pb2.Difference()
        """Difference of the scores from those of fp32 on the CPU, as it was measured. Zero windows: not measured."""
        self._threads = threads or Threads()
        self._executables = Executables(model, position, backend, self._threads)
        first = self._executables.get(single=self._threads.single_of(backend) > 0)
        self._input = model.spec.input.name
        self._outputs = _outputs(model, first.outputs)
        """Number of values of each output by its name, the scores first."""
        self.fixed_batch = first.fixed_batch
        """Number of tiles in every batch; None if any number is possible."""
        self.bytes_per_pixel: float
        """Bytes of activations for each pixel of a tile."""
        files = (model.folder / self.file, model.folder / WEIGHTS)
        self._bytes_on_disk = sum(part.stat().st_size for part in files if part.exists())
        self.measured_rate: float
        """Multiply-adds per second of one window, as `warm` has measured it."""
        self._stride: tuple[int, int] | None = None
        """Pixels between the windows of a tile, for a file of mode shared."""
        self.run_sizes: RunSizes | None = None
        """How this session computes windows fastest. None: not known."""
        self._multiply_adds = self._take_cost()
        self._last_channels = model.spec.input.layout == "NHWC"
        self._rate = self.measured_rate = INITIAL_RATE
        self._arena_use = _ArenaUse()
        self._at = dict[tuple[int, int], Session]()

    @property
    def file(self) -> str:
        """Name of the ONNX file."""
        return self.model.files[self.position]

    def at_stride(self, stride: tuple[int, int]) -> "Session":
        """Return this session of mode shared for windows that are `stride` pixels apart; both share the network."""
        session = self._at.get(stride)
        if session is None:
            session = copy(self)
            session._take_stride(stride)  # noqa: SLF001 (of this class)
            if len(self._at) < KEPT_STRIDES:
                self._at[stride] = session
        return session

    def _take_stride(self, stride: tuple[int, int]) -> SharedCost:
        """Set the pixels between windows; returns the cost at this stride."""
        cost = self._shared_cost(stride)
        self._stride = stride
        self._take_bytes_per_pixel(cost.bytes_per_pixel)
        return cost

    def _take_bytes_per_pixel(self, value: float) -> None:
        """Set the bytes of activations for each pixel, and with them the tiles that may run in one thread each."""
        self.bytes_per_pixel = value
        pixels = int(self._threads.single_of(self.backend) / value)
        if pixels:
            self.run_sizes = RunSizes(pixels, single=SingleRuns(pixels, self._threads.count))

    def use_run_sizes(self, sizes: RunSizes | None) -> None:
        """Compute windows as was measured. The file stays loaded for runs in one thread only if there are such runs."""
        self.run_sizes = sizes
        if sizes is not None and sizes.single is not None:
            self._executables.get(single=True)
        else:
            self._executables.forget_single()

    def warm(self) -> None:
        """Score a grey window to test the session and to measure its rate; raises ModelError if that fails."""
        expected = (1, 1, 1, self.model.values)
        path = model_path(self.model.folder)
        try:
            took, started = list[float](), time.monotonic()
            while len(took) < WARM_RUNS or (len(took) < MAX_WARM_RUNS and took[-1] - started < WARM_SECONDS):
                scores = self.score([self.grey_window()])
                took.append(time.monotonic())
            # the first run is slower, and any run may have waited for a CPU
            self._rate = self.measured_rate = self._multiply_adds / float(min(np.diff(took)))
        except Exception as error:  # each kind of failure raises an error of another class
            log.error("model", extra={"record": {"model": self.model.name, "error": str(error)}})
            raise ModelError(f"{path}: {self.backend.provider} cannot run it; convert it again") from None
        if scores.shape != expected:
            raise ModelError(
                f"{path}: expected values of shape {expected} for a grey window, got {scores.shape}: the files do not "
                "match the model's geometry; convert it again"
            )
        if not np.isfinite(scores).all():
            raise ModelError(f"{path}: expected finite values for a grey window, got NaN or infinity; convert it again")

    @property
    def weights_bytes(self) -> int:
        """Bytes of the weights in memory: about as many as on disk, for each copy."""
        return self._bytes_on_disk * sum(executable.copies for executable in self._executables.loaded())

    def shrink_arena(self) -> None:
        """Free the activations that the runtime keeps from earlier runs, if they are larger than `MIN_SHRINK_BYTES`."""
        if self._arena_use.bytes > MIN_SHRINK_BYTES:
            self._arena_use.bytes = 0.0
            count = self.fixed_batch or 1
            shapes = {name: (count, depth, 1, 1) for name, depth in self._outputs.items()}
            for executable in self._executables.loaded():
                executable.shrink(self._feed([self.grey_window()], count), shapes)

    @property
    def slides(self) -> bool:
        """Whether a tile may be larger than the window."""
        return self._stride is not None or self.model.supports_dense

    @property
    def step(self) -> tuple[int, int]:
        """Pixels between the windows of a tile, vertical before horizontal."""
        return self._stride or self.model.strides[self.position]

    def predict_tile_seconds(self, height: int, width: int) -> float:
        """Return the predicted run time of a tile of height × width pixels; for dense networks from its area."""
        if self._stride is not None:
            return self.predict_seconds(self._shared_cost(self._stride).multiply_adds(height, width))
        window = self.model.spec.window
        return self.predict_seconds(self._multiply_adds * height * width / (window.height * window.width))

    def _shared_cost(self, stride: tuple[int, int]) -> SharedCost:
        """Return the cost of this file of mode shared at a stride in pixels."""
        return self.model.shared_cost(self.position - len(self.model.spec.strides), stride)

    def predict_seconds(self, multiply_adds: float) -> float:
        """Return the predicted run time in seconds, from the rate of earlier runs."""
        return multiply_adds / self._rate

    def observe(self, multiply_adds: float, seconds: float) -> None:
        """Update the rate with one run."""
        self._rate += RATE_WEIGHT * (multiply_adds / seconds - self._rate)

    def score(
        self, tiles: Sequence[Pixels], cancellation: Cancellation | None = None, *, single: bool = False
    ) -> NDArray[np.float32]:
        """Score tiles of equal shape, (rows, cols, channels); returns (tiles, rows, cols, values) float32.

        The values of a cell are the scores of all classes, then the values of the further outputs. With `single`, the
        run computes in the calling thread alone. If the run is cancelled, this call raises an error of the runtime.
        """
        count = self.fixed_batch or len(tiles)
        executable = self._executables.get(single=single)
        try:
            parts = [
                self._score_batch(executable, tiles[at : at + count], count, cancellation)
                for at in range(0, len(tiles), count)
            ]
        finally:  # if the arena was shrunk during this run, it has kept the run's activations
            pixels = count * tiles[0].shape[0] * tiles[0].shape[1]
            self._arena_use.bytes = max(self._arena_use.bytes, pixels * self.bytes_per_pixel)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def grey_window(self) -> Pixels:
        """Return a window whose pixels are all grey."""
        spec = self.model.spec
        return np.full((spec.window.height, spec.window.width, spec.input.channels), GREY, spec.input.dtype)

    def _score_batch(
        self, executable: Executable, tiles: Sequence[Pixels], count: int, cancellation: Cancellation | None
    ) -> NDArray[np.float32]:
        """Run one batch of `count` tiles; if there are fewer tiles, the last one is repeated."""
        grids = executable.run(self._feed(tiles, count), [*self._outputs], cancellation)
        values = grids[0] if len(grids) == 1 else np.concatenate(grids, axis=1)
        return np.moveaxis(values[: len(tiles)], 1, -1)

    def _feed(self, tiles: Sequence[Pixels], count: int) -> dict[str, NDArray[Any]]:
        """Return the network's inputs."""
        feed: dict[str, NDArray[Any]] = {self._input: self._input_batch(tiles, count)}
        if self._stride is not None:
            feed[STRIDE] = np.array(self._stride, np.int64)
        return feed

    def _take_cost(self) -> float:
        """Set what a run costs; returns the multiply-adds of one window."""
        spec, shared = self.model.spec, self.position - len(self.model.spec.strides)
        if shared < 0:
            self._take_bytes_per_pixel(spec.cost[self.position].activation_bytes_per_pixel)
            return spec.cost[self.position].multiply_adds_per_crop
        multiple_of = spec.shared[shared].multiple_of
        cost = self._take_stride((multiple_of.height, multiple_of.width))
        return cost.multiply_adds(spec.window.height, spec.window.width)

    def _input_batch(self, tiles: Sequence[Pixels], count: int) -> Pixels:
        """Return the network's image, (count, rows, cols, channels) or (count, channels, rows, cols)."""
        batch = cast("Pixels", np.stack([*tiles, *[tiles[-1]] * (count - len(tiles))]))
        if self._last_channels:
            return batch
        return cast("Pixels", np.ascontiguousarray(np.moveaxis(batch, -1, 1)))


def _outputs(model: StoredModel, names: Sequence[str]) -> dict[str, int]:
    """Return the number of values of each output by its name.

    Raises ModelError if the graph, whose outputs are `names`, lacks one of them.
    """
    output = model.spec.output
    outputs = {output.name: output.classes} | {further.name: further.values for further in output.further}
    if not outputs.keys() <= set(names):
        raise ModelError(
            f"{model_path(model.folder)}: expected the outputs {', '.join(outputs)}, got {', '.join(names)[:100]}: the "
            "files do not match the model's description; convert it again"
        )
    return outputs


@dataclass
class _ArenaUse:
    """How much the runtime keeps of the activations of earlier runs."""

    bytes: float = 0.0
    """Bytes of activations of the largest run since the last shrinking."""
