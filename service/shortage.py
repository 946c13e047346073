"""Shortages of the server itself, which libraries report as errors of an image or a model.

A decoder that gets no file descriptor, thread, memory or disk space fails as if its file were damaged. The client
should then send its request again, and the operator should know.
"""

import errno
import os
from collections.abc import Iterator
from threading import Thread

from service.errors import ShortageError

RESOURCES = {
    errno.EMFILE: "file descriptors",
    errno.ENFILE: "file descriptors",
    errno.ENOMEM: "memory",
    errno.ENOSPC: "disk space",
    errno.EDQUOT: "disk space",
}
"""The resource that is short, by the number of a system error."""
NO_THREAD = "can't start new thread"
"""Message of Python's RuntimeError."""


def shortage_of(error: BaseException) -> ShortageError | None:
    """Return the shortage that led to an error; None if there is no sign of one."""
    for cause in _causes(error):
        if isinstance(cause, ShortageError):
            return cause
        if isinstance(cause, MemoryError):
            return ShortageError("memory")
        if isinstance(cause, OSError) and cause.errno in RESOURCES:
            return ShortageError(RESOURCES[cause.errno])
        if isinstance(cause, RuntimeError) and str(cause) == NO_THREAD:
            return ShortageError("threads")
    return None


def check_resources() -> None:
    """Raise ShortageError if this process gets no file descriptor or no thread.

    For errors of libraries that do not say why they have failed.
    """
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
        thread = Thread(target=lambda: None)
        thread.start()
        thread.join()
    except (OSError, RuntimeError) as error:
        shortage = shortage_of(error)
        if shortage is None:
            raise
        raise shortage from None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error, and the errors during whose handling it was raised."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
