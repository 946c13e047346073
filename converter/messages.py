"""Messages of other libraries: shortened to one line for errors of this package, or suppressed."""

import logging
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

from pydantic import ValidationError

CONTROL = re.compile(r"\x1b\[[\d;]*m|[\x00-\x08\x0e-\x1b\x7f-\x9f]")
"""Matches colour codes, which some packages put into messages, and other control characters, which a file may hold."""
MAX_LENGTH = 300
"""Largest number of characters of a message."""


def one_line(error: Exception) -> str:
    """Return an error's message without line breaks and without control characters."""
    return shortened(str(error))


def shortened(text: str) -> str:
    """Return a text without line breaks and without control characters, of at most MAX_LENGTH characters."""
    return " ".join(CONTROL.sub("", text).split())[:MAX_LENGTH]


def first_cause(error: BaseException) -> str:
    """Return the message of an error's first cause on one line; exporters wrap it in pages of advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    return one_line(error) if isinstance(error, Exception) and str(error) else type(error).__name__


def first_problem(error: ValidationError) -> str:
    """Return the first problem that pydantic found, on one line: the field, the mistake and the actual value."""
    problem = error.errors()[0]
    where = ".".join(str(step) for step in problem["loc"]) or "file"
    return f"{where}: {problem['msg']}, got {str(problem['input'])[:60]!r}"


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress warnings and log records, and send printed text to standard error; standard output is for --json."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(action="ignore"), redirect_stdout(sys.stderr):
            yield
    finally:
        logging.disable(disabled)
