"""The two networks of a comparison as functions from pixels to scores."""

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from converter.errors import VerificationError
from converter.preprocessing import Preprocessing
from converter.runtime import one_line
from converter.verify.parity import Score

IDENTITY = Preprocessing()


def source_network(session: ort.InferenceSession, output: int, preprocessing: Preprocessing | None) -> Score:
    """The network as it came, one window at a time, its pixels prepared by numpy instead of inside the graph."""
    image = session.get_inputs()[0]
    batch = image.shape[0] if isinstance(image.shape[0], int) else 1
    name = session.get_outputs()[output].name

    def score(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        prepared = np.repeat((preprocessing or IDENTITY).apply(pixels[None]), batch, axis=0)
        return _run(session, name, image.name, prepared).reshape(batch, -1)[:1, None]

    return score


def converted_network(session: ort.InferenceSession, preprocessing: Preprocessing | None) -> Score:
    """The network as it will be served, on an image of any size."""
    image, output = session.get_inputs()[0].name, session.get_outputs()[0].name

    def score(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        feed = pixels[None] if preprocessing else IDENTITY.apply(pixels[None])
        return np.moveaxis(_run(session, output, image, feed)[0], 0, -1)

    return score


def _run(session: ort.InferenceSession, output: str, image: str, feed: NDArray[np.generic]) -> NDArray[np.float32]:
    try:
        scores: NDArray[np.float32] = session.run([output], {image: feed})[0]
    except Exception as error:  # ONNX Runtime raises its own kinds
        raise VerificationError(f"verification: the network does not run on {feed.shape}: {one_line(error)}") from None
    return scores
