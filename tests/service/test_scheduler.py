"""Turns, batches and cancellation, without a server: what runs is a session that says what it was given."""

import asyncio
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from threading import Event
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from service.dispatch.small_requests import SmallRequestWorker
from service.dispatch.workers import Workers
from service.engine.scheduler import Batching, Flow, Scheduler
from service.engine.session import Session
from service.errors import CancelledRunError, ImageError, ModelError

SECOND = 1.0
"""What a tile costs, as multiply-adds, at one a second."""


class Spoken(Session):
    """A session at one multiply-add a second; each tile's score is its first pixel. Waits until it may go on."""

    fixed_batch: int | None = None
    bytes_per_pixel = 1.0

    def __init__(self) -> None:
        self.ran: list[list[int]] = []
        self.terminated: list[bool] = []
        self.running, self.go_on = Event(), Event()
        self.go_on.set()

    def predict_seconds(self, multiply_adds: float) -> float:
        """As many as there are."""
        return multiply_adds

    def observe(self, multiply_adds: float, seconds: float) -> None:
        """Learn nothing."""

    def score(self, tiles: Sequence[np.ndarray], run: ort.RunOptions | None = None) -> NDArray[np.float32]:
        """The first pixel of each; raises if it is stopped meanwhile."""
        assert run is not None
        self.ran.append([int(tile.flat[0]) for tile in tiles])
        self.running.set()
        while not self.go_on.wait(0.001):
            if run.terminate:
                self.terminated.append(True)
                raise RuntimeError("terminated")
        return np.array([tile.flat[0] for tile in tiles], np.float32)[:, None, None, None]


@contextmanager
def scheduled(slots: int = 1, **batching: Any) -> Iterator[Scheduler]:
    """A scheduler that ends well."""
    scheduler = Scheduler(slots=slots, batching=Batching(**({"max_run_seconds": 100.0} | batching)))
    try:
        yield scheduler
    finally:
        scheduler.close()


def tiles(*values: int, side: int = 4) -> list[np.ndarray]:
    """Tiles of one value each."""
    return [np.full((side, side, 1), value, np.uint8) for value in values]


def got(future: Future[Any]) -> list[int]:
    """The first pixels, as they came back."""
    return [int(scores.item()) for scores in future.result(10)]


@contextmanager
def held(scheduler: Scheduler, session: Spoken) -> Iterator[None]:
    """Let everything else pile up behind a tile that runs as long as the block."""
    session.go_on.clear()
    session.running.clear()
    first = Flow(scheduler).submit(session, tiles(0), SECOND)
    assert session.running.wait(10)
    try:
        yield
    finally:
        session.go_on.set()
    assert got(first) == [0]


def test_nothing_of_a_batch_is_kept() -> None:
    """When its scores are there, and nothing else is to run, its tiles are gone, which may be views of whole strips."""
    with scheduled() as scheduler:
        (tile,) = tiles(7)
        kept = weakref.ref(tile)
        future = Flow(scheduler).submit(Spoken(), [tile], SECOND)
        assert got(future) == [7]
        del tile, future
        end = time.monotonic() + 10
        while kept() is not None:
            assert time.monotonic() < end
            time.sleep(0.001)


def test_results_come_back_in_order() -> None:
    """Every flow gets the scores of its own tiles, in their order, whatever was put together."""
    session = Spoken()
    with scheduled(slots=3, max_tiles=3) as scheduler:
        futures = [Flow(scheduler).submit(session, tiles(*range(first, first + 7)), 0.1) for first in range(0, 70, 7)]
        for first, future in zip(range(0, 70, 7), futures, strict=True):
            assert got(future) == list(range(first, first + 7))
    assert sum(map(len, session.ran)) == 70


def test_tiles_alike_run_together() -> None:
    """Tiles of one shape share batches, whoever they belong to; those of another shape do not."""
    session = Spoken()
    with scheduled(max_tiles=4) as scheduler:
        with held(scheduler, session):
            small = [Flow(scheduler).submit(session, tiles(value), SECOND) for value in (1, 2, 3, 4, 5)]
            other = Flow(scheduler).submit(session, tiles(9, side=5), SECOND)
        assert [got(future) for future in (*small, other)] == [[1], [2], [3], [4], [5], [9]]
    assert session.ran[0] == [0]
    assert sorted(session.ran[1:]) == [[1, 2, 3, 4], [5], [9]]


@pytest.mark.parametrize(
    ("batching", "most"),
    [
        ({"max_activation_bytes": 48}, 3),
        ({"max_run_seconds": 2.5}, 2),
        ({"max_activation_bytes": 1}, 1),
        ({"max_tiles": 5}, 5),
    ],
    ids=["memory", "time", "one at the least", "number"],
)
def test_batches_are_bounded(batching: dict[str, Any], most: int) -> None:
    """By number, by the memory of their activations, by how long they are going to run."""
    session = Spoken()
    with scheduled(**batching) as scheduler:
        with held(scheduler, session):
            future = Flow(scheduler).submit(session, tiles(*range(20)), SECOND)
        assert got(future) == list(range(20))
    assert max(map(len, session.ran)) == most


def test_models_of_a_fixed_batch_get_just_that() -> None:
    """Where the file takes four tiles, batches are of four."""
    session = Spoken()
    session.fixed_batch = 4
    with scheduled() as scheduler:
        with held(scheduler, session):
            future = Flow(scheduler).submit(session, tiles(*range(10)), SECOND)
        assert got(future) == list(range(10))
    assert list(map(len, session.ran)) == [1, 4, 4, 2]


def test_turns_go_round_by_compute() -> None:
    """Who has had less compute is next: a costly flow's tiles alternate with as much of a cheap one's."""
    session = Spoken()
    with scheduled(max_tiles=1) as scheduler:
        with held(scheduler, session):
            costly = Flow(scheduler).submit(session, tiles(1, 1, 1), 4 * SECOND)
            cheap = Flow(scheduler).submit(session, tiles(*[2] * 12, side=5), SECOND)
        got(costly), got(cheap)
    order = [value for (value,) in session.ran[1:]]
    for place in range(1, 16):
        ones, twos = order[:place].count(1) * 4, order[:place].count(2)
        assert abs(ones - twos) <= 5 or twos == 12


def test_weights_share_the_compute() -> None:
    """A flow of weight 4 has four tiles to one of a flow of weight 1."""
    session = Spoken()
    with scheduled(max_tiles=1) as scheduler:
        with held(scheduler, session):
            heavy = Flow(scheduler, weight=4.0).submit(session, tiles(*[1] * 16), SECOND)
            light = Flow(scheduler, weight=1.0).submit(session, tiles(*[2] * 16, side=5), SECOND)
        got(heavy), got(light)
    order = [value for (value,) in session.ran[1:]]
    assert 14 <= order[:20].count(1) <= 16


def test_who_comes_later_starts_where_others_are() -> None:
    """A new flow does not make up for the time before it came, and does not wait for what an old one still has."""
    session = Spoken()
    with scheduled(max_tiles=1) as scheduler:
        old = Flow(scheduler)
        assert got(old.submit(session, tiles(*[1] * 10), SECOND)) == [1] * 10
        with held(scheduler, session):
            more = old.submit(session, tiles(*[1] * 10), SECOND)
            new = Flow(scheduler).submit(session, tiles(*[2] * 4, side=5), SECOND)
        got(more), got(new)
    order = [value for (value,) in session.ran[11:]]
    assert order[:9].count(2) == 4


def test_one_slot_is_free_of_large_images() -> None:
    """While tiles of large images fill the slot that takes them, small ones run in the other."""
    large, small = Spoken(), Spoken()
    with scheduled(slots=2, max_tiles=1) as scheduler:
        large.go_on.clear()
        futures = [Flow(scheduler, large=True).submit(large, tiles(1), SECOND) for _ in range(5)]
        assert large.running.wait(10)
        assert got(Flow(scheduler).submit(small, tiles(7), SECOND)) == [7]
        assert large.ran == [[1]]
        large.go_on.set()
        assert [got(future) for future in futures] == [[1]] * 5


def test_what_nobody_waits_for_is_dropped() -> None:
    """Tiles of a cancelled flow never run, and it may submit no more; others are not touched."""
    session = Spoken()
    with scheduled() as scheduler:
        with held(scheduler, session):
            gone, there = Flow(scheduler), Flow(scheduler)
            dropped, kept = gone.submit(session, tiles(1), SECOND), there.submit(session, tiles(2), SECOND)
            gone.cancel()
            with pytest.raises(CancelledRunError):
                dropped.result(10)
            with pytest.raises(CancelledRunError):
                gone.submit(session, tiles(3), SECOND)
        assert got(kept) == [2]
    assert session.ran == [[0], [2]]


def test_a_run_for_nobody_is_stopped() -> None:
    """A batch that runs is stopped when all of its flows are cancelled, and not before."""
    session = Spoken()
    with scheduled() as scheduler:
        with held(scheduler, session):
            first, second = Flow(scheduler), Flow(scheduler)
            futures = [flow.submit(session, tiles(1), SECOND) for flow in (first, second)]
        session.go_on.clear()
        del session.ran[:]
        session.running.clear()
        [future.cancel() for future in futures]  # whatever became of them
        flows = [Flow(scheduler), Flow(scheduler)]
        with held(scheduler, Spoken()):
            futures = [flow.submit(session, tiles(5), SECOND) for flow in flows]
        assert session.running.wait(10)
        assert session.ran == [[5, 5]]
        flows[0].cancel()
        with pytest.raises(CancelledRunError):
            futures[0].result(10)
        time.sleep(0.05)
        assert not session.terminated
        flows[1].cancel()
        with pytest.raises(CancelledRunError):
            futures[1].result(10)
        deadline = time.monotonic() + 10
        while not session.terminated and time.monotonic() < deadline:
            time.sleep(0.001)
        assert session.terminated == [True]


def test_errors_come_back() -> None:
    """What goes wrong in a run is everybody's who shares it, and the slot goes on."""
    session = Spoken()
    with scheduled() as scheduler:
        with held(scheduler, session):
            futures = [
                Flow(scheduler).submit(session, [tile], SECOND) for tile in (*tiles(1), np.full((4, 4, 1), None))
            ]
        for future in futures:
            with pytest.raises(TypeError):
                future.result(10)
        assert got(Flow(scheduler).submit(session, tiles(3), SECOND)) == [3]


def test_one_failure_drops_what_else_waits_of_its_job() -> None:
    """When a run fails, all other tiles of those who shared it get its error and never run; those of others do."""
    session = Spoken()
    with scheduled(max_tiles=2) as scheduler:
        flow, other = Flow(scheduler), Flow(scheduler)
        with held(scheduler, session):
            unreadable = flow.submit(session, [np.full((4, 4, 1), None)] * 5, SECOND)
            later = flow.submit(session, tiles(8, side=5), 9 * SECOND)
            kept = other.submit(session, tiles(7, side=6), 99 * SECOND)
        for future in (unreadable, later):
            with pytest.raises(TypeError):
                future.result(10)
        assert got(kept) == [7]
        assert scheduler.waiting == 0
    assert session.ran == [[0], [7]]


@pytest.mark.parametrize("way", ["workers", "small requests"])
def test_work_that_fails_drops_its_tiles(way: str) -> None:
    """Whatever ends a request's work, its tiles that wait never run; those of others do."""
    session = Spoken()
    with scheduled() as scheduler:
        flow = Flow(scheduler)

        def fail() -> Any:  # noqa: ANN401 (never)
            dropped.append(flow.submit(session, tiles(1), SECOND))
            raise ImageError("the second tile is no picture")

        async def ask() -> None:
            if way == "workers":
                await Workers(1, "score").run(fail, flow)
            else:
                await SmallRequestWorker("small").run(SimpleNamespace(begin=fail), flow)

        dropped: list[Future[Any]] = []
        with held(scheduler, session):
            kept = Flow(scheduler).submit(session, tiles(2), SECOND)
            with pytest.raises(ImageError, match="the second tile"):
                asyncio.run(ask())
            with pytest.raises(CancelledRunError):
                dropped[0].result(10)
        assert got(kept) == [2]
    assert session.ran == [[0], [2]]


def test_delay_gathers_tiles() -> None:
    """With a delay, a tile waits for others like it, until they are as many as run together."""
    session = Spoken()
    with scheduled(max_tiles=3, delay_seconds=30.0) as scheduler:
        futures = [Flow(scheduler).submit(session, tiles(value), SECOND) for value in (1, 2, 3)]
        assert [got(future) for future in futures] == [[1], [2], [3]]
    assert session.ran == [[1, 2, 3]]


def test_cancelling_races_with_results() -> None:
    """Jobs that are cancelled just as their tiles end leave every slot at work."""
    session = Spoken()
    with scheduled(slots=2, max_tiles=4) as scheduler:
        for _ in range(300):
            flows = [Flow(scheduler) for _ in range(4)]
            futures = [flow.submit(session, tiles(1), SECOND) for flow in flows]
            for flow in flows[::2]:
                flow.cancel()
            for future in futures[1::2]:
                assert got(future) == [1]
        assert got(Flow(scheduler).submit(session, tiles(3), SECOND)) == [3]
        assert all(thread.is_alive() for thread in threading.enumerate() if thread.name.startswith("run-"))


def test_models_that_give_too_few_scores_end_no_slot() -> None:
    """Whoever waits is told, and the next request is answered."""

    class Short(Spoken):
        def score(self, tiles: Sequence[np.ndarray], run: ort.RunOptions | None = None) -> NDArray[np.float32]:
            """None at all."""
            return super().score(tiles, run)[:0]

    with scheduled() as scheduler:
        with pytest.raises(ModelError, match="scores of 1 tiles, got 0"):
            Flow(scheduler).submit(Short(), tiles(1), SECOND).result(10)
        assert got(Flow(scheduler).submit(Spoken(), tiles(3), SECOND)) == [3]
