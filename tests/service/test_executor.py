"""Admission and cancellation, without a server."""

import asyncio
from collections.abc import Callable
from threading import Event

import pytest

from service.errors import BusyError
from service.executor import Executor


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 (a thread makes it true)
        await asyncio.sleep(0.001)


def blocked_until(*events: Event) -> Callable[[Callable[[], bool]], str]:
    """Work that says that it runs, and ends when it is told to, or when nobody waits for it."""
    started, ended = events

    def work(cancelled: Callable[[], bool]) -> str:
        started.set()
        while not ended.wait(0.001):
            if cancelled():
                return "cancelled"
        return "done"

    return work


def test_results_come_back() -> None:
    """Every piece of work gives its own result, however many wait."""

    async def main() -> list[int]:
        executor = Executor(slots=2, waiting=50, size=100)
        results = await asyncio.gather(*(executor.run(lambda _, n=n: n * n, size=1) for n in range(50)))
        return [result for result, waited in results if waited >= 0]

    assert [n * n for n in range(50)] == asyncio.run(main())


@pytest.mark.parametrize(("waiting", "size"), [(2, 100), (100, 20)], ids=["number", "bytes"])
def test_what_waits_is_bounded(waiting: int, size: int) -> None:
    """A third piece of work is refused, and admitted once there is room."""

    async def main() -> None:
        executor, started, ended = Executor(slots=1, waiting=waiting, size=size), Event(), Event()
        admitted = [asyncio.ensure_future(executor.run(blocked_until(started, ended), size=10)) for _ in range(2)]
        await until(started.is_set)
        with pytest.raises(BusyError):
            await executor.run(lambda _: None, size=10)
        ended.set()
        await asyncio.gather(*admitted)
        await asyncio.sleep(0)
        assert (await executor.run(lambda _: "later", size=10))[0] == "later"

    asyncio.run(main())


def test_what_nobody_waits_for_is_dropped() -> None:
    """Cancelled work that waits never runs, cancelled work that runs is told; then both places are free."""

    async def main() -> list[str]:
        executor, started, never, ran = Executor(slots=1, waiting=2, size=20), Event(), Event(), []
        running = asyncio.ensure_future(executor.run(blocked_until(started, never), size=10))
        await until(started.is_set)
        waiting = asyncio.ensure_future(executor.run(lambda _: ran.append("waiting"), size=10))
        await asyncio.sleep(0)
        waiting.cancel()
        running.cancel()
        await asyncio.gather(waiting, running, return_exceptions=True)
        await executor.run(lambda _: ran.append("next"), size=10)
        return ran

    assert asyncio.run(main()) == ["next"]


def test_errors_come_back() -> None:
    """An error in the work is its caller's, and its place is free again."""

    async def main() -> None:
        executor = Executor(slots=1, waiting=1, size=1)
        for _ in range(3):
            with pytest.raises(ZeroDivisionError):
                await executor.run(lambda _: 1 // 0)
            await asyncio.sleep(0.01)

    asyncio.run(main())
