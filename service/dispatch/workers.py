"""Blocking work in threads, for callers on the event loop."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

from service import machine
from service.engine.scheduler import Flow

Value = TypeVar("Value")


def do_nothing() -> None:
    """Do nothing."""


class Workers:
    """At most `count` threads, started on demand, at a lower priority than the threads that answer.

    Work that finds no free thread waits, first come, first served.
    """

    def __init__(self, count: int, name: str) -> None:
        self._pool = ThreadPoolExecutor(count, thread_name_prefix=name, initializer=machine.lower_priority)

    async def run(self, work: Callable[[], Value], flow: Flow) -> Value:
        """Do a request's work in a thread, and return its result.

        If the caller is cancelled, the flow is cancelled too; the call returns only after the work has ended and
        released what it holds. If the work fails, the flow is cancelled, so that its waiting tiles do not run.
        """

        def begin() -> Value:
            try:
                flow.begin()
                return work()
            except BaseException:
                flow.cancel()
                raise

        pooled = self._pool.submit(begin)
        return await wait_after_cancel(asyncio.wrap_future(pooled), flow, pooled.cancel)


async def wait_after_cancel(
    answer: "asyncio.Future[Value]", flow: Flow, drop: Callable[[], object] = do_nothing
) -> Value:
    """Wait for an answer. If the caller is cancelled meanwhile, cancel the flow and wait until its work has ended.

    `drop` withdraws work that has not begun.
    """
    try:
        await asyncio.wait({answer})
    except asyncio.CancelledError:
        flow.cancel()
        drop()
        while not answer.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait({answer})
        if not answer.cancelled():
            answer.exception()  # marks it as retrieved
        raise
    return answer.result()
