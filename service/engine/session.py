"""An ONNX Runtime session that turns the pixels of tiles into the scores of their cells."""

from collections.abc import Callable, Sequence

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from service.engine.repository import StoredModel, short
from service.errors import ModelError
from service.log import log

Pixels = NDArray[np.uint8] | NDArray[np.float32]
BATCH = 8
"""Windows that run together, where a model takes any number."""


class Session:
    """One file of a model, loaded; `position` is its place in `spec.strides`."""

    def __init__(self, model: StoredModel, position: int = 0) -> None:
        self._model = model
        file = model.folder / model.spec.strides[position].file
        try:
            self._session = ort.InferenceSession(file, _options(), providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime raises a different kind for every stage of loading
            log.error("model", extra={"record": {"file": str(file), "error": str(error)}})
            raise ModelError(f"{short(file)}: ONNX Runtime cannot load it; convert the model again") from None
        batch = self._session.get_inputs()[0].shape[0]
        self._batch = batch if isinstance(batch, int) else None

    def dense(self, tiles: Sequence[Pixels]) -> NDArray[np.float32]:
        """Score tiles of one shape, (height, width, channels) each; returns (tiles, rows, cols, classes) float32."""
        batch: Pixels = tiles[0][None] if len(tiles) == 1 else np.stack(tiles)  # type: ignore[assignment]
        return np.moveaxis(self._scores(batch), 1, -1)

    def crops(
        self, tile: Pixels, stride: tuple[int, int], check: Callable[[], None] = lambda: None
    ) -> NDArray[np.float32]:
        """Score every window of a tile by itself; returns (rows, cols, classes) float32.

        `check` is called before every batch of windows, and may raise to stop here.
        """
        window = (self._model.vertical.window, self._model.horizontal.window)
        windows = np.lib.stride_tricks.sliding_window_view(tile, window, (0, 1))
        grid = np.moveaxis(windows[:: stride[0], :: stride[1]], 2, -1)
        cells = list(np.ndindex(*grid.shape[:2]))
        count, scores = self._batch or BATCH, []
        for first in range(0, len(cells), count):
            check()
            crops = np.stack([grid[cell] for cell in cells[first : first + count]])
            missing = (self._batch or len(crops)) - len(crops)
            filled = np.concatenate([crops, np.repeat(crops[-1:], missing, axis=0)]) if missing else crops
            scores.append(self._scores(filled)[: len(crops), :, 0, 0])
        return np.concatenate(scores).reshape(*grid.shape[:2], -1)

    def _scores(self, images: Pixels) -> NDArray[np.float32]:
        """Run a batch (N, height, width, channels): (N, classes, rows, cols)."""
        batch = images if self._model.spec.input.layout == "NHWC" else np.moveaxis(images, -1, 1)
        feed = {self._model.spec.input.name: np.ascontiguousarray(batch)}
        scores: NDArray[np.float32] = self._session.run([self._model.spec.output.name], feed)[0]
        return scores


def _options() -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.enable_mem_pattern = False
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options
