"""Ctrl-C and termination signals: status 1, with nothing half-written."""

import signal
import sys
from dataclasses import dataclass


@dataclass
class Interruption:
    """Ends the process by an exception, so that what is half-written is cleaned up.

    An exception that is raised while a C library calls back into Python is lost. So the request is remembered, and
    long work asks for it again with `check`.
    """

    command: str
    requested: bool = False

    def install(self) -> None:
        """Handle SIGINT and SIGTERM from now on."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._request)

    def check(self) -> None:
        """End the process if that was asked for."""
        if self.requested:
            sys.exit(f"{self.command}: interrupted")

    def _request(self, *_: object) -> None:
        self.requested = True
        self.check()
