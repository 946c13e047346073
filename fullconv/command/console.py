"""What `fullconv-score` says on a terminal besides its answer."""

import sys


def complain(error: object) -> None:
    """One line on standard error; what could steer a terminal, in a file's name say, is shown as a question mark."""
    print(printable(f"fullconv-score: {error}"), file=sys.stderr)  # noqa: T201 (this is where it is printed)


def printable(text: str) -> str:
    """The text without what could steer a terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def tolerate_encodings() -> None:
    """Where the terminal's encoding lacks a letter, write a question mark instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # it may be closed
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]
