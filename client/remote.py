"""The gRPC client.

with Client("127.0.0.1:8500") as client:
    answer = client.score("page.png", model="digits", grid=True)
    print(answer.top[0].label, answer.grid.shape)
"""

import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import grpc
import numpy as np
from google.rpc.error_details_pb2 import RetryInfo
from grpc_status import rpc_status
from numpy.typing import NDArray

from client.answer import AVERAGES, Answer
from client.errors import ImageError, RequestError, UnavailableError
from protos import scoring_pb2, scoring_pb2_grpc

Image = str | Path | bytes | NDArray[np.uint8] | NDArray[np.uint16]
"""A file's path, an encoded file, or pixels (height, width) or (height, width, channels): white is 255 or 65535."""

ADDRESS = re.compile(r"(\[[0-9a-fA-F:]+\]|[^:\[\]/]+):[0-9]{1,5}")
OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
"""The server's limits count."""
LOOPBACK = ("localhost:", "127.", "[::1]:")
"""Servers on this machine, which no HTTP proxy can reach."""
TRIES = 5
"""How often a busy server is asked, each time as much later as it says."""


class Client:
    """A connection to `fullconv-serve`; safe to share between threads."""

    def __init__(self, server: str, *, timeout: float | None = None) -> None:
        """Connect to HOST:PORT, in the clear; `timeout` is the seconds that any call may take, None: for ever.

        Raises RequestError if that is no address. Connecting itself waits for the first call.
        """
        if not ADDRESS.fullmatch(server) or int(server.rpartition(":")[2]) > 65535:
            raise RequestError(f"server: expected HOST:PORT, got {server!r}")
        self._server = server
        self._timeout = timeout
        local = [("grpc.enable_http_proxy", 0)] if server.startswith(LOOPBACK) else []
        self._channel = grpc.insecure_channel(server, options=OPTIONS + local)
        self._stub = scoring_pb2_grpc.ScoringStub(self._channel)

    def score(
        self,
        image: Image,
        *,
        model: str,
        version: str = "",
        average: Literal["scores", "probabilities"] = "scores",
        top: int = 5,
        classes: Sequence[str] = (),
        grid: bool = False,
    ) -> Answer:
        """Score one image with a model; an empty version is the highest, no classes are all.

        A server that is too busy is asked again, when it says. Raises ImageError, RequestError or UnavailableError; all
        are ScoringError.
        """
        of = {name: value for value, name in AVERAGES.items()}[average]
        chosen = [classes] if isinstance(classes, str) else list(classes)
        options = scoring_pb2.ScoreOptions(average=of, top=top, classes=chosen, grid=grid)
        request = scoring_pb2.ScoreRequest(model=model, version=version, image=_image(image), options=options)
        return Answer(self._score(request))

    def models(self) -> list[tuple[str, str]]:
        """Every (name, version) that the server has."""
        with self._translated():
            found = self._stub.ListModels(scoring_pb2.ListModelsRequest(), timeout=self._timeout)
        return [(entry.name, entry.version) for entry in found.models]

    def model(self, name: str, version: str = "") -> scoring_pb2.GetModelResponse:
        """Describe a model: geometry, labels, parity, the server's limits; raises RequestError or UnavailableError."""
        request = scoring_pb2.GetModelRequest(model=name, version=version)
        with self._translated():
            response: scoring_pb2.GetModelResponse = self._stub.GetModel(request, timeout=self._timeout)
        return response

    def start(self, image: Path, request: scoring_pb2.ScoreRequest) -> "RemoteRun":
        """Score an image file, as `LocalScorer.start` does."""
        whole = scoring_pb2.ScoreRequest()
        whole.CopyFrom(request)
        whole.image.CopyFrom(_image(image))
        return RemoteRun(self._score(whole))

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _score(self, request: scoring_pb2.ScoreRequest) -> scoring_pb2.ScoreResponse:
        with self._translated():
            for _ in range(TRIES - 1):
                try:
                    return self._answer(request)
                except grpc.RpcError as error:
                    time.sleep(_retry_delay(error))
            return self._answer(request)

    def _answer(self, request: scoring_pb2.ScoreRequest) -> scoring_pb2.ScoreResponse:
        response: scoring_pb2.ScoreResponse = self._stub.Score(request, timeout=self._timeout)
        return response

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except grpc.RpcError as error:
            raise _error(error, self._server) from None


class RemoteRun:
    """A scored image, in the form of `LocalRun`: the grid comes as one band, if it was asked for."""

    def __init__(self, response: scoring_pb2.ScoreResponse) -> None:
        self.response = response

    def bands(self) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """(0, scores (rows, cols, classes) float32)."""
        grid = Answer(self.response).grid
        if grid is not None:
            yield 0, grid

    def answer(self) -> scoring_pb2.ScoreResponse:
        """The averages."""
        return self.response


def _image(image: Image) -> scoring_pb2.Image:
    if isinstance(image, bytes):
        return scoring_pb2.Image(encoded=image)
    if isinstance(image, np.ndarray):
        return scoring_pb2.Image(raw=_raw(image))
    path = Path(image)
    try:
        return scoring_pb2.Image(name=readable(path.name), encoded=path.read_bytes())
    except OSError as error:
        raise ImageError(f"{path}: cannot be read: {error.strerror}") from None


def readable(name: str) -> str:
    """A file's name as text: bytes that are not UTF-8, which a name may hold, become question marks."""
    return name.encode("utf-8", "replace").decode("utf-8")


def _raw(pixels: NDArray[np.uint8] | NDArray[np.uint16]) -> scoring_pb2.RawImage:
    if pixels.dtype.kind != "u" or pixels.dtype.itemsize > 2 or pixels.ndim not in (2, 3):
        raise ImageError(
            f"image: expected (height, width[, channels]) of uint8 or uint16, got {pixels.shape} of {pixels.dtype}"
        )
    height, width, channels = (*pixels.shape, 1)[:3]
    little = np.ascontiguousarray(pixels, pixels.dtype.newbyteorder("<"))
    return scoring_pb2.RawImage(
        height=height, width=width, channels=channels, dtype=pixels.dtype.name, data=little.tobytes()
    )


def _retry_delay(error: grpc.RpcError) -> float:
    """Seconds after which a busy server wants to be asked again; raises any other error."""
    status, retry = rpc_status.from_call(error), RetryInfo()
    if status is None or not any(detail.Unpack(retry) for detail in status.details):
        raise error
    return float(retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9)


def _error(error: grpc.RpcError, server: str) -> ImageError | RequestError | UnavailableError:
    """The server's status as an error; its message is for people already."""
    code, details = error.code(), error.details() or ""
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        return ImageError(details)
    if code in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.FAILED_PRECONDITION):
        return RequestError(details)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and "message larger" in details:
        return ImageError(f"image: larger than one message to {server} may be: {details}; scale or cut the image")
    return UnavailableError(f"{server}: {code.name}: {details}")
