"""How a conversion reports its progress."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """Called during a conversion: `step` with a name and the number of windows ahead, `advance` after each window."""

    step: Callable[[str, int], None]
    advance: Callable[[], None]


SILENT = Progress(step=lambda _, __: None, advance=lambda: None)
