"""The service `fullconv.v1.Scoring`.

Handlers take raw bytes and parse inside, so that a message that does not parse is INVALID_ARGUMENT and not gRPC's own
INTERNAL. Every request ends in one line of the log.
"""

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from protos import scoring_pb2
from service.errors import DrainingError, OptionError, ServiceError
from service.executor import Executor
from service.log import log
from service.rpc.status import status_of
from service.scoring import Scorer

LINGER_SECONDS, LINGER_TIMES = 0.5, 20
NAME_LETTERS = 255

SERVICE = scoring_pb2.DESCRIPTOR.services_by_name["Scoring"]


class ScoringServicer:
    """Answers requests with a scorer, in an executor's threads."""

    def __init__(self, scorer: Scorer, *, slots: int) -> None:
        limits = scorer.limits
        self._scorer = scorer
        self._executor = Executor(slots=slots, waiting=limits.waiting, size=limits.waiting_bytes)
        self._quick = Executor(slots=1, waiting=limits.waiting, size=limits.waiting_bytes)
        self._asked = 0
        self._unanswered = 0
        self._answered = asyncio.Event()
        self._draining = False

    async def drain(self) -> None:
        """Refuse what comes from now on, and wait for what was admitted.

        Then linger until nobody asks any longer: a request that arrives while gRPC closes would be CANCELLED, which
        tells a client less than UNAVAILABLE does.
        """
        self._draining = True
        while self._unanswered:
            self._answered.clear()
            await self._answered.wait()
        for _ in range(LINGER_TIMES):
            asked = self._asked
            await asyncio.sleep(LINGER_SECONDS)
            if self._asked == asked:
                return

    async def score(self, request: scoring_pb2.ScoreRequest, record: dict[str, Any]) -> scoring_pb2.ScoreResponse:
        """Score one image."""
        check_names([request.model, request.version, request.image.name, *request.options.classes])
        size = request.ByteSize()
        record |= {"model": request.model, "bytes": size}
        response, waited = await self._executor.run(lambda gone: self._scorer.answer(request, gone), size=size)
        response.timing.queue_ms = waited
        response.timing.total_ms += waited
        record |= {"width": response.image.width, "height": response.image.height, "queue_ms": round(waited, 3)}
        return response

    async def list_models(self, _: scoring_pb2.ListModelsRequest, __: dict[str, Any]) -> scoring_pb2.ListModelsResponse:
        """Name the models."""
        found, _waited = await self._quick.run(lambda _: self._scorer.repository.models())
        models = [scoring_pb2.ModelVersion(name=name, version=version) for name, version in found]
        return scoring_pb2.ListModelsResponse(models=models)

    async def get_model(
        self, request: scoring_pb2.GetModelRequest, record: dict[str, Any]
    ) -> scoring_pb2.GetModelResponse:
        """Describe one model."""
        check_names([request.model, request.version])
        record["model"] = request.model
        description, _ = await self._quick.run(lambda _: self._scorer.describe(request.model, request.version))
        return description

    def handlers(self) -> grpc.GenericRpcHandler:
        """What a gRPC server needs to call this."""
        methods: dict[str, Callable[..., Awaitable[Message]]]
        methods = {"Score": self.score, "ListModels": self.list_models, "GetModel": self.get_model}
        return grpc.method_handlers_generic_handler(
            SERVICE.full_name,
            {
                method.name: grpc.unary_unary_rpc_method_handler(
                    self._handler(method.name, GetMessageClass(method.input_type), methods[method.name])
                )
                for method in SERVICE.methods
            },
        )

    def _handler(
        self, name: str, request_class: type[Message], method: Callable[..., Awaitable[Message]]
    ) -> Callable[[bytes, grpc.aio.ServicerContext], Awaitable[bytes]]:
        async def handle(data: bytes, context: grpc.aio.ServicerContext) -> bytes:
            record: dict[str, Any] = {"method": name, "id": uuid.uuid4().hex[:12], "code": "CANCELLED"}
            started = time.monotonic()
            self._asked += 1
            if not self._draining:  # who is refused is not waited for, or those who go on asking would hold the end up
                self._unanswered += 1
                context.add_done_callback(self._end)  # not before the answer has left
            try:
                response = await self._answer(data, request_class, method, record)
                record["code"] = "OK"
                return response.SerializeToString()
            except ServiceError as error:
                status = status_of(error)
                record |= {"code": status[0].name, "error": status[1]}
            except Exception:
                status = grpc.StatusCode.INTERNAL, f"a bug; the server's log has it as {record['id']}", ()
                record["code"] = grpc.StatusCode.INTERNAL.name
                log.exception("bug", extra={"record": {"id": record["id"]}})
            finally:
                record["ms"] = round((time.monotonic() - started) * 1e3, 3)
                log.info("request", extra={"record": record})
            await context.abort(*status)
            return b""  # never: abort raises

        return handle

    def _end(self, _: grpc.aio.ServicerContext) -> None:
        self._unanswered -= 1
        self._answered.set()

    async def _answer(
        self,
        data: bytes,
        request_class: type[Message],
        method: Callable[..., Awaitable[Message]],
        record: dict[str, Any],
    ) -> Message:
        if self._draining:
            raise DrainingError("the server is shutting down: try another one, or this one later")
        request = request_class()
        try:
            request.ParseFromString(data)
        except DecodeError:
            raise OptionError(
                f"message: expected {request.DESCRIPTOR.full_name}, got {len(data)} other bytes"
            ) from None
        return await method(request, record)


def check_names(names: list[str]) -> None:
    """Refuse names that are too long to be any, before they are looked up and quoted."""
    for name in names:
        if len(name) > NAME_LETTERS:
            raise OptionError(f"names: expected at most {NAME_LETTERS} letters, got {len(name)}: {name[:20]}…")
