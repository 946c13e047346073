"""Fair queueing, batches and cancellation, with a session that records its tiles."""

import asyncio
import threading
import time
import weakref
from collections.abc import Sequence
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support.scheduling import SECOND, ControlledSession, scheduled, scores_of, slot_occupied, tiles
from support.servers import wait_until

from service.dispatch.small_requests import SmallRequestWorker
from service.dispatch.workers import Workers
from service.engine.cancellation import Cancellation
from service.engine.scheduler import Flow
from service.engine.session import RunSizes
from service.errors import CancelledRunError, ImageError, ModelError


def test_nothing_of_a_batch_is_kept() -> None:
    """An idle scheduler keeps no tile of a finished batch, because a tile may be a view of a whole strip."""
    with scheduled() as scheduler:
        (tile,) = tiles(7)
        kept = weakref.ref(tile)
        future = Flow(scheduler).submit(ControlledSession(), [tile], SECOND)
        assert scores_of(future) == [7]
        del tile, future
        wait_until(lambda: kept() is None)


def test_results_come_back_in_order() -> None:
    """Every flow gets the scores of its own tiles in their order, however tiles are batched."""
    session = ControlledSession()
    with scheduled(slots=3, max_tiles=3) as scheduler:
        futures = [Flow(scheduler).submit(session, tiles(*range(first, first + 7)), 0.1) for first in range(0, 70, 7)]
        for first, future in zip(range(0, 70, 7), futures, strict=True):
            assert scores_of(future) == list(range(first, first + 7))
    assert sum(map(len, session.ran)) == 70


def test_tiles_of_one_shape_share_batches() -> None:
    """Tiles of the same shape share batches across flows; tiles of another shape do not."""
    session = ControlledSession()
    with scheduled(max_tiles=4) as scheduler:
        with slot_occupied(scheduler, session):
            small = [Flow(scheduler).submit(session, tiles(value), SECOND) for value in (1, 2, 3, 4, 5)]
            other = Flow(scheduler).submit(session, tiles(9, side=5), SECOND)
        assert [scores_of(future) for future in (*small, other)] == [[1], [2], [3], [4], [5], [9]]
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
    """A batch is limited by the number of tiles, by their activations and by the predicted run time."""
    session = ControlledSession()
    with scheduled(**batching) as scheduler:
        with slot_occupied(scheduler, session):
            future = Flow(scheduler).submit(session, tiles(*range(20)), SECOND)
        assert scores_of(future) == list(range(20))
    assert max(map(len, session.ran)) == most


def test_models_of_a_fixed_batch_get_just_that() -> None:
    """A model with a fixed batch of four tiles gets four tiles at a time."""
    session = ControlledSession()
    session.fixed_batch = 4
    with scheduled() as scheduler:
        with slot_occupied(scheduler, session):
            future = Flow(scheduler).submit(session, tiles(*range(10)), SECOND)
        assert scores_of(future) == list(range(10))
    assert list(map(len, session.ran)) == [1, 4, 4, 2]


def test_flows_get_equal_compute() -> None:
    """The flow that has received less compute is next, so that costly and cheap tiles get equal compute."""
    session = ControlledSession()
    with scheduled(max_tiles=1) as scheduler:
        with slot_occupied(scheduler, session):
            costly = Flow(scheduler).submit(session, tiles(1, 1, 1), 4 * SECOND)
            cheap = Flow(scheduler).submit(session, tiles(*[2] * 12, side=5), SECOND)
        scores_of(costly), scores_of(cheap)
    order = [value for (value,) in session.ran[1:]]
    for place in range(1, 16):
        ones, twos = order[:place].count(1) * 4, order[:place].count(2)
        assert abs(ones - twos) <= 5 or twos == 12


def test_weights_share_the_compute() -> None:
    """A flow of weight 4 runs four tiles for each tile of a flow of weight 1."""
    session = ControlledSession()
    with scheduled(max_tiles=1) as scheduler:
        with slot_occupied(scheduler, session):
            heavy = Flow(scheduler, weight=4.0).submit(session, tiles(*[1] * 16), SECOND)
            light = Flow(scheduler, weight=1.0).submit(session, tiles(*[2] * 16, side=5), SECOND)
        scores_of(heavy), scores_of(light)
    order = [value for (value,) in session.ran[1:]]
    assert 14 <= order[:20].count(1) <= 16


def test_new_flows_start_at_the_current_virtual_time() -> None:
    """A new flow is neither compensated for the time before it nor delayed by an old flow's remaining tiles."""
    session = ControlledSession()
    with scheduled(max_tiles=1) as scheduler:
        old = Flow(scheduler)
        assert scores_of(old.submit(session, tiles(*[1] * 10), SECOND)) == [1] * 10
        with slot_occupied(scheduler, session):
            more = old.submit(session, tiles(*[1] * 10), SECOND)
            new = Flow(scheduler).submit(session, tiles(*[2] * 4, side=5), SECOND)
        scores_of(more), scores_of(new)
    order = [value for (value,) in session.ran[11:]]
    assert order[:9].count(2) == 4


def test_one_slot_is_free_of_large_images() -> None:
    """While large images use their slot, tiles of other requests run in the other slot."""
    large, small = ControlledSession(), ControlledSession()
    with scheduled(slots=2, max_tiles=1) as scheduler:
        large.proceed.clear()
        futures = [Flow(scheduler, large=True).submit(large, tiles(1), SECOND) for _ in range(5)]
        assert large.running.wait(10)
        assert scores_of(Flow(scheduler).submit(small, tiles(7), SECOND)) == [7]
        assert large.ran == [[1]]
        large.proceed.set()
        assert [scores_of(future) for future in futures] == [[1]] * 5


def test_batches_have_the_measured_pixels() -> None:
    """Without a number of tiles, a batch has as many pixels as the session computes fastest; larger tiles run alone."""
    session = ControlledSession()
    session.run_sizes = RunSizes(3 * 16)
    with scheduled() as scheduler:
        with slot_occupied(scheduler, session):
            futures = [Flow(scheduler).submit(session, tiles(*range(7), side=side), SECOND) for side in (4, 8)]
        assert [scores_of(future) for future in futures] == [[*range(7)]] * 2
    assert sorted(map(len, session.ran)) == [1] * 9 + [3, 3]


def test_tiles_of_cancelled_flows_are_dropped() -> None:
    """Waiting tiles of a cancelled flow never run, and it cannot submit more; other flows are not affected."""
    session = ControlledSession()
    with scheduled() as scheduler:
        with slot_occupied(scheduler, session):
            cancelled, active = Flow(scheduler), Flow(scheduler)
            dropped, kept = cancelled.submit(session, tiles(1), SECOND), active.submit(session, tiles(2), SECOND)
            cancelled.cancel()
            with pytest.raises(CancelledRunError):
                dropped.result(10)
            with pytest.raises(CancelledRunError):
                cancelled.submit(session, tiles(3), SECOND)
        assert scores_of(kept) == [2]
    assert session.ran == [[0], [2]]


def test_batches_of_cancelled_flows_are_stopped() -> None:
    """A running batch is stopped as soon as all of its flows are cancelled, and not before."""
    session = ControlledSession()
    with scheduled() as scheduler:
        with slot_occupied(scheduler, session):
            first, second = Flow(scheduler), Flow(scheduler)
            futures = [flow.submit(session, tiles(1), SECOND) for flow in (first, second)]
        session.proceed.clear()
        del session.ran[:]
        session.running.clear()
        [future.cancel() for future in futures]  # their results do not matter
        flows = [Flow(scheduler), Flow(scheduler)]
        with slot_occupied(scheduler, ControlledSession()):
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
        wait_until(lambda: session.terminated)
        assert session.terminated == [True]


def test_errors_come_back() -> None:
    """An error of a run reaches all flows in the batch, and the slot runs further batches."""
    session = ControlledSession()
    with scheduled() as scheduler:
        with slot_occupied(scheduler, session):
            futures = [
                Flow(scheduler).submit(session, [tile], SECOND) for tile in (*tiles(1), np.full((4, 4, 1), None))
            ]
        for future in futures:
            with pytest.raises(TypeError):
                future.result(10)
        assert scores_of(Flow(scheduler).submit(session, tiles(3), SECOND)) == [3]


def test_a_failed_run_drops_the_waiting_tiles_of_its_flows() -> None:
    """When a run fails, all waiting tiles of its flows get the error and never run; other flows go on."""
    session = ControlledSession()
    with scheduled(max_tiles=2) as scheduler:
        flow, other = Flow(scheduler), Flow(scheduler)
        with slot_occupied(scheduler, session):
            unreadable = flow.submit(session, [np.full((4, 4, 1), None)] * 5, SECOND)
            later = flow.submit(session, tiles(8, side=5), 9 * SECOND)
            kept = other.submit(session, tiles(7, side=6), 99 * SECOND)
        for future in (unreadable, later):
            with pytest.raises(TypeError):
                future.result(10)
        assert scores_of(kept) == [7]
        assert scheduler.waiting == 0
    assert session.ran == [[0], [7]]


@pytest.mark.parametrize("way", ["workers", "small requests"])
def test_work_that_fails_drops_its_tiles(way: str) -> None:
    """If a request's work fails, its waiting tiles never run; other requests go on."""
    session = ControlledSession()
    with scheduled() as scheduler:
        flow = Flow(scheduler)

        def fail() -> Any:  # noqa: ANN401 (never)
            dropped.append(flow.submit(session, tiles(1), SECOND))
            raise ImageError("the second tile is no picture")

        async def main() -> None:
            if way == "workers":
                await Workers(1, "score").run(fail, flow)
            else:
                await SmallRequestWorker("small").run(SimpleNamespace(begin=fail), flow)

        dropped = list[Future[Any]]()
        with slot_occupied(scheduler, session):
            kept = Flow(scheduler).submit(session, tiles(2), SECOND)
            with pytest.raises(ImageError, match="the second tile"):
                asyncio.run(main())
            with pytest.raises(CancelledRunError):
                dropped[0].result(10)
        assert scores_of(kept) == [2]
    assert session.ran == [[0], [2]]


def test_delay_gathers_tiles() -> None:
    """With a delay, a tile waits until a batch is full."""
    session = ControlledSession()
    with scheduled(max_tiles=3, delay_seconds=30.0) as scheduler:
        futures = [Flow(scheduler).submit(session, tiles(value), SECOND) for value in (1, 2, 3)]
        assert [scores_of(future) for future in futures] == [[1], [2], [3]]
    assert session.ran == [[1, 2, 3]]


def test_cancelling_races_with_results() -> None:
    """Flows that are cancelled while their tiles finish do not stop any slot."""
    session = ControlledSession()
    with scheduled(slots=2, max_tiles=4) as scheduler:
        for _ in range(300):
            flows = [Flow(scheduler) for _ in range(4)]
            futures = [flow.submit(session, tiles(1), SECOND) for flow in flows]
            for flow in flows[::2]:
                flow.cancel()
            for future in futures[1::2]:
                assert scores_of(future) == [1]
        assert scores_of(Flow(scheduler).submit(session, tiles(3), SECOND)) == [3]
        assert all(thread.is_alive() for thread in threading.enumerate() if thread.name.startswith("run-"))


def test_models_that_give_too_few_scores_end_no_slot() -> None:
    """A session that returns too few scores is an error of the request, and the next request is answered."""

    class ShortSession(ControlledSession):
        def score(
            self, tiles: Sequence[np.ndarray], cancellation: Cancellation | None = None, *, single: bool = False
        ) -> NDArray[np.float32]:
            """Return no scores."""
            return super().score(tiles, cancellation, single=single)[:0]

    with scheduled() as scheduler:
        with pytest.raises(ModelError, match="scores of 1 tiles, got 0"):
            Flow(scheduler).submit(ShortSession(), tiles(1), SECOND).result(10)
        assert scores_of(Flow(scheduler).submit(ControlledSession(), tiles(3), SECOND)) == [3]
