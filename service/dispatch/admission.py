"""Admission: limits the load of admitted requests that are not yet answered, in total and for each client.

A request is admitted in two steps: when it arrives, by the size of its message; and before a pixel is decoded, by its
plan, which says the memory that it will hold and the seconds of compute that it will take. A request that is alone is
admitted even if it exceeds a client's share, or a limit of time or messages; memory beyond the limit is refused. Images
that need little memory have a part of their own, so that large images of the same client cannot keep them out. A
refusal states the number of seconds after which to retry.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock

from service.errors import BusyError, LimitError
from service.limits import MIB, Limits

RETRY_SECONDS = (0.1, 10.0)
"""Shortest and longest delay in seconds after which a refused request may be sent again."""
STREAM_SECONDS = 1.0
"""The same delay in seconds if there are too many streams or files in the spool, since their end is unpredictable."""
SMALL, SMALL_PART = 1 / 64, 1 / 8
"""Largest memory of a small image, relative to its client's share of the limit; and largest memory of all small images,
relative to the limit for all others."""
TOLERANCE = 1e-6
"""Tolerance for the floating-point residue that remains after claims are added and subtracted."""


@dataclass
class Load:
    """The sum of the claims of several requests."""

    requests: int = 0
    streams: int = 0
    message_streams: int = 0
    """Those of ScoreMany and ModelStreamInfer, each of which may hold a message that is still arriving."""
    message_bytes: int = 0
    held_bytes: int = 0
    small_held_bytes: int = 0
    """The part of `held_bytes` that belongs to small images."""
    seconds: float = 0.0
    spool_bytes: int = 0

    @property
    def large_held_bytes(self) -> int:
        """The part of `held_bytes` that belongs to other images."""
        return self.held_bytes - self.small_held_bytes


@dataclass(eq=False)
class Claim:
    """The load of one request or stream. `done` returns the fraction of its compute that is finished, 0 to 1."""

    client: str
    message_bytes: int = 0
    requests: int = 1
    streams: int = 0
    message_streams: int = 0
    held_bytes: int = 0
    small_held_bytes: int = 0
    seconds: float = 0.0
    spool_bytes: int = 0
    done: Callable[[], float] = lambda: 0.0

    @property
    def left(self) -> float:
        """Predicted seconds of compute that remain."""
        return self.seconds * (1 - self.done())


@dataclass(eq=False)
class Admission:
    """Counts the load of all admitted requests; may be used by several threads."""

    limits: Limits
    _all: Load = field(init=False, default_factory=Load)
    _clients: defaultdict[str, Load] = field(init=False, default_factory=lambda: defaultdict(Load))
    _claims: set[Claim] = field(init=False, default_factory=set)
    _lock: Lock = field(init=False, default_factory=Lock)

    @property
    def load(self) -> Load:
        """The load of all admitted requests and streams together."""
        return self._all

    @contextmanager
    def admitted(self, client: str, message_bytes: int) -> Iterator[Claim]:
        """Admit a request of a client for the duration of the block; raises BusyError."""
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
    def answer(self, client: str, size: int) -> Iterator[None]:
        """Count an answer of `size` bytes as a message of a client while it is sent, for the duration of the block.

        It is never refused, since its scores are computed already; but new requests may be.
        """
        claim = Claim(client, size)
        with self._lock:
            self._count(claim, 1)
        try:
            yield
        finally:
            with self._lock:
                self._count(claim, -1)

    @contextmanager
    def stream(self, client: str, *, of_messages: bool = False) -> Iterator[None]:
        """Admit a stream of a client for the duration of the block; raises BusyError.

        The messages of a stream `of_messages` are received as soon as they arrive, without a place in turn.
        """
        claim = Claim(client, requests=0, streams=1, message_streams=int(of_messages))
        with self._lock:
            self._check(claim, "streams", 1, self.limits.streams)
            if of_messages:
                self._check(claim, "message_streams", 1, self.limits.messages)
            self._count(claim, 1)
        try:
            yield
        finally:
            with self._lock:
                self._count(claim, -1)

    def plan(
        self, claim: Claim, held_bytes: int, seconds: float, *, deadline: float | None, done: Callable[[], float]
    ) -> None:
        """Admit a request by its plan: the bytes and seconds that it needs.

        Raises LimitError for more memory than all requests together may hold, and BusyError if a limit is exceeded
        now, or if the answer is predicted after `deadline` on the monotonic clock.
        """
        if held_bytes > self.limits.held_bytes:
            raise LimitError(
                f"memory: expected pixels and scores of at most {self.limits.held_bytes / MIB:.0f} MiB, got "
                f"{held_bytes / MIB:.0f} as planned; ask for a region or fewer scales, or save the image as a baseline "
                "JPEG or a tiled TIFF"
            )
        with self._lock:
            is_small = held_bytes <= SMALL * self.limits.client_share * self.limits.held_bytes
            if is_small:
                self._check(claim, "small_held_bytes", held_bytes, SMALL_PART * self.limits.held_bytes)
            else:
                self._check(claim, "large_held_bytes", held_bytes, self.limits.held_bytes)
            self._check(claim, "seconds", seconds, self.limits.waiting_seconds)
            if deadline is not None:
                self._check_deadline(claim, seconds, deadline)
            self._count(claim, -1)
            claim.held_bytes, claim.seconds, claim.done = held_bytes, seconds, done
            claim.small_held_bytes = held_bytes if is_small else 0
            self._count(claim, 1)

    def _check_deadline(self, claim: Claim, seconds: float, deadline: float) -> None:
        """Raise BusyError if a request is predicted to finish after `deadline`."""
        late = time.monotonic() + self._predicted(claim, seconds) - deadline
        if late > 0:
            raise BusyError(
                f"deadline: expected time for this and all waiting requests, got {late:.1f} seconds too few; "
                "allow more time, or retry later",
                self._retry(),
            )

    def spool(self, claim: Claim, more: int) -> None:
        """Admit `more` bytes of an admitted request's file in the spool.

        Raises LimitError if the file alone exceeds the client's share of the spool, and BusyError if it does not fit
        beside other files.
        """
        with self._lock:
            share, size = int(self.limits.spool_bytes * self.limits.client_share), claim.spool_bytes + more
            if size > share:
                whose = "the size of the spool" if share == self.limits.spool_bytes else "your share of the spool"
                raise LimitError(
                    f"data: expected a file of at most {share / MIB:.3g} MiB, {whose}, got more; a file that the "
                    "server can read by its path needs no spool"
                )
            client = self._clients[claim.client]
            for load, most, whose in ((self._all, self.limits.spool_bytes, "all"), (client, share, "your")):
                if load.spool_bytes + more > most:
                    raise BusyError(
                        f"spool: expected {whose} files together to be at most {most / MIB:.3g} MiB, got more; retry "
                        "later",
                        STREAM_SECONDS,
                    )
            self._count(claim, -1)
            claim.spool_bytes = size
            self._count(claim, 1)

    def _predicted(self, claim: Claim, seconds: float) -> float:
        """Return the predicted number of seconds until a request finishes.

        Requests share the compute equally. Each other request therefore delays this request by at most `seconds`, the
        compute that this request needs, or by the compute that the other request still needs, if that is less.
        """
        return seconds + sum(min(seconds, other.left) for other in self._claims if other is not claim)

    def _check(self, claim: Claim, what: str, more: float, limit: float) -> None:
        """Raise BusyError if an attribute of Load plus `more` exceeds the limit of all requests or of one client."""
        share = limit * self.limits.client_share
        for load, most, whose in ((self._all, limit, "all"), (self._clients.get(claim.client, Load()), share, "your")):
            have = getattr(load, what)
            if have > TOLERANCE and have + more > most:
                raise BusyError(
                    f"busy: expected {whose} requests together to be at most {_quantity(what, most)}, got "
                    f"{_quantity(what, have + more)}; retry later",
                    self._retry() if "streams" not in what else STREAM_SECONDS,
                )

    def _retry(self) -> float:
        """Return the seconds until the first of the planned requests is predicted to finish, within RETRY_SECONDS."""
        least, most = RETRY_SECONDS
        planned = [claim.left for claim in self._claims if claim.seconds > 0]
        return min(most, max(least, min(planned, default=least)))

    def _count(self, claim: Claim, sign: int) -> None:
        """Add a claim (`sign` 1) or subtract it (`sign` -1)."""
        for load in (self._all, self._clients[claim.client]):
            load.requests += sign * claim.requests
            load.streams += sign * claim.streams
            load.message_streams += sign * claim.message_streams
            load.message_bytes += sign * claim.message_bytes
            load.held_bytes += sign * claim.held_bytes
            load.small_held_bytes += sign * claim.small_held_bytes
            load.seconds += sign * claim.seconds
            load.spool_bytes += sign * claim.spool_bytes
        (self._claims.add if sign > 0 else self._claims.discard)(claim)
        if not (self._clients[claim.client].requests or self._clients[claim.client].streams):
            del self._clients[claim.client]


def _quantity(what: str, value: float) -> str:
    """Return a value of an attribute of Load with its unit."""
    match what:
        case "requests":
            return f"{value:.0f}"
        case "streams":
            return f"{value:.0f} streams"
        case "message_streams":
            return f"{value:.0f} streams of messages"
        case "seconds":
            return f"{value:.0f} seconds of compute"
    return f"{value / MIB:.0f} MiB of {'messages' if what == 'message_bytes' else 'pixels and scores'}"
