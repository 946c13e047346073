"""Blocking work in threads, for callers on the event loop."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

from service.engine.scheduler import Flow

Result = TypeVar("Result")


class Workers:
    """So many threads, started as they are needed; what finds none free waits, first come, first served."""

    def __init__(self, count: int, name: str) -> None:
        self._pool = ThreadPoolExecutor(count, thread_name_prefix=name)

    async def run(self, work: Callable[[Flow], Result], job: Flow) -> Result:
        """Do some work with a job of the scheduler's.

        A caller that goes cancels the job, and leaves when the work has ended: what it holds is free then. Work that
        fails cancels the job too, so that its tiles that still wait are not run.
        """

        def begun() -> Result:
            try:
                job.begin()
                return work(job)
            except BaseException:
                job.cancel()
                raise

        pooled = self._pool.submit(begun)
        return await outlived(asyncio.wrap_future(pooled), job, pooled.cancel)


async def outlived(answer: "asyncio.Future[Result]", job: Flow, drop: Callable[[], object] = lambda: None) -> Result:
    """Wait for an answer; whoever is cancelled meanwhile cancels the job, and leaves when the work has ended.

    `drop` takes work back that has not begun.
    """
    try:
        await asyncio.wait({answer})
    except asyncio.CancelledError:
        job.cancel()
        drop()
        while not answer.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait({answer})
        if not answer.cancelled():
            answer.exception()  # nobody waits for it
        raise
    return answer.result()
