"""Batches that run at the same time: how many, of how many tiles, and whether each computes in one thread."""

import time
from contextlib import closing
from threading import Event

import pytest
from support.scheduling import SECOND, ControlledSession, held, scheduled, scores_of, tiles
from support.servers import wait_until

from service.engine.batching import Batching
from service.engine.scheduler import Flow, Scheduler
from service.engine.session import RunSizes, SingleRuns


@pytest.mark.parametrize(
    "sizes",
    [None, RunSizes(16), RunSizes(16, 2)],
    ids=["unmeasured", "alone", "two"],
)
def test_as_many_batches_run_as_were_measured(sizes: RunSizes | None) -> None:
    """Without a number of slots, a session's batches run beside each other if it computes faster so."""
    session = ControlledSession()
    session.run_sizes, session.proceed = sizes, Event()
    with scheduled(slots=None, max_tiles=1) as scheduler:
        futures = [Flow(scheduler).submit(session, tiles(value), SECOND) for value in range(4)]
        large = [Flow(scheduler, large=True).submit(session, tiles(9), SECOND) for _ in range(3)]
        most = sizes.concurrent if sizes else 1
        wait_until(lambda: len(session.ran) >= 2 * most)
        time.sleep(0.05)
        assert len(session.ran) == 2 * most
        assert session.ran.count([9]) == most
        session.proceed.set()
        assert [scores_of(future) for future in (*futures, *large)] == [[0], [1], [2], [3], [9], [9], [9]]


@pytest.mark.parametrize("single", [SingleRuns(16, 2, fewest=2), None], ids=["single", "shared"])
def test_batches_beside_others_run_in_one_thread(single: SingleRuns | None) -> None:
    """A batch that is alone computes in all threads. Others do so only if that was not measured to be slower."""
    session = ControlledSession()
    session.run_sizes = RunSizes(16, 2, single=single)
    with scheduled(slots=None, max_tiles=1) as scheduler:
        assert scores_of(Flow(scheduler).submit(session, tiles(1), SECOND)) == [1]
        session.proceed.clear()
        first = Flow(scheduler).submit(session, tiles(2), SECOND)
        wait_until(lambda: len(session.ran) == 2)
        second = Flow(scheduler).submit(session, tiles(3), SECOND)
        wait_until(lambda: len(session.ran) == 3)
        session.proceed.set()
        assert (scores_of(first), scores_of(second)) == ([2], [3])
        assert scores_of(Flow(scheduler).submit(session, tiles(4), SECOND)) == [4]
        assert scores_of(Flow(scheduler).submit(session, tiles(5, 6, side=8), SECOND)) == [5, 6]
        assert scores_of(Flow(scheduler, large=True).submit(session, tiles(7, 8), SECOND)) == [7, 8]
    assert session.single == [False, False, single is not None] + [False] * 5
    assert sorted(session.observed) == [SECOND] * 7 + [2 * SECOND if single else SECOND]


def test_few_batches_run_one_after_the_other() -> None:
    """Batches that do not use most threads together compute in all threads; enough of them in one thread each."""
    session = ControlledSession()
    session.run_sizes = RunSizes(16, single=SingleRuns(16, 8, fewest=4))
    with scheduled(slots=None, max_tiles=1) as scheduler, held(session):
        futures = [Flow(scheduler).submit(session, tiles(0), SECOND)]
        wait_until(lambda: len(session.ran) == 1)
        futures += [Flow(scheduler).submit(session, tiles(value), SECOND) for value in (1, 2)]
        time.sleep(0.05)
        assert session.ran == [[0]]
        futures += [Flow(scheduler).submit(session, tiles(value), SECOND) for value in (3, 4)]
        wait_until(lambda: len(session.ran) == 5)
        assert session.single == [False] + [True] * 4
        session.proceed.set()
        assert [scores_of(future) for future in futures] == [[0], [1], [2], [3], [4]]
        assert scores_of(Flow(scheduler).submit(session, tiles(*range(3)), SECOND)) == [0, 1, 2]
    assert session.single[5:] == [False] * 3


def test_runs_that_are_always_in_one_thread() -> None:
    """If one batch is enough, every batch of a small tile computes in one thread, also alone."""
    session = ControlledSession()
    session.run_sizes = RunSizes(16, single=SingleRuns(16, 2))
    with scheduled(slots=None, max_tiles=1) as scheduler:
        assert scores_of(Flow(scheduler).submit(session, tiles(1), SECOND)) == [1]
        assert scores_of(Flow(scheduler).submit(session, tiles(2, side=8), SECOND)) == [2]
    assert session.single == [True, False]


def test_batches_in_one_thread_have_their_own_size() -> None:
    """The number of tiles in a batch is that of runs in one thread, or that of runs in all threads."""
    session = ControlledSession()
    session.run_sizes = RunSizes(4 * 16, single=SingleRuns(2 * 16, 1, fewest=2))
    with scheduled(slots=None) as scheduler:
        with held(session):
            futures = [Flow(scheduler).submit(session, tiles(0), SECOND)]
            wait_until(lambda: len(session.ran) == 1)
            futures += [Flow(scheduler).submit(session, tiles(value), SECOND) for value in range(1, 8)]
        assert [scores_of(future) for future in futures] == [[value] for value in range(8)]
    assert session.ran == [[0], [1, 2], [3, 4], [5, 6], [7]]
    assert session.single == [False, True, True, True, False]


def test_a_number_of_slots_rules_out_runs_in_one_thread() -> None:
    """With a number of slots, fewer batches may run than there are threads: each computes in all threads."""
    session = ControlledSession()
    session.run_sizes = RunSizes(16, single=SingleRuns(16, 4))
    with scheduled(slots=3, max_tiles=1) as scheduler:
        assert scores_of(Flow(scheduler).submit(session, tiles(1, 2, 3, 4), SECOND)) == [1, 2, 3, 4]
    assert not any(session.single)


def test_further_batches_wait_for_a_thread() -> None:
    """A scheduler runs at most 1 + `concurrent` batches at the same time, whatever their session allows."""
    session = ControlledSession()
    session.run_sizes, session.proceed = RunSizes(16, 5), Event()
    with closing(Scheduler(concurrent=2, batching=Batching(max_tiles=1))) as scheduler:
        futures = [Flow(scheduler).submit(session, tiles(value), SECOND) for value in range(5)]
        wait_until(lambda: len(session.ran) >= 3)
        time.sleep(0.05)
        assert len(session.ran) == 3
        session.proceed.set()
        assert [scores_of(future) for future in futures] == [[0], [1], [2], [3], [4]]


def test_a_session_that_runs_alone_gets_its_turn() -> None:
    """Batches of a session that may run beside each other do not keep out one that may not."""
    many, alone = ControlledSession(), ControlledSession()
    many.run_sizes, alone.run_sizes = RunSizes(16, 2), RunSizes(16)
    many.proceed, alone.ran = Event(), many.ran
    with scheduled(slots=None, max_tiles=1) as scheduler:
        first = Flow(scheduler).submit(many, tiles(*[1] * 20), SECOND)
        wait_until(lambda: len(many.ran) == 2)
        second = Flow(scheduler).submit(alone, tiles(2), SECOND)
        many.proceed.set()
        assert (scores_of(first), scores_of(second)) == ([1] * 20, [2])
    assert many.ran[:3] == [[1], [1], [2]]
