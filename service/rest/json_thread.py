"""A thread for JSON, which is read and written under the interpreter lock, and takes many times its size in memory."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

SMALL_BYTES = 64 << 10
"""Size up to which JSON is read and written on the event loop."""
Value = TypeVar("Value")


class JsonThread:
    """Calls functions that read or write JSON, the long ones one after another in a thread.

    Between two calls, this thread pauses for the duration of the first, so that it holds the interpreter lock at most
    half of the time.
    """

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, "json")
        self._pause_until = 0.0
        """The time, on the monotonic clock, until which the thread pauses."""

    async def run(self, convert: Callable[[], Value], size: int) -> Value:
        """Return what `convert` returns. For more than SMALL_BYTES it is called in the thread."""
        if size <= SMALL_BYTES:
            return convert()
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._with_pause, convert)

    def _with_pause(self, convert: Callable[[], Value]) -> Value:
        time.sleep(max(0.0, self._pause_until - time.monotonic()))
        started = time.monotonic()
        try:
            return convert()
        finally:
            self._pause_until = 2 * time.monotonic() - started
