"""When a call is repeated: after the delay that a busy server states, or with another server if a server is gone.

Scoring changes nothing on a server, so any call may be repeated. The waits grow, and are spread randomly, so that
clients that were refused together do not come back together.
"""

import random
import time
from typing import Any

import grpc
import numpy as np

from fullconv.errors import RequestError
from fullconv.options import check_timeout
from fullconv.remote.details import retry_seconds

GONE_SECONDS = (0.1, 1.0)
"""The first and the longest wait when a server is gone."""
BUSY_SECONDS = 10.0
"""The longest wait when a server is busy, unless the server itself states a longer delay."""
STATUS_LOST = "Internal error from Core"
"""Message that gRPC's asyncio calls report instead of the status, if a server ends a stream while messages are sent."""


class StreamEndedError(grpc.RpcError):  # type: ignore[misc] # grpc has no types
    """A server has ended a stream with OK before it had answered every request. The other requests are sent again."""

    def code(self) -> grpc.StatusCode:
        """Return the status of an unreachable server."""
        return grpc.StatusCode.UNAVAILABLE

    def details(self) -> str:
        """Return a message that states what the server did."""
        return "the stream ended with OK before every image had an answer"

    def trailing_metadata(self) -> tuple[()]:
        """Return no metadata."""
        return ()


class Retries:
    """The tries of one call: the first one and at most `more` others, all before the timeout."""

    def __init__(self, more: Any, timeout: Any) -> None:  # noqa: ANN401 (whatever the caller gives)
        """Raise RequestError unless the number of tries is 0 or more, and the timeout is None or seconds."""
        if not isinstance(more, (int, np.integer)) or isinstance(more, bool) or more < 0:
            raise RequestError(f"retries: expected 0 or more, got {more!r}")
        check_timeout(timeout)
        self._more = int(more)
        self.renew()
        self._end = None if timeout is None else time.monotonic() + float(timeout)

    def renew(self) -> None:
        """Count the tries from the start again, because the server has answered something."""
        self._left, self._growth, self._refused = self._more, 1.0, 0

    @property
    def remaining(self) -> float | None:
        """Seconds that the next try may take; None: no limit."""
        return None if self._end is None else max(0.0, self._end - time.monotonic())

    def after(self, error: grpc.RpcError, *, of: int | None = None) -> float:
        """Return the seconds to wait before the next try; raises the error if there is no further try.

        `of` is the number of servers if this server would refuse every retry in the same way: there is no further try
        after that many refusals in sequence. Default: None, the failure may be temporary.
        """
        self._refused = self._refused + 1 if of else 0
        delay = _first_delay(error)
        if delay is None or self._left <= 0 or (of and self._refused >= of):
            raise error
        busy = error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        longest = max(delay, BUSY_SECONDS) if busy else GONE_SECONDS[1]
        delay = min(longest, delay * self._growth) * random.uniform(1.0, 1.3)  # noqa: S311 (no secret)
        if self._end is not None and time.monotonic() + delay >= self._end:
            raise error
        self._left -= 1
        self._growth *= 2
        return delay


def _first_delay(error: grpc.RpcError) -> float | None:
    """Return the seconds to wait after the first failure; None: the call is not repeated."""
    if error.code() is grpc.StatusCode.UNAVAILABLE or STATUS_LOST in (error.details() or ""):
        return GONE_SECONDS[0]
    if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
        return None
    return retry_seconds(error)
