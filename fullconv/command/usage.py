"""Commands of Typer whose options are the fields of a dataclass, and their errors for a wrong command line."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from inspect import signature
from typing import Any, TypeVar, get_type_hints

import typer

from fullconv.errors import RequestError

Fields = TypeVar("Fields")


@contextmanager
def usage_errors() -> Iterator[None]:
    """Turn a RequestError, which names an option of Python, into a wrong use of the option of the command."""
    try:
        yield
    except RequestError as error:
        field, _, message = str(error).partition(": ")
        raise typer.BadParameter(message, param_hint=f"--{field.replace('_', '-')}") from None


def takes(fields: type[Fields]) -> Callable[[Callable[[Fields], None]], Callable[..., None]]:
    """Turn a function of a dataclass into a command, whose options Typer takes from the dataclass's fields."""

    def decorate(run: Callable[[Fields], None]) -> Callable[..., None]:
        @wraps(run)
        def command(**values: Any) -> None:
            run(fields(**values))

        command.__signature__ = signature(fields)  # type: ignore[attr-defined]
        command.__annotations__ = get_type_hints(fields, include_extras=True)
        return command

    return decorate
