"""Runs blocking work in a few threads, first come, first served.

What is waiting is bounded; work whose caller has gone is dropped before it starts, or told to stop.
"""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import TypeVar

from service.errors import BusyError

Result = TypeVar("Result")


class Executor:
    """`slots` pieces of work run at once; at most `waiting` are admitted and not finished."""

    def __init__(self, *, slots: int, waiting: int) -> None:
        self._pool = ThreadPoolExecutor(slots, thread_name_prefix="score")
        self._waiting = waiting
        self._admitted = 0

    async def run(self, work: Callable[[Event], Result]) -> tuple[Result, float]:
        """Run work in a thread; returns its result and the milliseconds that it waited for one.

        The event is set when nobody waits for the result any longer. Raises BusyError if too much is waiting.
        """
        if self._admitted >= self._waiting:
            raise BusyError(f"requests: {self._admitted} are waiting already, expected fewer than {self._waiting}")
        self._admitted += 1
        cancelled, asked = Event(), time.monotonic()

        def run() -> tuple[Result, float]:
            waited = (time.monotonic() - asked) * 1e3
            return work(cancelled), waited

        try:
            return await asyncio.wrap_future(self._pool.submit(run))
        finally:
            cancelled.set()
            self._admitted -= 1
