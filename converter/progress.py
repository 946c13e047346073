"""The interface through which a conversion reports its progress."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """Called during a conversion.

    `step` is called with the name of a step and the number of its windows or images, `advance` after each of them.
    `warn` is called with one line about an input that the conversion leaves out; the report has the same lines.
    """

    step: Callable[[str, int], None]
    advance: Callable[[], None]
    warn: Callable[[str], None] = lambda _: None


SILENT = Progress(step=lambda _, __: None, advance=lambda: None)
