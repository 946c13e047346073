"""Termination signals: the first starts the shutdown, a later one ends the process at once.

The first SIGTERM, SIGINT or SIGHUP starts draining: health says NOT_SERVING, new requests are refused with UNAVAILABLE,
admitted requests are answered, then the process ends. A signal more than GRACE_SECONDS later ends it at once.
"""

import asyncio
import signal
import time

GRACE_SECONDS = 1.0
"""Seconds in which further signals count as the first: some senders signal a process and also its group."""


class Signals:
    """The termination signals of this process. Before `install` they end it, as they do by default."""

    def __init__(self) -> None:
        self._first, self._again = asyncio.Event(), asyncio.Event()
        self._arrived = 0.0

    def install(self) -> None:
        """Handle the signals in the running event loop from now on."""
        numbers = [signal.SIGTERM, signal.SIGINT]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup ignores it
            numbers.append(signal.SIGHUP)
        for number in numbers:
            asyncio.get_running_loop().add_signal_handler(number, self._handle)

    async def first(self) -> None:
        """Wait for the signal to stop."""
        await self._first.wait()

    async def again(self) -> None:
        """Wait for the signal to stop at once."""
        await self._again.wait()

    def _handle(self) -> None:
        now = time.monotonic()
        if not self._first.is_set():
            self._arrived = now
            self._first.set()
        elif now - self._arrived > GRACE_SECONDS:
            self._again.set()
