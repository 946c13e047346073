"""When a call is made again: a busy server says when, and a server that has gone leaves its place to another one.

Scoring changes nothing on a server, so that any call may be made twice. Waits grow, and are spread, so that clients
that were turned away together do not come back together.
"""

import random
import time

import grpc
import numpy as np

from fullconv.errors import RequestError
from fullconv.remote.details import retry_seconds

GONE_SECONDS = (0.1, 1.0)
"""The first wait and the longest one, where a server has gone."""
STATUS_LOST = "Internal error from Core"
"""What gRPC's asyncio calls say in place of the status, where a server ends a stream that is being written to."""
LONGEST_TIMEOUT = 1e9
"""Seconds; gRPC takes much more for none at all."""
LONGEST_SECONDS = 10.0
"""The longest one where a server is busy, unless it says more."""


class StreamEndedError(grpc.RpcError):  # type: ignore[misc] # grpc has no types
    """A server has ended a stream with OK before it had answered everything; what is missing is asked for again."""

    def code(self) -> grpc.StatusCode:
        """Return the status of a server that has gone."""
        return grpc.StatusCode.UNAVAILABLE

    def details(self) -> str:
        """Say what the server did."""
        return "the stream ended with OK before every image had an answer"

    def trailing_metadata(self) -> tuple[()]:
        """Return nothing."""
        return ()


class Retries:
    """The tries of one call: so many more than one, none after its time is up."""

    def __init__(self, more: int, timeout: float | None) -> None:
        """Raise RequestError for numbers that are none."""
        if not isinstance(more, (int, np.integer)) or isinstance(more, bool) or more < 0:
            raise RequestError(f"retries: expected 0 or more, got {more!r}")
        if timeout is not None and not (
            isinstance(timeout, (int, float, np.number))
            and not isinstance(timeout, bool)
            and 0 < timeout <= LONGEST_TIMEOUT
        ):
            raise RequestError(f"timeout: expected seconds, above 0 and at most {LONGEST_TIMEOUT:g}; got {timeout!r}")
        self._more = more
        self.renew()
        self._end = None if timeout is None else time.monotonic() + float(timeout)

    def renew(self) -> None:
        """Count from the start again, since there was an answer."""
        self._left, self._growth, self._refused = self._more, 1.0, 0

    @property
    def remaining(self) -> float | None:
        """Seconds that the next try may take; None: for ever."""
        return None if self._end is None else max(0.0, self._end - time.monotonic())

    def after(self, error: grpc.RpcError, *, of: int | None = None) -> float:
        """Seconds to wait before the next try; raises the error if there is none.

        `of` so many servers, this one will be no other soon: there is none when all of them said so in turn.
        """
        self._refused = self._refused + 1 if of else 0
        delay = _delay(error)
        if delay is None or self._left <= 0 or (of and self._refused >= of):
            raise error
        busy = error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        longest = max(delay, LONGEST_SECONDS) if busy else GONE_SECONDS[1]
        delay = min(longest, delay * self._growth) * random.uniform(1.0, 1.3)  # noqa: S311 (no secret)
        if self._end is not None and time.monotonic() + delay >= self._end:
            raise error
        self._left -= 1
        self._growth *= 2
        return delay


def _delay(error: grpc.RpcError) -> float | None:
    """Seconds after which to come again at first; None: never."""
    if error.code() is grpc.StatusCode.UNAVAILABLE or STATUS_LOST in (error.details() or ""):
        return GONE_SECONDS[0]
    if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
        return None
    return retry_seconds(error)
