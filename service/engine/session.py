"""An ONNX Runtime session that turns the pixels of a tile into the scores of its cells."""

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from protos.spec import MODEL
from service.engine.repository import StoredModel, short
from service.errors import ModelError
from service.log import log


class Session:
    """One model at its native stride, loaded."""

    def __init__(self, model: StoredModel) -> None:
        self._spec = model.spec
        file = model.folder / MODEL
        try:
            self._session = ort.InferenceSession(file, _options(), providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime raises a different kind for every stage of loading
            log.error("model", extra={"record": {"file": str(file), "error": str(error)}})
            raise ModelError(f"{short(file)}: ONNX Runtime cannot load it; convert the model again") from None

    def run(self, pixels: NDArray[np.uint8] | NDArray[np.float32]) -> NDArray[np.float32]:
        """Score one tile.

        `pixels` is (height, width, channels) in the model's element type. Returns (rows, cols, classes) float32.
        """
        tile = pixels if self._spec.input.layout == "NHWC" else np.moveaxis(pixels, -1, 0)
        feed = {self._spec.input.name: np.ascontiguousarray(tile)[None]}
        (scores,) = self._session.run([self._spec.output.name], feed)
        grid: NDArray[np.float32] = np.moveaxis(scores[0], 0, -1)
        return grid


def _options() -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.enable_mem_pattern = False
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options
