"""Commands of Typer whose options are the fields of a dataclass."""

from collections.abc import Callable
from functools import wraps
from inspect import signature
from typing import Any, TypeVar, get_type_hints

Fields = TypeVar("Fields")


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
