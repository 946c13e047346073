"""Progress of long work: a bar on a terminal, one line now and then elsewhere, on standard error."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import rich.progress
from rich.console import Console

QUIET_SECONDS = 10.0

Progress = Callable[[str, str, int, int], None]
"""Told the image's name, what goes on, how much of it is done, and how much there is."""


@contextmanager
def progress() -> Iterator[Progress]:
    """Show how far an image is, how fast it goes and how long it will take."""
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


def _lines(console: Console) -> Progress:
    last = began = time.monotonic()
    shown = ""

    def show(name: str, what: str, done: int, of: int) -> None:
        nonlocal last, began, shown
        now = time.monotonic()
        if shown != f"{name}: {what}":
            shown, began = f"{name}: {what}", now
        if now - last > QUIET_SECONDS and done:
            last = now
            left = (now - began) / done * (of - done)
            console.print(f"{shown}: {done / of:.0%}, {left:.0f} s left", markup=False, highlight=False)

    return show
