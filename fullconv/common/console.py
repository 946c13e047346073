"""The console on which commands print their results."""

import os

from rich.console import Console

UNLIMITED = 100_000
"""Columns of an output that is no terminal."""


def result_console(*, markup: bool = True) -> Console:
    """Return a console for standard output. Text for a file or another program is not broken into lines."""
    console = Console(highlight=False, markup=markup)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = UNLIMITED
    return console
