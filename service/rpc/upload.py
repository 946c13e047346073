"""The pace of an upload: how long the server waits for the parts of one image, and how slowly they may arrive."""

import asyncio
from dataclasses import dataclass

from service.errors import DrainingError, IdleError, ServiceError
from service.limits import MIB, Limits

DRAINING_SECONDS = 3.0
"""Seconds for which a client may send nothing while the server shuts down."""
WAY_OUT = "use a faster connection, or a smaller image"


@dataclass(eq=False)
class Upload:
    """The bytes of one image so far, and the seconds for which the server waited for them.

    Time in which the server does not wait does not count: then the client is faster than the server.
    """

    limits: Limits
    draining: asyncio.Event
    """Set when the server begins to shut down."""
    received: int = 0
    """Bytes that have arrived."""
    waited: float = 0.0
    """Seconds of waiting for them."""

    def add(self, size: int, waited: float) -> None:
        """Count a part of `size` bytes that arrived after `waited` seconds; raises as `check` does."""
        self.received += size
        self.waited += waited
        self.check(0.0)

    def check(self, pause: float) -> None:
        """Raise IdleError if the client is too slow; it has sent nothing for `pause` seconds.

        While the server shuts down, raises DrainingError much earlier, since another server can take the image.
        """
        error = self._error(self.waited + pause, pause)
        if error is not None:
            raise error

    def _error(self, waited: float, pause: float) -> ServiceError | None:
        limits = self.limits
        got = f"{self.received / MIB:.3g} MiB in {waited:.3g} seconds"
        if pause >= limits.idle_seconds:
            return IdleError(
                f"client: expected it to send the next part within {limits.idle_seconds:g} seconds, got nothing; send "
                "and read without pausing"
            )
        if waited >= limits.upload_seconds:
            return IdleError(
                f"upload: expected the whole image within {limits.upload_seconds:g} seconds (max_upload), got {got}; "
                f"{WAY_OUT}"
            )
        slow = self.received < limits.upload_rate * waited
        if self.draining.is_set() and (slow or pause >= DRAINING_SECONDS):
            return DrainingError("the server is shutting down; send the image to another server")
        if slow and waited >= limits.idle_seconds:
            return IdleError(
                f"upload: expected at least {limits.upload_rate / 1024:g} KiB per second (min_upload_kib), got {got}; "
                f"{WAY_OUT}"
            )
        return None
