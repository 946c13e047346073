"""The two networks of a comparison as functions from pixels to scores."""

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
from converter.messages import one_line
from converter.preprocessing import Preprocessing
from converter.runtime import session
from converter.sources.classifier import Classifier
from converter.verify.images import Pixels

IDENTITY = Preprocessing()


@dataclass(frozen=True)
class Scored:
    """What a network says of an image: (rows, cols, classes) float32 each.

    `evidence` is what goes into the softmax or sigmoid at the network's end, if there is one: two networks that are
    sure of the same class give the same probabilities, however much they differ before.
    """

    scores: NDArray[np.float32]
    evidence: NDArray[np.float32]


Network = Callable[[Pixels], Scored]
"""Scores an image (height, width, channels)."""


class SourceNetwork:
    """The network as it came, one window at a time, its pixels prepared by numpy instead of inside the graph."""

    def __init__(self, classifier: Classifier, output: int, preprocessing: Preprocessing | None, scratch: Path) -> None:
        model = classifier.original
        self._session = _with_evidence(model, model.graph.outputs[output], scratch)
        self._image, self._layout = classifier.image, classifier.layout
        self._preprocessing = preprocessing or IDENTITY

    def __call__(self, pixels: Pixels) -> Scored:
        """Score one window (height, width, channels): a grid of one cell."""
        outputs = _run(self._session, feed(self._image, pixels, self._layout, self._preprocessing))
        return Scored(*(array.reshape(1, 1, -1) for array in (outputs[0], outputs[-1])))


class ConvertedNetwork:
    """The network as it will be served, on an image of any size."""

    def __init__(self, model: ir.Model, layout: str, folder: Path) -> None:
        self._session = _with_evidence(model, model.graph.outputs[0], folder)
        self._image, self._layout = model.graph.inputs[0], layout

    def __call__(self, pixels: Pixels) -> Scored:
        """Score an image (height, width, channels)."""
        outputs = _run(self._session, feed(self._image, pixels, self._layout))
        grids = (array[0].reshape(array.shape[1], *(array.shape[2:] or (1, 1))) for array in (outputs[0], outputs[-1]))
        return Scored(*(np.moveaxis(grid, 0, -1) for grid in grids))


class CropsNetwork:
    """A network of single windows, on an image of any size: window by window, `geometry`'s strides apart."""

    def __init__(self, network: ConvertedNetwork, geometry: Geometry2D, window: tuple[int, int]) -> None:
        self._network, self._geometry, self._window = network, geometry, window

    def __call__(self, pixels: Pixels) -> Scored:
        """Score an image (height, width, channels)."""
        height, width = self._window
        windows = np.lib.stride_tricks.sliding_window_view(pixels, (height, width), (0, 1))
        grid = np.moveaxis(windows[:: self._geometry.vertical.stride, :: self._geometry.horizontal.stride], 2, -1)
        cells = [[self._network(np.ascontiguousarray(crop)) for crop in row] for row in grid]
        scores, evidence = (
            np.concatenate([np.concatenate([getattr(cell, part) for cell in row], 1) for row in cells])
            for part in ("scores", "evidence")
        )
        return Scored(scores, evidence)


def feed(
    entry: ir.Value, pixels: Pixels, layout: str, preprocessing: Preprocessing = IDENTITY
) -> dict[str, NDArray[np.generic]]:
    """The input of a graph for one image (height, width, channels), repeated where the batch is fixed."""
    assert entry.shape is not None  # noqa: S101 (readers check it)
    as_they_are = entry.dtype in (ir.DataType.UINT8, ir.DataType.UINT16)
    image = pixels[None] if as_they_are else preprocessing.apply(pixels[None])
    laid_out = image if layout == "NHWC" else np.ascontiguousarray(np.moveaxis(image, -1, 1))
    batch = entry.shape[0]
    return {str(entry.name): np.repeat(laid_out, batch if isinstance(batch, int) else 1, axis=0)}


def _with_evidence(model: ir.Model, scores: ir.Value, scratch: Path) -> ort.InferenceSession:
    """A session whose outputs are the scores and, if an activation makes them, what goes into it."""
    activation, outputs = final_activation(scores), list(model.graph.outputs)
    evidence = activation.inputs[0] if activation else None
    model.graph.outputs[:] = [scores, evidence] if evidence is not None else [scores]
    try:
        return session(model, scratch)
    finally:
        model.graph.outputs[:] = outputs


def _run(session: ort.InferenceSession, images: dict[str, NDArray[np.generic]]) -> list[NDArray[np.float32]]:
    """The outputs for the first image of a batch."""
    (batch,) = images.values()
    try:
        outputs: list[NDArray[np.float32]] = session.run(None, images)
    except Exception as error:  # ONNX Runtime raises its own kinds
        raise VerificationError(f"verification: the network does not run on {batch.shape}: {one_line(error)}") from None
    return [array[: len(array) // len(batch)] for array in outputs]
