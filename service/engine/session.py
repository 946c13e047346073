"""An ONNX Runtime session that turns the pixels of tiles into the scores of their cells."""

import time
from collections.abc import Sequence
from typing import Literal, cast

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from fullconv.common.model_files import WEIGHTS
from service.dense.arrays import Pixels
from service.engine.repository import StoredModel, model_path
from service.errors import ModelError
from service.log import log

GREY = 128
RATE = 1e10
"""Multiply-adds a second, before any were timed."""
LEARNING = 0.2
"""Of every run's rate, in the mean."""
KEPT = 4 << 20
"""Bytes of activations that are kept from run to run, however long the session is idle."""

Provider = Literal["cpu", "cuda"]
"""Where networks run."""
PROVIDERS: dict[Provider, tuple[str, dict[str, str], str]] = {
    "cpu": ("CPUExecutionProvider", {}, "cpu:0"),
    # products in float32 as on the CPU; a convolution's algorithm is not searched for anew for every shape of tile
    "cuda": ("CUDAExecutionProvider", {"use_tf32": "0", "cudnn_conv_algo_search": "DEFAULT"}, "gpu:0"),
}
"""ONNX Runtime's name of each, its options, and its arena."""


def check_provider(provider: Provider) -> None:
    """Raise ImportError if the ONNX Runtime that is installed has no such provider."""
    if PROVIDERS[provider][0] not in ort.get_available_providers():
        raise ImportError(
            f"provider: expected one of this ONNX Runtime's, got {provider}: "
            f"install onnxruntime-gpu in place of onnxruntime"
        )


class Session:
    """One file of a model, loaded; `position` is its place in `spec.strides`."""

    def __init__(
        self, model: StoredModel, position: int = 0, *, pooled: bool = False, provider: Provider = "cpu"
    ) -> None:
        """Load it; raises ModelError. Pooled sessions share the threads of this process's global pool."""
        self.model = model
        name, settings, self._arena = PROVIDERS[provider]
        file = model.folder / model.spec.strides[position].file
        try:
            self._session = ort.InferenceSession(file, _options(pooled=pooled), providers=[(name, settings)])
        except Exception as error:  # ONNX Runtime raises a different kind for every stage of loading
            log.error("model", extra={"record": {"file": str(file), "error": str(error)}})
            raise ModelError(f"{model_path(file)}: ONNX Runtime cannot load it; convert the model again") from None
        if self._session.get_providers()[0] != name:  # it falls back to the CPU by itself
            raise ModelError(
                f"{model_path(file)}: ONNX Runtime cannot run it with {name}: are its libraries installed?"
            )
        batch = self._session.get_inputs()[0].shape[0]
        self.batch: int | None = batch if isinstance(batch, int) else None
        """Tiles of a batch, where the model takes neither more nor fewer."""
        self.bytes_per_pixel = model.spec.cost[position].activation_bytes_per_pixel
        """Of activations."""
        self.weights_bytes = sum(part.stat().st_size for part in (file, model.folder / WEIGHTS) if part.exists())
        """On disk, and about as many in memory."""
        self.measured_rate: float
        """Multiply-adds a second, of one window when it was loaded."""
        self._multiply_adds = model.spec.cost[position].multiply_adds_per_crop
        self._input, self._output = model.spec.input.name, model.spec.output.name
        self._last_channels = model.spec.input.layout == "NHWC"
        self._rate = self.measured_rate = RATE
        self._held = 0.0
        """Bytes of activations that the largest run since the last rest left in the arena."""

    def warm(self) -> None:
        """Score a window, to see that it works and how fast; raises ModelError if it does not."""
        expected = (1, 1, 1, self.model.spec.output.classes)
        try:
            for _ in range(2):
                started = time.monotonic()
                scores = self.score([self._window()])
                self._rate = self.measured_rate = self._multiply_adds / (time.monotonic() - started)
        except Exception as error:  # ONNX Runtime raises a different kind for everything that can fail
            log.error("model", extra={"record": {"model": self.model.name, "error": str(error)}})
            raise ModelError(f"{model_path(self.model.folder)}: ONNX Runtime cannot run it; convert it again") from None
        if scores.shape != expected or not np.isfinite(scores).all():
            raise ModelError(
                f"{model_path(self.model.folder)}: expected finite scores {expected} of a grey window, got "
                f"{scores.shape}: its files do not fit its geometry; convert it again"
            )

    def shrink_arena(self) -> None:
        """Give back the memory of activations, if it is much, by scoring a window; what runs keeps its own."""
        if self._held > KEPT:
            self._held = 0.0
            run = ort.RunOptions()
            run.add_run_config_entry("memory.enable_memory_arena_shrinkage", self._arena)
            binding, spec, count = self._session.io_binding(), self.model.spec, self.batch or 1
            scores = np.empty((count, spec.output.classes, 1, 1), np.float32)  # in the arena it would hold a part of it
            binding.bind_cpu_input(self._input, self._fed([self._window()], count))
            binding.bind_output(self._output, "cpu", 0, np.float32, scores.shape, scores.ctypes.data)
            self._session.run_with_iobinding(binding, run)

    def predict_seconds(self, multiply_adds: float) -> float:
        """How long so many are going to take, as those before did."""
        return multiply_adds / self._rate

    def observe(self, multiply_adds: float, seconds: float) -> None:
        """Learn from a run."""
        self._rate += LEARNING * (multiply_adds / seconds - self._rate)

    def score(self, tiles: Sequence[Pixels], run: ort.RunOptions | None = None) -> NDArray[np.float32]:
        """Score tiles of one shape, (height, width, channels) each; returns (tiles, rows, cols, classes) float32.

        Another thread may set `run.terminate`, which makes this raise.
        """
        count = self.batch or len(tiles)
        try:
            parts = [self._scores(tiles[first : first + count], count, run) for first in range(0, len(tiles), count)]
        finally:  # a rest meanwhile gave nothing of this back
            self._held = max(self._held, count * tiles[0].shape[0] * tiles[0].shape[1] * self.bytes_per_pixel)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _window(self) -> Pixels:
        """One without a picture."""
        spec = self.model.spec
        return np.full((spec.window.height, spec.window.width, spec.input.channels), GREY, spec.input.dtype)

    def _scores(self, tiles: Sequence[Pixels], count: int, run: ort.RunOptions | None) -> NDArray[np.float32]:
        """Run one batch of so many tiles, filled up where there are fewer."""
        (scores,) = self._session.run([self._output], {self._input: self._fed(tiles, count)}, run)
        return np.moveaxis(scores[: len(tiles)], 1, -1)

    def _fed(self, tiles: Sequence[Pixels], count: int) -> Pixels:
        """A batch as the network takes it."""
        batch = cast("Pixels", np.stack([*tiles, *[tiles[-1]] * (count - len(tiles))]))
        if self._last_channels:
            return batch
        return cast("Pixels", np.ascontiguousarray(np.moveaxis(batch, -1, 1)))


def _options(*, pooled: bool) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.use_per_session_threads = not pooled
    options.log_severity_level = 4
    options.enable_mem_pattern = False
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options
