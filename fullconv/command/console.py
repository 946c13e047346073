"""Printing of errors, and of characters that the terminal's encoding lacks."""

import sys

from fullconv.common.text import printable


def print_error(error: object) -> None:
    """Print one line on standard error. Control characters, which a file's name may hold, are replaced."""
    print(printable(f"fullconv-score: {error}"), file=sys.stderr)  # noqa: T201 (this is where it is printed)


def tolerate_encodings() -> None:
    """Print a question mark for a character that the terminal's encoding lacks, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # None if the stream is closed
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]
