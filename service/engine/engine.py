"""The interface through which a request runs its tiles, and the engine that runs them in the calling thread.

The server's engine is a `Flow` of the scheduler, which shares batches and CPU time with other requests.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from itertools import islice
from typing import Protocol, TypeVar

from service.dense.arrays import Pixels, Scores
from service.engine.session import Session

Result = TypeVar("Result")


class Engine(Protocol):
    """Runs the tiles of one request."""

    @property
    def cancelled(self) -> bool:
        """Whether the request was cancelled."""

    def submit(self, session: Session, tiles: Sequence[Pixels], multiply_adds: float) -> Future[Sequence[Scores]]:
        """Run tiles of equal shape, (rows, cols, channels), each of which costs `multiply_adds` multiply-adds.

        The future holds the scores of each tile, (rows, cols, classes) float32, in the order of the tiles. If the
        request was cancelled, this call or the future raises CancelledRunError.
        """


class InlineEngine:
    """Runs tiles in the thread that submits them."""

    @property
    def cancelled(self) -> bool:
        """Always False: the caller waits in this thread and cannot cancel."""
        return False

    def submit(self, session: Session, tiles: Sequence[Pixels], _: float) -> Future[Sequence[Scores]]:
        """Run the tiles before returning."""
        done: Future[Sequence[Scores]] = Future()
        done.set_result(list(session.score(tiles)))
        return done


class Prefetcher(Iterator[Result]):
    """Yields the results of futures in order and keeps the next `count` submitted.

    `futures` submits a batch whenever its next item is taken. The first batches are submitted when the prefetcher is
    made.
    """

    def __init__(self, futures: Iterable[Future[Result]], count: int) -> None:
        self._futures = iter(futures)
        self._submitted = deque(islice(self._futures, count))

    def __next__(self) -> Result:
        """Wait for the next result and submit one more batch."""
        if not self._submitted:
            raise StopIteration
        result = self._submitted.popleft().result()
        self._submitted.extend(islice(self._futures, 1))
        return result
