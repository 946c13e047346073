"""Answers the requests of both gRPC services: admits them, chooses a thread, plans and scores.

    admitted → small, its model loaded: the thread for small requests
             → otherwise: a worker thread → planned → admitted by its plan → executed → encoded

Callers pass a request and a function `encode`, and get its result. `encode` runs in the thread that scored the image.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractAsyncContextManager, AbstractContextManager, closing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Generic, TypeVar

from service import machine
from service.dispatch.admission import Admission, Claim
from service.dispatch.call import Call
from service.dispatch.decoding_turns import DecodingTurns, RequestDecoding
from service.dispatch.notices import Notices
from service.dispatch.places import Place, Places, owner_of
from service.dispatch.small_requests import SmallRequestWorker
from service.dispatch.workers import Workers
from service.engine.repository import StoredModel
from service.engine.scheduler import Flow, Scheduler
from service.errors import BusyError
from service.images.decoding import HEADER, UNSHARED
from service.images.picture import Picture, UnopenedPicture
from service.metrics import Metrics
from service.scoring.execution import Execution
from service.scoring.masking import count_inside_mask
from service.scoring.options import Priority, RequestedOptions
from service.scoring.outcome import Counted, Event, Outcome, Progress, Result, Scored, Started
from service.scoring.planned import PlannedImage
from service.scoring.scorer import Scorer, ScoringRequest, check_row

SMALL_BYTES = 1 << 18
"""Bytes of the largest message that may hold a small image."""
SMALL_PIXELS = 1 << 16
"""Pixels of the largest image that the thread for small requests scores."""
SMALL_SECONDS = 0.003
"""Predicted seconds of decoding of the largest such image."""
LARGE_SECONDS = 0.1
"""Predicted compute of an image in one message from which on it never takes all slots, like those of ScoreLarge."""
QUICK_THREADS = 2
"""Threads for work that neither reads a model's files nor runs a network."""
LOOKUP_THREADS = 16
"""Threads that look up or load models for requests that are not admitted."""
PLAN_THREADS = 2
"""Threads for plans of large images, which may have to read a whole mask."""
MEMORY_SECONDS = 0.1
"""Seconds between two attempts of a large image to get the memory that its plan needs."""
WEIGHTS = {Priority.LOW: 0.25, Priority.NORMAL: 1.0, Priority.HIGH: 4.0}
"""Share of the compute of each priority, relative to a normal request."""

Answer = TypeVar("Answer")
Value = TypeVar("Value")


@dataclass(frozen=True)
class LargePicture:
    """A picture whose pixels may still be arriving; `finish` checks that exactly the announced rows have arrived."""

    picture: Picture
    finish: Callable[[], None] = lambda: None


OpenLarge = AbstractAsyncContextManager[Callable[[], LargePicture]]
"""A context manager. On entry it receives the part of a large image that is needed to open the image; it yields a
function that opens the image in a worker thread."""


def _log_fields(planned: PlannedImage) -> dict[str, str]:
    """Return what a request's line of the log says about its model."""
    backend = planned.session.backend
    return {"version": planned.model.version, "provider": backend.provider, "precision": planned.precision}


class Dispatcher:
    """Answers the requests of all services with one scorer, one scheduler and one admission."""

    def __init__(self, scorer: Scorer, scheduler: Scheduler, admission: Admission, metrics: Metrics) -> None:
        self.registry, self.limits, self._scorer = scorer.registry, scorer.limits, scorer
        self._scheduler, self._admission, self._metrics, self._notices = scheduler, admission, metrics, Notices()
        self._workers = Workers(self.limits.waiting, "score")
        """One thread for every admitted request, so that slow work, such as loading, delays no other request."""
        self._lookups = ThreadPoolExecutor(LOOKUP_THREADS, thread_name_prefix="model")
        self._large, self._planners = Workers(self.limits.streams, "large"), Workers(PLAN_THREADS, "plan")
        """A thread that scores a large image also needs a place, which it gives back while it waits for the client."""
        self._large_places = Places(self.limits.large, self.limits.client_share, self.limits.streams)
        self._turns = DecodingTurns(machine.cpus())
        self._quick, self._small = Workers(QUICK_THREADS, "quick"), SmallRequestWorker("small")

    def admitted(self, call: Call, *, share: int = 1) -> AbstractContextManager[Claim]:
        """Admit one of `share` requests of a message for the duration of the block; raises BusyError."""
        return self._admission.admitted(call.client, call.size // share)

    @staticmethod
    def identify(call: Call, claim: Claim, model: str) -> None:
        """Add the model and the size of an admitted request to the call's log line, even if the request fails later."""
        call.record |= {"model": model, "bytes": claim.message_bytes}

    def stream(self, call: Call, *, of_messages: bool = False) -> AbstractContextManager[None]:
        """Admit a stream for the duration of the block, see `Admission.stream`; raises BusyError."""
        return self._admission.stream(call.client, of_messages=of_messages)

    def large_place(self, call: Call) -> Place:
        """Return a place among the images of ScoreLarge that are scored concurrently; it is not held yet."""
        return Place(self._large_places, owner_of(call.client))

    async def score(
        self,
        request: ScoringRequest,
        image: UnopenedPicture,
        encode: Callable[[Outcome], Answer],
        call: Call,
        claim: Claim,
        *,
        share: int = 1,
    ) -> Answer:
        """Score one image of an admitted request. The answers of `share` images share one message."""
        flow = self._flow(request)
        decoding = RequestDecoding(self._turns, flow, call.client)
        limit = min(self.limits.message_bytes, call.answer_bytes or self.limits.message_bytes) // share
        plan = partial(self._scorer.plan_whole, request=request, answer_bytes=limit)
        load, admit = partial(self._scorer.load, request), partial(self._admit, call, claim)
        work = _Scoring(image.open, load, plan, encode, flow, decoding, admit, partial(self._observe, call))
        if (
            image.is_quick
            and may_be_small(request.options)
            and claim.message_bytes <= SMALL_BYTES
            and self._scorer.is_loaded(request)
        ):
            await self._small.run(work, flow)
        if not work.is_answered:
            await self._workers.run(work.complete, flow)
        return work.answer

    async def score_large(
        self,
        request: ScoringRequest,
        opened: OpenLarge,
        deliver: Callable[[Event], None],
        call: Call,
        claim: Claim,
        place: Place,
    ) -> None:
        """Score the image of an admitted request, of any size; `deliver` gets each event in the thread that scores.

        Few images are scored at once; others wait for their `place`, of which each client has a share. A model that
        must be loaded first is loaded in another thread, so that a slow load does not delay images of other models.
        """
        flow = self._flow(request, large=True)
        loaded = self._scorer.is_loaded(request)
        await (self._quick if loaded else self._workers).run(partial(self._scorer.load, request), flow)
        before = time.monotonic()
        async with opened as open_large:
            flow.queued_at += time.monotonic() - before  # the time in which its file arrived is not queue time
            await_memory = partial(self._await_memory, claim, place, asyncio.get_running_loop())
            work = partial(self._score_large, request, open_large, deliver, call, await_memory, flow)
            if request.options.plan_only:
                await self._planners.run(work, flow)
                return
            async with place:
                await self._large.run(work, flow)

    async def model(self, name: str, version: str, call: Call) -> StoredModel:
        """Return a model, and load it first if needed; raises NotFoundError or ModelError."""
        call.record["model"] = name
        known = self.registry.get_if_checked(name, version)
        return known[1] if known else await self.in_thread(partial(self._scorer.model, name, version))

    async def in_thread(self, work: Callable[[], Value]) -> Value:
        """Do blocking work with models in a thread. A cancelled caller does not wait until the work ends."""
        return await asyncio.get_running_loop().run_in_executor(self._lookups, work)

    def _flow(self, request: ScoringRequest, *, large: bool = False) -> Flow:
        return Flow(self._scheduler, large=large, weight=WEIGHTS[request.options.priority])

    def _admit(self, call: Call, claim: Claim, planned: PlannedImage, execution: Execution) -> None:
        """Admit a request by its plan; raises BusyError."""
        call.record |= _log_fields(planned)
        self._notices.note(planned, call)
        self._admission.plan(
            claim, planned.held_bytes, planned.seconds, deadline=call.deadline, done=execution.fraction_done
        )

    def _observe(self, call: Call, planned: PlannedImage, result: Result, decoding: RequestDecoding) -> None:
        """Count an image that was scored, and add it to the call's log line."""
        self._scorer.rates.observe(planned.picture.cost, planned.decoding.passes, decoding.seconds)
        call.record |= {"width": planned.picture.width, "height": planned.picture.height}
        call.record["queue_ms"] = round(result.timing.queue * 1e3, 3)
        self._metrics.observe_image(planned, result)

    def _score_large(
        self,
        request: ScoringRequest,
        open_large: Callable[[], LargePicture],
        deliver: Callable[[Event], None],
        call: Call,
        await_memory: Callable[[PlannedImage, Execution], None],
        flow: Flow,
    ) -> None:
        with closing(RequestDecoding(self._turns, flow, call.client)) as decoding:
            with decoding.turn(HEADER):
                large = open_large()
                planned = self._scorer.plan(large.picture, request)
            call.record |= _log_fields(planned)
            if request.options.grid:
                check_row(planned, self.limits.message_bytes)
            if request.options.plan_only:
                deliver(_counted(planned, flow, decoding))
                return
            self._notices.note(planned, call)
            execution = Execution(
                planned, flow, lambda tiles, total: deliver(Progress(tiles, total)), decoding=decoding
            )
            await_memory(planned, execution)
            deliver(Started(planned, flow.waited))
            for rows in execution.rows():
                deliver(rows)
            result = execution.result()
            large.finish()
            result = _with_queue(result, flow)
            self._observe(call, planned, result, decoding)
            deliver(Scored(planned, (), result))

    def _await_memory(
        self, claim: Claim, place: Place, loop: asyncio.AbstractEventLoop, planned: PlannedImage, execution: Execution
    ) -> None:
        """Wait, in the thread that scores, until other requests leave the memory that the plan needs.

        A refusal would only make the client send its file again. The place is left meanwhile: an image that has its
        memory may need it.
        """
        held = planned.held_bytes
        while True:
            try:
                self._admission.plan(claim, held, 0.0, deadline=None, done=execution.fraction_done)
                break
            except BusyError:
                loop.call_soon_threadsafe(place.free)
                execution.check_cancelled()
                time.sleep(MEMORY_SECONDS)
        taking = asyncio.run_coroutine_threadsafe(place.take(), loop)
        try:
            while not wait([taking], MEMORY_SECONDS).done:
                execution.check_cancelled()
        finally:
            taking.cancel()


@dataclass(eq=False)
class _Scoring(Generic[Answer]):
    """The work of one request.

    `begin` opens the image, and plans and starts it if it is small; then `finish` answers. Otherwise `complete` does
    the rest.
    """

    open: Callable[[], Picture]
    load: Callable[[], None]
    """Loads the model, so that no turn to decode is held meanwhile."""
    plan: Callable[[Callable[[], Picture]], PlannedImage]
    encode: Callable[[Outcome], Answer]
    flow: Flow
    decoding: RequestDecoding
    admit: Callable[[PlannedImage, Execution], None]
    observe: Callable[[PlannedImage, Result, RequestDecoding], None]
    answer: Answer = field(init=False)
    """Set once `is_answered` is true."""
    is_answered: bool = field(init=False, default=False)
    _picture: Picture | None = field(init=False, default=None)
    _planned: PlannedImage | None = field(init=False, default=None)
    _execution: Execution | None = field(init=False, default=None)
    _has_begun: bool = field(init=False, default=False)
    """Whether `begin` has submitted the tiles of a small image."""

    def begin(self) -> Sequence[Future[Any]]:
        """Plan, and submit the tiles of a small image; returns the futures of their scores."""
        try:
            planned, execution = self._admitted(self._open_small)
        except _NotSmallError:
            return ()
        self._has_begun = is_small(planned)
        if not self._has_begun:
            return ()
        submitted = self.flow.submitted = []
        execution.begin()
        # The futures will refer to this object. Without this, it and its pixels would wait for the garbage collector.
        self.flow.submitted = None
        return submitted

    def finish(self) -> None:
        """Answer, if the image is small."""
        if self._has_begun:
            self.complete()

    def complete(self) -> None:
        """Answer."""
        with closing(self.decoding):
            if self._planned is None:
                self.load()
                with self.decoding.turn(HEADER):
                    self._admitted(self._open)
            planned, execution = self._admitted(self._open)
            outcome = self._outcome(planned, execution)
            self.answer = self.encode(outcome)
        if isinstance(outcome, Scored):  # an answer that cannot be encoded is no success
            self.observe(planned, outcome.result, self.decoding)
        self.is_answered = True

    def _outcome(self, planned: PlannedImage, execution: Execution) -> Outcome:
        if planned.options.requested.plan_only:
            return _counted(planned, self.flow, self.decoding)
        rows = tuple(execution.rows())
        return Scored(planned, rows, _with_queue(execution.result(), self.flow))

    def _open(self) -> Picture:
        """Open the image, once."""
        if self._picture is None:
            self._picture = self.open()
        return self._picture

    def _open_small(self) -> Picture:
        """Open the image; raises _NotSmallError for a large image, whose plan takes longer."""
        picture = self._open()
        if picture.width * picture.height > SMALL_PIXELS:
            raise _NotSmallError
        return picture

    def _admitted(self, open_picture: Callable[[], Picture]) -> tuple[PlannedImage, Execution]:
        """Plan and admit the request, once."""
        if self._planned is None or self._execution is None:
            planned = self.plan(open_picture)
            decoding = UNSHARED if is_small(planned) else self.decoding
            execution = Execution(planned, self.flow, decoding=decoding)
            if not planned.options.requested.plan_only:
                self.admit(planned, execution)
            self.flow.large = planned.session.predict_seconds(planned.plan.multiply_adds) > LARGE_SECONDS
            self._planned, self._execution = planned, execution
        return self._planned, self._execution


class _NotSmallError(Exception):
    """The image is not small."""


def may_be_small(options: RequestedOptions) -> bool:
    """Return whether a small image with these options is planned and submitted in a few milliseconds."""
    return options.mask is None and len(options.scales) == 1 and not options.plan_only


def is_small(planned: PlannedImage) -> bool:
    """Return whether an image is decoded and submitted in less time than another thread would take to begin with it."""
    views, picture = planned.plan.views, planned.picture
    if planned.decoding.seconds > SMALL_SECONDS or not may_be_small(planned.options.requested):
        return False
    pixels = max(picture.width * picture.height, views[0].width * views[0].height)
    if pixels > SMALL_PIXELS or len(views[0].tile_plan.bands) > 1:
        return False
    return planned.plan.submits <= views[0].prefetch


def _counted(planned: PlannedImage, flow: Flow, decoding: RequestDecoding) -> Counted:
    return Counted(planned, tuple(count_inside_mask(planned, decoding)), flow.waited)


def _with_queue(result: Result, flow: Flow) -> Result:
    """Move the wait for the first batch from compute to queue time, and add the wait for a thread to queue time."""
    first_turn = flow.first_tile_wait or 0.0
    timing = replace(
        result.timing,
        queue=flow.waited + first_turn,
        compute=max(0.0, result.timing.compute - first_turn),
        total=time.monotonic() - flow.queued_at,
    )
    return replace(result, timing=timing)
