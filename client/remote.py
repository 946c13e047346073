"""The gRPC client.

with Client("127.0.0.1:8500") as client:
    answer = client.score("page.png", model="digits", grid=True)
    print(answer.top[0].label, answer.grid.shape)
"""

import re
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar, Unpack

import grpc
import numpy as np
from google.rpc.error_details_pb2 import RetryInfo
from grpc_status import rpc_status

from client.answer import Answer, Scores
from client.errors import ImageError, RequestError, ScoringError, UnavailableError
from client.images import Image, Pixels, check_pixels, megapixels_of, message_of, open_array, readable
from client.large import LargeRun, Parts, Watch, unwatched
from client.options import Options, options_message
from protos import scoring_pb2, scoring_pb2_grpc

ADDRESS = re.compile(r"(\[[0-9a-fA-F:]+\]|[^:\[\]/]+):[0-9]{1,5}")
OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
"""The server's limits count."""
LOOPBACK = ("localhost:", "127.", "[::1]:")
"""Servers on this machine, which no HTTP proxy can reach."""
TRIES = 5
"""How often a busy server is asked, each time as much later as it says."""
LARGE_MEGAPIXELS = 64
"""What the command sends in parts, so that it can say how far it is."""
CODES = {code.value[0]: code for code in grpc.StatusCode}

Answered = TypeVar("Answered")


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
        self._described = cache(self.model)

    def score(self, image: Image, *, model: str, version: str = "", **options: Unpack[Options]) -> Answer:
        """Score one image with a model; an empty version is the highest.

        A server that is too busy is asked again, when it says. Raises ImageError, RequestError or UnavailableError; all
        are ScoringError.
        """
        request = _request(model, version, options_message(options))
        return Answer(self._score(_with_image(request, image)))

    def score_large(
        self, image: str | Path | Pixels, *, model: str, version: str = "", **options: Unpack[Options]
    ) -> LargeRun:
        """Begin to score an image however large: a file, or rows of pixels, sent part by part as the server takes them.

        Arrays may be mapped from a file, or Zarr's. The grid's rows come as they are done. Raises like `score`, and so
        does what it returns.
        """
        request = _request(model, version, options_message(options))
        return self._start_large(Path(image) if isinstance(image, str) else image, request)

    def score_many(
        self, images: Iterable[tuple[str, Image]], *, model: str, version: str = "", **options: Unpack[Options]
    ) -> Iterator[tuple[str, Answer | ScoringError]]:
        """Score images, each with an id of yours; yields ids with answers or errors, as they finish.

        Images are taken as the server has room for them. Raises UnavailableError where the server goes away.
        """
        request = _request(model, version, options_message(options))
        items = ((name, partial(_with_image, request, image)) for name, image in images)
        for name, result in self._many(items):
            yield name, Answer(result) if isinstance(result, scoring_pb2.ScoreResponse) else result

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

    def start(self, image: Path, request: scoring_pb2.ScoreRequest, watch: Watch = unwatched) -> "RemoteRun | LargeRun":
        """Score an image file, as `LocalScorer.start` does; a large one in parts."""
        pixels = open_array(image)
        if pixels is not None or request.options.plan_only or self._is_large(image, request):
            return self._start_large(image if pixels is None else pixels, request, watch, name=readable(image.name))
        return RemoteRun(self._score(_with_image(request, image)))

    def many(
        self, images: list[Path], request: Callable[[Path], scoring_pb2.ScoreRequest]
    ) -> Iterator[tuple[int, scoring_pb2.ScoreResponse | ScoringError]]:
        """Score image files in one call: (position, answer or error), as they finish."""

        def asked(image: Path) -> scoring_pb2.ScoreRequest:
            return _with_image(request(image), image)

        items = ((str(position), partial(asked, image)) for position, image in enumerate(images))
        return ((int(name), result) for name, result in self._many(items))

    def fits(self, image: Path, request: scoring_pb2.ScoreRequest) -> bool:
        """Whether a file can go in one message, and is not so large that its progress should be seen."""
        try:
            return open_array(image) is None and not self._is_large(image, request)
        except ImageError:
            return False  # whoever scores it says why it cannot be

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _is_large(self, image: Path, request: scoring_pb2.ScoreRequest) -> bool:
        model, options = self._described(request.model, request.version), request.options
        if not image.is_file():
            return False  # a pipe, which can be read once only; or nothing, as whoever reads it says
        try:
            size, megapixels = image.stat().st_size, megapixels_of(image)
        except OSError:
            return False
        megapixels *= max([1.0, *(scale.factor for scale in options.scales)]) ** 2
        stride = model.spec.vertical.stride * model.spec.horizontal.stride
        cells = megapixels * 1e6 / (options.stride**2 or stride) if options.grid else 0
        answer = 4 * cells * (len(options.classes) or model.spec.output.classes)
        return max(size, answer) > model.limits.message_bytes / 2 or megapixels > LARGE_MEGAPIXELS

    def _start_large(
        self, image: Path | Pixels, request: scoring_pb2.ScoreRequest, watch: Watch = unwatched, *, name: str = ""
    ) -> LargeRun:
        start = scoring_pb2.LargeImage(model=request.model, version=request.version, options=request.options)
        start.name = readable(image.name) if isinstance(image, Path) else name
        if not isinstance(image, Path):
            check_pixels(image, name or "image")
            height, width, channels = (*image.shape, 1)[:3]
            start.raw.CopyFrom(
                scoring_pb2.RawImage(height=height, width=width, channels=channels, dtype=np.dtype(image.dtype).name)
            )

        def begin() -> LargeRun:
            parts = Parts(start, image, watch)
            call = self._stub.ScoreLarge(iter(parts), timeout=self._timeout)
            try:
                return LargeRun(call, next(call), parts, self._error)
            except grpc.RpcError:
                if parts.error is not None:
                    raise parts.error from None
                raise

        with self._translated():
            return self._patiently(begin)

    def _many(
        self, items: Iterable[tuple[str, Callable[[], scoring_pb2.ScoreRequest]]]
    ) -> Iterator[tuple[str, scoring_pb2.ScoreResponse | ScoringError]]:
        """Send requests as they are made; what cannot be made is an error of its own, other exceptions are raised."""
        unreadable, raised = deque[tuple[str, ScoringError]](), deque[Exception]()

        def requests() -> Iterator[scoring_pb2.ScoreManyRequest]:
            try:
                for name, make in items:
                    try:
                        yield scoring_pb2.ScoreManyRequest(id=name, request=make())
                    except ScoringError as error:
                        unreadable.append((name, error))
            except Exception as error:
                raised.append(error)
                raise

        call = self._stub.ScoreMany(requests(), timeout=self._timeout)
        try:
            for part in call:
                while unreadable:
                    yield unreadable.popleft()
                if part.WhichOneof("result") == "response":
                    yield part.id, part.response
                else:
                    yield part.id, self._error_of(CODES[part.failure.code], part.failure.message)
        except grpc.RpcError as error:
            raise (raised[0] if raised else self._error(error)) from None
        finally:
            call.cancel()
        yield from unreadable

    def _score(self, request: scoring_pb2.ScoreRequest) -> scoring_pb2.ScoreResponse:
        with self._translated():
            response: scoring_pb2.ScoreResponse = self._patiently(
                lambda: self._stub.Score(request, timeout=self._timeout)
            )
        return response

    def _patiently(self, call: Callable[[], Answered]) -> Answered:
        """Make a call; again, when a busy server says."""
        for _ in range(TRIES - 1):
            try:
                return call()
            except grpc.RpcError as error:
                time.sleep(_retry_delay(error))
        return call()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except grpc.RpcError as error:
            raise self._error(error) from None

    def _error(self, error: grpc.RpcError) -> ScoringError:
        return self._error_of(error.code(), error.details() or "")

    def _error_of(self, code: grpc.StatusCode, details: str) -> ScoringError:
        """A status as an error; the server's message is for people already."""
        if code is grpc.StatusCode.INVALID_ARGUMENT:
            return ImageError(details)
        if code in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.FAILED_PRECONDITION):
            return RequestError(details)
        if code is grpc.StatusCode.RESOURCE_EXHAUSTED and "message larger" in details:
            return ImageError(
                f"image and mask: larger than one message to {self._server} may be: {details}; use score_large, scale "
                "or cut it; masks are small as PNG"
            )
        return UnavailableError(f"{self._server}: {code.name}: {details}")


class RemoteRun:
    """A scored image, in the form of `LocalRun`: the grid comes as one band, if it was asked for."""

    def __init__(self, response: scoring_pb2.ScoreResponse) -> None:
        self.response = response

    def bands(self) -> Iterator[tuple[int, Scores]]:
        """(0, scores (rows, cols, depth))."""
        grid = Answer(self.response).grid
        if grid is not None:
            yield 0, grid

    def answer(self) -> scoring_pb2.ScoreResponse:
        """The averages."""
        return self.response

    def close(self) -> None:
        """Do nothing: it is over."""


def _request(model: str, version: str, options: scoring_pb2.ScoreOptions) -> scoring_pb2.ScoreRequest:
    return scoring_pb2.ScoreRequest(model=model, version=version, options=options)


def _with_image(request: scoring_pb2.ScoreRequest, image: Image) -> scoring_pb2.ScoreRequest:
    """The same request for an image; raises ImageError if it cannot be read."""
    return scoring_pb2.ScoreRequest(
        model=request.model, version=request.version, options=request.options, image=message_of(image)
    )


def _retry_delay(error: grpc.RpcError) -> float:
    """Seconds after which a busy server wants to be asked again; raises any other error."""
    status, retry = rpc_status.from_call(error), RetryInfo()
    if status is None or not any(detail.Unpack(retry) for detail in status.details):
        raise error
    return float(retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9)
