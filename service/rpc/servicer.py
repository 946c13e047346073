"""The service `fullconv.v1.Scoring`: decode, await, encode."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial

import grpc

from fullconv.protos import scoring_pb2
from service import decode, encode
from service.dispatch.admission import Claim
from service.dispatch.call import Call
from service.dispatch.dispatcher import Dispatcher
from service.errors import OptionError, ServiceError
from service.images.allowed_directory import AllowedDirectory
from service.reasons import reason_of
from service.rpc.calls import Calls
from service.rpc.large import Delivery, open_large
from service.rpc.spool import Spool
from service.rpc.status import status_of
from service.rpc.stream_bridge import StreamBridge
from service.rpc.streams import RequestStream, Send, idle_timeout, retry_while_busy
from service.rpc.upload import Upload
from service.scoring.options import MAX_NAME_LETTERS, check_names

SERVICE = scoring_pb2.DESCRIPTOR.services_by_name["Scoring"]


class ScoringServicer:
    """Answers the service's messages.

    `allowed` has the files that requests may name by path; `spool` keeps encoded files of ScoreLarge.
    """

    def __init__(self, dispatcher: Dispatcher, calls: Calls, spool: Spool, allowed: AllowedDirectory) -> None:
        self._dispatcher, self._calls, self._spool, self._allowed = dispatcher, calls, spool, allowed

    async def score(self, message: scoring_pb2.ScoreRequest, call: Call) -> scoring_pb2.ScoreResponse:
        """Score one image."""
        with self._dispatcher.admitted(call) as claim:
            return await self._score(message, call, claim)

    async def _score(self, message: scoring_pb2.ScoreRequest, call: Call, claim: Claim) -> scoring_pb2.ScoreResponse:
        self._dispatcher.identify(call, claim, message.model[:MAX_NAME_LETTERS])
        request = decode.scoring_request(message)
        image = decode.unopened_image(message.image, request.options.selection, self._allowed)
        return await self._dispatcher.score(request, image, encode.outcome_response, call, claim)

    async def score_many(self, messages: AsyncIterator[scoring_pb2.ScoreManyRequest], send: Send, call: Call) -> None:
        """Score a stream of images. An image that cannot be scored gets a Failure; the others are still scored."""

        async def answer(message: scoring_pb2.ScoreManyRequest, claim: Claim) -> scoring_pb2.ScoreManyResponse:
            one = Call("ScoreMany", call.client, metadata=call.metadata)
            try:
                response = await self._calls.logged(
                    one, lambda one: retry_while_busy(lambda: self._score(message.request, one, claim))
                )
            except ServiceError as error:
                code, text, _ = status_of(error)
                await self._calls.delay_refusal(call.client, code)
                failure = scoring_pb2.Failure(code=code.value[0], message=text, reason=reason_of(error))
                return scoring_pb2.ScoreManyResponse(id=message.id, failure=failure)
            return scoring_pb2.ScoreManyResponse(id=message.id, response=response)

        with self._dispatcher.stream(call, of_messages=True):
            stream = RequestStream(answer, send, lambda: self._dispatcher.admitted(call))
            call.record["images"] = await stream.answer_all(messages, self._calls.draining)

    async def score_large(self, messages: AsyncIterator[scoring_pb2.ScoreLargeRequest], send: Send, call: Call) -> None:
        """Score one image that arrives in parts."""
        with self._dispatcher.stream(call):
            limits = self._dispatcher.limits
            next_request = partial(anext, messages, scoring_pb2.ScoreLargeRequest())
            first = await self._calls.receiver.read(
                call, lambda: idle_timeout(limits.idle_seconds, next_request(), "to send start")
            )
            if first.WhichOneof("part") != "start":
                raise OptionError(f"part: expected start first, got {first.WhichOneof('part') or 'nothing'}")
            scoring = self._dispatcher.large_place(call)
            upload = Upload(limits, self._calls.draining)
            bridge = StreamBridge(messages, send, upload, self._calls.receiver.part_place(call), scoring)
            with self._dispatcher.admitted(call) as claim:
                self._dispatcher.identify(call, claim, first.start.model[:MAX_NAME_LETTERS])
                request = decode.scoring_request(first.start)
                opened = open_large(first.start, request.options, bridge, self._spool, self._allowed, claim)
                try:
                    await self._dispatcher.score_large(request, opened, Delivery(bridge).deliver, call, claim, scoring)
                finally:
                    call.record["bytes"] += upload.received

    async def list_models(self, _: scoring_pb2.ListModelsRequest, __: Call) -> scoring_pb2.ListModelsResponse:
        """List all versions of all models, with the error of each version that cannot serve."""
        return encode.models_response(self._dispatcher.registry)

    async def get_model(self, message: scoring_pb2.GetModelRequest, call: Call) -> scoring_pb2.GetModelResponse:
        """Describe one model."""
        check_names([message.model, message.version])
        with self._dispatcher.admitted(call):
            model = await self._dispatcher.model(message.model, message.version, call)
            call.record["version"] = model.version
            return await asyncio.to_thread(encode.model_response, model, self._dispatcher.limits)

    def handlers(self) -> grpc.GenericRpcHandler:
        """Return the handlers of the service's methods."""
        unary, stream = self._calls.unary, self._calls.stream
        methods = {
            "Score": unary("Score", scoring_pb2.ScoreRequest, self.score),
            "ScoreLarge": stream("ScoreLarge", scoring_pb2.ScoreLargeRequest, self.score_large),
            "ScoreMany": stream("ScoreMany", scoring_pb2.ScoreManyRequest, self.score_many),
            "ListModels": unary("ListModels", scoring_pb2.ListModelsRequest, self.list_models),
            "GetModel": unary("GetModel", scoring_pb2.GetModelRequest, self.get_model),
        }
        return grpc.method_handlers_generic_handler(SERVICE.full_name, methods)
