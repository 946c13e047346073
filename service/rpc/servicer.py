"""The service `fullconv.v1.Scoring`.

Handlers take raw bytes and parse inside, so that a message that does not parse is INVALID_ARGUMENT and not gRPC's own
INTERNAL. Every request ends in one line of the log.
"""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from protos import scoring_pb2
from service.errors import BugError, CancelledRunError, DrainingError, OptionError, ServiceError
from service.executor import Executor
from service.log import log
from service.rpc.large import ScoreLarge
from service.rpc.many import ScoreMany, patiently
from service.rpc.spool import Spool
from service.rpc.status import status_of
from service.scoring import Scorer

LINGER_SECONDS, LINGER_TIMES = 0.5, 20
NAME_LETTERS = 255

SERVICE = scoring_pb2.DESCRIPTOR.services_by_name["Scoring"]

Request = TypeVar("Request", bound=Message)
Result = TypeVar("Result")
Send = Callable[[Message], Coroutine[Any, Any, None]]
Record = dict[str, Any]
"""A request's line of the log."""


class ScoringServicer:
    """Answers requests with a scorer, in an executor's threads."""

    def __init__(self, scorer: Scorer, spool: Spool, *, slots: int) -> None:
        limits = scorer.limits
        self._scorer, self._slots = scorer, slots
        self._executor = Executor(slots=slots, waiting=limits.waiting, size=limits.waiting_bytes)
        self._quick = Executor(slots=1, waiting=limits.waiting, size=limits.waiting_bytes)
        self._large = ScoreLarge(
            scorer, Executor(slots=1, waiting=limits.waiting, size=limits.waiting_bytes), self._quick, spool
        )
        self._asked = 0
        self._unanswered = 0
        self._answered = asyncio.Event()
        self._draining = asyncio.Event()

    async def drain(self) -> None:
        """Refuse what comes from now on, and wait for what was admitted.

        Then linger until nobody asks any longer: a request that arrives while gRPC closes would be CANCELLED, which
        tells a client less than UNAVAILABLE does.
        """
        self._draining.set()
        while self._unanswered:
            self._answered.clear()
            await self._answered.wait()
        for _ in range(LINGER_TIMES):
            asked = self._asked
            await asyncio.sleep(LINGER_SECONDS)
            if self._asked == asked:
                return

    async def score(self, request: scoring_pb2.ScoreRequest, record: Record) -> scoring_pb2.ScoreResponse:
        """Score one image."""
        check_names([request.model, request.version, request.image.name, *request.options.classes])
        size = request.ByteSize()
        record |= {"model": request.model, "bytes": size}
        response, waited = await self._executor.run(lambda gone: self._scorer.answer(request, gone), size=size)
        response.timing.queue_ms = waited
        response.timing.total_ms += waited
        record |= {"width": response.image.width, "height": response.image.height, "queue_ms": round(waited, 3)}
        return response

    async def list_models(self, _: scoring_pb2.ListModelsRequest, __: Record) -> scoring_pb2.ListModelsResponse:
        """Name the models."""
        found, _waited = await self._quick.run(lambda _: self._scorer.repository.models())
        models = [scoring_pb2.ModelVersion(name=name, version=version) for name, version in found]
        return scoring_pb2.ListModelsResponse(models=models)

    async def get_model(self, request: scoring_pb2.GetModelRequest, record: Record) -> scoring_pb2.GetModelResponse:
        """Describe one model."""
        check_names([request.model, request.version])
        record["model"] = request.model
        description, _ = await self._quick.run(lambda _: self._scorer.describe(request.model, request.version))
        return description

    async def _score_large(
        self, requests: AsyncIterator[scoring_pb2.ScoreLargeRequest], send: Send, record: Record
    ) -> None:
        """Score one image that comes in parts."""
        first = await anext(requests, scoring_pb2.ScoreLargeRequest())
        if first.WhichOneof("part") != "start":
            raise OptionError(f"part: expected start first, got {first.WhichOneof('part') or 'nothing'}")
        check_names([first.start.model, first.start.version, first.start.name, *first.start.options.classes])
        await self._large.answer(first.start, requests, send, record)

    async def _score_many(
        self, requests: AsyncIterator[scoring_pb2.ScoreManyRequest], send: Send, record: Record
    ) -> None:
        """Score a stream of images."""

        async def score(request: scoring_pb2.ScoreRequest) -> scoring_pb2.ScoreResponse:
            return await self._logged("ScoreMany", lambda line: patiently(lambda: self.score(request, line)))

        record["images"] = await ScoreMany(score, send, together=2 * self._slots).answer(requests, self._draining)

    def handlers(self) -> grpc.GenericRpcHandler:
        """What a gRPC server needs to call this."""
        methods = {
            "Score": self._unary("Score", scoring_pb2.ScoreRequest, self.score),
            "ScoreLarge": self._stream("ScoreLarge", scoring_pb2.ScoreLargeRequest, self._score_large),
            "ScoreMany": self._stream("ScoreMany", scoring_pb2.ScoreManyRequest, self._score_many),
            "ListModels": self._unary("ListModels", scoring_pb2.ListModelsRequest, self.list_models),
            "GetModel": self._unary("GetModel", scoring_pb2.GetModelRequest, self.get_model),
        }
        return grpc.method_handlers_generic_handler(SERVICE.full_name, methods)

    def _unary(
        self, name: str, kind: type[Request], method: Callable[[Request, Record], Awaitable[Message]]
    ) -> grpc.RpcMethodHandler:
        async def handle(data: bytes, context: grpc.aio.ServicerContext) -> bytes:
            async def work(record: Record) -> bytes:
                return (await method(parsed(kind, data), record)).SerializeToString()

            return await self._call(name, context, work)

        return grpc.unary_unary_rpc_method_handler(handle)

    def _stream(
        self, name: str, kind: type[Request], method: Callable[[AsyncIterator[Request], Send, Record], Awaitable[None]]
    ) -> grpc.RpcMethodHandler:
        async def handle(stream: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> None:
            async def send(message: Message) -> None:
                data = message.SerializeToString()
                try:
                    await context.write(data)
                except Exception:  # gRPC raises different kinds where the call has ended, as its only way to fail
                    raise CancelledRunError("the client has gone") from None

            requests = (parsed(kind, data) async for data in stream)
            await self._call(name, context, lambda record: method(requests, send, record))

        return grpc.stream_stream_rpc_method_handler(handle)

    async def _call(
        self, name: str, context: grpc.aio.ServicerContext, work: Callable[[Record], Awaitable[Result]]
    ) -> Result:
        """Do the work of one call, and count it; whatever goes wrong becomes its status."""
        self._asked += 1
        draining = self._draining.is_set()
        if not draining:  # who is refused is not waited for, or who goes on asking would hold the end up
            self._unanswered += 1
            context.add_done_callback(self._end)  # not before the answer has left
        try:
            return await self._logged(name, refused if draining else work)
        except ServiceError as error:
            status = status_of(error)
        await context.abort(*status)
        raise AssertionError("abort raises")

    async def _logged(self, name: str, work: Callable[[Record], Awaitable[Result]]) -> Result:
        """Do some work that ends in one line of the log; raises a ServiceError, also for what nobody foresaw."""
        record: Record = {"method": name, "id": uuid.uuid4().hex[:12], "code": "CANCELLED"}
        started = time.monotonic()
        try:
            result = await work(record)
            record["code"] = "OK"
        except ServiceError as error:
            code, message, _ = status_of(error)
            record |= {"code": code.name, "error": message}
            raise
        except Exception as error:
            record["code"] = grpc.StatusCode.INTERNAL.name
            log.exception("bug", extra={"record": {"id": record["id"]}})
            raise BugError(f"a bug; the server's log has it as {record['id']}") from error
        finally:
            record["ms"] = round((time.monotonic() - started) * 1e3, 3)
            log.info("request", extra={"record": record})
        return result

    def _end(self, _: grpc.aio.ServicerContext) -> None:
        self._unanswered -= 1
        self._answered.set()


async def refused(_: Record) -> Any:  # noqa: ANN401 (never)
    """Answer nobody any longer."""
    raise DrainingError("the server is shutting down: try another one, or this one later")


def parsed(kind: type[Request], data: bytes) -> Request:
    """Parse a message; raises OptionError if it is none of that kind."""
    request = kind()
    try:
        request.ParseFromString(data)
    except DecodeError:
        raise OptionError(f"message: expected {request.DESCRIPTOR.full_name}, got {len(data)} other bytes") from None
    return request


def check_names(names: list[str]) -> None:
    """Refuse names that are too long to be any, before they are looked up and quoted."""
    for name in names:
        if len(name) > NAME_LETTERS:
            raise OptionError(f"names: expected at most {NAME_LETTERS} letters, got {len(name)}: {name[:20]}…")
