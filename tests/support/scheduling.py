"""A scheduler with a session that records its tiles instead of a network."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from threading import Event
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.engine.batching import Batching
from service.engine.cancellation import Cancellation
from service.engine.scheduler import Flow, Scheduler
from service.engine.session import RunSizes, Session

SECOND = 1.0
"""Multiply-adds of a tile that runs for one second."""


class ControlledSession(Session):
    """A session with a rate of one multiply-add per second, whose scores are first pixels; runs wait for `proceed`."""

    fixed_batch: int | None = None
    bytes_per_pixel = 1.0
    run_sizes: RunSizes | None = None

    def __init__(self) -> None:
        self.ran: list[list[int]] = []
        self.single: list[bool] = []
        self.observed: list[float] = []
        self.terminated: list[bool] = []
        self.running, self.proceed = Event(), Event()
        self.proceed.set()

    def predict_seconds(self, multiply_adds: float) -> float:
        """Return one second per multiply-add."""
        return multiply_adds

    def observe(self, multiply_adds: float, seconds: float) -> None:
        """Keep the rate."""
        assert seconds >= 0
        self.observed.append(multiply_adds)

    def score(
        self, tiles: Sequence[np.ndarray], cancellation: Cancellation | None = None, *, single: bool = False
    ) -> NDArray[np.float32]:
        """Return the first pixel of each tile; raises an error if the run is terminated."""
        assert cancellation is not None
        self.ran.append([int(tile.flat[0]) for tile in tiles])
        self.single.append(single)
        self.running.set()
        while not self.proceed.wait(0.001):
            if cancellation.cancelled:
                self.terminated.append(True)
                raise RuntimeError("terminated")
        return np.array([tile.flat[0] for tile in tiles], np.float32)[:, None, None, None]


@contextmanager
def scheduled(slots: int | None = 1, **batching: Any) -> Iterator[Scheduler]:
    """Yield a scheduler that is closed at the end of the block."""
    scheduler = Scheduler(slots=slots, batching=Batching(**({"max_run_seconds": 100.0} | batching)))
    try:
        yield scheduler
    finally:
        scheduler.close()


def tiles(*values: int, side: int = 4) -> list[np.ndarray]:
    """Return tiles, each of which has one value."""
    return [np.full((side, side, 1), value, np.uint8) for value in values]


def scores_of(future: Future[Any]) -> list[int]:
    """Return the scores of a future, which are the first pixels of its tiles."""
    return [int(scores.item()) for scores in future.result(10)]


@contextmanager
def slot_occupied(scheduler: Scheduler, session: ControlledSession) -> Iterator[None]:
    """Run a tile until the end of the block, so that all other tiles wait."""
    session.proceed.clear()
    session.running.clear()
    first = Flow(scheduler).submit(session, tiles(0), SECOND)
    assert session.running.wait(10)
    try:
        yield
    finally:
        session.proceed.set()
    assert scores_of(first) == [0]


@contextmanager
def held(session: ControlledSession) -> Iterator[None]:
    """Let no run of a session end before the end of the block."""
    session.proceed.clear()
    try:
        yield
    finally:
        session.proceed.set()
