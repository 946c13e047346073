"""What a client has not taken yet of the answers that were written to its connection, and for how long it stalls.

An answer waits in the buffer of the transport, and before that in the buffer of the operating system for the socket.
The second buffer may hold megabytes. Only both together show that a slow client takes its answer.
"""

import asyncio
import sys
from contextlib import suppress
from dataclasses import dataclass
from fcntl import ioctl
from termios import TIOCOUTQ

LEAST_BYTES = 32 << 10
"""Bytes of a longer answer that a client must take; a client that takes fewer in a period counts as one that stalls."""


@dataclass
class Stall:
    """The period in which a client has taken nothing, or less than LEAST_BYTES, of the answers that wait for it."""

    since: float | None = None
    """Start of the period in seconds. None: nothing waits for the client."""
    untaken: int = 0
    """Bytes that waited at that time."""

    def seconds(self, now: float, untaken: int) -> float:
        """Return the length of the period in seconds, 0 if the client is taking its answers.

        `now` is the time in seconds, and `untaken` the number of bytes that wait now. Between two calls, a server
        writes more only after the client has taken nearly all that was written before.
        """
        has_taken = untaken <= self.untaken - LEAST_BYTES or untaken > self.untaken
        if not untaken:
            self.since = None
        elif self.since is None or has_taken:
            self.since, self.untaken = now, untaken
        return 0.0 if self.since is None else now - self.since


def untaken_bytes(transport: asyncio.Transport) -> int:
    """Return the bytes of answers that wait for the client; 0 if they all fit into the buffer of the socket.

    The operating system delivers the bytes in that buffer even after the connection is closed.
    """
    waiting, connected = transport.get_write_buffer_size(), transport.get_extra_info("socket")
    if not waiting or connected is None or connected.fileno() < 0:
        return 0
    queued = bytes(4)
    with suppress(OSError):  # a system that does not tell
        queued = ioctl(connected.fileno(), TIOCOUTQ, queued)
    return waiting + int.from_bytes(queued, sys.byteorder)
