"""The service `fullconv.v1.Scoring`: decode, await, encode."""

from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import grpc

from fullconv.protos import scoring_pb2
from service.admission import Admission, Claim
from service.engine.scheduler import Flow, Scheduler
from service.errors import OptionError
from service.options import check_names
from service.rpc.calls import Call, Calls, Send
from service.rpc.feed import within
from service.rpc.large import ScoreLarge
from service.rpc.many import ScoreMany, patiently
from service.rpc.notices import note
from service.rpc.spool import Spool
from service.rpc.timing import timed
from service.rpc.together import Together
from service.rpc.workers import Workers
from service.run import Run
from service.scoring import Scorer, whole

SERVICE = scoring_pb2.DESCRIPTOR.services_by_name["Scoring"]
SMALL_BYTES = 1 << 18
"""Of a message that may hold a small image."""
QUICK = 2
"""Threads for what neither reads a model's files nor runs a network."""
WEIGHTS = {scoring_pb2.PRIORITY_LOW: 0.25, scoring_pb2.PRIORITY_HIGH: 4.0}


class ScoringServicer:
    """Answers requests with a scorer, in threads, whose tiles a scheduler runs."""

    def __init__(self, scorer: Scorer, scheduler: Scheduler, admission: Admission, spool: Spool, calls: Calls) -> None:
        limits = scorer.limits
        self._scorer, self._scheduler, self._admission, self._calls = scorer, scheduler, admission, calls
        self._workers, self._quick = Workers(limits.waiting, "score"), Workers(QUICK, "quick")
        """`_workers` has a thread for every admitted request, so that slow work there delays no other request."""
        self._together = Together("small")
        large = Workers(limits.large, "large")
        self._large = ScoreLarge(scorer, admission, spool, workers=large, quick=self._quick, loading=self._workers)

    async def score(
        self, request: scoring_pb2.ScoreRequest, call: Call, *, share: int = 1
    ) -> scoring_pb2.ScoreResponse:
        """Score one image, one of so many in a message."""
        with self._admission.admitted(call.client, call.size // share) as claim:
            return await self.answer(request, call, claim, share=share)

    def stream(self, call: Call) -> AbstractContextManager[None]:
        """Admit a stream for as long as the block; raises BusyError."""
        return self._admission.stream(call.client)

    async def answer(
        self, request: scoring_pb2.ScoreRequest, call: Call, claim: Claim, *, share: int = 1
    ) -> scoring_pb2.ScoreResponse:
        """Score the image of a request that is admitted, one of so many whose answers share a message."""
        check_names([request.model, request.version, request.image.name], request.options.classes)
        call.record |= {"model": request.model, "bytes": claim.message_bytes}
        job = self._job(request.options)

        def admit(run: Run) -> None:
            call.record["version"] = run.model.version
            note(run, call)
            seconds = run.session.predict_seconds(run.plan.multiply_adds)
            self._admission.plan(claim, run.plan.held_bytes, seconds, deadline=call.deadline, done=run.done)

        def begin() -> tuple[Callable[[], Any], list[Future[Any]]]:
            run = self._scorer.prepare(request, job, admit, share=share)
            rest = partial(whole, run)
            if not run.small:
                return lambda: (None, rest), []
            job.submitted = []
            run.begin()
            return lambda: (rest(), rest), job.submitted

        def rest() -> scoring_pb2.ScoreResponse:
            return whole(self._scorer.prepare(request, job, admit, share=share))

        response: scoring_pb2.ScoreResponse | None = None
        loaded = self._scorer.registry.is_loaded(
            request.model, request.version, all_strides=bool(request.options.stride)
        )
        if loaded and claim.message_bytes <= SMALL_BYTES:
            response, rest = await self._together.run(begin, job)
        if response is None:
            response = await self._workers.run(lambda _: rest(), job)
        if not request.options.plan_only:
            timed(response, job, call)
        return response

    async def list_models(self, _: scoring_pb2.ListModelsRequest, __: Call) -> scoring_pb2.ListModelsResponse:
        """Name the models."""
        registry = self._scorer.registry
        models = [
            scoring_pb2.ModelVersion(name=name, version=version, error=registry.state(name, version)[1])
            for name, version in registry.models()
        ]
        return scoring_pb2.ListModelsResponse(models=models)

    async def get_model(self, request: scoring_pb2.GetModelRequest, call: Call) -> scoring_pb2.GetModelResponse:
        """Describe one model."""
        check_names([request.model, request.version])
        call.record["model"] = request.model
        known = self._scorer.registry.get_if_checked(request.model, request.version)
        with self._admission.admitted(call.client, call.size):
            response = await (self._quick if known else self._workers).run(
                lambda _: self._scorer.describe(request.model, request.version), self._job(scoring_pb2.ScoreOptions())
            )
        call.record["version"] = response.version
        return response

    async def score_large(self, requests: AsyncIterator[scoring_pb2.ScoreLargeRequest], send: Send, call: Call) -> None:
        """Score one image that comes in parts."""
        with self.stream(call):
            idle = self._scorer.limits.idle_seconds
            first = await within(idle, anext(requests, scoring_pb2.ScoreLargeRequest()), "to send start")
            if first.WhichOneof("part") != "start":
                raise OptionError(f"part: expected start first, got {first.WhichOneof('part') or 'nothing'}")
            check_names([first.start.model, first.start.version, first.start.name], first.start.options.classes)
            with self._admission.admitted(call.client, call.size) as claim:
                job = self._job(first.start.options, large=True)
                await self._large.answer(first.start, requests, send, call, claim, job)

    async def score_many(self, requests: AsyncIterator[scoring_pb2.ScoreManyRequest], send: Send, call: Call) -> None:
        """Score a stream of images."""

        async def score(request: scoring_pb2.ScoreRequest, claim: Claim) -> scoring_pb2.ScoreResponse:
            one = Call("ScoreMany", call.client, metadata=call.metadata)
            return await self._calls.logged(one, lambda one: patiently(lambda: self.answer(request, one, claim)))

        with self.stream(call):
            many = ScoreMany(score, send, lambda: self._admission.admitted(call.client, call.size))
            call.record["images"] = await many.answer(requests, self._calls.draining)

    def handlers(self) -> grpc.GenericRpcHandler:
        """What a gRPC server needs to call this."""
        unary, stream = self._calls.unary, self._calls.stream
        methods = {
            "Score": unary("Score", scoring_pb2.ScoreRequest, self.score),
            "ScoreLarge": stream("ScoreLarge", scoring_pb2.ScoreLargeRequest, self.score_large),
            "ScoreMany": stream("ScoreMany", scoring_pb2.ScoreManyRequest, self.score_many),
            "ListModels": unary("ListModels", scoring_pb2.ListModelsRequest, self.list_models),
            "GetModel": unary("GetModel", scoring_pb2.GetModelRequest, self.get_model),
        }
        return grpc.method_handlers_generic_handler(SERVICE.full_name, methods)

    def _job(self, options: scoring_pb2.ScoreOptions, *, large: bool = False) -> Flow:
        return Flow(self._scheduler, large=large, weight=WEIGHTS.get(options.priority, 1.0))
