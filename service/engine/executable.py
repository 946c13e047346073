"""The interface to the runtimes: an ONNX file that a runtime has loaded. Only these modules name a runtime.

Session (tiles in, scores out) → Executable ← onnx_runtime.py (with page_locked.py), openvino_runtime.py
"""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from service.engine.cancellation import Cancellation

Feed = Mapping[str, NDArray[Any]]
"""The inputs of a graph by their names."""


class Executable(Protocol):
    """An ONNX file that a runtime has loaded. Several threads may run it at the same time."""

    @property
    def outputs(self) -> list[str]:
        """Names of the graph's outputs, in their order."""

    @property
    def fixed_batch(self) -> int | None:
        """Length of the first dimension of the graph's first input; None if it may have any length."""

    @property
    def copies(self) -> int:
        """Number of times that the weights are in memory."""

    def run(self, feed: Feed, outputs: list[str], cancellation: Cancellation | None) -> list[NDArray[np.float32]]:
        """Return the values of `outputs`, each (batch, values, rows, cols), as arrays of the caller's own.

        Raises an error of the runtime if the run fails or is cancelled.
        """

    def shrink(self, feed: Feed, outputs: Mapping[str, tuple[int, ...]]) -> None:
        """Free the memory that earlier runs have left, with the help of a small run.

        `outputs` are the shapes of the outputs of this run.
        """
