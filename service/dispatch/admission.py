"""Who may come in: what is admitted and not answered yet, in all and of each client.

A request is admitted twice: by the size of its message when it comes, and by its plan, the memory that it will hold and
the seconds of compute that it will take, before a pixel is decoded. One alone may be larger than what all may be
together. Whoever is refused is told when to come again.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock

from service.errors import BusyError
from service.limits import Limits

RETRY_SECONDS = (0.1, 10.0)
"""After which to come again, at the least and at the most."""
STREAM_SECONDS = 1.0
"""The same, where streams are too many: when one ends cannot be told."""
NOTHING = 1e-6
"""Seconds that are left of none, when they were added up and taken away."""
MIB = 1 << 20


@dataclass
class Load:
    """What some requests hold together."""

    requests: int = 0
    streams: int = 0
    message_bytes: int = 0
    held_bytes: int = 0
    seconds: float = 0.0


@dataclass(eq=False)
class Claim:
    """One request's share; `done` says how much of its compute is over, 0 to 1."""

    client: str
    message_bytes: int = 0
    requests: int = 1
    streams: int = 0
    held_bytes: int = 0
    seconds: float = 0.0
    done: Callable[[], float] = lambda: 0.0

    @property
    def left(self) -> float:
        """Seconds of compute that are still to come."""
        return self.seconds * (1 - self.done())


@dataclass(eq=False)
class Admission:
    """Keeps count, between threads."""

    limits: Limits
    _all: Load = field(init=False, default_factory=Load)
    _clients: defaultdict[str, Load] = field(init=False, default_factory=lambda: defaultdict(Load))
    _claims: set[Claim] = field(init=False, default_factory=set)
    _lock: Lock = field(init=False, default_factory=Lock)

    @property
    def load(self) -> Load:
        """What all hold together."""
        return self._all

    @contextmanager
    def admitted(self, client: str, message_bytes: int) -> Iterator[Claim]:
        """Admit a request of a client for as long as the block; raises BusyError."""
        claim = Claim(client, message_bytes)
        with self._lock:
            self._check(claim, "requests", 1, self.limits.waiting)
            self._check(claim, "message_bytes", message_bytes, self.limits.waiting_bytes)
            self._count(claim, 1)
        try:
            yield claim
        finally:
            with self._lock:
                self._count(claim, -1)

    @contextmanager
    def stream(self, client: str) -> Iterator[None]:
        """Admit a stream of a client for as long as the block; raises BusyError."""
        claim = Claim(client, requests=0, streams=1)
        with self._lock:
            self._check(claim, "streams", 1, self.limits.streams)
            self._count(claim, 1)
        try:
            yield
        finally:
            with self._lock:
                self._count(claim, -1)

    def plan(
        self, claim: Claim, held_bytes: int, seconds: float, *, deadline: float | None, done: Callable[[], float]
    ) -> None:
        """Admit what was planned; raises BusyError if it is too much, or would end after a monotonic `deadline`."""
        with self._lock:
            self._check(claim, "held_bytes", held_bytes, self.limits.held_bytes)
            self._check(claim, "seconds", seconds, self.limits.waiting_seconds)
            end = time.monotonic() + self._predicted(claim, seconds)
            if deadline is not None and end > deadline:
                late = end - deadline
                raise BusyError(
                    f"deadline: expected time for what is waiting too, got {late:.1f} seconds too few: allow more, or "
                    "come again",
                    self._retry(),
                )
            self._count(claim, -1)
            claim.held_bytes, claim.seconds, claim.done = held_bytes, seconds, done
            self._count(claim, 1)

    def _predicted(self, claim: Claim, seconds: float) -> float:
        """When a request is done if all have their turns: it waits for none of them longer than it takes itself."""
        return seconds + sum(min(seconds, other.left) for other in self._claims if other is not claim)

    def _check(self, claim: Claim, what: str, more: float, limit: float) -> None:
        share = limit * self.limits.client_share
        for load, most, whose in ((self._all, limit, "all"), (self._clients.get(claim.client, Load()), share, "your")):
            have = getattr(load, what)
            if have > NOTHING and have + more > most:
                raise BusyError(
                    f"busy: expected {whose} requests together to be at most {_said(what, most)}, got "
                    f"{_said(what, have + more)}: come again",
                    self._retry() if what != "streams" else STREAM_SECONDS,
                )

    def _retry(self) -> float:
        """When the first of them is likely to be done, of those that are planned."""
        least, most = RETRY_SECONDS
        planned = [claim.left for claim in self._claims if claim.seconds > 0]
        return min(most, max(least, min(planned, default=least)))

    def _count(self, claim: Claim, sign: int) -> None:
        for load in (self._all, self._clients[claim.client]):
            load.requests += sign * claim.requests
            load.streams += sign * claim.streams
            load.message_bytes += sign * claim.message_bytes
            load.held_bytes += sign * claim.held_bytes
            load.seconds += sign * claim.seconds
        (self._claims.add if sign > 0 else self._claims.discard)(claim)
        if not (self._clients[claim.client].requests or self._clients[claim.client].streams):
            del self._clients[claim.client]


def _said(what: str, value: float) -> str:
    match what:
        case "requests":
            return f"{value:.0f}"
        case "streams":
            return f"{value:.0f} streams"
        case "seconds":
            return f"{value:.0f} seconds of compute"
    return f"{value / MIB:.0f} MiB of {'messages' if what == 'message_bytes' else 'pixels and scores'}"
