"""Progress of long work on standard error: a bar on a terminal, elsewhere one line from time to time."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import rich.progress
from rich.console import Console

LINE_SECONDS = 10.0
"""Shortest time between two lines where there is no terminal."""

ShowProgress = Callable[[str, str, int, int], None]
"""Takes the image's name, the current activity, the amount that is done, and the total amount."""


@contextmanager
def progress() -> Iterator[ShowProgress]:
    """Show how much of an image is done, the speed, and the time that is left."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines(console)
        return
    columns = (
        rich.progress.TextColumn("{task.description}", markup=False),
        rich.progress.BarColumn(),
        rich.progress.TaskProgressColumn(show_speed=True),
        rich.progress.TimeRemainingColumn(),
    )
    with rich.progress.Progress(*columns, console=console, transient=True) as bar:
        task, shown = bar.add_task(""), ""

        def show(name: str, what: str, done: int, of: int) -> None:
            nonlocal shown
            if shown != f"{name}: {what}":
                shown = f"{name}: {what}"
                bar.reset(task, description=shown, total=of)
            bar.update(task, completed=done, total=of)

        yield show


def _lines(console: Console) -> ShowProgress:
    last = began = time.monotonic()
    shown = ""

    def show(name: str, what: str, done: int, of: int) -> None:
        nonlocal last, began, shown
        now = time.monotonic()
        if shown != f"{name}: {what}":
            shown, began = f"{name}: {what}", now
        if now - last > LINE_SECONDS and done:
            last = now
            left = (now - began) / done * (of - done)
            console.print(f"{shown}: {done / of:.0%}, {left:.0f} s left", markup=False, highlight=False)

    return show
