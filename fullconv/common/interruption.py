"""Ctrl-C and termination signals: the process ends with status 1 and leaves no incomplete output."""

import signal
import sys
from dataclasses import dataclass


@dataclass
class Interruption:
    """Ends the process by an exception, so that temporary files are deleted.

    An exception that is raised while a C library calls back into Python is lost. The request is therefore remembered,
    and long work calls `check` from time to time.
    """

    command: str
    """Name of the command, for the message."""
    requested: bool = False

    def install(self) -> None:
        """Handle SIGINT and SIGTERM from now on."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._request)

    def check(self) -> None:
        """End the process if a signal has requested it."""
        if self.requested:
            sys.exit(f"{self.command}: interrupted")

    def _request(self, *_: object) -> None:
        self.requested = True
        self.check()
