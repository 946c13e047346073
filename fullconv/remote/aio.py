"""The gRPC client for asyncio: the same calls as `Client`.

async with AsyncClient("127.0.0.1:8500") as client:
    answers = await asyncio.gather(*(client.score(name, model="digits") for name in names))
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import grpc
from google.protobuf.message import Message
from numpy.typing import NDArray

from fullconv.answer import Answer, Scores
from fullconv.errors import ScoringError
from fullconv.images import Image, Pixels
from fullconv.options import Options
from fullconv.protos import scoring_pb2
from fullconv.remote.connection import Security
from fullconv.remote.large import Parts, Rows, Watch, summary_missing, unwatched
from fullconv.remote.outstanding import Outstanding
from fullconv.remote.requests import identified, large_image, large_source, model_request, score_request, with_image
from fullconv.remote.servers import RETRIES, Servers

Answered = TypeVar("Answered")


class AsyncClient:
    """A connection to one or more `fullconv-serve`, of one event loop."""

    def __init__(
        self, server: str, *, timeout: float | None = None, retries: int = RETRIES, security: Security | None = None
    ) -> None:
        """Connect as `Client` does; only where an event loop runs."""
        self._servers = Servers(
            server,
            security or Security(),
            timeout=timeout,
            retries=retries,
            insecure=grpc.aio.insecure_channel,
            secure=grpc.aio.secure_channel,
        )

    async def score(
        self, image: Image, *, model: str, version: str = "", timeout: float | None = None, **options: Unpack[Options]
    ) -> Answer:
        """Score one image with a model; as `Client.score`."""
        request = await asyncio.to_thread(with_image, score_request(model, version, options), image)
        return Answer(await self._call("Score", request, timeout))

    async def score_large(
        self,
        image: str | Path | Pixels,
        *,
        model: str,
        version: str = "",
        timeout: float | None = None,
        progress: Watch = unwatched,
        **options: Unpack[Options],
    ) -> "AsyncLargeRun":
        """Begin to score an image however large; as `Client.score_large`."""
        request = score_request(model, version, options)
        source, name = await asyncio.to_thread(large_source, image)
        start = large_image(request, source, name)

        async def begin(stub: Any, seconds: float | None) -> AsyncLargeRun:  # noqa: ANN401 (generated for both kinds)
            parts = Parts(start, source, progress)
            call = stub.ScoreLarge(timeout=seconds, metadata=self._servers.metadata)
            run = AsyncLargeRun(call, sending(call, iter(parts)), parts, self._servers.error)
            await run.begin()
            return run

        return await self._tried(begin, timeout)

    async def score_many(
        self,
        images: Iterable[tuple[str, Image]],
        *,
        model: str,
        version: str = "",
        timeout: float | None = None,
        **options: Unpack[Options],
    ) -> AsyncIterator[tuple[str, Answer | ScoringError]]:
        """Score images as they are taken from an iterable, in a thread of its own; as `Client.score_many`."""
        request = score_request(model, version, options)
        outstanding = Outstanding((name, partial(with_image, request, image)) for name, image in identified(images))
        retries = self._servers.retries(timeout)
        while True:
            call = self._servers.stub().ScoreMany(timeout=retries.remaining, metadata=self._servers.metadata)
            sender = sending(call, outstanding.requests())
            try:
                async for part in call:
                    retries.renew()
                    self._servers.found()
                    while outstanding.unreadable:
                        yield outstanding.unreadable.popleft()
                    result = self._servers.result(part)
                    answered = Answer(result) if isinstance(result, scoring_pb2.ScoreResponse) else result
                    yield outstanding.answered(part.id), answered
                outstanding.check_complete()
                break
            except (grpc.RpcError, asyncio.CancelledError) as error:
                if outstanding.raised is not None:
                    raise outstanding.raised from None
                if not isinstance(error, grpc.RpcError):
                    raise
                await asyncio.sleep(self._servers.seconds_after(error, retries))
            finally:
                call.cancel()
                sender.cancel()
        for unreadable in outstanding.unreadable:
            yield unreadable

    async def models(self) -> list[tuple[str, str]]:
        """Every (name, version) that the server has."""
        found = await self._call("ListModels", scoring_pb2.ListModelsRequest(), None)
        return [(entry.name, entry.version) for entry in found.models]

    async def model(self, name: str, version: str = "") -> scoring_pb2.GetModelResponse:
        """Describe a model; as `Client.model`."""
        request = model_request(name, version)
        response: scoring_pb2.GetModelResponse = await self._call("GetModel", request, None)
        return response

    async def close(self) -> None:
        """Close the connection."""
        for channel in self._servers.close():
            await channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def _call(self, method: str, request: Message, timeout: float | None) -> Any:  # noqa: ANN401 (as it says)
        async def ask(stub: Any, seconds: float | None) -> Any:  # noqa: ANN401
            return await getattr(stub, method)(request, timeout=seconds, metadata=self._servers.metadata)

        return await self._tried(ask, timeout)

    async def _tried(self, ask: Callable[[Any, float | None], Awaitable[Answered]], timeout: float | None) -> Answered:
        retries = self._servers.retries(timeout)
        while True:
            try:
                answered = await ask(self._servers.stub(), retries.remaining)
            except grpc.RpcError as error:
                await asyncio.sleep(self._servers.seconds_after(error, retries))
            else:
                self._servers.found()
                return answered


class AsyncLargeRun:
    """Take `rows` or `bands`, then `result`; leave it early by closing it, or by leaving its `async with` block."""

    def __init__(
        self,
        call: Any,  # noqa: ANN401 (generated for both kinds)
        sender: asyncio.Task[None],
        parts: Parts,
        error: Callable[[grpc.RpcError], Exception],
    ) -> None:
        self._call, self._sender, self._parts, self._error = call, sender, parts, error
        self._answers = aiter(call)
        self._rows = Rows(parts.watch)

    @property
    def response(self) -> scoring_pb2.ScoreResponse:
        """What is known from the beginning: image, grid, mode and plan."""
        return self._rows.response

    async def begin(self) -> None:
        """Wait for the plan; raises as gRPC does, so that it can be tried again."""
        try:
            first = await anext(self._answers, None)
        except (grpc.RpcError, asyncio.CancelledError):
            if self._parts.error is not None:
                raise self._parts.error from None
            raise
        if first is None:
            raise summary_missing()
        self._rows.take(first)

    async def rows(self) -> AsyncIterator[tuple[int, Scores, NDArray[Any] | None]]:
        """(first row, scores (rows, cols, depth), positions in the answer's classes or None) from top to bottom."""
        try:
            async for part in self._answers:
                rows = self._rows.take(part)
                if rows is not None:
                    yield rows
        except (grpc.RpcError, asyncio.CancelledError) as error:
            if self._parts.error is not None:
                raise self._parts.error from None
            raise (self._error(error) if isinstance(error, grpc.RpcError) else error) from None
        if self._rows.summary is None:
            raise summary_missing()

    async def bands(self) -> AsyncIterator[tuple[int, Scores]]:
        """(first row, scores (rows, cols, depth)) from top to bottom, if a grid was asked for."""
        async for first, scores, _ in self.rows():
            yield first, scores

    async def result(self) -> Answer:
        """The averages; rows that were not taken are passed over."""
        while self._rows.summary is None:
            async for _ in self.rows():
                pass
        return Answer(self._rows.summary)

    def close(self) -> None:
        """Stop here; the server stops too."""
        self._call.cancel()
        self._sender.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def sending(call: Any, messages: Iterator[Message]) -> asyncio.Task[None]:  # noqa: ANN401 (generated for both kinds)
    """Send messages that are made in a thread, as the server takes them; one that cannot be made ends the call.

    gRPC's own way of sending an iterator hides the status of a server that ends the call before it is over.
    """

    async def send() -> None:
        end = object()
        try:
            while not call.done() and (message := await asyncio.to_thread(next, messages, end)) is not end:
                await call.write(message)
            await call.done_writing()
        except (grpc.RpcError, asyncio.InvalidStateError):
            pass  # whoever reads the answers is told
        except Exception:  # whatever the messages raise is told by whoever makes them
            call.cancel()

    return asyncio.create_task(send())
