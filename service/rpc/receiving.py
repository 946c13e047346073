"""Receiving messages: a limited number at the same time, in turn, each within a limited time.

gRPC keeps a message in memory while it arrives. A handler that takes its message by itself decides when that begins:
until it reads, gRPC accepts only a window of 64 KiB. Reading therefore needs a place. The number of places times the
largest message is at most `Limits.waiting_bytes`; the parts of large images have half as many places beside them.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import TypeVar

from service.dispatch.call import Call
from service.dispatch.places import Place, Places, owner_of
from service.errors import DrainingError, IdleError
from service.limits import Limits

Value = TypeVar("Value")

SWEEP_SECONDS = 0.5
"""Seconds between two looks for reads whose time has passed. A timer for each read would cost more than the read."""


class Receiver:
    """Reads messages of calls. `close` ends all reads."""

    def __init__(self, limits: Limits) -> None:
        self.places = Places(limits.messages, limits.client_share, limits.waiting)
        self._parts = Places(limits.messages // 2, limits.client_share, limits.waiting)
        """Places for the parts of large images, whose clients may be slow without delaying other calls."""
        self._seconds = limits.receive_seconds
        self._begun: dict[asyncio.Task[object], float] = {}
        """When each task began to read; infinity while it waits for a place."""
        self._ended: set[asyncio.Task[object]] = set()
        """Tasks whose read was ended here."""
        self._sweep: asyncio.TimerHandle | None = None
        self._closed = False

    def part_place(self, call: Call) -> Place:
        """Return a place for receiving the parts of a large image; it is not held yet."""
        return Place(self._parts, owner_of(call.client, call.connection))

    async def read(self, call: Call, read: Callable[[], Awaitable[Value]]) -> Value:
        """Wait for a place, and return the value of `read`.

        Raises BusyError if too many calls wait, IdleError if the message does not arrive in time, and DrainingError if
        the receiver is closed meanwhile.
        """
        owner, task, loop = owner_of(call.client, call.connection), asyncio.current_task(), asyncio.get_running_loop()
        assert task is not None  # noqa: S101 (a coroutine runs in a task)
        self._begun[task] = math.inf
        if self._sweep is None:
            self._sweep = loop.call_later(SWEEP_SECONDS, self._end_late)
        try:
            await self.places.take(owner)
            try:
                self._begun[task] = loop.time()
                return await read()
            finally:
                self.places.free(owner)
        except asyncio.CancelledError:
            if task not in self._ended:
                raise
            task.uncancel()
            raise self._error() from None
        finally:
            del self._begun[task]
            self._ended.discard(task)

    def close(self) -> None:
        """End all reads, since the server shuts down: other servers can take these calls."""
        self._closed = True
        self._end(list(self._begun))

    def _end_late(self) -> None:
        now = asyncio.get_running_loop().time()
        self._end([task for task, begun in self._begun.items() if now - begun > self._seconds])
        self._sweep = asyncio.get_running_loop().call_later(SWEEP_SECONDS, self._end_late) if self._begun else None

    def _end(self, tasks: list[asyncio.Task[object]]) -> None:
        for task in tasks:
            if task not in self._ended:
                self._ended.add(task)
                task.cancel()

    def _error(self) -> DrainingError | IdleError:
        if self._closed:
            return DrainingError("the server is shutting down: ask another server, or retry later")
        return IdleError(
            f"message: expected the whole message within {self._seconds:g} seconds, got a part of it or nothing; "
            "use a faster connection, or send the image in parts with ScoreLarge"
        )
