"""What runs tiles: in this thread, as they come; or a scheduler, beside those of others."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from itertools import islice
from typing import Protocol, TypeVar

from service.dense.arrays import Pixels, Scores
from service.engine.session import Session

PREFETCH_BATCHES = 2
"""Batches of one image on their way at once: one is cut and another one reduced while a third is computed."""

Result = TypeVar("Result")


class Engine(Protocol):
    """Runs the tiles of one request."""

    @property
    def cancelled(self) -> bool:
        """Whether nobody waits for the scores any longer."""

    def submit(self, session: Session, tiles: Sequence[Pixels], multiply_adds: float) -> Future[Sequence[Scores]]:
        """Run tiles of one shape, (height, width, channels), that cost so much each: (rows, cols, classes) of each.

        Raises CancelledRunError, at once or from the future, when nobody waits for them any longer.
        """


class InlineEngine:
    """Runs tiles in the thread that submits them."""

    @property
    def cancelled(self) -> bool:
        """Never: whoever waits is here."""
        return False

    def submit(self, session: Session, tiles: Sequence[Pixels], _: float) -> Future[Sequence[Scores]]:
        """Run them now."""
        done: Future[Sequence[Scores]] = Future()
        done.set_result(list(session.score(tiles)))
        return done


class Prefetcher(Iterator[Result]):
    """Results in their order, while the next ones are on their way: the first of them from now on."""

    def __init__(self, coming: Iterable[Future[Result]]) -> None:
        self._coming = iter(coming)
        self._waiting = deque(islice(self._coming, PREFETCH_BATCHES))

    def __next__(self) -> Result:
        """The next result."""
        if not self._waiting:
            raise StopIteration
        result = self._waiting.popleft().result()
        self._waiting.extend(islice(self._coming, 1))
        return result
