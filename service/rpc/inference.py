"""The service `inference.GRPCInferenceService`, the Open Inference Protocol: the same scoring for others' clients."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

import grpc
from google.protobuf.message import Message

from fullconv import __version__
from fullconv.protos import open_inference_pb2 as oip
from fullconv.protos import scoring_pb2
from service import metrics
from service.engine.registry import Registry
from service.engine.repository import StoredModel
from service.errors import DrainingError, LateError, ServiceError, UnsupportedError
from service.options import check_names
from service.rpc.calls import LARGE_BYTES, Call, Calls, Send
from service.rpc.many import TOGETHER, before, patiently
from service.rpc.servicer import ScoringServicer
from service.rpc.status import status_of
from service.rpc.tensors import AVERAGE, SCORES, infer_response, input_type, score_requests, timeout_seconds

SERVICE = oip.DESCRIPTOR.services_by_name["GRPCInferenceService"]
PLATFORM = "onnxruntime_onnx"
LOADING = 16
"""Threads for requests whose model must be looked up or loaded first."""
EXTENSIONS = ["classification", "model_configuration", "model_repository", "statistics"]
NO_MEMORY = "shared memory is not supported: send tensors in messages"
NO_UPLOAD = "models come from the repository, never with a request: put the version's directory there"
ELSEWHERE = "models are loaded and unloaded on the admin port alone, which --admin opens"


class InferenceServicer:
    """Answers with the same scoring."""

    def __init__(
        self,
        scoring: ScoringServicer,
        registry: Registry,
        calls: Calls,
        *,
        changed: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """Answer; models may be loaded and unloaded only where somebody is to be told."""
        self._scoring, self._registry, self._calls, self._told_of_changes = scoring, registry, calls, changed
        self._loading = ThreadPoolExecutor(LOADING, thread_name_prefix="model")

    def handlers(self) -> grpc.GenericRpcHandler:
        """What a gRPC server needs to call this."""
        methods: dict[str, Any] = {
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
                asked, answer = getattr(oip, f"{kind}{verb}Request"), getattr(oip, f"{kind}{verb}Response")
                methods[f"{kind}{verb}"] = (asked, _refusing(NO_MEMORY) if refuse else _answering(answer))
        handlers = {name: self._calls.unary(name, *each) for name, each in methods.items()}
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
            outputs=[
                tensor(name=SCORES, datatype="FP32", shape=[-1, spec.output.classes, -1, -1]),
                tensor(name=AVERAGE, datatype="FP32", shape=[-1, spec.output.classes]),
            ],
        )

    async def _config(self, request: oip.ModelConfigRequest, call: Call) -> oip.ModelConfigResponse:
        model = await self._model(request.name, request.version, call)
        spec, config = model.spec, oip.ModelConfig(name=model.name, platform=PLATFORM, backend="onnxruntime")
        config.input.add(
            name=spec.input.name, data_type=f"TYPE_{input_type(model)}", dims=[-1, -1, -1, spec.input.channels]
        )
        config.output.add(name=SCORES, data_type=oip.TYPE_FP32, dims=[-1, spec.output.classes, -1, -1])
        config.output.add(name=AVERAGE, data_type=oip.TYPE_FP32, dims=[-1, spec.output.classes])
        return oip.ModelConfigResponse(config=config)

    async def _infer(self, request: oip.ModelInferRequest, call: Call) -> oip.ModelInferResponse:
        model = await self._model(request.model_name, request.model_version, call)
        seconds = timeout_seconds(request)
        if seconds is not None:
            call.deadline = min(time.monotonic() + seconds, call.deadline or float("inf"))
        convert = partial(score_requests, request, model)
        asked = convert() if call.size < LARGE_BYTES else await asyncio.to_thread(convert)
        try:
            async with asyncio.timeout(seconds):
                return infer_response(request, await self._all(asked, call))
        except TimeoutError:
            raise LateError(f"timeout: expected an answer within {seconds:g} seconds, got none yet") from None

    async def _all(self, asked: list[scoring_pb2.ScoreRequest], call: Call) -> list[scoring_pb2.ScoreResponse]:
        """Score some images; the first error is everybody's. Those after the first wait where the server is busy."""
        if len(asked) == 1:
            return [await self._scoring.score(asked[0], call)]
        try:
            async with asyncio.TaskGroup() as group:
                score = partial(self._scoring.score, call=call, share=len(asked))
                tasks = [group.create_task(score(asked[0]))]
                tasks += [group.create_task(patiently(partial(score, one))) for one in asked[1:]]
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return [task.result() for task in tasks]

    async def _stream(self, requests: AsyncIterator[oip.ModelInferRequest], send: Send, call: Call) -> None:
        """Answer every request of a stream as it finishes, some at once."""
        room, sending = asyncio.Semaphore(TOGETHER), asyncio.Lock()

        async def one(request: oip.ModelInferRequest) -> None:
            answer = await self._told(request, call)
            async with sending:
                await send(answer)
            room.release()

        end = asyncio.create_task(self._calls.draining.wait())
        try:
            with self._scoring.stream(call):
                async with asyncio.TaskGroup() as group:
                    while (request := await before(end, requests)) is not None:
                        await room.acquire()
                        group.create_task(one(request))
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        finally:
            end.cancel()
        if self._calls.draining.is_set():
            raise DrainingError("the server is shutting down: send what has no answer to another one")

    async def _told(self, request: oip.ModelInferRequest, call: Call) -> oip.ModelStreamInferResponse:
        """A request's answer, or its error, in the form of a stream."""
        one = replace(call, record={})
        try:
            response = await self._calls.logged(one, lambda one: self._infer(request, one))
        except ServiceError as error:
            told = oip.ModelStreamInferResponse(error_message=status_of(error)[1])
            told.infer_response.id = request.id
            return told
        return oip.ModelStreamInferResponse(infer_response=response)

    async def _statistics(self, request: oip.ModelStatisticsRequest, call: Call) -> oip.ModelStatisticsResponse:
        response = oip.ModelStatisticsResponse()
        for name, number in self._registry.models():
            if request.name in ("", name) and request.version in ("", number):
                response.model_stats.append(_statistics_of(name, number))
        if request.name and not response.model_stats:
            await self._model(request.name, request.version, call)  # says what there is
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
        await self._changed(request.model_name, self._registry.load, call)
        return oip.RepositoryModelLoadResponse()

    async def _unload(self, request: oip.RepositoryModelUnloadRequest, call: Call) -> oip.RepositoryModelUnloadResponse:
        await self._changed(request.model_name, self._registry.unload, call)
        return oip.RepositoryModelUnloadResponse()

    async def _changed(self, name: str, change: Callable[[str], None], call: Call) -> None:
        if self._told_of_changes is None:
            raise UnsupportedError(ELSEWHERE)
        check_names([name])
        call.record["model"] = name
        await asyncio.get_running_loop().run_in_executor(self._loading, change, name)
        await self._told_of_changes()

    async def _model(self, name: str, number: str, call: Call) -> StoredModel:
        """A model, which may have to be loaded first."""
        check_names([name, number])
        call.record["model"] = name
        known = self._registry.get_if_checked(name, number)
        if known is not None:
            return known[1]
        get = partial(self._registry.get, name, number)
        _, model = await asyncio.get_running_loop().run_in_executor(self._loading, get)
        return model


def _refusing(reason: str) -> Callable[[Message, Call], Awaitable[Message]]:
    async def refuse(_: Message, __: Call) -> Message:
        raise UnsupportedError(reason)

    return refuse


def _answering(kind: type[Message]) -> Callable[[Message, Call], Awaitable[Message]]:
    async def answer(_: Message, __: Call) -> Message:
        return kind()

    return answer


def _statistics_of(name: str, number: str) -> oip.ModelStatistics:
    times = metrics.times(name, number)
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
