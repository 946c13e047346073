"""Runs the tiles of all requests. Tiles of one model file and shape share a batch, whichever requests they belong to.

    submitted → selected by virtual time → a batch of tiles with equal keys → a free slot → each request's own scores

The order is that of weighted fair queueing. The virtual time of a flow is the compute that it has received, in seconds,
divided by its weight; the flow with the lowest virtual time is next. A flow that arrives later starts at the virtual
time of the flows that are already there. A small request therefore waits for running batches, and never for all the
remaining tiles of a large image.

Batches that run at the same time share the CPU, and most take longer together than one after the other. By default, one
batch of large images runs at a time, beside one other batch. If their session says so, enough small batches run in one
thread each, as many at the same time as there are threads. With a fixed number of N >= 2 slots at most N - 1 batches of
large images and at most N - 1 others run.

Tiles of a request that was cancelled or has failed are dropped before they run. A running batch is stopped when all of
its requests are cancelled.
"""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from threading import Condition, Thread
from typing import NamedTuple

from service.dense.arrays import Pixels, Scores
from service.engine.batching import Batching
from service.engine.cancellation import Cancellation
from service.engine.session import Session
from service.errors import CancelledRunError, ModelError

CONCURRENT = 8
"""Default of the largest number of batches that run beside one of a large image."""


@dataclass(eq=False)
class Flow:
    """The tiles of one request, and the request's place in the fair queueing; an `Engine`."""

    scheduler: "Scheduler"
    large: bool = False
    """Whether the request is a large image, which computes for long. Large images never take all of several slots."""
    weight: float = 1.0
    """Share of the compute, relative to flows of weight 1."""
    cancelled: bool = False
    virtual_time: float = 0.0
    """Compute received, in seconds, divided by the weight, plus the virtual time at which the flow started."""
    queued_at: float = field(default_factory=time.monotonic)
    """Monotonic time in seconds at which the request was queued."""
    waited: float = 0.0
    """Seconds between `queued_at` and the start of the request's work."""
    first_tile_wait: float | None = None
    """Seconds for which the first tile waited for a slot; None until it has a slot."""

    submitted: list[Future[Sequence[Scores]]] | None = None
    """All futures that `submit` has returned. Default: None, they are not recorded."""

    def submit(self, session: Session, tiles: Sequence[Pixels], multiply_adds: float) -> Future[Sequence[Scores]]:
        """Queue tiles of equal shape, each of which costs `multiply_adds`; see `Engine.submit`."""
        future = self.scheduler.submit(_Submission(self, session, tiles, multiply_adds))
        if self.submitted is not None:
            self.submitted.append(future)
        return future

    def begin(self) -> None:
        """Record how long the request waited; raises CancelledRunError if it was cancelled."""
        self.waited = time.monotonic() - self.queued_at
        self.check()

    def check(self) -> None:
        """Raise CancelledRunError if the request was cancelled."""
        if self.cancelled:
            raise _cancelled()

    def cancel(self) -> None:
        """Drop the waiting tiles, and stop batches that run for no other request."""
        self.scheduler.cancel(self)


def _cancelled() -> CancelledRunError:
    return CancelledRunError("the request was cancelled")


@dataclass(eq=False)
class _Submission:
    """Tiles that were submitted by one call."""

    flow: Flow
    session: Session
    tiles: Sequence[Pixels]
    multiply_adds: float
    """Multiply-adds of each tile."""
    submitted_at: float = field(default_factory=time.monotonic)
    taken: int = 0
    """Number of tiles, from the first on, that are in batches already."""
    future: Future[Sequence[Scores]] = field(default_factory=Future)
    scores: dict[int, Scores] = field(default_factory=dict)
    """Scores so far, by the position of the tile."""

    @property
    def batch_key(self) -> tuple[Session, tuple[int, ...]]:
        """Session and tile shape: tiles with equal keys may share a batch."""
        return self.session, self.tiles[0].shape

    @property
    def remaining(self) -> int:
        """Number of tiles that are in no batch yet."""
        return len(self.tiles) - self.taken

    @property
    def seconds_per_tile(self) -> float:
        """Predicted run time of one tile in seconds."""
        return self.session.predict_seconds(self.multiply_adds)

    def add(self, scores: dict[int, Scores]) -> None:
        """Add scores by the position of the tile; the scheduler's lock must be held."""
        self.scores.update(scores)
        if len(self.scores) == len(self.tiles) and not self.future.done():
            self.future.set_result([self.scores[position] for position in range(len(self.tiles))])

    def fail(self, error: Exception) -> None:
        """Set an error unless the future is done; the scheduler's lock must be held."""
        if not self.future.done():
            self.future.set_exception(error)


def _virtual_time(submission: _Submission) -> float:
    return submission.flow.virtual_time


class _Runs(NamedTuple):
    """How a batch runs beside others."""

    most: int
    """Number of batches, of large images or of others as this one, up to which this one may begin to run."""
    allowed: int
    """Number of these batches up to which others may begin to run while this one runs."""
    single: bool = False
    """Whether this batch computes in one thread."""


@dataclass(eq=False)
class _Batch:
    """Tiles that run together: of each submission the tiles at a range of positions."""

    parts: list[tuple[_Submission, range]]
    large: bool
    runs: _Runs
    together: int = 1
    """Largest number of batches, without those of large images, that have run at the same time as this one, with it."""
    cancellation: Cancellation = field(default_factory=Cancellation)

    @property
    def session(self) -> Session:
        """The session of all tiles."""
        return self.parts[0][0].session

    @property
    def tiles(self) -> list[Pixels]:
        """All tiles in the order of the parts."""
        return [submission.tiles[position] for submission, positions in self.parts for position in positions]

    @property
    def multiply_adds(self) -> float:
        """Multiply-adds of all tiles."""
        return sum(len(positions) * submission.multiply_adds for submission, positions in self.parts)

    def scores(self) -> list[dict[int, Scores]]:
        """Run the tiles; returns the scores of each part by the position of the tile.

        Raises every error of the run, and an error when the run is cancelled.
        """
        tiles = self.tiles
        scores = list(self.session.score(tiles, self.cancellation, single=self.runs.single))
        if len(scores) != len(tiles):
            raise ModelError(f"model: expected scores of {len(tiles)} tiles, got {len(scores)}; convert it again")
        remaining = iter(scores)
        return [{position: next(remaining) for position in positions} for _, positions in self.parts]


class Scheduler:
    """Runs at most `slots` batches at the same time, each in a thread of its own.

    Default of `slots`: one for large images, and for other tiles the number of their session; together at most
    1 + `concurrent`.
    """

    def __init__(
        self,
        *,
        slots: int | None = None,
        concurrent: int = CONCURRENT,
        batching: Batching | None = None,
        observe: Callable[[Session, int, float], None] = lambda _session, _tiles, _seconds: None,
        prepare: Callable[[], None] = lambda: None,
    ) -> None:
        """Start the threads; each thread calls `prepare` first.

        After every batch `observe` gets its session, its number of tiles and its run time in seconds.
        """
        self._batching, self._observe, self._prepare = batching or Batching(), observe, prepare
        self._slots = slots
        self._changed = Condition()
        self._waiting: list[_Submission] = []
        self._running: list[_Batch] = []
        self._virtual_time = {True: 0.0, False: 0.0}
        """The highest virtual time at which a flow was selected, of large images and of others."""
        self._closed = False
        count = 1 + concurrent if slots is None else slots
        self._threads = [Thread(target=self._serve, name=f"run-{slot}", daemon=True) for slot in range(count)]
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        """Number of tiles that wait for a slot."""
        with self._changed:
            return sum(submission.remaining for submission in self._waiting)

    def submit(self, submission: _Submission) -> Future[Sequence[Scores]]:
        """Queue tiles; raises CancelledRunError if their flow was cancelled or the scheduler is closed."""
        flow = submission.flow
        with self._changed:
            if flow.cancelled or self._closed:
                raise _cancelled()
            flow.virtual_time = max(flow.virtual_time, self._virtual_time[flow.large])
            self._waiting.append(submission)
            self._changed.notify()
        return submission.future

    def cancel(self, flow: Flow) -> None:
        """Cancel a flow: drop its tiles, and stop batches that run for no other flow."""
        with self._changed:
            flow.cancelled = True
            dropped = [submission for submission in self._waiting if submission.flow is flow]
            self._waiting = [submission for submission in self._waiting if submission.flow is not flow]
            for batch in self._running:
                dropped += [submission for submission, _ in batch.parts if submission.flow is flow]
                if all(submission.flow.cancelled for submission, _ in batch.parts):
                    batch.cancellation.cancel()
            for submission in dropped:
                submission.fail(_cancelled())
            self._changed.notify_all()  # other tiles may have waited for these

    def close(self) -> None:
        """Drop the waiting tiles, finish the running batches and end the threads."""
        with self._changed:
            self._closed = True
            dropped, self._waiting = self._waiting, []
            self._changed.notify_all()
            for submission in dropped:
                submission.fail(CancelledRunError("the server has stopped"))
        for thread in self._threads:
            thread.join()

    def _serve(self) -> None:
        self._prepare()
        while self._run_next():
            pass

    def _run_next(self) -> bool:
        """Run the next batch; returns False once the scheduler is closed.

        The batch is a local variable of this method, so that a thread that waits keeps no tiles in memory.
        """
        batch = self._next_batch()
        if batch is not None:
            self._run(batch)
        return batch is not None

    def _next_batch(self) -> _Batch | None:
        """Wait for tiles that may run and put them into a batch; returns None once the scheduler is closed."""
        with self._changed:
            while not self._closed:
                delays = [self._delay(submission) for submission in self._waiting]
                ready = [each for each, delay in zip(self._waiting, delays, strict=True) if delay <= 0]
                first = [submission for submission in self._first(ready) if self._may_start(submission)]
                if first:
                    return self._make_batch(min(first, key=_virtual_time))
                self._changed.wait(min((delay for delay in delays if delay > 0), default=None))
        return None

    @staticmethod
    def _first(ready: Sequence[_Submission]) -> list[_Submission]:
        """Return the submission that is next among those of large images, and the one among the others."""
        kinds = ([each for each in ready if each.flow.large == large] for large in (True, False))
        return [min(kind, key=_virtual_time) for kind in kinds if kind]

    def _may_start(self, first: _Submission) -> bool:
        """Return whether a batch with a submission may run beside the running batches of the same kind."""
        allowed = [batch.runs.allowed for batch in self._running if batch.large == first.flow.large]
        return len(allowed) < min([self._runs(first).most, *allowed])

    def _runs(self, first: _Submission) -> _Runs:
        """Return how a batch with a submission runs.

        Batches compute in one thread each only if there are enough of them; fewer are answered earlier one after the
        other in all threads.
        """
        (height, width, _), sizes = first.tiles[0].shape, first.session.run_sizes
        most = 1 if sizes is None else sizes.concurrent
        if self._slots is not None:
            most = max(1, self._slots - 1)
        elif sizes is not None and sizes.single is not None:
            single = sizes.single
            if not first.flow.large and height * width <= single.pixels:
                enough = self._are_batches(single.fewest)
                return _Runs(single.most if enough else most, single.most, single=enough)
        return _Runs(most, most)

    def _are_batches(self, count: int) -> bool:
        """Return whether at least `count` batches run, or could be made of the waiting tiles."""
        batches, free = len(self._running), Counter[tuple[Session, tuple[int, ...]]]()
        for submission in self._waiting:
            if batches >= count:
                break
            key = submission.batch_key
            free[key] -= submission.remaining
            if free[key] < 0:
                most = self._most_tiles(submission, single=True)
                further = -(free[key] // most)
                batches, free[key] = batches + further, free[key] + further * most
        return batches >= count

    def _delay(self, submission: _Submission) -> float:
        """Return the seconds for which tiles still wait for others of their key; 0 if these already fill a batch."""
        if not self._batching.delay_seconds:
            return 0.0
        key = submission.batch_key
        filling = self._most_tiles(submission, single=self._runs(submission).single)
        if sum(other.remaining for other in self._waiting if other.batch_key == key) >= filling:
            return 0.0
        return submission.submitted_at + self._batching.delay_seconds - time.monotonic()

    def _most_tiles(self, submission: _Submission, *, single: bool) -> int:
        """Return how many tiles of a submission's key fit into a batch that computes in one thread, or in all."""
        return self._batching.most_tiles(*submission.batch_key, submission.seconds_per_tile, single=single)

    def _make_batch(self, first: _Submission) -> _Batch:
        """Take the tiles with the key of `first` out of the queue, lowest virtual time first, until a batch is full."""
        runs, parts, large = self._runs(first), [], first.flow.large
        free = self._most_tiles(first, single=runs.single)
        alike = [each for each in self._waiting if each.batch_key == first.batch_key and each.flow.large == large]
        for submission in sorted(alike, key=_virtual_time):
            positions = range(submission.taken, submission.taken + min(free, submission.remaining))
            self._take(submission, positions)
            parts.append((submission, positions))
            free -= len(positions)
            if not free:
                break
        self._waiting = [submission for submission in self._waiting if submission.remaining]
        if self._waiting:
            self._changed.notify()  # another slot may be free
        batch = _Batch(parts, large, runs)
        self._running.append(batch)
        together = [each for each in self._running if not each.large]
        for each in together:
            each.together = max(each.together, len(together))
        return batch

    def _take(self, submission: _Submission, positions: range) -> None:
        """Take tiles of a submission, and advance the virtual times."""
        flow = submission.flow
        submission.taken = positions.stop
        if flow.first_tile_wait is None:
            flow.first_tile_wait = time.monotonic() - submission.submitted_at
        self._virtual_time[flow.large] = max(self._virtual_time[flow.large], flow.virtual_time)
        flow.virtual_time += len(positions) * submission.seconds_per_tile / flow.weight

    def _run(self, batch: _Batch) -> None:
        started = time.monotonic()
        try:
            scores = batch.scores()
            seconds = time.monotonic() - started
            # batches in one thread each share the processors with those that run at the same time
            share = batch.together if batch.runs.single else 1
            batch.session.observe(share * batch.multiply_adds, seconds)
            self._observe(batch.session, sum(map(len, scores)), seconds)
        except Exception as error:  # every error belongs to the requests of the batch
            self._fail(batch, error)
            return
        with self._changed:
            self._running.remove(batch)
            for (submission, _), found in zip(batch.parts, scores, strict=True):
                submission.add(found)

    def _fail(self, batch: _Batch, error: Exception) -> None:
        """Set the error of all submissions in a batch and of all waiting submissions of the same flows."""
        with self._changed:
            self._running.remove(batch)
            failed = [submission for submission, _ in batch.parts]
            flows = {submission.flow for submission in failed}
            failed += [submission for submission in self._waiting if submission.flow in flows]
            self._waiting = [submission for submission in self._waiting if submission.flow not in flows]
            for submission in failed:
                submission.fail(error)
            self._changed.notify_all()
