"""Progress of long work: a bar on a terminal, one line now and then elsewhere, on standard error."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import rich.progress
from rich.console import Console

QUIET_SECONDS = 10.0

Progress = Callable[[str, int, int], None]
"""Told the image's name, the rows that are done, and the rows that there are."""


@contextmanager
def progress() -> Iterator[Progress]:
    """Show how far an image is."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines(console)
        return
    columns = ("{task.description}", rich.progress.BarColumn(), rich.progress.TimeRemainingColumn())
    with rich.progress.Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("")
        yield lambda name, done, rows: bar.update(task, description=name, completed=done, total=rows)


def _lines(console: Console) -> Progress:
    last = time.monotonic()

    def show(name: str, done: int, rows: int) -> None:
        nonlocal last
        if time.monotonic() - last > QUIET_SECONDS:
            last = time.monotonic()
            console.print(f"{name}: {done} of {rows} rows", markup=False, highlight=False)

    return show
