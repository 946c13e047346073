"""Runs the tiles of all requests: those of one model, stride and shape together, whoever they belong to.

    submitted → turns, by seconds of compute → a batch of tiles alike → a slot → each request its own scores

A request's turn is the compute that it has had, in seconds over its weight, and the lowest turn is next; who comes
later starts where the others are. So a small request waits for what runs, and never for all that a large one still has
to come. Of two slots one is for tiles of large images, and one for all others: two batches at once share the CPU, and
take longer together than one after the other. Tiles of a request that nobody waits for, or that has failed, are dropped
before they run, and a run all of whose requests are such is stopped.
"""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from threading import Condition, Thread

import onnxruntime as ort

from service.dense.arrays import Pixels, Scores
from service.engine.session import Session
from service.errors import CancelledRunError, ModelError


@dataclass(frozen=True)
class Batching:
    """How tiles are put together."""

    max_tiles: int = 32
    """In one batch, at the most."""
    delay_seconds: float = 0.0
    """That a tile waits for others like it while a slot is free."""
    run_seconds: float = 0.5
    """That a batch may run, as predicted, unless a tile by itself takes longer."""
    tile_bytes: int = 2 << 30
    """Activations of a batch, unless a tile by itself has more."""


@dataclass(eq=False)
class Flow:
    """The tiles of one request, and its place in the turns: an `Engine`."""

    scheduler: "Scheduler"
    large: bool = False
    """Whether one slot is kept free of it, and another one for it."""
    weight: float = 1.0
    """Its share of the compute, beside others of weight 1."""
    cancelled: bool = False
    virtual_time: float = 0.0
    """Seconds of compute that it has had, over its weight, counted from where others were when it came."""
    queued_at: float = field(default_factory=time.monotonic)
    """Monotonic time in seconds when the request was queued."""
    waited: float = 0.0
    """Seconds before it began."""
    first_tile_wait: float | None = None
    """Seconds that its first tile waited; None before."""

    submitted: list[Future[Sequence[Scores]]] | None = None
    """Every future that was handed out, if somebody wants them."""

    def submit(self, session: Session, tiles: Sequence[Pixels], multiply_adds: float) -> Future[Sequence[Scores]]:
        """Wait for a turn of tiles of one shape, that cost so much each."""
        future = self.scheduler.submit(_Work(self, session, tiles, multiply_adds))
        if self.submitted is not None:
            self.submitted.append(future)
        return future

    def begin(self) -> None:
        """Note how long it waited; raises CancelledRunError if nobody waits for the answer any longer."""
        self.waited = time.monotonic() - self.queued_at
        self.check()

    def check(self) -> None:
        """Raise CancelledRunError if nobody waits for the answer any longer."""
        if self.cancelled:
            raise CancelledRunError("nobody waits for the answer any longer")

    def cancel(self) -> None:
        """Drop what waits, and stop what runs if it runs for nobody else."""
        self.scheduler.cancel(self)


@dataclass(eq=False)
class _Work:
    """Tiles that were submitted together."""

    flow: Flow
    session: Session
    tiles: Sequence[Pixels]
    multiply_adds: float
    since: float = field(default_factory=time.monotonic)
    taken: int = 0
    future: Future[Sequence[Scores]] = field(default_factory=Future)
    scores: dict[int, Scores] = field(default_factory=dict)

    @property
    def batch_key(self) -> tuple[Session, tuple[int, ...]]:
        """What tiles have in common that can run together."""
        return self.session, self.tiles[0].shape

    @property
    def left(self) -> int:
        """Tiles that are in no batch yet."""
        return len(self.tiles) - self.taken

    def fail(self, error: Exception) -> None:
        """Hand an error to whoever waits, unless there is a result or an error already; only under the lock."""
        if not self.future.done():
            self.future.set_exception(error)


@dataclass(eq=False)
class _Batch:
    """Tiles that run together: of each work those of a range."""

    parts: list[tuple[_Work, range]]
    large: bool
    run: ort.RunOptions = field(default_factory=ort.RunOptions)

    @property
    def session(self) -> Session:
        """What runs them."""
        return self.parts[0][0].session

    @property
    def tiles(self) -> list[Pixels]:
        """All of them."""
        return [work.tiles[position] for work, positions in self.parts for position in positions]

    def scores(self) -> Sequence[Scores]:
        """Run them; raises whatever goes wrong, and where another thread sets `run.terminate`."""
        tiles = self.tiles
        scores = self.session.score(tiles, self.run)
        if len(scores) != len(tiles):
            raise ModelError(f"model: expected scores of {len(tiles)} tiles, got {len(scores)}: convert it again")
        return list(scores)


class Scheduler:
    """Runs at most `slots` batches at once, in threads of its own."""

    def __init__(
        self,
        *,
        slots: int,
        batching: Batching | None = None,
        observe: Callable[[Session, int, float], None] = lambda _session, _tiles, _seconds: None,
        prepare: Callable[[], None] = lambda: None,
    ) -> None:
        """Start the threads, each of which is prepared first.

        `observe` is told of every batch that ran, its tiles and seconds.
        """
        self._batching, self._observe, self._prepare = batching or Batching(), observe, prepare
        self._each = max(1, slots - 1)
        self._changed = Condition()
        self._waiting: list[_Work] = []
        self._running: list[_Batch] = []
        self._virtual_time = {True: 0.0, False: 0.0}
        self._closed = False
        self._threads = [Thread(target=self._serve, name=f"run-{slot}", daemon=True) for slot in range(slots)]
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        """Tiles that wait for a slot."""
        with self._changed:
            return sum(work.left for work in self._waiting)

    def submit(self, work: _Work) -> Future[Sequence[Scores]]:
        """Put tiles in line."""
        with self._changed:
            if work.flow.cancelled or self._closed:
                raise CancelledRunError("nobody waits for the answer any longer")
            work.flow.virtual_time = max(work.flow.virtual_time, self._virtual_time[work.flow.large])
            self._waiting.append(work)
            self._changed.notify()
        return work.future

    def cancel(self, flow: Flow) -> None:
        """Drop a flow's tiles."""
        with self._changed:
            flow.cancelled = True
            dropped = [work for work in self._waiting if work.flow is flow]
            self._waiting = [work for work in self._waiting if work.flow is not flow]
            for batch in self._running:
                dropped += [work for work, _ in batch.parts if work.flow is flow]
                batch.run.terminate = all(work.flow.cancelled for work, _ in batch.parts)
            for work in dropped:
                work.fail(CancelledRunError("nobody waits for the answer any longer"))

    def close(self) -> None:
        """End the threads; what waits is dropped, what runs ends."""
        with self._changed:
            self._closed = True
            dropped, self._waiting = self._waiting, []
            self._changed.notify_all()
            for work in dropped:
                work.fail(CancelledRunError("the server has stopped"))
        for thread in self._threads:
            thread.join()

    def _serve(self) -> None:
        self._prepare()
        while self._turn():
            pass

    def _turn(self) -> bool:
        """Run the next batch, none of which is kept while there is no other; whether there was one."""
        batch = self._next()
        if batch is not None:
            self._run(batch)
        return batch is not None

    def _next(self) -> _Batch | None:
        """Wait for the next batch; None at the end."""
        with self._changed:
            while not self._closed:
                full = {large for large in (True, False) if self._running_of(large=large) >= self._each}
                works = [work for work in self._waiting if work.flow.large not in full]
                if not works:
                    self._changed.wait()
                    continue
                ready = [work for work in works if self._delay(work, works) <= 0]
                if ready:
                    first = min(ready, key=lambda work: work.flow.virtual_time)
                    return self._take([work for work in works if work.batch_key == first.batch_key], self._room(first))
                self._changed.wait(min(self._delay(work, works) for work in works))
        return None

    def _delay(self, work: _Work, works: list[_Work]) -> float:
        """Seconds that tiles still wait for others like them: none where there are as many as run together."""
        if not self._batching.delay_seconds:
            return 0.0
        if sum(other.left for other in works if other.batch_key == work.batch_key) >= self._room(work):
            return 0.0
        return work.since + self._batching.delay_seconds - time.monotonic()

    def _running_of(self, *, large: bool) -> int:
        return sum(batch.large is large for batch in self._running)

    def _room(self, work: _Work) -> int:
        """How many tiles like these a batch takes."""
        session, (height, width, _) = work.batch_key
        if session.batch is not None:
            return session.batch
        by_bytes = self._batching.tile_bytes / (height * width * session.bytes_per_pixel)
        by_seconds = self._batching.run_seconds / session.predict_seconds(work.multiply_adds)
        return max(1, int(min(self._batching.max_tiles, by_bytes, by_seconds)))

    def _take(self, alike: list[_Work], room: int) -> _Batch:
        """Take tiles in the order of turns, the lowest first."""
        parts = []
        for work in sorted(alike, key=lambda work: work.flow.virtual_time):
            positions = range(work.taken, work.taken + min(room, work.left))
            room -= len(positions)
            work.taken = positions.stop
            if work.flow.first_tile_wait is None:
                work.flow.first_tile_wait = time.monotonic() - work.since
            self._virtual_time[work.flow.large] = max(self._virtual_time[work.flow.large], work.flow.virtual_time)
            work.flow.virtual_time += (
                len(positions) * work.session.predict_seconds(work.multiply_adds) / work.flow.weight
            )
            parts.append((work, positions))
            if not room:
                break
        self._waiting = [work for work in self._waiting if work.left]
        if self._waiting:
            self._changed.notify()  # there may be room beside this one
        batch = _Batch(parts, any(work.flow.large for work, _ in parts))
        self._running.append(batch)
        return batch

    def _run(self, batch: _Batch) -> None:
        started = time.monotonic()
        try:
            scores = batch.scores()
            seconds = time.monotonic() - started
            batch.session.observe(sum(len(tiles) * work.multiply_adds for work, tiles in batch.parts), seconds)
            self._observe(batch.session, len(scores), seconds)
            following = iter(scores)
            parts = [(work, [(position, next(following)) for position in positions]) for work, positions in batch.parts]
        except Exception as error:  # whoever waits gets it, whatever it is
            self._fail(batch, error)
            return
        with self._changed:
            self._running.remove(batch)
            for work, found in parts:
                work.scores.update(found)
                if len(work.scores) == len(work.tiles) and not work.future.done():
                    work.future.set_result([work.scores[position] for position in range(len(work.tiles))])

    def _fail(self, batch: _Batch, error: Exception) -> None:
        """Hand an error to all whose tiles ran, and drop what else waits of their flows, which can only fail so too."""
        with self._changed:
            self._running.remove(batch)
            failed = [work for work, _ in batch.parts]
            flows = {work.flow for work in failed}
            failed += [work for work in self._waiting if work.flow in flows]
            self._waiting = [work for work in self._waiting if work.flow not in flows]
            for work in failed:
                work.fail(error)
