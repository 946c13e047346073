"""What `fullconv-score` prints on a terminal besides its answer."""

import sys

from fullconv.common.text import printable


def print_error(error: object) -> None:
    """Print one line on standard error. Control characters, which a file's name may hold, are replaced."""
    print(printable(f"fullconv-score: {error}"), file=sys.stderr)  # noqa: T201 (this is where it is printed)


def tolerate_encodings() -> None:
    """Print a question mark for a letter that the terminal's encoding lacks, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # it may be closed
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]
