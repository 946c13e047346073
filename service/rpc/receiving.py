"""Receiving messages: a limited number at the same time, in turn, each within a limited time.

gRPC keeps a message in memory while it arrives. A handler that takes its message by itself decides when that begins:
until it reads, gRPC accepts only a window of 64 KiB. Reading therefore needs a place. The number of places times the
largest message is at most `Limits.waiting_bytes`; the parts of large images have half as many places beside them.

A message that is announced as small has a place of another kind for a moment, so that messages which arrive slowly do
not delay it. If it has not arrived by then, it needs an ordinary place.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from fullconv.common.metadata import MESSAGE_BYTES
from service.dispatch.call import Call
from service.dispatch.places import RETRY_SECONDS, Owner, Place, Places, owner_of
from service.errors import BusyError, DrainingError, IdleError, ServiceError
from service.limits import Limits

Value = TypeVar("Value")

SWEEP_SECONDS = 0.25
"""Seconds between two looks for reads whose time has passed. A timer for each read would cost more than the read."""
SMALL_BYTES, SMALL_SECONDS, SMALL_PLACES = 48 << 10, 0.25, 64
"""Largest announced size of a small message, which fits in the window; seconds until it needs an ordinary place; and
the number of places for such messages."""


@dataclass(eq=False)
class _Arrival:
    """A message that is awaited: the owner of its place, among which places, and since when."""

    owner: Owner
    places: Places
    begun: float = math.inf
    """Infinity while the message waits for a place."""


class Receiver:
    """Reads messages of calls. `close` ends all reads."""

    def __init__(self, limits: Limits) -> None:
        self.places = Places(limits.messages, limits.client_share, limits.waiting)
        self._parts = Places(limits.messages // 2, limits.client_share, limits.waiting)
        """Places for the parts of large images, whose clients may be slow without delaying other calls."""
        self._seconds = limits.receive_seconds
        self._small = Places(SMALL_PLACES, limits.client_share, limits.waiting)
        self._arrivals: dict[asyncio.Task[object], _Arrival] = {}
        self._ended: dict[asyncio.Task[object], Callable[[], ServiceError]] = {}
        """Why reads were ended here."""
        self._sweep: asyncio.TimerHandle | None = None

    def part_place(self, call: Call) -> Place:
        """Return a place for receiving the parts of a large image; it is not held yet."""
        return Place(self._parts, owner_of(call.client, call.connection))

    async def read(self, call: Call, read: Callable[[], Awaitable[Value]]) -> Value:
        """Wait for a place, and return the value of `read`.

        Raises BusyError if too many calls wait, IdleError if the message does not arrive in time, and DrainingError if
        the receiver is closed meanwhile.
        """
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        assert task is not None  # noqa: S101 (a coroutine runs in a task)
        places = self._small if _is_small(call) else self.places
        arrival = self._arrivals[task] = _Arrival(owner_of(call.client, call.connection), places)
        if self._sweep is None:
            self._sweep = loop.call_later(SWEEP_SECONDS, self._end_late)
        try:
            await places.take(arrival.owner)
            try:
                arrival.begun = loop.time()
                return await read()
            finally:
                arrival.places.free(arrival.owner)
        except asyncio.CancelledError:
            if task not in self._ended:
                raise
            task.uncancel()
            error = self._ended[task]()
            raise error from None
        finally:
            del self._arrivals[task]
            self._ended.pop(task, None)

    def close(self) -> None:
        """End all reads, since the server shuts down: other servers can take these calls."""
        self._end(self._arrivals, _draining)

    def _end_late(self) -> None:
        loop = asyncio.get_running_loop()
        waited = {task: (arrival, loop.time() - arrival.begun) for task, arrival in self._arrivals.items()}
        self._end([task for task, (_, seconds) in waited.items() if seconds > self._seconds], self._late)
        small = [(task, arrival) for task, (arrival, seconds) in waited.items() if seconds > SMALL_SECONDS]
        self._end([task for task, each in small if each.places is self._small and not self._move(each)], _not_small)
        self._sweep = loop.call_later(SWEEP_SECONDS, self._end_late) if self._arrivals else None

    def _move(self, arrival: _Arrival) -> bool:
        """Move a message to an ordinary place; returns whether there is one."""
        has_place = self.places.take_at_once(arrival.owner)
        if has_place:
            arrival.places.free(arrival.owner)
            arrival.places = self.places
        return has_place

    def _end(self, tasks: Iterable["asyncio.Task[object]"], error: Callable[[], ServiceError]) -> None:
        for task in tasks:
            if task not in self._ended:
                self._ended[task] = error
                task.cancel()

    def _late(self) -> IdleError:
        return IdleError(
            f"message: expected the whole message within {self._seconds:g} seconds, got a part of it or nothing; "
            "use a faster connection, or send the image in parts with ScoreLarge"
        )


def _draining() -> DrainingError:
    return DrainingError("the server is shutting down; ask another server, or retry later")


def _not_small() -> BusyError:
    return BusyError(
        f"busy: expected a message of at most {SMALL_BYTES} bytes, as announced, within {SMALL_SECONDS:g} seconds "
        "while other messages arrive, got a part of it or nothing; retry later",
        RETRY_SECONDS,
    )


def _is_small(call: Call) -> bool:
    """Return whether a call announces a small message."""
    announced = call.metadata.get(MESSAGE_BYTES, "")
    return len(announced) <= len(str(SMALL_BYTES)) and announced.isdecimal() and int(announced) <= SMALL_BYTES
