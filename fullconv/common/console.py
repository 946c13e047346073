"""The console on which commands print their results."""

import os
import re
import sys
from typing import IO, TextIO, cast

from rich.console import Console

UNLIMITED = 100_000
"""Columns of an output that is no terminal."""
TRAILING = re.compile(r" +$", re.MULTILINE)
"""Spaces with which tables fill their last column."""


def result_console(*, markup: bool = True) -> Console:
    """Return a console for standard output. Text for a file or another program is not broken into lines."""
    if sys.stdout.isatty() or "COLUMNS" in os.environ:
        return Console(highlight=False, markup=markup)
    return Console(highlight=False, markup=markup, width=UNLIMITED, file=cast("IO[str]", _Trimmed(sys.stdout)))


class _Trimmed:
    """A file that gets lines without spaces at their ends."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self.encoding = file.encoding

    def write(self, text: str) -> int:
        return self._file.write(TRAILING.sub("", text))

    def flush(self) -> None:
        self._file.flush()

    def isatty(self) -> bool:
        return False
