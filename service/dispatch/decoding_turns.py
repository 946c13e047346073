"""Turns of requests to open, plan and decode images: at most as many at the same time as there are CPUs.

Clients take turns, whatever the number of their requests: the client that has decoded for the shortest time, relative
to the weight of its requests, is next. Decoding is interrupted after some ten milliseconds if another request waits.
Files that cannot be interrupted for long are decoded in processes of their own, which never take all of the turns.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Event, Lock, local

from service.engine.scheduler import Flow
from service.images.decoding import FREE, DecodingCost

APART_SECONDS = 0.3
"""Predicted seconds without a pause from which on a file is decoded in a process of its own."""
CHECK_SECONDS = 0.1
"""Time between two looks whether a request that waits was cancelled."""
TURN_SECONDS = 0.01
"""Time after which a turn passes to another client that waits."""


@dataclass(eq=False)
class _Waiter:
    """A request that waits for a turn."""

    client: str
    apart: bool
    granted: Event = field(default_factory=Event)
    """Set when the request gets its turn. Each request has its own event: waking all waiting requests at every turn
    would take longer than the work itself."""


@dataclass(eq=False)
class _Client:
    """One client's waiting requests, first come, first served."""

    virtual_time: float
    """Seconds of decoding, divided by the weights of the requests, since the client came, plus its start value."""
    waiting: deque[_Waiter] = field(default_factory=deque)
    running: int = 0


class DecodingTurns:
    """Turns for all requests of a server. A turn `apart` is for a process; of N >= 2 turns at most N - 1 are."""

    def __init__(self, turns: int) -> None:
        self._turns = max(2, turns)
        self._lock = Lock()
        self._clients: dict[str, _Client] = {}
        self._running = {True: 0, False: 0}
        """Number of turns taken by processes, and by threads."""
        self._virtual_time = 0.0
        """The virtual time at which the last turn was given; a new client starts there."""

    @property
    def waiting(self) -> int:
        """Number of requests that wait for a turn."""
        with self._lock:
            return sum(len(client.waiting) for client in self._clients.values())

    def acquire(self, flow: Flow, client: str, *, apart: bool) -> None:
        """Wait for a turn; raises CancelledRunError."""
        with self._lock:
            waiter = _Waiter(client, apart)
            self._client(client).waiting.append(waiter)
            self._grant()
        try:
            flow.check()
            while not waiter.granted.wait(CHECK_SECONDS):
                flow.check()
            flow.check()
        except BaseException:
            with self._lock:
                self._withdraw(waiter)
            raise

    def release(self, client: str, seconds: float, *, apart: bool) -> None:
        """Give a turn back that took some seconds, divided by the weight of its request."""
        with self._lock:
            self._return(client, seconds, apart=apart)

    def _return(self, client: str, seconds: float, *, apart: bool) -> None:
        known = self._clients[client]
        known.virtual_time += seconds
        known.running -= 1
        self._running[apart] -= 1
        self._forget(client)
        self._grant()

    def _client(self, name: str) -> _Client:
        client = self._clients.get(name)
        if client is None:
            client = self._clients[name] = _Client(self._virtual_time)
        return client

    def _forget(self, name: str) -> None:
        client = self._clients[name]
        if not client.waiting and not client.running:
            del self._clients[name]

    def _withdraw(self, waiter: _Waiter) -> None:
        """Leave the queue, or give a turn back that came too late."""
        if waiter.granted.is_set():
            self._return(waiter.client, 0.0, apart=waiter.apart)
            return
        self._clients[waiter.client].waiting.remove(waiter)
        self._forget(waiter.client)

    def _grant(self) -> None:
        """Give the free turns to the clients with the lowest virtual times."""
        while (waiter := self._next()) is not None:
            client = self._clients[waiter.client]
            client.waiting.remove(waiter)
            client.running += 1
            self._running[waiter.apart] += 1
            self._virtual_time = max(self._virtual_time, client.virtual_time)
            waiter.granted.set()

    def _next(self) -> _Waiter | None:
        """Return the waiter that gets the next turn; None if nobody waits or no turn is free."""
        if sum(self._running.values()) >= self._turns:
            return None
        allowed = [
            (client.virtual_time, waiter)
            for client in self._clients.values()
            if (waiter := self._first_allowed(client)) is not None
        ]
        return min(allowed, key=lambda each: each[0])[1] if allowed else None

    def _first_allowed(self, client: _Client) -> _Waiter | None:
        may_be_apart = self._running[True] < self._turns - 1
        return next((waiter for waiter in client.waiting if may_be_apart or not waiter.apart), None)


class RequestDecoding:
    """The turns of one request; a `Decoding`. A request may have a turn in each of several threads."""

    def __init__(self, turns: DecodingTurns, flow: Flow, client: str) -> None:
        self._turns, self._flow, self._client = turns, flow, client
        self._local = local()
        """When the turn of this thread began, `started`, and whether it is that of a process, `apart`."""
        self.seconds = 0.0
        """Time that the request has decoded so far."""
        self._ends: list[Callable[[], None]] | None = []
        """Functions that `close` will call; None after the request has ended."""
        self._lock = Lock()

    @contextmanager
    def turn(self, cost: DecodingCost) -> Iterator[None]:
        """Wait for a turn, and hold it during the block. Pixels that are not encoded need none."""
        if cost is FREE:
            self._flow.check()
            yield
            return
        apart = self.is_apart(cost)
        self._acquire(apart=apart)
        try:
            yield
        finally:
            if self._local.started is not None:
                self._release(apart=apart)

    def pause(self) -> None:
        """Leave the turn to another request, if one waits; raises CancelledRunError."""
        self._flow.check()
        started = getattr(self._local, "started", None)
        if started is None or time.monotonic() - started < TURN_SECONDS or not self._turns.waiting:
            return
        apart = self._local.apart
        self._release(apart=apart)
        self._acquire(apart=apart)

    def is_apart(self, cost: DecodingCost) -> bool:
        """Return whether files of this cost are decoded in a process of their own."""
        return cost.step_seconds > APART_SECONDS

    def at_end(self, end: Callable[[], None]) -> None:
        """Call a function once the request has ended; at once if it has ended already."""
        with self._lock:
            if self._ends is not None:
                self._ends.append(end)
                return
        end()

    def close(self) -> None:
        """Call the functions of `at_end`, which end the processes that decode the request's images."""
        with self._lock:
            ends, self._ends = self._ends or (), None
        for end in ends:
            end()

    def _acquire(self, *, apart: bool) -> None:
        self._turns.acquire(self._flow, self._client, apart=apart)
        self._local.started, self._local.apart = time.monotonic(), apart

    def _release(self, *, apart: bool) -> None:
        seconds = time.monotonic() - self._local.started
        self._local.started = None
        self.seconds += seconds
        self._turns.release(self._client, seconds / self._flow.weight, apart=apart)
