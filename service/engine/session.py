"""An ONNX Runtime session that turns the pixels of tiles into the scores of their cells."""

import time
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from fullconv.common.model_files import WEIGHTS
from fullconv.common.optimisers import LOSSY_OPTIMISERS
from service.dense.arrays import Pixels
from service.dense.cost import SharedCost
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

Provider = Literal["cpu", "cuda"]
"""The hardware that runs networks."""
PROVIDERS: dict[Provider, tuple[str, dict[str, str], str]] = {
    "cpu": ("CPUExecutionProvider", {}, "cpu:0"),
    # float32 products without TF32, as on the CPU; no search for the best convolution at every new tile shape
    "cuda": ("CUDAExecutionProvider", {"use_tf32": "0", "cudnn_conv_algo_search": "DEFAULT"}, "gpu:0"),
}
"""ONNX Runtime's name of each provider, the provider's options, and its memory arena."""


def check_provider(provider: Provider) -> None:
    """Raise ImportError if the installed ONNX Runtime does not have this provider."""
    if PROVIDERS[provider][0] not in ort.get_available_providers():
        raise ImportError(
            f"provider: expected a provider of the installed ONNX Runtime, got {provider}: "
            f"install onnxruntime-gpu in place of onnxruntime"
        )


class Session:
    """One ONNX file of a model, loaded into memory. Several threads may use it at the same time."""

    def __init__(
        self, model: StoredModel, position: int = 0, *, pooled: bool = False, provider: Provider = "cpu"
    ) -> None:
        """Load the file at `position` of `model.files`; raises ModelError.

        A pooled session runs in the threads of the process's global pool, which all pooled sessions share.
        """
        self.model, self._position = model, position
        name, settings, self._arena = PROVIDERS[provider]
        file = model.folder / model.files[position]
        try:
            self._session = ort.InferenceSession(
                file, _options(pooled=pooled), providers=[(name, settings)], disabled_optimizers=[*LOSSY_OPTIMISERS]
            )
        except Exception as error:  # each stage of loading raises errors of another class
            log.error("model", extra={"record": {"file": str(file), "error": str(error)}})
            raise ModelError(f"{model_path(file)}: ONNX Runtime cannot load it; convert the model again") from None
        if self._session.get_providers()[0] != name:  # ONNX Runtime has fallen back to the CPU
            raise ModelError(
                f"{model_path(file)}: ONNX Runtime cannot run it with {name}; install the libraries of {name}"
            )
        self._input = model.spec.input.name
        self._outputs = _outputs(model, [output.name for output in self._session.get_outputs()])
        """Number of values of each output by its name, the scores first."""
        batch = self._session.get_inputs()[0].shape[0]
        self.fixed_batch: int | None = batch if isinstance(batch, int) else None
        """Number of tiles in every batch; None if any number is possible."""
        self.bytes_per_pixel: float
        """Bytes of activations for each pixel of a tile."""
        self.weights_bytes = sum(part.stat().st_size for part in (file, model.folder / WEIGHTS) if part.exists())
        """Bytes of the weights on disk, which is also about their size in memory."""
        self.measured_rate: float
        """Multiply-adds per second of one window, as `warm` has measured it."""
        self._stride: tuple[int, int] | None = None
        """Pixels between the windows of a tile, for a file of mode shared."""
        self._multiply_adds = self._take_cost()
        self._last_channels = model.spec.input.layout == "NHWC"
        self._rate = self.measured_rate = INITIAL_RATE
        self._arena_use = _ArenaUse()
        self._at = dict[tuple[int, int], Session]()

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
        cost = self.model.shared_cost(self._position - len(self.model.spec.strides), stride)
        self._stride, self.bytes_per_pixel = stride, cost.bytes_per_pixel
        return cost

    def warm(self) -> None:
        """Score a grey window to test the session and to measure its rate; raises ModelError if that fails."""
        expected = (1, 1, 1, self.model.values)
        path = model_path(self.model.folder)
        try:
            took, started = list[float](), time.monotonic()
            while len(took) < WARM_RUNS or (len(took) < MAX_WARM_RUNS and took[-1] - started < WARM_SECONDS):
                scores = self.score([self._grey_window()])
                took.append(time.monotonic())
            # the first run is slower, and any run may have waited for a CPU
            self._rate = self.measured_rate = self._multiply_adds / min(np.diff(took))
        except Exception as error:  # each kind of failure raises an error of another class
            log.error("model", extra={"record": {"model": self.model.name, "error": str(error)}})
            raise ModelError(f"{path}: ONNX Runtime cannot run it; convert it again") from None
        if scores.shape != expected:
            raise ModelError(
                f"{path}: expected values of shape {expected} for a grey window, got {scores.shape}: the files do not "
                "match the model's geometry; convert it again"
            )
        if not np.isfinite(scores).all():
            raise ModelError(f"{path}: expected finite values for a grey window, got NaN or infinity; convert it again")

    def shrink_arena(self) -> None:
        """Free the activations that the arena keeps from earlier runs, if they are larger than `MIN_SHRINK_BYTES`.

        ONNX Runtime shrinks an arena at the end of a run, so one grey window is scored. Runs at the same time keep
        their activations.
        """
        if self._arena_use.bytes > MIN_SHRINK_BYTES:
            self._arena_use.bytes = 0.0
            run = ort.RunOptions()
            run.add_run_config_entry("memory.enable_memory_arena_shrinkage", self._arena)
            binding, count = self._session.io_binding(), self.fixed_batch or 1
            # an output inside the arena would keep a part of it
            outputs = {name: np.empty((count, depth, 1, 1), np.float32) for name, depth in self._outputs.items()}
            for input_name, value in self._feed([self._grey_window()], count).items():
                binding.bind_cpu_input(input_name, value)
            for name, values in outputs.items():
                binding.bind_output(name, "cpu", 0, np.float32, values.shape, values.ctypes.data)
            self._session.run_with_iobinding(binding, run)

    def predict_seconds(self, multiply_adds: float) -> float:
        """Return the predicted run time in seconds, from the rate of earlier runs."""
        return multiply_adds / self._rate

    def observe(self, multiply_adds: float, seconds: float) -> None:
        """Update the rate with one run."""
        self._rate += RATE_WEIGHT * (multiply_adds / seconds - self._rate)

    def score(self, tiles: Sequence[Pixels], run: ort.RunOptions | None = None) -> NDArray[np.float32]:
        """Score tiles of equal shape, (rows, cols, channels); returns (tiles, rows, cols, values) float32.

        The values of a cell are the scores of all classes, then the values of the further outputs.
        If another thread sets `run.terminate`, this call raises an error of ONNX Runtime.
        """
        count = self.fixed_batch or len(tiles)
        try:
            parts = [self._score_batch(tiles[at : at + count], count, run) for at in range(0, len(tiles), count)]
        finally:  # if the arena was shrunk during this run, it has kept the run's activations
            pixels = count * tiles[0].shape[0] * tiles[0].shape[1]
            self._arena_use.bytes = max(self._arena_use.bytes, pixels * self.bytes_per_pixel)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _grey_window(self) -> Pixels:
        spec = self.model.spec
        return np.full((spec.window.height, spec.window.width, spec.input.channels), GREY, spec.input.dtype)

    def _score_batch(self, tiles: Sequence[Pixels], count: int, run: ort.RunOptions | None) -> NDArray[np.float32]:
        """Run one batch of `count` tiles; if there are fewer tiles, the last one is repeated."""
        grids = self._session.run([*self._outputs], self._feed(tiles, count), run)
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
        spec, shared = self.model.spec, self._position - len(self.model.spec.strides)
        if shared < 0:
            self.bytes_per_pixel = spec.cost[self._position].activation_bytes_per_pixel
            return spec.cost[self._position].multiply_adds_per_crop
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
    """How much the arena of an ONNX Runtime session holds."""

    bytes: float = 0.0
    """Bytes of activations of the largest run since the arena was shrunk; the arena still holds them."""


def _options(*, pooled: bool) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.use_per_session_threads = not pooled
    options.log_severity_level = 4
    options.enable_mem_pattern = False
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options
