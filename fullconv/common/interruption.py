"""Ctrl-C and termination signals: the process ends with status 1 and leaves no incomplete output.

A process whose parent prints the message ends with the status INTERRUPTED.
"""

import math
import signal
import sys
import time
from dataclasses import dataclass

GRACE_SECONDS = 1.0
"""Seconds in which further signals raise no exception, which would interrupt the deletion of temporary files. Some
senders signal a process and also its group."""
INTERRUPTED = 130
"""Exit status of an interrupted process that prints no message."""


@dataclass
class Interruption:
    """Ends the process by an exception, so that temporary files are deleted.

    An exception that is raised while a C library calls back into Python is lost. The request is therefore remembered,
    and long work calls `check` from time to time.
    """

    command: str
    """Name of the command, for the message."""
    silent: bool = False
    """Whether the parent of the process prints the message."""
    requested: bool = False
    _arrived: float = -math.inf
    """When a signal last raised the exception, in seconds of the monotonic clock."""

    def install(self) -> None:
        """Handle SIGINT and SIGTERM from now on."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._request)
        show = sys.excepthook
        sys.excepthook = lambda *error: self._print_message() if self.requested else show(*error)

    def check(self) -> None:
        """End the process if a signal has requested it."""
        if self.requested:
            sys.exit(INTERRUPTED if self.silent else f"{self.command}: interrupted")

    def _print_message(self) -> None:
        """Print the message in place of the traceback of an error that the signal has caused in a C library."""
        if not self.silent:
            sys.stderr.write(f"{self.command}: interrupted\n")

    def _request(self, *_: object) -> None:
        self.requested = True
        now = time.monotonic()
        if now - self._arrived > GRACE_SECONDS:
            self._arrived = now
            self.check()
