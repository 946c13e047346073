"""Printing of results and errors, and of characters that the terminal's encoding lacks."""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from fullconv.common.text import printable

OPTIONS = {
    "region": "roi", "grid_as": "grid-as", "box_output": "box-output", "min_agreement": "min-agreement",
}  # fmt: skip
"""The options, without dashes, of the fields that have other names in messages of the service and of Python."""
FIELD = re.compile(
    rf"^(?P<before>([^:]*: )?)(?P<field>{'|'.join(OPTIONS)})(?=: (expected|horizontally|vertically))", re.DOTALL
)


def print_error(error: object) -> None:
    """Print one line on standard error. Control characters, which a file's name may hold, are replaced."""
    print(printable(f"fullconv-score: {_with_options(str(error))}"), file=sys.stderr)  # noqa: T201 (this is where it is printed)


def _with_options(message: str) -> str:
    """Return a message whose field, which comes first or after the image's name, has the name of its option."""
    return FIELD.sub(lambda found: found["before"] + OPTIONS[found["field"]], message, count=1)


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
