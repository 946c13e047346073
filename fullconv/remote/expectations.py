"""The error for a malformed answer of a server, and the functions that raise it for a field with a wrong value."""

import math
from typing import NoReturn, TypeVar

import grpc
from google.protobuf.message import Message

QUOTED_LETTERS = 80
"""Letters of a server's text in an error."""
Parsed = TypeVar("Parsed", bound=Message)


class MalformedAnswerError(grpc.RpcError):  # type: ignore[misc] # grpc has no types
    """A server has answered with OK and a message that does not fit the request. The call is not repeated."""

    def __init__(self, field: str, expected: object, got: object) -> None:
        self._details = (
            f"answer: {field}: expected {expected}, got {got}; the server is faulty, or of another release than this "
            "client"
        )
        super().__init__(self._details)

    def code(self) -> grpc.StatusCode:
        """Return the status of a server that has failed."""
        return grpc.StatusCode.INTERNAL

    def details(self) -> str:
        """Return the field, what was expected and what was got."""
        return self._details

    def trailing_metadata(self) -> tuple[()]:
        """Return no metadata."""
        return ()


def parsed(message: Parsed | None) -> Parsed:
    """Return a message; raises MalformedAnswerError for None, which asyncio's calls return for unparsable bytes."""
    if message is None:
        refuse("message", "a message of the protocol", "bytes that cannot be parsed")
    return message


def quoted(text: str) -> str:
    """Return a server's text as it is quoted in an error: printable, and cut if it is long."""
    return repr(text if len(text) <= QUOTED_LETTERS else f"{text[: QUOTED_LETTERS - 1]}…")


def expect_equal(field: str, got: object, expected: object) -> None:
    """Raise MalformedAnswerError unless a field has the expected value."""
    if got != expected:
        refuse(field, expected, got)


def expect_text(field: str, got: str, expected: str) -> None:
    """Raise MalformedAnswerError unless a field has the expected text."""
    if got != expected:
        refuse(field, quoted(expected), quoted(got))


def expect_among(field: str, got: str, expected: tuple[str, ...]) -> None:
    """Raise MalformedAnswerError unless a field has one of several texts."""
    if got not in expected:
        refuse(field, " or ".join(expected), quoted(got))


def expect_between(field: str, got: int, least: int, most: float = math.inf) -> None:
    """Raise MalformedAnswerError unless a number lies between two bounds, or on one of them."""
    if not least <= got <= most:
        refuse(field, f"at least {least}" if most == math.inf else f"{least} to {most}", got)


def expect_finite(field: str, got: float, least: float = -math.inf, most: float = math.inf) -> None:
    """Raise MalformedAnswerError for NaN, for infinity, and for a number outside of its bounds."""
    if not (math.isfinite(got) and least <= got <= most):
        ends = "" if least == -math.inf else f" from {least}{'' if most == math.inf else f' to {most}'}"
        refuse(field, f"a finite number{ends}", got)


def refuse(field: str, expected: object, got: object) -> NoReturn:
    """Raise MalformedAnswerError for a field."""
    raise MalformedAnswerError(field, expected, got)
