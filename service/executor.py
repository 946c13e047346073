"""Runs blocking work in a few threads, first come, first served.

What is admitted is bounded, in number and in bytes. Work whose caller has gone is dropped before it starts, or told to
stop; its place is free again when its thread is.
"""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from threading import Event
from typing import TypeVar

from service.errors import BusyError

Result = TypeVar("Result")
Cancelled = Callable[[], bool]


class Executor:
    """`slots` pieces of work run at once; at most `waiting` are admitted and not finished, of at most `size` bytes."""

    def __init__(self, *, slots: int, waiting: int, size: int) -> None:
        self._pool = ThreadPoolExecutor(slots, thread_name_prefix="score")
        self._free = asyncio.Semaphore(slots)
        self._waiting, self._size = waiting, size
        self._admitted = self._bytes = 0

    async def run(self, work: Callable[[Cancelled], Result], *, size: int = 0) -> tuple[Result, float]:
        """Run work that holds `size` bytes in a thread; returns its result and the milliseconds that it waited.

        The work may ask whether nobody waits for its result any longer. Raises BusyError if too much is admitted.
        """
        self._admit(size)
        cancelled, asked = Event(), time.monotonic()
        try:
            await self._free.acquire()
        except BaseException:
            self._release(size)
            raise
        waited = (time.monotonic() - asked) * 1e3
        future = self._pool.submit(work, cancelled.is_set)
        loop = asyncio.get_running_loop()

        def finished(_: Future[Result]) -> None:
            with suppress(RuntimeError):  # the loop has ended before its threads
                loop.call_soon_threadsafe(self._finish, size)

        future.add_done_callback(finished)
        try:
            return await asyncio.wrap_future(future), waited
        finally:
            cancelled.set()

    def _admit(self, size: int) -> None:
        if self._admitted >= self._waiting:
            raise BusyError(f"requests: expected fewer than {self._waiting} waiting, got {self._admitted}")
        if self._admitted and self._bytes + size > self._size:
            raise BusyError(f"requests: expected at most {self._size >> 20} MiB waiting, got {self._bytes >> 20}")
        self._admitted += 1
        self._bytes += size

    def _finish(self, size: int) -> None:
        self._free.release()
        self._release(size)

    def _release(self, size: int) -> None:
        self._admitted -= 1
        self._bytes -= size
