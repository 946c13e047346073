"""Messages of other libraries: shortened to one line for errors of this package, or suppressed."""

import difflib
import logging
import re
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stdout

from pydantic import ValidationError

CONTROL = re.compile(r"\x1b\[[\d;]*m|[\x00-\x08\x0e-\x1b\x7f-\x9f]")
"""Matches colour codes, which some packages put into messages, and other control characters, which a file may hold."""
OF_PYDANTIC = re.compile(r"^Input should be (greater|less)?")
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


def first_problem(error: ValidationError, fields: Iterable[str] = ()) -> str:
    """Return the first problem that pydantic found, on one line: the field, the expected and the actual value.

    `fields` are the names of the fields at the top.
    """
    problem = error.errors()[0]
    steps = [str(step) for step in problem["loc"]]
    where = ".".join(step for step in steps if "[" not in step) or "file"  # others are pydantic's own functions
    context, got = problem.get("ctx", {}), f", got {shortened(str(problem['input']))[:60]!r}"
    match problem["type"]:
        case "missing":
            said = "expected this field, got none"
        case "extra_forbidden" if len(problem["loc"]) == 1 and fields:
            said = f"expected one of the fields {', '.join(fields)}"
        case "extra_forbidden":
            said = "expected no field of this name"
        case "value_error":
            own = problem["msg"].removeprefix("Value error, ")
            said = own if ", got " in own else f"{own}{got}"
        case "json_invalid":
            said = f"expected JSON, got an error: {context['error']}"
        case "union_tag_invalid":
            known = re.findall(r"'([^']*)'", context["expected_tags"])
            near = difflib.get_close_matches(context["tag"], known) or known
            said = f"expected {' or '.join(near)}, got {context['tag'][:60]!r}"
        case _:
            said = f"{OF_PYDANTIC.sub(_expected, problem['msg'])}{got}"
    return f"{where}: {said}"


def _expected(match: re.Match[str]) -> str:
    """Return "expected a number greater", for example, in place of pydantic's "Input should be greater"."""
    return f"expected {'a number ' if match[1] else ''}{match[1] or ''}"


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
