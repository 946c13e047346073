"""The gRPC client.

with Client("127.0.0.1:8500") as client:
    answer = client.score("page.png", model="digits", grid=True)
    print(answer.top[0].label, answer.grid.shape)
"""

import time
from collections.abc import Callable, Iterable, Iterator
from functools import cache, partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import grpc
from google.protobuf.message import Message

from fullconv.answer import Answer, Scores
from fullconv.errors import ImageError, ScoringError
from fullconv.images import Image, Pixels, extent, megapixels_of, open_array, readable
from fullconv.options import Options
from fullconv.protos import scoring_pb2, scoring_pb2_grpc
from fullconv.remote.connection import Security
from fullconv.remote.large import LargeRun, Parts, Watch, summary_missing, unwatched
from fullconv.remote.outstanding import Make, Outstanding
from fullconv.remote.requests import identified, large_image, large_source, model_request, score_request, with_image
from fullconv.remote.servers import RETRIES, Servers

LARGE_MEGAPIXELS = 64
"""What the command sends in parts, so that it can say how far it is."""

Answered = TypeVar("Answered")


class Client:
    """A connection to one or more `fullconv-serve`; safe to share between threads."""

    def __init__(
        self, server: str, *, timeout: float | None = None, retries: int = RETRIES, security: Security | None = None
    ) -> None:
        """Connect to HOST:PORT, or to several with commas between, which are asked in turn.

        A name with several addresses is as many servers. `timeout` is the seconds that a call may take, tries and waits
        together, None: for ever; `retries` says how often a call is made again where a server is busy or gone.

        Raises RequestError if that is no address. Connecting itself waits for the first call.
        """
        self._servers = Servers(server, security or Security(), timeout=timeout, retries=retries)
        self._described = cache(self.model)

    def score(
        self, image: Image, *, model: str, version: str = "", timeout: float | None = None, **options: Unpack[Options]
    ) -> Answer:
        """Score one image with a model; an empty version is the highest.

        Raises ImageError, RequestError or UnavailableError; all are ScoringError.
        """
        return Answer(self._score(with_image(score_request(model, version, options), image), timeout))

    def score_large(
        self,
        image: str | Path | Pixels,
        *,
        model: str,
        version: str = "",
        timeout: float | None = None,
        progress: Watch = unwatched,
        **options: Unpack[Options],
    ) -> LargeRun:
        """Begin to score an image however large: a file, or rows of pixels, sent part by part as the server takes them.

        Arrays may be mapped from a file, or Zarr's; the path of a .npy file or of a Zarr array stands for its pixels.
        The grid's rows come as they are done. `progress` is told what goes on, "sending" or "scoring", how much of it
        is done, and how much there is. Raises like `score`, and so does what it returns. Once it has begun, a server
        that goes away is an UnavailableError: begin again.
        """
        request = score_request(model, version, options)
        source, name = large_source(image)
        return self._start_large(source, request, progress, name=name, timeout=timeout)

    def score_many(
        self,
        images: Iterable[tuple[str, Image]],
        *,
        model: str,
        version: str = "",
        timeout: float | None = None,
        **options: Unpack[Options],
    ) -> Iterator[tuple[str, Answer | ScoringError]]:
        """Score images, each with an id of yours; yields ids with answers or errors, as they finish.

        Images are taken as the server has room for them, and those without an answer are sent to another server where
        one goes away. Raises UnavailableError where none is left.
        """
        request = score_request(model, version, options)
        items = ((name, partial(with_image, request, image)) for name, image in identified(images))
        for name, result in self._many(items, timeout):
            yield name, Answer(result) if isinstance(result, scoring_pb2.ScoreResponse) else result

    def models(self) -> list[tuple[str, str]]:
        """Every (name, version) that the server has."""
        found = self._call("ListModels", scoring_pb2.ListModelsRequest(), None)
        return [(entry.name, entry.version) for entry in found.models]

    def model(self, name: str, version: str = "") -> scoring_pb2.GetModelResponse:
        """Describe a model: geometry, labels, parity, the server's limits; raises RequestError or UnavailableError."""
        request = model_request(name, version)
        response: scoring_pb2.GetModelResponse = self._call("GetModel", request, None)
        return response

    def start(self, image: Path, request: scoring_pb2.ScoreRequest, watch: Watch = unwatched) -> "RemoteRun | LargeRun":
        """Score an image file, as `LocalScorer.start` does; in parts if it is large, or an array to be read once."""
        pixels = open_array(image)
        in_parts = request.options.plan_only if pixels is None else _passes_once(request.options)
        if in_parts or self._is_large(image, request, pixels):
            return self._start_large(image if pixels is None else pixels, request, watch, name=readable(image.name))
        return RemoteRun(self._score(with_image(request, image), None))

    def many(
        self, images: list[Path], request: Callable[[Path], scoring_pb2.ScoreRequest]
    ) -> Iterator[tuple[int, scoring_pb2.ScoreResponse | ScoringError]]:
        """Score image files in one call: (position, answer or error), as they finish."""

        def asked(image: Path) -> scoring_pb2.ScoreRequest:
            return with_image(request(image), image)

        items = ((str(position), partial(asked, image)) for position, image in enumerate(images))
        return ((int(name), result) for name, result in self._many(items, None))

    def fits(self, image: Path, request: scoring_pb2.ScoreRequest) -> bool:
        """Whether a file can go in one message, and is not so large that its progress should be seen."""
        try:
            return open_array(image) is None and not self._is_large(image, request)
        except ImageError:
            return False  # whoever scores it says why it cannot be

    def close(self) -> None:
        """Close the connection."""
        for channel in self._servers.close():
            channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _is_large(self, image: Path, request: scoring_pb2.ScoreRequest, pixels: Pixels | None = None) -> bool:
        model, options = self._described(request.model, request.version), request.options
        if pixels is None and not image.is_file():
            return False  # a pipe, which can be read once only; or nothing, as whoever reads it says
        try:
            size, megapixels = (image.stat().st_size, megapixels_of(image)) if pixels is None else extent(pixels)
        except OSError:
            return False
        megapixels *= max([1.0, *(scale.factor for scale in options.scales)]) ** 2
        stride = model.spec.vertical.stride * model.spec.horizontal.stride
        cells = megapixels * 1e6 / (options.stride**2 or stride) if options.grid else 0
        answer = 4 * cells * (len(options.classes) or model.spec.output.classes)
        return max(size, answer) > model.limits.message_bytes / 2 or megapixels > LARGE_MEGAPIXELS

    def _start_large(
        self,
        image: Path | Pixels,
        request: scoring_pb2.ScoreRequest,
        watch: Watch = unwatched,
        *,
        name: str = "",
        timeout: float | None = None,
    ) -> LargeRun:
        start = large_image(request, image, name)

        def begin(stub: scoring_pb2_grpc.ScoringStub, seconds: float | None) -> LargeRun:
            parts = Parts(start, image, watch)
            call = stub.ScoreLarge(iter(parts), timeout=seconds, metadata=self._servers.metadata)
            try:
                first = next(call, None)
            except grpc.RpcError:
                if parts.error is not None:
                    raise parts.error from None
                raise
            if first is None:
                raise summary_missing()
            return LargeRun(call, first, parts, self._servers.error)

        return self._tried(begin, timeout)

    def _many(
        self, items: Iterable[tuple[str, Make]], timeout: float | None
    ) -> Iterator[tuple[str, scoring_pb2.ScoreResponse | ScoringError]]:
        """Send requests as they are made; what cannot be made is an error of its own, other exceptions are raised."""
        outstanding, retries = Outstanding(items), self._servers.retries(timeout)
        while True:
            call = self._servers.stub().ScoreMany(
                outstanding.requests(), timeout=retries.remaining, metadata=self._servers.metadata
            )
            try:
                for part in call:
                    retries.renew()
                    self._servers.found()
                    while outstanding.unreadable:
                        yield outstanding.unreadable.popleft()
                    yield outstanding.answered(part.id), self._servers.result(part)
                outstanding.check_complete()
                break
            except grpc.RpcError as error:
                if outstanding.raised is not None:
                    raise outstanding.raised from None
                time.sleep(self._servers.seconds_after(error, retries))
            finally:
                call.cancel()
        yield from outstanding.unreadable

    def _score(self, request: scoring_pb2.ScoreRequest, timeout: float | None) -> scoring_pb2.ScoreResponse:
        response: scoring_pb2.ScoreResponse = self._call("Score", request, timeout)
        return response

    def _call(self, method: str, request: Message, timeout: float | None) -> Any:  # noqa: ANN401 (as the method says)
        def ask(stub: scoring_pb2_grpc.ScoringStub, seconds: float | None) -> Any:  # noqa: ANN401
            return getattr(stub, method)(request, timeout=seconds, metadata=self._servers.metadata)

        return self._tried(ask, timeout)

    def _tried(
        self, ask: Callable[[scoring_pb2_grpc.ScoringStub, float | None], Answered], timeout: float | None
    ) -> Answered:
        """Ask one server after the other, until there is an answer or the retries are over."""
        retries = self._servers.retries(timeout)
        while True:
            try:
                answered = ask(self._servers.stub(), retries.remaining)
            except grpc.RpcError as error:
                time.sleep(self._servers.seconds_after(error, retries))
            else:
                self._servers.found()
                return answered


def _passes_once(options: scoring_pb2.ScoreOptions) -> bool:
    """Whether an image need only be read once, from top to bottom, as rows of pixels in parts are."""
    return len(options.scales) <= 1 and not options.mask_otsu


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
