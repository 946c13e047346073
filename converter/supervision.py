"""Runs the command in a child process, so that a signal ends it at any time.

Python handles a signal only while it interprets code, but ONNX Runtime, the checker of ONNX and exporters may run in
C++ for minutes. The parent loads none of them. It passes a signal on to the child, kills a child that does not end by
itself, and removes what the child has left.
"""

import ctypes
import os
import signal
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from fullconv.common.interruption import INTERRUPTED, Interruption
from fullconv.common.temporary import LEFTOVER, announced, remove_leftovers

GRACE_SECONDS = 0.5
"""Seconds that the child has after a signal to end by itself."""
FAILED = 1
"""Exit status after an uncaught error, which a signal may have caused in a C library."""
SIGNALS = (signal.SIGINT, signal.SIGTERM)
PIPE_BYTES = 1 << 16
"""Bytes that a pipe holds, which is enough for the paths that one conversion announces."""
PR_SET_PDEATHSIG = 1
"""Option of prctl(2): the signal that a process gets when its parent ends."""


def supervise(interruption: Interruption) -> None:
    """Return in a new child process. The parent waits for the child, and ends with the child's exit status.

    `interruption` handles the signals of the child, which leaves the message to its parent.
    After SIGINT or SIGTERM, or if the child was killed, the exit status is 1. Nothing incomplete is left in any case.
    To be called before threads start.
    """
    reader, writer = os.pipe()
    parent, mask = os.getpid(), signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    child = os.fork()
    if child:
        os.close(writer)
        _Supervisor(interruption.command, child, reader).wait(mask)
    os.close(reader)
    interruption.silent = True
    _end_with_parent(parent)
    announced.append(lambda path: os.write(writer, os.fsencode(path.absolute()) + b"\0"))
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _end_with_parent(parent: int) -> None:
    """Let the system kill this process when its parent, whose process id is given, ends. Only Linux can do that."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)


@dataclass
class _Supervisor:
    """The parent's side: waits for the child, which announces on a pipe what it makes."""

    command: str
    child: int
    announcements: int
    is_interrupted: bool = False

    def wait(self, mask: set[int | signal.Signals]) -> NoReturn:
        """Wait until the child has ended, and exit; `mask` are the signals that were blocked before."""
        for number in SIGNALS:
            signal.signal(number, self._interrupt)
        signal.signal(signal.SIGALRM, lambda *_: self._send(signal.SIGKILL))
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        _, status = os.waitpid(self.child, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        self._clean_up()
        code = os.waitstatus_to_exitcode(status)
        if code == INTERRUPTED or (self.is_interrupted and (code < 0 or code == FAILED)):
            sys.exit(f"{self.command}: interrupted")
        sys.exit(code if code >= 0 else f"{self.command}: ended by {signal.strsignal(-code)} (signal {-code})")

    def _interrupt(self, *_: object) -> None:
        """Pass the first signal on, and kill the child if it still runs after GRACE_SECONDS."""
        if not self.is_interrupted:
            self.is_interrupted = True
            self._send(signal.SIGTERM)
            signal.setitimer(signal.ITIMER_REAL, GRACE_SECONDS)

    def _send(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):  # the child has just ended
            os.kill(self.child, number)

    def _clean_up(self) -> None:
        """Remove what the child has announced and left: temporary files and folders, and then empty folders."""
        paths = [Path(os.fsdecode(path)) for path in os.read(self.announcements, PIPE_BYTES).split(b"\0") if path]
        for path in reversed(paths):
            if LEFTOVER.fullmatch(path.name):
                remove_leftovers(path.parent)
            elif path.is_dir() and not any(path.iterdir()):
                path.rmdir()
