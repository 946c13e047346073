"""The interface through which a conversion reports its progress."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """Called during a conversion: `step` with the name and number of windows of a step, `advance` after each window.

    `warn` gets a line about something that the conversion leaves out. The report has the same lines.
    """

    step: Callable[[str, int], None]
    advance: Callable[[], None]
    warn: Callable[[str], None] = lambda _: None


SILENT = Progress(step=lambda _, __: None, advance=lambda: None)
