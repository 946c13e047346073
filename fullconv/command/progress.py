"""Progress of long work on standard error: a bar on a terminal, elsewhere one line from time to time."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fullconv.common.text import printable

if TYPE_CHECKING:
    from rich.console import Console

LINE_SECONDS = 10.0
"""Shortest time between two lines where there is no terminal."""

ShowProgress = Callable[[str, str, int, int], None]
"""Takes the image's name, the current activity, the amount that is done, and the total amount."""
Draw = Callable[[str, str, float, float], None]
"""Takes the activity, the text about it, the amount of it that is done, and its total amount."""


@dataclass
class Progress:
    """Shows how much is done: of the image, or of all images if there are several."""

    images: int
    _draw: Draw
    _finished: int = 0

    def show(self, name: str, what: str, done: int, of: int) -> None:
        """Show the current activity on the image of this name, the amount that is done, and the total amount."""
        if self.images == 1:
            self._draw(f"{name}: {what}", f"{name}: {what}", done, of)
        else:
            number = min(self._finished + 1, self.images)
            part = done / of if of else 0.0
            self._draw("images", f"{number} of {self.images}: {name}: {what}", self._finished + part, self.images)

    def finish_image(self) -> None:
        """Count an image as finished."""
        self._finished += 1
        if self.images > 1:
            self._draw("images", f"{self._finished} of {self.images} finished", self._finished, self.images)


@contextmanager
def progress(images: int = 1) -> Iterator[Progress]:
    """Show how much of the images is done, the speed, and the time that is left."""
    console = _terminal()
    if console is None:
        yield Progress(images, _lines())
        return
    import rich.progress  # noqa: PLC0415 (only terminals need it)

    columns = (
        rich.progress.TextColumn("{task.description}", markup=False),
        rich.progress.BarColumn(),
        rich.progress.TaskProgressColumn(show_speed=True),
        rich.progress.TimeRemainingColumn(),
    )
    with rich.progress.Progress(*columns, console=console, transient=True) as bar:
        task, shown = bar.add_task(""), ""

        def draw(activity: str, text: str, done: float, of: float) -> None:
            nonlocal shown
            if shown != activity:
                shown = activity
                bar.reset(task, total=of)
            bar.update(task, description=printable(text), completed=done, total=of)

        yield Progress(images, draw)


def _terminal() -> "Console | None":
    """Return the terminal on standard error; None, without loading rich, if standard error is no terminal."""
    if not (sys.stderr and sys.stderr.isatty()) and not os.environ.get("FORCE_COLOR"):
        return None
    from rich.console import Console  # noqa: PLC0415 (only terminals need it)

    console = Console(stderr=True)
    return console if console.is_terminal else None


def _lines() -> Draw:
    last = began = time.monotonic()
    shown = ""

    def draw(activity: str, text: str, done: float, of: float) -> None:
        nonlocal last, began, shown
        now = time.monotonic()
        if shown != activity:
            shown, began = activity, now
        if now - last > LINE_SECONDS and done:
            last = now
            left = (now - began) / done * (of - done)
            print(f"{printable(text)}: {done / of:.0%}, {left:.0f} s left", file=sys.stderr)  # noqa: T201 (where it is shown)

    return draw
