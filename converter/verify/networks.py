"""The two networks of a comparison as functions from pixels to scores."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray

from converter.errors import VerificationError
from converter.graph.dense import ending_activation
from converter.preprocessing import Preprocessing
from converter.runtime import one_line, session
from converter.sources.classifier import Classifier

IDENTITY = Preprocessing()


@dataclass(frozen=True)
class Scored:
    """What a network says of an image: (rows, cols, classes) float32 each.

    `evidence` is what goes into the softmax or sigmoid at the network's end, if there is one: two networks that are
    sure of the same class give the same probabilities, however much they differ before.
    """

    scores: NDArray[np.float32]
    evidence: NDArray[np.float32]


class SourceNetwork:
    """The network as it came, one window at a time, its pixels prepared by numpy instead of inside the graph."""

    def __init__(self, classifier: Classifier, output: int, preprocessing: Preprocessing | None, scratch: Path) -> None:
        model = classifier.original
        self._session = _with_evidence(model, model.graph.outputs[output], scratch)
        self._preprocessing = preprocessing or IDENTITY
        self._layout = classifier.layout

    def __call__(self, pixels: NDArray[np.uint8]) -> Scored:
        """Score one window (height, width, channels): a grid of one cell."""
        batch = self._session.get_inputs()[0].shape[0]
        image = _laid_out(self._preprocessing.apply(pixels[None]), self._layout)
        repeated = np.repeat(image, batch if isinstance(batch, int) else 1, axis=0)
        outputs = _run(self._session, repeated)
        return Scored(*(array.reshape(len(repeated), 1, 1, -1)[0] for array in (outputs[0], outputs[-1])))


class ConvertedNetwork:
    """The network as it will be served, on an image of any size."""

    def __init__(self, model: ir.Model, layout: str, scratch: Path) -> None:
        self._session = _with_evidence(model, model.graph.outputs[0], scratch)
        self._dtype = model.graph.inputs[0].dtype
        self._layout = layout

    def __call__(self, pixels: NDArray[np.uint8]) -> Scored:
        """Score an image (height, width, channels)."""
        uint8 = self._dtype == ir.DataType.UINT8
        outputs = _run(self._session, pixels[None] if uint8 else _laid_out(IDENTITY.apply(pixels[None]), self._layout))
        return Scored(*(np.moveaxis(array[0], 0, -1) for array in (outputs[0], outputs[-1])))


def _laid_out(image: NDArray[np.float32], layout: str) -> NDArray[np.float32]:
    """An image (N, height, width, channels) in a layout."""
    return image if layout == "NHWC" else np.ascontiguousarray(np.moveaxis(image, -1, 1))


def _with_evidence(model: ir.Model, scores: ir.Value, scratch: Path) -> ort.InferenceSession:
    """A session whose outputs are the scores and, if an activation makes them, what goes into it."""
    activation, outputs = ending_activation(scores), list(model.graph.outputs)
    evidence = activation.inputs[0] if activation else None
    model.graph.outputs[:] = [scores, evidence] if evidence is not None else [scores]
    try:
        return session(model, scratch)
    finally:
        model.graph.outputs[:] = outputs


def _run(session: ort.InferenceSession, feed: NDArray[np.generic]) -> list[NDArray[np.float32]]:
    try:
        outputs: list[NDArray[np.float32]] = session.run(None, {session.get_inputs()[0].name: feed})
    except Exception as error:  # ONNX Runtime raises its own kinds
        raise VerificationError(f"verification: the network does not run on {feed.shape}: {one_line(error)}") from None
    return outputs
