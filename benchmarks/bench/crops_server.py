"""The original classifier behind LitServe: a program that `served_crops` starts.

    python -m bench.crops_server ORIGINAL.onnx PORT CHANNELS WINDOW FACTORS OFFSETS

A request is a form whose field "windows" is a file of uint8 pixels (windows, channels, window, window); the answer is
their scores, float32 (windows, classes), in bytes. FACTORS and OFFSETS are the preprocessing of each channel, separated
by commas.
"""

import sys
from typing import Any

import litserve
import numpy as np
import onnxruntime as ort
from fastapi import Request, Response
from numpy.typing import NDArray


class Crops(litserve.LitAPI):
    """Scores windows by ONNX Runtime, with its default options."""

    def __init__(self, original: str, shape: tuple[int, int, int], affine: NDArray[np.float32]) -> None:
        super().__init__()
        self.original, self.shape, self.affine = original, shape, affine

    def setup(self, device: str) -> None:  # noqa: ARG002 (of LitServe)
        """Load the network, in the process that scores."""
        self.session = ort.InferenceSession(self.original, providers=["CPUExecutionProvider"])
        self.input = self.session.get_inputs()[0].name

    def decode_request(self, request: Request) -> NDArray[np.float32]:
        """Return the windows of a request as the network takes them; the request is a form here."""
        data: bytes = request["windows"].file.read()
        factor, offset = self.affine[:, :, None, None]
        pixels = np.frombuffer(data, np.uint8).reshape(-1, *self.shape).astype(np.float32)
        prepared: NDArray[np.float32] = pixels * factor + offset
        return prepared

    def predict(self, x: NDArray[np.float32], **_: Any) -> NDArray[np.float32]:
        """Return the scores of windows."""
        scores: NDArray[np.float32] = self.session.run(None, {self.input: x})[0]
        return scores

    def encode_response(self, output: NDArray[np.float32], **_: Any) -> Response:
        """Return the answer to a request."""
        return Response(output.tobytes(), media_type="application/octet-stream")


def main() -> None:
    """Serve until this process is killed."""
    original, port, channels, window, *affine = sys.argv[1:]
    numbers = np.array([[float(number) for number in part.split(",")] for part in affine], np.float32)
    api = Crops(original, (int(channels), int(window), int(window)), numbers)
    server = litserve.LitServer(api, accelerator="cpu", timeout=False, fast_queue=True)
    server.run(host="127.0.0.1", port=int(port), generate_client_file=False, log_level="warning")


if __name__ == "__main__":
    main()
