"""The networks of a comparison as functions from pixels to scores."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray

from converter.errors import VerificationError
from converter.graph.geometry import Geometry2D
from converter.graph.scores import final_activation
from converter.graph.sharing.emitter import STRIDE
from converter.messages import one_line
from converter.preprocessing import Preprocessing
from converter.runtime import session
from converter.sources.classifier import Classifier
from converter.verify.images import Pixels

IDENTITY = Preprocessing()
ROUNDING = 2.0**-20
"""A relative change that is as large as the rounding errors of float32 in a deep network."""


@dataclass(frozen=True)
class NetworkOutput:
    """A network's output for an image, (rows, cols, classes) float32 each.

    `logits` are the input of the softmax or sigmoid that ends the network; without such an activation they are the
    scores. Differences are measured on logits: two networks whose softmax is saturated give the same probabilities even
    if their logits differ much. `further` are the outputs beside the scores, each (rows, cols, values).
    """

    scores: NDArray[np.float32]
    logits: NDArray[np.float32]
    further: tuple[NDArray[np.float32], ...] = ()

    @classmethod
    def of(cls, grids: Sequence[NDArray[np.float32]]) -> "NetworkOutput":
        """Return the output of which these are the arrays: scores, logits, further outputs."""
        scores, logits, *further = grids
        return cls(scores, logits, tuple(further))

    def __getitem__(self, cells: Any) -> "NetworkOutput":  # noqa: ANN401 (whatever indexes an array)
        """Return the output for some cells; `cells` indexes rows and columns."""
        return NetworkOutput.of([grid[cells] for grid in self.grids])

    def copy(self) -> "NetworkOutput":
        """Return the same numbers in memory of their own."""
        return NetworkOutput.of([grid.copy() for grid in self.grids])

    @property
    def grids(self) -> tuple[NDArray[np.float32], ...]:
        """Scores, logits, and the further outputs."""
        return self.scores, self.logits, *self.further


Runner = Callable[[dict[str, NDArray[np.generic]]], list[NDArray[np.float32]]]
"""Runs a graph; takes its inputs by name, and returns the scores, the logits and the further outputs."""
Network = Callable[[Pixels], NetworkOutput]
"""Scores an image (height, width, channels)."""


class SourceNetwork:
    """The network as it was read, for single windows; numpy does the preprocessing instead of nodes of the graph.

    `quantizes` says whether the network rounds its activations. Such a network runs as it is written: ONNX Runtime
    would replace its layers by layers of integers, which round differently.
    """

    def __init__(self, classifier: Classifier, preprocessing: Preprocessing | None, scratch: Path) -> None:
        model = classifier.original
        self.quantizes = any(node.op_type == "QuantizeLinear" for node in model.graph)
        self._run = _runner(model, scratch, optimise=not self.quantizes)
        self._image, self._layout = classifier.image, classifier.layout
        self._preprocessing = preprocessing or IDENTITY

    def __call__(self, pixels: Pixels) -> NetworkOutput:
        """Score one window (height, width, channels); returns a grid of one cell."""
        return self._scored(graph_input(self._image, pixels, self._layout, self._preprocessing))

    def rounding(self, pixels: Pixels) -> list[float]:
        """Return how far each grid of a window changes if the numbers that the network gets change by ROUNDING.

        A network that takes integers does not show it.
        """
        given = graph_input(self._image, pixels, self._layout, self._preprocessing)
        changed = {
            name: np.multiply(value, 1 + ROUNDING, dtype=value.dtype)
            for name, value in given.items()
            if value.dtype.kind == "f"
        }
        pairs = zip(self._scored(given).grids, self._scored(given | changed).grids, strict=True)
        return [float(np.abs(one - other).max()) for one, other in pairs]

    def _scored(self, inputs: dict[str, NDArray[np.generic]]) -> NetworkOutput:
        return NetworkOutput.of([array.reshape(1, 1, -1) for array in self._run(inputs)])


class ConvertedNetwork:
    """The network as it will be served, for images of any size.

    `stride` holds the pixels between windows, for a network of mode shared; None for other networks.
    """

    def __init__(self, model: ir.Model, layout: str, folder: Path, stride: tuple[int, int] | None = None) -> None:
        scores = model.graph.outputs[0]
        has_logits = stride is None or scores.producer() is final_activation(scores)
        self._run = _runner(model, folder, has_logits=has_logits)
        self._image, self._layout = model.graph.inputs[0], layout
        self._stride = {} if stride is None else {STRIDE: np.array(stride, np.int64)}

    def __call__(self, pixels: Pixels) -> NetworkOutput:
        """Score an image (height, width, channels)."""
        outputs = self._run(graph_input(self._image, pixels, self._layout) | self._stride)
        grids = (array[0].reshape(array.shape[1], *(array.shape[2:] or (1, 1))) for array in outputs)
        return NetworkOutput.of([np.moveaxis(grid, 0, -1) for grid in grids])


class CropsNetwork:
    """A network of single windows, for images of any size: one window after the other, at the strides of `geometry`."""

    def __init__(self, network: ConvertedNetwork, geometry: Geometry2D, window: tuple[int, int]) -> None:
        self._network, self._geometry, self._window = network, geometry, window

    def __call__(self, pixels: Pixels) -> NetworkOutput:
        """Score an image (height, width, channels)."""
        windows = np.lib.stride_tricks.sliding_window_view(pixels, self._window, (0, 1))
        strides = self._geometry.vertical.stride, self._geometry.horizontal.stride
        grid = np.moveaxis(windows[:: strides[0], :: strides[1]], 2, -1)
        cells = [[self._network(np.ascontiguousarray(crop)).grids for crop in row] for row in grid]
        return NetworkOutput.of(
            [
                np.concatenate([np.concatenate([cell[part] for cell in row], 1) for row in cells])
                for part in range(len(cells[0][0]))
            ]
        )


def graph_input(
    image: ir.Value, pixels: Pixels, layout: str, preprocessing: Preprocessing = IDENTITY
) -> dict[str, NDArray[np.generic]]:
    """Return the input of a graph for one image (height, width, channels), repeated if the batch size is fixed."""
    assert image.shape is not None  # noqa: S101 (readers check it)
    is_prepared = image.dtype in (ir.DataType.UINT8, ir.DataType.UINT16)
    batch = pixels[None] if is_prepared else preprocessing.apply(pixels[None])
    laid_out = batch if layout == "NHWC" else np.ascontiguousarray(np.moveaxis(batch, -1, 1))
    count = image.shape[0]
    return {str(image.name): np.repeat(laid_out, count if isinstance(count, int) else 1, axis=0)}


def _runner(model: ir.Model, scratch: Path, *, has_logits: bool = True, optimise: bool = True) -> Runner:
    """Return a function from inputs to the scores, the logits and the further outputs for the first image of a batch.

    The logits are the input of the activation that makes the scores; without one, or without `has_logits`, they are the
    scores.
    """
    outputs = list(model.graph.outputs)
    activation = final_activation(outputs[0]) if has_logits else None
    logits = activation.inputs[0] if activation else None
    wanted = [outputs[0], logits or outputs[0], *outputs[1:]]
    different = list(dict.fromkeys(wanted))
    model.graph.outputs[:] = different
    try:
        loaded = session(model, scratch, optimise=optimise)
    finally:
        model.graph.outputs[:] = outputs

    def run(inputs: dict[str, NDArray[np.generic]]) -> list[NDArray[np.float32]]:
        arrays = dict(zip(different, _run(loaded, inputs), strict=True))
        return [arrays[value] for value in wanted]

    return run


def _run(session: ort.InferenceSession, inputs: dict[str, NDArray[np.generic]]) -> list[NDArray[np.float32]]:
    """Return the outputs for the first image of a batch, which is the first input."""
    batch = next(iter(inputs.values()))
    try:
        outputs: list[NDArray[np.float32]] = session.run(None, inputs)
    except Exception as error:  # ONNX Runtime raises errors of its own classes
        raise VerificationError(f"verification: the network does not run on {batch.shape}: {one_line(error)}") from None
    return [array[: len(array) // len(batch)] for array in outputs]
