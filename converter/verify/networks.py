"""The networks of a comparison as functions from pixels to scores."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

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


@dataclass(frozen=True)
class NetworkOutput:
    """A network's output for an image, (rows, cols, classes) float32 each.

    `logits` are the input of the softmax or sigmoid that ends the network; without such an activation they are the
    scores. Differences are measured on logits: two networks whose softmax is saturated give the same probabilities even
    if their logits differ much.
    """

    scores: NDArray[np.float32]
    logits: NDArray[np.float32]


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
        self._session = _session_with_logits(model, model.graph.outputs[0], scratch, optimise=not self.quantizes)
        self._image, self._layout = classifier.image, classifier.layout
        self._preprocessing = preprocessing or IDENTITY

    def __call__(self, pixels: Pixels) -> NetworkOutput:
        """Score one window (height, width, channels); returns a grid of one cell."""
        outputs = _run(self._session, graph_input(self._image, pixels, self._layout, self._preprocessing))
        return NetworkOutput(*(array.reshape(1, 1, -1) for array in (outputs[0], outputs[-1])))


class ConvertedNetwork:
    """The network as it will be served, for images of any size.

    `stride` holds the pixels between windows, for a network of mode shared; None for other networks.
    """

    def __init__(self, model: ir.Model, layout: str, folder: Path, stride: tuple[int, int] | None = None) -> None:
        scores = model.graph.outputs[0]
        has_logits = stride is None or scores.producer() is final_activation(scores)
        self._session = _session_with_logits(model, scores, folder) if has_logits else session(model, folder)
        self._image, self._layout = model.graph.inputs[0], layout
        self._stride = {} if stride is None else {STRIDE: np.array(stride, np.int64)}

    def __call__(self, pixels: Pixels) -> NetworkOutput:
        """Score an image (height, width, channels)."""
        outputs = _run(self._session, graph_input(self._image, pixels, self._layout) | self._stride)
        grids = (array[0].reshape(array.shape[1], *(array.shape[2:] or (1, 1))) for array in (outputs[0], outputs[-1]))
        return NetworkOutput(*(np.moveaxis(grid, 0, -1) for grid in grids))


class CropsNetwork:
    """A network of single windows, for images of any size: one window after the other, at the strides of `geometry`."""

    def __init__(self, network: ConvertedNetwork, geometry: Geometry2D, window: tuple[int, int]) -> None:
        self._network, self._geometry, self._window = network, geometry, window

    def __call__(self, pixels: Pixels) -> NetworkOutput:
        """Score an image (height, width, channels)."""
        windows = np.lib.stride_tricks.sliding_window_view(pixels, self._window, (0, 1))
        strides = self._geometry.vertical.stride, self._geometry.horizontal.stride
        grid = np.moveaxis(windows[:: strides[0], :: strides[1]], 2, -1)
        cells = [[self._network(np.ascontiguousarray(crop)) for crop in row] for row in grid]
        scores, logits = (
            np.concatenate([np.concatenate([getattr(cell, part) for cell in row], 1) for row in cells])
            for part in ("scores", "logits")
        )
        return NetworkOutput(scores, logits)


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


def _session_with_logits(
    model: ir.Model, scores: ir.Value, scratch: Path, *, optimise: bool = True
) -> ort.InferenceSession:
    """Return a session whose outputs are the scores and, if an activation makes them, the logits."""
    activation, outputs = final_activation(scores), list(model.graph.outputs)
    logits = activation.inputs[0] if activation else None
    model.graph.outputs[:] = [scores, logits] if logits is not None else [scores]
    try:
        return session(model, scratch, optimise=optimise)
    finally:
        model.graph.outputs[:] = outputs


def _run(session: ort.InferenceSession, inputs: dict[str, NDArray[np.generic]]) -> list[NDArray[np.float32]]:
    """Return the outputs for the first image of a batch, which is the first input."""
    batch = next(iter(inputs.values()))
    try:
        outputs: list[NDArray[np.float32]] = session.run(None, inputs)
    except Exception as error:  # ONNX Runtime raises errors of its own classes
        raise VerificationError(f"verification: the network does not run on {batch.shape}: {one_line(error)}") from None
    return [array[: len(array) // len(batch)] for array in outputs]
