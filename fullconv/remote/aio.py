"""The gRPC client for asyncio: the calls of `Client`.

async with AsyncClient("127.0.0.1:8500") as client:
    answers = await asyncio.gather(*(client.score(name, model="digits") for name in names))
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import grpc
from google.protobuf.message import Message

from fullconv.answer import Answer
from fullconv.base import many_items
from fullconv.decode import answer_of, description_of, models_of, scored_pixels
from fullconv.description import ModelDescription
from fullconv.encode import model_request, score_request, with_image
from fullconv.errors import ScoringError
from fullconv.grid import GridRows, Scores
from fullconv.images import ArraySource, Image, ImageSource, source_of
from fullconv.options import Options
from fullconv.protos import scoring_pb2
from fullconv.remote import validation
from fullconv.remote.expectations import parsed
from fullconv.remote.large import LargeAnswerReader, UploadParts, summary_missing
from fullconv.remote.outstanding import Outstanding
from fullconv.remote.retries import Retries
from fullconv.remote.security import Security
from fullconv.remote.servers import RETRIES, Servers
from fullconv.remote.transport import reads_once
from fullconv.transport import ManyItem, ProgressCallback, ignore_progress

Result = TypeVar("Result")


class AsyncClient:
    """A connection to one or more servers, `fullconv-serve`, that belongs to one event loop."""

    def __init__(
        self, server: str, *, timeout: float | None = None, retries: int = RETRIES, security: Security | None = None
    ) -> None:
        """Prepare connections to servers, as `Client` does; only while an event loop runs."""
        self._servers = Servers(
            server,
            security,
            timeout=timeout,
            retries=retries,
            insecure=grpc.aio.insecure_channel,
            secure=grpc.aio.secure_channel,
        )

    async def score(
        self,
        image: Image,
        *,
        model: str,
        version: str = "",
        timeout: float | None = None,
        **options: Unpack[Options],
    ) -> Answer:
        """Score one image, as `Client.score` does. The image is read in another thread."""
        request = score_request(model, version, options)
        source = await asyncio.to_thread(source_of, image)
        return _answer(request, source, await self._score(request, source, timeout))

    async def score_large(
        self,
        image: Image,
        *,
        model: str,
        version: str = "",
        timeout: float | None = None,
        progress: ProgressCallback = ignore_progress,
        **options: Unpack[Options],
    ) -> "AsyncScoreStream":
        """Begin to score one image of any size, as `Client.score_large` does."""
        request = score_request(model, version, options)
        source = await asyncio.to_thread(source_of, image)
        return await self._stream(request, source, timeout, progress)

    async def score_many(
        self,
        images: Iterable[tuple[str, Image] | tuple[str, Image, Options]],
        *,
        model: str,
        version: str = "",
        timeout: float | None = None,
        **options: Unpack[Options],
    ) -> AsyncIterator[tuple[str, Answer | ScoringError]]:
        """Score images as `Client.score_many` does. They are taken from the iterable in another thread."""
        outstanding = Outstanding(many_items(images, score_request(model, version, options), options))
        retries = self._servers.retries(timeout)
        while True:
            call = self._servers.stub().ScoreMany(timeout=retries.remaining, metadata=self._servers.metadata)
            sender = send_messages(call, outstanding.requests())
            try:
                async for item, result in self._results(call, outstanding, retries):
                    yield item.name, result if isinstance(result, ScoringError) else _answer(*item.made, result)
                outstanding.check_complete()
                break
            except (grpc.RpcError, asyncio.CancelledError) as error:
                if outstanding.raised is not None:
                    raise outstanding.raised from None
                if not isinstance(error, grpc.RpcError):
                    raise
                await asyncio.sleep(self._servers.backoff(error, retries))
            finally:
                call.cancel()
                sender.cancel()
        for item, unusable in outstanding.unusable:
            yield item.name, unusable

    async def _results(
        self,
        call: Any,  # noqa: ANN401 (generated)
        outstanding: Outstanding,
        retries: Retries,
    ) -> AsyncIterator[tuple[ManyItem, scoring_pb2.ScoreResponse | ScoringError]]:
        """Yield the responses of one call, and the errors of images that could not be sent during the call."""
        async for part in call:
            retries.renew()
            self._servers.mark_reachable()
            while outstanding.unusable:
                yield outstanding.unusable.popleft()
            answer: scoring_pb2.ScoreManyResponse = parsed(part)
            item = outstanding.answered(answer.id)
            yield item, self._servers.result(answer, item)

    async def plan(
        self,
        image: Image,
        *,
        model: str,
        version: str = "",
        timeout: float | None = None,
        **options: Unpack[Options],
    ) -> Answer:
        """Plan how to score one image, as `Client.plan` does."""
        request = score_request(model, version, options)
        request.options.plan_only = True
        source = await asyncio.to_thread(source_of, image)
        if isinstance(source, ArraySource) and not reads_once(request.options):
            return _answer(request, source, await self._score(request, source, timeout))
        async with await self._stream(request, source, timeout, ignore_progress) as stream:
            return stream.planned

    async def models(self) -> list[tuple[str, str]]:
        """Return the name and the version of every model, sorted."""
        request = scoring_pb2.ListModelsRequest()
        return models_of(await self._call("ListModels", request, None, validation.check_models))

    async def model(self, name: str, version: str = "") -> ModelDescription:
        """Describe a model, as `Client.model` does."""
        request = model_request(name, version)

        def check(response: scoring_pb2.GetModelResponse | None) -> None:
            validation.check_model(response, request)

        return description_of(await self._call("GetModel", request, None, check))

    async def close(self) -> None:
        """Close the connections."""
        for channel in self._servers.close():
            await channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def _score(
        self, request: scoring_pb2.ScoreRequest, source: ImageSource, timeout: float | None
    ) -> scoring_pb2.ScoreResponse:
        message = await asyncio.to_thread(with_image, request, source)

        def check(response: scoring_pb2.ScoreResponse | None) -> None:
            validation.check_response(response, request, source)

        response: scoring_pb2.ScoreResponse = await self._call("Score", message, timeout, check)
        return response

    async def _stream(
        self,
        request: scoring_pb2.ScoreRequest,
        source: ImageSource,
        timeout: float | None,
        progress: ProgressCallback,
    ) -> "AsyncScoreStream":
        async def begin(stub: Any, seconds: float | None) -> AsyncScoreStream:  # noqa: ANN401 (generated)
            parts = UploadParts(request, source, progress)
            call = stub.ScoreLarge(timeout=seconds, metadata=self._servers.metadata)
            sender, responses, end = send_messages(call, iter(parts)), aiter(call), object()
            try:
                first: Any = await anext(responses, end)
                if first is end:
                    raise summary_missing()
                reader = LargeAnswerReader(first, parts)
            except (grpc.RpcError, asyncio.CancelledError):
                call.cancel()
                if parts.error is not None:
                    raise parts.error from None
                raise
            return AsyncScoreStream(call, sender, responses, reader, self._servers.error)

        return await self._retried(begin, timeout)

    async def _call(self, method: str, request: Message, timeout: float | None, check: Callable[[Any], None]) -> Any:  # noqa: ANN401 (as the method says)
        async def ask(stub: Any, seconds: float | None) -> Any:  # noqa: ANN401
            response = await getattr(stub, method)(
                request, timeout=seconds, metadata=self._servers.metadata_of(request)
            )
            check(response)
            return response

        return await self._retried(ask, timeout)

    async def _retried(self, ask: Callable[[Any, float | None], Awaitable[Result]], timeout: float | None) -> Result:
        """Call one server after another, until there is an answer or no further try is allowed."""
        retries = self._servers.retries(timeout)
        while True:
            try:
                result = await ask(self._servers.stub(), retries.remaining)
            except grpc.RpcError as error:
                await asyncio.sleep(self._servers.backoff(error, retries))
            else:
                self._servers.mark_reachable()
                return result


class AsyncScoreStream:
    """The answer of `AsyncClient.score_large`, part by part: iterate `bands` or `rows`, then await `result`.

    To stop earlier, leave the `async with` block or call `close`.
    """

    def __init__(
        self,
        call: Any,  # noqa: ANN401 (generated)
        sender: asyncio.Task[None],
        responses: AsyncIterator[scoring_pb2.ScoreLargeResponse],
        reader: LargeAnswerReader,
        error_of: Callable[[grpc.RpcError], ScoringError],
    ) -> None:
        """Take the call, the task that sends its messages, its responses, and the reader that has read the first.

        `error_of` translates the call's errors.
        """
        self._call, self._sender, self._responses, self._error_of = call, sender, responses, error_of
        self._reader, self._parts = reader, reader.parts

    @property
    def planned(self) -> Answer:
        """The image, the windows, the mode and the plan, known before a pixel is decoded. It has no averages."""
        return _answer(self._parts.request, self._parts.source, self._reader.start)

    async def rows(self) -> AsyncIterator[GridRows]:
        """Score; yields the rows of the grid from top to bottom, if a grid was requested. Raises ScoringError."""
        try:
            async for part in self._responses:
                rows = self._reader.read(part)
                if rows is not None:
                    yield rows
        except (grpc.RpcError, asyncio.CancelledError) as error:
            self._call.cancel()
            if self._parts.error is not None:
                raise self._parts.error from None
            raise (self._error_of(error) if isinstance(error, grpc.RpcError) else error) from None
        self._summary()

    async def bands(self) -> AsyncIterator[tuple[int, Scores]]:
        """Score; yields (index of the first row, scores (rows, cols, depth)) from top to bottom."""
        async for rows in self.rows():
            yield rows.first, rows.scores

    async def result(self) -> Answer:
        """Return the averages; rows that were not taken are scored and dropped."""
        async for _ in self.rows():
            pass
        return _answer(self._parts.request, self._parts.source, self._summary())

    def close(self) -> None:
        """Stop scoring, on the server too."""
        self._call.cancel()
        self._sender.cancel()

    def _summary(self) -> scoring_pb2.ScoreResponse:
        if self._reader.summary is None:
            raise summary_missing()
        return self._reader.summary

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _answer(request: scoring_pb2.ScoreRequest, source: ImageSource, response: scoring_pb2.ScoreResponse) -> Answer:
    return answer_of(response, pixels=scored_pixels(source, request.options))


def send_messages(call: Any, messages: Iterator[Message]) -> asyncio.Task[None]:  # noqa: ANN401 (generated)
    """Send messages, which are made in another thread, as the server takes them.

    If a message cannot be made, the call is cancelled. gRPC's own way of sending an iterator hides the status of a
    server that ends the call early.
    """

    async def send() -> None:
        end = object()
        try:
            while not call.done() and (message := await asyncio.to_thread(next, messages, end)) is not end:
                await call.write(message)
            await call.done_writing()
        except (grpc.RpcError, asyncio.InvalidStateError):
            pass  # reading the answers raises the same error
        except Exception:  # the iterator of messages has recorded its own error
            call.cancel()

    return asyncio.create_task(send())
