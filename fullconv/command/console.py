"""Printing of results and errors, and of characters that the terminal's encoding lacks."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from fullconv.common.text import printable


def print_error(error: object) -> None:
    """Print one line on standard error. Control characters, which a file's name may hold, are replaced."""
    print(printable(f"fullconv-score: {error}"), file=sys.stderr)  # noqa: T201 (this is where it is printed)


def tolerate_encodings() -> None:
    """Print a question mark for a character that the terminal's encoding lacks, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # None if the stream is closed
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]


def check_output() -> None:
    """End the process with status 1 if standard output is closed, before anything is computed."""
    if sys.stdout is None:
        print_error("standard output: expected an open stream, got a closed one")
        sys.exit(1)


@contextmanager
def printing() -> Iterator[None]:
    """End the process with status 1 and one line if the block cannot write to standard output.

    A closed pipe is no error of this command: it passes unchanged.
    """
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        print_error(f"standard output: cannot be written: {error.strerror or error}")
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python writes the rest when it ends
        sys.exit(1)
