"""How many bytes of its answers a client has not taken yet, and how long the client has stalled.

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
"""Bytes that a client must take of a longer answer; a client that takes fewer stalls."""


@dataclass
class Stall:
    """The period in which a client has taken nothing, or less than LEAST_BYTES, of the answers that wait for it."""

    began: float | None = None
    """Time in seconds since which something has waited for the client. None: nothing waits."""
    since: float = 0.0
    """Start of the period in seconds."""
    untaken: int = 0
    """Bytes that waited at that time."""

    def seconds(self, now: float, untaken: int) -> float:
        """Return the length of the period in seconds, 0 if the client is taking its answers.

        `now` is the time in seconds, and `untaken` the number of bytes that wait now. Between two calls, a server
        writes more only after the client has taken nearly all that was written before.
        """
        has_taken = untaken <= self.untaken - LEAST_BYTES or untaken > self.untaken
        if not untaken:
            self.began = None
            return 0.0
        if self.began is None or has_taken:
            self.began = now if self.began is None else self.began
            self.since, self.untaken = now, untaken
        return now - self.since

    def waiting_seconds(self, now: float) -> float:
        """Return for how long something has waited for the client without a break."""
        return 0.0 if self.began is None else now - self.began


def untaken_bytes(transport: asyncio.Transport) -> int:
    """Return the bytes of answers that wait for the client; 0 if they all fit into the buffer of the socket.

    The operating system delivers the bytes in that buffer even after the connection is closed. With TLS, they count
    too: a transport of TLS does not tell what waits in the transport below, which is empty if that buffer is.
    """
    waiting, connected = transport.get_write_buffer_size(), transport.get_extra_info("socket")
    is_encrypted = transport.get_extra_info("ssl_object") is not None
    if connected is None or connected.fileno() < 0 or not (waiting or is_encrypted):
        return 0
    queued = bytes(4)
    with suppress(OSError):  # the system does not support this request
        queued = ioctl(connected.fileno(), TIOCOUTQ, queued)
    return waiting + int.from_bytes(queued, sys.byteorder)
