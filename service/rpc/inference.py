"""The service `inference.GRPCInferenceService`, the Open Inference Protocol: the same scoring for other clients."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import grpc
from google.protobuf.message import Message

from fullconv import __version__
from fullconv.protos import open_inference_pb2 as oip
from service.dispatch.call import Call
from service.dispatch.dispatcher import Dispatcher
from service.engine.repository import StoredModel
from service.errors import LateError, ServiceError, UnsupportedError
from service.images.picture import UnopenedPicture
from service.metrics import Metrics, ModelTimes
from service.rpc.calls import LARGE_BYTES, Calls
from service.rpc.parameters import timeout_seconds
from service.rpc.status import status_of
from service.rpc.streams import RequestStream, Send, retry_while_busy
from service.rpc.tensors import (
    ImageAnswer,
    infer_response,
    input_type,
    output_shapes,
    scoring_requests,
)
from service.scoring.options import check_names
from service.scoring.scorer import ScoringRequest

SERVICE = oip.DESCRIPTOR.services_by_name["GRPCInferenceService"]
PLATFORM = "onnxruntime_onnx"
EXTENSIONS = ["classification", "model_configuration", "model_repository", "statistics"]
NO_MEMORY = "shared memory is not supported; send tensors in messages"
NO_UPLOAD = "models cannot be sent with a request; put the version's directory into the model repository"
Method = Callable[[Any, Call], Awaitable[Message]]
NO_CHANGES = "models can be loaded and unloaded only on the admin port, which --admin opens"


class InferenceServicer:
    """Answers the messages of the service with a dispatcher.

    Models may be loaded and unloaded only if `models_changed` is given, which is awaited after each change.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        calls: Calls,
        metrics: Metrics,
        *,
        models_changed: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._dispatcher, self._calls, self._metrics = dispatcher, calls, metrics
        self._registry = dispatcher.registry
        self._models_changed = models_changed

    def methods(self) -> dict[str, tuple[type[Any], Method]]:
        """Return the type of the request, and the function that answers it, for each method without a stream."""
        methods: dict[str, tuple[type[Any], Method]] = {
            "ServerLive": (oip.ServerLiveRequest, self._live),
            "ServerReady": (oip.ServerReadyRequest, self._ready),
            "ModelReady": (oip.ModelReadyRequest, self._model_ready),
            "ServerMetadata": (oip.ServerMetadataRequest, self._metadata),
            "ModelMetadata": (oip.ModelMetadataRequest, self._model_metadata),
            "ModelInfer": (oip.ModelInferRequest, self._infer),
            "ModelConfig": (oip.ModelConfigRequest, self._config),
            "ModelStatistics": (oip.ModelStatisticsRequest, self._statistics),
            "RepositoryIndex": (oip.RepositoryIndexRequest, self._index),
            "RepositoryModelLoad": (oip.RepositoryModelLoadRequest, self._load),
            "RepositoryModelUnload": (oip.RepositoryModelUnloadRequest, self._unload),
        }
        for kind in ("SystemSharedMemory", "CudaSharedMemory"):
            for verb, refuse in (("Status", False), ("Unregister", False), ("Register", True)):
                message, answer = getattr(oip, f"{kind}{verb}Request"), getattr(oip, f"{kind}{verb}Response")
                methods[f"{kind}{verb}"] = (message, _refusing(NO_MEMORY) if refuse else _answering(answer))
        return methods

    def handlers(self) -> grpc.GenericRpcHandler:
        """Return the handlers of the service's methods."""
        handlers = {name: self._calls.unary(name, *each) for name, each in self.methods().items()}
        handlers["ModelStreamInfer"] = self._calls.stream("ModelStreamInfer", oip.ModelInferRequest, self._stream)
        return grpc.method_handlers_generic_handler(SERVICE.full_name, handlers)

    async def _live(self, _: oip.ServerLiveRequest, __: Call) -> oip.ServerLiveResponse:
        return oip.ServerLiveResponse(live=True)

    async def _ready(self, _: oip.ServerReadyRequest, __: Call) -> oip.ServerReadyResponse:
        return oip.ServerReadyResponse(ready=not self._calls.draining.is_set())

    async def _model_ready(self, request: oip.ModelReadyRequest, _: Call) -> oip.ModelReadyResponse:
        check_names([request.name, request.version])
        versions = [version for name, version in self._registry.models() if name == request.name]
        wanted = [request.version] if request.version else versions
        return oip.ModelReadyResponse(ready=any(self._registry.state(request.name, each)[0] for each in wanted))

    async def _metadata(self, _: oip.ServerMetadataRequest, __: Call) -> oip.ServerMetadataResponse:
        return oip.ServerMetadataResponse(name="fullconv", version=__version__, extensions=EXTENSIONS)

    async def _model_metadata(self, request: oip.ModelMetadataRequest, call: Call) -> oip.ModelMetadataResponse:
        model = await self._model(request.name, request.version, call)
        tensor, spec = oip.ModelMetadataResponse.TensorMetadata, model.spec
        return oip.ModelMetadataResponse(
            name=model.name,
            versions=[version for name, version in self._registry.models() if name == model.name],
            platform=PLATFORM,
            inputs=[tensor(name=spec.input.name, datatype=input_type(model), shape=[-1, -1, -1, spec.input.channels])],
            outputs=[tensor(name=name, datatype="FP32", shape=shape) for name, shape in output_shapes(model).items()],
        )

    async def _config(self, request: oip.ModelConfigRequest, call: Call) -> oip.ModelConfigResponse:
        model = await self._model(request.name, request.version, call)
        spec, config = model.spec, oip.ModelConfig(name=model.name, platform=PLATFORM, backend="onnxruntime")
        config.input.add(
            name=spec.input.name, data_type=f"TYPE_{input_type(model)}", dims=[-1, -1, -1, spec.input.channels]
        )
        for name, shape in output_shapes(model).items():
            config.output.add(name=name, data_type=oip.TYPE_FP32, dims=shape)
        return oip.ModelConfigResponse(config=config)

    async def _infer(self, request: oip.ModelInferRequest, call: Call) -> oip.ModelInferResponse:
        model = await self._model(request.model_name, request.model_version, call)
        seconds = timeout_seconds(request)
        if seconds is not None:
            call.deadline = min(time.monotonic() + seconds, call.deadline or float("inf"))
        read = partial(scoring_requests, request, model)
        images = read() if call.size < LARGE_BYTES else await asyncio.to_thread(read)
        try:
            async with asyncio.timeout(seconds):
                return infer_response(request, await self._score_all(images, call))
        except TimeoutError:
            raise LateError(f"timeout: expected an answer within {seconds:g} seconds, got none yet") from None

    async def _score_all(self, images: list[tuple[ScoringRequest, UnopenedPicture]], call: Call) -> list[ImageAnswer]:
        """Score all images of a message, or raise the first error. Images after the first wait for a busy server."""
        score = partial(self._score, call=call, share=len(images))
        if len(images) == 1:
            return [await score(*images[0])]
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(score(*images[0]))]
                tasks += [group.create_task(retry_while_busy(partial(score, *image))) for image in images[1:]]
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return [task.result() for task in tasks]

    async def _score(self, request: ScoringRequest, image: UnopenedPicture, call: Call, *, share: int) -> ImageAnswer:
        with self._dispatcher.admitted(call, share=share) as claim:
            self._dispatcher.identify(call, claim, request.model)
            return await self._dispatcher.score(request, image, ImageAnswer.of, call, claim, share=share)

    async def _stream(self, messages: AsyncIterator[oip.ModelInferRequest], send: Send, call: Call) -> None:
        """Answer a stream of requests."""

        async def answer(message: oip.ModelInferRequest, _: None) -> oip.ModelStreamInferResponse:
            return await self._answer_in_stream(message, call)

        with self._dispatcher.stream(call, of_messages=True):
            await RequestStream(answer, send, nullcontext).answer_all(messages, self._calls.draining)

    async def _answer_in_stream(self, request: oip.ModelInferRequest, call: Call) -> oip.ModelStreamInferResponse:
        """Return a request's answer, or its error, as a message of a stream."""
        one = replace(call, record={})
        try:
            response = await self._calls.logged(one, lambda one: self._infer(request, one))
        except ServiceError as error:
            code, text, _ = status_of(error)
            await self._calls.delay_refusal(call.client, code)
            failed = oip.ModelStreamInferResponse(error_message=text)
            failed.infer_response.id = request.id
            return failed
        return oip.ModelStreamInferResponse(infer_response=response)

    async def _statistics(self, request: oip.ModelStatisticsRequest, call: Call) -> oip.ModelStatisticsResponse:
        response = oip.ModelStatisticsResponse()
        for name, number in self._registry.models():
            if request.name in ("", name) and request.version in ("", number):
                response.model_stats.append(_statistics_of(self._metrics.times(name, number), name, number))
        if request.name and not response.model_stats:
            await self._model(request.name, request.version, call)  # raises NotFoundError, which lists the models
        return response

    async def _index(self, request: oip.RepositoryIndexRequest, _: Call) -> oip.RepositoryIndexResponse:
        response = oip.RepositoryIndexResponse()
        for name, number in self._registry.models():
            ready, reason = self._registry.state(name, number)
            if ready or not request.ready:
                state = "READY" if ready else "UNAVAILABLE"
                response.models.add(name=name, version=number, state=state, reason=reason)
        if not request.ready:
            for name in self._registry.unloaded:
                response.models.add(name=name, state="UNAVAILABLE", reason="unloaded")
        return response

    async def _load(self, request: oip.RepositoryModelLoadRequest, call: Call) -> oip.RepositoryModelLoadResponse:
        if request.parameters:
            raise UnsupportedError(f"parameters: {NO_UPLOAD}")
        await self._change(request.model_name, self._registry.load, call)
        return oip.RepositoryModelLoadResponse()

    async def _unload(self, request: oip.RepositoryModelUnloadRequest, call: Call) -> oip.RepositoryModelUnloadResponse:
        await self._change(request.model_name, self._registry.unload, call)
        return oip.RepositoryModelUnloadResponse()

    async def _change(self, name: str, change: Callable[[str], None], call: Call) -> None:
        if self._models_changed is None:
            raise UnsupportedError(NO_CHANGES)
        check_names([name])
        call.record["model"] = name
        await self._dispatcher.in_thread(partial(change, name))
        await self._models_changed()

    async def _model(self, name: str, number: str, call: Call) -> StoredModel:
        """Return a model, and load it first if needed."""
        check_names([name, number])
        return await self._dispatcher.model(name, number, call)


def _refusing(reason: str) -> Callable[[Message, Call], Awaitable[Message]]:
    async def refuse(_: Message, __: Call) -> Message:
        raise UnsupportedError(reason)

    return refuse


def _answering(kind: type[Message]) -> Callable[[Message, Call], Awaitable[Message]]:
    async def answer(_: Message, __: Call) -> Message:
        return kind()

    return answer


def _statistics_of(times: ModelTimes, name: str, number: str) -> oip.ModelStatistics:
    statistics = oip.ModelStatistics(
        name=name,
        version=number,
        last_inference=int(times.last * 1e3),
        inference_count=times.images,
        execution_count=times.batches,
    )
    for field, (count, seconds) in times.stages.items():
        getattr(statistics.inference_stats, field).CopyFrom(oip.StatisticDuration(count=count, ns=int(seconds * 1e9)))
    return statistics
